"""Comparison of two types of models of the same cells: job file, inputs, responses, tables, medians."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import efel
import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError, UsageError, did_you_mean
from neurofleet.jobs.job_file import Name, Positive, PositiveInt, Strict
from neurofleet.jobs.reports.drawing import thinned
from neurofleet.jobs.studies.comparison_report import (
    MEASURED,
    RECORDED,
    TRACES,
    AxonPlace,
    CellComparison,
    ComparisonFindings,
    FeatureMedians,
    Initiation,
    ParameterMedians,
    Rows,
    Step,
    TypeMedian,
)
from neurofleet.jobs.studies.findings import stored_rows
from neurofleet.jobs.studies.measurements import Measurement
from neurofleet.jobs.studies.populations import (
    OUTCOME_SCHEMA,
    ModelsSpec,
    model_measurement,
    outcome_columns,
    read_populations,
    told,
)
from neurofleet.jobs.studies.study import Plan, Study, StudySpec, rows_table
from neurofleet.neurosim.features.perisomatic_features import FEATURES
from neurofleet.neurosim.features.step_protocols import FeatureTarget, StepProtocol, group_sweeps
from neurofleet.neurosim.features.training_targets import SPIKES_IN_STEP, TargetExtraction, recorded_features
from neurofleet.neurosim.recordings.recording import RecordingSource, Sweep
from neurofleet.neurosim.studies.cell_models import CellModels
from neurofleet.neurosim.studies.spike_initiation import (
    ALONE,
    AT_ONCE,
    AXON_FIRST,
    SOMA_FIRST,
    StepsMeasure,
    passages,
)


class StepsSpec(Strict):
    """Steps that models are given where nothing was recorded."""

    amplitudes_nA: Annotated[list[float], Field(min_length=1)]
    """Amplitudes of the steps in nA."""
    delay_ms: Annotated[float, Field(ge=200)] = 300.0
    """Time before each step in ms."""
    duration_ms: Positive = 1000.0
    """Duration of each step in ms."""

    @model_validator(mode="after")
    def _differ(self) -> "StepsSpec":
        if len(set(self.amplitudes_nA)) < len(self.amplitudes_nA):
            raise ValueError("amplitudes_nA must differ from each other")
        return self


class CompareSpec(StudySpec):
    """Compare two types of models of the same cells (`kind: compare`)."""

    study: ClassVar[str] = "neurofleet.jobs.studies.comparison:Comparison"

    kind: Literal["compare"] = "compare"
    """A comparison of two types of models of the same cells."""
    models: dict[Name, ModelsSpec]
    """The two types by names of your choice, each a `run:`, a `sample:` or `fits:`. Cells with the same id in both are
    compared.
    """
    steps: StepsSpec | None = None
    """Steps of your own; by default the weakest, the middle and the strongest of the recording at which every repeat
    spikes, else the strongest three of the published targets.
    """
    features: Annotated[list[str], Field(min_length=1)] = list(FEATURES)
    """E-features: those of the perisomatic recipe, or eFEL's."""
    deadline_s: Positive = 300.0
    """Wall-clock limit of one model in seconds."""
    max_steps: PositiveInt | None = 10_000_000
    """Integration steps of one run; `null` sets no limit."""
    memory_limit_mb: PositiveInt = 4096
    """Memory of one run in MB."""

    def quick_version(self) -> Self:
        """The best model of each type, at one step of the job's own; of cells that have both, all."""
        models = {name: models.quick_version(best=1, first_cells=None) for name, models in self.models.items()}
        steps = self.steps
        if steps is not None:
            steps = steps.model_copy(update={"amplitudes_nA": [max(steps.amplitudes_nA)]})
        return self.model_copy(update={"models": models, "steps": steps})

    @model_validator(mode="after")
    def _two_types(self) -> "CompareSpec":
        if len(self.models) != 2:
            raise ValueError(
                "models: expected two types of models by name, such as `all_active:` and `perisomatic:`, "
                f"found {len(self.models)}"
            )
        return self

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [path for models in self.models.values() for path in models.paths_named()]


