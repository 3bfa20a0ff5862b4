"""The tables of a comparison: what each model does at each step, its spikes, and its parameters."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.outcome import Outcome
from jobs.compare.inputs import Comparison
from neurosim.perisomatic.initiation import passages

MEASURED = "measured"
RECORDED = "recorded"
TRACE_MS = 0.1
"""Of a cell's best models the voltage at the soma is kept at this interval."""

_MODEL = [("type", pa.string()), ("seed", pa.int64()), ("rank", pa.int32())]
SCHEMA = pa.schema(
    [
        *_MODEL,
        ("status", pa.string()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
        ("step", pa.string()),
        ("place", pa.string()),
        ("distance_um", pa.float64()),
        ("spikes_ms", pa.list_(pa.float64())),
        ("features", pa.list_(pa.float64())),
        ("time_ms", pa.list_(pa.float32())),
        ("soma_mV", pa.list_(pa.float32())),
        ("close_ms", pa.list_(pa.float64())),
        ("close_mV", pa.list_(pa.float32())),
    ]
)
"""Of what is stored as it is measured: a row a model, step and place."""


def measured_table(comparison: Comparison, kind: str, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row a model, step and place; one row without a step for a model that came to nothing."""
    population = comparison.populations[kind]
    rows: list[dict[str, Any]] = []
    for i, outcome in enumerate(outcomes, first):
        own = {
            "type": kind,
            "seed": int(population.seeds[i]),
            "rank": int(population.ranks[i]),
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
        }
        if not outcome.ok:
            rows.append(own)
            continue
        for step, response in outcome.value.items():
            for k, place in enumerate(response.places):
                row = own | {"step": step, "place": place.name, "distance_um": place.distance_um}
                row |= {"spikes_ms": response.spikes_ms[k]}
                if k == 0:
                    row["features"] = list(response.features.values())
                if i == 0:
                    row |= {"close_ms": response.close_ms, "close_mV": response.close_mV[k]}
                if i == 0 and k == 0:
                    every = max(1, round(TRACE_MS / (response.time_ms[1] - response.time_ms[0])))
                    row |= {"time_ms": response.time_ms[::every], "soma_mV": response.soma_mV[::every]}
                rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def feature_rows(
    comparison: Comparison, names: Sequence[str], measured: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return what was recorded and each model's e-features: a row a value; none where there is no value."""
    amplitudes = {step.name: step.amplitude_nA for step in comparison.steps}
    rows = [
        _feature(comparison.cell, RECORDED, None, None, step, amplitudes[step], name, mean) | {"std": std}
        for (step, name), (mean, std, _) in comparison.recorded.items()
        if step in amplitudes
    ]
    for row in measured:
        for name, value in zip(names, row["features"] or (), strict=False):
            step = row["step"]
            about = (comparison.cell, row["type"], row["seed"], row["rank"], step, amplitudes[step])
            rows.append(_feature(*about, name, value))
    return rows


def _feature(
    cell: str,
    kind: str,
    seed: int | None,
    rank: int | None,
    step: str,
    amplitude_nA: float,
    name: str,
    value: float,
) -> dict[str, Any]:
    return {
        "cell": cell,
        "type": kind,
        "seed": seed,
        "rank": rank,
        "step": step,
        "amplitude_nA": amplitude_nA,
        "feature": name,
        "value": None if value != value else float(value),
        "std": None,
    }


def spike_rows(cell: str, measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row a somatic spike and place of the axon: when it came there after the soma."""
    rows = []
    for places in _by_step(measured):
        soma, axon = places[0], places[1:]
        followed = passages(np.array(soma["spikes_ms"]), [np.array(one["spikes_ms"]) for one in axon])
        for number, spike in enumerate(followed):
            for place, delay in zip(axon, spike.delays_ms, strict=True):
                rows.append(
                    {
                        "cell": cell,
                        "type": soma["type"],
                        "seed": soma["seed"],
                        "rank": soma["rank"],
                        "step": soma["step"],
                        "spike": number,
                        "soma_ms": spike.soma_ms,
                        "begins": spike.begins,
                        "place": place["place"],
                        "distance_um": place["distance_um"],
                        "delay_ms": None if delay != delay else delay,
                    }
                )
    return rows


def _by_step(measured: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the places of each model and step, the soma first."""
    found: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in measured:
        if row["step"] is not None:
            found.setdefault((row["type"], row["seed"], row["rank"], row["step"]), []).append(row)
    return list(found.values())


def parameter_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return all parameters of all models, a row a value, those that were not searched as well."""
    rows = []
    for kind, population in comparison.populations.items():
        fixed = population.model.fixed
        for seed, rank, values in zip(population.seeds, population.ranks, population.values, strict=True):
            named = dict(fixed) | dict(zip(population.parameters, values.tolist(), strict=True))
            for full_name, value in named.items():
                name, _, section = full_name.rpartition(".")
                rows.append(
                    {
                        "cell": comparison.cell,
                        "type": kind,
                        "seed": int(seed),
                        "rank": int(rank),
                        "parameter": name,
                        "section": section,
                        "value": float(value),
                    }
                )
    return rows
