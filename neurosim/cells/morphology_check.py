"""Check reconstructed morphologies before any work is done, and that NEURON makes the same cell of them."""

import os
import pickle
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet import fresh_process
from neurofleet.errors import InputError
from neurofleet.neurosim.cells.morphology import SECTIONS, SOMA, STRAY, MorphologyFile, Reconstruction, Section
from neurofleet.neurosim.cells.morphology_measures import (
    MorphologySummary,
    by_kind,
    check_limits,
    diameters_um,
    oddities,
    reach_um,
)
from neurofleet.neurosim.cells.morphology_readers import read_reconstruction
from neurofleet.neurosim.cells.swc_reader import read_swc
from neurofleet.scratch import scratch_folder

AXON_MODES = ("stub", "legacy-stub", "legacy-stub-60um", "full")
STUB_LENGTH_UM = 60
READ_LIMIT_S = 120.0
TOLERANCE = 0.01  # of areas and lengths that NEURON makes
_OUTLINE_AREAS = (0.4, 1.6)  # of NEURON's body for an outline; more or less, and it could not make one
_CABLE_SHARE = 0.03  # of the membrane, in pieces of cable between points of the soma and branches
_OUTLINE_DOUBT = (0.75, 1.25)


def check_morphology(path: Path | str, axon: str = "stub") -> MorphologySummary:
    """Check that a morphology can be simulated, and measure it.

    The file is read and measured first, where a fault has a line number; then NEURON reads it, in a process of its
    own, and has to make the same cell of it.

    Parameters
    ----------
    path : Path or str
        A file in SWC, Neurolucida's ASC or MorphIO's HDF5.
    axon : str
        The axon mode it is to be used with, one of `AXON_MODES`.

    Raises
    ------
    InputError
        The first fault: missing or unreadable file, other format, marker file, no soma or two, disconnected points,
        diameter not above zero, unknown point type, sizes that no cell has, what NEURON itself reports, an axon mode
        that does not fit the cell.
    """
    check_axon_mode(axon)
    (checked,) = check_morphologies([path])
    if isinstance(checked, InputError):
        raise checked
    check_axon(checked, axon)
    return checked


def check_axon(summary: MorphologySummary, axon: str) -> None:
    """Raise `InputError` if a cell cannot be used with an axon mode."""
    check_axon_mode(axon)
    if axon == "full" and summary.stray_axon:
        lines = ", ".join(map(str, summary.stray_axon[:8]))
        raise InputError(
            f"{summary.path}: expected one connected tree, found {len(summary.stray_axon) + 1} roots (points with "
            f"parent -1): disconnected points at lines {lines}. They are pieces of axon: use axon: stub, which removes "
            "the reconstructed axon."
        )
    if axon == "full" and not summary.n_sections["axon"]:
        raise InputError(f"{summary.path}: axon: full keeps the reconstructed axon, but there is none. Use axon: stub.")
    if axon != "full" and summary.behind_axon:
        raise InputError(
            f"{summary.path}: axon: {axon} removes the reconstructed axon, but {', '.join(summary.behind_axon[:5])} "
            "grow from it and would be cut off. Correct the types in the reconstruction, or use axon: full."
        )


def axon_line(summary: MorphologySummary, axon: str) -> str:
    """Say what becomes of the reconstructed axon of a cell with an axon mode."""
    length = f"the reconstructed axon ({summary.length_um['axon']:,.0f} µm)"
    if axon == "full":
        return f"axon: full: {length} is kept"
    if not summary.n_sections["axon"]:
        return f"axon: {axon}: none is reconstructed, a stub of {STUB_LENGTH_UM} µm is added"
    return f"axon: {axon}: {length} is replaced by a stub of {STUB_LENGTH_UM} µm"


def check_axon_mode(axon: str) -> None:
    """Raise `InputError` unless `axon` is one of `AXON_MODES`."""
    if axon not in AXON_MODES:
        raise InputError(f"axon: expected one of {', '.join(AXON_MODES)}, found {axon!r}.")


