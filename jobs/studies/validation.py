"""Validation of halls of fame at stimuli that they were not fitted to: job file, inputs, tables and plan."""

import pickle
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import Positive, PositiveInt
from neurofleet.jobs.progress import duration
from neurofleet.jobs.studies.populations import PopulationSpec, read_populations, refuse_missing_models
from neurofleet.neurosim.cells.simulator import FIXED_STEP_MS
from neurofleet.neurosim.features.step_protocols import TargetSet
from neurofleet.neurosim.studies.cell_models import CellModels
from neurofleet.neurosim.studies.explained_variance import (
    explained_variance_ratio,
    psth_explained_variance,
    rates,
    smoothed,
)
from neurofleet.neurosim.studies.generalisation import (
    PlayedStimulus,
    ValidationMeasure,
    generalisation_targets,
    played_stimuli,
)


class ValidateSpec(PopulationSpec):
    """Run models at the steps they were trained on, at all others, at noise and what else was recorded."""

    runner: ClassVar[str] = "neurofleet.jobs.studies.validation_report:run_validate"
    planner: ClassVar[str] = "neurofleet.jobs.studies.validation:print_validate_plan"

    kind: Literal["validate"] = "validate"
    noise: Annotated[list[str], Field(min_length=1)] = ["*noise*"]
    others: Annotated[list[str], Field(min_length=1)] | None = None
    sweeps_each: PositiveInt = 3
    deadline_s: Positive = 1800.0


@dataclass(frozen=True)
class Validation:
    """A cell that is validated.

    Attributes
    ----------
    population : CellModels
    generalisation : TargetSet or None
    stimuli : list of PlayedStimulus
    """

    population: "CellModels"
    generalisation: "TargetSet | None"
    stimuli: "list[PlayedStimulus]"

    @property
    def cell(self) -> str:
        return self.population.cell


def read_validations(spec: ValidateSpec, folder: Path) -> tuple[list[Validation], list[str]]:
    """Read the models of a job and the recordings of their cells; relative paths start at `folder`.

    Returns
    -------
    list of Validation
    list of str
        What was left out, and why.

    Raises
    ------
    UsageError, InputError
        Models or recordings cannot be used, or there is nothing to validate a cell with.
    """
    found, notes = [], []
    for population in read_populations(spec.models, folder):
        cell = population.cell
        generalisation: TargetSet | None = None
        stimuli: list[PlayedStimulus] = []
        said: list[str] = []
        if population.model.targets.targets:
            generalisation = generalisation_targets(population)
        if population.recording is not None:
            stimuli, said = played_stimuli(
                population.recording, noise=spec.noise, others=spec.others, sweeps_each=spec.sweeps_each
            )
        if generalisation is None and not stimuli and not population.model.targets.targets:
            raise UsageError(
                f"cell {cell}: there is nothing to validate its models with. Give the cell's `recordings:`"
                " or `targets:`."
            )
        if not population.model.targets.targets:
            said.append("what its models were trained on is not known: no error of training or generalisation")
        elif generalisation is None:
            said.append("no steps but those that were trained: generalisation is not known")
        else:
            said += generalisation.warnings
        if not any(stimulus.is_noise for stimulus in stimuli):
            said.append("no noise was recorded: the explained variance is not known")
        notes += [f"{cell}: {line}" for line in said]
        found.append(Validation(population, generalisation, stimuli))
    return found, notes


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


def print_validate_plan(spec: ValidateSpec, folder: Path) -> None:
    """Print cells, models, unseen targets, stimuli and core-hours.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    refuse_missing_models(spec, folder)
    validations, notes = read_validations(spec, folder)
    table = Table(title=spec.name)
    table.add_column("cell")
    for name in ("models", "trained targets", "unseen targets", "stimuli"):
        table.add_column(name, justify="right")
    for one in validations:
        table.add_row(
            one.cell,
            str(len(one.population)),
            str(len(one.population.model.targets.targets)),
            str(len(one.generalisation.targets) if one.generalisation else 0),
            str(len(one.stimuli)),
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    each = _seconds(spec, validations[0])
    models = sum(len(one.population) for one in validations)
    console.print(
        f"{models} models, about {each * models / 3600:.3g} core-hours ({duration(each * models)} on one"
        f" core): the best model of {validations[0].cell} takes {duration(each)}.",
        soft_wrap=True,
    )


def _seconds(spec: ValidateSpec, validation: object) -> float:
    """Run the first model in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "neurofleet.jobs.studies.validation"],
        input=pickle.dumps((spec, validation)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"the model cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_first() -> None:
    """Print the seconds of the best model of the validation on standard input (ours, from above)."""
    spec, one = pickle.load(sys.stdin.buffer)
    model = one.population.model
    run = ValidationMeasure(model, one.generalisation, tuple(one.stimuli), spec.max_steps).build()
    started = time.perf_counter()
    run(one.population.values[0])
    print("\n", time.perf_counter() - started)


if __name__ == "__main__":
    _time_first()
