"""Validation of models at stimuli that they were not fitted to: job file, inputs, responses, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.map_columns import fold
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.costs import cost_in_words
from neurofleet.jobs.job_file import Positive, PositiveInt
from neurofleet.jobs.progress import duration
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import stored_rows
from neurofleet.jobs.studies.measurements import Measurement, mean_seconds
from neurofleet.jobs.studies.populations import (
    OUTCOME_SCHEMA,
    PopulationSpec,
    PopulationStudy,
    model_measurement,
    outcome_columns,
    told,
)
from neurofleet.jobs.studies.study import Plan, rows_table
from neurofleet.jobs.studies.validation_report import (
    RESPONSES,
    CellValidation,
    ErrorRange,
    ValidationFindings,
    recorded_file,
)
from neurofleet.neurosim.cells.cell_model import FIXED_STEP_MS
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

TRACED_MODELS = 3
"""Of each cell, the voltage of this many of the best models is stored."""

BLOCK = 4


class ValidateSpec(PopulationSpec):
    """Run models at the steps they were trained on, at all others, at noise and what else was recorded."""

    study: ClassVar[str] = "neurofleet.jobs.studies.validation:ValidationStudy"

    kind: Literal["validate"] = "validate"
    """A validation of models with stimuli that they were not fitted to."""
    noise: Annotated[list[str], Field(min_length=1)] = ["*noise*"]
    """Stimuli whose sweeps are trials of one current; trials of another current are left out and listed."""
    others: Annotated[list[str], Field(min_length=1)] | None = None
    """Further stimuli, names or patterns; by default all but test pulses."""
    sweeps_each: PositiveInt = 3
    """Sweeps of each further stimulus."""
    deadline_s: Positive = 1800.0
    """Wall-clock limit in seconds of one model, all stimuli together."""

    def quick_version(self) -> Self:
        """Two models of the first cell, at one sweep of each stimulus."""
        return self.model_copy(update={"models": self.models.quick_version(best=2), "sweeps_each": 1})


@dataclass(frozen=True)
class Validation:
    """A cell that is validated.

    Attributes
    ----------
    population : CellModels
    generalisation : TargetSet or None
        E-features at steps that no stage was trained on; None where there are none.
    stimuli : list of PlayedStimulus
    """

    population: CellModels
    generalisation: TargetSet | None
    stimuli: list[PlayedStimulus]

    @property
    def cell(self) -> str:
        return self.population.cell


class ValidationStudy(PopulationStudy[ValidateSpec, list[Validation]]):
    """Simulates models at steps, at noise and at other stimuli that were recorded."""

    def read(self) -> tuple[list[Validation], list[str]]:
        """Read the models and the recordings of their cells; raises as `Study.read` does."""
        populations = self.populations()
        validations, notes = [], told(populations)
        for population in populations:
            validation, remarks = self._validation(population)
            validations.append(validation)
            notes += [f"{population.cell}: {remark}" for remark in remarks]
        return validations, notes

    def _validation(self, population: CellModels) -> tuple[Validation, list[str]]:
        generalisation: TargetSet | None = None
        stimuli: list[PlayedStimulus] = []
        remarks: list[str] = []
        has_targets = bool(population.model.targets.targets)
        if has_targets:
            generalisation = generalisation_targets(population)
        if population.recording is not None:
            stimuli, remarks = played_stimuli(
                population.recording,
                noise=self.spec.noise,
                others=self.spec.others,
                sweeps_each=self.spec.sweeps_each,
            )
        if not has_targets and not stimuli:
            raise UsageError(
                f"cell {population.cell}: there is nothing to validate its models with. Give the cell's `recordings:`"
                " or `targets:`."
            )
        if not has_targets:
            remarks.append("what its models were trained on is not known: no error of training or generalisation")
        elif generalisation is None:
            remarks.append("no steps but those that were trained: generalisation is not known")
        else:
            remarks += generalisation.warnings
        if not any(stimulus.is_noise for stimulus in stimuli):
            remarks.append("no noise was recorded: the explained variance is not known")
        return Validation(population, generalisation, stimuli), remarks

    def measurements(self, inputs: list[Validation]) -> list[Measurement]:
        """Return the responses of the models of all cells."""
        return [
            model_measurement(
                validation.population,
                self._measure(validation),
                partial(responses_table, validation),
                file=f"{RESPONSES}/cell={validation.cell}/block",
                engine="validate",
                block_size=BLOCK,
            )
            for validation in inputs
        ]

    def _measure(self, validation: Validation) -> ValidationMeasure:
        return ValidationMeasure(
            validation.population.model, validation.generalisation, tuple(validation.stimuli), self.spec.max_steps
        )

    def assemble(self, inputs: list[Validation], store: RunStore) -> tuple[dict[str, pa.Table], ValidationFindings]:
        """Return errors by model and stimulus, the recorded stimuli, and errors by cell."""
        tables, models, stimuli, cells = {}, [], [], []
        for validation in inputs:
            responses = stored_rows(store, f"{RESPONSES}/cell={validation.cell}")
            by_stimulus = stimulus_rows(validation, responses)
            by_model = model_rows(validation, responses, by_stimulus)
            stimuli += by_stimulus
            models += by_model
            cells.append(cell_findings(validation, by_model))
            tables[recorded_file(validation.cell)] = recorded_table(validation)
        tables |= {"models.parquet": rows_table(models), "stimuli.parquet": rows_table(stimuli)}
        return tables, ValidationFindings(cells=cells)

    def plan(self, inputs: list[Validation]) -> Plan:
        """Return cells, models, unseen targets, stimuli and core-hours."""
        rows = [
            (
                validation.cell,
                len(validation.population),
                len(validation.population.model.targets.targets),
                len(validation.generalisation.targets) if validation.generalisation else 0,
                len(validation.stimuli),
            )
            for validation in inputs
        ]
        head = ("cell", "models", "trained targets", "unseen targets", "stimuli")
        first = inputs[0]
        each_s = mean_seconds(first.cell, self._measure(first), list(first.population.values[:1]))
        models = sum(len(validation.population) for validation in inputs)
        return Plan(
            [ReportTable(head, rows, numbers=range(1, 5), title=self.spec.name)],
            [
                f"{models} models, about {cost_in_words(each_s * models)}: the best model of {first.cell} takes "
                f"{duration(each_s)}."
            ],
        )


def responses_table(validation: Validation, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row for each model: its status, scores, and spikes at each played stimulus."""
    population, unseen = validation.population, validation.generalisation
    trained = [target.objective for target in population.model.targets.targets]
    others = [target.objective for target in unseen.targets] if unseen else []
    rows = []
    for i, outcome in enumerate(outcomes, first):
        row = outcome_columns(population, i, outcome)
        value = outcome.value if outcome.ok else None
        row["training"] = _mean(value.training) if value else None
        row["generalisation"] = _mean(value.generalisation) if value else None
        for k, name in enumerate(trained):
            row[f"score.{name}"] = float(value.training[k]) if value else None
        for k, name in enumerate(others):
            row[f"unseen.{name}"] = float(value.generalisation[k]) if value else None
        for stimulus in validation.stimuli:
            row[f"spikes_ms.{stimulus.name}"] = value.spikes_ms[stimulus.name].tolist() if value else None
            traced = value if i < TRACED_MODELS else None
            row[f"voltage_mV.{stimulus.name}"] = traced.voltage_mV[stimulus.name].tolist() if traced else None
        rows.append(row)
    return fold(pa.Table.from_pylist(rows, schema=_schema(validation, trained, others)), MAPS)


