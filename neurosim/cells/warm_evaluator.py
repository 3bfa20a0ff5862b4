"""Evaluate any BluePyOpt ``CellEvaluator`` warm and within a budget of integration steps.

Warm: the cell is built once, then only its parameters change. The budget is checked inside NEURON's own run loop,
where no Python signal or exception would interrupt it. eFEL is set up once for all features of a recording.
"""

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from neurofleet.neurosim.cells.model_responses import FeatureValue, feature_values

_COUNTER = """
nf_steps = 0
nf_max_steps = 0
proc advance() {
    nf_steps += 1
    if (nf_max_steps > 0 && nf_steps > nf_max_steps) {
        stoprun = 1
    } else {
        fadvance()
    }
}
"""


class BudgetExceeded(Exception):
    """An evaluation used up its integration steps before it reached its end."""


class StepBudget:
    """Count integration steps of one evaluation and stop the run that exceeds them.

    Parameters
    ----------
    h : neuron.hoc.HocObject
        NEURON's top-level interpreter, with ``stdrun.hoc`` loaded.
    max_steps : int or None
        Steps that one evaluation (all its protocols together) may take; None counts without a limit.
    """

    def __init__(self, h: Any, max_steps: int | None = None) -> None:
        h.load_file("stdrun.hoc")
        if not hasattr(h, "nf_steps"):
            h(_COUNTER)
        self._h = h
        self.max_steps = max_steps

    def start(self) -> None:
        """Begin a new evaluation."""
        self._h.nf_steps = 0
        self._h.nf_max_steps = self.max_steps or 0

    @property
    def steps(self) -> int:
        """Steps taken since `start`."""
        return int(self._h.nf_steps)

    def check(self) -> None:
        """Raise `BudgetExceeded` if the last run was stopped by the budget."""
        if self.max_steps and self.steps > self.max_steps:
            raise BudgetExceeded(f"more than max_steps = {self.max_steps} integration steps")


class IncompleteRun(Exception):
    """A simulation ended before its last time point without an error of its own."""


def _built_once(cell_model: Any) -> Any:
    """Return a copy of `cell_model` that is built by the first ``instantiate`` and then stays built."""
    warm = copy.copy(cell_model)

    def instantiate(sim: Any = None) -> None:
        if warm.icell is None:
            type(warm).instantiate(warm, sim)
            return
        for mechanism in warm.mechanisms or ():
            if "Stoch" in getattr(mechanism, "suffix", ""):  # they have seeds, and a switch between two modes
                mechanism.instantiate(sim=sim, icell=warm.icell)
        for parameter in warm.params.values():
            parameter.instantiate(sim=sim, icell=warm.icell, params=warm.params)

    warm.instantiate = instantiate
    warm.destroy = lambda sim=None: None
    return warm


def _within_budget(sim: Any, budget: StepBudget) -> Any:
    """Return a copy of `sim` whose ``run`` keeps the budget and makes sure that the end was reached."""
    limited = copy.copy(sim)

    def run(tstop: float | None = None, **options: Any) -> None:
        h = sim.neuron.h
        for _ in range(2):  # a run shorter than the one before it was seen to end early; its repeat is right
            type(limited).run(limited, tstop, **options)
            budget.check()
            if h.t >= tstop - max(h.dt, 1e-6):
                return
        raise IncompleteRun(f"the simulation stopped at {h.t:.3f} ms instead of {tstop:.3f} ms")

    limited.run = run
    return limited


