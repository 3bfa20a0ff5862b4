"""Which parameters a model's e-features depend on: the problem, its Sobol indices, and their means over cells.

The indices come by `polynomial_chaos` (our own or uncertainpy's) or by `saltelli`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.fit_model import SOMA, FitModel
from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
from neurofleet.neurosim.features.step_protocols import FeatureTarget, StepProtocol, TargetSet


@dataclass(frozen=True)
class FeatureMeasure:
    """Which e-features of a cell's models are measured.

    Attributes
    ----------
    model : FitModel
        Its protocols and targets do not matter here.
    protocols : tuple of StepProtocol
    features : tuple of (str, str)
        Name of a protocol, and eFEL's name of a feature of the voltage at the soma.
    max_steps : int or None
        Integration steps that a model may take.
    """

    model: FitModel
    protocols: "tuple[StepProtocol, ...]"
    features: tuple[tuple[str, str], ...]
    max_steps: int | None = None

    def build(self) -> Callable[[np.ndarray], np.ndarray]:
        """Build the cell in NEURON and return what measures a model on it.

        Returns
        -------
        callable
            Parameter values, shape (P,) in the order of ``model.free`` -> values of the features, shape (F,),
            each the mean where eFEL gives several, NaN where it gives none. Raises
            `BudgetExceeded` and `IncompleteRun` of `cells.warm_evaluator`.
        """
        targets = TargetSet(
            protocols={protocol.name: protocol for protocol in self.protocols},
            targets=tuple(FeatureTarget(p, SOMA, feature, 0.0, 1.0, 0) for p, feature in self.features),
            spike_threshold_mV=self.model.targets.spike_threshold_mV,
        )
        warm = WarmEvaluator(replace(self.model, targets=targets).build_evaluator(), self.max_steps)
        warm.build()
        objectives = [target.objective for target in targets.targets]

        def measure(values: np.ndarray) -> np.ndarray:
            feature_values = warm.feature_values(values)
            return np.array(
                [np.nan if feature_values[o] is None else feature_values[o] for o in objectives], np.float64
            )

        return measure


HALF_WIDTH = 0.1
"""Ten per cent to either side of a model. ``uniform(0.1)`` of uncertainpy is half as wide: its 0.1 is the
width of the whole interval."""


@dataclass(frozen=True)
class SensitivityProblem:
    """Parameters that vary independently and uniformly, each in ``centre ± half_width |centre|``.

    Parameters
    ----------
    parameters : tuple of str, length P
    centres : tuple of float, length P
        The values of the model; they may be negative.
    half_width : float
        Relative, above 0 and below 1: a parameter keeps its sign, so that no conductance is negative.

    Raises
    ------
    InputError
        With fewer than two parameters or one named twice, a centre of zero or no number, or a half-width
        that is not between 0 and 1.
    """

    parameters: tuple[str, ...]
    centres: tuple[float, ...]
    half_width: float = HALF_WIDTH

    def __post_init__(self) -> None:
        if not 0 < self.half_width < 1:
            raise InputError(
                f"half_width: expected a share of each value above 0 and below 1, found {self.half_width}. "
                "From 1 on a conductance would become zero or negative; 0.1 means ±10 %."
            )
        if len(self.parameters) < 2:
            raise InputError(
                f"parameters: expected two or more to share the variation between, found "
                f"{', '.join(self.parameters) or 'none'}."
            )
        doubled = sorted({name for name in self.parameters if self.parameters.count(name) > 1})
        if doubled:
            raise InputError(f"parameters: expected each once, found more than one {', '.join(doubled)}.")
        if len(self.centres) != len(self.parameters):
            raise InputError(
                f"expected a value for each of {len(self.parameters)} parameters, found {len(self.centres)}."
            )
        still = [
            name
            for name, centre in zip(self.parameters, self.centres, strict=True)
            if centre == 0 or not math.isfinite(centre)
        ]
        if still:
            raise InputError(
                f"expected values that can be moved by ±{100 * self.half_width:g} %, found zero (or no"
                f" number) for {', '.join(still)}. Leave such parameters out."
            )

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def bounds(self) -> np.ndarray:
        """Lower and upper bound of each parameter, shape (P, 2)."""
        centres = np.asarray(self.centres, np.float64)
        room = self.half_width * np.abs(centres)
        return np.stack([centres - room, centres + room], axis=1)

    def values(self, unit: np.ndarray) -> np.ndarray:
        """Return points of the unit cube, shape (N, P), as values of the parameters."""
        low, high = self.bounds.T
        return low + np.asarray(unit) * (high - low)

    def unit(self, values: np.ndarray) -> np.ndarray:
        """Return values of the parameters, shape (N, P), as points of the unit cube."""
        low, high = self.bounds.T
        return (np.asarray(values) - low) / (high - low)


VARIES_ABOVE = 1e-9
"""A feature whose values differ by a smaller share of the largest does not vary."""


@dataclass(frozen=True, eq=False)
class Indices:
    """Sobol indices of features (F) to parameters (P).

    Attributes
    ----------
    features, parameters : tuple of str
    first, total : ndarray, shape (F, P)
        Share of a feature's variance that a parameter causes alone, and with all its interactions. NaN for a
        feature that has none.
    first_low, first_high, total_low, total_high : ndarray, shape (F, P)
        Bounds of the 95 % interval; NaN where the route gives none.
    runs, left_out : ndarray of int, shape (F,)
        Runs that were used, and those without the feature.
    surrogate_error : ndarray, shape (F,)
        Leave-one-out error of the surrogate as a share of the feature's variance; NaN without a surrogate.
    orders : ndarray of int, shape (F,)
        Total order of the surrogate; 0 without one.
    reasons : tuple of (str or None), length F
        Why a feature has no indices.
    """

    features: tuple[str, ...]
    parameters: tuple[str, ...]
    first: np.ndarray
    total: np.ndarray
    first_low: np.ndarray
    first_high: np.ndarray
    total_low: np.ndarray
    total_high: np.ndarray
    runs: np.ndarray
    left_out: np.ndarray
    surrogate_error: np.ndarray
    orders: np.ndarray
    reasons: tuple[str | None, ...]


def empty_indices(
    features: Sequence[str], parameters: Sequence[str], usable: np.ndarray, reasons: Sequence[str | None]
) -> Indices:
    """Return indices that are all NaN, to be filled in for the features without a reason.

    Parameters
    ----------
    features, parameters : sequence of str
    usable : ndarray of bool, shape (N, F)
        The runs that each feature is computed from.
    reasons : sequence of (str or None), length F
    """
    shape = (len(features), len(parameters))
    first, total, first_low, first_high, total_low, total_high = (np.full(shape, np.nan) for _ in range(6))
    runs = usable.sum(axis=0)
    error = np.full(len(features), np.nan)
    return Indices(
        tuple(features),
        tuple(parameters),
        first,
        total,
        first_low,
        first_high,
        total_low,
        total_high,
        runs,
        len(usable) - runs,
        error,
        np.zeros(len(features), dtype=int),
        tuple(reasons),
    )


def reason_for_none(values: np.ndarray, runs: int, share: float) -> str | None:
    """Return the reason why a feature has no indices; None where it has some.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Of the runs that can be used.
    runs : int
        All runs of the design.
    share : float
        Of these that must be usable.
    """
    if len(values) < share * runs:
        return f"only {len(values)} of {runs} runs have it, {int(np.ceil(share * runs))} are needed"
    if np.ptp(values) <= VARIES_ABOVE * np.abs(values).max():
        return f"it does not vary: {values.mean():.6g} in all {len(values)} runs"
    return None


def check_runs(nodes: np.ndarray, values: np.ndarray, features: Sequence[str], parameters: int) -> None:
    """Raise `InputError` unless nodes have shape (N, P) and values shape (N, F)."""
    if nodes.shape != (len(values), parameters) or values.shape != (len(nodes), len(features)):
        raise InputError(
            f"expected nodes of shape (N, {parameters}) and values of shape (N, {len(features)}), found "
            f"{nodes.shape} and {values.shape}."
        )


BOOTSTRAP_RESAMPLES = 9_999


@dataclass(frozen=True)
class Average:
    """The mean of an index.

    Attributes
    ----------
    mean, low, high : float
        With the bounds of a 95 % percentile bootstrap; those are NaN where there is one value alone.
    spread : float
        Standard deviation of what was averaged, NaN where there is one value alone.
    cells, models : int
        With such an index.
    """

    mean: float
    low: float
    high: float
    spread: float
    cells: int
    models: int


def average(index: Sequence[float] | np.ndarray, cells: Sequence[str], seed: int = 0) -> Average:
    """Return the mean of an index over cells, each counted once, with a bootstrap over cells.

    Of a single cell the models are averaged and resampled.

    Parameters
    ----------
    index : array-like, shape (n,)
        Of each model; NaN where it has none.
    cells : sequence of str, length n
        To which each model belongs.
    seed : int
        Of the bootstrap.
    """
    from scipy.stats import bootstrap

    values, labels = np.asarray(index, np.float64), np.asarray(cells)
    has = np.isfinite(values)
    values, labels = values[has], labels[has]
    names = np.unique(labels)
    if not len(names):
        return Average(*(np.nan,) * 4, 0, 0)
    averaged = values if len(names) == 1 else np.array([values[labels == name].mean() for name in names])
    low = high = spread = np.nan
    if len(averaged) > 1:
        spread = float(averaged.std(ddof=1))
        rng = np.random.default_rng(seed)
        interval = bootstrap((averaged,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, method="percentile", rng=rng)
        low, high = map(float, interval.confidence_interval)
    return Average(float(averaged.mean()), low, high, spread, len(names), len(values))
