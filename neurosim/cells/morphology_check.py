"""Check reconstructed morphologies before any work is done, so that a fault is named with its line or section."""

import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neurofleet import fresh_process
from neurofleet.errors import InputError

SECTIONS = ("soma", "axon", "dend", "apic")
AXON_MODES = ("stub", "legacy-stub", "legacy-stub-60um", "full")
READ_LIMIT_S = 120.0
_SWC_TYPES = (1, 2, 3, 4)


@dataclass(frozen=True)
class MorphologySummary:
    """What a usable morphology holds.

    Parameters
    ----------
    path : Path
    n_sections, length_um : mapping
        Number of sections, and their total length, by ``soma``, ``axon``, ``dend`` and ``apic``.
    """

    path: Path
    n_sections: Mapping[str, int]
    length_um: Mapping[str, float]

    @property
    def has_apical(self) -> bool:
        """Whether there is an apical tree."""
        return self.n_sections["apic"] > 0


def check_morphology(path: Path | str, axon: str = "stub") -> MorphologySummary:
    """Check that a morphology can be simulated.

    The text is checked first, where a fault has a line number; then NEURON reads the file, in a process of
    its own.

    Parameters
    ----------
    path : Path or str
        An SWC or Neurolucida ASC file.
    axon : str
        The axon mode it is to be used with, one of `AXON_MODES`.

    Raises
    ------
    InputError
        The first fault: missing or unreadable file, other format, marker file, no soma, disconnected points,
        diameter not above zero, unknown point type, what NEURON itself reports, an axon mode that does not
        fit the cell.
    """
    path = Path(path)
    check_axon_mode(axon)
    text = _read_text(path)
    if path.suffix.lower() == ".swc":
        _check_swc(path, text, axon)
    else:
        _check_asc(path, text)
    return _read_with_neuron(path, axon)


def check_axon_mode(axon: str) -> None:
    """Raise `InputError` unless `axon` is one of `AXON_MODES`."""
    if axon not in AXON_MODES:
        raise InputError(f"axon: expected one of {', '.join(AXON_MODES)}, found {axon!r}.")


def _read_text(path: Path) -> str:
    if path.suffix.lower() not in (".swc", ".asc"):
        raise InputError(
            f"{path}: expected a morphology in SWC (.swc) or Neurolucida (.asc) format, found the ending "
            f"{path.suffix or 'none'!r}. Convert it (for example with NEURON's Import3d or MorphIO) or "
            "rename it."
        )
    try:
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
    if b"\0" in content:
        raise InputError(f"{path}: expected text, found binary data. Is it another format, or compressed?")
    return content.decode("utf-8", errors="replace")


def _check_swc(path: Path, text: str, axon: str) -> None:
    """Check the points of an SWC file: seven columns, one tree, parents first, known types, radii."""
    types: dict[int, int] = {}
    roots: list[tuple[int, int]] = []  # line and type
    last = None
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        where = f"{path}, line {number}"
        point = _swc_point(where, line)
        identity, kind, parent = (int(point[i]) for i in (0, 1, 6))
        radius = point[5]
        if last is not None and identity <= last:
            raise InputError(
                f"{where}: expected point numbers that rise, found {identity} after {last}. Sort the file "
                "(Vaa3D: sort_neuron_swc)."
            )
        last = identity
        if kind not in _SWC_TYPES:
            raise InputError(
                f"{where}: expected type 1 (soma), 2 (axon), 3 (dendrite) or 4 (apical dendrite), found "
                f"{kind}. Give these points the type of the branch they lie on."
            )
        if not radius > 0:
            raise InputError(
                f"{where}: expected a radius above zero, found {radius:g}. Points without a diameter cannot "
                "be simulated: measure it, or take that of the neighbouring points."
            )
        if parent < 0:
            roots.append((number, kind))
        elif parent not in types:
            raise InputError(
                f"{where}: point {identity} is disconnected: its parent {parent} does not stand before it in "
                "the file. Restore the missing points, or sort the file (Vaa3D: sort_neuron_swc)."
            )
        types[identity] = kind
    if not types:
        raise InputError(f"{path}: expected points, found comments only. Download or export it again.")
    if 1 not in types.values():
        raise InputError(
            f"{path}: expected a soma (points of type 1), found none among {len(types)} points. Mark the "
            "cell body in the reconstruction."
        )
    _check_connected(path, axon, roots)


