"""Every quantity between every pair of classes, and the genes and e-features that go with a conductance."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, mannwhitneyu

LEAST_CELLS_OF_CLASS = 3
"""Cells that a class needs for a test: with fewer no p value can be small."""
FALSE_DISCOVERY_RATE = 0.05
NORMAL_95 = 1.96
COMPARISON_COLUMNS = {
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
        One row a quantity and pair, columns as in `COMPARISON_COLUMNS`; `higher` is the class with larger values, and
        Cliff's delta is its own, from 0 to 1. Pairs where a class has fewer than
        `LEAST_CELLS_OF_CLASS` cells are left out.
    """
    labels = classes.to_numpy(dtype=str)
    names = sorted(set(labels) - {""})
    rows = []
    for quantity in values.columns:
        column = values[quantity].to_numpy(np.float64)
        samples = {name: column[(labels == name) & ~np.isnan(column)] for name in names}
        for first, second in combinations(names, 2):
            if min(len(samples[first]), len(samples[second])) >= LEAST_CELLS_OF_CLASS:
                rows.append({"quantity": str(quantity)} | _pair(first, samples[first], second, samples[second]))
    table = pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))
    if rows:
        p = table["p"].to_numpy(np.float64)
        table["p_adjusted"] = false_discovery_control(p)
        table["p_adjusted_two_sided"] = false_discovery_control(np.minimum(2.0 * p, 1.0))
        table["significant"] = table["p_adjusted"] < FALSE_DISCOVERY_RATE
    return table.astype(COMPARISON_COLUMNS)


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> float:
    """Return how much more often a value of `one` is above one of `other` than below it, -1 to 1."""
    u = mannwhitneyu(first, second).statistic
    return float(2.0 * u / (len(first) * len(second)) - 1.0)


