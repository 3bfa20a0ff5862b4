"""Measurements of models: how the pool's hosts make them, and how they are stored."""

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from neurofleet.cluster.pool.outcome import Budget, BudgetExceeded, EngineSpec, Outcome
from neurofleet.errors import UsageError
from neurofleet.fresh_process import ProcessFailed, call
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded as StepsExceeded
from neurofleet.neurosim.cells.warm_evaluator import IncompleteRun

TIMING_LIMIT_S = 40.0


class Measure(Protocol):
    """What can be measured of the models of a cell; it is pickled and sent to the hosts."""

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
    return EngineSpec(f"{__name__}:build", measure, f"{name}-{digest}")


@dataclass(frozen=True, eq=False)
class Block:
    """Individuals whose outcomes are stored together.

    Attributes
    ----------
    name : str
        Of the Parquet file, in the run folder.
    cell : str
    engine : EngineSpec
    size : int
    individuals : callable
        Returns what is measured, (P,) arrays; called when their turn comes.
    table : callable
        Makes the table that is stored from the outcomes, in the order of the individuals.
    deadlines : int
        How many times the deadline of the job each of them may take.
    """

    name: str
    cell: str
    engine: EngineSpec
    size: int
    individuals: Callable[[], Sequence[np.ndarray]]
    table: Callable[[Sequence[Outcome]], pa.Table]
    deadlines: int = 1


@dataclass(frozen=True, eq=False)
class Measurement:
    """Individuals of one cell that are all measured in the same way.

    Attributes
    ----------
    file : str
        Beginning of the names of their Parquet files in the run folder, such as ``responses/cell=C/block``.
    cell : str
    measure : Measure
    size : int
        Number of individuals.
    individuals : callable
        Returns those of a slice, (P,) arrays.
    table : callable
        Makes the table that is stored of a slice, a row or more each, from its outcomes.
    engine : str
        Name of the engine in logs.
    block_size : int
        Individuals that are stored together.
    digits : int
        Of a block's number in its file name.
    """

    file: str
    cell: str
    measure: Measure
    size: int
    individuals: Callable[[slice], Sequence[np.ndarray]]
    table: Callable[[slice, Sequence[Outcome]], pa.Table]
    engine: str
    block_size: int = 8
    digits: int = 4

    @property
    def files(self) -> list[str]:
        """The names of its Parquet files, in order."""
        return [f"{self.file}-{n:0{self.digits}d}.parquet" for n in range(-(-self.size // self.block_size))]

    def blocks(self) -> list[Block]:
        """Return the individuals in blocks, as they are stored."""
        engine = measure_engine(self.engine, self.measure)
        return [self._block(name, n * self.block_size, engine) for n, name in enumerate(self.files)]

    def _block(self, name: str, start: int, engine: EngineSpec) -> Block:
        rows = slice(start, min(start + self.block_size, self.size))
        return Block(
            name,
            self.cell,
            engine,
            rows.stop - rows.start,
            lambda: self.individuals(rows),
            lambda outcomes: self.table(rows, outcomes),
        )


def mean_seconds(cell: str, measure: Measure, individuals: Sequence[np.ndarray]) -> float:
    """Return the mean CPU seconds of a measurement, from a few individuals in a process of their own.

    Raises
    ------
    UsageError
        The cell cannot be simulated.
    """
    try:
        seconds = call(time_individuals, measure, individuals)
    except ProcessFailed as error:
        raise UsageError(f"cell {cell} cannot be simulated: {error.reason}.{_mechanisms(measure)}") from error
    except Exception as error:  # whatever building or running a cell raises
        reason = f"{type(error).__name__}: {str(error).rstrip('.')}"
        raise UsageError(f"cell {cell} cannot be simulated: {reason}.{_mechanisms(measure)}") from error
    return sum(seconds) / len(seconds)


def _mechanisms(measure: Measure) -> str:
    model = getattr(measure, "model", None)
    return f" {model.mechanisms_told}." if isinstance(model, FitModel) else ""


def time_individuals(measure: Measure, individuals: Sequence[np.ndarray]) -> list[float]:
    """Return the CPU seconds of each individual, of the first ones where they take long."""
    run = measure.build()
    seconds: list[float] = []
    for individual in individuals:
        started = time.process_time()
        try:
            run(individual)
        except (StepsExceeded, IncompleteRun):
            pass  # its time counts like any other
        seconds.append(time.process_time() - started)
        if sum(seconds) > TIMING_LIMIT_S:
            break
    return seconds
