"""Measurements of models as an engine of the pool."""

import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from neurofleet.cluster.pool.outcome import Budget, BudgetExceeded, EngineSpec
from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded as StepsExceeded


class Measure(Protocol):
    """What can be measured of the models of a cell; travels to the hosts."""

    def build(self) -> Callable[[np.ndarray], Any]:
        """Build the cell and return what measures a model: values, shape (P,) -> any plain value."""


class MeasureEngine:
    """One model after the other on a cell that is built once, each on a fresh copy of it."""

    isolation = "individual"

    def __init__(self, measure: Measure) -> None:
        self._measure = measure.build()

    def evaluate(self, batch: Sequence[np.ndarray], budget: Budget) -> Iterator[Any]:
        """Yield what is measured of each individual; the pool enforces the deadline from outside."""
        for individual in batch:
            try:
                yield self._measure(individual)
            except StepsExceeded as error:
                raise BudgetExceeded(str(error)) from None


def build(measure: Measure) -> MeasureEngine:
    """Make the engine; named by `measure_engine`, called on the hosts."""
    return MeasureEngine(measure)


def measure_engine(name: str, measure: Measure) -> EngineSpec:
    """Return how the hosts build the engine of a measurement; equal ones have equal keys."""
    digest = hashlib.sha256(pickle.dumps(measure)).hexdigest()[:16]
    return EngineSpec("neurofleet.jobs.studies.measure_engine:build", measure, f"{name}-{digest}")