def check_morphologies(paths: Sequence[Path | str]) -> Iterator[MorphologySummary | InputError]:
    """Yield the summary or the fault of each file, in their order; one process with NEURON reads them all.

    Whether an axon mode fits a cell is left to `check_axon`.
    """
    read = [_read(Path(path)) for path in paths]
    cells = [cell for cell in read if isinstance(cell, Reconstruction)]
    imports = _imports(cells)
    for cell in read:
        if isinstance(cell, InputError):
            yield cell
            continue
        try:
            yield _summary(cell, next(imports))
        except InputError as error:
            yield error


def _read(path: Path) -> Reconstruction | InputError:
    try:
        cell = read_reconstruction(path)
        _check_connected(cell)
        check_limits(cell)
    except InputError as error:
        return error
    return cell


def _check_connected(cell: Reconstruction) -> None:
    """Check that all sections form one tree, but for fragments of an axon, which may be going to be removed."""
    stray = [section for section in cell.sections if section.parent == STRAY]
    loose = _below(cell, [number for number in cell.roots if cell.sections[number].parent == STRAY])
    if any(cell.sections[number].kind != "axon" for number in loose):
        lines = ", ".join(str(section.lines[0]) for section in stray[:8])
        raise InputError(
            f"{cell.path}: expected one connected tree, found {len(stray) + 1} roots (points with parent -1): "
            f"disconnected points at lines {lines}. Connect them to the cell, or delete them."
        )


def _below(cell: Reconstruction, numbers: list[int]) -> list[int]:
    """Return sections and all that grow from them."""
    children, found, todo = cell.children, [], list(numbers)
    while todo:
        found.append(todo.pop())
        todo += children[found[-1]]
    return found


@dataclass(frozen=True)
class _Expected:
    """What NEURON should make of a cell: the lowest and the highest that are right.

    A branch begins at the soma's surface or, where NEURON connects it directly, at a point of the soma.
    """

    area_um2: dict[str, tuple[float, float]]
    length_um: dict[str, tuple[float, float]]
    reach_um: dict[str, tuple[float, float]]
    n_tips: dict[str, tuple[int, int]]
    n_roots: tuple[int, int]


@dataclass(frozen=True)
class _Made:
    """What NEURON made of a file.

    Attributes
    ----------
    n_sections, n_tips, length_um, area_um2, reach_um : dict
        By the first part of a section's name, such as ``dend``; the reach is the longest path from the soma.
    faults : list of str
        What no simulation could use.
    roots : list of str
        Sections without a parent.
    behind_axon : list of str
        Sections that are no axon and grow from one.
    printed : str
        The end of what NEURON said.
    """

    n_sections: dict[str, int]
    n_tips: dict[str, int]
    length_um: dict[str, float]
    area_um2: dict[str, float]
    reach_um: dict[str, float]
    faults: list[str]
    roots: list[str]
    behind_axon: list[str]
    printed: str = ""

    def differences(self, expected: _Expected) -> list[str]:
        """Return what is not as the file says."""
        found = list(self.faults)
        if self.n_sections.get("soma", 0) != 1:
            found.append(f"{self.n_sections.get('soma', 0)} somata")
        for kind in SECTIONS:
            for made, right, unit in (
                (self.area_um2, expected.area_um2, "µm²"),
                (self.length_um, expected.length_um, "µm"),
                (self.reach_um, expected.reach_um, "µm from the soma"),
            ):
                value, (low, high) = made.get(kind, 0.0), right[kind]
                if not low * (1 - TOLERANCE) - 1e-3 <= value <= high * (1 + TOLERANCE) + 1e-3:
                    found.append(f"{kind} of {value:,.5g} {unit} for {low:,.5g}")
            low_tips, high_tips = expected.n_tips[kind]
            if not low_tips <= self.n_tips.get(kind, 0) <= high_tips:
                found.append(f"{kind} with {self.n_tips.get(kind, 0)} ends for {high_tips}")
        low_roots, high_roots = expected.n_roots
        if not low_roots <= len(self.roots) <= high_roots:
            found.append(f"{len(self.roots)} trees for {low_roots}")
        return found


