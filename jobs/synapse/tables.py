"""The tables of synapses: a row a model and site, and means over cells of a class."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cluster.outcome import Outcome
from jobs.synapse.inputs import Synapsed

SITES = "sites"
MEASURES = ("amplitude_mV", "half_width_ms", "latency_ms")
CHANGES = ("amplitude_change_percent", "half_width_change_percent", "latency_change_percent")
SCHEMA = pa.schema(
    [
        ("class", pa.string()),
        ("seed", pa.int64()),
        ("rank", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
        ("section", pa.string()),
        ("wanted_um", pa.float64()),
        ("distance_um", pa.float64()),
        ("baseline_mV", pa.float64()),
        *((name, pa.float64()) for name in (*MEASURES, *CHANGES)),
    ]
)


def sites_table(synapsed: Synapsed, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row a model and site; one row without a site for a model that came to nothing."""
    from neurosim.psp import relative_change

    population = synapsed.population
    rows: list[dict[str, Any]] = []
    for i, outcome in enumerate(outcomes, first):
        own = {
            "class": synapsed.group,
            "seed": int(population.seeds[i]),
            "rank": int(population.ranks[i]),
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
        }
        if not outcome.ok:
            rows.append(own)
            continue
        changes = [relative_change(outcome.value, name) for name in MEASURES]
        for k, psp in enumerate(outcome.value):
            row = own | {
                "reason": psp.fault,
                "section": psp.site.section,
                "wanted_um": psp.site.wanted_um,
                "distance_um": psp.site.distance_um,
                "baseline_mV": psp.baseline_mV,
            }
            row |= {name: _number(getattr(psp, name)) for name in MEASURES}
            row |= {name: _number(change[k]) for name, change in zip(CHANGES, changes, strict=True)}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def curve_rows(sites: "pa.Table") -> list[dict[str, Any]]:
    """Return means over the cells of a class at each distance, each cell the mean of its models.

    Intervals are of 95 % over cells, by Student's t; none for a single cell.
    """
    import numpy as np
    from scipy.stats import t as student

    frame = sites.to_pandas()
    frame = frame[frame["section"].notna()]
    names = [*MEASURES, *CHANGES]
    cells = frame.groupby(["class", "section", "wanted_um", "cell"], observed=True)[names].mean()
    rows: list[dict[str, Any]] = []
    for (group, section, wanted), of in cells.groupby(level=["class", "section", "wanted_um"], observed=True):
        for name in names:
            values = of[name].dropna().to_numpy()
            if not values.size:
                continue
            half = None
            if values.size > 1:
                error = values.std(ddof=1) / np.sqrt(values.size)
                half = float(student.ppf(0.975, values.size - 1) * error)
            rows.append(
                {
                    "class": str(group),
                    "section": str(section),
                    "distance_um": float(wanted),
                    "measure": name,
                    "cells": int(values.size),
                    "mean": float(values.mean()),
                    "low": None if half is None else float(values.mean()) - half,
                    "high": None if half is None else float(values.mean()) + half,
                }
            )
    return rows
