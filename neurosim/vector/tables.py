"""What a kernel is called with: the tree, the places of each mechanism, and the memory layout of `Setup`."""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosim.vector.source import KernelPlan
from neurosim.vector.tree import Tree

if TYPE_CHECKING:
    from neurosim.protocols import StepProtocol

ION_STYLE_ADVANCES_E = 64  # NEURON's flag: the reversal potential follows the concentrations at each step

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
            for name in ("n", "n_nodes", "n_rows", "n_phases", "n_places", "stimulated")
        ),
        ("parent", _INT),
        ("area", _DOUBLE),
        ("cm_row", _INT),
        ("axial", _DOUBLE),
        ("rows", _DOUBLE),
        *((name, _INT) for name in ("group_size", "group_nodes", "group_rows")),
        *((name, _DOUBLE) for name in ("e", "ci", "co")),
        *((name, _INT) for name in ("nernst_size", "nernst_nodes")),
        ("charge", _DOUBLE),
        *(
            (name, ctypes.c_double)
            for name in ("nernst_mV", "v_init", "amplitude", "start_ms", "stop_ms", "holding")
        ),
        ("steps", _LONG),
        ("dt", _DOUBLE),
        *((name, _INT) for name in ("order", "every", "places")),
        ("n_records", ctypes.c_int64),
        ("recorded", _DOUBLE),
        ("ok", _BYTE),
    ]


@dataclass(frozen=True)
class Phase:
    """Equal steps: their number, length, order, and how many of them lie between two records."""

    steps: int
    dt_ms: float
    order: int
    every: int

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
    ra_terms: list[tuple[int, float, int]]
    group_size: np.ndarray
    group_nodes: np.ndarray
    group_rows: np.ndarray
    e: np.ndarray
    ci: np.ndarray
    co: np.ndarray
    nernst_size: np.ndarray
    nernst_nodes: np.ndarray
    charge: np.ndarray
    nernst_mV: float
    stimulated: int
    places: np.ndarray

    @classmethod
    def of(
        cls,
        tree: Tree,
        plan: KernelPlan,
        mechanisms: Mapping[str, list[int]],
        row: Callable[[int, str], int],
        h: Any,
        *,
        stimulated: int,
        places: Sequence[int],
    ) -> "Tables":
        """Collect the tables of a standing, initialised cell.

        Parameters
        ----------
        tree : Tree
        plan : KernelPlan
        mechanisms : mapping
            Mechanism -> nodes.
        row : callable
            (node, NEURON's name of a parameter) -> row of the parameter table.
        h : hoc object
        stimulated : int
        places : sequence of int
            Nodes that are recorded.
        """
        nodes = tree.compartments
        first_node = {c.section: k for k, c in reversed(list(enumerate(nodes))) if c.segment is not None}
        membrane = [k for k, c in enumerate(nodes) if c.segment is not None]
        area, cm_row = np.zeros(len(nodes)), np.full(len(nodes), -1)
        for k in membrane:
            area[k], cm_row[k] = nodes[k].segment.area() / 100.0, row(k, "cm")
        rows = [
            row(k, _neuron_name(name, density.name))
            for density in plan.densities
            for k in mechanisms[density.name]
            for name in plan.rows(density)
        ]
        ions = {name: np.ones((len(plan.ions), len(nodes))) for name in ("e", "ci", "co")}
        nernst: list[list[int]] = []
        for number, ion in enumerate(plan.ions):
            having = [k for k in membrane if hasattr(nodes[k].segment, f"e{ion}")]
            for k in having:
                for name, called in (("e", f"e{ion}"), ("ci", f"{ion}i"), ("co", f"{ion}o")):
                    ions[name][number, k] = getattr(nodes[k].segment, called)
            nernst.append([k for k in having if _advances_e(h, ion, tree, nodes[k].section)])
        return cls(
            parent=np.array([c.parent for c in nodes]),
            area=area,
            cm_row=cm_row,
            ra_terms=[
                (k, unit, row(first_node[section], "Ra"))
                for k, c in enumerate(nodes)
                for unit, section in c.resistance
            ],
            group_size=np.array([len(mechanisms[d.name]) for d in plan.densities]),
            group_nodes=np.array([k for d in plan.densities for k in mechanisms[d.name]]),
            group_rows=np.array(rows),
            **ions,
            nernst_size=np.array([len(having) for having in nernst]),
            nernst_nodes=np.array([k for having in nernst for k in having]),
            charge=np.array([h.ion_charge(f"{ion}_ion") for ion in plan.ions]),
            nernst_mV=h.nernst(1.0, math.e, 1.0),
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


def _neuron_name(name: str, mechanism: str) -> str:
    """Return what NEURON calls an input of a mechanism: ``p:gbar`` of Ih is ``gbar_Ih``, ``e:na`` ``ena``."""
    what, _, which = name.partition(":")
    return {"p": f"{which}_{mechanism}", "e": f"e{which}", "ci": f"{which}i", "co": f"{which}o"}[what]


def _advances_e(h: Any, ion: str, tree: Tree, section: int) -> bool:
    return bool(int(h.ion_style(f"{ion}_ion", sec=tree.sections[section])) & ION_STYLE_ADVANCES_E)


def call_kernel(
    kernel: ctypes.CDLL,
    dtype: str,
    tables: Tables,
    table: np.ndarray,
    v_init_mV: float,
    protocol: "StepProtocol",
    phases: Sequence[Phase],
) -> tuple[np.ndarray, np.ndarray]:
    """Run a kernel and return the voltages, shape (n, places, records), and which individuals are sound."""
    n = table.shape[1]
    recorded = np.empty((n, len(tables.places), 1 + sum(phase.records for phase in phases)))
    ok = np.zeros(n, np.uint8)
    setup = Setup(
        n=n,
        n_nodes=len(tables.parent),
        n_rows=len(table),
        n_phases=len(phases),
        n_places=len(tables.places),
        stimulated=tables.stimulated,
        nernst_mV=tables.nernst_mV,
        v_init=v_init_mV,
        amplitude=protocol.amplitude_nA,
        start_ms=protocol.start_ms,
        stop_ms=protocol.stop_ms,
        holding=protocol.holding_nA,
        n_records=recorded.shape[2],
    )
    arrays = {
        "axial": tables.axial(table),
        "rows": table,
        "steps": np.array([phase.steps for phase in phases]),
        "dt": np.array([phase.dt_ms for phase in phases]),
        "order": np.array([phase.order for phase in phases]),
        "every": np.array([phase.every for phase in phases]),
        "recorded": recorded,
        "ok": ok,
    }
    kept = []  # the kernel reads these arrays: they have to outlive the call
    for name, pointer in Setup._fields_:
        if pointer in _TYPES:
            array = arrays[name] if name in arrays else getattr(tables, name)
            array = np.ascontiguousarray(array, _TYPES[pointer])
            setattr(setup, name, array.ctypes.data_as(pointer))
            kept.append(array)
    kernel[f"run_{dtype}"](ctypes.byref(setup))
    return recorded, ok.astype(bool)
