"""Samples of models without a fit: draws in the bounds, accepted when they behave like the recorded cell."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from scipy.stats import false_discovery_control, spearmanr

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.map_columns import fold
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import PARAMETER_PREFIX
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.costs import cost_in_words
from neurofleet.jobs.fit.fit_inputs import prepare
from neurofleet.jobs.fit.fit_job import CellSpec, FitSpec
from neurofleet.jobs.fit.fit_problem import CellSubject
from neurofleet.jobs.job_file import LocalPath, Positive, PositiveInt, RecipeName
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import stored_tables
from neurofleet.jobs.studies.measurements import Measurement, mean_seconds
from neurofleet.jobs.studies.sampling_report import CellSample, SampleFindings, accepted_file
from neurofleet.jobs.studies.study import Plan, Study, StudySpec, rows_table
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.evolution import ParameterSpace
from neurofleet.neurosim.studies.cell_models import conductances
from neurofleet.neurosim.studies.parameter_sampling import Design, SampleMeasure, with_bounds, with_features

DRAWS = "draws"
SMALLEST_BLOCK, LARGEST_BLOCK, BLOCKS = 64, 1024, 64
"""Draws that are stored together: few are lost when a run is killed, and a million draws are not a million files."""

TIMED_DRAWS = 24
QUICK_DRAWS = 64


class SampleSpec(StudySpec):
    """Draw models of cells and keep those within `within_z` of the data (`kind: sample`)."""

    study: ClassVar[str] = "neurofleet.jobs.studies.sampling:SampleStudy"

    kind: Literal["sample"] = "sample"
    """A population of random draws, without a fit."""
    cells: Annotated[list[CellSpec], Field(min_length=1)]
    """The cells, as in a fit: a list, a table (`{from: cells.csv}`) or a pattern of recordings (`{glob:
    "cells/*.nwb"}`).
    """
    recipe: RecipeName = "all-active"
    """Mechanisms, parameters with bounds, and e-features: a built-in recipe or your own YAML file."""
    mechanisms: LocalPath | None = None
    """Folder of your own mod files, for a recipe that names their mechanisms."""
    draws: PositiveInt
    """Draws of each cell."""
    design: Literal["sobol", "latin-hypercube"] = "sobol"
    """`sobol` (scrambled), or `latin-hypercube`, which is kept in memory as a whole."""
    scale: Literal["linear", "log"] = "linear"
    """`log` draws conductances and the decay of calcium on the logarithmic axes of strategy `fast`."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the draws; they are the same on any number of CPUs."""
    bounds: dict[str, tuple[float, float]] = {}
    """Bounds in place of the recipe's: `{parameter: [low, high]}`."""
    fixed: dict[str, float] = {}
    """Values of parameters that are not drawn."""
    features: Annotated[list[str], Field(min_length=1)] | None = None
    """The e-features that are compared; by default all of the recipe's last stage."""
    within_z: Positive = 3.0
    """A draw is accepted if every e-feature is within this number of standard deviations of the data."""
    stop_early: bool = True
    """A draw that misses a target is not simulated at stronger steps. The acceptance rate stays exact; `false` stores
    all e-features of all draws.
    """
    deadline_s: Positive = 60.0
    """Wall-clock limit of one draw in seconds."""
    max_steps: PositiveInt | None = 1_000_000
    """Integration steps of one draw; `null` sets no limit."""
    memory_limit_mb: PositiveInt = 4096
    """Memory of one draw in MB."""

    @model_validator(mode="after")
    def _each_once(self) -> "SampleSpec":
        ids = [cell.id for cell in self.cells]
        repeated = sorted({cell for cell in ids if ids.count(cell) > 1})
        if repeated:
            raise ValueError(f"each cell needs its own id, found more than one {', '.join(repeated)}")
        for name, (low, high) in self.bounds.items():
            if not low < high:
                raise ValueError(f"bounds: {name}: expected [low, high] with low < high, found {[low, high]}")
        both = sorted(set(self.bounds) & set(self.fixed))
        if both:
            raise ValueError(f"{', '.join(both)}: give `bounds:` or a `fixed:` value, one of the two")
        return self

    def quick_version(self) -> Self:
        """A few draws for the first cell."""
        return self.model_copy(update={"cells": self.cells[:1], "draws": min(self.draws, QUICK_DRAWS)})

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with a table or a pattern of cells replaced by the cells that it names."""
        return FitSpec.completed(content, folder, source)

    def as_fit(self) -> FitSpec:
        """Return a fit of the same cells, which reads their targets and bounds."""
        return FitSpec(name=self.name, cells=self.cells, recipe=self.recipe, mechanisms=self.mechanisms)

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [path for path in self.as_fit().paths_named() if str(path) != self.recipe or path.suffix]


@dataclass(frozen=True)
class Sampling:
    """A cell that is sampled.

    Attributes
    ----------
    cell : str
    model : FitModel
        Its free parameters are drawn; its targets decide which draws are accepted.
    design : Design
    """

    cell: str
    model: FitModel
    design: Design


def read_samplings(spec: SampleSpec, folder: Path) -> tuple[list[Sampling], list[str]]:
    """Read all cells; relative paths start at `folder`.

    Returns
    -------
    list of Sampling
    list of str
        Warnings.

    Raises
    ------
    UsageError, InputError
        Files do not exist or cannot be used, or a cell lacks a parameter or feature.
    """
    samplings, notes = [], []
    for subject in prepare(spec.as_fit(), folder, keep_recordings=False):
        assert isinstance(subject, CellSubject)
        problem = subject.problem(len(subject.stages) - 1, None)
        model = problem.model
        assert isinstance(model, FitModel)
        model = _restricted(spec, subject.id, model)
        samplings.append(Sampling(subject.id, model, _design(spec, model)))
        notes += [f"{subject.id}: {warning}" for warning in subject.warnings]
    return samplings, notes


def _restricted(spec: SampleSpec, cell: str, model: FitModel) -> FitModel:
    names = [parameter.full_name for parameter in model.free]
    unknown = [f"{name}{did_you_mean(name, names)}" for name in (*spec.bounds, *spec.fixed) if name not in names]
    if unknown:
        raise UsageError(f"cell {cell}: expected free parameters of {spec.recipe}, found {', '.join(unknown)}.")
    if spec.features is not None:
        known = list(dict.fromkeys(target.feature for target in model.targets.targets))
        missing = [f"{name}{did_you_mean(name, known)}" for name in spec.features if name not in known]
        if missing:
            raise UsageError(
                f"features: cell {cell} has no target for {', '.join(missing)}; it has {', '.join(known)}."
            )
        model = with_features(model, spec.features)
    model = with_bounds(model, spec.bounds, spec.fixed)
    if not model.free:
        raise UsageError(f"fixed: every parameter of cell {cell} is fixed; leave at least one to be drawn.")
    return model


def _design(spec: SampleSpec, model: FitModel) -> Design:
    names = [parameter.full_name for parameter in model.free]
    lower = np.array([parameter.lower for parameter in model.free])
    upper = np.array([parameter.upper for parameter in model.free])
    space = ParameterSpace.from_bounds(names, lower, upper)
    if spec.scale == "linear":
        space = ParameterSpace(space.names, lower, upper, np.zeros(len(names), bool))
    return Design(space, spec.draws, spec.design, spec.seed)


class SampleStudy(Study[SampleSpec, list[Sampling]]):
    """Draws models and keeps those that meet all targets."""

    doing = "drawing"

    def read(self) -> tuple[list[Sampling], list[str]]:
        """Read all cells; raises as `read_samplings` does."""
        return read_samplings(self.spec, self.folder)

    def measurements(self, inputs: list[Sampling]) -> list[Measurement]:
        """Return the draws of all cells."""
        draws = self.spec.draws
        parameters = tuple(dict.fromkeys(name for sampling in inputs for name in sampling.design.space.names))
        return [
            Measurement(
                file=f"{DRAWS}/cell={sampling.cell}/block",
                cell=sampling.cell,
                measure=self._measure(sampling),
                size=draws,
                individuals=partial(_individuals, sampling),
                table=partial(draws_table, sampling, parameters),
                engine=f"{sampling.cell}-sample",
                block_size=min(max(draws // BLOCKS, SMALLEST_BLOCK), LARGEST_BLOCK),
                digits=6,
            )
            for sampling in inputs
        ]

    def _measure(self, sampling: Sampling) -> SampleMeasure:
        return SampleMeasure(sampling.model, self.spec.within_z, self.spec.stop_early, self.spec.max_steps)

    def assemble(self, inputs: list[Sampling], store: RunStore) -> tuple[dict[str, pa.Table], SampleFindings]:
        """Return the accepted models of each cell, and how targets reject and conductances correlate."""
        tables, cells = {}, []
        acceptance: list[dict[str, Any]] = []
        correlations: list[dict[str, Any]] = []
        for sampling in inputs:
            cell, accepted, rows = self._read_draws(sampling, store)
            cells.append(cell)
            acceptance += rows
            correlations += correlation_rows(sampling, accepted)
            tables[accepted_file(sampling.cell)] = fold(accepted, FEATURE_MAP)
        tables |= {"acceptance.parquet": rows_table(acceptance), "correlations.parquet": rows_table(correlations)}
        findings = SampleFindings(
            within_z=self.spec.within_z,
            draws=self.spec.draws,
            design=self.spec.design,
            scale=self.spec.scale,
            stop_early=self.spec.stop_early,
            cells=cells,
        )
        return tables, findings

    def _read_draws(self, sampling: Sampling, store: RunStore) -> tuple[CellSample, pa.Table, list[dict[str, Any]]]:
        """Read a cell's draws block by block; keep the accepted ones, and count the others."""
        outcomes: Counter[str] = Counter()
        seconds, accepted = 0.0, []
        rows: list[dict[str, Any]] = []
        for block in stored_tables(store, f"{DRAWS}/cell={sampling.cell}"):
            seconds += pc.sum(block["seconds"]).as_py()
            outcomes.update(block["status"].to_pylist())
            accepted.append(block.filter(block["accepted"]))
            new = acceptance_rows(sampling, block, self.spec.within_z)
            rows = [_added(a, b) for a, b in zip(rows, new, strict=True)] if rows else new
        table = pa.concat_tables(accepted).drop_columns(["status", "reason", "accepted", "rejected_by"])
        cell = CellSample(
            cell=sampling.cell,
            draws=self.spec.draws,
            outcomes=dict(outcomes),
            accepted=len(table),
            core_seconds=round(seconds, 3),
            parameters=list(sampling.design.space.names),
            targets=len(sampling.model.targets.targets),
        )
        return cell, table, rows

    def plan(self, inputs: list[Sampling]) -> Plan:
        """Return cells, parameters, targets, draws and core-hours."""
        draws = self.spec.draws
        rows, total_s = [], 0.0
        for sampling in inputs:
            individuals = _individuals(sampling, slice(0, min(TIMED_DRAWS, draws)))
            each_s = mean_seconds(sampling.cell, self._measure(sampling), individuals)
            total_s += each_s * draws
            targets = sampling.model.targets
            sizes = (len(sampling.design.space), len(targets.targets), len(targets.protocols))
            rows.append((sampling.cell, *sizes, f"{each_s:.3g}", f"{each_s * draws / 3600:.3g}"))
        head = ("cell", "parameters", "targets", "protocols", "s each", "core-h")
        title = f"{self.spec.name}: {draws:,} draws a cell"
        return Plan(
            [ReportTable(head, rows, numbers=range(1, len(head)), title=title)],
            [f"About {cost_in_words(total_s)}, from the mean of the first {TIMED_DRAWS} draws."],
        )