def _cause(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """Return the first exception of `kinds` in the chain of causes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, kinds):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


class WarmEvaluator:
    """Evaluate individuals of one BluePyOpt ``CellEvaluator`` on a cell that is built once.

    The evaluator that is passed in is not changed. NEURON simulates all cells that exist in a process together,
    so call `close` before another cell is run there.

    Parameters
    ----------
    evaluator : bluepyopt.ephys.evaluators.CellEvaluator
        Any evaluator for NEURON: its protocols, objectives and parameters are used unchanged.
    max_steps : int, optional
        Integration steps that one evaluation may take, all protocols together; None for no limit.

    Attributes
    ----------
    parameter_names : tuple of str, length P
    objective_names : tuple of str, length M
    """

    def __init__(self, evaluator: Any, max_steps: int | None = None) -> None:
        self._groups = FeatureGroups()
        self._budget = StepBudget(evaluator.sim.neuron.h, max_steps)
        warm = copy.copy(evaluator)
        warm.isolate_protocols = False
        warm.timeout = None
        warm.cell_model = _built_once(evaluator.cell_model)
        warm.sim = _within_budget(evaluator.sim, self._budget)
        warm.fitness_calculator = copy.copy(evaluator.fitness_calculator)
        warm.fitness_calculator.objectives = [
            self._grouped(objective) for objective in evaluator.fitness_calculator.objectives
        ]
        self._warm = warm
        self.parameter_names = tuple(evaluator.param_names)
        self.objective_names = tuple(o.name for o in evaluator.fitness_calculator.objectives)

    def _grouped(self, objective: Any) -> Any:
        if not hasattr(objective, "features"):
            return objective
        grouped = copy.copy(objective)
        grouped.features = self._groups.wrap(objective.features)
        return grouped

    @property
    def steps(self) -> int:
        """Integration steps of the last evaluation."""
        return self._budget.steps

    @property
    def max_steps(self) -> int | None:
        """Integration steps that one evaluation may take."""
        return self._budget.max_steps

    @max_steps.setter
    def max_steps(self, value: int | None) -> None:
        self._budget.max_steps = value

    @property
    def cell(self) -> Any:
        """The cell in NEURON (an instance of its hoc template); None before it is built."""
        return self._warm.cell_model.icell

    def build(self) -> None:
        """Build the cell now rather than in the first evaluation, with every parameter in mid-bounds."""
        import efel  # noqa: F401 - processes forked from this one then have it

        cell, sim = self._warm.cell_model, self._warm.sim
        middle = {p.name: (p.lower_bound + p.upper_bound) / 2 for p in self._warm.params}
        cell.freeze(middle)
        try:
            cell.instantiate(sim=sim)
        finally:
            cell.unfreeze(middle.keys())

    def close(self) -> None:
        """Remove the cell from NEURON, which would simulate it along with any other cell."""
        cell = self._warm.cell_model
        if cell.icell is not None:
            type(cell).destroy(cell, self._warm.sim)

    def responses(self, values: ArrayLike, protocols: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run protocols (the evaluator's own by default) and return recording name -> response.

        Parameters
        ----------
        values : array-like, shape (P,)
            In the order of `parameter_names`.
        protocols : mapping, optional
            Name -> BluePyOpt protocol, in place of the evaluator's own.
        """
        chosen = self._warm.fitness_protocols if protocols is None else protocols
        parameters = dict(zip(self.parameter_names, np.asarray(values, np.float64).tolist(), strict=True))
        self._budget.start()
        try:
            return self._warm.run_protocols(chosen.values(), parameters)
        except Exception as error:
            self._release(parameters, chosen)
            cause = _cause(error, (BudgetExceeded, IncompleteRun))
            if cause is not None:
                raise cause from None
            raise

    def evaluate(self, values: ArrayLike) -> np.ndarray:
        """Return the scores of one individual, shape (M,), in the order of `objective_names`.

        Raises
        ------
        BudgetExceeded
            When the simulation takes more than ``max_steps``.
        IncompleteRun
            When NEURON ends a run early twice.
        """
        return self.evaluate_signed(values)[0]

    def evaluate_signed(self, values: ArrayLike) -> np.ndarray:
        """Return the scores of one individual and, below them, its residuals, shape (2, M).

        A residual is that of `signed_residual`; NaN also for an objective that is not of one e-feature.
        Errors are those of `evaluate`.
        """
        responses = self.responses(values)
        with self._groups.calculated(responses):
            return self._signed(responses)

    def evaluate_traced(self, values: ArrayLike) -> tuple[np.ndarray, dict[str, FeatureValue], dict[str, Any]]:
        """Return what `evaluate_signed` returns, and the e-features and responses that it is calculated from.

        Errors are those of `evaluate`.
        """
        responses = self.responses(values)
        with self._groups.calculated(responses):
            return self._signed(responses), feature_values(self._warm.fitness_calculator, responses), responses

    def _signed(self, responses: Mapping[str, Any]) -> np.ndarray:
        calculator = self._warm.fitness_calculator
        scores = calculator.calculate_scores(responses)
        residuals = {objective.name: _objective_residual(objective, responses) for objective in calculator.objectives}
        return np.array([[scores[name], residuals[name]] for name in self.objective_names], dtype=np.float64).T

    def feature_values(self, values: ArrayLike, protocols: Collection[str] | None = None) -> dict[str, float | None]:
        """Return objective name -> feature value (None where the feature is missing).

        Parameters
        ----------
        values : array-like, shape (P,)
        protocols : collection of str, optional
            Run these of the evaluator's protocols only; features of the others are missing.
        """
        chosen = None
        if protocols is not None:
            chosen = {name: self._warm.fitness_protocols[name] for name in protocols}
        responses = self.responses(values, chosen)
        with self._groups.calculated(responses):
            return self._warm.fitness_calculator.calculate_values(responses)

    def _release(self, parameters: Mapping[str, float], protocols: Mapping[str, Any]) -> None:
        """Clean up after an interrupted protocol: unfreeze the parameters, destroy stimuli and recordings."""
        self._warm.cell_model.unfreeze(parameters.keys())
        for protocol in protocols.values():
            for part in protocol.subprotocols().values():
                if hasattr(part, "destroy"):
                    part.destroy(sim=self._warm.sim)


def signed_residual(feature: Any, responses: Mapping[str, Any]) -> float:
    """Return how far the mean of an e-feature is above its target, in standard deviations; negative below it.

    The score is the mean distance of all values of the feature, and so at least as large as this.

    Parameters
    ----------
    feature : BluePyOpt e-feature
    responses : mapping
        Recording name -> response.

    Returns
    -------
    float
        NaN where the feature is missing, of a response that has failed, and of a class of which it is not known how it
        is scored.
    """
    from neurofleet.neurosim.features.bluepyopt_efeatures import AISInitiation, PerisomaticFeature

    if not isinstance(feature, (GroupedFeature, AISInitiation, PerisomaticFeature)):
        return float("nan")
    if isinstance(feature, PerisomaticFeature) and feature.scoring.is_penalised(responses):
        return float("nan")
    value = feature.calculate_feature(responses)
    return float("nan") if value is None else float((value - feature.exp_mean) / feature.exp_std)


def _objective_residual(objective: Any, responses: Mapping[str, Any]) -> float:
    from bluepyopt.ephys.objectives import SingletonObjective, SingletonWeightObjective

    if type(objective) not in (SingletonObjective, SingletonWeightObjective):
        return float("nan")
    residual = signed_residual(objective.features[0], responses)
    return residual * getattr(objective, "weight", 1.0)


def _key(feature: Any) -> tuple:
    """Return what must be equal for two features to share a trace and settings."""
    return (
        tuple(sorted(feature.recording_names.items())),
        feature.stim_start,
        feature.stim_end,
        *_settings_key(feature),
    )


def _settings_key(feature: Any) -> tuple:
    """Return the settings of eFEL that `feature` is calculated under."""

    def frozen(settings: Mapping | None) -> tuple:
        return tuple(sorted((settings or {}).items()))

    return (
        feature.threshold,
        feature.stimulus_current if not callable(feature.stimulus_current) else id(feature.stimulus_current),
        feature.interp_step,
        frozen(feature.double_settings),
        frozen(feature.int_settings),
        frozen(feature.string_settings),
    )


class _Settings:
    """eFEL's global settings. They are only set when they change, as eFEL reads its files again each time."""

    def __init__(self) -> None:
        self._current: tuple | None = None

    def apply(self, feature: Any) -> None:
        """Give eFEL the settings of `feature`, unless it has them."""
        settings = _settings_key(feature)
        if settings != self._current:
            feature._setup_efel()
            self._current = settings

    def reset(self) -> None:
        """Leave eFEL with its defaults."""
        if self._current is not None:
            import efel

            efel.reset()
            self._current = None


class _Group:
    """Features of one trace, window and settings; remembers the values of the responses seen last."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings
        self.features: list[Any] = []
        self._responses: Any = None
        self._values: dict[str, Any] | None = None

    def values(self, responses: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return feature name -> values for `responses`; None when the trace is missing."""
        if responses is not self._responses:
            self._values = self._calculate(responses)
            self._responses = responses
        return self._values

    def forget(self) -> None:
        self._responses = self._values = None

    def _calculate(self, responses: Mapping[str, Any]) -> dict[str, Any] | None:
        import efel

        first = self.features[0]
        trace = first._construct_efel_trace(responses)
        if trace is None:
            return None
        trace = {name: [float(x) for x in values] for name, values in trace.items()}
        self._settings.apply(first)
        names = dict.fromkeys(feature.efel_feature_name for feature in self.features)
        return {name: efel.get_feature_values([trace], [name], raise_warnings=False)[0][name] for name in names}


class GroupedFeature:
    """Stand-in for a BluePyOpt ``eFELFeature`` that takes its values from its group."""

    def __init__(self, feature: Any, group: _Group) -> None:
        self._feature = feature
        self._group = group
        group.features.append(feature)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._feature, name)

    def calculate_feature(self, responses: Mapping[str, Any], raise_warnings: bool = False) -> float | None:
        """Return the mean of the feature's values; None when it has none."""
        values = self._group.values(responses)
        feature_values = None if values is None else values[self._feature.efel_feature_name]
        return None if feature_values is None or len(feature_values) == 0 else np.mean(feature_values)

    def calculate_score(self, responses: Mapping[str, Any], trace_check: bool = False) -> float:
        """Return the mean distance from the target in standard deviations, as eFEL's ``get_distance``."""
        feature = self._feature
        if trace_check:
            return feature.calculate_score(responses, trace_check=True)
        values = self._group.values(responses)
        feature_values = None if values is None else values[feature.efel_feature_name]
        if feature_values is None or len(feature_values) < 1:
            score = feature.max_score
        else:
            score = 0.0
            for value in feature_values:
                score += abs(value - feature.exp_mean)
            score = score / feature.exp_std / len(feature_values)
            if score != score:
                score = feature.max_score
        return min(score, feature.max_score) if feature.force_max_score else score


class FeatureGroups:
    """All groups of one set of objectives."""

    def __init__(self) -> None:
        self._settings = _Settings()
        self._groups: dict[tuple, _Group] = {}

    def wrap(self, features: Iterable[Any]) -> list[Any]:
        """Return `features` with every plain eFEL feature replaced by its grouped stand-in.

        Subclasses may calculate anything, so they are left as they are.
        """
        from bluepyopt.ephys.efeatures import eFELFeature

        wrapped = []
        for feature in features:
            if type(feature) is eFELFeature:
                group = self._groups.setdefault(_key(feature), _Group(self._settings))
                feature = GroupedFeature(feature, group)
            wrapped.append(feature)
        return wrapped

    @contextmanager
    def calculated(self, responses: Mapping[str, Any]) -> Iterator[None]:
        """Hold the values of all groups for `responses`, with eFEL at its defaults, within a ``with`` block.

        Calculated before anything else is scored, because other features may set eFEL up for themselves.
        """
        try:
            for group in self._groups.values():
                group.values(responses)
            self._settings.reset()
            yield
        finally:
            for group in self._groups.values():
                group.forget()
