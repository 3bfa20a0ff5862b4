"""How the search of a stage went: the best of each seed and the spread of all, generation by generation."""

from dataclasses import dataclass

import numpy as np

from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.results.run_summary import StageSummary
from neurofleet.jobs.results.run_tables import RunTables

QUANTILES = (0.1, 0.9)


@dataclass(frozen=True)
class SeedCurve:
    """One seed: `generation` from 1 and the mean score of the best individual so far, (n,) arrays.

    `final` is the mean score of the best finalist, None where none was scored again.
    """

    seed: int
    generation: np.ndarray
    best: np.ndarray
    final: float | None


@dataclass(frozen=True)
class SearchCurves:
    """A stage. Scores are means over its objectives, in standard deviations from the recording.

    Attributes
    ----------
    generation : ndarray, shape (n,)
        From 1.
    low, median, high : ndarray, shape (n,)
        Of all individuals of a generation that could be evaluated: quantiles `QUANTILES`, and the middle.
    seeds : tuple of SeedCurve
    """

    generation: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    seeds: tuple[SeedCurve, ...]


def search_curves(tables: RunTables, cell: str, stage: StageSummary) -> SearchCurves:
    """Return how the search of a stage went so far."""
    spread = np.array(
        tables.rows(
            "select generation + 1, quantile_cont(total, ?), median(total), quantile_cont(total, ?) "
            "from evaluations where cell = ? and stage = ? and status = 'ok' group by 1 order by 1",
            [*QUANTILES, cell, stage.stage],
        ),
        float,
    ).reshape(-1, 4)
    low, median, high = spread[:, 1:].T / stage.objectives
    seeds = tuple(_seed_curve(tables, cell, stage, seed.seed) for seed in stage.seeds)
    return SearchCurves(spread[:, 0], low, median, high, seeds)


def _seed_curve(tables: RunTables, cell: str, stage: StageSummary, seed: int) -> SeedCurve:
    rows = np.array(
        tables.rows(
            "select generation + 1, min(total) from evaluations where cell = ? and stage = ? and seed = ? "
            "group by 1 order by 1",
            [cell, stage.stage, seed],
        ),
        float,
    )
    ((final,),) = tables.rows(
        "select min(total) from evaluations where cell = ? and stage = ? and seed = ?",
        [cell, stage.stage + FINAL, seed],
    )
    best = np.minimum.accumulate(rows[:, 1]) / stage.objectives
    return SeedCurve(seed, rows[:, 0], best, None if final is None else final / stage.objectives)
