"""A cell whose individuals are simulated together: each compartment once, all individuals side by side."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from neurosim.errors import InputError
from neurosim.vector.compiling import compile_kernel
from neurosim.vector.density import make_density
from neurosim.vector.membrane import Kind
from neurosim.vector.rows import Row, RowTable, rows_of_parameters
from neurosim.vector.source import KernelPlan, kernel_source
from neurosim.vector.syntax import Unsupported, read_syntax
from neurosim.vector.tables import Phase, Tables, call_kernel
from neurosim.vector.tree import Tree, read_tree_of

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel
    from neurosim.protocols import StepProtocol

DT_MS = 0.05
CHAIN_DT_MS = 0.025  # for a cell with a chain of states: NaV's opens faster than the gates of the others
Outside = Literal["fine", "lively", "calm"]
# Away from the stimulus the steps of a calm individual may be long: from when the start is forgotten until
# shortly before the stimulus, and some time after it.
FORGOTTEN_MS, BEFORE_MS, BEFORE_DT_MS = 10.0, 5.0, 1.0
AFTER_MS, AFTER_DT_MS = 15.0, 0.5
LATE_MS, LATE_DT_MS = 100.0, 10.0
VECTOR_BYTES = 64
N_ARRAYS = 9  # of all nodes, in `kernel.hpp`
NOT_MECHANISMS = ("capacitance", "morphology")
ADVANCES_E = 64  # flag of an ion's style: the reversal potential follows the concentrations at each step


@dataclass(frozen=True, eq=False)
class VectorRun:
    """Voltages of all individuals at the same times.

    Attributes
    ----------
    times_ms : ndarray, shape (t,)
    soma_mV : ndarray, shape (n, t)
        In the middle of the soma.
    axon_mV : ndarray, shape (n, t), or None
        In the middle of the first axon section, None for a cell without an axon.
    ok : ndarray of bool, shape (n,)
        False for an individual that ran away (beyond 1000 mV, or no number): its voltages mean nothing.
    quiet : ndarray of bool, shape (n,)
        False for an individual that was not at rest where the steps were long.
    """

    times_ms: np.ndarray
    soma_mV: np.ndarray
    axon_mV: np.ndarray | None
    ok: np.ndarray
    quiet: np.ndarray

    def only(self, chosen: np.ndarray) -> "VectorRun":
        """Return some of the individuals."""
        axon = None if self.axon_mV is None else self.axon_mV[chosen]
        return VectorRun(self.times_ms, self.soma_mV[chosen], axon, self.ok[chosen], self.quiet[chosen])


class VectorCell:
    """One cell with its free parameters, simulated for many parameter sets at once.

    NEURON builds the cell once, for its geometry, and it is taken down again; the mechanisms are compiled
    from their NMODL. Nothing else may be simulated in this process meanwhile.

    Parameters
    ----------
    model : FitModel

    Attributes
    ----------
    parameter_names : tuple of str, length P
    dt_ms : float
        The step that is as exact, at second order, as a fit needs.

    Raises
    ------
    Unsupported
        The cell has a mechanism or a shape that the engine does not do; the message names it.
    InputError
        There is no C++ compiler.
    """

    def __init__(self, model: "FitModel") -> None:
        from bluepyopt.ephys.simulators import NrnSimulator

        model.own.load()
        self.parameter_names = tuple(parameter.full_name for parameter in model.free)
        self._v_init_mV = model.conditions.v_init_mV
        simulator = NrnSimulator(cvode_active=False)
        cell = model.build_cell()
        middle = {p.full_name: (p.lower + p.upper) / 2 for p in model.free}
        cell.freeze(middle)
        cell.instantiate(sim=simulator)
        cell.unfreeze(middle)
        try:
            self._read(model, cell, simulator.neuron.h)
        finally:
            cell.destroy(sim=simulator)

    def _read(self, model: "FitModel", cell: Any, h: Any) -> None:
        icell = cell.icell
        tree = read_tree_of(list(icell.all))
        h.finitialize(model.conditions.v_init_mV)
        soma = icell.soma[0](0.5)
        distances = {
            (s, j): h.distance(soma, s((j + 0.5) / s.nseg)) for s in tree.sections for j in range(s.nseg)
        }
        self._rows = RowTable()
        set_by_parameters = rows_of_parameters(list(cell.params.values()), icell, distances)
        nodes_of = _kinds(tree, h)
        names = sorted({name for kind in nodes_of for name in kind.mechanisms})
        with model.own.written() as paths:
            syntax = read_syntax(names, paths)
        self.dt_ms = CHAIN_DT_MS if any(syntax[name].schemes for name in names) else DT_MS
        ions = {ion for kind in nodes_of for ion in kind.nernst}
        plan = KernelPlan.of(
            [make_density(syntax[name], model.conditions.celsius) for name in names],
            list(nodes_of),
            {ion: h.nernst(1.0, math.e, h.ion_charge(f"{ion}_ion")) for ion in ions},
        )

        def row(node: int, name: str) -> int:
            segment = tree.compartments[node].segment
            section = segment.sec
            given = set_by_parameters.get((section, int(segment.x * section.nseg), name))
            if given is None:  # nobody sets it: NEURON's own value
                given = Row(value=float(getattr(section if name == "Ra" else segment, name)))
            return self._rows.number(given)

        changing = {name[3:] for membrane in plan.membranes for name in membrane.given()}
        for section, _, name in set_by_parameters:
            if name[:1] == "e" and name[1:] in changing:
                raise Unsupported(
                    f"section {section}: the vector engine cannot set {name} of an ion whose concentration a "
                    "mechanism writes. Use the NEURON engine for this cell."
                )
        axon = list(icell.axonal)
        places = [tree.node(soma), *([tree.node(axon[0](0.5))] if axon else [])]
        self._has_axon = bool(axon)
        self._tables = Tables.of(tree, plan, nodes_of, row, stimulated=places[0], places=places)
        self._plan = plan
        self._kernel = compile_kernel(kernel_source(plan))

    @property
    def n_compartments(self) -> int:
        """Number of compartments that have a membrane."""
        return int(np.sum(self._tables.cm_row >= 0))

    @property
    def working_set_bytes(self) -> int:
        """What the individuals of one vector take in memory while they are simulated."""
        tables, plan = self._tables, self._plan
        stored = sum(
            size * len(membrane.stored)
            for size, membrane in zip(tables.kind_size.tolist(), plan.membranes, strict=True)
        )
        return VECTOR_BYTES * (N_ARRAYS * len(tables.parent) + stored + len(self._rows.numbers))

    def run(
        self,
        values: ArrayLike,
        protocol: "StepProtocol",
        dt_ms: float | None = None,
        order: Literal[1, 2] = 2,
        dtype: Literal["float64", "float32"] = "float64",
        record_every: int = 1,
        outside: Outside = "fine",
        damped: bool = False,
    ) -> VectorRun:
        """Simulate one protocol for all individuals.

        Parameters
        ----------
        values : array-like, shape (n, P)
            In the order of `parameter_names`.
        protocol : StepProtocol
            Its step, and its holding current throughout, flow into the middle of the soma.
        dt_ms : float, optional
            The attribute `dt_ms` without it.
        order : {2, 1}
            As NEURON's ``secondorder``: 2 with states half a step beside the voltage, 1 for backward Euler.
        dtype : {"float64", "float32"}
        record_every : int
            Steps from one recorded voltage to the next.
        outside : {"fine", "lively", "calm"}
            How long the steps are away from the stimulus. ``"calm"``: 1 ms before it, 0.5 and then 10 ms from
            15 ms after it on, all of first order and each recorded; `VectorRun.quiet` tells for whom that
            holds. ``"lively"``: 0.5 ms after it. ``"fine"``: `dt_ms` throughout.

        damped : bool
            At second order, go to the new voltage in two stages (the diagonally implicit scheme of Alexander
            1977, SIAM J Numer Anal 14:1006, with gamma = 1 - 1/sqrt(2)), where NEURON extrapolates. A
            conductance that is large for the step then makes no voltage ring.

        Raises
        ------
        InputError
            Values of another shape, or that are no numbers.
        """
        given = np.asarray(values, np.float64)
        if given.ndim != 2 or given.shape[1] != len(self.parameter_names) or not len(given):
            raise InputError(
                f"values: expected one row of {len(self.parameter_names)} parameters for each individual, "
                f"found an array of shape {given.shape}."
            )
        if not np.isfinite(given).all():
            raise InputError("values: expected finite numbers, found some that are not.")
        phases = _phases(
            protocol,
            Phase(0, dt_ms or self.dt_ms, 3 if damped and order == 2 else order, record_every),
            outside,
        )
        table = self._rows.values(self.parameter_names, given)
        recorded, ok, quiet = call_kernel(
            self._kernel, dtype, self._tables, table, self._v_init_mV, protocol, phases
        )
        times = [np.zeros(1)]
        begun = 0.0
        for phase in phases:
            times.append(begun + phase.dt_ms * phase.every * np.arange(1, phase.records + 1))
            begun += phase.steps * phase.dt_ms
        axon = recorded[:, 1] if self._has_axon else None
        return VectorRun(np.concatenate(times), recorded[:, 0], axon, ok, quiet)


def _kinds(tree: Tree, h: Any) -> dict[Kind, list[int]]:
    """Return kind of compartment -> nodes."""
    found: dict[Kind, list[int]] = {}
    for number, compartment in enumerate(tree.compartments):
        if compartment.segment is None:
            continue
        names = sorted(mechanism.name() for mechanism in compartment.segment)
        ions = [name.removesuffix("_ion") for name in names if name.endswith("_ion")]
        section = tree.sections[compartment.section]
        kind = Kind(
            tuple(name for name in names if name not in NOT_MECHANISMS and not name.endswith("_ion")),
            tuple(ion for ion in ions if int(h.ion_style(f"{ion}_ion", sec=section)) & ADVANCES_E),
        )
        found.setdefault(kind, []).append(number)
    return found


def _phases(protocol: "StepProtocol", fine: Phase, outside: Outside) -> list[Phase]:
    """Return the phases of a protocol; those without a step are left out."""
    before, after, late = (
        Phase(0, dt_ms, 1, 1, coarse=True) for dt_ms in (BEFORE_DT_MS, AFTER_DT_MS, LATE_DT_MS)
    )
    ends = []
    if outside == "calm":
        ends += [(FORGOTTEN_MS, fine), (protocol.start_ms - BEFORE_MS, before)]
    if outside != "fine":
        ends += [(protocol.stop_ms + AFTER_MS, fine), (protocol.stop_ms + LATE_MS, after)]
        ends.append((protocol.duration_ms, late if outside == "calm" else after))
    ends.append((protocol.duration_ms, fine))
    phases, begun = [], 0.0
    for end, phase in ends:
        left = min(end, protocol.duration_ms) - begun
        # A phase of long steps ends early rather than late; the next one begins there.
        steps = math.floor(left / phase.dt_ms + 1e-6) if phase.coarse else round(left / phase.dt_ms)
        if steps > 0:
            phases.append(replace(phase, steps=steps))
            begun += steps * phase.dt_ms
    return phases
