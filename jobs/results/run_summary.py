"""What a run of a fit holds, cell by cell: summaries of its stages, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.store.run_store import POOLED
from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.fit.uncertain_steps import UNCERTAIN, UncertainStep, uncertain_steps_of
from neurofleet.jobs.reports.tables import print_line
from neurofleet.jobs.reports.units import split_objective
from neurofleet.jobs.results.diversity import Diversity, diversity_lines, diversity_of, models_in_words
from neurofleet.jobs.results.parameters_at_bounds import OnBound, on_bounds
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.jobs.terminal import terminal

FARTHEST, SHOWN_BOUNDS = 3, 3
FAR_MEAN_Z = 3.0  # no recorded cell is so far from its own recording


@dataclass(frozen=True)
class SeedSummary:
    """One seed of one stage.

    Attributes
    ----------
    seed, generations, evaluations : int
        What is stored; finalists that were scored again are not counted.
    best_total : float
        Sum of all scores of the best individual.
    median_total : float
        Median of the last generation.
    """

    seed: int
    generations: int
    evaluations: int
    best_total: float
    median_total: float


@dataclass(frozen=True)
class StageSummary:
    """One stage of one cell.

    Attributes
    ----------
    stage : str
    finished : bool
        Whether all of its seeds are done.
    seeds : tuple of SeedSummary
        Those that have evaluations.
    planned_seeds, planned_evaluations : int or None
        None where the folder does not tell. Planned evaluations are of all seeds together.
    evaluations, finalists : int
        Individuals of the search, and those scored again after it.
    outcomes : dict
        Status -> evaluations, finalists included.
    objectives : int
    best_total, median_total : float
        Best of all (of the finalists, where there are any); median of the seeds' medians.
    best_mean_score : float
        Best total by objective: mean distance from the targets in their standard deviations.
    core_hours : float
        Time spent on evaluations.
    engine, engine_reason : str
        Which engine searched it, and why; empty where there is but one, or where the folder does not tell.
    uncertain_steps : tuple of UncertainStep
        At which many of its finalists fire otherwise by NEURON than in the search.
    """

    stage: str
    finished: bool
    seeds: tuple[SeedSummary, ...]
    planned_seeds: int | None
    planned_evaluations: int | None
    evaluations: int
    finalists: int
    outcomes: dict[str, int]
    objectives: int
    best_total: float
    median_total: float
    best_mean_score: float
    core_hours: float
    engine: str = ""
    engine_reason: str = ""
    uncertain_steps: tuple[UncertainStep, ...] = ()


@dataclass(frozen=True)
class CellSummary:
    """One cell.

    Attributes
    ----------
    cell : str
    state : {"waiting", "unfinished", "finished", "failed"}
    reason : str
        Why it failed.
    stages : tuple of StageSummary
        In the order of the fit.
    hall_of_fame : int
        Models pooled over all seeds; 0 before the cell is finished.
    on_bound : tuple of OnBound or None
        Parameters of the hall of fame on a bound; None where the bounds are not known.
    best_by_seed : tuple of float
        Best total of each seed in the hall of fame.
    farthest : tuple of (str, float)
        The objectives that the best model is farthest from, and their scores.
    steps_pA : dict of str to float
        Amplitudes of the last stage's protocols.
    diversity : Diversity or None
        How different the models of the hall of fame are; None where there are not two, or the bounds are not known.
    """

    cell: str
    state: str
    reason: str
    stages: tuple[StageSummary, ...]
    hall_of_fame: int
    on_bound: tuple[OnBound, ...] | None
    best_by_seed: tuple[float, ...] = ()
    farthest: tuple[tuple[str, float], ...] = ()
    steps_pA: Mapping[str, float] = field(default_factory=dict)
    diversity: Diversity | None = None


def fit_verdict(out: str | Path) -> list[str]:
    """Return a few lines on the fit in a run folder (how good, how sure, what failed), and what to type next."""
    cells = summaries(RunTables(out))
    done = [cell for cell in cells if cell.state == "finished"]
    lines = verdict(cells)
    if len(done) < len(cells):
        return [*lines, f"next: the same command goes on with what is left; neurofleet status {out}"]
    return [*lines, f"next: neurofleet results {out}"]


def verdict(cells: Sequence[CellSummary]) -> list[str]:
    """Return how good the best models are, how far seeds agree, and what failed: of one cell, or over all."""
    done = [cell for cell in cells if cell.state == "finished"]
    lines = []
    if len(cells) > 1:
        lines.append(f"{len(done)} of {len(cells)} cells finished")
    if done:
        done = sorted(done, key=lambda cell: cell.stages[-1].best_mean_score)
        chosen = {cell.cell: cell for cell in (done[0], done[(len(done) - 1) // 2], done[-1])}  # best, middle, worst
        lines += [_how_good(cell) for cell in chosen.values()]
        lines += [_how_sure(cell) for cell in done[:1]] if len(cells) == 1 else []
        if len(cells) == 1 and done[0].on_bound:
            found = done[0].on_bound
            more = f" and {len(found) - SHOWN_BOUNDS} more" if len(found) > SHOWN_BOUNDS else ""
            shown = ", ".join(map(str, found[:SHOWN_BOUNDS]))
            lines.append(f"on a bound: {shown}{more}; better values may lie outside")
        if len(cells) == 1:
            lines += far_stages(done[0])
            lines += [f"{UNCERTAIN} {step}" for step in done[0].stages[-1].uncertain_steps]
    if len(cells) > 1:
        far = [cell.cell for cell in done if far_stages(cell)]
        more = ", …" if len(far) > SHOWN_BOUNDS else ""
        told = f"stages before the last are far from the recording: {', '.join(far[:SHOWN_BOUNDS])}{more}"
        lines += [told] if far else []
        uncertain = [cell.cell for cell in done if cell.stages[-1].uncertain_steps]
        more = ", …" if len(uncertain) > SHOWN_BOUNDS else ""
        told = f"{UNCERTAIN} some steps of {', '.join(uncertain[:SHOWN_BOUNDS])}{more}"
        lines += [told] if uncertain else []
        copies = [cell.cell for cell in done if cell.diversity is not None and cell.diversity.spread.copies]
        more = ", …" if len(copies) > SHOWN_BOUNDS else ""
        lines += [f"populations of near-copies: {', '.join(copies[:SHOWN_BOUNDS])}{more}"] if copies else []
    outcomes = [(status, n) for cell in cells for stage in cell.stages for status, n in stage.outcomes.items()]
    failed = sum(n for status, n in outcomes if status != "ok")
    lines.append(f"failed: {failed:,} of {sum(n for _, n in outcomes):,} evaluations")
    return lines + [f"failed: {cell.cell}: {cell.reason}" for cell in cells if cell.state == "failed"]


def far_stages(cell: CellSummary) -> list[str]:
    """Return what is to be said of stages that others build on though their best model is far from the recording."""
    return [
        f"stage {stage.stage}: the best model is {short(stage.best_mean_score)} standard deviations from the recording "
        "on average; what the next stage inherits from it may exclude better values"
        for stage in cell.stages[:-1]
        if stage.finished and stage.best_mean_score > FAR_MEAN_Z
    ]


def _how_good(cell: CellSummary) -> str:
    last = cell.stages[-1]
    farthest = ", ".join(f"{_objective_in_words(name, cell)} {score:.3g}" for name, score in cell.farthest)
    return (
        f"{cell.cell}: mean |z| of the best model {short(last.best_mean_score)} (standard deviations from the"
        f" recordings, mean over {last.objectives} e-features); farthest {farthest}"
    )


def _objective_in_words(objective: str, cell: CellSummary) -> str:
    """Return the e-feature and its step, in pA where the run tells it, by its name where it does not."""
    protocol, feature = split_objective(objective)
    step = f"{cell.steps_pA[protocol]:.4g} pA" if protocol in cell.steps_pA else protocol
    return f"{feature} at {step}" if step else feature


def _how_sure(cell: CellSummary) -> str:
    last, totals = cell.stages[-1], [best / cell.stages[-1].objectives for best in cell.best_by_seed]
    if len(totals) < 2:
        return f"one seed: nothing says whether another search would find better; {_population(cell)}"
    return (
        f"{len(totals)} seeds of {last.evaluations:,} evaluations together: mean |z| of their best models"
        f" {short(min(totals))} to {short(max(totals))}; {_population(cell)}"
    )


def _population(cell: CellSummary) -> str:
    if cell.diversity is None:
        return f"{cell.hall_of_fame} models in the hall of fame"
    return models_in_words(cell.diversity)


def print_summaries(tables: RunTables, cells: Sequence[CellSummary], console: Console | None = None) -> None:
    """Print a table a cell, and what is to be said of it in words."""
    console = console or terminal()
    finished = sum(cell.state == "finished" for cell in cells)
    print_line(console, f"{tables.spec.name} in {tables.store.root}: {finished} of {len(cells)} cells finished")
    for cell in cells:
        console.print()
        if cell.stages:
            console.print(_stages(cell))
        else:
            print_line(console, f"{cell.cell}: {cell.state}")
        for line in remarks(cell):
            print_line(console, line)


def remarks(cell: CellSummary) -> list[str]:
    """Return what the table of a cell does not say."""
    lines = []
    if cell.state == "failed":
        lines.append(f"failed: {cell.reason}")
    for stage in cell.stages:
        if stage.engine:
            lines.append(f"{stage.stage}: engine {stage.engine} ({stage.engine_reason.rstrip('.')})")
        failures = [f"{count} {status}" for status, count in stage.outcomes.items() if status != "ok"]
        if failures:
            of = sum(stage.outcomes.values())
            lines.append(f"{stage.stage}: {', '.join(failures)} of {of} evaluations")
        if stage.finalists:
            lines.append(f"{stage.stage}: best of {stage.finalists} finalists that were scored again, more tightly")
        lines += [f"{stage.stage}: {UNCERTAIN} {step}" for step in stage.uncertain_steps]
    lines += far_stages(cell)
    if cell.diversity is not None:
        lines += diversity_lines(cell.diversity)
    elif cell.hall_of_fame:
        lines.append(f"hall of fame: {cell.hall_of_fame} models")
    if cell.on_bound:
        lines.append(f"on a bound: {', '.join(map(str, cell.on_bound))}")
    elif cell.on_bound is not None:
        lines.append("on a bound: no parameter")
    return lines


def _stages(cell: CellSummary) -> Table:
    table = Table(
        title=f"{cell.cell}: {cell.state}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("stage")
    for column in ("seeds", "generations", "evaluations", "best", "median", "mean |z|", "core-h"):
        table.add_column(column, justify="right")
    for stage in cell.stages:
        table.add_row(
            stage.stage if stage.finished else f"{stage.stage} …",
            _of(len(stage.seeds), stage.planned_seeds),
            generations(stage),
            evaluations(stage),
            short(stage.best_total),
            short(stage.median_total),
            short(stage.best_mean_score),
            f"{stage.core_hours:.2g}",
        )
    return table


def generations(stage: StageSummary) -> str:
    """Return how many generations the seeds of a stage have, as a number or a range."""
    counts = sorted({seed.generations for seed in stage.seeds})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def evaluations(stage: StageSummary) -> str:
    """Return the evaluations of a stage, and of how many while it runs."""
    return _of(stage.evaluations, None if stage.finished else stage.planned_evaluations)


def _of(count: int, planned: int | None) -> str:
    return str(count) if planned is None or planned == count else f"{count} of {planned}"


def short(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:.4g}"


def summaries(tables: RunTables) -> list[CellSummary]:
    """Return a summary of each cell, in the order of the job file."""
    events = tables.store.read_events()
    return [summary_of_cell(tables, cell, events) for cell in cells(tables)]


def cells(tables: RunTables) -> list[str]:
    """Return the cells of the job; a user's own evaluator counts as one."""
    if tables.spec.cells is None:
        return [tables.spec.name]
    return [cell.id for cell in tables.spec.cells]


