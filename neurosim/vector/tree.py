"""The tree of a cell as NEURON made it: compartments, areas and axial resistances."""

from dataclasses import dataclass
from typing import Any

from neurosim.vector.syntax import Unsupported

NodeName = tuple[int, int]  # section, segment; nseg for the far end of a section, -1 for the near one


@dataclass(frozen=True)
class Compartment:
    """A node of the tree.

    Attributes
    ----------
    section : int
        Index of its section in `Tree.sections`.
    segment : Any
        Its NEURON segment, None for a branching point, which has no membrane.
    parent : int
        -1 for the first.
    resistance : tuple of (float, int)
        Axial resistance to the parent, as terms of MOhm for each ohm cm of Ra, and the section whose Ra.
    """

    section: int
    segment: Any
    parent: int
    resistance: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Tree:
    """A standing NEURON cell as nodes, parents before children.

    Nodes without membrane that two or fewer others meet at are left out: the resistances through them add.
    """

    sections: tuple[Any, ...]
    compartments: tuple[Compartment, ...]

    def node(self, segment: Any) -> int:
        """Return the number of the node that a NEURON segment is."""
        for number, compartment in enumerate(self.compartments):
            if compartment.segment is not None and compartment.segment == segment:
                return number
        raise KeyError(str(segment))


def read_tree_of(sections: list[Any]) -> Tree:
    """Read the tree that sections of NEURON make up.

    Raises
    ------
    Unsupported
        Sections that are not one tree, or that hang by their far end.
    """
    known = {section: i for i, section in enumerate(sections)}
    parent: dict[NodeName, NodeName] = {}
    terms: dict[NodeName, list[tuple[float, int]]] = {}
    roots = []
    for i, section in enumerate(sections):
        if section.parentseg() is None:
            roots.append((i, -1))
            before = (i, -1)
        else:
            if section.orientation() != 0:
                raise Unsupported(
                    f"section {section}: the vector engine expects sections that hang by their near end."
                )
            before = _attached(section.parentseg(), known)
        for j in range(section.nseg + 1):
            place = (j + 0.5) / section.nseg if j < section.nseg else 1.0
            parent[i, j] = before
            terms[i, j] = [(section(place).ri() / section.Ra, i)]
            before = (i, j)
    if len(roots) != 1:
        raise Unsupported(f"the vector engine expects one tree of sections, found {len(roots)}.")
    return _shortened(sections, roots[0], parent, terms)


def _attached(where: Any, known: dict[Any, int]) -> NodeName:
    section, x = where.sec, where.x
    if x == 0:
        before = section.parentseg()
        return (known[section], -1) if before is None else _attached(before, known)
    return known[section], section.nseg if x == 1 else int(x * section.nseg)


def _shortened(
    sections: list[Any],
    root: NodeName,
    parent: dict[NodeName, NodeName],
    terms: dict[NodeName, list[tuple[float, int]]],
) -> Tree:
    children: dict[NodeName, list[NodeName]] = {root: []} | {name: [] for name in parent}
    for name, before in parent.items():
        children[before].append(name)

    def bare(name: NodeName) -> bool:
        return name[1] in (-1, sections[name[0]].nseg)

    found: list[Compartment] = []
    left: list[tuple[NodeName, int, list[tuple[float, int]]]] = [(root, -1, [])]
    while left:
        name, before, through = left.pop()
        through = through + terms.get(name, [])
        if bare(name) and not children[name]:
            continue
        if bare(name) and len(children[name]) == 1:
            left.append((children[name][0], before, through))
            continue
        section, j = name
        segment = None if bare(name) else sections[section]((j + 0.5) / sections[section].nseg)
        resistance = tuple(through) if before >= 0 else ()
        found.append(Compartment(section, segment, before, resistance))
        left += [(child, len(found) - 1, []) for child in reversed(children[name])]
    return Tree(tuple(sections), tuple(found))