AFTER_MS = 200.0
MOST_STEPS = 3
"""Steps that are taken from a recording or from published targets."""


RecordedTrace = tuple[np.ndarray, np.ndarray]
"""Time since the step's start (ms) and voltage (mV) of the first repeat, shape (t,)."""


@dataclass(frozen=True)
class Steps:
    """Steps, weakest first; what was recorded there, by step and e-feature, and a trace by step; and warnings."""

    steps: tuple[StepProtocol, ...]
    recorded: Mapping[tuple[str, str], FeatureTarget] = field(default_factory=dict)
    traces: Mapping[str, RecordedTrace] = field(default_factory=dict)
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class ModelComparison:
    """A cell whose models are compared.

    Attributes
    ----------
    cell : str
    populations : dict of str to CellModels
        By type.
    steps : tuple of StepProtocol
        Weakest first.
    recorded : dict of (str, str) to FeatureTarget
        By step and e-feature; without those that the recording does not have.
    traces : dict of str to RecordedTrace
        By step; empty where there is no recording.
    """

    cell: str
    populations: dict[str, CellModels]
    steps: tuple[StepProtocol, ...]
    recorded: Mapping[tuple[str, str], FeatureTarget]
    traces: Mapping[str, RecordedTrace] = field(default_factory=dict)


class Comparison(Study[CompareSpec, list[ModelComparison]]):
    """Simulates two types of models of the same cells at the same steps."""

    def read(self) -> tuple[list[ModelComparison], list[str]]:
        """Read both types of models and their steps.

        Raises
        ------
        UsageError, InputError
            Models cannot be used, no cell has both types, or nothing says which steps to simulate.
        """
        check_features(self.spec.features)
        by_type = {
            name: {population.cell: population for population in read_populations(models, self.folder)}
            for name, models in self.spec.models.items()
        }
        first, second = by_type
        both = [cell for cell in by_type[first] if cell in by_type[second]]
        if not both:
            raise UsageError(
                f"models: no cell has models of both types: {first} has {_listed(by_type[first])}, {second} has "
                f"{_listed(by_type[second])}. Give the same cell the same id in both."
            )
        notes = list(dict.fromkeys(note for models in by_type.values() for note in told(models.values())))
        notes += [
            f"{cell}: left out, it has no models of type {other}"
            for name, other in ((first, second), (second, first))
            for cell in by_type[name]
            if cell not in by_type[other]
        ]
        comparisons = []
        for cell in both:
            populations = {name: by_type[name][cell] for name in by_type}
            steps = _steps(self.spec, populations)
            notes += [f"{cell}: {warning}" for warning in steps.warnings]
            comparisons.append(ModelComparison(cell, populations, steps.steps, steps.recorded, steps.traces))
        return comparisons, notes

    def measurements(self, inputs: list[ModelComparison]) -> list[Measurement]:
        """Return the responses of both types of models of all cells."""
        features, max_steps = tuple(self.spec.features), self.spec.max_steps
        return [
            model_measurement(
                population,
                StepsMeasure(population.model, comparison.steps, features, max_steps),
                partial(measured_table, comparison, name),
                file=f"{MEASURED}/cell={comparison.cell}/{name}",
                engine=name,
            )
            for comparison in inputs
            for name, population in comparison.populations.items()
        ]

    def assemble(
        self, inputs: list[ModelComparison], store: RunStore
    ) -> tuple[dict[str, pa.Table], ComparisonFindings]:
        """Return e-features, spikes and parameters of all models, and their medians by type."""
        rows: dict[str, list[dict[str, Any]]] = {"features": [], "spikes": [], "parameters": []}
        cells = []
        for comparison in inputs:
            measured = stored_rows(store, f"{MEASURED}/cell={comparison.cell}")
            of_cell = {
                "features": feature_rows(comparison, self.spec.features, measured),
                "spikes": spike_rows(comparison.cell, measured),
                "parameters": parameter_rows(comparison),
            }
            cells.append(cell_findings(comparison, measured, **of_cell))
            for name in rows:
                rows[name] += of_cell[name]
        tables = {f"{name}.parquet": rows_table(of_name) for name, of_name in rows.items()}
        tables[TRACES] = rows_table([row for comparison in inputs for row in trace_rows(comparison)])
        return tables, ComparisonFindings(types=list(self.spec.models), cells=cells)

    def plan(self, inputs: list[ModelComparison]) -> Plan:
        """Return cells, models and steps."""
        lines, total = [], 0
        for comparison in inputs:
            sizes = {name: len(population) for name, population in comparison.populations.items()}
            models = ", ".join(f"{size} {name}" for name, size in sizes.items())
            steps = ", ".join(f"{1000 * step.amplitude_nA:.4g}" for step in comparison.steps)
            lines.append(f"{comparison.cell}: {models} models, each at steps of {steps} pA")
            total += sum(sizes.values()) * len(comparison.steps)
        lines.append(f"{self.spec.name}: {total} simulations of a step with spikes, a second or so of one core each.")
        return Plan(lines=lines)