def summary_of_cell(tables: RunTables, cell: str, events: Iterable[dict[str, Any]]) -> CellSummary:
    """Return a summary of one cell from the tables and events of its run."""
    events = [event for event in events if event.get("cell") == cell]
    starts = {e["stage"]: e for e in events if e["event"] == "stage started"}
    ends = {e["stage"]: e for e in events if e["event"] == "stage finished"}
    failures = [e["reason"] for e in events if e["event"] == "cell failed"]
    known = [stage for found_cell, stage in tables.objectives if found_cell == cell and not stage.endswith(FINAL)]
    names = [*dict.fromkeys([*starts, *ends]), *known]  # events come in the order of the fit
    stages = tuple(
        _stage(tables, cell, name, starts.get(name, {}), ends.get(name))
        for name in dict.fromkeys(names)
        if name in known
    )
    hall = tables.store.read_hall_of_fame(cell, POOLED)
    if hall is not None:
        state = "finished"
    elif failures:
        state = "failed"
    else:
        state = "unfinished" if stages else "waiting"
    start = starts.get(stages[-1].stage, {}) if stages else {}
    bounds = start.get("bounds")
    return CellSummary(
        cell=cell,
        state=state,
        reason=failures[-1] if state == "failed" else "",
        stages=stages,
        hall_of_fame=0 if hall is None else len(hall),
        on_bound=None if hall is None or bounds is None else on_bounds(hall, bounds),
        best_by_seed=()
        if hall is None
        else tuple(float(hall.totals[hall.seeds == seed].min()) for seed in sorted(set(hall.seeds.tolist()))),
        farthest=() if hall is None else _farthest(hall),
        steps_pA=start.get("steps_pA", {}),
        diversity=None if hall is None or bounds is None else diversity_of(hall, bounds),
    )


