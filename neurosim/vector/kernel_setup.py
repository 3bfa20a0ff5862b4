"""What a kernel is called with: time steps, the tree of compartments, tables of parameters, and their memory layout."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurofleet.neurosim.features.step_protocols import StepProtocol
from neurofleet.neurosim.vector.kernel_build import KernelPlan
from neurofleet.neurosim.vector.membrane import CompartmentKind
from neurofleet.neurosim.vector.nmodl_syntax import Unsupported


@dataclass(frozen=True)
class Steps:
    """Time steps, chosen for each individual by itself.

    A step is as long as possible, between the shortest and the longest, and at most 1.5 times the one before: by how
    much any compartment's voltage leaves a straight line within it, times its length, is at most `largest_bend_mV_ms`.
    So its third power, as the error of a step at second order, is inverse to the curvature. A step ends where the
    current changes, and the next one is the shortest.

    Attributes
    ----------
    tick_ms : float
        Unit in which times are counted.
    order : {1, 2, 3}
        1 for backward Euler and 2 for the states half a step beside the voltage, as NEURON's ``secondorder``
        0 and 2. 3 goes to the new voltage in two stages (the diagonally implicit scheme of Alexander 1977,
        SIAM J Numer Anal 14:1006, with gamma = 1 - 1/sqrt(2)) where 2 extrapolates: a conductance that is
        large for the step then makes no voltage ring.
    shortest, longest : int
        In ticks, from the beginning of the stimulus until `near_ms` after it.
    shortest_away, longest_away : int
        In ticks, at all other times.
    near_ms : float
    largest_bend_mV_ms : float
    record_near, record_away : int
        Ticks from one recorded voltage to the next.
    dense : bool
        Record at `StepProtocol.dense_times_ms` instead.
    runaway_mV : float
        A simulation ends as failed where the voltage is farther from zero than this.
    """

    tick_ms: float
    order: int
    shortest: int = 1
    longest: int = 1
    shortest_away: int = 1
    longest_away: int = 1
    near_ms: float = 0.0
    largest_bend_mV_ms: float = 0.0
    record_near: int = 1
    record_away: int = 1
    dense: bool = False
    runaway_mV: float = 1000.0

    def ticks(self, time_ms: float) -> int:
        """Return the tick nearest to a time."""
        return round(time_ms / self.tick_ms)

    def recorded(self, protocol: "StepProtocol") -> np.ndarray:
        """Return the ticks at which the voltage of a protocol is kept, its first and its last included."""
        if self.dense:
            return np.unique(np.rint(protocol.dense_times_ms() / self.tick_ms)).astype(np.int64)
        start, end = self.ticks(protocol.start_ms), self.ticks(protocol.duration_ms)
        away = self.record_away
        begin = min(max(start - 1, 0) // away * away, end)
        stop = min(-(-self.ticks(protocol.stop_ms + self.near_ms) // away) * away, end)
        parts = [
            np.arange(first, last, every)
            for first, last, every in ((0, begin, away), (begin, stop, self.record_near), (stop, end, away))
        ]
        return np.concatenate([*parts, [end]]).astype(np.int64)


_SEARCH_STEPS = Steps(
    tick_ms=0.00625,
    order=3,
    shortest=4,
    longest=48,
    shortest_away=16,  # with shorter ones, an individual that spikes all the time would delay its batch
    longest_away=800,
    near_ms=100.0,
    largest_bend_mV_ms=1e-3,
    record_near=16,  # 0.1 ms, which eFEL interpolates to
    record_away=80,
)


# E-features are read from the decay itself: it has to be straighter between two steps than a spiking voltage. A
# membrane that hardly leaks is far from zero after a step, and a model like any other.
_SUBTHRESHOLD_STEPS = replace(
    _SEARCH_STEPS, longest=800, shortest_away=4, largest_bend_mV_ms=2e-4, dense=True, runaway_mV=1e6
)


def search_steps(chains: float, dense: bool = False) -> Steps:
    """Return the steps of a search.

    Parameters
    ----------
    chains : float
        Part of the compartments that have a chain of states (such as NaV), which opens faster: steps then are
        shorter. The fewer have one, the less a short step costs.
    dense : bool
        Whether it is a subthreshold stage (`Accuracy.dense`): steps then are long wherever the voltage is straight.
    """
    steps = _SUBTHRESHOLD_STEPS if dense else _SEARCH_STEPS
    if not chains:
        return steps
    bend = min(2.5e-4, steps.largest_bend_mV_ms)
    return replace(steps, shortest=1 if chains < 0.5 else 3, largest_bend_mV_ms=bend)


NodeName = tuple[int, int]  # section, segment; nseg for the far end of a section, -1 for the near one


@dataclass(frozen=True)
class Compartment:
    """A node of the tree.

    Attributes
    ----------
    section : int
        Index of its section in `CompartmentTree.sections`.
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
class CompartmentTree:
    """A cell that NEURON has built, as nodes, parents before children.

    Nodes without membrane that at most two others are connected to are left out: their resistances add up.
    """

    sections: tuple[Any, ...]
    compartments: tuple[Compartment, ...]

    def node(self, segment: Any) -> int:
        """Return the number of the node that a NEURON segment is."""
        for number, compartment in enumerate(self.compartments):
            if compartment.segment is not None and compartment.segment == segment:
                return number
        raise KeyError(str(segment))


