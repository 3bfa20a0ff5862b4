"""Populations of models without a fit: draws in the bounds, kept when they behave like the recorded cell."""

import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
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
from neurofleet.cluster.store.schemas import PARAMETER_PREFIX
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.fit.fit_inputs import prepare
from neurofleet.jobs.fit.fit_job import CellSpec, FitSpec, expand_cells
from neurofleet.jobs.fit.fit_problem import CellSubject
from neurofleet.jobs.job_file import JobSpec, Positive, PositiveInt
from neurofleet.jobs.progress import duration
from neurofleet.jobs.run_folder import JobRun, refuse_missing, run_in_folder, versions
from neurofleet.jobs.studies.blocks import Block, measure_on_pool
from neurofleet.jobs.studies.measure_engine import measure_engine
from neurofleet.jobs.studies.sampling_report import print_sample_findings, write_sample_report
from neurofleet.jobs.studies.study import FINDINGS, write_findings
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded, IncompleteRun
from neurofleet.neurosim.evolution import ParameterSpace
from neurofleet.neurosim.studies.cell_models import conductances
from neurofleet.neurosim.studies.parameter_sampling import Design, SampleMeasure, with_bounds, with_features


class SampleSpec(JobSpec):
    """Draw models of cells and keep those within `within_z` of the data (`kind: sample`)."""

    runner: ClassVar[str] = "neurofleet.jobs.studies.sampling:run_sample"
    planner: ClassVar[str] = "neurofleet.jobs.studies.sampling:print_sample_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel")

    kind: Literal["sample"] = "sample"
    cells: Annotated[list[CellSpec], Field(min_length=1)]
    recipe: str = "all-active"
    mechanisms: Path | None = None
    draws: PositiveInt
    design: Literal["sobol", "latin-hypercube"] = "sobol"
    scale: Literal["linear", "log"] = "linear"
    seed: Annotated[int, Field(ge=0)] = 1
    bounds: dict[str, tuple[float, float]] = {}
    fixed: dict[str, float] = {}
    features: Annotated[list[str], Field(min_length=1)] | None = None
    within_z: Positive = 3.0
    stop_early: bool = True
    deadline_s: Positive = 60.0
    max_steps: PositiveInt | None = 1_000_000
    memory_limit_mb: PositiveInt = 4096

    @model_validator(mode="after")
    def _each_once(self) -> "SampleSpec":
        ids = [cell.id for cell in self.cells]
        doubled = sorted({cell for cell in ids if ids.count(cell) > 1})
        if doubled:
            raise ValueError(f"each cell needs an id of its own, found more than one {', '.join(doubled)}")
        for name, (low, high) in self.bounds.items():
            if not low < high:
                raise ValueError(f"bounds: {name}: expected [low, high] with low < high, found {[low, high]}")
        both = sorted(set(self.bounds) & set(self.fixed))
        if both:
            raise ValueError(f"{', '.join(both)}: give `bounds:` or a `fixed:` value, one of the two")
        return self

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with a table or a pattern of cells replaced by the cells that it names."""
        if isinstance(content.get("cells"), dict):
            return content | {"cells": expand_cells(content["cells"], folder, CellSpec, source)}
        return content

    def as_fit(self) -> FitSpec:
        """Return a fit of the same cells: it knows their targets and bounds."""
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
        Its free parameters are drawn; its targets decide.
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
        What is to be said of them.

    Raises
    ------
    UsageError, InputError
        Files that are not there or cannot be used, and parameters or features that a cell does not have.
    """
    found, notes = [], []
    for subject in prepare(spec.as_fit(), folder, keep_recordings=False):
        assert isinstance(subject, CellSubject)
        problem = subject.problem(len(subject.stages) - 1, None)
        model = problem.model
        assert isinstance(model, FitModel)
        model = _restricted(spec, subject.id, model)
        found.append(Sampling(subject.id, model, _design(spec, model)))
        notes += [f"{subject.id}: {warning}" for warning in subject.warnings]
    return found, notes


