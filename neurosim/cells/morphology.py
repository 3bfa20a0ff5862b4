"""A reconstructed cell: a soma and unbranched sections of points, and the files in which NEURON imports it."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from neurofleet.cache import cache_folder, keep_small, used
from neurofleet.errors import InputError
from neurofleet.scratch import scratch_folder

SECTIONS = ("soma", "axon", "dend", "apic")
SWC_TYPES = {1: "soma", 2: "axon", 3: "dend", 4: "apic"}
SOMA, STRAY = -1, -2  # in place of the number of a parent section
NO_LENGTH_UM = 1e-3
MAX_POINTS = 2_000_000  # the largest axons of whole brains have some 300,000
_SPHERE_TOLERANCE = 0.02
_LABELS = {"axon": "Axon", "dend": "Dendrite", "apic": "Apical"}
_X, _DIAMETER = slice(0, 3), 3


@dataclass(frozen=True)
class MorphologyFile:
    """A morphology file that is sent along with the model.

    Parameters
    ----------
    name : str
        Its ending is the format.
    content : bytes
    converted : bool
        Whether name or content are not those of the user's own file, which NEURON cannot read as the cell it is.
    """

    name: str
    content: bytes
    converted: bool = False

    @classmethod
    def read(cls, path: Path) -> "MorphologyFile":
        return cls(path.name, path.read_bytes())

    def unpacked(self) -> Path:
        """Return the file's path in this machine's cache, where NEURON can read it as often as it likes.

        Raises
        ------
        InputError
            The cache cannot be written.
        """
        digest = hashlib.sha256(self.name.encode() + b"\0" + self.content).hexdigest()[:20]
        folder = cache_folder() / "morphologies" / digest
        path = folder / self.name
        if path.is_file():
            used(folder)
            return path
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with scratch_folder(".unpacking", folder.parent) as made:
                (made / "cell").mkdir()
                (made / "cell" / self.name).write_bytes(self.content)
                with suppress(OSError):  # another process was first
                    (made / "cell").rename(folder)
            keep_small()
            if not path.is_file():
                raise FileNotFoundError(path)
        except OSError as error:
            raise InputError(
                f"{folder.parent}: expected a folder to unpack morphologies in, but writing there failed "
                f"({error.strerror or error}). Free some space, or set NEUROFLEET_CACHE to a folder of yours."
            ) from error
        return path


@dataclass(frozen=True, eq=False)
class Section:
    """Points without a branch between them.

    Attributes
    ----------
    kind : {"axon", "dend", "apic"}
    parent : int
        Number of the section that it grows from; `SOMA`, or `STRAY` where it is connected to nothing.
    points : (n, 4) array
        x, y, z and diameter in um. The first is the end of the parent section, where there is one.
    lines : (n,) array of int
        Where the points stand in the file: lines of text, rows of /points in HDF5.
    soma_point : int
        Which point of the soma it is connected to.
    """

    kind: str
    parent: int
    points: np.ndarray
    lines: np.ndarray
    soma_point: int = 0

    @property
    def own(self) -> slice:
        """Which of its points are not the parent's."""
        return slice(1 if self.parent >= 0 else 0, None)

    @property
    def length_um(self) -> float:
        return float(steps_um(self.points).sum())

    @property
    def area_um2(self) -> float:
        return lateral_area_um2(self.points)