def read_compartments(sections: list[Any]) -> CompartmentTree:
    """Read the tree of compartments that sections of NEURON form.

    Raises
    ------
    Unsupported
        Sections that are not one tree, or that are attached by their far end.
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
                    f"section {section}: the vector engine expects sections that are attached by their near end."
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
) -> CompartmentTree:
    children: dict[NodeName, list[NodeName]] = {name: [] for name in (root, *parent)}
    for name, inner in parent.items():
        children[inner].append(name)

    def bare(name: NodeName) -> bool:
        return name[1] in (-1, sections[name[0]].nseg)

    compartments: list[Compartment] = []
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
        compartments.append(Compartment(section, segment, before, resistance))
        left += [(child, len(compartments) - 1, []) for child in reversed(children[name])]
    return CompartmentTree(tuple(sections), tuple(compartments))


_INT = ctypes.POINTER(ctypes.c_int32)
_LONG = ctypes.POINTER(ctypes.c_int64)
_DOUBLE = ctypes.POINTER(ctypes.c_double)
_BYTE = ctypes.POINTER(ctypes.c_uint8)
_TYPES = {_INT: np.int32, _LONG: np.int64, _DOUBLE: np.float64, _BYTE: np.uint8}


class KernelProtocol(ctypes.Structure):
    """`Protocol` of `kernel.hpp`."""

    _fields_ = [
        *((name, ctypes.c_double) for name in ("amplitude", "holding")),
        *((name, ctypes.c_int64) for name in ("start", "stop", "end", "n_records")),
        ("grid", _LONG),
        ("recorded", ctypes.c_void_p),
        ("ok", _BYTE),
    ]


class Setup(ctypes.Structure):
    """`Setup` of `kernel.hpp`."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("n", "n_nodes", "n_rows", "n_places", "n_bare", "stimulated", "n_protocols", "order")
        ),
        ("parent", _INT),
        ("area", _DOUBLE),
        ("cm_row", _INT),
        ("bare", _INT),
        ("axial", _DOUBLE),
        ("rows", _DOUBLE),
        *((name, _INT) for name in ("kind_size", "kind_nodes", "kind_rows", "places")),
        *((name, ctypes.c_double) for name in ("v_init", "tick_ms", "largest_bend", "runaway")),
        *((name, ctypes.c_int64) for name in ("shortest", "shortest_away", "longest", "longest_away")),
        ("near", ctypes.c_int64),
        ("protocols", ctypes.POINTER(KernelProtocol)),
    ]


@dataclass(frozen=True, eq=False)
class Tables:
    """What stays the same for all individuals and protocols of a cell; the arrays are those of `Setup`.

    `ra_terms` are (node, MOhm for each ohm cm, row of Ra): their sum over a node is its axial resistance.
    """

    parent: np.ndarray
    area: np.ndarray
    cm_row: np.ndarray
    bare: np.ndarray
    ra_terms: list[tuple[int, float, int]]
    kind_size: np.ndarray
    kind_nodes: np.ndarray
    kind_rows: np.ndarray
    stimulated: int
    places: np.ndarray

    @classmethod
    def from_cell(
        cls,
        tree: CompartmentTree,
        plan: KernelPlan,
        nodes_of: Mapping[CompartmentKind, list[int]],
        row: Callable[[int, str], int],
        *,
        stimulated: int,
        places: Sequence[int],
    ) -> "Tables":
        """Collect the tables of a standing, initialised cell.

        Parameters
        ----------
        tree : CompartmentTree
        plan : KernelPlan
        nodes_of : mapping
            CompartmentKind of compartment -> its nodes.
        row : callable
            (node, NEURON's name of a parameter) -> row of the parameter table.
        stimulated : int
        places : sequence of int
            Nodes that are recorded.
        """
        nodes = tree.compartments
        first_node = {c.section: k for k, c in reversed(list(enumerate(nodes))) if c.segment is not None}
        area, cm_row = np.zeros(len(nodes)), np.full(len(nodes), -1)
        for k, compartment in enumerate(nodes):
            if compartment.segment is not None:
                area[k], cm_row[k] = compartment.segment.area() / 100.0, row(k, "cm")
        in_order = [(membrane, nodes_of[membrane.kind]) for membrane in plan.membranes]
        return cls(
            parent=np.array([c.parent for c in nodes]),
            area=area,
            cm_row=cm_row,
            bare=np.flatnonzero(cm_row < 0),
            ra_terms=[
                (k, unit, row(first_node[section], "Ra")) for k, c in enumerate(nodes) for unit, section in c.resistance
            ],
            kind_size=np.array([len(having) for _, having in in_order]),
            kind_nodes=np.array([k for _, having in in_order for k in having]),
            kind_rows=np.array(
                [
                    row(k, _neuron_name(name))
                    for membrane, having in in_order
                    for k in having
                    for name in membrane.constants()
                ]
            ),
            stimulated=stimulated,
            places=np.array(places),
        )

    def axial(self, table: np.ndarray) -> np.ndarray:
        """Return the conductances to the parents in uS, shape (nodes, n), for a table of parameters."""
        resistance = np.zeros((len(self.parent), table.shape[1]))
        for node, unit, row in self.ra_terms:
            resistance[node] += unit * table[row]
        resistance[0] = 1.0
        with np.errstate(divide="ignore"):  # without resistance an individual runs away, which is flagged
            return 1.0 / resistance


