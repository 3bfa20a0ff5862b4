"""Sensitivity of e-features to parameters around fitted models: job file, inputs, runs, Sobol indices."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import efel
import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError, UsageError, did_you_mean
from neurofleet.jobs.costs import cost_in_words
from neurofleet.jobs.job_file import Name, Positive, Strict
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.measurements import Measurement, mean_seconds
from neurofleet.jobs.studies.populations import PopulationSpec, PopulationStudy, told
from neurofleet.jobs.studies.sensitivity_report import (
    BEST,
    CHAOS,
    INDICES,
    KINDS,
    SALIB,
    UNCERTAINPY,
    Agreement,
    AnalysedCell,
    AverageIndex,
    SensitivityFindings,
    SurrogateError,
)
from neurofleet.jobs.studies.study import Plan
from neurofleet.neurosim.features.step_protocols import AIS_FEATURE, BLOCK_CHECK, StepProtocol, group_sweeps
from neurofleet.neurosim.studies import polynomial_chaos, saltelli
from neurofleet.neurosim.studies.cell_models import CellModels, default_conductances
from neurofleet.neurosim.studies.polynomial_chaos import load_uncertainpy, uncertainpy_indices
from neurofleet.neurosim.studies.sobol_indices import FeatureMeasure, Indices, SensitivityProblem, average

RUNS, AVERAGES = "runs", "averages.parquet"
TIMED_RUNS = 3
QUICK_ORDER = 2
AFTER_STEP_MS = 250.0


class StepSpec(Strict):
    """A step current, in place of a protocol that the models were fitted to."""

    amplitude_nA: float
    """Amplitude of the step in nA."""
    start_ms: Positive = 270.0
    """Start of the step in ms."""
    stop_ms: Positive = 1270.0
    """End of the step in ms."""

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "StepSpec":
        if self.stop_ms <= self.start_ms:
            raise ValueError("stop_ms must be after start_ms")
        return self


class SensitivitySpec(PopulationSpec):
    """Sobol indices of e-features to parameters, around models (`kind: sensitivity`)."""

    study: ClassVar[str] = "neurofleet.jobs.studies.sensitivity:SensitivityStudy"

    kind: Literal["sensitivity"] = "sensitivity"
    """An analysis of which parameters the e-features of models depend on."""
    parameters: Annotated[list[str], Field(min_length=2)] | None = None
    """Full names of two or more free parameters; by default transient sodium, Kv3.1 and the transient potassium
    conductance in soma and axon.
    """
    features: Annotated[list[str], Field(min_length=1)] = [
        "Spikecount",
        "AP_width",
        "AHP_depth",
        "ISI_CV",
        "AP_amplitude",
    ]
    """E-features, by their eFEL names."""
    protocol: Name | None = None
    """The step, by its name in the fit; by default the strongest that the models were fitted to, else the strongest
    recorded one.
    """
    step: StepSpec | None = None
    """A step of your own, in place of `protocol:`."""
    half_width: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """How far parameters vary around a model, relative: 0.1 is ±10 %. Below 1, so that no conductance becomes
    negative.
    """
    engine: Literal["polynomial-chaos", "uncertainpy"] = "polynomial-chaos"
    """`polynomial-chaos`, or `uncertainpy` in addition to it."""
    check: Literal["salib"] | None = None
    """`salib` adds Saltelli's sampling around the first model of each cell."""
    check_points: Annotated[int, Field(ge=16)] = 256
    """Points of the check, a power of two; it takes `check_points` × (parameters + 2) runs."""
    order: Annotated[int, Field(ge=1, le=polynomial_chaos.ORDER)] = polynomial_chaos.ORDER
    """Highest total order of the polynomials."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the check's sampling and of the bootstraps."""

    def quick_version(self) -> Self:
        """The best model of the first cell, by polynomials of second order at most, without a check."""
        few = {"models": self.models.quick_version(best=1), "order": min(self.order, QUICK_ORDER)}
        return self.model_copy(update=few | {"engine": "polynomial-chaos", "check": None})

    @model_validator(mode="after")
    def _consistent(self) -> "SensitivitySpec":
        if self.protocol is not None and self.step is not None:
            raise ValueError("give `protocol:` (one of the fit's) or `step:` (one of your own), not both")
        if self.check_points & (self.check_points - 1):
            raise ValueError("check_points must be a power of two, such as 128 or 1024")
        for key, names in (("parameters", self.parameters or []), ("features", self.features)):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{key}: {', '.join(repeated)} is there more than once")
        return self


