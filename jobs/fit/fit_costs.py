"""What a fit costs, from a few evaluations of each stage: ``neurofleet plan``."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from neurofleet import fresh_process
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.costs import cost_in_words
from neurofleet.jobs.fit.campaign_state import Engine, EngineChoice, engine_lines
from neurofleet.jobs.fit.engine_choice import USER_EVALUATOR, chosen, try_vector
from neurofleet.jobs.fit.fit_inputs import check_warm_start, length_notes, prepare
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.fit.fit_problem import CellSubject, Problem, StagePlan, Subject
from neurofleet.jobs.progress import duration
from neurofleet.jobs.reports.tables import print_line, table_of_recording
from neurofleet.jobs.terminal import terminal
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology_check import axon_line
from neurofleet.neurosim.cells.user_model import UserModel
from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded, IncompleteRun, WarmEvaluator
from neurofleet.neurosim.evolution import ParameterSpace, make_strategy
from neurofleet.neurosim.vector.vector_evaluator import LANES

BYTES_PER_FILE = 6_000  # Parquet's footer grows with the columns; random numbers do not compress
BYTES_PER_NUMBER = 8.0
SMALL_GENERATION = 32  # of strategy fast, which chooses its own sizes
ALWAYS_BYTES = 10e6  # the job, the models, the report


def stage_bytes(problem: Problem, stage: StagePlan) -> float:
    """Return about how many bytes a stage's generations take, all seeds together."""
    generations = stage.planned_evaluations / (stage.search.offspring or SMALL_GENERATION)
    numbers = len(problem.names) + 1.5 * len(problem.objectives) + 2  # residuals take half the bytes of scores
    return stage.planned_evaluations * numbers * BYTES_PER_NUMBER + generations * BYTES_PER_FILE


def check_disk_space(subjects: Sequence[Subject], cells: int, store: RunStore) -> None:
    """Refuse a run that its disk cannot hold; what is stored of it already counts as room.

    Of its `cells`, those that are not among `subjects` are taken as like them.

    Raises
    ------
    UsageError
    """
    room = store.room_bytes()
    if room is None or not subjects:
        return
    needed = ALWAYS_BYTES + cells / len(subjects) * sum(
        stage_bytes(subject.problem(number, None), stage)
        for subject in subjects
        for number, stage in enumerate(subject.stages)
    )
    if room < needed:
        raise UsageError(
            f"{store.root}: the run needs about {needed / 1e6:.0f} MB and its disk has {room / 1e6:.0f} MB "
            "left. Make room, or give a folder on another disk with --out."
        )


