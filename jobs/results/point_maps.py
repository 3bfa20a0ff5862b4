"""Cells, models, units or neurons as points of a map, from the tables of runs, and two groups of them compared."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from neurofleet.cluster.store.schemas import OBJECTIVE_PREFIX, PARAMETER_PREFIX
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.results.many_runs import EMBEDDINGS, AllRuns
from neurofleet.jobs.results.runs_found import FIT, MODEL, FoundRun, FoundRuns
from neurofleet.neurosim.studies.class_comparisons import cliffs_delta_interval, compare

Points = Literal["cells", "models", "embeddings"]
"""The best model of each cell, all models of halls of fame, or what a learner has embedded."""

STORED, PARAMETERS, SCORES, COLUMNS = "umap", "parameters", "e-features", "columns"
MOST_POINTS = 1_000_000
MOST_LEVELS = 40
"""A column of text with more values than that colours only the most frequent."""

LOG_SPAN = 100.0
"""Positive columns whose largest value is so many times the smallest are taken as logarithms."""


@dataclass(frozen=True)
class PointTable:
    """Points with what is known of them.

    Attributes
    ----------
    rows : DataFrame
        A row a point.
    maps : tuple of str
        Ways to place them: stored coordinates, or principal components of parameters, of scores, of all columns.
    """

    rows: pd.DataFrame
    maps: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def colours(self) -> list[str]:
        """Return the columns that a map can be coloured by."""
        return [name for name in self.rows.columns if name not in ("umap_0", "umap_1") and not _is_component(name)]

    def placed(self, map: str) -> np.ndarray:
        """Return where the points are, (n, 2).

        Raises
        ------
        UsageError
            There is no such map.
        """
        if map not in self.maps:
            raise UsageError(
                f"There is no map {map!r}{did_you_mean(map, self.maps)}. There are: {', '.join(self.maps)}."
            )
        if map == STORED:
            return self.rows[["umap_0", "umap_1"]].to_numpy(float)
        return principal_components(self.rows[_columns_of(self.rows, map)])

    def compared(self, first: Sequence[int], second: Sequence[int], most: int) -> pd.DataFrame:
        """Return the quantities that differ most between two groups of points, as `analyse` compares classes.

        The columns `delta_low` and `delta_high` have the 95 % confidence interval of Cliff's delta.

        Raises
        ------
        UsageError
            A point is in both groups, or there is none of a number.
        """
        groups = np.full(len(self.rows), "", dtype=object)
        both = set(first) & set(second)
        if both:
            raise UsageError(f"{len(both)} points are in both groups. Choose groups that share none.")
        for name, chosen in (("A", first), ("B", second)):
            if chosen and not 0 <= min(chosen) <= max(chosen) < len(self.rows):
                raise UsageError(f"Group {name}: points are numbered 0 to {len(self.rows) - 1}.")
            groups[list(chosen)] = name
        numbers = self.rows.select_dtypes("number").drop(columns=["umap_0", "umap_1", "rank", "seed"], errors="ignore")
        numbers = numbers.drop(columns=["generation", "individual"], errors="ignore")
        tests = compare(numbers, pd.Series(groups))
        tests = tests.sort_values(["p_adjusted", "cliffs_delta"], ascending=[True, False]).head(most)
        intervals = []
        for test in tests.itertuples():
            column = numbers[test.quantity].to_numpy(float)
            high, low = (column[(groups == name) & ~np.isnan(column)] for name in (test.higher, test.lower))
            intervals.append(cliffs_delta_interval(high, low))
        return tests.assign(delta_low=[each[0] for each in intervals], delta_high=[each[1] for each in intervals])


def point_table(
    root: str, runs: Collection[FoundRun], points: Points, analyses: Collection[FoundRun] = ()
) -> PointTable:
    """Return the points of some runs below a folder or URI.

    Parameters
    ----------
    root : str
    runs : collection of FoundRun
    points : {"cells", "models", "embeddings"}
    analyses : collection of FoundRun
        Jobs of kind ``analyse``: of each of their groupings, fitted cells get a column ``class.GROUPING``.

    Raises
    ------
    UsageError
        They have none.
    """
    tables = AllRuns(root, FoundRuns(sorted(runs, key=lambda run: run.folder), []))
    view = EMBEDDINGS if points == "embeddings" else "pooled"
    if view not in tables.names:
        raise UsageError(f"There is no table {view} in {', '.join(run.run for run in runs)}.")
    where = " where rank = 1" if points == "cells" else ""
    rows = tables.table(f'select * from "{view}"{where} limit {MOST_POINTS}').to_pandas()
    if rows.empty:
        raise UsageError(f"There is nothing yet in table {view} of {', '.join(run.run for run in runs)}.")
    rows = rows.dropna(axis=1, how="all")
    if points != "embeddings":
        rows = _with_classes(rows, root, analyses)
        recipes = {run.run: str(run.job.get("recipe", "")) for run in runs}
        if len(set(recipes.values())) > 1 and "run" in rows.columns:
            rows["recipe"] = rows["run"].map(recipes)
    if len(runs) == 1:
        rows = rows.drop(columns="run", errors="ignore")
    maps = [STORED] if {"umap_0", "umap_1"} <= set(rows.columns) else []
    kinds = (COLUMNS,) if points == "embeddings" else (PARAMETERS, SCORES)
    maps += [kind for kind in kinds if len(_columns_of(rows, kind)) >= 2]
    return PointTable(rows, tuple(maps))


def _with_classes(rows: pd.DataFrame, root: str, analyses: Collection[FoundRun]) -> pd.DataFrame:
    """Return the rows with the classes that analyses give to their cells."""
    found = [run for run in analyses if "classes.parquet" in run.files]
    if not found:
        return rows
    tables = AllRuns(root, FoundRuns(sorted(found, key=lambda run: run.folder), []))
    classes = tables.table("select grouping, cell, class from analyse_classes where class <> ''").to_pandas()
    for grouping, group in classes.groupby("grouping"):
        of_cell = group.drop_duplicates("cell").set_index("cell")["class"]
        column = rows["cell"].map(of_cell)
        if column.notna().any():
            rows[f"class.{grouping}"] = column
    return rows


def sources(runs: Iterable[FoundRun]) -> list[tuple[Points, FoundRun]]:
    """Return what points there may be in runs, by the names of their folders."""
    found: list[tuple[Points, FoundRun]] = []
    for run in runs:
        if run.family == FIT and {"pooled", "hall_of_fame"} & set(run.folders):
            found += [("cells", run), ("models", run)]
        elif run.family == MODEL and (f"{EMBEDDINGS}.parquet" in run.files or EMBEDDINGS in run.folders):
            found.append(("embeddings", run))
    return found


def levels_of(column: pd.Series) -> dict[str, Any]:
    """Return a column for colouring: numbers, or its values and which of them each point has, -1 for none."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column) and column.nunique() > 12:
        return {"values": column.astype(float).tolist()}
    texts = column if pd.api.types.is_string_dtype(column) else column.map(str).where(column.notna())
    frequent = texts.value_counts().index[:MOST_LEVELS].sort_values()
    codes = pd.Categorical(texts, categories=frequent).codes
    return {"levels": list(frequent), "codes": codes.tolist()}