def _expected(cell: Reconstruction) -> _Expected:
    area_um2, length_um, reach, n_tips = {}, {}, {}, {}
    children, ends = cell.children, reach_um(cell)
    all_wires = [_wire_um(cell, section) for section in cell.sections if section.parent == SOMA]
    for kind, sections in by_kind(cell).items():
        areas = sum(section.area_um2 for section in sections)
        lengths = sum(section.length_um for section in sections)
        wires = [(_wire_um(cell, section), section.points[0, 3]) for section in sections if section.parent == SOMA]
        area_um2[kind] = (areas, areas + sum(float(np.pi * d * away) for away, d in wires))
        length_um[kind] = (lengths, lengths + sum(away for away, _ in wires))
        reach[kind] = (ends[kind], ends[kind] + max(all_wires, default=0.0))
        tips = [s for s, grown in zip(cell.sections, children, strict=True) if s.kind == kind and not grown]
        # NEURON leaves out sections without a length; what they grew from may then be an end.
        vanishing = [s for s in sections if len(s.points) < 2 or s.length_um < 1e-3]
        n_tips[kind] = (len(tips) - len(vanishing), len(tips) + len(vanishing))
    low, high = _OUTLINE_AREAS if cell.soma.contours and cell.path.suffix.lower() != ".swc" else (1.0, 1.0)
    area_um2["soma"], length_um["soma"] = (low * cell.soma.area_um2, high * cell.soma.area_um2), (0.0, np.inf)
    reach["soma"], n_tips["soma"] = (0.0, np.inf), (0, 1)
    n_stray = sum(section.parent == STRAY for section in cell.sections)
    return _Expected(area_um2, length_um, reach, n_tips, (1, 1 + n_stray))


def _wire_um(cell: Reconstruction, section: Section) -> float:
    return float(np.linalg.norm(section.points[0, :3] - cell.soma.points[section.soma_point, :3]))


@dataclass(frozen=True)
class _Candidate:
    """A file that NEURON may read, and what it should make of it."""

    file: MorphologyFile
    name: str
    expected: _Expected


def _candidates(number: int, cell: Reconstruction) -> list[_Candidate]:
    as_drawn = _expected(cell)
    found = []
    for i, file in enumerate(cell.files()):
        ending = Path(file.name).suffix.lower()
        converted = ending == ".swc" != cell.path.suffix.lower()
        expected = _expected(read_swc(cell.path.with_suffix(".swc"), file.content.decode())) if converted else as_drawn
        found.append(_Candidate(file, f"{number}-{i}{ending}", expected))
    return found


@dataclass(frozen=True)
class _Import:
    """What NEURON makes of the first file that it reads right, or of the last, and what was wrong with the first."""

    file: MorphologyFile
    made: _Made
    read_right: bool
    wrong: list[str]


def _imports(cells: Sequence[Reconstruction]) -> Iterator[_Import | InputError]:
    """Yield what NEURON makes of each cell, read in a process of its own."""
    if not cells:
        return
    with scratch_folder() as folder:  # also keeps NEURON from loading mechanisms of this folder
        all_candidates = [_candidates(number, cell) for number, cell in enumerate(cells)]
        for candidate in (candidate for candidates in all_candidates for candidate in candidates):
            (folder / candidate.name).write_bytes(candidate.file.content)
        request = [[(candidate.name, candidate.expected) for candidate in candidates] for candidates in all_candidates]
        made_of_each = fresh_process.stream(
            _read_files,
            request,
            READ_LIMIT_S,
            environment={"NEURON_MODULE_OPTIONS": "-nogui"},
            folder=folder,
        )
        for cell, candidates in zip(cells, all_candidates, strict=True):
            try:
                chosen, made, wrong = next(made_of_each)
            except fresh_process.ProcessFailed as error:
                made = error.reason
            if isinstance(made, str):
                yield InputError(f"{cell.path}: NEURON cannot read this file as a cell: {made}. {_DAMAGED}")
            else:
                file, expected = candidates[chosen].file, candidates[chosen].expected
                yield _Import(file, made, not made.differences(expected), wrong)


