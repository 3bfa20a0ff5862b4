"""Two types of models of the same cells side by side: job file, inputs, tables, medians and plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator
from rich.console import Console

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.errors import InputError, UsageError, did_you_mean
from neurofleet.jobs.job_file import JobSpec, Name, Positive, PositiveInt, Strict
from neurofleet.jobs.run_folder import refuse_missing
from neurofleet.jobs.studies.populations import ModelsSpec, read_populations
from neurofleet.neurosim.features.perisomatic_features import FEATURES
from neurofleet.neurosim.features.step_protocols import StepProtocol, group_sweeps
from neurofleet.neurosim.features.training_targets import SPIKES_IN_STEP, TargetExtraction, recorded_features
from neurofleet.neurosim.recordings.recording import Sweep, read_recording
from neurofleet.neurosim.studies.cell_models import CellModels, RecordingSource
from neurofleet.neurosim.studies.spike_initiation import ALONE, AT_ONCE, AXON_FIRST, SOMA_FIRST, passages


class StepsSpec(Strict):
    """Steps that models are given where nothing was recorded."""

    amplitudes_nA: Annotated[list[float], Field(min_length=1)]
    delay_ms: Annotated[float, Field(ge=200)] = 300.0
    duration_ms: Positive = 1000.0

    @model_validator(mode="after")
    def _differ(self) -> "StepsSpec":
        if len(set(self.amplitudes_nA)) < len(self.amplitudes_nA):
            raise ValueError("amplitudes_nA must differ from each other")
        return self


class CompareSpec(JobSpec):
    """Compare two types of models of the same cells (`kind: compare`)."""

    runner: ClassVar[str] = "neurofleet.jobs.studies.comparison_report:run_compare"
    planner: ClassVar[str] = "neurofleet.jobs.studies.comparison:print_compare_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel")

    kind: Literal["compare"] = "compare"
    models: dict[Name, ModelsSpec]
    steps: StepsSpec | None = None
    features: Annotated[list[str], Field(min_length=1)] = list(FEATURES)
    deadline_s: Positive = 300.0
    max_steps: PositiveInt | None = 10_000_000
    memory_limit_mb: PositiveInt = 4096

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
ENOUGH = 3
"""Steps that are taken from a recording or from published targets."""

Statistics = tuple[float, float, int]


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
    recorded : dict of (str, str) to (float, float, int)
        Step and e-feature -> mean, standard deviation and number of values; without those that the
        recording does not have.
    """

    cell: str
    populations: dict[str, CellModels]
    steps: tuple[StepProtocol, ...]
    recorded: Mapping[tuple[str, str], Statistics]


def read_comparisons(spec: CompareSpec, folder: Path) -> tuple[list[ModelComparison], list[str]]:
    """Read both types of models and their steps; relative paths start at `folder`.

    Returns
    -------
    list of ModelComparison
    list of str
        Which cells and e-features are left out, and why.

    Raises
    ------
    UsageError, InputError
        Models cannot be used, no cell has both types, or nothing tells which steps to simulate.
    """
    check_features(spec.features)
    by_type = {name: {p.cell: p for p in read_populations(models, folder)} for name, models in spec.models.items()}
    first, second = by_type
    both = [cell for cell in by_type[first] if cell in by_type[second]]
    if not both:
        raise UsageError(
            f"models: no cell has models of both types: {first} has {_listed(by_type[first])}, {second} has "
            f"{_listed(by_type[second])}. Give the same cell the same id in both."
        )
    notes = [
        f"{cell}: left out, it has no models of type {other}"
        for name, other in ((first, second), (second, first))
        for cell in by_type[name]
        if cell not in by_type[other]
    ]
    found = []
    for cell in both:
        populations = {name: by_type[name][cell] for name in by_type}
        steps, recorded, said = _steps(spec, populations)
        notes += [f"{cell}: {line}" for line in said]
        found.append(ModelComparison(cell, populations, steps, recorded))
    return found, notes


def check_features(names: Sequence[str]) -> None:
    """Raise `InputError` for e-features that neither eFEL nor perisomatic models have."""
    import efel

    known = [*FEATURES, *efel.get_feature_names()]
    unknown = [f"{name}{did_you_mean(name, known)}" for name in names if name not in known]
    if unknown:
        raise InputError(f"features: expected names of eFEL's or perisomatic e-features, found {', '.join(unknown)}.")


