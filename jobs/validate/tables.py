"""The tables of a validation: a row a model, a row a model and stimulus, and what was recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.outcome import Outcome
from jobs.validate.inputs import Validation
from neurosim.simulator import FIXED_STEP_MS
from neurosim.validation.explained_variance import (
    explained_variance_ratio,
    psth_explained_variance,
    rates,
    smoothed,
)

RESPONSES = "responses"
TRACED_MODELS = 3
"""The traces of so many of a cell's best models are kept."""


def responses_table(validation: Validation, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return one row a model: what became of it, its scores, and its spikes at each played stimulus."""
    population, general = validation.population, validation.generalisation
    trained = [target.objective for target in population.model.targets.targets]
    others = [target.objective for target in general.targets] if general else []
    rows = []
    for i, outcome in enumerate(outcomes, first):
        row: dict[str, Any] = {
            "seed": int(population.seeds[i]),
            "rank": int(population.ranks[i]),
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
        }
        value = outcome.value if outcome.ok else None
        row["training"] = _mean(value.training) if value else None
        row["generalisation"] = _mean(value.generalisation) if value else None
        for k, name in enumerate(trained):
            row[f"score.{name}"] = float(value.training[k]) if value else None
        for k, name in enumerate(others):
            row[f"unseen.{name}"] = float(value.generalisation[k]) if value else None
        for stimulus in validation.stimuli:
            row[f"spikes_ms.{stimulus.name}"] = value.spikes_ms[stimulus.name].tolist() if value else None
            kept = value if i < TRACED_MODELS else None
            row[f"voltage_mV.{stimulus.name}"] = kept.voltage_mV[stimulus.name].tolist() if kept else None
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_schema(validation, trained, others))


def _schema(validation: Validation, trained: Sequence[str], others: Sequence[str]) -> pa.Schema:
    fields = [("seed", pa.int64()), ("rank", pa.int32()), ("status", pa.string()), ("reason", pa.string())]
    fields += [(name, pa.float64()) for name in ("seconds", "training", "generalisation")]
    fields += [(f"score.{name}", pa.float64()) for name in trained]
    fields += [(f"unseen.{name}", pa.float64()) for name in others]
    for stimulus in validation.stimuli:
        fields.append((f"spikes_ms.{stimulus.name}", pa.list_(pa.float64())))
        fields.append((f"voltage_mV.{stimulus.name}", pa.list_(pa.float32())))
    return pa.schema(fields)


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean()) if scores.size else None


def stimulus_rows(validation: Validation, responses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a model and played stimulus: spikes beside the recorded ones, explained variance."""
    rows = []
    for stimulus in validation.stimuli:
        recorded = rates(stimulus.spikes_ms, stimulus.duration_ms) if stimulus.is_noise else None
        for response in responses:
            spikes = response[f"spikes_ms.{stimulus.name}"]
            if spikes is None:
                continue
            row: dict[str, Any] = {
                "cell": validation.cell,
                "seed": response["seed"],
                "rank": response["rank"],
                "stimulus": stimulus.stimulus_name,
                "sweep": stimulus.sweeps[0],
                "trials": len(stimulus.sweeps),
                "recorded_spikes": float(np.mean([len(times) for times in stimulus.spikes_ms])),
                "spikes": len(spikes),
                "recorded_first_spike_ms": _first(stimulus.spikes_ms[0]),
                "first_spike_ms": _first(spikes),
                "explained_variance": None,
                "psth_explained_variance_percent": None,
            }
            if recorded is not None:
                model = smoothed(np.asarray(spikes, float), stimulus.duration_ms)
                row["explained_variance"] = _number(explained_variance_ratio(recorded, model))
                row["psth_explained_variance_percent"] = _number(psth_explained_variance(recorded, model))
            rows.append(row)
    return rows


def _first(times: Sequence[float] | np.ndarray) -> float | None:
    return float(times[0]) if len(times) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def model_rows(
    validation: Validation, responses: Sequence[Mapping[str, Any]], stimuli: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return one row a model: training and generalisation error, and explained variance over noise types."""
    rows = []
    for response in responses:
        own = [r for r in stimuli if (r["seed"], r["rank"]) == (response["seed"], response["rank"])]
        rows.append(
            {
                "cell": validation.cell,
                "seed": response["seed"],
                "rank": response["rank"],
                "status": response["status"],
                "training": response["training"],
                "generalisation": response["generalisation"],
                "explained_variance": _over_types(own, "explained_variance"),
                "psth_explained_variance_percent": _over_types(own, "psth_explained_variance_percent"),
            }
        )
    return rows


def _over_types(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean over noise types; none where one has no value."""
    noise = [row for row in rows if row["trials"] and row["psth_explained_variance_percent"] is not None]
    values = [row[name] for row in noise]
    return float(np.mean(values)) if values and all(value is not None for value in values) else None


def recorded_table(validation: Validation) -> pa.Table:
    """Return the played stimuli: current, voltage of the first trial, and spikes of all."""
    return pa.Table.from_pylist(
        [
            {
                "stimulus": stimulus.stimulus_name,
                "name": stimulus.name,
                "is_noise": stimulus.is_noise,
                "sweeps": list(stimulus.sweeps),
                "step_ms": FIXED_STEP_MS,
                "current_nA": stimulus.current_nA.astype(np.float32).tolist(),
                "voltage_mV": stimulus.voltage_mV.astype(np.float32).tolist(),
                "spikes_ms": [times.tolist() for times in stimulus.spikes_ms],
            }
            for stimulus in validation.stimuli
        ],
        schema=pa.schema(
            [
                ("stimulus", pa.string()),
                ("name", pa.string()),
                ("is_noise", pa.bool_()),
                ("sweeps", pa.list_(pa.int64())),
                ("step_ms", pa.float64()),
                ("current_nA", pa.list_(pa.float32())),
                ("voltage_mV", pa.list_(pa.float32())),
                ("spikes_ms", pa.list_(pa.list_(pa.float64()))),
            ]
        ),
    )
