"""Which conductances the features of fitted models depend on: job file, protocol, inputs, run and plan."""

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError, UsageError, did_you_mean
from neurofleet.jobs.job_file import Name, Positive, Strict
from neurofleet.jobs.progress import duration
from neurofleet.jobs.run_folder import JobRun, run_in_folder, versions
from neurofleet.jobs.studies.blocks import Block, measure_on_pool
from neurofleet.jobs.studies.measure_engine import measure_engine
from neurofleet.jobs.studies.populations import PopulationSpec, read_populations, refuse_missing_models
from neurofleet.jobs.studies.sensitivity_indices import (
    AVERAGES,
    BEST,
    CHAOS,
    INDICES,
    RUNS,
    SALIB,
    UNCERTAINPY,
    agreements,
    averages_rows,
    indices_rows,
    runs_table,
    surrogates,
)
from neurofleet.jobs.studies.sensitivity_report import print_sensitivity_findings, write_sensitivity_report
from neurofleet.jobs.studies.study import FINDINGS, write_findings
from neurofleet.neurosim.features.step_protocols import AIS_FEATURE, BLOCK_CHECK, StepProtocol, group_sweeps
from neurofleet.neurosim.recordings.recording import read_recording
from neurofleet.neurosim.studies import polynomial_chaos, saltelli
from neurofleet.neurosim.studies.cell_models import CellModels, default_conductances
from neurofleet.neurosim.studies.polynomial_chaos import load_uncertainpy, uncertainpy_indices
from neurofleet.neurosim.studies.sobol_indices import FeatureMeasure, Indices, SensitivityProblem

AFTER_STEP_MS = 250.0


class StepSpec(Strict):
    """A step current of one's own, in place of a protocol that the models were fitted to."""

    amplitude_nA: float
    start_ms: Positive = 270.0
    stop_ms: Positive = 1270.0

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "StepSpec":
        if self.stop_ms <= self.start_ms:
            raise ValueError("stop_ms must be after start_ms")
        return self


class SensitivitySpec(PopulationSpec):
    """Sobol indices of e-features to parameters about models (`kind: sensitivity`)."""

    runner: ClassVar[str] = "neurofleet.jobs.studies.sensitivity:run_sensitivity"
    planner: ClassVar[str] = "neurofleet.jobs.studies.sensitivity:print_sensitivity_plan"

    kind: Literal["sensitivity"] = "sensitivity"
    parameters: Annotated[list[str], Field(min_length=2)] | None = None
    features: Annotated[list[str], Field(min_length=1)] = [
        "Spikecount",
        "AP_width",
        "AHP_depth",
        "ISI_CV",
        "AP_amplitude",
    ]
    protocol: Name | None = None
    step: StepSpec | None = None
    half_width: Annotated[float, Field(gt=0, lt=1)] = 0.1
    engine: Literal["polynomial-chaos", "uncertainpy"] = "polynomial-chaos"
    check: Literal["salib"] | None = None
    check_points: Annotated[int, Field(ge=16)] = 256
    seed: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> "SensitivitySpec":
        if self.protocol is not None and self.step is not None:
            raise ValueError("give `protocol:` (one of the fit's) or `step:` (one of your own), not both")
        if self.check_points & (self.check_points - 1):
            raise ValueError("check_points must be a power of two, such as 128 or 1024")
        for key, names in (("parameters", self.parameters or []), ("features", self.features)):
            doubled = sorted({name for name in names if names.count(name) > 1})
            if doubled:
                raise ValueError(f"{key}: {', '.join(doubled)} is there more than once")
        return self


def protocol_of(spec: SensitivitySpec, population: CellModels) -> StepProtocol:
    """Return the step that a job means for a cell.

    Raises
    ------
    UsageError
        When the cell has no such protocol, or none is known for it.
    """
    if spec.step is not None:
        end_ms = spec.step.stop_ms + AFTER_STEP_MS
        step = spec.step
        return StepProtocol("step", step.amplitude_nA, step.start_ms, step.stop_ms, end_ms, 0.0, "step")
    known = _known(population)
    if not known:
        raise UsageError(
            f"cell {population.cell}: no protocol is known for it. Give its fit `targets:` or `recordings:`, "
            "or the job a `step: {amplitude_nA: 0.2}`."
        )
    if spec.protocol is None:
        return max(known.values(), key=lambda protocol: protocol.amplitude_nA)
    if spec.protocol not in known:
        raise UsageError(
            f"protocol: cell {population.cell} has no {spec.protocol}{did_you_mean(spec.protocol, known)}; it has "
            f"{', '.join(known)}."
        )
    return known[spec.protocol]


