"""The engines that evaluate individuals: NEURON one at a time, or the vector engine many together.

A host builds them in its helper process (`neurofleet.cluster.pool.child_processes`), from a payload that is sent there.
"""

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofleet.cluster.pool.outcome import Budget, BudgetExceeded, EngineSpec, Failure
from neurofleet.neurosim.cells.fit_model import FitModel, recording_name
from neurofleet.neurosim.cells.model_responses import (
    FeatureValue,
    Trace,
    firing_rate,
    voltage_traces,
)
from neurofleet.neurosim.cells.user_model import UserModel
from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded as StepsExceeded
from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
from neurofleet.neurosim.vector.vector_evaluator import LANES, VectorEvaluator

RAN_AWAY = "the simulation ran away"
LONG_S = 600.0


@dataclass(frozen=True)
class EnginePayload:
    """What a host needs to build the engine; with `traces`, it keeps what the models do beside their scores."""

    model: FitModel | UserModel
    max_steps: int | None
    traces: bool = False


@dataclass(frozen=True)
class ModelTraces:
    """What one model does at the steps it was fitted to.

    Attributes
    ----------
    scores : ndarray, shape (2, M)
        Scores and residuals.
    traces : dict
        Recording name -> time in ms and voltage in mV, (n,) arrays of float32.
    features : dict of str to FeatureValue
        By objective.
    rates_Hz : dict of str to float
        Protocol -> spikes per second of the step.
    """

    scores: np.ndarray
    traces: dict[str, Trace]
    features: dict[str, FeatureValue]
    rates_Hz: dict[str, float]


class NeuronEngine:
    """NEURON with CVODE, one individual after the other on a cell that is built once.

    Every individual is evaluated by a fresh copy of the built process, so that its scores cannot depend on
    what was evaluated before it.
    """

    isolation = "individual"

    def __init__(self, payload: EnginePayload) -> None:
        self._payload = payload
        self._warm = WarmEvaluator(payload.model.build_evaluator(), payload.max_steps)
        self._warm.build()

    def evaluate(self, batch: Sequence[np.ndarray], budget: Budget) -> Iterator[np.ndarray | ModelTraces]:
        """Yield scores and residuals of each individual, shape (2, M), or its traces where they are to be kept.

        The pool enforces the deadline from outside, so the clock is not looked at here; the budget of
        integration steps is the engine's own.
        """
        evaluate = self._traced if self._payload.traces else self._warm.evaluate_signed
        for individual in batch:
            try:
                yield evaluate(individual)
            except StepsExceeded as error:
                raise BudgetExceeded(str(error)) from None

    def _traced(self, individual: np.ndarray) -> ModelTraces:
        scores, features, responses = self._warm.evaluate_traced(individual)
        traces, model = dict(voltage_traces(responses)), self._payload.model
        rates = {}
        if isinstance(model, FitModel):
            for step in model.targets.protocols.values():
                trace = traces.get(recording_name(step.name))
                if trace is not None and step.stop_ms > step.start_ms:
                    rates[step.name] = firing_rate(trace, step, model.targets.spike_threshold_mV)
        kept = {name: (time.astype(np.float32), mV.astype(np.float32)) for name, (time, mV) in traces.items()}
        return ModelTraces(scores, kept, features, rates)


class VectorEngine:
    """Individuals side by side, `LANES` in the time of one; see `neurofleet.neurosim.vector`.

    The scores of an individual do not depend on which others are in its batch.
    """

    isolation = "batch"

    def __init__(self, model: FitModel) -> None:
        import efel  # noqa: F401 - so that processes forked from this one need not import it

        self._evaluator = VectorEvaluator(model)

    def evaluate(self, batch: Sequence[np.ndarray], budget: Budget) -> Iterator[np.ndarray | Failure]:
        """Yield scores and residuals of each individual, shape (2, M), when all are there.

        There is no budget of steps, whose length is bounded from below; the pool keeps the deadline.
        """
        done = self._evaluator.evaluate(np.asarray(batch, np.float64))
        for scores, residuals, ok in zip(done.scores, done.residuals, done.ok, strict=True):
            yield np.stack([scores, residuals]) if ok else Failure(RAN_AWAY)


def build(payload: EnginePayload) -> NeuronEngine:
    """Make the engine; named by `engine_spec`, called on the hosts."""
    return NeuronEngine(payload)


def build_vector(model: FitModel) -> VectorEngine:
    """Make the engine; named by `vector_spec`, called on the hosts."""
    return VectorEngine(model)


def engine_spec(name: str, model: FitModel | UserModel, max_steps: int | None, *, traces: bool = False) -> EngineSpec:
    """Return how the hosts build the engine of `model`; equal models have equal keys.

    With `traces` it yields `ModelTraces`, which hold the scores.
    """
    payload = EnginePayload(model, max_steps, traces)
    return EngineSpec("neurofleet.jobs.fit.engines:build", payload, f"{name}-{_digest(payload)}")


def vector_spec(name: str, model: FitModel) -> EngineSpec:
    """Return how the hosts build the vector engine of `model`; equal models have equal keys."""
    return EngineSpec("neurofleet.jobs.fit.engines:build_vector", model, f"{name}-vector-{_digest(model)}", LANES)


def _digest(payload: Any) -> str:
    return hashlib.sha256(pickle.dumps(payload)).hexdigest()[:16]


def task_deadline_s(engine: EngineSpec, deadline_s: float) -> float:
    """Return how long a task may take when one individual may take `deadline_s`.

    Individuals that are computed side by side are done together: each has the time of all the engine's lanes,
    also one that is alone there. Batches are of seconds, and one that hangs should not hold its host for an
    hour: ten minutes are the most, unless a single individual may take more.
    """
    return min(engine.lanes * deadline_s, max(deadline_s, LONG_S))


def scores_of(value: Any, objectives: Sequence[str]) -> np.ndarray:
    """Return the scores of `objectives` that an engine yielded, shape (M,)."""
    return _yielded(value, objectives)[0]


def residuals_of(value: Any, objectives: Sequence[str]) -> np.ndarray:
    """Return the residuals of `objectives` that an engine yielded, shape (M,); NaN of one that yields scores alone.

    NaN also of an e-feature that is infinite, such as the time constant of a voltage that has come to rest.
    """
    scores, *residuals = _yielded(value, objectives)
    if not residuals:
        return np.full(len(scores), np.nan)
    return np.where(np.abs(residuals[0]) < np.finfo(np.float32).max, residuals[0], np.nan)


def _yielded(value: Any, objectives: Sequence[str]) -> np.ndarray:
    yielded = np.atleast_2d(np.asarray(value.scores if isinstance(value, ModelTraces) else value, dtype=np.float64))
    if len(yielded) > 2 or yielded.shape[1:] != (len(objectives),):
        raise ValueError(f"an engine yielded shape {np.shape(value)}, expected (2, {len(objectives)})")
    return yielded
