"""Read Neurolucida's ASC: nested parentheses with outlines of cell bodies and trees of points."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.morphology import (
    MAX_POINTS,
    SOMA,
    Reconstruction,
    Section,
    Soma,
    extent_um,
    is_thick,
    section_at,
    sphere_of,
)

_TOKEN = re.compile(r'"[^"]*"|[()|<>]|[^\s()|<>;"]+')
_DECIMAL_COMMA = re.compile(r"[-+]?\d+(,\d+)?([eE][-+]?\d+)?")
_TREE_LABELS = {"axon": "axon", "dendrite": "dend", "apical": "apic", "apicaldendrite": "apic", "basaldendrite": "dend"}
_BODY_NAME = re.compile(r"(cell\s*body|soma)\s*\d*", re.IGNORECASE)


@dataclass
class _Group:
    """What stands between two parentheses: words, quoted names, bars and further groups."""

    line: int
    items: list[Any] = field(default_factory=list)

    @property
    def head(self) -> Any:
        return self.items[0] if self.items else ""

    @property
    def labels(self) -> dict[str, str]:
        """Lower-case first words of the groups in it -> as they stand there."""
        words = [item.head for item in self.items if isinstance(item, _Group)]
        return {word.lower(): word for word in words if isinstance(word, str) and re.match(r"[A-Za-z_]", word)}

    @property
    def name(self) -> str:
        return self.head.strip('"') if isinstance(self.head, str) and self.head.startswith('"') else ""

    def numbers(self) -> list[float]:
        """Return x, y, z and diameter (0 where it has none) of a point; nothing for another group."""
        if not isinstance(self.head, str) or not re.match(r"[-+.\d]", self.head):
            return []
        words = [item for item in self.items if isinstance(item, str)]
        if any("," in word for word in words):
            decimal = len(words) > 2 and all(map(_DECIMAL_COMMA.fullmatch, words[:4]))
            words = [word.replace(",", ".") for word in words] if decimal else " ".join(words).replace(",", " ").split()
        values: list[float] = []
        for word in words[:4]:
            try:
                values.append(float(word))
            except ValueError:
                break
        return [*values, 0.0, 0.0][:4] if 2 <= len(values) and np.all(np.abs(values) < 1e9) else []

    def points(self) -> list[tuple[int, list[float]]]:
        """Return the points that stand in it, each with its line."""
        groups = [item for item in self.items if isinstance(item, _Group)]
        return [(group.line, numbers) for group in groups if (numbers := group.numbers())]


def read_asc(path: Path, text: str, content: bytes | None) -> Reconstruction:
    bodies: list[_Group] = []
    outlines: list[_Group] = []
    trees: list[_Group] = []
    todo: list[Any] = list(reversed(_groups(path, text)))
    while todo:
        group = todo.pop()
        if not isinstance(group, _Group):
            continue
        if isinstance(group.head, str) and group.head.lower() == "set":
            todo += reversed(group.items[1:])
        elif group.name or {"cellbody", "closed"} & set(group.labels):
            is_body = "cellbody" in group.labels or _BODY_NAME.fullmatch(group.name)
            (bodies if is_body else outlines).append(group)
        elif isinstance(group.head, _Group) and not _is_a_caption(group):
            trees.append(group)
    soma = _asc_soma(path, bodies, outlines)
    sections: list[Section] = []
    for tree in trees:
        _add_tree(path, tree, sections, soma)
    return Reconstruction(
        path, soma, tuple(sections), text.encode() if content is None else content, own_content=content is not None
    )


def _groups(path: Path, text: str) -> list[Any]:
    """Return the outermost groups of a Neurolucida file."""
    outer: list[Any] = []
    inside: list[_Group] = []
    in_spine, n_groups = False, 0
    for number, line in enumerate(text.split("\n"), start=1):
        for token in _TOKEN.findall(_without_comment(line)):
            if not outer and token != "(":
                raise InputError(
                    f"{path}: expected a Neurolucida V3 text file, which begins with a parenthesis, found "
                    f"{token[:40]!r}. Export the reconstruction as ASC again, or give an SWC file."
                )
            if token in "<>":
                in_spine = token == "<"
            elif in_spine:
                continue
            elif token == "(":
                group = _Group(number)
                (inside[-1].items if inside else outer).append(group)
                inside.append(group)
                n_groups += 1
            elif token == ")":
                if not inside:
                    raise InputError(
                        f"{path}, line {number}: expected as many closing as opening parentheses, found a closing one "
                        "too many. The file was edited: export it again."
                    )
                inside.pop()
            elif inside:
                inside[-1].items.append(token)
        if n_groups > 2 * MAX_POINTS:
            raise InputError(f"{path}: expected a cell, found more than {MAX_POINTS:,} points.")
    if inside:
        raise InputError(
            f"{path}: expected as many closing as opening parentheses, but the one of line {inside[0].line} is never "
            "closed. The file was cut off or edited: export it again."
        )
    if not outer:
        raise InputError(
            f"{path}: expected a Neurolucida V3 text file, which begins with a parenthesis, found comments only. "
            "Export the reconstruction as ASC again, or give an SWC file."
        )
    return outer


def _without_comment(line: str) -> str:
    """Cut a line at its semicolon, unless that stands in a quoted name."""
    if ";" not in line:
        return line
    return re.sub(r'("[^"]*")|;.*', lambda found: found.group(1) or "", line)


def _is_a_caption(group: _Group) -> bool:
    """Whether it is a text in the picture: one point and a quoted text."""
    return len(group.points()) == 1 and any(isinstance(item, str) and item.startswith('"') for item in group.items)


def _asc_soma(path: Path, bodies: list[_Group], outlines: list[_Group]) -> Soma:
    drawn = [(group, points) for group in bodies if (points := group.points())]
    whole = [(group, points) for group, points in drawn if len(points) > 2]
    if whole:
        bodies_xyzd = [np.array([numbers for _, numbers in points]) for _, points in whole]
        n_points, line, extent = sum(map(len, bodies_xyzd)), whole[0][0].line, extent_um(np.vstack(bodies_xyzd))
        if len(whole) == 1 and is_thick(bodies_xyzd[0]):
            return Soma(bodies_xyzd[0], "line", n_points, line, extent_um=extent)
        contours = tuple(xyzd[:, :3] for xyzd in bodies_xyzd)
        for number in range(1, len(contours)):
            if not _overlap(*contours[number - 1 : number + 1]):
                raise InputError(
                    f"{path}: expected one soma, found outlines of cell bodies that lie apart, at line "
                    f"{whole[number - 1][0].line} and line {whole[number][0].line}. NEURON would make two somata of "
                    "them. Keep one cell a file."
                )
        sphere = sphere_of(contours)
        if not sphere[0, 3] > 0:
            raise InputError(
                f"{path}, line {line}: expected the outline of a soma, found points in a line, which enclose nothing. "
                "Draw the cell body again."
            )
        return Soma(sphere, "contour", n_points, line, contours, extent)
    if not drawn:
        others = ", ".join(f"{group.name or 'one without a name'!r} (line {group.line})" for group in outlines[:5])
        found = (
            f"found outlines with other names: {others}. Name that of the soma" if others else "found none. Mark the"
        )
        raise InputError(
            f"{path}: expected a soma (a contour marked CellBody), {found} cell body in the reconstruction and export "
            "it again."
            if not others
            else f"{path}: expected a soma (a contour marked CellBody), {found} CellBody and export it again."
        )
    group, points = drawn[0]
    where = f"{path}, line {group.line}"
    if len(drawn) > 1:
        raise InputError(
            f"{where}: expected one soma, found {len(drawn)} cell bodies of one or two points each. Keep one cell a "
            "file, with an outline of three points or more."
        )
    if len(points) == 2:
        raise InputError(
            f"{where}: expected the outline of a soma, found two points, which enclose nothing. NEURON ignores them, "
            "and the cell has no soma. Draw the cell body with three points or more, or give one point with its "
            "diameter."
        )
    if not points[0][1][3] > 0:
        raise InputError(
            f"{where}: expected the outline of a soma, found one point without a diameter. Draw the cell body with "
            "three points or more, or give the point a diameter."
        )
    return Soma(np.array([points[0][1]]), "point", 1, group.line)


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the boxes around two outlines meet when seen from above."""
    low, high = np.maximum(one.min(axis=0), other.min(axis=0)), np.minimum(one.max(axis=0), other.max(axis=0))
    return bool(np.all(low[:2] <= high[:2]))