MAPS = {
    "score": pa.float64(),
    "unseen": pa.float64(),
    "spikes_ms": pa.list_(pa.float64()),
    "voltage_mV": pa.list_(pa.float32()),
}
"""Columns of the responses whose names differ between cells: maps by objective or by stimulus."""


def _schema(validation: Validation, trained: Sequence[str], others: Sequence[str]) -> pa.Schema:
    fields = [*OUTCOME_SCHEMA, ("training", pa.float64()), ("generalisation", pa.float64())]
    fields += [(f"score.{name}", pa.float64()) for name in trained]
    fields += [(f"unseen.{name}", pa.float64()) for name in others]
    for stimulus in validation.stimuli:
        fields += [(f"{name}.{stimulus.name}", MAPS[name]) for name in ("spikes_ms", "voltage_mV")]
    return pa.schema(fields)


def _mean(scores: np.ndarray) -> float | None:
    return float(scores.mean()) if scores.size else None


def stimulus_rows(validation: Validation, responses: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each model and played stimulus: its spikes, the recorded ones, and explained variance."""
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
    """Return a row for each model: errors at training and unseen steps, and explained variance over noise types."""
    rows = []
    for response in responses:
        of_model = [r for r in stimuli if (r["seed"], r["rank"]) == (response["seed"], response["rank"])]
        rows.append(
            {
                "cell": validation.cell,
                "seed": response["seed"],
                "rank": response["rank"],
                "status": response["status"],
                "training": response["training"],
                "generalisation": response["generalisation"],
                "explained_variance": _over_types(of_model, "explained_variance"),
                "psth_explained_variance_percent": _over_types(of_model, "psth_explained_variance_percent"),
            }
        )
    return rows


def _over_types(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean over noise types; None where one of them has no value."""
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


def cell_findings(validation: Validation, models: Sequence[Mapping[str, Any]]) -> CellValidation:
    """Return the errors of a cell's models, best model first."""
    return CellValidation(
        cell=validation.cell,
        models=len(models),
        failed=sum(row["status"] != "ok" for row in models),
        trained_targets=len(validation.population.model.targets.targets),
        unseen_targets=len(validation.generalisation.targets) if validation.generalisation else 0,
        stimuli=[stimulus.name for stimulus in validation.stimuli],
        noise_trials=sum(len(stimulus.sweeps) for stimulus in validation.stimuli if stimulus.is_noise),
        training=_range(models, "training"),
        generalisation=_range(models, "generalisation"),
        explained_variance=_range(models, "explained_variance"),
        psth_explained_variance_percent=_range(models, "psth_explained_variance_percent"),
    )


def _range(models: Sequence[Mapping[str, Any]], name: str) -> ErrorRange:
    values = [row[name] for row in models if row[name] is not None]
    if not values:
        return ErrorRange(best_model=models[0][name])
    low, median, high = (float(function(values)) for function in (np.min, np.median, np.max))
    return ErrorRange(models[0][name], median, low, high)