def cliffs_delta_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the 95 % confidence interval of Cliff's delta, by his variance (1996), asymmetric (Feng & Cliff, 2004).

    Parameters
    ----------
    first, second : array, shape (n,) and (m,)
        At least two values each.
    """
    n, m = len(first), len(second)
    below, not_above = (np.searchsorted(np.sort(second), first, side) for side in ("left", "right"))
    rows = (below + not_above - m) / m
    others_below, others_not_above = (np.searchsorted(np.sort(first), second, side) for side in ("left", "right"))
    columns = (n - others_not_above - others_below) / n
    delta = float(rows.mean())
    squares = n * m - float((not_above - below).sum())  # of the signs of all pairs: 0 for a tie
    within = squares - m * (rows**2).sum() - n * (columns**2).sum() + n * m * delta**2
    variance = rows.var(ddof=1) / n + columns.var(ddof=1) / m + within / ((n - 1) * (m - 1) * n * m)
    if abs(delta) == 1:
        return delta, delta  # no pair says otherwise: the variance is not known
    wide = NORMAL_95**2 * max(float(variance), (1 - delta**2) / (n * m - 1))
    half = np.sqrt(wide * ((1 - delta**2) ** 2 + wide))
    low, high = ((delta - delta**3 + sign * half) / (1 - delta**2 + wide) for sign in (-1, 1))
    return max(-1.0, float(low)), min(1.0, float(high))


def _pair(first: str, first_values: np.ndarray, second: str, second_values: np.ndarray) -> dict[str, object]:
    greater = mannwhitneyu(first_values, second_values, alternative="greater")
    delta = float(2.0 * greater.statistic / (len(first_values) * len(second_values)) - 1.0)
    p = min(float(greater.pvalue), float(mannwhitneyu(first_values, second_values, alternative="less").pvalue))
    if delta < 0:
        first, first_values, second, second_values, delta = second, second_values, first, first_values, -delta
    return {
        "higher": first,
        "lower": second,
        "n_higher": len(first_values),
        "n_lower": len(second_values),
        "median_higher": float(np.median(first_values)),
        "median_lower": float(np.median(second_values)),
        "cliffs_delta": delta,
        "p": min(p, 1.0),
    }


@dataclass(frozen=True)
class Link:
    """A conductance with what it is expected to rise and fall with.

    Attributes
    ----------
    mechanisms : tuple of str
        Suffixes of the channel; each of its `gbar_<mechanism>.<section>` is compared.
    genes : tuple of str
    features : tuple of str
        E-features that rise with it.
    """

    mechanisms: tuple[str, ...]
    genes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    def has_parameter(self, name: str) -> bool:
        """Whether a parameter is the maximal conductance of one of the mechanisms."""
        base = name.partition(".")[0]
        return base in {f"gbar_{mechanism}" for mechanism in self.mechanisms}


LINKS: Mapping[str, Link] = {
    "Kv3.1": Link(("Kv3_1",), ("Kcnc1",)),
    "Ih": Link(("Ih",), ("Hcn1", "Hcn2", "Hcn3")),
    "NaTa_t": Link(("NaTa_t",), ("Scn8a",)),
    "K_P": Link(("K_Pst", "K_P"), ("Kcna1", "Kcna2", "Kcna3", "Kcna6")),
    "K_T": Link(("K_Tst", "K_T"), ("Kcnd1", "Kcnd2", "Kcnd3")),
}
"""The pairs of the paper."""

LINK_COLUMNS = ("higher", "lower", "n_higher", "n_lower", "cliffs_delta", "p_adjusted", "p_adjusted_two_sided")


def side_by_side(tests: pd.DataFrame, links: Mapping[str, Link]) -> pd.DataFrame:
    """Return the tests of linked quantities, conductances first, a pair of classes after the other.

    Parameters
    ----------
    tests : DataFrame
        Of :func:`neurofleet.neurosim.studies.class_comparisons.compare`, with columns `grouping`, `family`
        (``parameters``, ``genes`` or ``features``) and `table` before them.
    links : mapping
        Name -> link.

    Returns
    -------
    DataFrame
        One row a linked quantity and pair: `grouping`, `pair`, `link`, `family`, `table`, `quantity` and the
        columns `LINK_COLUMNS`. `agrees`: for genes and features, whether the same class is higher as in any
        conductance of the link that differs significantly; missing where there is none, where conductances
        contradict each other, and for conductances.
    """
    rows = []
    for (grouping, pair), group in tests.assign(pair=_pairs(tests)).groupby(["grouping", "pair"], sort=True):
        for name, link in links.items():
            quantities = zip(group["family"], group["quantity"], strict=True)
            linked = group[[_belongs(link, family, quantity) for family, quantity in quantities]]
            conductances = linked[linked["family"] == "parameters"]
            highest = set(conductances.loc[conductances["significant"], "higher"])
            for row in pd.concat([conductances, linked[linked["family"] != "parameters"]]).itertuples(index=False):
                is_other = row.family != "parameters" and len(highest) == 1
                rows.append(
                    {"grouping": grouping, "pair": pair, "link": name, "family": row.family}
                    | {"table": row.table, "quantity": row.quantity}
                    | {key: getattr(row, key) for key in LINK_COLUMNS}
                    | {"agrees": row.higher in highest if is_other else None}
                )
    columns = ["grouping", "pair", "link", "family", "table", "quantity", *LINK_COLUMNS, "agrees"]
    return pd.DataFrame(rows, columns=columns).astype({"agrees": "boolean"})


def missing_genes(links: Mapping[str, Link], measured: Iterable[str]) -> list[str]:
    """Return the linked genes that no expression table has."""
    linked = {gene for link in links.values() for gene in link.genes}
    return sorted(linked - set(measured))


def _pairs(tests: pd.DataFrame) -> list[str]:
    return [" / ".join(sorted((first, second))) for first, second in zip(tests["higher"], tests["lower"], strict=True)]


def _belongs(link: Link, family: str, quantity: str) -> bool:
    if family == "parameters":
        return link.has_parameter(quantity)
    return quantity in (link.genes if family == "genes" else link.features)
