"""Measure a reconstruction before it is believed: areas, lengths, diameters, and what looks odd."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.morphology import (
    SECTIONS,
    SOMA,
    STRAY,
    MorphologyFile,
    Reconstruction,
    Section,
    steps_um,
)

SOMA_UM = (1.0, 300.0)  # what a cell can be: an equivalent sphere; squid and sea hare aside
REACH_UM = 20_000.0  # of dendrites, from the soma
DENDRITE_UM = (0.01, 100.0)  # median diameter
USUAL_SOMA_UM = (4.0, 60.0)
USUAL_REACH_UM = 3_000.0
UNITS = {"nanometres": 1e-3, "millimetres": 1e3, "centimetres": 1e4, "metres": 1e6}
_LIKELY_SOMA_UM, _LIKELY_REACH_UM = (3.0, 80.0), (10.0, 6_000.0)

THIN_UM = 0.1
JUMP, JUMP_UM = 5.0, 2.0  # ratio and difference of neighbouring diameters
GAP_UM, GAP_STEPS = 50.0, 20.0  # a step that long, and that many times the median one
BEGIN_UM = 20.0  # from the surface of the soma to a tree's first point
APICAL_UM = 100.0
LONELY, LONELY_UM = 3.0, 250.0  # a basal tree that many times as long as the others, and at least that long
SHOWN = 4


@dataclass(frozen=True)
class MorphologySummary:
    """The measures of a usable morphology, and the file in which NEURON imports it.

    Areas and lengths are those of NEURON's sections, which is what is simulated, with the reconstructed axon.

    Attributes
    ----------
    path : Path
    file : MorphologyFile
        The user's file, or the same cell as NEURON can read it.
    soma_drawn_as : str
        ``point``, ``line``, ``contour`` or ``tree`` (points that branch).
    soma_area_um2, soma_diameter_um : float
        The diameter is that of a sphere of this area.
    n_points : int
    n_sections, n_trees, length_um, area_um2, reach_um, diameter_um, diameters_um : mapping
        By ``soma``, ``axon``, ``dend`` and ``apic``: sections; those that grow from the soma or are stray; summed
        length and area; longest path from the soma; median diameter of the points; the smallest and the largest.
    notes : tuple of str
        What was put right in reading.
    warnings : tuple of str
        What looks odd.
    stray_axon : tuple of int
        Where pieces of axon begin that are connected to nothing.
    behind_axon : tuple of str
        Sections that are no axon and grow from one.
    """

    path: Path
    file: MorphologyFile
    soma_drawn_as: str
    soma_area_um2: float
    n_points: int
    n_sections: Mapping[str, int]
    n_trees: Mapping[str, int]
    length_um: Mapping[str, float]
    area_um2: Mapping[str, float]
    reach_um: Mapping[str, float]
    diameter_um: Mapping[str, float]
    diameters_um: Mapping[str, tuple[float, float]]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    stray_axon: tuple[int, ...] = ()
    behind_axon: tuple[str, ...] = ()

    @property
    def has_apical(self) -> bool:
        """Whether there is an apical tree."""
        return self.n_sections["apic"] > 0

    @property
    def soma_diameter_um(self) -> float:
        return sphere_diameter_um(self.soma_area_um2)

    @property
    def total_length_um(self) -> float:
        """Of all sections but the soma."""
        return sum(length for kind, length in self.length_um.items() if kind != "soma")

    @property
    def total_area_um2(self) -> float:
        """Of all sections with the soma."""
        return sum(self.area_um2.values())

    def line(self) -> str:
        """Return the measures in a line."""
        names = {"dend": "dendrites", "apic": "apical dendrite", "axon": "axon"}
        parts = [f"soma {self.soma_area_um2:,.0f} µm² (as a sphere {self.soma_diameter_um:.3g} µm)"]
        parts += [
            f"{name} {self.length_um[kind]:,.0f} µm, {self.area_um2[kind]:,.0f} µm² in {self.n_sections[kind]} "
            f"section{'s' if self.n_sections[kind] > 1 else ''}, median diameter {self.diameter_um[kind]:.2g} µm"
            for kind, name in names.items()
            if self.n_sections[kind]
        ]
        return f"{self.path.name}: {'; '.join(parts)}; in all {self.total_area_um2:,.0f} µm²"


def sphere_diameter_um(area_um2: float) -> float:
    """Return the diameter of a sphere of this area."""
    return float(np.sqrt(area_um2 / np.pi))


def by_kind(cell: Reconstruction) -> dict[str, list[Section]]:
    """Return the sections of each kind."""
    return {kind: [s for s in cell.sections if s.kind == kind] for kind in SECTIONS}


def reach_um(cell: Reconstruction) -> dict[str, float]:
    """Return the longest path from the soma to the end of a section of each kind."""
    ends = cell.distances_um()
    return {
        kind: max((float(end) for end, s in zip(ends, cell.sections, strict=True) if s.kind == kind), default=0.0)
        for kind in SECTIONS
    }


def diameters_um(cell: Reconstruction) -> dict[str, tuple[float, float, float]]:
    """Return the smallest, the median and the largest diameter of the points of each kind; 0 where there are none."""
    found = {kind: _own_diameters(sections) for kind, sections in by_kind(cell).items()}
    found["soma"] = cell.soma.points[:, 3]
    return {
        kind: (float(values.min()), float(np.median(values)), float(values.max())) if len(values) else (0.0, 0.0, 0.0)
        for kind, values in found.items()
    }


def _own_diameters(sections: Sequence[Section]) -> np.ndarray:
    return np.concatenate([np.empty(0), *(s.points[s.own, 3] for s in sections)])


def check_limits(cell: Reconstruction) -> None:
    """Raise `InputError`, with the factor that would help, if its sizes are not those of a cell in micrometres."""
    soma_um = sphere_diameter_um(cell.soma.area_um2)
    dendrites = [s for s in cell.sections if s.kind in ("dend", "apic")] or list(cell.sections)
    reach = max(
        (float(np.linalg.norm(s.points[:, :3] - cell.soma.centre, axis=1).max()) for s in dendrites), default=0.0
    )
    diameters = _own_diameters(dendrites)
    median = float(np.median(diameters)) if len(diameters) else 1.0
    found = []
    if not SOMA_UM[0] <= soma_um <= SOMA_UM[1]:
        found.append(f"a soma of {soma_um:.4g} µm across (as a sphere of its area)")
    elif cell.soma.extent_um > SOMA_UM[1]:
        found.append(f"points of the soma over {cell.soma.extent_um:,.0f} µm")
    if reach > REACH_UM:
        found.append(f"branches that end {reach:,.0f} µm from the soma")
    if not DENDRITE_UM[0] <= median <= DENDRITE_UM[1]:
        found.append(f"branches of {median:.3g} µm diameter (median)")
    if not found:
        return
    likely = [
        (unit, factor)
        for unit, factor in UNITS.items()
        if _LIKELY_SOMA_UM[0] <= soma_um * factor <= _LIKELY_SOMA_UM[1]
        and (not dendrites or _LIKELY_REACH_UM[0] <= reach * factor <= _LIKELY_REACH_UM[1])
    ]
    advice = (
        "If it is in pixels or voxels, multiply x, y, z and the radius by the size of one in micrometres."
        if reach > REACH_UM or soma_um > SOMA_UM[1]
        else "If these are branches, give their points another type than 1 (soma)."
        if cell.soma.extent_um > SOMA_UM[1]
        else "Look at the points of the soma, and at the unit in which the file was exported."
    )
    if likely:
        unit, factor = likely[0]
        advice = (
            f"Taken as {unit}, the soma is {soma_um * factor:.3g} µm across and the branches end "
            f"{reach * factor:,.0f} µm from it: multiply x, y, z and the radius (or diameter) by {factor:g} and save "
            "the file again."
        )
    elif cell.soma.drawn_as != "contour" and soma_um < SOMA_UM[0] and reach > 10:
        advice = (
            f"The branches have the size of a cell, the soma has not: correct the points of the soma (line "
            f"{cell.soma.line})."
        )
    said = next((line for line in cell.header.splitlines() if "nanomet" in line.lower() or '"units"' in line), "")
    raise InputError(
        f"{cell.path}: expected a cell in micrometres (a soma of {SOMA_UM[0]:g} to {SOMA_UM[1]:g} µm, branches of at "
        f"most {REACH_UM / 1000:g} mm), found {' and '.join(found)}. "
        + (f"The file itself says {said[:80]!r}. " if said else "")
        + advice
    )


def oddities(cell: Reconstruction) -> list[str]:
    """Return what looks odd in a reconstruction that can be simulated, one sentence each."""
    kinds = by_kind(cell)
    dendrites = [*kinds["dend"], *kinds["apic"]]
    found = [
        *_odd_soma(cell, dendrites),
        *_odd_sizes(cell, dendrites),
        *_odd_diameters(cell, dendrites),
        *_odd_steps(cell, dendrites),
        *_odd_trees(cell, kinds),
    ]
    return [sentence for sentence in found if sentence]


def _odd_soma(cell: Reconstruction, dendrites: Sequence[Section]) -> list[str]:
    soma = cell.soma
    at = cell.counted_in
    found = []
    if soma.drawn_as == "contour" and cell.path.suffix.lower() == ".swc":
        found.append(
            f"its soma is drawn as an outline of {soma.n_points} points ({at} {soma.line}) and taken as a sphere with "
            f"the area of that outline turned about its long axis, {soma.area_um2:,.0f} µm²; radii of an outline mean "
            "nothing"
        )
    if soma.drawn_as == "tree":
        found.append(
            f"its soma is drawn with {soma.n_points} points that branch ({at} {soma.line}) and taken as a sphere of "
            f"their area, {soma.area_um2:,.0f} µm²; look whether they are the cell body"
        )
    if soma.drawn_as == "line" and len(soma.points) > 3:
        extent = np.linalg.norm(np.ptp(soma.points[:, :3], axis=0))
        length = float(steps_um(soma.points).sum())
        if length > 1.5 * extent:
            found.append(
                f"the {soma.n_points} points of its soma ({at} {soma.line}) turn back: {length:.3g} µm of axis within "
                f"{extent:.3g} µm. Its area of {soma.area_um2:,.0f} µm² counts membrane more than once"
            )
    thickest = max((float(s.points[s.own, 3].max()) for s in dendrites if len(s.points[s.own])), default=0.0)
    if thickest > sphere_diameter_um(soma.area_um2):
        found.append(f"a dendrite of {thickest:.3g} µm is thicker than the soma")
    return found


def _odd_sizes(cell: Reconstruction, dendrites: Sequence[Section]) -> list[str]:
    found = []
    soma_um = sphere_diameter_um(cell.soma.area_um2)
    low, high = USUAL_SOMA_UM
    if not low <= soma_um <= high:
        found.append(
            f"its soma is {soma_um:.3g} µm across (as a sphere of its area), usual are {low:g} to {high:g} µm: is the "
            "file in micrometres?"
        )
    if not dendrites:
        return [*found, "it has no dendrites"]
    farthest = max(reach_um(cell)[kind] for kind in ("dend", "apic"))
    if farthest > USUAL_REACH_UM:
        found.append(
            f"its dendrites are up to {farthest:,.0f} µm long, usual is less than {USUAL_REACH_UM:,.0f} µm: is the "
            "file in micrometres?"
        )
    if farthest < soma_um / 2:
        found.append(f"its dendrites are at most {farthest:.3g} µm long, less than the soma's radius")
    points = np.concatenate([s.points[s.own] for s in dendrites])
    if len(points) >= 50 and np.all(points[:, :3] == np.round(points[:, :3])):
        found.append("all its coordinates are whole numbers: are they pixels?")
    if len(points) >= 20 and np.ptp(points[:, 2]) == 0:
        found.append("all its points lie in one plane: lengths and areas may be too small")
    return found


def _odd_diameters(cell: Reconstruction, dendrites: Sequence[Section]) -> list[str]:
    at = cell.counted_in
    found = []
    diameters = _own_diameters(dendrites)
    if len(diameters) >= 10:
        values, counts = np.unique(np.round(diameters, 4), return_counts=True)
        share = counts.max() / len(diameters)
        if share > 0.9:
            found.append(
                f"{share:.0%} of the points of its dendrites have the diameter {values[counts.argmax()]:g} µm: were "
                "diameters measured? Areas, and so all conductances, follow from them"
            )
    thin = [
        (line, d) for s in dendrites for line, d in zip(s.lines[s.own], s.points[s.own, 3], strict=True) if d < THIN_UM
    ]
    if thin:
        found.append(
            f"{len(thin)} points of its dendrites are thinner than {THIN_UM:g} µm, the first at {at} {thin[0][0]} "
            f"({thin[0][1]:.2g} µm)"
        )
    jumps = []
    for section in dendrites:
        thick = section.points[section.own, 3]
        ratio = np.maximum(thick[1:] / thick[:-1], thick[:-1] / thick[1:])
        for i in np.flatnonzero((ratio > JUMP) & (np.abs(np.diff(thick)) > JUMP_UM)):
            jumps.append((section.lines[section.own][i + 1], thick[i], thick[i + 1]))
    if jumps:
        shown = ", ".join(f"{at} {line} ({one:.2g} to {other:.2g} µm)" for line, one, other in jumps[:SHOWN])
        found.append(f"diameters of its dendrites jump {_times(jumps)}: {shown}")
    return found


def _odd_steps(cell: Reconstruction, dendrites: Sequence[Section]) -> list[str]:
    at = cell.counted_in
    found: list[str] = []
    steps = [steps_um(s.points) for s in dendrites]
    whole = np.concatenate([np.empty(0), *steps])
    if not len(whole):
        return found
    limit = max(GAP_UM, GAP_STEPS * float(np.median(whole)))
    gaps = [
        (s.lines[i + 1], step[i])
        for s, step in zip(dendrites, steps, strict=True)
        for i in np.flatnonzero(step > limit)
    ]
    if gaps:
        shown = ", ".join(f"{length:.0f} µm before {at} {line}" for line, length in gaps[:SHOWN])
        found.append(
            f"its dendrites have gaps between a point and its parent ({shown}), which are simulated as straight cable; "
            f"its median step is {np.median(whole):.2g} µm"
        )
    if (whole == 0).sum() > 0.01 * len(whole):
        found.append(f"{int((whole == 0).sum())} points of its dendrites stand where the one before stands")
    soma = cell.soma
    outer = np.linalg.norm(np.concatenate([soma.points[:, :3], *soma.contours]) - soma.centre, axis=1).max()
    radius = max(float(outer), float(soma.points[:, 3].max()) / 2)
    far = [
        (s.lines[0], away)
        for s in dendrites
        if s.parent == SOMA and (away := float(np.linalg.norm(s.points[0, :3] - soma.centre)) - radius) > BEGIN_UM
    ]
    if far:
        shown = ", ".join(f"{at} {line} ({away:.0f} µm)" for line, away in far[:SHOWN])
        found.append(f"{_trees(far)} of its dendrites begin far from the surface of the soma: {shown}")
    return found


def _odd_trees(cell: Reconstruction, kinds: Mapping[str, Sequence[Section]]) -> list[str]:
    at = cell.counted_in
    found = []
    stray = [s.lines[0] for s in cell.sections if s.parent == STRAY]
    if stray:
        shown = ", ".join(map(str, stray[:SHOWN]))
        found.append(f"{_trees(stray)} of its axon are connected to nothing ({at} {shown}); they go with the axon")
    ends = cell.distances_um()
    tree_of = np.zeros(len(cell.sections), int)
    for number, section in enumerate(cell.sections):
        tree_of[number] = number if section.parent < 0 else tree_of[section.parent]
    reach = {root: float(ends[tree_of == root].max()) for root in cell.roots if cell.sections[root].parent == SOMA}
    basal = sorted((r for r in reach if cell.sections[r].kind == "dend"), key=lambda root: -reach[root])
    apical = [r for r in reach if cell.sections[r].kind == "apic"]
    if len(apical) > 1:
        shown = ", ".join(str(cell.sections[root].lines[0]) for root in apical[:SHOWN])
        found.append(f"{len(apical)} apical trees grow from its soma ({at}s {shown})")
    longest = reach_um(cell)["apic"]
    if kinds["apic"] and (longest < APICAL_UM or (basal and longest < reach[basal[0]] / 2)):
        others = f", its basal dendrites {reach[basal[0]]:.0f} µm" if basal else ""
        found.append(f"its apical dendrite is {longest:.0f} µm long{others}: is it one?")
    if not kinds["apic"] and len(basal) > 2 and reach[basal[0]] > max(LONELY_UM, LONELY * reach[basal[1]]):
        found.append(
            f"it has no apical dendrite, and one basal tree ({at} {cell.sections[basal[0]].lines[0]}) is "
            f"{reach[basal[0]]:.0f} µm long, the next {reach[basal[1]]:.0f} µm: if that is the apical dendrite, give "
            "it type 4"
        )
    return found


def _times(items: Sequence[object]) -> str:
    return "once" if len(items) == 1 else f"{len(items)} times"


def _trees(items: Sequence[object]) -> str:
    return f"{len(items)} pieces" if len(items) > 1 else "1 piece"