def _listed(populations: Mapping[str, CellModels]) -> str:
    return ", ".join(list(populations)[:5])


def _steps(
    spec: CompareSpec, populations: Mapping[str, CellModels]
) -> tuple[tuple[StepProtocol, ...], Mapping[tuple[str, str], Statistics], list[str]]:
    if spec.steps is not None:
        return _own_steps(spec.steps), {}, []
    for population in populations.values():
        if population.recording is not None:
            return _recorded_steps(population.recording, spec.features)
    for population in populations.values():
        trained = sorted((s for s in population.trained if s.amplitude_nA > 0), key=lambda s: s.amplitude_nA)
        if trained:
            means = {
                (target.protocol, target.feature): (target.mean, target.std, target.n)
                for target in population.model.targets.targets
                if target.feature in spec.features
            }
            return tuple(trained[-ENOUGH:]), means, []
    raise UsageError(
        f"cell {next(iter(populations.values())).cell}: nothing tells which steps to simulate. Give one of "
        "its models `recordings:` or `targets:`, or the job `steps: {amplitudes_nA: [0.2]}`."
    )


def _own_steps(steps: StepsSpec) -> tuple[StepProtocol, ...]:
    stop_ms = steps.delay_ms + steps.duration_ms
    return tuple(
        StepProtocol(f"{1000 * amplitude:g}pA", amplitude, steps.delay_ms, stop_ms, stop_ms + AFTER_MS)
        for amplitude in sorted(steps.amplitudes_nA)
    )


def _recorded_steps(
    source: RecordingSource, features: Sequence[str]
) -> tuple[tuple[StepProtocol, ...], Mapping[tuple[str, str], Statistics], list[str]]:
    """Return the weakest, the middle and the strongest step with spikes, and what was recorded there."""
    recording = read_recording(
        source.path,
        junction_potential_mV=source.junction_potential_mV,
        stimuli=source.stimuli,
        exclude=source.exclude,
    )
    spiking: list[tuple[StepProtocol, list[Sweep]]] = []
    for protocol, sweeps in group_sweeps(recording):
        counts = recorded_features(protocol, sweeps, [SPIKES_IN_STEP])[SPIKES_IN_STEP]
        if protocol.amplitude_nA > 0 and all(count.sum() for count in counts):
            spiking.append((protocol, sweeps))
    if not spiking:
        raise InputError(
            f"{source.path}: expected depolarising steps at which every repeat spikes, found none. Name "
            "other `stimuli:`, or give the job `steps: {amplitudes_nA: [0.2]}`."
        )
    chosen = sorted({0, len(spiking) // 2, len(spiking) - 1})
    extraction = TargetExtraction(source.path)
    for i in chosen:
        extraction.add(*spiking[i], features)
    targets = extraction.target_set()
    means = {(t.protocol, t.feature): (t.mean, t.std, t.n) for t in targets.targets}
    return tuple(spiking[i][0] for i in chosen), means, list(targets.warnings)


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


def measured_table(comparison: ModelComparison, kind: str, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
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
    comparison: ModelComparison, names: Sequence[str], measured: Iterable[Mapping[str, Any]]
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


def parameter_rows(comparison: ModelComparison) -> list[dict[str, Any]]:
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


BEGINNINGS = (AXON_FIRST, SOMA_FIRST, AT_ONCE, ALONE)
Rows = Sequence[Mapping[str, Any]]


def cell_findings(
    comparison: ModelComparison, measured: Rows, features: Rows, spikes: Rows, parameters: Rows
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


def print_compare_plan(spec: CompareSpec, folder: Path) -> None:
    """Print cells, models and steps.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    refuse_missing(spec, folder)
    inputs, notes = read_comparisons(spec, folder)
    console = Console()
    for one in inputs:
        models = ", ".join(f"{len(of)} {kind}" for kind, of in one.populations.items())
        steps = ", ".join(f"{1000 * step.amplitude_nA:.4g}" for step in one.steps)
        said = f"{one.cell}: {models} models, each at steps of {steps} pA"
        console.print(said, soft_wrap=True, highlight=False, markup=False)
    total = sum(len(of) * len(one.steps) for one in inputs for of in one.populations.values())
    console.print(f"{spec.name}: {total} simulations of a step with spikes, a second or so of one core each.")
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