_DAMAGED = "It is damaged, or not in the format that its ending says: export it again."


def _read_files(
    request: list[list[tuple[str, _Expected]]], limit_s: float
) -> Iterator[tuple[int, _Made | str, list[str]]]:
    """Yield, for each cell, which of its files NEURON reads right, that cell or a failure, and the first's faults.

    NEURON's readers may crash or never return on a damaged file, and read nothing any more after a parse error: each
    file is read in a fork of this process.
    """
    from neuron import h

    h.load_file("stdlib.hoc")
    h.load_file("import3d.hoc")
    for candidates in request:
        wrong: list[str] = []
        for number, (name, expected) in enumerate(candidates):
            made = _in_a_fork(limit_s, _import, h, name)
            different = [made] if isinstance(made, str) else made.differences(expected)
            wrong = wrong or different
            if not different or number == len(candidates) - 1:
                yield number, made, wrong
                break


def _in_a_fork(limit_s: float, function: Callable[..., _Made], *arguments: Any) -> _Made | str:
    """Return what a function returns in a fork of this process, or how that ended."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.setitimer(signal.ITIMER_REAL, limit_s)  # ends it
            with os.fdopen(writable, "wb") as pipe:
                pickle.dump(function(*arguments), pipe)
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        content = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGALRM:
        return f"it did not come to an end in {limit_s:g} s"
    return pickle.loads(content) if code == 0 and content else f"its process {fresh_process.how_it_ended(code)}"


def _import(h: Any, name: str) -> _Made:
    """Import a morphology into this process's NEURON and measure it."""
    with _printed_into(f"{name}.txt") as printed:
        try:
            reader = h.Import3d_SWC_read() if name.endswith(".swc") else h.Import3d_Neurolucida3()
            reader.quiet = 1
            reader.input(name)
            h.Import3d_GUI(reader, 0).instantiate(None)
        except Exception as error:  # noqa: BLE001 - whatever NEURON's reader raises over the file
            print(f"{type(error).__name__}: {error}")
    sections = list(h.allsec())
    faults = []
    length_um: dict[str, float] = {}
    area_um2: dict[str, float] = {}
    for section in sections:
        section.nseg = 1
        kind = section.name().split("[")[0]
        length_um[kind] = length_um.get(kind, 0.0) + section.L
        area_um2[kind] = area_um2.get(kind, 0.0) + section(0.5).area()
        if section.L < 1e-3:
            faults.append(f"section {section.name()} has no length")
    parents = {s.name(): s.parentseg() for s in sections}
    reach: dict[str, float] = {}
    for section in sections:
        kind = section.name().split("[")[0]
        reach[kind] = max(reach.get(kind, 0.0), _path_um(section))
    with_children = {parent.sec.name() for parent in parents.values() if parent is not None}
    return _Made(
        n_sections=dict(Counter(section.split("[")[0] for section in parents)),
        n_tips=dict(Counter(name.split("[")[0] for name in parents if name not in with_children)),
        length_um=length_um,
        area_um2=area_um2,
        reach_um=reach,
        faults=faults,
        roots=[name for name, parent in parents.items() if parent is None],
        behind_axon=[
            name
            for name, parent in parents.items()
            if parent is not None and not name.startswith("axon") and parent.sec.name().startswith("axon")
        ],
        printed=" ".join(Path(printed).read_text(errors="replace").split())[-300:],
    )


def _path_um(section: Any) -> float:
    """Return how far from the soma a section ends, along the branch; 0 where it is not connected to it."""
    path = section.L
    parent = section.parentseg()
    while parent is not None and not parent.sec.name().startswith("soma"):
        path += parent.x * parent.sec.L
        parent = parent.sec.parentseg()
    return 0.0 if parent is None else path