def check_features(names: Sequence[str]) -> None:
    """Raise `InputError` for e-features that neither eFEL nor perisomatic models have."""
    known = [*FEATURES, *efel.get_feature_names()]
    unknown = [f"{name}{did_you_mean(name, known)}" for name in names if name not in known]
    if unknown:
        raise InputError(f"features: expected names of eFEL's or perisomatic e-features, found {', '.join(unknown)}.")


def _listed(populations: Mapping[str, CellModels]) -> str:
    return ", ".join(list(populations)[:5])


def _steps(spec: CompareSpec, populations: Mapping[str, CellModels]) -> Steps:
    """Return the steps of the job, else of a recording, else of published targets."""
    if spec.steps is not None:
        return _job_steps(spec.steps)
    for population in populations.values():
        if population.recording is not None:
            return _recorded_steps(population.recording, spec.features)
    for population in populations.values():
        trained = sorted((s for s in population.trained if s.amplitude_nA > 0), key=lambda s: s.amplitude_nA)
        if trained:
            targets = [t for t in population.model.targets.targets if t.feature in spec.features]
            return Steps(tuple(trained[-MOST_STEPS:]), _by_step(targets))
    raise UsageError(
        f"cell {next(iter(populations.values())).cell}: nothing says which steps to simulate. Give one of "
        "its models `recordings:` or `targets:`, or the job `steps: {amplitudes_nA: [0.2]}`."
    )


def _by_step(targets: Iterable[FeatureTarget]) -> dict[tuple[str, str], FeatureTarget]:
    return {(target.protocol, target.feature): target for target in targets}


def _job_steps(steps: StepsSpec) -> Steps:
    stop_ms = steps.delay_ms + steps.duration_ms
    return Steps(
        tuple(
            StepProtocol(f"{1000 * amplitude:g}pA", amplitude, steps.delay_ms, stop_ms, stop_ms + AFTER_MS)
            for amplitude in sorted(steps.amplitudes_nA)
        )
    )


