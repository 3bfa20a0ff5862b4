"""The tables of a sensitivity analysis: runs, indices, and their means over cells."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosim.sensitivity.averages import average
from neurosim.sensitivity.indices import Indices

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.outcome import Outcome

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
    import pyarrow as pa

    nothing = np.full(len(features), np.nan)
    values = np.array([outcome.value if outcome.ok else nothing for outcome in outcomes])
    columns: dict[str, Any] = {key: [value] * len(outcomes) for key, value in about.items()}
    columns["simulation"] = np.arange(start, start + len(outcomes))
    columns |= dict(zip(parameters, nodes.T, strict=True))
    columns |= {
        name: pa.array(column, from_pandas=True) for name, column in zip(features, values.T, strict=True)
    }
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
