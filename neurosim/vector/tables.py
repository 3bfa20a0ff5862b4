"""What a kernel is called with: the tree, the places of each mechanism, and the memory layout of `Setup`."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurosim.vector.membrane import Kind
from neurosim.vector.source import KernelPlan
from neurosim.vector.tree import Tree

if TYPE_CHECKING:
    from neurosim.protocols import StepProtocol

# An individual whose voltage bends more from one long step to the next, or rests higher, may spike there.
LARGEST_BEND_MV, HIGHEST_REST_MV = 0.5, -55.0

_INT = ctypes.POINTER(ctypes.c_int32)
_LONG = ctypes.POINTER(ctypes.c_int64)
_DOUBLE = ctypes.POINTER(ctypes.c_double)
_BYTE = ctypes.POINTER(ctypes.c_uint8)
_TYPES = {_INT: np.int32, _LONG: np.int64, _DOUBLE: np.float64, _BYTE: np.uint8}


class Setup(ctypes.Structure):
    """`Setup` of `kernel.hpp`."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("n", "n_nodes", "n_rows", "n_phases", "n_places", "n_bare", "stimulated")
        ),
        ("parent", _INT),
        ("area", _DOUBLE),
        ("cm_row", _INT),
        ("bare", _INT),
        ("axial", _DOUBLE),
        ("rows", _DOUBLE),
        *((name, _INT) for name in ("kind_size", "kind_nodes", "kind_rows")),
        *((name, ctypes.c_double) for name in ("v_init", "amplitude", "start_ms", "stop_ms", "holding")),
        *((name, ctypes.c_double) for name in ("largest_bend", "highest_rest")),
        ("steps", _LONG),
        ("dt", _DOUBLE),
        *((name, _INT) for name in ("order", "every", "coarse", "places")),
        ("n_records", ctypes.c_int64),
        ("recorded", ctypes.c_void_p),
        ("ok", _BYTE),
        ("quiet", _BYTE),
    ]


@dataclass(frozen=True)
class Phase:
    """Equal steps: their number, length, order, and how many of them lie between two records.

    Steps that are `coarse` hold for individuals that are quiet in them.
    """

    steps: int
    dt_ms: float
    order: int
    every: int
    coarse: bool = False

    @property
    def records(self) -> int:
        return self.steps // self.every


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
    protocol: "StepProtocol",
    phases: Sequence[Phase],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run a kernel; return the voltages, shape (n, places, records), which are sound, and which are quiet."""
    n = table.shape[1]
    recorded = np.empty((n, len(tables.places), 1 + sum(phase.records for phase in phases)), dtype)
    ok, quiet = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    setup = Setup(
        n=n,
        n_nodes=len(tables.parent),
        n_rows=len(table),
        n_phases=len(phases),
        n_places=len(tables.places),
        n_bare=len(tables.bare),
        stimulated=tables.stimulated,
        v_init=v_init_mV,
        amplitude=protocol.amplitude_nA,
        start_ms=protocol.start_ms,
        stop_ms=protocol.stop_ms,
        holding=protocol.holding_nA,
        largest_bend=LARGEST_BEND_MV,
        highest_rest=HIGHEST_REST_MV,
        n_records=recorded.shape[2],
        recorded=recorded.ctypes.data,
    )
    arrays = {
        "axial": tables.axial(table),
        "rows": table,
        "steps": np.array([phase.steps for phase in phases]),
        "dt": np.array([phase.dt_ms for phase in phases]),
        "order": np.array([phase.order for phase in phases]),
        "every": np.array([phase.every for phase in phases]),
        "coarse": np.array([phase.coarse for phase in phases]),
        "ok": ok,
        "quiet": quiet,
    }
    kept = []  # the kernel reads these arrays: they have to outlive the call
    for name, pointer in Setup._fields_:
        if pointer in _TYPES:
            array = arrays[name] if name in arrays else getattr(tables, name)
            array = np.ascontiguousarray(array, _TYPES[pointer])
            setattr(setup, name, array.ctypes.data_as(pointer))
            kept.append(array)
    kernel[f"run_{dtype}"](ctypes.byref(setup))
    return recorded, ok.astype(bool), quiet.astype(bool)
