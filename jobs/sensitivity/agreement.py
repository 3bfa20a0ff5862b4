"""How well surrogates foretell, and how well the routes to the same indices agree."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.sensitivity.engines import BEST, CHAOS, SALIB, UNCERTAINPY
from jobs.sensitivity.tables import KINDS

AGAINST = ((CHAOS, UNCERTAINPY), (CHAOS, SALIB), (BEST, SALIB))
PLACE = ("cell", "seed", "rank", "feature", "parameter")


def agreements(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare polynomial chaos with the other engines, over all models, features and parameters of both.

    Parameters
    ----------
    rows : sequence of mapping
        As `jobs.sensitivity.tables.indices_rows` returns them.

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
    return [_foretold(feature, [row for row in rows if row["feature"] == feature]) for feature in features]


def _foretold(feature: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    of_engine = {
        engine: list({(r["cell"], r["seed"], r["rank"]): r for r in rows if r["engine"] == engine}.values())
        for engine in (CHAOS, BEST)
    }
    chaos = of_engine[CHAOS]
    errors, best = (
        [row["surrogate_error"] for row in found if row["surrogate_error"] is not None]
        for found in of_engine.values()
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