def _known(population: CellModels) -> Mapping[str, StepProtocol]:
    """Return the protocols that the models were fitted to, else those of the recording."""
    fitted = population.model.targets.protocols
    if fitted:
        return {name: protocol for name, protocol in fitted.items() if name != BLOCK_CHECK}
    if population.recording is None:
        return {}
    source = population.recording
    recording = read_recording(
        source.path,
        junction_potential_mV=source.junction_potential_mV,
        stimuli=source.stimuli,
        exclude=source.exclude,
    )
    return {protocol.name: protocol for protocol, _ in group_sweeps(recording)}


@dataclass(frozen=True, eq=False)
class SensitivitySubject:
    """One cell.

    Attributes
    ----------
    population : CellModels
    protocol : StepProtocol
    problems : tuple of SensitivityProblem
        One for each model.
    columns : list of int
        Where the moved parameters are in a model's values.
    measure : FeatureMeasure
        What is run.
    """

    population: CellModels
    protocol: StepProtocol
    problems: tuple[SensitivityProblem, ...]
    columns: list[int]
    measure: FeatureMeasure

    @property
    def cell(self) -> str:
        return self.population.cell

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.problems[0].parameters

    def individuals(self, model: int, nodes: np.ndarray) -> Sequence[np.ndarray]:
        """Return the values of all of a model's parameters at nodes, (n, P) -> n arrays."""
        found = np.repeat(self.population.values[model : model + 1], len(nodes), axis=0)
        found[:, self.columns] = nodes
        return list(found)


def read_sensitivity_subjects(spec: SensitivitySpec, folder: Path) -> tuple[list[SensitivitySubject], list[str]]:
    """Read all cells; relative paths start at `folder`.

    Returns
    -------
    list of SensitivitySubject
    list of str
        What is to be said of them.

    Raises
    ------
    UsageError, InputError
        Models that cannot be read, parameters that they do not have or that are zero in one of them, features
        that eFEL does not have, a protocol that is not there, or an engine that is not installed.
    """
    refuse_missing_models(spec, folder)
    if spec.engine == "uncertainpy":
        load_uncertainpy()
    _check_features(spec.features)
    subjects = [_subject(spec, population) for population in read_populations(spec.models, folder)]
    notes = [
        f"{subject.cell}: {_models(len(subject.population))} at {subject.protocol.name} "
        f"({1000 * subject.protocol.amplitude_nA:.0f} pA), {', '.join(subject.parameters)} moved by "
        f"±{100 * spec.half_width:g} %."
        for subject in subjects
    ]
    return subjects, notes


def _models(number: int) -> str:
    return "1 model" if number == 1 else f"{number} models"


def _subject(spec: SensitivitySpec, population: CellModels) -> SensitivitySubject:
    try:
        names = tuple(spec.parameters or default_conductances(population.parameters))
    except InputError as error:
        raise UsageError(f"cell {population.cell}: {error}") from error
    columns = population.columns(names)
    protocol = protocol_of(spec, population)
    problems = []
    for values, seed, rank in zip(population.values, population.seeds, population.ranks, strict=True):
        try:
            problems.append(SensitivityProblem(names, tuple(values[columns].tolist()), spec.half_width))
        except InputError as error:
            raise UsageError(f"parameters: cell {population.cell}, model {rank} (seed {seed}): {error}") from error
    asked = tuple((protocol.name, feature) for feature in spec.features)
    measure = FeatureMeasure(population.model, (protocol,), asked, spec.max_steps)
    return SensitivitySubject(population, protocol, tuple(problems), columns, measure)


def _check_features(features: Sequence[str]) -> None:
    import efel

    known = efel.get_feature_names()
    unknown = [f"{name}{did_you_mean(name, known)}" for name in features if name not in known]
    if unknown:
        told = f" {AIS_FEATURE} compares two voltages and is none." if AIS_FEATURE in features else ""
        raise UsageError(f"features: eFEL has no {', '.join(unknown)}.{told}")


BLOCK = 128


