"""Read morphologies in SWC, Neurolucida's ASC and MorphIO's HDF5; a fault is named with its line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.morphology import (
    SOMA,
    STRAY,
    SWC_TYPES,
    Reconstruction,
    Section,
    Soma,
    extent_um,
    lateral_area_um2,
    sphere_of,
)

if TYPE_CHECKING:
    import h5py

FORMATS = (".swc", ".asc", ".h5")
MAX_POINTS = 2_000_000  # the largest axons of whole brains have some 300,000
_SHOWN_LINES = 6
_FORK, _TIP = 5, 6  # in an older SWC they mark points, not branches
_SPHERE_TOLERANCE = 0.02
_OUTLINE_POINTS, _OUTLINE_GAP_DEGREES = 4, 170.0


def read_reconstruction(path: Path) -> Reconstruction:
    """Return what a morphology file says.

    Raises
    ------
    InputError
        The first fault of the file.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise InputError(
            f"{path}: expected a morphology in SWC (.swc), Neurolucida (.asc) or MorphIO's HDF5 (.h5) format, found "
            f"the ending {path.suffix or 'none'!r}. Convert it (for example with NEURON's Import3d or MorphIO) or "
            "rename it."
        )
    content = _content(path)
    if ending == ".h5":
        return _read_hdf5(path)
    text = _decoded(content)
    if "\0" in text:
        raise InputError(f"{path}: expected text, found binary data. Is it another format, or compressed?")
    text = re.sub(r"\r(?!\n)", "\n", text)  # NEURON takes a file with the line ends of an old Mac for one line
    as_it_is = content in (text.encode(), text.encode("latin-1", errors="replace"))
    read = read_swc if ending == ".swc" else _read_asc
    return read(path, text, content if as_it_is else None)


def _content(path: Path) -> bytes:
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
        outline = xyzd[body, :3]
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
        if len(body) == 3 and _stands_for_a_sphere(xyzd[ordered]):
            return Soma(xyzd[[root]], "point", 3, line), one
    else:
        ordered = [root, *(i for branch in branches for i in branch)]
    kind = "point" if len(ordered) == 1 else "line"
    soma = Soma(xyzd[ordered], kind, len(body), line, extent_um=extent)
    return soma, {i: place for place, i in enumerate(ordered)}


def _stands_for_a_sphere(points: np.ndarray) -> bool:
    """Whether three points are those of NeuroMorpho.Org for a sphere: one radius to either side of the middle."""
    diameter = points[1, 3]
    length = np.linalg.norm(points[[0, 2], :3] - points[1, :3], axis=1).sum()
    alike = np.abs(points[:, 3] - diameter).max() <= _SPHERE_TOLERANCE * diameter
    return bool(alike and abs(length - diameter) <= _SPHERE_TOLERANCE * diameter)


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


_TOKEN = re.compile(r'"[^"]*"|[()|<>]|[^\s()|<>,;"]+')
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
        values: list[float] = []
        for item in self.items[:4]:
            if not isinstance(item, str) or not re.match(r"[-+.\d]", item):
                break
            try:
                values.append(float(item))
            except ValueError:
                break
        return [*values, 0.0, 0.0][:4] if 2 <= len(values) and np.all(np.abs(values) < 1e9) else []

    def points(self) -> list[tuple[int, list[float]]]:
        """Return the points that stand in it, each with its line."""
        groups = [item for item in self.items if isinstance(item, _Group)]
        return [(group.line, numbers) for group in groups if (numbers := group.numbers())]


def _read_asc(path: Path, text: str, content: bytes | None) -> Reconstruction:
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
        _add_tree(path, tree, sections)
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
        if len(whole) == 1 and _is_thick(bodies_xyzd[0]):
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


def _is_thick(points: np.ndarray) -> bool:
    """Whether points are the axis of a body, with diameters as large as it, and no outline; (n, 4)."""
    away = np.linalg.norm(points[:, :3] - points[:, :3].mean(axis=0), axis=1).mean()
    return bool(points[:, 3].min() > 0 and points[:, 3].max() > max(away, 1.0))


def _add_tree(path: Path, tree: _Group, sections: list[Section]) -> None:
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
            sections.append(_section(path, kinds[0], parent, rows, lines, sections, "line"))
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


def _section(
    path: Path,
    kind: str,
    parent: int,
    rows: Sequence[Sequence[float]],
    lines: Sequence[int],
    sections: Sequence[Section],
    place: str,
) -> Section:
    """Return a section that begins where its parent ends."""
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
    return Section(kind, parent, points, np.array(lines))


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
    except OSError as error:
        raise InputError(f"{path}: expected a morphology in MorphIO's HDF5 format, found no HDF5 ({error}).") from error
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
        sections.append(_section(path, kind, number[parent], points[list(rows)].tolist(), rows, sections, "row"))
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
    if len(points) == 1 or (len(points) == 3 and _stands_for_a_sphere(points[[1, 0, 2]])):
        if not points[0, 3] > 0:
            raise InputError(f"{path}: the soma is one point: expected a diameter above zero, found {points[0, 3]:g}.")
        return Soma(points[[0]], "point", len(points), row)
    if len(points) == 2:
        raise InputError(
            f"{path}: expected a soma of one point, or an outline of three points or more; found two points, which "
            "enclose nothing. Draw the cell body again."
        )
    if _is_thick(points):
        return Soma(points, "line", len(points), row, extent_um=extent_um(points))
    outline = points[:, :3]
    sphere = sphere_of([outline])
    if not sphere[0, 3] > 0:
        raise InputError(
            f"{path}: expected a soma of one point, or an outline; found {len(points)} points in a line, which enclose "
            "nothing. Draw the cell body again."
        )
    return Soma(sphere, "contour", len(points), row, (outline,), extent_um(points))
