"""What a fit costs: a few individuals of each stage are evaluated, with both engines where there are two."""

import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

import numpy as np

from jobs.disk import stage_bytes
from jobs.errors import UsageError
from jobs.fit.engine_choice import chosen, one_engine, open_model
from jobs.fit.spec import FitSpec
from jobs.fit.stage_search import finalists
from jobs.fit.subjects import EngineChoice, Problem, StagePlan, Subject
from jobs.fit.vector_trial import try_vector
from neurosim.vector.evaluator import LANES

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel
    from neurosim.user_model import UserModel

SAMPLES = 7
SAMPLE_LIMIT_S = 40.0
MEASURED_CELLS = 3


@dataclass(frozen=True)
class Seconds:
    """What an evaluation takes with each engine; None where the vector engine is not to be had."""

    neuron: float
    vector: float | None = None


@dataclass(frozen=True)
class StageCost:
    """What one stage of one cell takes.

    Attributes
    ----------
    choice : EngineChoice or None
        None where there is but one engine.
    evaluations, finalists : int
        Of the search, and those scored again by NEURON after it; all seeds together.
    seconds : Seconds
    """

    cell: str
    stage: str
    choice: EngineChoice | None
    seeds: int
    evaluations: int
    finalists: int
    parameters: int
    objectives: int
    protocols: int
    seconds: Seconds
    disk_bytes: float

    @property
    def engine(self) -> Literal["neuron", "vector"]:
        return self.choice.engine if self.choice else "neuron"

    def seconds_each(self, engine: Literal["neuron", "vector"]) -> float:
        """Return the time of an evaluation of the search."""
        return self.seconds.neuron if engine == "neuron" else self.seconds.vector or 0.0

    def core_s(self, engine: Literal["neuron", "vector"]) -> float:
        """Return the time of all evaluations, if the search has this engine."""
        return self.evaluations * self.seconds_each(engine) + self.finalists * self.seconds.neuron


def stage_costs(spec: FitSpec, subjects: Sequence[Subject]) -> list[StageCost]:
    """Return the cost of every stage; only the first cells are measured, the others taken as alike.

    Raises
    ------
    UsageError
        A model cannot be simulated, or not with the engine that the job asks for.
    """
    measured: dict[str, list[tuple[EngineChoice | None, Seconds]]] = {}
    costs = []
    for i, subject in enumerate(subjects):
        for number, stage in enumerate(subject.stages):
            problem, known = subject.problem(number, None), measured.setdefault(stage.name, [])
            if i < MEASURED_CELLS or not known:
                choice, seconds = _measure(spec, subject.id, problem, stage)
                known.append((choice, seconds))
            else:
                choice, seconds = known[-1][0], middle([seconds for _, seconds in known])
            again = finalists(spec.evolution.hall_of_fame, stage.search.planned_evaluations)
            costs.append(
                StageCost(
                    cell=subject.id,
                    stage=stage.name,
                    choice=choice,
                    seeds=len(stage.seeds),
                    evaluations=stage.planned_evaluations,
                    finalists=len(stage.seeds) * again if problem.final_model else 0,
                    parameters=len(problem.names),
                    objectives=len(problem.objectives),
                    protocols=_protocols(problem),
                    seconds=seconds,
                    disk_bytes=stage_bytes(problem, stage),
                )
            )
    return costs


def middle(measured: Sequence[Seconds]) -> Seconds:
    """Return the median of each time."""
    vector = [seconds.vector for seconds in measured if seconds.vector is not None]
    return Seconds(
        neuron=median(seconds.neuron for seconds in measured),
        vector=median(vector) if vector else None,
    )


def _protocols(problem: Problem) -> int:
    targets = getattr(problem.model, "targets", None)  # a user's own evaluator does not tell
    return len(targets.protocols) if targets else 0


def _measure(
    spec: FitSpec, cell: str, problem: Problem, stage: StagePlan
) -> tuple[EngineChoice | None, Seconds]:
    from neurosim.evolution import ParameterSpace, make_strategy

    lower, upper = np.array(problem.lower), np.array(problem.upper)
    space = ParameterSpace.from_bounds(problem.names, lower, upper)
    individuals = make_strategy(stage.search, space, stage.seeds[0]).ask()
    choice, vector = one_engine(problem), None
    if (model := open_model(problem)) is not None:
        trial = try_vector(model, individuals[:LANES])
        choice, vector = chosen(spec.engine, trial.fault, cell, stage.name), trial.seconds_each
    neuron = _seconds_each(problem.model, individuals[:SAMPLES], spec.max_steps)
    return choice, Seconds(neuron, vector)


def _seconds_each(model: "FitModel | UserModel", individuals: np.ndarray, max_steps: int | None) -> float:
    """Time individuals with NEURON, one after the other in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.fit.costs"],
        input=pickle.dumps((model, individuals, max_steps)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"the model cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_samples() -> None:
    """Print the median seconds of the individuals on standard input (ours, from above)."""
    from neurosim.budget import BudgetExceeded
    from neurosim.warm import IncompleteRun, WarmEvaluator

    model, individuals, max_steps = pickle.load(sys.stdin.buffer)
    warm = WarmEvaluator(model.build_evaluator(), max_steps)
    warm.build()
    seconds: list[float] = []
    for individual in individuals:
        started = time.perf_counter()
        try:
            warm.evaluate(individual)
        except (BudgetExceeded, IncompleteRun):
            pass  # its time counts like any other
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > SAMPLE_LIMIT_S:
            break
    print("\n", median(seconds))


if __name__ == "__main__":
    _time_samples()
