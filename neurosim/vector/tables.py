"""What a kernel is called with: the tree, the places of each mechanism, and the memory layout of `Setup`."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurosim.vector.membrane import Kind
from neurosim.vector.source import KernelPlan
from neurosim.vector.steps import Steps
from neurosim.vector.tree import Tree

if TYPE_CHECKING:
    from neurosim.protocols import StepProtocol

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
        *((name, ctypes.c_double) for name in ("v_init", "tick_ms", "largest_bend")),
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
    def of(
        cls,
        tree: Tree,
        plan: KernelPlan,
        nodes_of: Mapping[Kind, list[int]],
        row: Callable[[int, str], int],
        *,
        stimulated: int,
        places: Sequence[int],
    ) -> "Tables":
        """Collect the tables of a standing, initialised cell.

        Parameters
        ----------
        tree : Tree
        plan : KernelPlan
        nodes_of : mapping
            Kind of compartment -> its nodes.
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
                (k, unit, row(first_node[section], "Ra"))
                for k, c in enumerate(nodes)
                for unit, section in c.resistance
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
        with np.errstate(divide="ignore"):  # an individual without resistance runs away, and is flagged
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
    """Run a kernel.

    Returns
    -------
    list of (ndarray, ndarray, ndarray)
        Of each protocol the times in ms, shape (t,), the voltages, shape (n, places, t), and who is sound,
        shape (n,).
    """
    n = table.shape[1]
    found, kept = [], []  # the kernel reads these arrays: they have to outlive the call
    given = (KernelProtocol * len(protocols))()
    for place, protocol in zip(given, protocols, strict=True):
        grid = steps.recorded(protocol)
        recorded = np.empty((n, len(tables.places), len(grid)), dtype)
        ok = np.zeros(n, np.uint8)
        place.amplitude, place.holding = protocol.amplitude_nA, protocol.holding_nA
        times_ms = (protocol.start_ms, protocol.stop_ms, protocol.duration_ms)
        place.start, place.stop, place.end = map(steps.ticks, times_ms)
        place.n_records, place.recorded = len(grid), recorded.ctypes.data
        place.grid, place.ok = grid.ctypes.data_as(_LONG), ok.ctypes.data_as(_BYTE)
        kept += [grid, ok]
        found.append((grid * steps.tick_ms, recorded, ok))
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
        largest_bend=steps.largest_bend_mV,
        shortest=steps.shortest,
        shortest_away=steps.shortest_away,
        longest=steps.longest,
        longest_away=steps.longest_away,
        near=steps.ticks(steps.near_ms),
        protocols=given,
    )
    arrays = {"axial": tables.axial(table), "rows": table}
    for name, pointer in Setup._fields_:
        if pointer in _TYPES:
            array = arrays[name] if name in arrays else getattr(tables, name)
            array = np.ascontiguousarray(array, _TYPES[pointer])
            setattr(setup, name, array.ctypes.data_as(pointer))
            kept.append(array)
    kernel[f"run_{dtype}"](ctypes.byref(setup))
    return [(times, recorded, ok.astype(bool)) for times, recorded, ok in found]
