"""Where the science meets the cluster: a model of ``neurosim`` as an engine of the pool."""

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.outcome import Budget, BudgetExceeded, EngineSpec
from neurosim.fit_model import FitModel
from neurosim.user_model import UserModel


@dataclass(frozen=True)
class EnginePayload:
    """What a host needs to build the engine."""

    model: FitModel | UserModel
    max_steps: int | None


class NeuronEngine:
    """NEURON with CVODE, one individual after the other on a cell that is built once.

    Every individual is evaluated by a fresh copy of the built process, so that its scores cannot depend on
    what was evaluated before it.
    """

    isolation = "individual"

    def __init__(self, payload: EnginePayload) -> None:
        from neurosim.warm import WarmEvaluator

        self._warm = WarmEvaluator(payload.model.build_evaluator(), payload.max_steps)
        self._warm.build()

    def evaluate(self, batch: Sequence[np.ndarray], budget: Budget) -> Iterator[np.ndarray]:
        """Yield the scores of each individual, shape (M,).

        The pool enforces the deadline from outside, so the clock is not looked at here; the budget of
        integration steps is the engine's own.
        """
        from neurosim.budget import BudgetExceeded as StepsExceeded

        for individual in batch:
            try:
                yield self._warm.evaluate(individual)
            except StepsExceeded as error:
                raise BudgetExceeded(str(error)) from None


def build(payload: EnginePayload) -> NeuronEngine:
    """Make the engine; named by `engine_spec`, called on the hosts."""
    return NeuronEngine(payload)


def engine_spec(name: str, model: FitModel | UserModel, max_steps: int | None) -> EngineSpec:
    """Return how the hosts build the engine of `model`; equal models have equal keys."""
    payload = EnginePayload(model, max_steps)
    digest = hashlib.sha256(pickle.dumps(payload)).hexdigest()[:16]
    return EngineSpec("jobs.fit.engines:build", payload, f"{name}-{digest}")


def scores_of(value: Any, objectives: Sequence[str]) -> np.ndarray:
    """Return what an engine yielded as scores of `objectives`, shape (M,)."""
    scores = np.asarray(value, dtype=np.float64)
    if scores.shape != (len(objectives),):
        raise ValueError(f"an engine yielded shape {scores.shape}, expected ({len(objectives)},)")
    return scores