def _check_connected(path: Path, axon: str, roots: list[tuple[int, int]]) -> None:
    """Check that all points form one tree, but for fragments of an axon that is going to be removed."""
    cell = next((root for root in roots if root[1] == 1), roots[0])
    stray = [root for root in roots if root != cell]
    axon_only = all(kind == 2 for _, kind in stray)
    if stray and (axon == "full" or not axon_only):
        remedy = "Connect them to the cell, or delete them."
        if axon_only:
            remedy = "They are pieces of axon: use axon: stub, which removes the reconstructed axon."
        lines = ", ".join(str(line) for line, _ in stray[:8])
        raise InputError(
            f"{path}: expected one connected tree, found {len(roots)} roots (points with parent -1): "
            f"disconnected points at lines {lines}. {remedy}"
        )


def _swc_point(where: str, line: str) -> list[float]:
    """Return the seven numbers of a line."""
    if line.count(",") >= 6:
        raise InputError(
            f"{where}: this is not a morphology but a marker file (comma-separated points without "
            "connections). Name the SWC file that lies beside it (often the same name without _marker)."
        )
    try:
        numbers = [float(word) for word in line.split()[:7]]
    except ValueError:
        numbers = []
    whole = len(numbers) == 7 and all(abs(x) < 1e9 for x in numbers)  # false for nan and inf too
    if not whole or any(numbers[i] != int(numbers[i]) for i in (0, 1, 6)):
        shown = line if len(line) <= 60 else line[:60] + "..."
        raise InputError(
            f"{where}: expected the seven numbers of an SWC point (number, type, x, y, z, radius, parent), "
            f"found {shown!r}. Is this an SWC file?"
        )
    return numbers


def _check_asc(path: Path, text: str) -> None:
    """Check that a Neurolucida file is whole and has a cell body."""
    bare = re.sub(r'"[^"\n]*"', '""', text)
    bare = re.sub(r";.*", "", bare)
    first = bare.split(maxsplit=1)[0] if bare.strip() else ""
    if not first.startswith("("):
        raise InputError(
            f"{path}: expected a Neurolucida V3 text file, which begins with a parenthesis, found "
            f"{first[:40]!r}. Export the reconstruction as ASC again, or give an SWC file."
        )
    opened, closed = bare.count("("), bare.count(")")
    if opened != closed:
        raise InputError(
            f"{path}: expected as many closing as opening parentheses, found {opened} opening and {closed} "
            "closing. The file was cut off or edited: export it again."
        )
    if not re.search(r"\(\s*CellBody\s*\)", bare):
        raise InputError(
            f"{path}: expected a soma (a contour marked CellBody), found none. Mark the cell body in the "
            "reconstruction and export it again."
        )


@dataclass(frozen=True)
class _SectionsInNeuron:
    """What NEURON made of a file.

    Attributes
    ----------
    n_sections, length_um : dict
        By the first part of a section's name, such as ``dend``.
    faults : list of str
        What no simulation could use.
    roots : list of str
        Sections without a parent.
    behind_axon : list of str
        Sections that are no axon and grow from one.
    """

    n_sections: dict[str, int]
    length_um: dict[str, float]
    faults: list[str]
    roots: list[str]
    behind_axon: list[str]