def protocol_of(spec: SensitivitySpec, population: CellModels) -> StepProtocol:
    """Return the step that the models of a cell are given.

    Raises
    ------
    UsageError
        The cell has no such protocol, or none is known for it.
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
    return {protocol.name: protocol for protocol, _ in group_sweeps(population.recording.read())}


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
        values = np.repeat(self.population.values[model : model + 1], len(nodes), axis=0)
        values[:, self.columns] = nodes
        return list(values)


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
    features = tuple((protocol.name, feature) for feature in spec.features)
    measure = FeatureMeasure(population.model, (protocol,), features, spec.max_steps)
    return SensitivitySubject(population, protocol, tuple(problems), columns, measure)


def _check_features(features: Sequence[str]) -> None:
    known = efel.get_feature_names()
    unknown = [f"{name}{did_you_mean(name, known)}" for name in features if name not in known]
    if unknown:
        ais = f" {AIS_FEATURE} compares two voltages; it is not a feature of eFEL." if AIS_FEATURE in features else ""
        raise UsageError(f"features: eFEL has no {', '.join(unknown)}.{ais}")


@dataclass(frozen=True, eq=False)
class ModelDesign:
    """The runs around one model by one design.

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
    columns : tuple of str
        The parameters of all cells, each a column of the stored runs.
    """

    subject: SensitivitySubject
    model: int
    design: str
    nodes: Callable[[], np.ndarray]
    size: int
    columns: tuple[str, ...]

    @property
    def problem(self) -> SensitivityProblem:
        return self.subject.problems[self.model]

    @property
    def about(self) -> dict[str, Any]:
        """The columns that say which model it is."""
        population = self.subject.population
        seed, rank = int(population.seeds[self.model]), int(population.ranks[self.model])
        return {"cell": self.subject.cell, "seed": seed, "rank": rank}

    def measurement(self) -> Measurement:
        """Return its runs as a measurement."""
        cell = self.subject.cell
        return Measurement(
            file=f"{RUNS}/cell={cell}/model={self.model:04d}/{self.design}",
            cell=cell,
            measure=self.subject.measure,
            size=self.size,
            individuals=lambda rows: self.subject.individuals(self.model, self.nodes()[rows]),
            table=self._table,
            engine=f"{cell}-features",
            block_size=128,
        )

    def _table(self, rows: slice, outcomes: Sequence[Outcome]) -> pa.Table:
        features = [feature for _, feature in self.subject.measure.features]
        about = {key: value for key, value in self.about.items() if key != "cell"} | {"design": self.design}
        nodes = dict(zip(self.problem.parameters, self.nodes()[rows].T, strict=True))
        return runs_table(about, rows.start, {name: nodes.get(name) for name in self.columns}, features, outcomes)


class SensitivityStudy(PopulationStudy[SensitivitySpec, list[SensitivitySubject]]):
    """Runs models with parameters moved, and computes Sobol indices."""

    doing = "running"

    def read(self) -> tuple[list[SensitivitySubject], list[str]]:
        """Read all cells.

        Raises
        ------
        UsageError, InputError
            Models cannot be read or have a parameter that is zero, parameters, features or a protocol do not
            exist, or an engine is not installed.
        """
        spec = self.spec
        if spec.engine == UNCERTAINPY:
            load_uncertainpy()
        _check_features(spec.features)
        populations = self.populations()
        subjects = [_subject(spec, population) for population in populations]
        notes = told(populations) + [
            f"{subject.cell}: {_models(len(subject.population))} at {subject.protocol.name} "
            f"({1000 * subject.protocol.amplitude_nA:.0f} pA), {', '.join(subject.parameters)} moved by "
            f"±{100 * spec.half_width:g} %."
            for subject in subjects
        ]
        return subjects, notes

    def designs(self, inputs: Sequence[SensitivitySubject]) -> list[ModelDesign]:
        """Return all runs of all cells; the check is of the first model of each."""
        columns = tuple(dict.fromkeys(name for subject in inputs for name in subject.parameters))
        return [design for subject in inputs for design in self._designs(subject, columns)]

    def _designs(self, subject: SensitivitySubject, columns: tuple[str, ...]) -> list[ModelDesign]:
        designs = []
        for model, problem in enumerate(subject.problems):
            size = 2 * polynomial_chaos.number_of_terms(len(problem), self.spec.order) + 2
            nodes = partial(polynomial_chaos.design, problem, self.spec.order)
            designs.append(ModelDesign(subject, model, CHAOS, nodes, size, columns))
        if self.spec.check == SALIB:
            first, points = subject.problems[0], self.spec.check_points
            size = saltelli.number_of_runs(points, len(first))
            nodes = partial(saltelli.design, first, points, self.spec.seed)
            designs.append(ModelDesign(subject, 0, SALIB, nodes, size, columns))
        return designs

    def measurements(self, inputs: list[SensitivitySubject]) -> list[Measurement]:
        """Return the runs of all models."""
        return [design.measurement() for design in self.designs(inputs)]

    def assemble(
        self, inputs: list[SensitivitySubject], store: RunStore
    ) -> tuple[dict[str, pa.Table], SensitivityFindings]:
        """Return the indices of each model, their means, and how far to trust them."""
        spec = self.spec
        rows: list[dict[str, Any]] = []
        outcomes: Counter[str] = Counter()
        for design in self.designs(inputs):
            runs = pa.concat_tables(
                table for name in design.measurement().files if (table := store.table(name)) is not None
            )
            outcomes.update(runs["status"].to_pylist())
            values = np.stack([runs[name].to_numpy() for name in spec.features], axis=1)
            for engine, indices in self._indices(design, values):
                rows += indices_rows(design.about | {"engine": engine}, indices)
        averages = average_indices(rows, spec.seed)
        tables = {INDICES: _typed_table(rows), AVERAGES: _typed_table([vars(average) for average in averages])}
        findings = SensitivityFindings(
            half_width=spec.half_width,
            engine=spec.engine,
            check=spec.check,
            order=spec.order,
            features=spec.features,
            cells=[
                AnalysedCell(
                    cell=subject.cell,
                    models=len(subject.population),
                    protocol=subject.protocol.name,
                    amplitude_nA=subject.protocol.amplitude_nA,
                    parameters=list(subject.parameters),
                )
                for subject in inputs
            ],
            outcomes=dict(outcomes),
            surrogates=surrogate_errors(spec.features, rows),
            averages=averages,
            agreements=agreements(rows),
        )
        return tables, findings

    def _indices(self, design: ModelDesign, values: np.ndarray) -> Iterator[tuple[str, Indices]]:
        nodes, features, problem, order = design.nodes(), self.spec.features, design.problem, self.spec.order
        if design.design == SALIB:
            yield SALIB, saltelli.saltelli(problem, nodes, values, features, self.spec.seed)
            return
        yield CHAOS, polynomial_chaos.polynomial_chaos(problem, nodes, values, features, order)
        yield BEST, polynomial_chaos.best_order(problem, nodes, values, features, order)
        if self.spec.engine == UNCERTAINPY:
            yield UNCERTAINPY, uncertainpy_indices(problem, nodes, values, features, order)

    def plan(self, inputs: list[SensitivitySubject]) -> Plan:
        """Return cells, models, parameters, runs and core-hours, after a few runs of each cell's first model."""
        rows, total_s = [], 0.0
        for subject in inputs:
            runs = sum(design.size for design in self.designs([subject]))
            first = list(subject.population.values[:1])
            each_s = mean_seconds(subject.cell, subject.measure, first * TIMED_RUNS)
            total_s += runs * each_s
            rows.append(
                (
                    subject.cell,
                    len(subject.population),
                    len(subject.parameters),
                    subject.protocol.name,
                    f"{runs:,}",
                    f"{each_s:.3g}",
                    f"{runs * each_s / 3600:.3g}",
                )
            )
        head = ("cell", "models", "parameters", "protocol", "runs", "s each", "core-h")
        title = f"{self.spec.name}: Sobol indices of {len(self.spec.features)} features"
        lines = [f"About {cost_in_words(total_s)}, from {TIMED_RUNS} runs of the first model of each cell."]
        if self.spec.engine == UNCERTAINPY:
            lines.insert(0, "uncertainpy then takes minutes for each model on top, on the driver.")
        return Plan([ReportTable(head, rows, numbers=range(1, len(head)), title=title)], lines)