def _neuron_name(name: str) -> str:
    """Return what NEURON calls a constant: ``p:Ih:gbar`` is ``gbar_Ih``, ``e:na`` ``ena``."""
    what, *rest = name.split(":")
    if what == "p":
        mechanism, parameter = rest
        return f"{parameter}_{mechanism}"
    return {"e": "e{}", "ci": "{}i", "co": "{}o"}[what].format(*rest)


def call_kernel(
    kernel: ctypes.CDLL,
    dtype: str,
    tables: Tables,
    table: np.ndarray,
    v_init_mV: float,
    protocols: Sequence["StepProtocol"],
    steps: Steps,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Run a kernel for all individuals, shape (rows, n) of `table`, and all protocols.

    Returns
    -------
    list of (ndarray, ndarray, ndarray)
        For each protocol the times in ms, shape (t,), the voltages in mV, shape (n, places, t), and which
        individuals did not run away, shape (n,).
    """
    n = table.shape[1]
    results, keep_alive = [], []  # the kernel reads these arrays: they have to outlive the call
    kernel_protocols = (KernelProtocol * len(protocols))()
    for kernel_protocol, protocol in zip(kernel_protocols, protocols, strict=True):
        grid = steps.recorded(protocol)
        recorded = np.empty((n, len(tables.places), len(grid)), dtype)
        ok = np.zeros(n, np.uint8)
        kernel_protocol.amplitude, kernel_protocol.holding = protocol.amplitude_nA, protocol.holding_nA
        times_ms = (protocol.start_ms, protocol.stop_ms, protocol.duration_ms)
        kernel_protocol.start, kernel_protocol.stop, kernel_protocol.end = map(steps.ticks, times_ms)
        kernel_protocol.n_records, kernel_protocol.recorded = len(grid), recorded.ctypes.data
        kernel_protocol.grid, kernel_protocol.ok = grid.ctypes.data_as(_LONG), ok.ctypes.data_as(_BYTE)
        keep_alive += [grid, ok]
        results.append((grid * steps.tick_ms, recorded, ok))
    setup = Setup(
        n=n,
        n_nodes=len(tables.parent),
        n_rows=len(table),
        n_places=len(tables.places),
        n_bare=len(tables.bare),
        stimulated=tables.stimulated,
        n_protocols=len(protocols),
        order=steps.order,
        v_init=v_init_mV,
        tick_ms=steps.tick_ms,
        largest_bend=steps.largest_bend_mV_ms,
        runaway=steps.runaway_mV,
        shortest=steps.shortest,
        shortest_away=steps.shortest_away,
        longest=steps.longest,
        longest_away=steps.longest_away,
        near=steps.ticks(steps.near_ms),
        protocols=kernel_protocols,
    )
    arrays = {"axial": tables.axial(table), "rows": table}
    fields: Sequence[tuple[str, Any]] = Setup._fields_  # type: ignore[assignment]
    for name, pointer in fields:
        if pointer in _TYPES:
            array = arrays[name] if name in arrays else getattr(tables, name)
            array = np.ascontiguousarray(array, _TYPES[pointer])
            setattr(setup, name, array.ctypes.data_as(pointer))
            keep_alive.append(array)
    kernel[f"run_{dtype}"](ctypes.byref(setup))
    return [(times, recorded, ok.astype(bool)) for times, recorded, ok in results]
