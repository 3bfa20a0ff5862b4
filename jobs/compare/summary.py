"""What a comparison has found, in plain numbers: medians over a cell's models of each type."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.compare.inputs import Comparison
from jobs.compare.tables import RECORDED
from neurosim.perisomatic.initiation import ALONE, AT_ONCE, AXON_FIRST, SOMA_FIRST

BEGINNINGS = (AXON_FIRST, SOMA_FIRST, AT_ONCE, ALONE)
Rows = Sequence[Mapping[str, Any]]


def cell_findings(
    comparison: Comparison, measured: Rows, features: Rows, spikes: Rows, parameters: Rows
) -> dict[str, Any]:
    """Return what is found of one cell, as `findings.json` has it."""
    kinds = list(comparison.populations)
    return {
        "cell": comparison.cell,
        "models": {kind: len(comparison.populations[kind]) for kind in kinds},
        "steps": [{"step": s.name, "amplitude_nA": s.amplitude_nA} for s in comparison.steps],
        "failed": _failed(measured),
        "initiation": [_initiation(kind, [r for r in spikes if r["type"] == kind]) for kind in kinds],
        "features": _features(kinds, features),
        "parameters": _parameters(kinds, parameters),
    }


def _failed(measured: Rows) -> list[str]:
    return [
        f"{row['type']}, seed {row['seed']}, rank {row['rank']}: {row['status']}: {row['reason']}"
        for row in measured
        if row["status"] != "ok"
    ]


def _initiation(kind: str, spikes: Rows) -> dict[str, Any]:
    """Return how many spikes begin where, and the median delay at each place.

    A spike that the axon does not follow to -20 mV began at the soma.
    """
    of_spike = {(r["seed"], r["rank"], r["step"], r["spike"]): r["begins"] for r in spikes}
    counts = {name: list(of_spike.values()).count(name) for name in BEGINNINGS}
    places: dict[str, list[Mapping[str, Any]]] = {}
    for row in spikes:
        places.setdefault(row["place"], []).append(row)
    delays = []
    for name, rows in places.items():
        seen = [row["delay_ms"] for row in rows if row["delay_ms"] is not None]
        delays.append(
            {
                "place": name,
                "distance_um": rows[0]["distance_um"],
                "spikes": len(seen),
                "delay_ms": float(np.median(seen)) if seen else None,
            }
        )
    where = {
        AXON_FIRST: counts[AXON_FIRST],
        SOMA_FIRST: counts[SOMA_FIRST] + counts[ALONE],
        AT_ONCE: counts[AT_ONCE],
    }
    most = max(where, key=lambda name: where[name]) if of_spike else None
    return {"type": kind, "first": most, "spikes": len(of_spike), "begins": counts, "places": delays}


def _features(kinds: Sequence[str], rows: Rows) -> list[dict[str, Any]]:
    by: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        by.setdefault((row["step"], row["feature"]), {}).setdefault(row["type"], []).append(row)
    found = []
    for (step, name), types in by.items():
        one: dict[str, Any] = {"step": step, "feature": name, "recorded": None, "std": None}
        if RECORDED in types:
            one |= {"recorded": types[RECORDED][0]["value"], "std": types[RECORDED][0]["std"]}
        for kind in kinds:
            values = [row["value"] for row in types.get(kind, ()) if row["value"] is not None]
            middle = float(np.median(values)) if values else None
            known = middle is not None and one["recorded"] is not None and one["std"]
            z = abs(middle - one["recorded"]) / one["std"] if known and middle is not None else None
            one[kind] = {"median": middle, "z": z}
        found.append(one)
    steps = list(dict.fromkeys(row["step"] for row in rows))
    order = list(dict.fromkeys(row["feature"] for row in rows))
    return sorted(found, key=lambda one: (steps.index(one["step"]), order.index(one["feature"])))


def _parameters(kinds: Sequence[str], rows: Rows) -> list[dict[str, Any]]:
    """Return each parameter's median by type, None for a type that does not have it.

    Those that both types have come first, and conductances before others.

    A value of all sections stands for each of them where the other type has the sections apart.
    """
    values: dict[str, dict[tuple[str, str], list[float]]] = {kind: {} for kind in kinds}
    for row in rows:
        values[row["type"]].setdefault((row["parameter"], row["section"]), []).append(row["value"])
    for kind in kinds:
        others = [key for other in kinds if other != kind for key in values[other]]
        for parameter, section in others:
            whole = values[kind].get((parameter, "all"))
            if whole is not None and section != "all":
                values[kind].setdefault((parameter, section), whole)
    names = list(dict.fromkeys(key for kind in kinds for key in values[kind]))
    split = {parameter for parameter, section in names if section != "all"}
    found = []
    for parameter, section in names:
        if section == "all" and parameter in split:
            continue
        one: dict[str, Any] = {"parameter": parameter, "section": section}
        for kind in kinds:
            own = values[kind].get((parameter, section))
            one[kind] = None if own is None else float(np.median(own))
        found.append(one)

    def order(one: Mapping[str, Any]) -> tuple[bool, bool, str, str]:
        alone = any(one[kind] is None for kind in kinds)
        return alone, not one["parameter"].startswith("gbar_"), one["parameter"], one["section"]

    return sorted(found, key=order)