@contextmanager
def _printed_into(path: str) -> Iterator[str]:
    """Have what this process prints, NEURON's own words too, in a file."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with open(path, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield path
    finally:
        sys.stdout.flush()
        for descriptor, number in zip(kept, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _summary(cell: Reconstruction, imported: _Import | InputError) -> MorphologySummary:
    if isinstance(imported, InputError):
        raise imported
    made, file = imported.made, imported.file
    _check_made(cell, imported)
    notes = list(cell.notes)
    warnings = oddities(cell)
    if imported.wrong and cell.content is not None and not cell.notes and cell.soma.drawn_as != "tree":
        notes.append(
            f"NEURON would make another cell of the file as it stands ({'; '.join(imported.wrong[:3])}): it is given "
            f"the cell written anew, as {file.name}"
        )
    ratio = made.area_um2["soma"] / cell.soma.area_um2
    if cell.soma.contours and not _OUTLINE_DOUBT[0] <= ratio <= _OUTLINE_DOUBT[1]:
        warnings.append(
            f"NEURON makes a soma of {made.area_um2['soma']:,.0f} µm² of its outline of {cell.soma.n_points} points, "
            f"which turned about its long axis has {cell.soma.area_um2:,.0f} µm²"
        )
    cable_um2 = {kind: made.area_um2.get(kind, 0.0) - low for kind, (low, _) in _expected(cell).area_um2.items()}
    more_um2 = sum(more for kind, more in cable_um2.items() if kind != "soma")
    if file.name.lower().endswith(".swc") and more_um2 > _CABLE_SHARE * (sum(made.area_um2.values())):
        warnings.append(
            f"NEURON connects its branches to points of the soma with pieces of cable, which add {more_um2:,.0f} µm² "
            f"of membrane to the {sum(made.area_um2.values()) - more_um2:,.0f} µm² that are drawn"
        )
    diameters = diameters_um(cell)
    trees = Counter(section.kind for section in cell.sections if section.parent < 0)
    return MorphologySummary(
        path=cell.path,
        file=file,
        soma_drawn_as=cell.soma.drawn_as,
        soma_area_um2=made.area_um2["soma"],
        n_points=cell.soma.n_points + sum(len(section.points[section.own]) for section in cell.sections),
        n_sections={kind: made.n_sections.get(kind, 0) for kind in SECTIONS},
        n_trees={"soma": 1} | {kind: trees.get(kind, 0) for kind in SECTIONS[1:]},
        length_um={kind: made.length_um.get(kind, 0.0) for kind in SECTIONS},
        area_um2={kind: made.area_um2.get(kind, 0.0) for kind in SECTIONS},
        reach_um=reach_um(cell),
        diameter_um={kind: median for kind, (_, median, _) in diameters.items()},
        diameters_um={kind: (low, high) for kind, (low, _, high) in diameters.items()},
        notes=tuple(notes),
        warnings=tuple(warnings),
        stray_axon=tuple(int(s.lines[0]) for s in cell.sections if s.parent == STRAY),
        behind_axon=tuple(made.behind_axon),
    )


def _check_made(cell: Reconstruction, imported: _Import) -> None:
    """Raise `InputError` for what NEURON made of the file but no simulation could use."""
    path, made = cell.path, imported.made
    if made.n_sections.get("soma", 0) > 1:
        raise InputError(
            f"{path}: expected one soma, NEURON makes {made.n_sections['soma']} of the outlines in it. Keep one cell a "
            "file, and one outline, or a stack of them, for its cell body."
        )
    if not imported.read_right:
        said = f" NEURON said: {made.printed}" if made.printed else ""
        raise InputError(
            f"{path}: NEURON cannot read this file as the cell that it says, but makes "
            f"{'; '.join(imported.wrong[:4])}. Export it again.{said}"
        )
