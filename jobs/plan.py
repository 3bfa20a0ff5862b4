"""``neurofleet plan``: what a job will do and cost, from its inputs and a few measured evaluations."""

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from jobs.fit.spec import FitSpec
from jobs.progress import duration
from jobs.spec import load_job, named

if TYPE_CHECKING:
    from rich.table import Table

    from jobs.fit.costs import StageCost

SHOWN_CELLS = 8
ENGINES: tuple[Literal["neuron", "vector"], ...] = ("neuron", "vector")


def print_plan(job: Path) -> None:
    """Print what the job in file `job` will do, and what it will cost."""
    spec = load_job(job)
    named(spec.planner)(spec, job.resolve().parent)


def print_fit_plan(spec: FitSpec, folder: Path) -> None:
    """Print cells, stages, engines, evaluations, core-hours and disk of a fit."""
    from rich.console import Console

    from jobs.fit.costs import SAMPLES, stage_costs
    from jobs.fit.engine_choice import engine_lines
    from jobs.fit.prepare import check_warm_start, prepare

    subjects = prepare(
        spec,
        folder,
        keep_recordings=False,
        tell=lambda text: print(text, file=sys.stderr, flush=True),
    )
    check_warm_start(spec, folder, subjects)
    console = Console()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    costs = stage_costs(spec, subjects)
    title = f"{spec.name}: {len(subjects)} cells, strategy {spec.evolution.strategy}"
    console.print(_table(title, costs if len(subjects) <= SHOWN_CELLS else _by_stage(costs)))
    for subject in subjects:
        for warning in subject.warnings:
            say(f"warning: {subject.id}: {warning}")
    for line in engine_lines((cost.cell, cost.stage, cost.choice) for cost in costs if cost.choice):
        say(line)
    for line in _with_either(costs):
        say(line)
    total = sum(cost.core_s(cost.engine) for cost in costs)
    finalists = sum(cost.finalists for cost in costs)
    again = f" and {finalists} finalists scored again by NEURON" if finalists else ""
    say(
        f"{sum(cost.evaluations for cost in costs)} evaluations{again}, about {total / 3600:.3g} core-hours "
        f"({duration(total)} on one core), {sum(cost.disk_bytes for cost in costs) / 1e6:.3g} MB of disk. "
        f"Times are medians of {SAMPLES} individuals of the first generation; good models often spike more, "
        "and then cost more with NEURON."
    )


def _table(title: str, costs: "Sequence[StageCost]") -> "Table":
    from rich import box
    from rich.table import Table

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


def _with_either(costs: "Sequence[StageCost]") -> list[str]:
    """Say what stages cost with each of the engines that they can have."""
    lines = []
    for stage in dict.fromkeys(cost.stage for cost in costs if cost.seconds.vector is not None):
        both = [cost for cost in costs if cost.stage == stage and cost.seconds.vector is not None]
        told = [
            f"with engine {engine} {sum(cost.core_s(engine) for cost in both) / 3600:.3g} core-hours "
            f"({median(cost.seconds_each(engine) for cost in both):.3g} s each)"
            for engine in ENGINES
        ]
        lines.append(f"stage {stage} and its finalists: {', '.join(told)}")
    return lines


def _by_stage(costs: "Sequence[StageCost]") -> "list[StageCost]":
    """Return one row for each stage and engine: sums over all cells, and medians of what a cell has."""
    from jobs.fit.costs import StageCost, middle

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
                parameters=round(median(cost.parameters for cost in alike)),
                objectives=round(median(cost.objectives for cost in alike)),
                protocols=round(median(cost.protocols for cost in alike)),
                seconds=middle([cost.seconds for cost in alike]),
                disk_bytes=sum(cost.disk_bytes for cost in alike),
            )
        )
    return rows