def _add_tree(path: Path, tree: _Group, sections: list[Section], soma: Soma) -> None:
    kinds = [kind for label, kind in _TREE_LABELS.items() if label in tree.labels]
    if not kinds:
        if tree.points():
            said = ", ".join(sorted(set(tree.labels.values()) - {"Color", "Name", "Set"}))
            raise InputError(
                f"{path}, line {tree.line}: expected a tree marked (Axon), (Dendrite) or (Apical), found "
                f"{said or 'no mark'}. No recipe has parameters for other kinds: mark it in the reconstruction."
            )
        return
    todo: list[tuple[list[Any], int]] = [(tree.items, SOMA)]
    while todo:
        items, parent = todo.pop()
        rows, lines, inner = [], [], None
        for item in items:
            if not isinstance(item, _Group):
                continue
            if numbers := item.numbers():
                if inner is None:
                    rows.append(numbers)
                    lines.append(item.line)
            elif isinstance(item.head, _Group) and not _is_a_caption(item):
                inner = item
        number = parent
        if rows:
            number = len(sections)
            sections.append(section_at(path, kinds[0], parent, rows, lines, sections, soma))
        if inner is not None:
            todo += [(branch, number) for branch in reversed(_branches(inner))]


def _branches(group: _Group) -> list[list[Any]]:
    """Return what stands between the bars."""
    branches: list[list[Any]] = [[]]
    for item in group.items:
        if item == "|":
            branches.append([])
        else:
            branches[-1].append(item)
    return branches