def principal_components(table: pd.DataFrame) -> np.ndarray:
    """Return the first two principal components of standardised columns, (n, 2).

    Missing values are at the mean. Signs are such that the largest loading is positive.
    """
    values = table.to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        wide = (np.nanmin(values, axis=0) > 0) & (np.nanmax(values, axis=0) > LOG_SPAN * np.nanmin(values, axis=0))
        values[:, wide] = np.log10(values[:, wide])
    values = values - np.nanmean(values, axis=0)
    spread = np.nanstd(values, axis=0)
    values = np.where(np.isnan(values), 0.0, values)[:, spread > 0] / spread[spread > 0]
    if values.shape[1] < 2 or len(values) < 3:
        return np.zeros((len(values), 2))
    _, axes = np.linalg.eigh(values.T @ values)
    axes = axes[:, [-1, -2]]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    return values @ axes


def _columns_of(rows: pd.DataFrame, map: str) -> list[str]:
    if map == PARAMETERS:
        return [name for name in rows.columns if name.startswith(PARAMETER_PREFIX)]
    if map == SCORES:
        return [name for name in rows.columns if name.startswith(OBJECTIVE_PREFIX)]
    return [name for name in rows.columns if _is_component(name) and not name.startswith("umap_")]


def _is_component(name: str) -> bool:
    stem, _, number = name.rpartition("_")
    return bool(stem) and number.isdigit()
