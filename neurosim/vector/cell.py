"""A cell whose individuals are simulated together: each compartment once, all individuals side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from neurosim.errors import InputError
from neurosim.vector.compiling import compile_kernel
from neurosim.vector.density import make_density
from neurosim.vector.membrane import Kind
from neurosim.vector.rows import Row, RowTable, rows_of_parameters
from neurosim.vector.source import KernelPlan, kernel_source
from neurosim.vector.steps import Steps
from neurosim.vector.syntax import Unsupported, read_syntax
from neurosim.vector.tables import Tables, call_kernel
from neurosim.vector.tree import Tree, read_tree_of

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel
    from neurosim.protocols import StepProtocol

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
    """

    times_ms: np.ndarray
    soma_mV: np.ndarray
    axon_mV: np.ndarray | None
    ok: np.ndarray


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
    has_chains : bool
        Whether a mechanism has states that turn into each other (KINETIC).

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
        self.has_chains = any(syntax[name].schemes for name in names)
        ions = {ion for kind in nodes_of for ion in kind.nernst}
        plan = KernelPlan.of(
            [make_density(syntax[name], model.conditions.celsius, self._v_init_mV) for name in names],
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
        protocols: Sequence["StepProtocol"],
        steps: Steps,
        dtype: Literal["float64", "float32"] = "float64",
    ) -> list[VectorRun]:
        """Simulate protocols for all individuals.

        Parameters
        ----------
        values : array-like, shape (n, P)
            In the order of `parameter_names`.
        protocols : sequence of StepProtocol
            The step, and the holding current throughout, flow into the middle of the soma. Those that take
            longest should come first: individuals that are done make room for the next.
        steps : Steps
        dtype : {"float64", "float32"}

        Returns
        -------
        list of VectorRun
            One for each protocol.

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
        table = self._rows.values(self.parameter_names, given)
        found = call_kernel(self._kernel, dtype, self._tables, table, self._v_init_mV, protocols, steps)
        return [
            VectorRun(times_ms, mV[:, 0], mV[:, 1] if self._has_axon else None, ok)
            for times_ms, mV, ok in found
        ]


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
