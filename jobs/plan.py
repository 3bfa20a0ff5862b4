"""``neurofleet plan``: what a job will do and cost, from its inputs and a few measured evaluations."""

import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jobs.disk import stage_bytes
from jobs.errors import UsageError
from jobs.fit.spec import FitSpec
from jobs.fit.subjects import Problem, StagePlan, Subject
from jobs.progress import duration
from jobs.spec import load_job, named

SAMPLES = 7
SAMPLE_LIMIT_S = 40.0
MEASURED_CELLS = 3
SHOWN_CELLS = 8


@dataclass(frozen=True)
class StageCost:
    """What one stage of one cell takes."""

    cell: str
    stage: str
    seeds: int
    evaluations: int
    parameters: int
    objectives: int
    protocols: int
    seconds_each: float | None
    disk_bytes: float


def print_plan(job: Path) -> None:
    """Print what the job in file `job` will do, and what it will cost."""
    spec = load_job(job)
    named(spec.planner)(spec, job.resolve().parent)


def print_fit_plan(spec: FitSpec, folder: Path) -> None:
    """Print cells, stages, evaluations, core-hours and disk of a fit."""
    from rich.console import Console
    from rich.table import Table

    from jobs.fit.prepare import check_warm_start, prepare

    subjects = prepare(
        spec,
        folder,
        keep_recordings=False,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    check_warm_start(spec, folder, subjects)
    console = Console()
    costs = stage_costs(spec, subjects)
    known = [cost.seconds_each for cost in costs if cost.seconds_each is not None]
    shown = costs if len(subjects) <= SHOWN_CELLS else _by_stage(costs)
    table = Table(title=f"{spec.name}: {len(subjects)} cells, strategy {spec.evolution.strategy}")
    for column in ("cell", "stage"):
        table.add_column(column)
    for column in ("seeds", "params", "objectives", "protocols", "evaluations", "s each", "core-h"):
        table.add_column(column, justify="right")
    for cost in shown:
        seconds = cost.seconds_each if cost.seconds_each is not None else (median(known) if known else 0.0)
        table.add_row(
            cost.cell,
            cost.stage,
            str(cost.seeds),
            str(cost.parameters),
            str(cost.objectives),
            str(cost.protocols) if cost.protocols else "",
            str(cost.evaluations),
            f"{seconds:.3g}",
            f"{cost.evaluations * seconds / 3600:.3g}",
        )
    console.print(table)
    for subject in subjects:
        for warning in subject.warnings:
            console.print(f"warning: {subject.id}: {warning}", soft_wrap=True, markup=False, highlight=False)
    total = sum(c.evaluations * (c.seconds_each or (median(known) if known else 0.0)) for c in costs)
    evaluations = sum(cost.evaluations for cost in costs)
    console.print(
        f"{evaluations} evaluations, about {total / 3600:.3g} core-hours ({duration(total)} on one core), "
        f"{sum(cost.disk_bytes for cost in costs) / 1e6:.3g} MB of disk. Times are medians of {SAMPLES} "
        "individuals of the first generation; good models often spike more, and then cost more.",
        soft_wrap=True,
    )


def _by_stage(costs: Sequence[StageCost]) -> list[StageCost]:
    """Return one row a stage: sums over all cells, and medians of what a cell has."""
    rows = []
    for stage in dict.fromkeys(cost.stage for cost in costs):
        alike = [cost for cost in costs if cost.stage == stage]
        known = [cost.seconds_each for cost in alike if cost.seconds_each is not None]
        rows.append(
            StageCost(
                cell=f"{len(alike)} cells",
                stage=stage,
                seeds=sum(cost.seeds for cost in alike),
                evaluations=sum(cost.evaluations for cost in alike),
                parameters=round(median(cost.parameters for cost in alike)),
                objectives=round(median(cost.objectives for cost in alike)),
                protocols=round(median(cost.protocols for cost in alike)),
                seconds_each=median(known) if known else None,
                disk_bytes=sum(cost.disk_bytes for cost in alike),
            )
        )
    return rows


def stage_costs(spec: FitSpec, subjects: Sequence[Subject]) -> list[StageCost]:
    """Return the cost of every stage; only the first cells are measured, the others taken as alike."""
    measured: dict[str, list[float]] = {}
    costs = []
    for i, subject in enumerate(subjects):
        for number, stage in enumerate(subject.stages):
            problem = subject.problem(number, None)
            if i < MEASURED_CELLS:
                seconds = _seconds_each(problem, stage, spec.max_steps)
                measured.setdefault(stage.name, []).append(seconds)
            known = measured.get(stage.name)
            costs.append(
                StageCost(
                    cell=subject.id,
                    stage=stage.name,
                    seeds=len(stage.seeds),
                    evaluations=stage.planned_evaluations,
                    parameters=len(problem.names),
                    objectives=len(problem.objectives),
                    protocols=_protocols(problem),
                    seconds_each=median(known) if known else None,
                    disk_bytes=stage_bytes(problem, stage),
                )
            )
    return costs


def _protocols(problem: Problem) -> int:
    targets = getattr(problem.model, "targets", None)  # a user's own evaluator does not tell
    return len(targets.protocols) if targets else 0


def _seconds_each(problem: Problem, stage: StagePlan, max_steps: int | None) -> float:
    """Time a few individuals of the first generation in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.plan"],
        input=pickle.dumps((problem, stage, max_steps)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"the model cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_samples() -> None:
    """Print the median seconds of a few individuals of the problem on standard input (ours, from above)."""
    import numpy as np

    from neurosim.budget import BudgetExceeded
    from neurosim.evolution import ParameterSpace, make_strategy
    from neurosim.warm import IncompleteRun, WarmEvaluator

    problem, stage, max_steps = pickle.load(sys.stdin.buffer)
    lower, upper = np.array(problem.lower), np.array(problem.upper)
    space = ParameterSpace.from_bounds(problem.names, lower, upper)
    individuals = make_strategy(stage.search, space, stage.seeds[0]).ask()
    warm = WarmEvaluator(problem.model.build_evaluator(), max_steps)
    warm.build()
    seconds: list[float] = []
    for individual in individuals[:SAMPLES]:
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
