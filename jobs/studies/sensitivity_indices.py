"""Tables of Sobol indices by the routes to them, and how well the routes agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.neurosim.studies.sobol_indices import Indices, average

CHAOS = "polynomial-chaos"
"""Of total order 4, as the paper has it."""

BEST = "best-order"
"""Polynomial chaos of the order, up to 4, that foretells a feature best; from the same runs."""

SALIB, UNCERTAINPY = "salib", "uncertainpy"


RUNS, INDICES, AVERAGES = "runs", "indices.parquet", "averages.parquet"
KINDS = ("first", "total")


def runs_table(
    about: Mapping[str, Any],
    start: int,
    parameters: Sequence[str],
    nodes: np.ndarray,
    features: Sequence[str],
    outcomes: "Sequence[Outcome]",
) -> "pa.Table":
    """Return a row for each run: where it was, what was measured, and what became of it.

    Parameters
    ----------
    about : mapping
        Columns that are the same in all rows.
    start : int
        Number of the first run.
    parameters : sequence of str, length P
    nodes : ndarray, shape (n, P)
    features : sequence of str, length F
    outcomes : sequence of Outcome, length n
        Whose values are (F,) arrays.
    """
    nothing = np.full(len(features), np.nan)
    values = np.array([outcome.value if outcome.ok else nothing for outcome in outcomes])
    columns: dict[str, Any] = {key: [value] * len(outcomes) for key, value in about.items()}
    columns["simulation"] = np.arange(start, start + len(outcomes))
    columns |= dict(zip(parameters, nodes.T, strict=True))
    columns |= {name: pa.array(column, from_pandas=True) for name, column in zip(features, values.T, strict=True)}
    columns["status"] = [outcome.status for outcome in outcomes]
    columns["reason"] = [outcome.reason for outcome in outcomes]
    columns["seconds"] = [outcome.seconds for outcome in outcomes]
    return pa.table(columns)


def indices_rows(about: Mapping[str, Any], found: Indices) -> list[dict[str, Any]]:
    """Return a row for each feature and parameter; what is not known is None."""
    return [
        dict(about)
        | {"feature": feature, "parameter": parameter}
        | {
            name: _known(getattr(found, name)[f, p])
            for name in ("first", "total", "first_low", "first_high", "total_low", "total_high")
        }
        | {
            "runs": int(found.runs[f]),
            "left_out": int(found.left_out[f]),
            "order": int(found.orders[f]) or None,
            "surrogate_error": _known(found.surrogate_error[f]),
            "reason": found.reasons[f],
        }
        for f, feature in enumerate(found.features)
        for p, parameter in enumerate(found.parameters)
    ]


def averages_rows(rows: Sequence[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return the mean of each index over cells and models, with its interval.

    Parameters
    ----------
    rows : sequence of mapping
        As `indices_rows` returns them.
    seed : int
        Of the bootstrap.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["engine"], row["feature"], row["parameter"]), []).append(row)
    found = []
    for (engine, feature, parameter), members in groups.items():
        made: dict[str, Any] = {"engine": engine, "feature": feature, "parameter": parameter}
        cells = [member["cell"] for member in members]
        for kind in KINDS:
            index = [np.nan if member[kind] is None else member[kind] for member in members]
            one = average(index, cells, seed)
            made[kind] = _known(one.mean)
            made |= {f"{kind}_{name}": _known(getattr(one, name)) for name in ("low", "high", "spread")}
            made |= {"cells": one.cells, "models": one.models}
        found.append(made)
    return found


def _known(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


AGAINST = ((CHAOS, UNCERTAINPY), (CHAOS, SALIB), (BEST, SALIB))
PLACE = ("cell", "seed", "rank", "feature", "parameter")


def agreements(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare polynomial chaos with the other engines, over all models, features and parameters of both.

    Parameters
    ----------
    rows : sequence of mapping
        As `neurofleet.jobs.studies.sensitivity_indices.indices_rows` returns them.

    Returns
    -------
    list of dict
        For each pair of engines and each feature: indices compared, the largest difference, and how many are
        inside the other engine's interval, None where it has none.
    """
    found = []
    for mine, engine in AGAINST:
        ours = {tuple(row[key] for key in PLACE): row for row in rows if row["engine"] == mine}
        groups: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
        for row in rows:
            place = tuple(row[key] for key in PLACE)
            if row["engine"] == engine and place in ours:
                groups.setdefault(row["feature"], []).append((ours[place], row))
        found += [_compared(mine, engine, feature, pairs) for feature, pairs in groups.items()]
    return found


def surrogates(features: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how well the surrogates of each feature foretell a run that they have not seen."""
    return [_predicted(feature, [row for row in rows if row["feature"] == feature]) for feature in features]


def _predicted(feature: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    of_engine = {
        engine: list({(r["cell"], r["seed"], r["rank"]): r for r in rows if r["engine"] == engine}.values())
        for engine in (CHAOS, BEST)
    }
    chaos = of_engine[CHAOS]
    errors, best = (
        [row["surrogate_error"] for row in found if row["surrogate_error"] is not None] for found in of_engine.values()
    )
    return {
        "feature": feature,
        "models": len(errors),
        "median_error": float(np.median(errors)) if errors else None,
        "largest_error": max(errors, default=None),
        "best_median_error": float(np.median(best)) if best else None,
        "best_orders": sorted({row["order"] for row in of_engine[BEST] if row["order"] is not None}),
        "left_out": sum(row["left_out"] for row in chaos),
        "reasons": sorted({row["reason"] for row in chaos if row["reason"] is not None}),
    }


def _compared(
    mine_engine: str, engine: str, feature: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> dict[str, Any]:
    differences, inside, intervals = [], 0, 0
    for mine, theirs in pairs:
        for kind in KINDS:
            if mine[kind] is None or theirs[kind] is None:
                continue
            differences.append(abs(mine[kind] - theirs[kind]))
            low, high = theirs[f"{kind}_low"], theirs[f"{kind}_high"]
            if low is not None:
                intervals += 1
                inside += low <= mine[kind] <= high
    return {
        "of": mine_engine,
        "engine": engine,
        "feature": feature,
        "indices": len(differences),
        "largest_difference": max(differences, default=None),
        "inside_interval": inside if intervals else None,
    }