def _restricted(spec: SampleSpec, cell: str, model: FitModel) -> FitModel:
    names = [parameter.full_name for parameter in model.free]
    unknown = [f"{name}{did_you_mean(name, names)}" for name in (*spec.bounds, *spec.fixed) if name not in names]
    if unknown:
        raise UsageError(f"cell {cell}: expected free parameters of {spec.recipe}, found {', '.join(unknown)}.")
    if spec.features is not None:
        known = list(dict.fromkeys(target.feature for target in model.targets.targets))
        strange = [f"{name}{did_you_mean(name, known)}" for name in spec.features if name not in known]
        if strange:
            raise UsageError(
                f"features: cell {cell} has no target for {', '.join(strange)}; it has {', '.join(known)}."
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


DRAWS = "draws"
FEATURE_PREFIX = "feature."
FEWEST_FOR_CORRELATION = 10
_WORD = pa.dictionary(pa.int32(), pa.string())


def draws_table(sampling: Sampling, start: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return one row a draw, numbered from `start`: its parameters, its e-features, and what became of it."""
    targets = sampling.model.targets.targets
    drawn = sampling.design.rows(start, start + len(outcomes))
    features = np.full((len(outcomes), len(targets)), np.nan)
    rejected: list[str | None] = []
    for i, outcome in enumerate(outcomes):
        by = None
        if outcome.ok:
            features[i] = outcome.value.features
            if outcome.value.rejected_by >= 0:
                by = targets[outcome.value.rejected_by].objective
        rejected.append(by)
    statuses = [outcome.status for outcome in outcomes]
    accepted = [s == "ok" and by is None for s, by in zip(statuses, rejected, strict=True)]
    columns = {
        "draw": pa.array(np.arange(start, start + len(outcomes)), pa.int64()),
        "status": pa.array(statuses).cast(_WORD),
        "reason": pa.array([outcome.reason for outcome in outcomes]).cast(_WORD),
        "seconds": pa.array([outcome.seconds for outcome in outcomes], pa.float64()),
        "accepted": pa.array(accepted, pa.bool_()),
        "rejected_by": pa.array(rejected, pa.string()).cast(_WORD),
    }
    for i, name in enumerate(sampling.design.space.names):
        columns[PARAMETER_PREFIX + name] = pa.array(drawn[:, i])
    for i, target in enumerate(targets):
        columns[FEATURE_PREFIX + target.objective] = pa.array(features[:, i])
    return pa.table(columns)


def acceptance_rows(sampling: Sampling, draws: pa.Table, within_z: float) -> list[dict[str, object]]:
    """Return one row a target: how many draws came to it, and how many of them were within it."""
    rows: list[dict[str, object]] = []
    first = draws["rejected_by"].cast(pa.string())
    for target in sampling.model.targets.targets:
        values = draws[FEATURE_PREFIX + target.objective].to_numpy()
        asked = np.isfinite(values)
        within = np.abs((values - target.mean) / target.std) <= within_z
        rows.append(
            {
                "cell": sampling.cell,
                "objective": target.objective,
                "mean": target.mean,
                "std": target.std,
                "with_value": int(asked.sum()),
                "within": int((asked & within).sum()),
                "rejected_first": pc.sum(pc.equal(first, target.objective)).as_py() or 0,
            }
        )
    return rows


def correlation_rows(sampling: Sampling, accepted: pa.Table) -> list[dict[str, object]]:
    """Return Spearman's correlation of each pair of conductances among the accepted models.

    Adjusted p are Benjamini and Hochberg's over the pairs of a cell. Without enough models there are no rows.
    """
    from scipy.stats import false_discovery_control, spearmanr

    names = conductances(sampling.design.space.names)
    if len(accepted) < FEWEST_FOR_CORRELATION or len(names) < 2:
        return []
    values = np.column_stack([accepted[PARAMETER_PREFIX + name].to_numpy() for name in names])
    rows: list[dict[str, object]] = []
    for i, one in enumerate(names):
        for j in range(i + 1, len(names)):
            rho, p = spearmanr(values[:, i], values[:, j])
            rows.append({"cell": sampling.cell, "a": one, "b": names[j], "rho": float(rho), "p": float(p)})
    adjusted = false_discovery_control([row["p"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["p_adjusted"], row["models"] = float(p), len(accepted)
    return rows


SMALLEST_BLOCK, LARGEST_BLOCK, BLOCKS = 64, 1024, 64
"""Draws that are stored together: few are lost when a run is killed, and a million are no million files."""


def run_sample(spec: SampleSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Draw, run and keep models with everything stored in `out`, or go on with it; raises as `run_in_folder`."""

    def read() -> tuple[list[Sampling], list[str]]:
        refuse_missing(spec, folder)
        return read_samplings(spec, folder)

    run_in_folder(spec, folder, out, read, lambda run: _sample(run, address, cpus), FINDINGS)


def _sample(run: JobRun, address: str | None, cpus: int | None) -> None:
    spec = run.spec
    measure_on_pool(run, sample_blocks(spec, run.inputs), "drawing", address, cpus)
    cells = [_gathered(run, sampling) for sampling in run.inputs]
    found: dict[str, Any] = {
        "name": spec.name,
        "kind": spec.kind,
        "within_z": spec.within_z,
        "draws": spec.draws,
        "design": spec.design,
        "scale": spec.scale,
        "stop_early": spec.stop_early,
        "cells": [cell for cell, _, _ in cells],
        "notes": run.notes,
        "versions": versions(),
    }
    _write_rows(run, "acceptance.parquet", [row for _, rows, _ in cells for row in rows])
    _write_rows(run, "correlations.parquet", [row for _, _, rows in cells for row in rows])
    write_sample_report(run.store, found)
    write_findings(run.out, found)
    print_sample_findings(found, run.console)


def sample_blocks(spec: SampleSpec, samplings: Sequence[Sampling]) -> list[Block]:
    """Return the draws of all cells in blocks, as they are stored."""
    found = []
    size = min(max(spec.draws // BLOCKS, SMALLEST_BLOCK), LARGEST_BLOCK)
    for sampling in samplings:
        asked = SampleMeasure(sampling.model, spec.within_z, spec.stop_early, spec.max_steps)
        engine = measure_engine(f"{sampling.cell}-sample", asked)
        for number, start in enumerate(range(0, spec.draws, size)):
            stop = min(start + size, spec.draws)
            found.append(
                Block(
                    name=f"{DRAWS}/cell={sampling.cell}/block-{number:06d}.parquet",
                    cell=sampling.cell,
                    engine=engine,
                    size=stop - start,
                    individuals=partial(_rows, sampling, start, stop),
                    table=partial(_table, sampling, start),
                )
            )
    return found


def _rows(sampling: Sampling, start: int, stop: int) -> Sequence[np.ndarray]:
    return list(sampling.design.rows(start, stop))


def _table(sampling: Sampling, start: int, outcomes: list[Outcome]) -> "pa.Table":

    return draws_table(sampling, start, outcomes)


def _gathered(
    run: JobRun, sampling: Sampling
) -> tuple[dict[str, Any], list[dict[str, object]], list[dict[str, object]]]:
    """Read a cell's draws again block by block; keep what was accepted, and count the rest."""
    spec: SampleSpec = run.spec
    counts: dict[str, int] = {}
    seconds, kept = 0.0, []
    rows: list[dict[str, object]] = []
    for name in run.store.names(f"{DRAWS}/cell={sampling.cell}"):
        block = run.store.table(name)
        assert block is not None
        seconds += pc.sum(block["seconds"]).as_py()
        for one in pc.value_counts(block["status"].cast(pa.string())).to_pylist():
            counts[one["values"]] = counts.get(one["values"], 0) + one["counts"]
        kept.append(block.filter(block["accepted"]))
        new = acceptance_rows(sampling, block, spec.within_z)
        rows = new if not rows else [_added(a, b) for a, b in zip(rows, new, strict=True)]
    accepted = pa.concat_tables(kept).drop_columns(["status", "reason", "accepted", "rejected_by"])
    run.store.write_table(f"accepted/cell={sampling.cell}/part.parquet", accepted)
    correlations = correlation_rows(sampling, accepted)
    facts = {
        "cell": sampling.cell,
        "draws": spec.draws,
        "outcomes": counts,
        "accepted": len(accepted),
        "core_seconds": round(seconds, 3),
        "parameters": list(sampling.design.space.names),
        "targets": len(sampling.model.targets.targets),
    }
    return facts, rows, correlations


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, object]:
    counted = ("with_value", "within", "rejected_first")
    return {key: one[key] + other[key] if key in counted else one[key] for key in one}


def _write_rows(run: JobRun, name: str, rows: list[dict[str, object]]) -> None:
    if rows:
        run.store.write_table(name, pa.Table.from_pylist(rows))


MEASURED_DRAWS = 24
LIMIT_S = 40.0


def print_sample_plan(spec: SampleSpec, folder: Path) -> None:
    """Print cells, parameters, targets, draws and core-hours.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    refuse_missing(spec, folder)
    samplings, notes = read_samplings(spec, folder)
    table = Table(title=f"{spec.name}: {spec.draws:,} draws a cell")
    table.add_column("cell")
    for name in ("parameters", "targets", "protocols", "s each", "core-h"):
        table.add_column(name, justify="right")
    total = 0.0
    for sampling in samplings:
        each = _seconds_each(sampling, spec)
        total += each * spec.draws
        table.add_row(
            sampling.cell,
            str(len(sampling.design.space)),
            str(len(sampling.model.targets.targets)),
            str(len(sampling.model.targets.protocols)),
            f"{each:.3g}",
            f"{each * spec.draws / 3600:.3g}",
        )
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"About {total / 3600:.3g} core-hours ({duration(total)} on one core), from the mean of the first "
        f"{MEASURED_DRAWS} draws.",
        soft_wrap=True,
    )


def _seconds_each(sampling: Sampling, spec: SampleSpec) -> float:
    """Run the first draws in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-m", "neurofleet.jobs.studies.sampling"],
        input=pickle.dumps((sampling, spec)),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UsageError(f"cell {sampling.cell} cannot be simulated: {reason[0]}")
    return float(done.stdout.split()[-1])


def _time_draws() -> None:
    """Print the mean seconds of the first draws of the sampling on standard input (ours, from above)."""
    sampling, spec = pickle.load(sys.stdin.buffer)
    run = SampleMeasure(sampling.model, spec.within_z, spec.stop_early, spec.max_steps).build()
    seconds = []
    for values in sampling.design.rows(0, min(MEASURED_DRAWS, spec.draws)):
        started = time.perf_counter()
        try:
            run(values)
        except (BudgetExceeded, IncompleteRun):
            pass  # its time counts like any other
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > LIMIT_S:
            break
    print("\n", sum(seconds) / len(seconds))


if __name__ == "__main__":
    _time_draws()
