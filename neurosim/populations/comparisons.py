"""Every quantity between every pair of classes: Mann-Whitney, Benjamini-Hochberg, Cliff's delta."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, mannwhitneyu

LEAST = 3
"""Cells that a class needs for a test: with fewer no p value can be small."""
RATE = 0.05
COLUMNS = {
    "quantity": str,
    "higher": str,
    "lower": str,
    "n_higher": int,
    "n_lower": int,
    "median_higher": float,
    "median_lower": float,
    "cliffs_delta": float,
    "p": float,
    "p_adjusted": float,
    "p_adjusted_two_sided": float,
    "significant": bool,
}


def compare(values: pd.DataFrame, classes: pd.Series) -> pd.DataFrame:
    """Test each quantity between each pair of classes.

    Mann-Whitney U is taken one-sided both ways and the smaller p kept, then adjusted after Benjamini and
    Hochberg over all pairs and quantities of the table, as in the paper. The smaller of two one-sided p is
    half the two-sided one; the adjusted two-sided p stands beside it.

    Parameters
    ----------
    values : DataFrame
        One row a cell, one column a quantity; NaN where a cell does not have it.
    classes : Series
        Class of each row, in the same order; "" for cells of none.

    Returns
    -------
    DataFrame
        One row a quantity and pair, columns as in `COLUMNS`; `higher` is the class with larger values, and
        Cliff's delta is its own, from 0 to 1. Pairs where a class has fewer than `LEAST` cells are left out.
    """
    labels = classes.to_numpy(dtype=str)
    names = sorted(set(labels) - {""})
    rows = []
    for quantity in values.columns:
        column = values[quantity].to_numpy(np.float64)
        samples = {name: column[(labels == name) & ~np.isnan(column)] for name in names}
        for one, other in combinations(names, 2):
            if min(len(samples[one]), len(samples[other])) >= LEAST:
                rows.append({"quantity": str(quantity)} | _pair(one, samples[one], other, samples[other]))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    if rows:
        p = table["p"].to_numpy(np.float64)
        table["p_adjusted"] = false_discovery_control(p)
        table["p_adjusted_two_sided"] = false_discovery_control(np.minimum(2.0 * p, 1.0))
        table["significant"] = table["p_adjusted"] < RATE
    return table.astype(COLUMNS)


def cliffs_delta(one: np.ndarray, other: np.ndarray) -> float:
    """Return how much more often a value of `one` is above one of `other` than below it, -1 to 1."""
    u = mannwhitneyu(one, other).statistic
    return float(2.0 * u / (len(one) * len(other)) - 1.0)


def _pair(one: str, a: np.ndarray, other: str, b: np.ndarray) -> dict[str, object]:
    found = mannwhitneyu(a, b, alternative="greater")
    delta = float(2.0 * found.statistic / (len(a) * len(b)) - 1.0)
    p = min(float(found.pvalue), float(mannwhitneyu(a, b, alternative="less").pvalue))
    if delta < 0:
        one, a, other, b, delta = other, b, one, a, -delta
    return {
        "higher": one,
        "lower": other,
        "n_higher": len(a),
        "n_lower": len(b),
        "median_higher": float(np.median(a)),
        "median_lower": float(np.median(b)),
        "cliffs_delta": delta,
        "p": min(p, 1.0),
    }
