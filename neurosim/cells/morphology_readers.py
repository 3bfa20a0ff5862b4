"""Read a morphology file: SWC, Neurolucida's ASC or MorphIO's HDF5, in whatever encoding."""

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.asc_reader import read_asc
from neurofleet.neurosim.cells.morphology import (
    MAX_POINTS,
    SOMA,
    SWC_TYPES,
    Reconstruction,
    Section,
    Soma,
    extent_um,
    is_thick,
    section_at,
    sphere_of,
    stands_for_a_sphere,
)
from neurofleet.neurosim.cells.swc_reader import read_swc
from neurofleet.neurosim.file_endings import MORPHOLOGY_SUFFIXES, RECORDING_SUFFIXES

if TYPE_CHECKING:
    import h5py

MAX_BYTES = 400_000_000


def read_reconstruction(path: Path) -> Reconstruction:
    """Return what a morphology file says.

    Raises
    ------
    InputError
        The first fault of the file.
    """
    ending = ending_of(path)
    if ending in RECORDING_SUFFIXES:
        raise InputError(
            f"{path}: expected a morphology, found a recording ({ending}). Are `morphology:` and `recordings:` swapped?"
        )
    if ending not in MORPHOLOGY_SUFFIXES:
        raise InputError(
            f"{path}: expected a morphology in SWC (.swc), Neurolucida (.asc) or MorphIO's HDF5 (.h5) format, found "
            f"the ending {ending or 'none'!r}. Convert it (for example with NEURON's Import3d or MorphIO) or "
            "rename it."
        )
    content = _content(path)
    if path.suffix.lower() == ".gz":
        content = _unpacked(path, content)
        if ending == ".h5":
            raise InputError(f"{path}: HDF5 is not read from a compressed file. Unpack it first: gunzip {path.name}")
        try:
            return _read_text(path.with_suffix(""), content)
        except InputError as error:
            raise InputError(str(error).replace(str(path.with_suffix("")), str(path), 1)) from error
    return _read_hdf5(path) if ending == ".h5" else _read_text(path, content)


def ending_of(path: Path) -> str:
    """Return the ending that says which format a morphology has; of ``cell.swc.gz`` it is ``.swc``."""
    return Path(re.sub(r"\.gz$", "", path.name, flags=re.I)).suffix.lower()


def _unpacked(path: Path, content: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: expected a whole gzip file, but it cannot be unpacked ({error}).") from error
    if len(unpacked) > MAX_BYTES or not unpacked.strip():
        size = "no text" if not unpacked.strip() else f"more than {MAX_BYTES / 1e6:.0f} MB"
        raise InputError(f"{path}: expected a morphology, found {size} in it.")
    return unpacked


def _read_text(path: Path, content: bytes) -> Reconstruction:
    text = _decoded(content)
    if "\0" in text:
        raise InputError(f"{path}: expected text, found binary data. Is it another format, or compressed?")
    text = re.sub(r"\r(?!\n)", "\n", text)  # NEURON takes a file with the line ends of an old Mac for one line
    as_it_is = content in (text.encode(), text.encode("latin-1", errors="replace"))
    read = read_swc if path.suffix.lower() == ".swc" else read_asc
    return read(path, text, content if as_it_is else None)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{path}: expected a morphology, found {path.stat().st_size / 1e9:.1f} GB. Is it a recording?"
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: expected a morphology file, but there is none. Check the path; relative paths start at "
            "the folder of the job file."
        ) from error
    except OSError as error:
        raise InputError(f"{path}: expected a morphology file, but it cannot be read ({error.strerror}).") from error
    if not content.strip():
        raise InputError(f"{path}: expected a morphology, but the file is empty. Download or export it again.")
    return content


def _decoded(content: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig")):
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    start = content[:2000]
    for zeros, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):  # every second byte is zero, and there is no mark
        if len(start) > 1 and not any(start[zeros::2]) and all(start[1 - zeros :: 2]):
            return content.decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def is_hdf5_morphology(path: Path) -> bool:
    """Whether a file is HDF5 with the tables of a morphology, and no recording or anything else."""
    import h5py

    if path.suffix.lower() != ".h5" or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "structure" in file or "neuron1" in file
    except (OSError, RuntimeError, KeyError):  # damaged
        return False


