"""Read SWC: points with parents, of which the soma is found and every branch is made to grow from it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.morphology import (
    MAX_POINTS,
    SOMA,
    STRAY,
    SWC_TYPES,
    Reconstruction,
    Section,
    Soma,
    extent_um,
    lateral_area_um2,
    sphere_of,
    stands_for_a_sphere,
)

_SHOWN_LINES = 6
_FORK, _TIP = 5, 6  # in an older SWC they mark points, not branches
_OUTLINE_POINTS, _OUTLINE_GAP_DEGREES = 4, 170.0


def _lines(numbers: Sequence[int]) -> str:
    """Return "line 3" or "lines 3, 5, 8 and 12 more"."""
    shown = ", ".join(map(str, numbers[:_SHOWN_LINES]))
    more = f" and {len(numbers) - _SHOWN_LINES} more" if len(numbers) > _SHOWN_LINES else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"


@dataclass
class _SwcPoints:
    """The points of an SWC file, in its order; `parents` are places in these lists, -1 for a root."""

    identities: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    xyzr: list[tuple[float, ...]] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    respelled: bool = False  # NEURON cannot read the file's own lines

    def text(self) -> str:
        """Return the same points, in the same order, as NEURON can read them."""
        rows = []
        for i, (identity, kind, parent) in enumerate(zip(self.identities, self.kinds, self.parents, strict=True)):
            numbers = " ".join(f"{value!r}" for value in self.xyzr[i])
            rows.append(f"{identity} {kind} {numbers} {self.identities[parent] if parent >= 0 else -1}\n")
        return "".join(rows)

    def children(self) -> list[list[int]]:
        grown: list[list[int]] = [[] for _ in self.kinds]
        for i, parent in enumerate(self.parents):
            if parent >= 0:
                grown[parent].append(i)
        return grown


def read_swc(path: Path, text: str, content: bytes | None = None) -> Reconstruction:
    """Return what the text of an SWC file says; `content` are the bytes of the file, if NEURON may read those."""
    points = _swc_points(path, text)
    _check_loops(path, points)
    _name_forks_and_tips(points)
    _check_types(path, points)
    respelled = points.text().encode() if points.respelled or content is None else None
    _root_at_soma(path, points)
    xyzd = np.array(points.xyzr, float) * [1, 1, 1, 2]
    soma, places = _swc_soma(points, xyzd)
    # The radii of an outline mean nothing.
    checked = np.array(points.kinds) != 1 if soma.contours else np.ones(len(xyzd), bool)
    for i in np.flatnonzero(checked & ~(xyzd[:, 3] > 0))[:1]:
        raise InputError(
            f"{path}, line {points.lines[i]}: expected a radius above zero, found {points.xyzr[i][3]:g}. Points "
            "without a diameter cannot be simulated: measure it, or take that of the neighbouring points."
        )
    return Reconstruction(
        path=path,
        soma=soma,
        sections=tuple(_swc_sections(points, xyzd, places)),
        content=content if respelled is None else respelled,
        own_content=respelled is None,
        notes=tuple(points.notes),
        header="\n".join(points.header),
    )


def _swc_points(path: Path, text: str) -> _SwcPoints:
    """Read the lines: seven numbers each, and parents that are there."""
    points = _SwcPoints()
    named: list[int] = []
    place: dict[int, int] = {}
    with_comma, with_point, strange = 0, 0, ""
    for number, line in enumerate(text.split("\n"), start=1):
        row, _, comment = line.partition("#")
        if comment and not points.kinds:
            points.header.append(comment.strip())
        if not row.strip():
            continue
        where = f"{path}, line {number}"
        numbers, comma, respelled = _seven_numbers(row)
        if numbers is None:
            strange = strange or _not_seven(where, row.strip())
            if points.kinds or not re.match(r"\s*[A-Za-z_]", row):
                raise InputError(strange)
            points.respelled = True  # words above the first point
            continue
        identity, kind, parent = (int(numbers[i]) for i in (0, 1, 6))
        if identity in place:
            raise InputError(
                f"{where}: expected a number of its own for each point, found {identity} again, which is at line "
                f"{points.lines[place[identity]]}. Are these two cells in one file? Number the points anew."
            )
        place[identity] = len(points.kinds)
        points.identities.append(identity)
        points.kinds.append(kind)
        points.xyzr.append(tuple(numbers[2:6]))
        points.lines.append(number)
        named.append(parent)
        points.respelled |= respelled
        with_comma = with_comma or comma * number
        with_point = with_point or ("." in row) * number
        if len(named) > MAX_POINTS:
            raise InputError(f"{path}: expected a cell, found more than {MAX_POINTS:,} points.")
    if not points.kinds:
        raise InputError(strange or f"{path}: expected points, found comments only. Download or export it again.")
    if with_comma and with_point:
        raise InputError(
            f"{path}: expected one mark for decimals, found a comma at line {with_comma} and a point at line "
            f"{with_point}. Export the file again with decimal points."
        )
    if with_comma:
        points.notes.append(f"its decimal commas (line {with_comma} and others) were read as decimal points")
    for i, parent in enumerate(named):
        if parent in place:
            points.parents.append(place[parent])
        elif parent <= 0:
            points.parents.append(-1)
            points.respelled |= parent == 0
        else:
            raise InputError(
                f"{path}, line {points.lines[i]}: point {points.identities[i]} is disconnected: its parent {parent} "
                "is not in the file. Restore the missing points."
            )
    return points


def _seven_numbers(row: str) -> tuple[list[float] | None, bool, bool]:
    """Return the numbers of a row, whether it has decimal commas, and whether NEURON cannot read it."""
    words, respelled = row.split()[:7], False
    for mark in ";,":
        fields = [word.strip() for word in row.strip().rstrip(mark).split(mark)]
        if len(fields) == 7:
            words, respelled = fields, True
            break
    comma = any("," in word for word in words)
    if comma and ("." in row or not all(re.fullmatch(r"[-+]?\d*,?\d+([eE][-+]?\d+)?", word) for word in words)):
        return None, False, False
    try:
        numbers = [float(word.replace(",", ".")) for word in words]
    except ValueError:
        return None, False, False
    whole = len(numbers) == 7 and all(abs(x) < 1e9 for x in numbers)  # false for nan and inf too
    if not whole or any(numbers[i] != int(numbers[i]) for i in (0, 1, 6)):
        return None, False, False
    return numbers, comma, respelled or comma


def _not_seven(where: str, row: str) -> str:
    if row.count(",") >= 6:
        return (
            f"{where}: this is not a morphology but a marker file (comma-separated points without "
            "connections). Name the SWC file that lies beside it (often the same name without _marker)."
        )
    shown = row if len(row) <= 60 else row[:60] + "..."
    return (
        f"{where}: expected the seven numbers of an SWC point (number, type, x, y, z, radius, parent), "
        f"found {shown!r}. Is this an SWC file?"
    )


def _check_loops(path: Path, points: _SwcPoints) -> None:
    reached = [parent < 0 for parent in points.parents]
    todo, children = [i for i, root in enumerate(reached) if root], points.children()
    while todo:
        for child in children[todo.pop()]:
            reached[child] = True
            todo.append(child)
    for i, is_reached in enumerate(reached):
        if not is_reached:
            raise InputError(
                f"{path}, line {points.lines[i]}: point {points.identities[i]} is disconnected: its parent "
                f"{points.identities[points.parents[i]]} grows from it, or from a loop. Correct the last column: the "
                "root of the tree has the parent -1."
            )


def _name_forks_and_tips(points: _SwcPoints) -> None:
    """Give marked points of an older SWC, forks (5) and tips (6), the type of the branch that they lie on."""
    if not {_FORK, _TIP} & set(points.kinds):
        return
    children = points.children()
    marked = [i for i, kind in enumerate(points.kinds) if kind in (_FORK, _TIP)]
    if any((len(children[i]) < 2) if points.kinds[i] == _FORK else children[i] for i in marked):
        return  # they are branches of a kind of their own
    known = list(points.kinds)
    for i in marked:
        above = i
        while above >= 0 and known[above] in (_FORK, _TIP):
            above = points.parents[above]
        if above >= 0 and known[above] in SWC_TYPES and known[above] != 1:
            points.kinds[i] = known[above]
            continue
        below = children[i]
        while below and known[below[0]] in (_FORK, _TIP):
            below = children[below[0]]
        if below and known[below[0]] in SWC_TYPES:
            points.kinds[i] = known[below[0]]
    points.respelled = True
    points.notes.append(
        f"its points of type {_FORK} and {_TIP} (forks and tips, {_lines([points.lines[i] for i in marked])}) were "
        "given the type of their branch"
    )


def _check_types(path: Path, points: _SwcPoints) -> None:
    strange = [i for i, kind in enumerate(points.kinds) if kind not in SWC_TYPES]
    if strange:
        kind = points.kinds[strange[0]]
        count = points.kinds.count(kind)
        raise InputError(
            f"{path}, line {points.lines[strange[0]]}: expected type 1 (soma), 2 (axon), 3 (dendrite) or 4 (apical "
            f"dendrite), found {kind}, as in {count} of {len(points.kinds)} points. No recipe has parameters for it: "
            "give these points the type of the branch they lie on."
        )
    if 1 not in points.kinds:
        raise InputError(
            f"{path}: expected a soma (points of type 1), found none among {len(points.kinds)} points. Mark the "
            "cell body in the reconstruction."
        )


def _root_at_soma(path: Path, points: _SwcPoints) -> None:
    """Have all branches grow from the soma; refuse two of them."""
    kinds, parents = points.kinds, points.parents
    bodies: dict[int, list[int]] = {}
    for i, kind in enumerate(kinds):
        if kind == 1:
            top = i
            while parents[top] >= 0 and kinds[parents[top]] == 1:
                top = parents[top]
            bodies.setdefault(top, []).append(i)
    _join_copies(points, bodies)
    if len(bodies) > 1:
        ordered = sorted(bodies.values(), key=lambda body: (-len(body), body[0]))
        one, other = ([points.lines[i] for i in body] for body in ordered[:2])
        raise InputError(
            f"{path}: expected one soma, found {len(bodies)} groups of points of type 1 that are not connected to "
            f"each other: {_lines(one)}, and {_lines(other)}. NEURON would make a second soma of them. Give the "
            "points that are no cell body the type of their branch, connect those of one body, or keep one cell a file."
        )
    (top,) = bodies
    if parents[top] < 0:
        return
    before, i = -1, top
    while i >= 0:
        parents[i], before, i = before, i, parents[i]
    points.notes.append(
        f"its tree begins with a branch (line {points.lines[before]}); the soma (line {points.lines[top]}) was "
        "taken as its root"
    )


def _join_copies(points: _SwcPoints, bodies: dict[int, list[int]]) -> None:
    """Take a soma of one point once that stands in the file for each of its trees."""
    first: dict[tuple[float, ...], int] = {}
    copies: dict[int, int] = {}
    for top, body in list(bodies.items()):
        if len(body) == 1 and points.parents[top] < 0:
            kept = first.setdefault(points.xyzr[top], top)
            if kept != top:
                copies[top] = kept
                del bodies[top]
    if not copies:
        return
    points.notes.append(
        f"its soma stands {len(copies) + 1} times at the same place ({_lines([points.lines[i] for i in copies])}) and "
        "was taken once"
    )
    points.parents = [copies.get(parent, parent) for parent in points.parents]
    for copy, kept in copies.items():
        points.kinds[copy], points.parents[copy] = 0, kept  # no soma, and no branch either


def _swc_soma(points: _SwcPoints, xyzd: np.ndarray) -> tuple[Soma, dict[int, int]]:
    """Return the soma, and to which of its points each point of type 1 belongs."""
    body = [i for i, kind in enumerate(points.kinds) if kind == 1]
    grown = {
        i: [child for child in children if points.kinds[child] == 1] for i, children in enumerate(points.children())
    }
    (root,) = [i for i in body if points.parents[i] < 0 or points.kinds[points.parents[i]] != 1]
    line = points.lines[body[0]]
    one = dict.fromkeys(body, 0)
    extent = extent_um(xyzd[body])
    if is_outline(xyzd[body]):
        outline = _around(xyzd[body, :3])
        return Soma(sphere_of([outline]), "contour", len(body), line, (outline,), extent), one
    branches = []
    for child in grown[root]:
        branch = [child]
        while len(grown[branch[-1]]) == 1:
            branch += grown[branch[-1]]
        branches.append(branch)
    if len(branches) > 2 or any(grown[branch[-1]] for branch in branches):
        area = sum(lateral_area_um2(xyzd[[points.parents[i], i]]) for i in body if i != root)
        centre = xyzd[body, :3].mean(axis=0)
        sphere = np.array([[*centre, np.sqrt(area / np.pi)]])
        return Soma(sphere, "tree", len(body), line, extent_um=extent), one
    if len(branches) == 2:
        ordered = [*reversed(branches[0]), root, *branches[1]]
        if len(body) == 3 and stands_for_a_sphere(xyzd[ordered]):
            return Soma(xyzd[[root]], "point", 3, line), one
    else:
        ordered = [root, *(i for branch in branches for i in branch)]
    kind: Literal["point", "line"] = "point" if len(ordered) == 1 else "line"
    soma = Soma(xyzd[ordered], kind, len(body), line, extent_um=extent)
    return soma, {i: place for place, i in enumerate(ordered)}


def _around(points: np.ndarray) -> np.ndarray:
    """Return the points of an outline in their order around its middle, (n, 3)."""
    arms = points - points.mean(axis=0)
    axes = np.linalg.svd(arms, full_matrices=False)[2]
    return points[np.argsort(np.arctan2(arms @ axes[1], arms @ axes[0]))]


def is_outline(points: np.ndarray) -> bool:
    """Whether the points of a soma lie around it in a plane, thin as a drawn line; (n, 4)."""
    if len(points) < _OUTLINE_POINTS:
        return False
    arms = points[:, :3] - points[:, :3].mean(axis=0)
    away = np.linalg.norm(arms, axis=1)
    if not away.mean() > 0 or points[:, 3].max() > away.mean() or away.std() > away.mean() / 2:
        return False
    _, spread, axes = np.linalg.svd(arms, full_matrices=False)
    if len(spread) > 2 and spread[2] > spread[1] / 2:
        return False
    x, y = arms @ axes[0], arms @ axes[1]
    angles = np.sort(np.degrees(np.arctan2(y, x)))
    gaps = np.diff(np.append(angles, angles[0] + 360))
    return bool(gaps.max() < _OUTLINE_GAP_DEGREES)


def _swc_sections(points: _SwcPoints, xyzd: np.ndarray, places: dict[int, int]) -> list[Section]:
    kinds, parents, children = points.kinds, points.parents, points.children()
    sections: list[Section] = []
    first = [i for i, kind in enumerate(kinds) if kind > 1 and (parents[i] < 0 or kinds[parents[i]] == 1)]
    todo = [(i, STRAY if parents[i] < 0 else SOMA) for i in reversed(first)]
    while todo:
        i, parent = todo.pop()
        run = [i]
        while len(children[run[-1]]) == 1 and kinds[children[run[-1]][0]] == kinds[i]:
            run += children[run[-1]]
        todo += [(child, len(sections)) for child in reversed(children[run[-1]])]
        whole = [parents[i], *run] if parent >= 0 else run
        sections.append(
            Section(
                kind=SWC_TYPES[kinds[i]],
                parent=parent,
                points=xyzd[whole],
                lines=np.array([points.lines[j] for j in whole]),
                soma_point=places.get(parents[i], 0),
            )
        )
    return sections