def _farthest(hall: HallOfFameRows) -> tuple[tuple[str, float], ...]:
    scores = zip(hall.objective_names, hall.scores[0].tolist(), strict=True)
    return tuple(sorted(scores, key=lambda named: -named[1])[:FARTHEST])


def _stage(
    tables: RunTables, cell: str, stage: str, start: Mapping[str, Any], end: Mapping[str, Any] | None
) -> StageSummary:
    seeds = tuple(
        SeedSummary(*row)
        for row in tables.rows(
            """
            with generations as (
                select seed, generation, count(*) n, min(total) best, median(total) middle
                from evaluations where cell = ? and stage = ? group by seed, generation)
            select seed, count(*), sum(n)::bigint, min(best), arg_max(middle, generation)
            from generations group by seed order by seed
            """,
            [cell, stage],
        )
    )
    outcomes: dict[str, int] = dict(
        tables.rows(
            "select status, count(*) n from evaluations where cell = ? and stage in (?, ?) "
            "group by status order by n desc, status",
            [cell, stage, stage + FINAL],
        )
    )
    final_best, finalists, seconds = tables.rows(
        "select min(total) filter (stage = ?), count(*) filter (stage = ?), sum(seconds) "
        "from evaluations where cell = ? and stage in (?, ?)",
        [stage + FINAL, stage + FINAL, cell, stage, stage + FINAL],
    )[0]
    medians = sorted(seed.median_total for seed in seeds)
    best = min(seed.best_total for seed in seeds) if final_best is None else final_best
    objectives = len(tables.objectives[cell, stage])
    return StageSummary(
        stage=stage,
        finished=end is not None,
        seeds=seeds,
        planned_seeds=len(start["seeds"]) if start else None,
        planned_evaluations=start.get("planned_evaluations"),
        evaluations=sum(seed.evaluations for seed in seeds),
        finalists=finalists,
        outcomes=outcomes,
        objectives=objectives,
        best_total=best,
        median_total=(medians[(len(medians) - 1) // 2] + medians[len(medians) // 2]) / 2,
        best_mean_score=best / objectives,
        core_hours=round(seconds, 3) / 3600,
        engine=start["engine"] if start.get("engine_reason") else "",
        engine_reason=start.get("engine_reason", ""),
        uncertain_steps=() if end is None else uncertain_steps_of(end),
    )
