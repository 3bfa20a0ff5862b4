"""Score many individuals of a cell at once: voltages from one kernel, e-features calculated together.

All individuals share the tree of compartments; what differs between them is a table with a row for each parameter
value, or value at a distance from the soma, and a column for each individual.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.features.batch_scoring import BatchScoring
from neurofleet.neurosim.features.step_protocols import BLOCK_CHECK, StepProtocol, TargetSet
from neurofleet.neurosim.features.training_targets import BLOCK_CHECK_ABOVE_NA, BLOCK_FEATURE, ROUNDING_NA
from neurofleet.neurosim.vector.kernel_build import KernelPlan, compile_kernel, kernel_source
from neurofleet.neurosim.vector.kernel_setup import (
    CompartmentTree,
    Steps,
    Tables,
    call_kernel,
    read_compartments,
    search_steps,
)
from neurofleet.neurosim.vector.membrane import CompartmentKind, make_density
from neurofleet.neurosim.vector.nmodl_syntax import Unsupported, read_syntax


@dataclass(frozen=True)
class Row:
    """Where the values of a row of the parameter table come from.

    Attributes
    ----------
    parameter : str
        Full name of the free parameter, empty for a constant.
    value : float
        The constant.
    distribution : str
        Python expression in ``value`` and ``distance``, empty for the value itself.
    distance_um : float
        From the middle of the soma.
    """

    parameter: str = ""
    value: float = math.nan
    distribution: str = ""
    distance_um: float = 0.0


@dataclass
class RowTable:
    """The rows of the parameter table; equal rows are kept once."""

    numbers: dict[Row, int] = field(default_factory=dict)

    def number(self, row: Row) -> int:
        """Return the number of a row, a new one if it is not there yet."""
        return self.numbers.setdefault(row, len(self.numbers))

    def values(self, parameters: Sequence[str], values: np.ndarray) -> np.ndarray:
        """Return the table of shape (rows, n) for parameter sets of shape (n, P)."""
        columns = dict(zip(parameters, values.T, strict=True))
        return np.stack([_row(row, columns, len(values)) for row in self.numbers])


def _row(row: Row, columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    given = columns[row.parameter] if row.parameter else np.full(n, row.value)
    if not row.distribution:
        return given
    # Safe: `bluepyopt_distribution` has allowed arithmetic and the names of these functions only.
    names = {"math": np, "value": given, "distance": row.distance_um}
    text = row.distribution.format(value="value", distance="distance")
    return np.broadcast_to(eval(text, {"__builtins__": {}}, names), (n,))


def rows_of_parameters(
    parameters: Sequence[Any], cell: Any, distances_um: Mapping[tuple[Any, int], float]
) -> dict[tuple[Any, int, str], Row]:
    """Return (section, segment, NEURON's name) -> row; later parameters override earlier ones, as in BluePyOpt.

    Parameters
    ----------
    parameters : sequence of bluepyopt parameters
    cell : hoc object
        The built cell, for its lists of sections.
    distances_um : mapping
        (section, segment) -> distance from the middle of the soma.
    """
    rows: dict[tuple[Any, int, str], Row] = {}
    for parameter in parameters:
        if not hasattr(parameter, "locations"):
            continue
        distribution = getattr(parameter.value_scaler, "distribution", "")
        for place in parameter.locations:
            for section in getattr(cell, place.seclist_name):
                for j in range(section.nseg):
                    rows[section, j, parameter.param_name] = Row(
                        parameter="" if parameter.frozen else parameter.name,
                        value=parameter.value if parameter.frozen else 0.0,
                        distribution=distribution,
                        distance_um=distances_um[section, j] if distribution else 0.0,
                    )
    return rows


VECTOR_BYTES = 64
N_ARRAYS = 9  # of all nodes, in `kernel.hpp`
NOT_MECHANISMS = ("capacitance", "morphology")
# Flags of an ion's style: the reversal potential is calculated from the concentrations at the start, or at each step.
STARTS_E, ADVANCES_E = 32, 64


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
        False for an individual that ran away (beyond `Steps.runaway_mV`, or no number): its voltages mean nothing.
    """

    times_ms: np.ndarray
    soma_mV: np.ndarray
    axon_mV: np.ndarray | None
    ok: np.ndarray


class VectorCell:
    """One cell with its free parameters, simulated for many parameter sets at once.

    NEURON builds the cell once, for its geometry, and it is destroyed again; the mechanisms are compiled from
    their NMODL. Nothing else may be simulated in this process meanwhile.

    Parameters
    ----------
    model : FitModel

    Attributes
    ----------
    parameter_names : tuple of str, length P
    chains : float
        Part of the compartments with a mechanism whose states turn into each other (KINETIC).

    Raises
    ------
    Unsupported
        The cell has a mechanism or a shape that the engine does not support; the message names it.
    InputError
        There is no C++ compiler.
    """

    def __init__(self, model: "FitModel") -> None:
        from bluepyopt.ephys.simulators import NrnSimulator

        model.user_mechanisms.load()
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
        tree = read_compartments(list(icell.all))
        h.finitialize(model.conditions.v_init_mV)
        soma = icell.soma[0](0.5)
        distances = {(s, j): h.distance(soma, s((j + 0.5) / s.nseg)) for s in tree.sections for j in range(s.nseg)}
        self._rows = RowTable()
        set_by_parameters = rows_of_parameters(list(cell.params.values()), icell, distances)
        nodes_of = _kinds(tree, h)
        names = sorted({name for kind in nodes_of for name in kind.mechanisms})
        with model.user_mechanisms.written() as paths:
            syntax = read_syntax(names, paths)
        counts = {kind: len(nodes) for kind, nodes in nodes_of.items()}
        of_chains = [n for kind, n in counts.items() if any(syntax[name].schemes for name in kind.mechanisms)]
        self.chains = sum(of_chains) / sum(counts.values())
        ions = {ion for kind in nodes_of for ion in kind.nernst}
        plan = KernelPlan.from_densities(
            [make_density(syntax[name], model.conditions.celsius, self._v_init_mV) for name in names],
            list(nodes_of),
            {ion: h.nernst(1.0, math.e, h.ion_charge(f"{ion}_ion")) for ion in ions},
        )

        def row(node: int, name: str) -> int:
            segment = tree.compartments[node].segment
            section = segment.sec
            given = set_by_parameters.get((section, int(segment.x * section.nseg), name))
            if given is None or _style(h, section, name) & STARTS_E:  # no parameter sets it: NEURON's own value
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
        self._tables = Tables.from_cell(tree, plan, nodes_of, row, stimulated=places[0], places=places)
        self._plan = plan
        self._kernel = compile_kernel(kernel_source(plan))

    @property
    def n_compartments(self) -> int:
        """Number of compartments that have a membrane."""
        return int(np.sum(self._tables.cm_row >= 0))

    @property
    def working_set_bytes(self) -> int:
        """Memory in bytes that the individuals of one vector need while they are simulated."""
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
            The step, and the holding current throughout, flow into the middle of the soma. Put
            those that take longest first: a lane that is done takes up the next individual or protocol.
        steps : Steps
        dtype : {"float64", "float32"}

        Returns
        -------
        list of VectorRun
            One for each protocol.

        Raises
        ------
        InputError
            Values of another shape, or that are not finite.
        """
        parameter_sets = np.asarray(values, np.float64)
        if parameter_sets.ndim != 2 or parameter_sets.shape[1] != len(self.parameter_names) or not len(parameter_sets):
            raise InputError(
                f"values: expected one row of {len(self.parameter_names)} parameters for each individual, "
                f"found an array of shape {parameter_sets.shape}."
            )
        if not np.isfinite(parameter_sets).all():
            raise InputError("values: expected finite numbers, found some that are not.")
        table = self._rows.values(self.parameter_names, parameter_sets)
        results = call_kernel(self._kernel, dtype, self._tables, table, self._v_init_mV, protocols, steps)
        return [VectorRun(times_ms, mV[:, 0], mV[:, 1] if self._has_axon else None, ok) for times_ms, mV, ok in results]


def _style(h: Any, section: Any, name: str) -> int:
    """Return the style of the ion whose reversal potential is `name`, 0 for any other variable."""
    ion = f"{name[1:]}_ion"
    return int(h.ion_style(ion, sec=section)) if name[0] == "e" and h.ismembrane(ion, sec=section) else 0


def _kinds(tree: CompartmentTree, h: Any) -> dict[CompartmentKind, list[int]]:
    """Return kind of compartment -> nodes."""
    nodes_of: dict[CompartmentKind, list[int]] = {}
    for number, compartment in enumerate(tree.compartments):
        if compartment.segment is None:
            continue
        names = sorted(mechanism.name() for mechanism in compartment.segment)
        ions = [name.removesuffix("_ion") for name in names if name.endswith("_ion")]
        section = tree.sections[compartment.section]
        kind = CompartmentKind(
            tuple(name for name in names if name not in NOT_MECHANISMS and not name.endswith("_ion")),
            tuple(ion for ion in ions if int(h.ion_style(f"{ion}_ion", sec=section)) & ADVANCES_E),
        )
        nodes_of.setdefault(kind, []).append(number)
    return nodes_of


CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
LANES = 16  # individuals in one vector of float32, which take as long as one
SCORING_REVISION = 1
"""To be raised with each change after which an individual has other scores by more than rounding: searches that were
begun before it do not go on."""


@dataclass(frozen=True, eq=False)
class VectorScores:
    """The scores of the individuals of one batch.

    Attributes
    ----------
    scores : ndarray, shape (n, M)
        In standard deviations; those of an individual that is not ok mean nothing.
    residuals : ndarray, shape (n, M)
        Distances with their sign, as of `neurofleet.neurosim.cells.warm_evaluator.signed_residual`.
    ok : ndarray of bool, shape (n,)
        False for an individual that ran away in one of its protocols.
    """

    scores: np.ndarray
    residuals: np.ndarray
    ok: np.ndarray


class VectorEvaluator:
    """Evaluate individuals of one stage of one cell together.

    Parameters
    ----------
    model : FitModel

    Attributes
    ----------
    parameter_names : tuple of str, length P
    objective_names : tuple of str, length M

    Raises
    ------
    Unsupported
        The model has something that the engine does not support; the message names it.
    InputError
        There is no C++ compiler.
    """

    def __init__(self, model: "FitModel") -> None:
        self._cell = VectorCell(model)
        self._steps = search_steps(self._cell.chains, model.accuracy.dense)
        _check_cache(self._cell)
        self._asked_for_block = asked_for_block(model.targets)
        steps = [step for name, step in model.targets.protocols.items() if name not in self._asked_for_block]
        # The strongest, which take longest, first
        self._protocols = sorted(steps, key=lambda step: -step.amplitude_nA)
        self._scoring = BatchScoring(model)
        self.parameter_names = self._cell.parameter_names
        self.objective_names = self._scoring.objective_names

    def evaluate(self, values: ArrayLike, dtype: Literal["float32", "float64"] = "float32") -> VectorScores:
        """Return the scores of individuals, of which `values`, shape (n, P), has one in each row.

        The scores of one individual do not depend on the others.
        """
        vector_runs = self._cell.run(values, self._protocols, self._steps, dtype)
        runs = {step.name: run for step, run in zip(self._protocols, vector_runs, strict=True)}
        runs |= {check: runs[name] for check, name in self._asked_for_block.items()}
        ok = np.logical_and.reduce([run.ok for run in vector_runs])
        return VectorScores(*self._scoring.scores(runs, ok), ok)


def asked_for_block(targets: TargetSet) -> dict[str, str]:
    """Return the block check -> the strongest step, where a search asks that step in place of a step of its own.

    The block check is 0.01 nA stronger than the strongest step and has one objective, whether the model is blocked.
    It alone finds a block in less than 3 of 1,000 individuals, and takes as long as the strongest step. NEURON gives
    it to the finalists. Empty where the block check has to be simulated: it has other objectives, or is much stronger.
    """
    check = targets.protocols.get(BLOCK_CHECK)
    features = {target.feature for target in targets.targets if target.protocol == BLOCK_CHECK}
    if check is None or features != {BLOCK_FEATURE}:
        return {}
    weakest_nA = check.amplitude_nA - BLOCK_CHECK_ABOVE_NA - ROUNDING_NA
    alike = [
        name
        for name, step in targets.protocols.items()
        if name != BLOCK_CHECK
        and weakest_nA <= step.amplitude_nA <= check.amplitude_nA
        and replace(check, name=name, amplitude_nA=step.amplitude_nA, sweeps=step.sweeps) == step
    ]
    return {BLOCK_CHECK: max(alike, key=lambda name: targets.protocols[name].amplitude_nA)} if alike else {}


def _check_cache(cell: VectorCell) -> None:
    """Raise `Unsupported` for a cell that does not fit into the cache: main memory would be read at every step."""
    sizes = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    kilobytes = [int(size.removesuffix("K")) for size in sizes if size.endswith("K")]
    if kilobytes and cell.working_set_bytes > max(kilobytes) * 1024:
        raise Unsupported(
            f"the vector engine keeps {cell.n_compartments} compartments of {LANES} individuals in "
            f"{cell.working_set_bytes / 1e6:.3g} MB, and expects them to fit into the processor's cache of "
            f"{max(kilobytes) / 1024:.3g} MB. Use the NEURON engine for this cell, or longer segments."
        )