@dataclass(frozen=True, eq=False)
class Soma:
    """The cell body.

    Attributes
    ----------
    points : (n, 4) array
        x, y, z and diameter in um: the centre of a sphere, or the axis of a body of truncated cones.
    drawn_as : {"point", "line", "contour", "tree"}
        ``contour`` and ``tree`` (points that branch) have become a sphere.
    n_points : int
        How many points it was drawn with.
    line : int
        Of the first of them.
    contours : tuple of arrays
        (n, 3) outlines in um.
    extent_um : float
        From one end of what was drawn to the other.
    """

    points: np.ndarray
    drawn_as: Literal["point", "line", "contour", "tree"]
    n_points: int
    line: int = 0
    contours: tuple[np.ndarray, ...] = ()
    extent_um: float = 0.0

    @property
    def area_um2(self) -> float:
        if len(self.points) == 1:
            return float(np.pi * self.points[0, _DIAMETER] ** 2)
        return lateral_area_um2(self.points)

    @property
    def centre(self) -> np.ndarray:
        return self.points[:, _X].mean(axis=0)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What a morphology file says.

    Attributes
    ----------
    path : Path
    soma : Soma
    sections : tuple of Section
        Parents before their children.
    content : bytes or None
        What NEURON may read as it is, in the format that the file's ending says; None for a binary file.
    own_content : bool
        Whether that is the user's file, byte for byte.
    notes : tuple of str
        What was put right in reading, where a user should know.
    header : str
        Comments before the first point.
    """

    path: Path
    soma: Soma
    sections: tuple[Section, ...]
    content: bytes | None = None
    own_content: bool = True
    notes: tuple[str, ...] = ()
    header: str = ""

    @property
    def counted_in(self) -> str:
        """What the numbers of points count: lines of text, or rows of /points."""
        return "row" if self.path.suffix.lower() == ".h5" else "line"

    @property
    def children(self) -> list[list[int]]:
        """The numbers of the sections that grow from each."""
        grown: list[list[int]] = [[] for _ in self.sections]
        for number, section in enumerate(self.sections):
            if section.parent >= 0:
                grown[section.parent].append(number)
        return grown

    @property
    def roots(self) -> list[int]:
        return [number for number, section in enumerate(self.sections) if section.parent < 0]

    def distances_um(self) -> np.ndarray:
        """Return the path distance of each section's end from the surface of the soma; 0 for stray ones, (n,)."""
        ends = np.zeros(len(self.sections))
        for number, section in enumerate(self.sections):
            if section.parent == STRAY:
                continue
            before = ends[section.parent] if section.parent >= 0 else 0.0
            ends[number] = before + section.length_um
        return ends

    def files(self) -> Iterator[MorphologyFile]:
        """Yield files for NEURON: the user's own, then the same cell written so that NEURON cannot mistake it."""
        stem = re.sub(r"[^A-Za-z0-9._ ()+,=@-]", "_", _ascii(self.path.stem)) or "cell"
        if self.content is not None:
            name = f"{stem}{self.path.suffix}"
            yield MorphologyFile(name, self.content, converted=not self.own_content or name != self.path.name)
        if self.soma.contours and self.path.suffix.lower() != ".swc":
            yield MorphologyFile(f"{stem}.asc", as_asc(self).encode(), converted=True)
        yield MorphologyFile(f"{stem}.swc", as_swc(self).encode(), converted=True)