@dataclass(frozen=True, eq=False)
class ModelDesign:
    """The runs about one model by one design, and the engines that make indices of them.

    Attributes
    ----------
    subject : SensitivitySubject
    model : int
        Its number in the subject's population.
    design : str
    nodes : callable
        Returns where the model is run, shape (n, P).
    size : int
        Runs.
    """

    subject: SensitivitySubject
    model: int
    design: str
    nodes: Callable[[], np.ndarray]
    size: int

    @property
    def problem(self) -> SensitivityProblem:
        return self.subject.problems[self.model]

    @property
    def about(self) -> dict[str, Any]:
        """Which model it is."""
        population = self.subject.population
        seed, rank = int(population.seeds[self.model]), int(population.ranks[self.model])
        return {"cell": self.subject.cell, "seed": seed, "rank": rank}

    def names(self) -> list[str]:
        """Return the names of its blocks, in order."""
        place = f"{RUNS}/cell={self.subject.cell}/model={self.model:04d}/{self.design}"
        return [f"{place}-{number:04d}.parquet" for number in range(-(-self.size // BLOCK))]


def run_sensitivity(spec: SensitivitySpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Find the indices of all models, everything stored in `out`, or go on there; raises as `run_in_folder`."""
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_sensitivity_subjects(spec, folder),
        lambda run: _analyse(run, address, cpus),
        FINDINGS,
    )


def model_designs(spec: SensitivitySpec, subjects: Sequence[SensitivitySubject]) -> list[ModelDesign]:
    """Return all runs that a job asks for; the check is of the first model of each cell."""
    found = []
    for subject in subjects:
        for model, problem in enumerate(subject.problems):
            size = 2 * polynomial_chaos.number_of_terms(len(problem)) + 2
            nodes = partial(polynomial_chaos.design, problem)
            found.append(ModelDesign(subject, model, CHAOS, nodes, size))
        if spec.check == SALIB:
            first = subject.problems[0]
            size = saltelli.number_of_runs(spec.check_points, len(first))
            nodes = partial(saltelli.design, first, spec.check_points, spec.seed)
            found.append(ModelDesign(subject, 0, SALIB, nodes, size))
    return found


def sensitivity_blocks(spec: SensitivitySpec, parts: Sequence[ModelDesign]) -> Iterator[Block]:
    """Yield the runs in blocks, as they are stored."""
    for part in parts:
        engine = measure_engine(f"{part.subject.cell}-features", part.subject.measure)
        for number, name in enumerate(part.names()):
            kept = slice(number * BLOCK, min((number + 1) * BLOCK, part.size))
            yield Block(
                name=name,
                cell=part.subject.cell,
                engine=engine,
                size=kept.stop - kept.start,
                individuals=partial(_individuals, part, kept),
                table=partial(_table, part, kept, spec.features),
            )


def _individuals(part: ModelDesign, kept: slice) -> Sequence[np.ndarray]:
    return part.subject.individuals(part.model, part.nodes()[kept])


def _table(part: ModelDesign, kept: slice, features: Sequence[str], outcomes: list[Outcome]) -> "pa.Table":
    about = part.about | {"design": part.design}
    return runs_table(about, kept.start, part.problem.parameters, part.nodes()[kept], features, outcomes)


def _analyse(run: JobRun, address: str | None, cpus: int | None) -> None:
    spec: SensitivitySpec = run.spec
    parts = model_designs(spec, run.inputs)
    measure_on_pool(run, list(sensitivity_blocks(spec, parts)), "running", address, cpus)
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, int] = {}
    for part in parts:
        values = _values(run.store, part, spec.features, outcomes)
        for engine, indices in _indices(spec, part, values):
            rows += indices_rows(part.about | {"engine": engine}, indices)
    averages = averages_rows(rows, spec.seed)
    run.store.write_table(INDICES, pa.Table.from_pylist(rows, schema=_schema(rows)))
    run.store.write_table(AVERAGES, pa.Table.from_pylist(averages, schema=_schema(averages)))
    found = _findings(run, rows, averages, outcomes)
    write_sensitivity_report(run.store, found)
    write_findings(run.out, found)
    print_sensitivity_findings(found, run.console)


def _values(store: "RunStore", part: ModelDesign, features: Sequence[str], outcomes: dict[str, int]) -> np.ndarray:
    """Return the features of a part's runs, shape (n, F), and count what became of them."""
    blocks = [store.table(name) for name in part.names()]
    table = pa.concat_tables([block for block in blocks if block is not None])
    for one in pc.value_counts(table["status"]).to_pylist():
        outcomes[one["values"]] = outcomes.get(one["values"], 0) + one["counts"]
    return np.stack([table[name].to_numpy() for name in features], axis=1)


def _indices(spec: SensitivitySpec, part: ModelDesign, values: np.ndarray) -> Iterator[tuple[str, Indices]]:
    nodes, features = part.nodes(), spec.features
    if part.design == SALIB:
        yield SALIB, saltelli.saltelli(part.problem, nodes, values, features, spec.seed)
        return
    yield CHAOS, polynomial_chaos.polynomial_chaos(part.problem, nodes, values, features)
    yield BEST, polynomial_chaos.best_order(part.problem, nodes, values, features)
    if spec.engine == UNCERTAINPY:
        yield UNCERTAINPY, uncertainpy_indices(part.problem, nodes, values, features)


def _schema(rows: Sequence[dict[str, Any]]) -> "pa.Schema":
    """Return types that do not depend on which values are missing."""
    whole = {"seed", "rank", "order", "runs", "left_out", "cells", "models"}
    text = {"cell", "engine", "feature", "parameter", "reason"}
    types = {name: pa.int64() for name in whole} | {name: pa.string() for name in text}
    return pa.schema([(name, types.get(name, pa.float64())) for name in rows[0]])


def _findings(
    run: JobRun, rows: list[dict[str, Any]], averages: list[dict[str, Any]], outcomes: dict[str, int]
) -> dict[str, Any]:
    spec: SensitivitySpec = run.spec
    return {
        "name": spec.name,
        "kind": spec.kind,
        "half_width": spec.half_width,
        "engine": spec.engine,
        "check": spec.check,
        "features": spec.features,
        "cells": [
            {
                "cell": subject.cell,
                "models": len(subject.population),
                "protocol": subject.protocol.name,
                "amplitude_nA": subject.protocol.amplitude_nA,
                "parameters": list(subject.parameters),
            }
            for subject in run.inputs
        ],
        "outcomes": outcomes,
        "surrogates": surrogates(spec.features, rows),
        "averages": averages,
        "agreements": agreements(rows),
        "notes": run.notes,
        "versions": versions(),
    }


MEASURED_RUNS = 3


def print_sensitivity_plan(spec: SensitivitySpec, folder: Path) -> None:
    """Print cells, models, parameters, runs and core-hours, after a few runs of each cell's first model.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    subjects, notes = read_sensitivity_subjects(spec, folder)
    table = Table(title=f"{spec.name}: Sobol indices of {len(spec.features)} features")
    table.add_column("cell")
    for name in ("models", "parameters", "protocol", "runs", "s each", "core-h"):
        table.add_column(name, justify="right")
    total_s = 0.0
    for subject in subjects:
        runs = sum(part.size for part in model_designs(spec, [subject]))
        each_s = _seconds_each(subject)
        total_s += runs * each_s
        table.add_row(
            subject.cell,
            str(len(subject.population)),
            str(len(subject.parameters)),
            subject.protocol.name,
            f"{runs:,}",
            f"{each_s:.3g}",
            f"{runs * each_s / 3600:.3g}",
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    if spec.engine == "uncertainpy":
        console.print("uncertainpy then takes minutes for each model on top, on the driver.", soft_wrap=True)
    console.print(
        f"About {total_s / 3600:.3g} core-hours ({duration(total_s)} on one core), from {MEASURED_RUNS} "
        "runs of the first model of each cell.",
        soft_wrap=True,
    )


def _seconds_each(subject: SensitivitySubject) -> float:
    """Run the first model in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "neurofleet.jobs.studies.sensitivity"],
        input=pickle.dumps((subject.measure, subject.population.values[0])),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"cell {subject.cell} cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_runs() -> None:
    """Print the mean seconds of runs of the model on standard input (ours, from above)."""
    measure, values = pickle.load(sys.stdin.buffer)
    run = measure.build()
    started = time.perf_counter()
    for _ in range(MEASURED_RUNS):
        run(values)
    print("\n", (time.perf_counter() - started) / MEASURED_RUNS)


if __name__ == "__main__":
    _time_runs()
