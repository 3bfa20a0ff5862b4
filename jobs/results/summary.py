"""``neurofleet results``: what a run folder holds, cell by cell; for many runs, see `jobs.results.views`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.store import POOLED
from jobs.errors import UsageError
from jobs.fit.stage_search import FINAL
from jobs.results.bounds import OnBound, on_bounds
from jobs.results.run_tables import RunTables

if TYPE_CHECKING:
    import pyarrow as pa


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
    """

    cell: str
    state: str
    reason: str
    stages: tuple[StageSummary, ...]
    hall_of_fame: int
    on_bound: tuple[OnBound, ...] | None


def summarise(root: str | Path) -> list[CellSummary]:
    """Return a summary of each cell of the run in `root`, whether it is running, interrupted or done.

    Raises
    ------
    UsageError
        When `root` is not a run folder.
    """
    return summaries(RunTables(root))


def summaries(tables: RunTables) -> list[CellSummary]:
    """Return a summary of each cell, in the order of the job file."""
    events = tables.store.read_events()
    return [_cell(tables, cell, [e for e in events if e.get("cell") == cell]) for cell in cells(tables)]


def cells(tables: RunTables) -> list[str]:
    """Return the cells of the job; a user's own evaluator counts as one."""
    if tables.spec.cells is None:
        return [tables.spec.name]
    return [cell.id for cell in tables.spec.cells]


def query(root: str | Path, sql: str) -> "pa.Table":
    """Run one SELECT over the views of a fit's run, or over those of all runs at and below a folder.

    Raises
    ------
    UsageError
        When there is no run, or the query is not one SELECT that fits the views.
    """
    from jobs.results.views import opened

    return opened(root).table(sql)


def results_command(out: str, query: str | None, json: bool, views: bool = False) -> None:
    """Print the summary of a run, the runs below a folder, their views, or the result of a query.

    Raises
    ------
    UsageError
        When there is no run, or the query is not one SELECT that fits the views.
    """
    from jobs.results import output as output
    from jobs.results.found_runs import find_runs
    from jobs.results.places import Place
    from jobs.results.views import query_command, runs_command, views_command
    from jobs.rooms import FIT, room_of
    from jobs.spec import named

    if views and query is not None:
        raise UsageError("--views and --query were given together. Look at the views first, then query.")
    if views:
        views_command(out, json)
        return
    if query is not None:
        query_command(out, query, json)
        return
    found = find_runs(Place(out))
    if not any(run.folder == "" for run in found.runs):
        runs_command(out, found, json)
        return
    room = room_of(out)
    if room != FIT:
        named(f"{room}.results:print_results")(out, json)
        return
    tables = RunTables(out)
    cells_found = summaries(tables)
    if json:
        output.print_json(cells_found)
    else:
        output.print_summaries(tables, cells_found)


def _cell(tables: RunTables, cell: str, events: list[dict[str, Any]]) -> CellSummary:
    starts = {e["stage"]: e for e in events if e["event"] == "stage started"}
    ends = {e["stage"]: e for e in events if e["event"] == "stage finished"}
    failures = [e["reason"] for e in events if e["event"] == "cell failed"]
    known = [stage for found, stage in tables.objectives if found == cell and not stage.endswith(FINAL)]
    names = [*dict.fromkeys([*starts, *ends]), *known]  # events come in the order of the fit
    stages = tuple(
        _stage(tables, cell, name, starts.get(name, {}), name in ends)
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
    bounds = starts.get(stages[-1].stage, {}).get("bounds") if stages else None
    return CellSummary(
        cell=cell,
        state=state,
        reason=failures[-1] if state == "failed" else "",
        stages=stages,
        hall_of_fame=0 if hall is None else len(hall),
        on_bound=None if hall is None or bounds is None else on_bounds(hall, bounds),
    )


def _stage(
    tables: RunTables, cell: str, stage: str, start: Mapping[str, Any], finished: bool
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
        finished=finished,
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
    )