def _recorded_steps(source: RecordingSource, features: Sequence[str]) -> Steps:
    """Return the weakest, the middle and the strongest step with spikes, and what was recorded there."""
    spiking: list[tuple[StepProtocol, list[Sweep]]] = []
    recording = source.read()
    for protocol, sweeps in group_sweeps(recording):
        counts = recorded_features(protocol, sweeps, [SPIKES_IN_STEP], recording.spike_threshold_mV)[SPIKES_IN_STEP]
        if protocol.amplitude_nA > 0 and all(count.sum() for count in counts):
            spiking.append((protocol, sweeps))
    if not spiking:
        raise InputError(
            f"{source.path}: expected depolarising steps at which every repeat spikes, found none. Name "
            "other `stimuli:`, or give the job `steps: {amplitudes_nA: [0.2]}`."
        )
    chosen = sorted({0, len(spiking) // 2, len(spiking) - 1})
    extraction = TargetExtraction(recording)
    for i in chosen:
        extraction.add(*spiking[i], features)
    targets = extraction.target_set()
    traces = {spiking[i][0].name: _in_step(spiking[i][0], spiking[i][1][0]) for i in chosen}
    return Steps(tuple(spiking[i][0] for i in chosen), _by_step(targets.targets), traces, targets.warnings)


def _in_step(step: StepProtocol, sweep: Sweep) -> RecordedTrace:
    time_ms, voltage_mV = step.align(sweep)
    inside = (time_ms >= step.start_ms) & (time_ms <= step.stop_ms)
    time_ms, voltage_mV = thinned(time_ms[inside] - step.start_ms, voltage_mV[inside], TRACE_POINTS)
    return time_ms, voltage_mV


def trace_rows(comparison: ModelComparison) -> list[dict[str, Any]]:
    """Return a row for each step with a recorded trace."""
    return [
        {"cell": comparison.cell, "step": step, "time_ms": time_ms.tolist(), "soma_mV": voltage_mV.tolist()}
        for step, (time_ms, voltage_mV) in comparison.traces.items()
    ]


TRACE_POINTS = 4000
"""Of a recorded trace: the lowest and the highest sample of each of half as many stretches of time."""

TRACE_MS = 0.1
"""Interval at which the voltage at the soma of a cell's best models is stored."""

SCHEMA = pa.schema(
    [
        ("type", pa.string()),
        *OUTCOME_SCHEMA,
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
"""Of the stored measurements: a row for each model, step and place."""


def measured_table(comparison: ModelComparison, kind: str, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row for each model, step and place; one row without a step for a model that failed."""
    population = comparison.populations[kind]
    rows: list[dict[str, Any]] = []
    for i, outcome in enumerate(outcomes, first):
        columns = {"type": kind} | outcome_columns(population, i, outcome)
        if not outcome.ok:
            rows.append(columns)
            continue
        for step, response in outcome.value.items():
            for k, place in enumerate(response.places):
                row = columns | {"step": step, "place": place.name, "distance_um": place.distance_um}
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
    comparison: ModelComparison, names: Sequence[str], measured: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row for each value of an e-feature, recorded ones and those of each model."""
    amplitudes = {step.name: step.amplitude_nA for step in comparison.steps}
    rows = [
        _feature(comparison.cell, RECORDED, None, None, step, amplitudes[step], name, value.mean) | {"std": value.std}
        for (step, name), value in comparison.recorded.items()
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
    """Return a row for each somatic spike and place of the axon: its delay there after the soma."""
    rows = []
    for places in _places(measured):
        soma, axon = places[0], places[1:]
        followed = passages(np.array(soma["spikes_ms"]), [np.array(place["spikes_ms"]) for place in axon])
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


def _places(measured: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the places of each model and step, the soma first."""
    places: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in measured:
        if row["step"] is not None:
            places.setdefault((row["type"], row["seed"], row["rank"], row["step"]), []).append(row)
    return list(places.values())


def parameter_rows(comparison: ModelComparison) -> list[dict[str, Any]]:
    """Return a row for each parameter of each model, also of those that were not searched."""
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


BEGINNINGS = (AXON_FIRST, SOMA_FIRST, AT_ONCE, ALONE)


def cell_findings(
    comparison: ModelComparison, measured: Rows, features: Rows, spikes: Rows, parameters: Rows
) -> CellComparison:
    """Return the medians of a cell's models by type, from the rows of its tables."""
    types = list(comparison.populations)
    return CellComparison(
        cell=comparison.cell,
        models={name: len(comparison.populations[name]) for name in types},
        steps=[Step(step=step.name, amplitude_nA=step.amplitude_nA) for step in comparison.steps],
        failed=[
            f"{row['type']}, seed {row['seed']}, rank {row['rank']}: {row['status']}: {row['reason']}"
            for row in measured
            if row["status"] != "ok"
        ],
        initiation=[_initiation(name, [row for row in spikes if row["type"] == name]) for name in types],
        features=_feature_medians(types, features),
        parameters=_parameter_medians(types, parameters),
    )


def _initiation(name: str, spikes: Rows) -> Initiation:
    """Return how many spikes of a type of models begin where, and the median delay at each place.

    A spike that the axon does not follow to -20 mV began at the soma.
    """
    of_spike = {(r["seed"], r["rank"], r["step"], r["spike"]): r["begins"] for r in spikes}
    counts = {beginning: list(of_spike.values()).count(beginning) for beginning in BEGINNINGS}
    by_place: dict[str, list[Mapping[str, Any]]] = {}
    for row in spikes:
        by_place.setdefault(row["place"], []).append(row)
    places = []
    for place, rows in by_place.items():
        delays = [row["delay_ms"] for row in rows if row["delay_ms"] is not None]
        places.append(
            AxonPlace(place=place, distance_um=rows[0]["distance_um"], spikes=len(delays), delay_ms=_median(delays))
        )
    where = {
        AXON_FIRST: counts[AXON_FIRST],
        SOMA_FIRST: counts[SOMA_FIRST] + counts[ALONE],
        AT_ONCE: counts[AT_ONCE],
    }
    first = max(where, key=lambda beginning: where[beginning]) if of_spike else None
    return Initiation(type=name, first=first, spikes=len(of_spike), begins=counts, places=places)


def _median(values: Sequence[float] | None) -> float | None:
    return float(np.median(values)) if values else None


def _feature_medians(types: Sequence[str], rows: Rows) -> list[FeatureMedians]:
    by_feature: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
        by_feature.setdefault((row["step"], row["feature"]), {}).setdefault(row["type"], []).append(row)
    medians = []
    for (step, feature), by_type in by_feature.items():
        recorded = by_type[RECORDED][0] if RECORDED in by_type else {"value": None, "std": None}
        mean, std = recorded["value"], recorded["std"]
        of_types = {}
        for name in types:
            median = _median([row["value"] for row in by_type.get(name, ()) if row["value"] is not None])
            z = None if median is None or mean is None or not std else abs(median - mean) / std
            of_types[name] = TypeMedian(median=median, z=z)
        medians.append(FeatureMedians(step=step, feature=feature, recorded=mean, std=std, types=of_types))
    steps = list(dict.fromkeys(row["step"] for row in rows))
    features = list(dict.fromkeys(row["feature"] for row in rows))
    return sorted(medians, key=lambda medians: (steps.index(medians.step), features.index(medians.feature)))


def _parameter_medians(types: Sequence[str], rows: Rows) -> list[ParameterMedians]:
    """Return each parameter's median by type, None for a type that does not have it.

    Those that both types have come first, and conductances before others.

    A value of all sections stands for each of them where the other type has the sections apart.
    """
    values: dict[str, dict[tuple[str, str], list[float]]] = {name: {} for name in types}
    for row in rows:
        values[row["type"]].setdefault((row["parameter"], row["section"]), []).append(row["value"])
    for name in types:
        others = [key for other in types if other != name for key in values[other]]
        for parameter, section in others:
            whole = values[name].get((parameter, "all"))
            if whole is not None and section != "all":
                values[name].setdefault((parameter, section), whole)
    keys = list(dict.fromkeys(key for name in types for key in values[name]))
    split = {parameter for parameter, section in keys if section != "all"}
    medians = [
        ParameterMedians(
            parameter=parameter,
            section=section,
            types={name: _median(values[name].get((parameter, section))) for name in types},
        )
        for parameter, section in keys
        if section != "all" or parameter not in split
    ]

    def order(medians: ParameterMedians) -> tuple[bool, bool, str, str]:
        is_conductance = medians.parameter.startswith("gbar_")
        return not medians.of_all_types, not is_conductance, medians.parameter, medians.section

    return sorted(medians, key=order)