def _ascii(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()


def steps_um(points: np.ndarray) -> np.ndarray:
    """Return the distances between successive points, (n - 1,)."""
    return np.linalg.norm(np.diff(points[:, _X], axis=0), axis=1)


def lateral_area_um2(points: np.ndarray) -> float:
    """Return the area of the truncated cones between successive points."""
    radii = points[:, _DIAMETER] / 2
    slant = np.hypot(steps_um(points), np.diff(radii))
    return float(np.pi * ((radii[1:] + radii[:-1]) * slant).sum())


def _weighed(outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre of an outline and the weights of its points: what of its length is nearest to each, (n,)."""
    steps = np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1)
    weights = steps + np.roll(steps, 1)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(outline), 1 / len(outline))
    return weights @ outline, weights


def turned_area_um2(outline: np.ndarray) -> float:
    """Return the area of a body whose outline is turned about its long axis, (n, 3): that of the ellipse it is nearest.

    Half axes are taken from the second moments of the points, so that few points are no smaller a body than many.
    """
    centre, weights = _weighed(outline)
    moments = np.linalg.svd(np.sqrt(weights)[:, None] * (outline - centre), compute_uv=False)[:2]
    long, short = np.sqrt(2) * moments
    if not short > 1e-6 * long:
        return 0.0
    eccentricity = np.sqrt(1 - (short / long) ** 2)
    ratio = 1.0 if eccentricity < 1e-6 else np.arcsin(eccentricity) / eccentricity
    return float(2 * np.pi * short * (short + long * ratio))


def sphere_of(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """Return a sphere with the area of a body that is drawn as an outline: x, y, z and diameter, (1, 4).

    Of several outlines, the widest counts.
    """
    areas = [turned_area_um2(outline) for outline in outlines]
    centre, _ = _weighed(outlines[int(np.argmax(areas))])
    return np.array([[*centre, np.sqrt(max(areas) / np.pi)]])


def stands_for_a_sphere(points: np.ndarray) -> bool:
    """Whether three points are those of NeuroMorpho.Org for a sphere: one radius to either side of the middle."""
    diameter = points[1, 3]
    length = np.linalg.norm(points[[0, 2], :3] - points[1, :3], axis=1).sum()
    alike = np.abs(points[:, 3] - diameter).max() <= _SPHERE_TOLERANCE * diameter
    return bool(alike and abs(length - diameter) <= _SPHERE_TOLERANCE * diameter)


def is_thick(points: np.ndarray) -> bool:
    """Whether points are the axis of a body, with diameters as large as it, and no outline; (n, 4)."""
    away = np.linalg.norm(points[:, :3] - points[:, :3].mean(axis=0), axis=1).mean()
    return bool(points[:, 3].min() > 0 and points[:, 3].max() > max(away, 1.0))


def extent_um(points: np.ndarray) -> float:
    """Return the diagonal of the box around points, (n, 3 or 4)."""
    return float(np.linalg.norm(np.ptp(points[:, _X], axis=0)))


def section_at(
    path: Path,
    kind: str,
    parent: int,
    rows: Sequence[Sequence[float]],
    lines: Sequence[int],
    sections: Sequence[Section],
    soma: Soma,
) -> Section:
    """Return a section that begins where its parent ends, or at the middle of the soma."""
    place = "row" if path.suffix.lower() == ".h5" else "line"
    points = np.array(rows, float)
    for i in np.flatnonzero(~(points[:, 3] > 0))[:1]:
        where = ", ".join(f"{value:g}" for value in points[i, :3])
        raise InputError(
            f"{path}, {place} {lines[i]}: section {kind} has the diameter {points[i, 3]:g} at ({where}), expected one "
            "above zero. Points without a diameter cannot be simulated: measure it, or take that of the neighbouring "
            "points."
        )
    if parent >= 0:
        end = sections[parent].points[-1]
        if np.any(points[0, :3] != end[:3]):
            points = np.vstack([[*end[:3], points[0, 3]], points])  # as NEURON begins it
            lines = [lines[0], *lines]
    return Section(kind, parent, points, np.array(lines), len(soma.points) // 2)


def as_swc(cell: Reconstruction) -> str:
    """Return a reconstruction in SWC: the soma first, then one branch after the other.

    Points that stand where the one before stands are left out, so that no section is without a length.
    """
    rows: list[tuple[int, np.ndarray, int]] = []
    for number, point in enumerate(cell.soma.points):
        rows.append((1, point, number))  # the number of the point before, 0 for none
    ends = [0] * len(cell.sections)
    codes = {kind: code for code, kind in SWC_TYPES.items()}
    for number in _depth_first(cell):
        section = cell.sections[number]
        last = {SOMA: section.soma_point + 1, STRAY: -1}.get(section.parent) or ends[section.parent]
        before = section.points[0, _X] if section.parent >= 0 else None
        for point in section.points[section.own]:
            if before is None or np.abs(point[_X] - before).max() > NO_LENGTH_UM:
                rows.append((codes[section.kind], point, last))
                last, before = len(rows), point[_X]
        ends[number] = last
    lines = [
        f"{number} {code} {' '.join(f'{value:.9g}' for value in (*point[_X], point[_DIAMETER] / 2))} {before or -1}"
        for number, (code, point, before) in enumerate(rows, start=1)
    ]
    return "\n".join(lines) + "\n"


def as_asc(cell: Reconstruction) -> str:
    """Return a reconstruction whose soma is an outline in Neurolucida's format."""
    lines = []
    for outline in cell.soma.contours:
        lines += ['("CellBody" (CellBody)', *(f"  ({_numbers(point)} 0)" for point in outline), ")"]
    children = cell.children
    for root in cell.roots:
        lines.append(f"( ({_LABELS[cell.sections[root].kind]})")
        todo: list[int | str] = [root]
        while todo:
            item = todo.pop()
            if isinstance(item, str):
                lines.append(item)
                continue
            lines += [f"  ({_numbers(point)})" for point in cell.sections[item].points]
            if children[item]:
                inner: list[int | str] = ["("]
                for child in children[item]:
                    inner += [child, "|"]
                todo += reversed([*inner[:-1], ")"])
        lines.append(")")
    return "\n".join(lines) + "\n"


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _depth_first(cell: Reconstruction) -> Iterator[int]:
    children = cell.children
    todo = list(reversed(cell.roots))
    while todo:
        number = todo.pop()
        yield number
        # The same kind first: NEURON takes a first point with branches and the branch behind it for one section.
        kind = cell.sections[number].kind
        todo += sorted(reversed(children[number]), key=lambda child: cell.sections[child].kind == kind)