def _typed_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table whose types do not depend on which values are missing."""
    whole = {"seed", "rank", "order", "runs", "left_out", "cells", "models"}
    text = {"cell", "engine", "feature", "parameter", "reason"}
    types = {name: pa.int64() for name in whole} | {name: pa.string() for name in text}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in rows[0]])
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def runs_table(
    about: Mapping[str, Any],
    start: int,
    nodes: Mapping[str, np.ndarray | None],
    features: Sequence[str],
    outcomes: Sequence[Outcome],
) -> pa.Table:
    """Return a row for each run: its parameters, its features, and how it ended.

    Parameters
    ----------
    about : mapping
        Columns that are the same in all rows.
    start : int
        Number of the first run.
    nodes : mapping
        Parameter -> its values, shape (n,); None of one that this cell does not have.
    features : sequence of str, length F
    outcomes : sequence of Outcome, length n
        Whose values are (F,) arrays.
    """
    nothing = np.full(len(features), np.nan)
    values = np.array([outcome.value if outcome.ok else nothing for outcome in outcomes])
    columns: dict[str, Any] = {key: [value] * len(outcomes) for key, value in about.items()}
    columns["simulation"] = np.arange(start, start + len(outcomes))
    nulls = pa.nulls(len(outcomes), pa.float64())
    columns |= {name: nulls if values_of is None else values_of for name, values_of in nodes.items()}
    columns |= {name: pa.array(column, from_pandas=True) for name, column in zip(features, values.T, strict=True)}
    columns["status"] = [outcome.status for outcome in outcomes]
    columns["reason"] = [outcome.reason for outcome in outcomes]
    columns["seconds"] = [outcome.seconds for outcome in outcomes]
    return pa.table(columns)


def indices_rows(about: Mapping[str, Any], indices: Indices) -> list[dict[str, Any]]:
    """Return a row for each feature and parameter; unknown values are None."""
    return [
        dict(about)
        | {"feature": feature, "parameter": parameter}
        | {
            name: _finite(getattr(indices, name)[f, p])
            for name in ("first", "total", "first_low", "first_high", "total_low", "total_high")
        }
        | {
            "runs": int(indices.runs[f]),
            "left_out": int(indices.left_out[f]),
            "order": int(indices.orders[f]) or None,
            "surrogate_error": _finite(indices.surrogate_error[f]),
            "reason": indices.reasons[f],
        }
        for f, feature in enumerate(indices.features)
        for p, parameter in enumerate(indices.parameters)
    ]


def average_indices(rows: Sequence[Mapping[str, Any]], seed: int) -> list[AverageIndex]:
    """Return the mean of each index over cells and models, with its interval.

    Parameters
    ----------
    rows : sequence of mapping
        As `indices_rows` returns them.
    seed : int
        Of the bootstrap.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["engine"], row["feature"], row["parameter"]), []).append(row)
    averages = []
    for (engine, feature, parameter), members in groups.items():
        cells = [member["cell"] for member in members]
        values: dict[str, float | None] = {}
        for kind in KINDS:
            index = [np.nan if member[kind] is None else member[kind] for member in members]
            mean = average(index, cells, seed)
            values[kind] = _finite(mean.mean)
            values |= {f"{kind}_{name}": _finite(getattr(mean, name)) for name in ("low", "high", "spread")}
        averages.append(
            AverageIndex(
                engine=engine, feature=feature, parameter=parameter, cells=mean.cells, models=mean.models, **values
            )
        )
    return averages


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


