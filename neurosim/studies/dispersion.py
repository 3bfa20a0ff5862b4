"""How far models of one cell lie apart, against models of other cells and of other classes (Figure 2A-B)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu, wilcoxon
from sklearn.preprocessing import StandardScaler

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.class_comparisons import cliffs_delta
from neurofleet.neurosim.studies.model_table import ModelTable

PERMUTATIONS = 1_999


@dataclass(frozen=True, eq=False)
class Dispersion:
    """Distances in the space of standardised shared parameters.

    Attributes
    ----------
    models : DataFrame
        One row a model: `cell`, `rank`, `class`, `to_cell` and `to_class`, its distances to the centroids of
        its cell and of its class (the mean of its cells' centroids).
    cells : DataFrame
        One row a cell: `cell`, `class`, `within_cell`, `between_cells`, `between_classes`, mean distances of
        its models to each other, to models of other cells of its class, and to those of other classes;
        `to_centroid`, the sum of its models' distances to their centroid.
    pairs : DataFrame
        `cell`, `other`, `distance`: mean distance between the models of two cells, for the heat map.
    tests : DataFrame
        One row an expectation: `smaller`, `larger`, their means, the one-sided p of Mann-Whitney over cells
        as in the paper, of Wilcoxon over the same cells in pairs, of permuted classes where they matter, and
        Cliff's delta.
    """

    models: pd.DataFrame
    cells: pd.DataFrame
    pairs: pd.DataFrame
    tests: pd.DataFrame


def dispersion(models: ModelTable, classes: pd.Series, seed: int) -> Dispersion:
    """Measure dispersion within cells, between cells of a class, and between classes.

    Parameters are standardised, not logarithms: currents, and the search itself, are linear in them, and a
    conductance of 1e-9 is as good as none, which a logarithm would set far from one of 1e-6.
    Distances between models are averaged for each cell first: the cell is the unit of the tests.

    Parameters
    ----------
    models : ModelTable
        With values for all parameters.
    classes : Series
        Class of every cell in `models`, by cell.
    seed : int
        Of the permutations.

    Raises
    ------
    InputError
        There is too little of them, as `reason_for_no_dispersion` says.
    """
    reason = reason_for_no_dispersion(models, classes)
    if reason:
        raise InputError(reason)
    values = StandardScaler().fit_transform(models.values)
    cells, firsts, counts = np.unique(models.cells, return_index=True, return_counts=True)
    names = classes.loc[cells].to_numpy(dtype=str)
    bounds = [*firsts, len(values)]
    distances = np.empty((len(cells), len(cells)))
    centroids = np.array([values[a:b].mean(axis=0) for a, b in zip(bounds, bounds[1:], strict=False)])
    for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        sums = np.add.reduceat(cdist(values[start:stop], values).sum(axis=0), firsts)
        distances[number] = sums / (counts[number] * counts)
    per_model = _to_centroids(models, values, cells, names, centroids)
    within = np.diag(distances) * counts / np.maximum(counts - 1, 1)
    same = names[:, None] == names[None]
    table = pd.DataFrame(
        {
            "cell": cells,
            "class": names,
            "within_cell": np.where(counts > 1, within, np.nan),
            "between_cells": _mean(distances, same & ~np.eye(len(cells), dtype=bool)),
            "between_classes": _mean(distances, ~same),
            "to_centroid": per_model.groupby("cell", sort=True)["to_cell"].sum().to_numpy(),
        }
    )
    row, column = np.triu_indices(len(cells))
    pairs = pd.DataFrame({"cell": cells[row], "other": cells[column], "distance": distances[row, column]})
    pairs.loc[row == column, "distance"] = within
    permuted = _permuted(distances, names, seed)
    return Dispersion(per_model, table, pairs, _tests(table, permuted))


def reason_for_no_dispersion(models: ModelTable, classes: pd.Series) -> str | None:
    """Return why models have no dispersion to compare, None where they have."""
    most = int(np.unique(models.cells, return_counts=True)[1].max())
    sizes = classes.value_counts(sort=False).sort_index()
    if most >= 2 and (sizes >= 2).sum() >= 2:
        return None
    listed = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    return (
        "expected several models a cell, and at least two classes with two cells or more, found "
        f"{most} models a cell at most and classes {listed}."
    )


def _to_centroids(
    models: ModelTable, values: np.ndarray, cells: np.ndarray, names: np.ndarray, centroids: np.ndarray
) -> pd.DataFrame:
    number = np.searchsorted(cells, models.cells)
    of_class = {name: centroids[names == name].mean(axis=0) for name in np.unique(names)}
    own_class = np.array([of_class[name] for name in names])
    return pd.DataFrame(
        {
            "cell": models.cells,
            "rank": models.ranks,
            "class": names[number],
            "to_cell": np.linalg.norm(values - centroids[number], axis=1),
            "to_class": np.linalg.norm(values - own_class[number], axis=1),
        }
    )


def _mean(distances: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    counts = chosen.sum(axis=1)
    sums = np.where(chosen, distances, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _tests(cells: pd.DataFrame, permuted: float) -> pd.DataFrame:
    rows = []
    for smaller, larger, p in (
        ("within_cell", "between_cells", np.nan),
        ("between_cells", "between_classes", permuted),
    ):
        both = cells[[smaller, larger]].dropna()
        low, high = both[smaller].to_numpy(), both[larger].to_numpy()
        rows.append(
            {
                "smaller": smaller,
                "larger": larger,
                "n_cells": len(both),
                "mean_smaller": low.mean(),
                "mean_larger": high.mean(),
                "p_mann_whitney": mannwhitneyu(low, high, alternative="less").pvalue,
                "p_wilcoxon": wilcoxon(low, high, alternative="less").pvalue,
                "p_permutation": p,
                "cliffs_delta": cliffs_delta(high, low),
            }
        )
    return pd.DataFrame(rows)


def _permuted(distances: np.ndarray, names: np.ndarray, seed: int) -> float:
    """Return how often cells of permuted classes are at least as close as cells of the true ones.

    Cells share each other's distances, which a test over cells does not know; permuting classes does.
    """
    row, column = np.triu_indices(len(names), k=1)
    flat = distances[row, column]
    number = np.unique(names, return_inverse=True)[1]

    def inside(labels: np.ndarray) -> float:  # the number of pairs inside classes is the same for all
        return float(flat[labels[row] == labels[column]].sum())

    rng = np.random.default_rng(seed)
    true_sum = inside(number)
    reached = sum(inside(rng.permutation(number)) <= true_sum for _ in range(PERMUTATIONS))
    return (reached + 1) / (PERMUTATIONS + 1)
