"""Draws of parameters in their bounds, and which of them behave like the recorded cell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
from neurofleet.neurosim.evolution import ParameterSpace
from neurofleet.neurosim.features.step_protocols import FeatureTarget


@dataclass(frozen=True, eq=False)
class Design:
    """A number of draws in a box: the same for the same seed, whichever part of them is asked for.

    Attributes
    ----------
    space : ParameterSpace
        Draws are uniform on its axes, logarithmic ones among them.
    draws : int
    kind : {"sobol", "latin-hypercube"}
        A scrambled Sobol sequence goes on evenly however many draws are taken of it; a Latin hypercube has
        one draw in each of `draws` slices of every axis, and is held in memory whole.
    seed : int
    """

    space: ParameterSpace
    draws: int
    kind: str = "sobol"
    seed: int = 1

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return draws `start` to `stop`, shape (stop - start, P)."""
        return self.space.from_unit(self._unit(start, stop))

    def _unit(self, start: int, stop: int) -> np.ndarray:
        if self.kind == "latin-hypercube":
            return self._hypercube[start:stop]
        from scipy.stats import qmc

        sequence = qmc.Sobol(len(self.space), rng=np.random.default_rng(self.seed))
        if start:
            sequence.fast_forward(start)
        # In powers of two: the sequence warns of any other number of draws.
        return np.concatenate([sequence.random(size) for size in _powers_of_two(stop - start)])

    @cached_property
    def _hypercube(self) -> np.ndarray:
        from scipy.stats import qmc

        return qmc.LatinHypercube(len(self.space), rng=np.random.default_rng(self.seed)).random(self.draws)


def _powers_of_two(number: int) -> list[int]:
    """Return powers of two, largest first, that add up to a number."""
    return [1 << bit for bit in reversed(range(number.bit_length())) if number >> bit & 1]


@dataclass(frozen=True)
class Sampled:
    """The e-features of one draw, and whether it is accepted.

    Attributes
    ----------
    features : ndarray, shape (M,)
        Of the targets; NaN where the model has no such feature, or was not run any more.
    rejected_by : int
        The first target that the model misses, by number; -1 for a model that is accepted.
    """

    features: np.ndarray
    rejected_by: int


@dataclass(frozen=True)
class SampleMeasure:
    """Measures whether models are within a number of standard deviations of every target.

    Attributes
    ----------
    model : FitModel
        Its targets are the ones to be met; protocols are run from the weakest step to the strongest.
    within_z : float
        A draw is accepted when no feature is farther from its target, in standard deviations of the target.
    stop_early : bool
        Whether a draw that misses a target is not run at the protocols that are left.
    max_steps : int or None
        Integration steps that a draw may take.
    """

    model: FitModel
    within_z: float
    stop_early: bool = True
    max_steps: int | None = None

    def build(self) -> Callable[[np.ndarray], Sampled]:
        """Build the cell in NEURON and return what runs a draw on it.

        Returns
        -------
        callable
            Parameter values, shape (P,) -> `Sampled`. Raises `BudgetExceeded` and
            `IncompleteRun` of `cells.warm_evaluator`.
        """
        warm = WarmEvaluator(self.model.build_evaluator(), self.max_steps)
        warm.build()
        targets = self.model.targets.targets
        order = by_amplitude(self.model)

        def run(values: np.ndarray) -> Sampled:
            features, rejected_by = np.full(len(targets), np.nan), -1
            for protocol in order:
                feature_values = warm.feature_values(values, [protocol])
                for i, target in enumerate(targets):
                    if target.protocol == protocol:
                        value: Any = feature_values[target.objective]
                        features[i] = np.nan if value is None else float(value)
                        if rejected_by < 0 and not abs(z_score(features[i], target)) <= self.within_z:
                            rejected_by = i
                if rejected_by >= 0 and self.stop_early:
                    break
            return Sampled(features, rejected_by)

        return run


def by_amplitude(model: FitModel) -> list[str]:
    """Return the protocols of a model, weakest step first: those that reject most cost least."""
    protocols = model.targets.protocols
    return sorted(protocols, key=lambda name: (abs(protocols[name].amplitude_nA), name))


def z_score(value: float, target: "FeatureTarget") -> float:
    """Return how far a feature is from its target, in standard deviations; NaN without a value."""
    return (value - target.mean) / target.std


def with_features(model: FitModel, features: Sequence[str]) -> FitModel:
    """Return a model whose targets are those of the named e-features, at all protocols that have them."""
    targets = tuple(target for target in model.targets.targets if target.feature in features)
    named = {target.protocol for target in targets}
    protocols = {name: step for name, step in model.targets.protocols.items() if name in named}
    return replace(model, targets=replace(model.targets, targets=targets, protocols=protocols))


def with_bounds(model: FitModel, bounds: Mapping[str, tuple[float, float]], fixed: Mapping[str, float]) -> FitModel:
    """Return a model with other bounds for some of its free parameters, and others of them fixed."""
    free = tuple(
        replace(parameter, lower=bounds[name][0], upper=bounds[name][1]) if name in bounds else parameter
        for parameter in model.free
        if (name := parameter.full_name) not in fixed
    )
    spread = {p.full_name: p.distribution for p in model.free if p.full_name in fixed}
    return replace(
        model,
        free=free,
        fixed={**model.fixed, **fixed},
        distributions={**model.distributions, **spread},
    )
