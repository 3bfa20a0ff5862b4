"""What an analysis found, in short, as plain JSON."""

from typing import TYPE_CHECKING, Any

from jobs.analyse.analysis import Tables
from jobs.analyse.inputs import Inputs
from jobs.analyse.spec import AnalyseSpec

if TYPE_CHECKING:
    import pandas as pd

Findings = dict[str, Any]


def findings_of(spec: AnalyseSpec, inputs: Inputs, tables: Tables, notes: list[str]) -> Findings:
    """Return what is worth telling: dispersion, forests, maps, tests, links."""
    from jobs.provenance import versions

    return {
        "name": spec.name,
        "kind": spec.kind,
        "notes": notes,
        "versions": versions(),
        "unit": spec.unit,
        "cells": len(set(inputs.models.cells)),
        "models": len(inputs.models),
        "groupings": {name: _grouping(name, inputs, tables) for name in inputs.groupings},
        "maps": _maps(tables),
        "links": _rows(tables["links"]),
    }


def _grouping(name: str, inputs: Inputs, tables: Tables) -> dict[str, Any]:
    one = inputs.groupings[name]
    tests = tables["tests"]
    mine = tests[tests["grouping"] == name]
    families = mine.groupby(["family", "table"], sort=False)["significant"].agg(["size", "sum"])
    return {
        "classes": {
            str(key): int(size) for key, size in one.classes.value_counts(sort=False).sort_index().items()
        },
        "models": len(one.models),
        "shared_parameters": list(one.shared),
        "dispersion": _rows(_under(tables.get("dispersion_tests"), name)),
        "forest": _forest(_under(tables.get("forest_scores"), name)),
        "tests": [
            {"family": family, "table": source, "tests": int(size), "significant": int(number)}
            for (family, source), size, number in families.itertuples()
        ],
    }


def _forest(scores: "pd.DataFrame | None") -> dict[str, Any] | None:
    """Return the means over shuffles, and the range of F1."""
    if scores is None or not len(scores):
        return None
    mean = scores.drop(columns=["grouping", "shuffle", "trees"]).mean()
    found = {str(key): float(value) for key, value in mean.items()}
    return found | {"f1_low": float(scores["f1"].min()), "f1_high": float(scores["f1"].max())}


def _maps(tables: Tables) -> dict[str, Any]:
    found = {}
    points, gaps = tables.get("map_points"), tables.get("map_gaps")
    if points is None or gaps is None:
        return {}
    for name, mine in points.groupby("map", sort=False):
        fitted = mine[mine["part"] == "fitted"].set_index("cell")["cluster"]
        placed = {}
        for source, rows in mine[mine["part"] == "placed"].groupby("table", sort=False):
            there = rows[rows["cell"].isin(fitted.index)]
            same = there["cluster"].to_numpy() == fitted.loc[there["cell"]].to_numpy()
            placed[str(source)] = {
                "rows": len(rows),
                "of_mapped_cells": len(there),
                "in_their_cells_cluster": float(same.mean()) if len(there) else None,
            }
        chosen = gaps[(gaps["map"] == name) & gaps["chosen"]]
        found[str(name)] = {
            "fitted": len(fitted),
            "clusters": int(chosen["clusters"].iloc[0]),
            "placed": placed,
        }
    return found


def _under(table: "pd.DataFrame | None", grouping: str) -> "pd.DataFrame | None":
    return None if table is None else table[table["grouping"] == grouping]


def _rows(table: "pd.DataFrame | None") -> list[dict[str, Any]]:
    """Return the rows of a table with None for missing values."""
    import pandas as pd

    if table is None:
        return []
    plain = table.astype(object)
    return [
        {str(key): value for key, value in row.items()}
        for row in plain.where(pd.notna(plain), None).to_dict("records")
    ]