def _read_hdf5(path: Path) -> Reconstruction:
    """Read MorphIO's HDF5: /points (x, y, z, diameter) and /structure (first point, type, parent of a section)."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "neuron1" in file and "points" not in file:
                raise InputError(
                    f"{path}: expected MorphIO's HDF5 of version 1 (/points and /structure), found version 2. Convert "
                    "it: morphio.Morphology(FILE).as_mutable().write('cell.h5')."
                )
            points, structure = (_table(path, file, name, width) for name, width in (("points", 4), ("structure", 3)))
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: expected a morphology in MorphIO's HDF5 format, found a file that HDF5 cannot read ({error}). "
            "Download or export it again."
        ) from error
    structure = structure.astype(np.int64)
    first, types, above = structure.T
    last = np.append(first[1:], len(points))
    if len(first) == 0 or first[0] != 0 or np.any(last <= first) or last[-1] > len(points):
        raise InputError(
            f"{path}: expected sections that divide the {len(points)} rows of /points among them, one after the other; "
            "found others in the first column of /structure. The file is damaged: write it again."
        )
    bodies = np.flatnonzero(types == 1)
    if len(bodies) != 1:
        raise InputError(
            f"{path}: expected one soma (one row of type 1 in /structure), found {len(bodies)}. Mark the cell body in "
            "the reconstruction, and keep one cell a file."
        )
    (body,) = bodies
    soma = _hdf5_soma(path, points[first[body] : last[body]], int(first[body]))
    sections: list[Section] = []
    number = {-1: SOMA, int(body): SOMA}
    for row in range(len(first)):
        if row == body:
            continue
        kind, parent = SWC_TYPES.get(int(types[row])), int(above[row])
        if kind is None:
            raise InputError(
                f"{path}: row {row} of /structure: expected type 1 (soma), 2 (axon), 3 (dendrite) or 4 (apical "
                f"dendrite), found {types[row]}. No recipe has parameters for it: give it one of these types."
            )
        if parent not in number:
            raise InputError(
                f"{path}: row {row} of /structure: expected a parent section that stands above it, found {parent}. The "
                "file is damaged: write it again."
            )
        rows = range(int(first[row]), int(last[row]))
        number[row] = len(sections)
        sections.append(section_at(path, kind, number[parent], points[list(rows)].tolist(), rows, sections, soma))
    return Reconstruction(path, soma, tuple(sections))


def _table(path: Path, file: "h5py.File", name: str, width: int) -> np.ndarray:
    """Return one table of an HDF5 file that holds it itself, and no more than a cell can have."""
    import h5py

    inside = isinstance(file.get(name, getlink=True), h5py.HardLink) if name in file else False
    table = file[name] if inside else None
    if not isinstance(table, h5py.Dataset) or table.is_virtual or table.external:
        raise InputError(
            f"{path}: expected MorphIO's HDF5 with the tables /points and /structure, found "
            f"{', '.join(sorted(file)[:8]) or 'nothing'}. Is it a recording, or another format?"
        )
    if table.ndim != 2 or table.shape[1] != width or table.shape[0] > MAX_POINTS or table.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: /{name}: expected a table of numbers with {width} columns and at most {MAX_POINTS:,} rows, found "
            f"the shape {table.shape} of {table.dtype}."
        )
    values = np.asarray(table[()], float)
    if not np.all(np.abs(values) < 1e9):
        raise InputError(f"{path}: /{name}: expected numbers, found NaN, infinity or more than 1e9.")
    return values


def _hdf5_soma(path: Path, points: np.ndarray, row: int) -> Soma:
    if len(points) == 1 or (len(points) == 3 and stands_for_a_sphere(points[[1, 0, 2]])):
        if not points[0, 3] > 0:
            raise InputError(f"{path}: the soma is one point: expected a diameter above zero, found {points[0, 3]:g}.")
        return Soma(points[[0]], "point", len(points), row)
    if len(points) == 2:
        raise InputError(
            f"{path}: expected a soma of one point, or an outline of three points or more; found two points, which "
            "enclose nothing. Draw the cell body again."
        )
    if is_thick(points):
        return Soma(points, "line", len(points), row, extent_um=extent_um(points))
    outline = points[:, :3]
    sphere = sphere_of([outline])
    if not sphere[0, 3] > 0:
        raise InputError(
            f"{path}: expected a soma of one point, or an outline; found {len(points)} points in a line, which enclose "
            "nothing. Draw the cell body again."
        )
    return Soma(sphere, "contour", len(points), row, (outline,), extent_um(points))