def _read_with_neuron(path: Path, axon: str) -> MorphologySummary:
    """Read the file in a process of its own: NEURON's reader may crash or never return on a damaged file."""
    with tempfile.TemporaryDirectory() as folder:  # also keeps NEURON from loading mechanisms of this folder
        printed = Path(folder) / "printed.txt"
        try:
            sections = fresh_process.call(
                _sections_in_neuron,
                str(path.resolve()),
                str(printed),
                limit_s=READ_LIMIT_S,
                environment={"NEURON_MODULE_OPTIONS": "-nogui"},
                folder=folder,
            )
            reason = ""
        except fresh_process.ProcessFailed as error:
            if error.timed_out:
                raise InputError(
                    f"{path}: NEURON did not come to an end reading this file in {READ_LIMIT_S:g} s. It is "
                    "damaged, or not in the format that its ending says: export it again."
                ) from error
            sections, reason = None, error.reason
        except Exception as error:  # noqa: BLE001 - whatever NEURON's reader raised over the file
            sections, reason = None, f"{type(error).__name__}: {error}"
        output = printed.read_text(errors="replace") if printed.is_file() else ""
    if sections is None or "soma" not in sections.n_sections:
        message = " ".join(f"{output} {reason}".split())[-300:]
        raise InputError(f"{path}: NEURON cannot read this file as a cell. Export it again. NEURON said: {message}")
    _check_sections(path, axon, sections)
    return MorphologySummary(
        path=path,
        n_sections={kind: sections.n_sections.get(kind, 0) for kind in SECTIONS},
        length_um={kind: sections.length_um.get(kind, 0.0) for kind in SECTIONS},
    )


def _sections_in_neuron(path: str, printed: str) -> _SectionsInNeuron:
    """Import a morphology into this process's NEURON; what NEURON prints goes into the file `printed`."""
    with open(printed, "w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    from neuron import h

    h.load_file("stdlib.hoc")
    h.load_file("import3d.hoc")
    reader = h.Import3d_SWC_read() if path.lower().endswith(".swc") else h.Import3d_Neurolucida3()
    reader.quiet = 1
    reader.input(path)
    h.Import3d_GUI(reader, 0).instantiate(None)
    sections = list(h.allsec())
    length_um: dict[str, float] = {}
    faults = []
    for section in sections:
        name = section.name()
        kind = name.split("[")[0]
        length_um[kind] = length_um.get(kind, 0.0) + section.L
        if section.L < 1e-3:
            faults.append(f"section {name} has no length")
        for i in range(section.n3d()):
            if not section.diam3d(i) > 0:
                point = ", ".join(f"{value(i):g}" for value in (section.x3d, section.y3d, section.z3d))
                faults.append(f"section {name} has the diameter {section.diam3d(i):g} at ({point})")
                break
    parents = {s.name(): s.parentseg() for s in sections}
    result = _SectionsInNeuron(
        n_sections=dict(Counter(name.split("[")[0] for name in parents)),
        length_um=length_um,
        faults=faults,
        roots=[name for name, parent in parents.items() if parent is None],
        behind_axon=[
            name
            for name, parent in parents.items()
            if parent is not None and not name.startswith("axon") and parent.sec.name().startswith("axon")
        ],
    )
    sys.stdout.flush()
    return result


def _check_sections(path: Path, axon: str, sections: _SectionsInNeuron) -> None:
    """Raise `InputError` for what NEURON read but no simulation could use."""
    unknown = sorted(set(sections.n_sections) - set(SECTIONS))
    if unknown:
        raise InputError(
            f"{path}: expected soma, axon, dendrite and apical dendrite, found branches of other kinds "
            f"({', '.join(unknown)}), which no recipe has parameters for. Give them one of these types."
        )
    if sections.faults:
        raise InputError(
            f"{path}: this cell cannot be simulated: {'; '.join(sections.faults[:5])}. Correct these points "
            "in the reconstruction."
        )
    if len(sections.roots) > 1:
        raise InputError(
            f"{path}: expected one connected tree, found {len(sections.roots)} disconnected parts, which "
            f"begin at {', '.join(sections.roots[:8])}. Connect them to the cell, or delete them."
        )
    if axon == "full" and "axon" not in sections.n_sections:
        raise InputError(f"{path}: axon: full keeps the reconstructed axon, but there is none. Use axon: stub.")
    if axon != "full" and sections.behind_axon:
        raise InputError(
            f"{path}: axon: {axon} removes the reconstructed axon, but {', '.join(sections.behind_axon[:5])} "
            "grow from it and would be cut off. Correct the types in the reconstruction, or use axon: full."
        )