AGAINST = ((CHAOS, UNCERTAINPY), (CHAOS, SALIB), (BEST, SALIB))
IDENTITY = ("cell", "seed", "rank", "feature", "parameter")


def agreements(rows: Sequence[Mapping[str, Any]]) -> list[Agreement]:
    """Compare polynomial chaos with the other engines, over all models, features and parameters of both.

    Parameters
    ----------
    rows : sequence of mapping
        As `indices_rows` returns them.

    Returns
    -------
    list of Agreement
        For each pair of engines and each feature.
    """
    compared = []
    for chaos, other in AGAINST:
        of_chaos = {tuple(row[key] for key in IDENTITY): row for row in rows if row["engine"] == chaos}
        groups: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
        for row in rows:
            identity = tuple(row[key] for key in IDENTITY)
            if row["engine"] == other and identity in of_chaos:
                groups.setdefault(row["feature"], []).append((of_chaos[identity], row))
        compared += [_agreement(chaos, other, feature, pairs) for feature, pairs in groups.items()]
    return compared


def _agreement(
    chaos: str, other: str, feature: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Agreement:
    differences, inside, intervals = [], 0, 0
    for row, other_row in pairs:
        for kind in KINDS:
            if row[kind] is None or other_row[kind] is None:
                continue
            differences.append(abs(row[kind] - other_row[kind]))
            low, high = other_row[f"{kind}_low"], other_row[f"{kind}_high"]
            if low is not None:
                intervals += 1
                inside += low <= row[kind] <= high
    return Agreement(
        of=chaos,
        engine=other,
        feature=feature,
        indices=len(differences),
        largest_difference=max(differences, default=None),
        inside_interval=inside if intervals else None,
    )


def surrogate_errors(features: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[SurrogateError]:
    """Return how well the polynomials of each feature predict a run that they were not fitted to."""
    return [_surrogate_error(feature, [row for row in rows if row["feature"] == feature]) for feature in features]


def _surrogate_error(feature: str, rows: Sequence[Mapping[str, Any]]) -> SurrogateError:
    chaos, best = (
        list({(r["cell"], r["seed"], r["rank"]): r for r in rows if r["engine"] == engine}.values())
        for engine in (CHAOS, BEST)
    )
    errors, best_errors = (
        [row["surrogate_error"] for row in of_engine if row["surrogate_error"] is not None]
        for of_engine in (chaos, best)
    )
    return SurrogateError(
        feature=feature,
        models=len(errors),
        median_error=float(np.median(errors)) if errors else None,
        largest_error=max(errors, default=None),
        best_median_error=float(np.median(best_errors)) if best_errors else None,
        best_orders=sorted({row["order"] for row in best if row["order"] is not None}),
        left_out=sum(row["left_out"] for row in chaos),
        reasons=sorted({row["reason"] for row in chaos if row["reason"] is not None}),
    )