def _individuals(sampling: Sampling, rows: slice) -> list[np.ndarray]:
    return list(sampling.design.rows(rows.start, rows.stop))


def _added(row: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `acceptance_rows` with the counts of another block added."""
    counted = ("with_value", "within", "rejected_first")
    return {key: row[key] + other[key] if key in counted else row[key] for key in row}


FEATURE_PREFIX = "feature."
FEATURE_MAP = {"feature": pa.float64()}
FEWEST_FOR_CORRELATION = 10
_WORD = pa.dictionary(pa.int32(), pa.string())


def draws_table(sampling: Sampling, parameters: Sequence[str], draws: slice, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row for each draw, with its number, its parameters, its e-features, and how it ended.

    There is a column for each of `parameters`, those of all cells, and a map of the e-features, whose names differ
    between cells: so the draws of all cells have one schema.
    """
    targets = sampling.model.targets.targets
    drawn = sampling.design.rows(draws.start, draws.stop)
    features = np.full((len(outcomes), len(targets)), np.nan)
    rejected: list[str | None] = [None] * len(outcomes)
    for i, outcome in enumerate(outcomes):
        if outcome.ok:
            features[i] = outcome.value.features
            if outcome.value.rejected_by >= 0:
                rejected[i] = targets[outcome.value.rejected_by].objective
    statuses = [outcome.status for outcome in outcomes]
    accepted = [status == "ok" and target is None for status, target in zip(statuses, rejected, strict=True)]
    columns = {
        "draw": pa.array(np.arange(draws.start, draws.stop), pa.int64()),
        "status": pa.array(statuses).cast(_WORD),
        "reason": pa.array([outcome.reason for outcome in outcomes]).cast(_WORD),
        "seconds": pa.array([outcome.seconds for outcome in outcomes], pa.float64()),
        "accepted": pa.array(accepted, pa.bool_()),
        "rejected_by": pa.array(rejected, pa.string()).cast(_WORD),
    }
    values = dict(zip(sampling.design.space.names, drawn.T, strict=True))
    for name in parameters:
        there = name in values
        columns[PARAMETER_PREFIX + name] = pa.array(values[name]) if there else pa.nulls(len(drawn), pa.float64())
    for i, target in enumerate(targets):
        columns[FEATURE_PREFIX + target.objective] = pa.array(features[:, i])
    return fold(pa.table(columns), FEATURE_MAP)


def acceptance_rows(sampling: Sampling, draws: pa.Table, within_z: float) -> list[dict[str, object]]:
    """Return a row for each target: how many draws have a value for it, and how many of these are near it."""
    rows: list[dict[str, object]] = []
    first = draws["rejected_by"].cast(pa.string())
    for target in sampling.model.targets.targets:
        values = draws[FEATURE_PREFIX + target.objective].to_numpy()
        has_value = np.isfinite(values)
        within = np.abs((values - target.mean) / target.std) <= within_z
        rows.append(
            {
                "cell": sampling.cell,
                "objective": target.objective,
                "mean": target.mean,
                "std": target.std,
                "with_value": int(has_value.sum()),
                "within": int((has_value & within).sum()),
                "rejected_first": pc.sum(pc.equal(first, target.objective)).as_py() or 0,
            }
        )
    return rows


def correlation_rows(sampling: Sampling, accepted: pa.Table) -> list[dict[str, object]]:
    """Return Spearman's correlation of each pair of conductances among the accepted models.

    Adjusted p are Benjamini and Hochberg's over the pairs of a cell. With fewer than `FEWEST_FOR_CORRELATION`
    models there are no rows.
    """
    names = conductances(sampling.design.space.names)
    if len(accepted) < FEWEST_FOR_CORRELATION or len(names) < 2:
        return []
    values = np.column_stack([accepted[PARAMETER_PREFIX + name].to_numpy() for name in names])
    rows: list[dict[str, object]] = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            rho, p = spearmanr(values[:, i], values[:, j])
            rows.append({"cell": sampling.cell, "a": first, "b": names[j], "rho": float(rho), "p": float(p)})
    adjusted = false_discovery_control([row["p"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["p_adjusted"], row["models"] = float(p), len(accepted)
    return rows