SAMPLES, FEWEST_SAMPLES = 7, 2
SAMPLE_LIMIT_S = 6.0
"""CPU time of a stage's samples, after which no more than the fewest are measured."""

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
    choice : EngineChoice
    evaluations, finalists, traced : int
        Of the search, those scored again by NEURON after it, and those simulated again for their traces alone, which
        finalists are not unless they failed; all seeds together.
    seconds : Seconds
    """

    cell: str
    stage: str
    choice: EngineChoice
    seeds: int
    evaluations: int
    finalists: int
    traced: int
    parameters: int
    objectives: int
    protocols: int
    seconds: Seconds
    disk_bytes: float

    @property
    def engine(self) -> Engine:
        return self.choice.engine

    def seconds_each(self, engine: Engine) -> float:
        """Return the time of an evaluation of the search."""
        return self.seconds.neuron if engine == "neuron" else self.seconds.vector or 0.0

    def core_s(self, engine: Engine) -> float:
        """Return the time of all evaluations, if the search has this engine."""
        return self.evaluations * self.seconds_each(engine) + (self.finalists + self.traced) * self.seconds.neuron


def stage_costs(
    spec: FitSpec, subjects: Sequence[Subject], print_doing: Callable[[str], None] = lambda text: None
) -> list[StageCost]:
    """Return the cost of every stage; only the first cells are measured, the others taken as alike.

    `print_doing` is given a line before each measurement.

    Raises
    ------
    UsageError
        A model cannot be simulated, or not with the engine that the job asks for.
    """
    measured: dict[str, list[tuple[EngineChoice, Seconds]]] = {}
    costs = []
    for i, subject in enumerate(subjects):
        for number, stage in enumerate(subject.stages):
            problem, known = subject.problem(number, None), measured.setdefault(stage.name, [])
            if i < MEASURED_CELLS or not known:
                print_doing(
                    f"measuring {subject.id}, stage {stage.name}: up to {SAMPLES} models of its first generation …"
                )
                choice, seconds = _measure(spec, subject.id, problem, stage)
                known.append((choice, seconds))
            else:
                choice, seconds = known[-1][0], middle([seconds for _, seconds in known])
            plan = stage.for_engine(choice.engine)
            traced = 0
            if number == len(subject.stages) - 1 and not plan.finalists:
                traced = 1 if spec.quick else len(plan.seeds) * spec.evolution.hall_of_fame
            costs.append(
                StageCost(
                    cell=subject.id,
                    stage=stage.name,
                    choice=choice,
                    seeds=len(plan.seeds),
                    evaluations=plan.planned_evaluations,
                    finalists=len(plan.seeds) * plan.finalists,
                    traced=traced,
                    parameters=len(problem.names),
                    objectives=len(problem.objectives),
                    protocols=len(problem.steps),
                    seconds=seconds,
                    disk_bytes=stage_bytes(problem, plan),
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


def _measure(spec: FitSpec, cell: str, problem: Problem, stage: StagePlan) -> tuple[EngineChoice, Seconds]:
    lower, upper = np.array(problem.lower), np.array(problem.upper)
    space = ParameterSpace.from_bounds(problem.names, lower, upper)
    individuals = make_strategy(stage.search, space, stage.seeds[0]).ask()
    choice, vector = EngineChoice("neuron", USER_EVALUATOR), None
    if isinstance(problem.model, FitModel):
        trial = try_vector(problem.model, individuals[:LANES])
        choice, vector = chosen(spec.engine, trial.fault, cell, stage.name), trial.seconds_each
    try:
        neuron = _seconds_each(problem.model, individuals[:SAMPLES], spec.max_steps)
    except UsageError as error:
        raise UsageError(f"cell {cell}, stage {stage.name}: {error}. {problem.mechanisms_told}.") from error
    return choice, Seconds(neuron, vector)


def _seconds_each(model: FitModel | UserModel, individuals: np.ndarray, max_steps: int | None) -> float:
    """Time individuals with NEURON, one after the other in a process of their own."""
    try:
        return fresh_process.call(time_samples, model, individuals, max_steps)
    except fresh_process.ProcessFailed as error:
        raise UsageError(f"the model cannot be simulated: {error.reason}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[-1].rstrip(".")
        raise UsageError(f"the model cannot be simulated: {reason}") from error


def time_samples(model: FitModel | UserModel, individuals: np.ndarray, max_steps: int | None) -> float:
    """Return the median CPU seconds of an evaluation; leaves NEURON as it is afterwards."""
    warm = WarmEvaluator(model.build_evaluator(), max_steps)
    warm.build()
    seconds: list[float] = []
    for individual in individuals:
        started = time.process_time()
        try:
            warm.evaluate(individual)
        except (BudgetExceeded, IncompleteRun):
            pass  # its time counts like any other
        seconds.append(time.process_time() - started)
        if len(seconds) >= FEWEST_SAMPLES and sum(seconds) > SAMPLE_LIMIT_S:
            break
    return median(seconds)


SHOWN_CELLS = 8
SHOWN_SWEEPS = 40
ENGINES: tuple[Engine, ...] = ("neuron", "vector")


HOSTS = (16, 64, 256)
"""Sizes of clusters for which a plan says how long it takes."""


def print_fit_plan(spec: FitSpec, folder: Path) -> None:
    """Print cells, stages, engines, evaluations, core-hours and disk of a fit."""
    subjects = prepare(
        spec,
        folder,
        keep_recordings=False,
        print_line=_print_doing,
    )
    check_warm_start(spec, folder, subjects)
    console = terminal()

    _print_recordings(subjects, console)
    costs = stage_costs(spec, subjects, _print_doing)
    title = f"{spec.name}: {len(subjects)} cells, strategy {spec.evolution.strategy}"
    console.print(_table(title, costs if len(subjects) <= SHOWN_CELLS else _by_stage(costs)))
    for subject in subjects:
        if isinstance(subject, CellSubject):
            print_line(console, f"{subject.id}: {subject.summary.line()}")
            print_line(console, f"{subject.id}: {axon_line(subject.summary, subject.axon)}")
        for warning in subject.warnings:
            print_line(console, f"warning: {subject.id}: {warning}")
    for line in engine_lines((cost.cell, cost.stage, cost.choice) for cost in costs):
        print_line(console, line)
    for line in (*length_notes(spec, subjects), *_with_either(costs)):
        print_line(console, line)
    total = sum(cost.core_s(cost.engine) for cost in costs)
    finalists, traced = sum(cost.finalists for cost in costs), sum(cost.traced for cost in costs)
    again = f" and up to {finalists} finalists scored again by NEURON" if finalists else ""
    again += f" and up to {traced} models simulated again for their traces" if traced else ""
    hours = ", ".join(f"{duration(total / hosts)} on {hosts}" for hosts in sorted({*HOSTS, spec.max_hosts or HOSTS[0]}))
    print_line(
        console,
        f"{sum(cost.evaluations for cost in costs)} evaluations{again}, about {cost_in_words(total)}, "
        f"{sum(cost.disk_bytes for cost in costs) / 1e6:.3g} MB of disk. At least {hours} hosts. "
        f"Times are medians of the CPU time of {FEWEST_SAMPLES} to {SAMPLES} individuals of the first generation; good "
        "models often spike more, and then cost more with NEURON.",
    )


def _print_doing(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_recordings(subjects: Sequence[Subject], console: Console) -> None:
    """Print which sweeps of each cell are used for what, sweep by sweep where they are not too many."""
    tables = {subject.id: subject.recording_table for subject in subjects if subject.recording_table is not None}
    whole = sum(len(table.rows) for table in tables.values()) <= SHOWN_SWEEPS
    for cell, table in tables.items():
        print_line(console, f"{cell}: {table.summary}")
        for note in table.notes:
            print_line(console, f"{cell}: {table.file}: {note}")
        if whole:
            table_of_recording(table).print(console)
    if tables and not whole:
        print_line(
            console,
            "The sweeps one by one: `neurofleet inspect FILE`, and in the report with what each is used for.",
        )


def _table(title: str, costs: Sequence[StageCost]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in ("cell", "stage"):
        table.add_column(column)
    for column in ("seeds", "params", "objectives", "protocols", "evaluations", "s each", "core-h"):
        table.add_column(column, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(
            cost.cell,
            f"{cost.stage}, vector" if cost.engine == "vector" else cost.stage,
            str(cost.seeds),
            str(cost.parameters),
            str(cost.objectives),
            str(cost.protocols) if cost.protocols else "",
            str(cost.evaluations),
            f"{cost.seconds_each(cost.engine):.2g}",
            f"{cost.core_s(cost.engine) / 3600:.2g}",
        )
    return table


def _with_either(costs: Sequence[StageCost]) -> list[str]:
    """Say what stages cost with each of the engines that they can have."""
    lines = []
    for stage in dict.fromkeys(cost.stage for cost in costs if cost.seconds.vector is not None):
        both = [cost for cost in costs if cost.stage == stage and cost.seconds.vector is not None]
        costs_of_each = [
            f"with engine {engine} {sum(cost.core_s(engine) for cost in both) / 3600:.3g} core-hours "
            f"({median(cost.seconds_each(engine) for cost in both):.3g} s each)"
            for engine in ENGINES
        ]
        finalists = " and its finalists" if any(cost.finalists for cost in both) else ""
        lines.append(f"stage {stage}{finalists}: {', '.join(costs_of_each)}")
    return lines


def _by_stage(costs: Sequence[StageCost]) -> list[StageCost]:
    """Return one row for each stage and engine: sums over all cells, and medians of what a cell has."""

    rows = []
    for stage, engine in dict.fromkeys((cost.stage, cost.engine) for cost in costs):
        alike = [cost for cost in costs if (cost.stage, cost.engine) == (stage, engine)]
        rows.append(
            StageCost(
                cell=f"{len(alike)} cells",
                stage=stage,
                choice=alike[0].choice,
                seeds=sum(cost.seeds for cost in alike),
                evaluations=sum(cost.evaluations for cost in alike),
                finalists=sum(cost.finalists for cost in alike),
                traced=sum(cost.traced for cost in alike),
                parameters=round(median(cost.parameters for cost in alike)),
                objectives=round(median(cost.objectives for cost in alike)),
                protocols=round(median(cost.protocols for cost in alike)),
                seconds=middle([cost.seconds for cost in alike]),
                disk_bytes=sum(cost.disk_bytes for cost in alike),
            )
        )
    return rows
