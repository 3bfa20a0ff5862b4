"""Posteriors: the models that a recording allows, sampled within the bounds of a finished fit."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field
from scipy.stats import spearmanr

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.errors import UsageError
from neurofleet.jobs.costs import cost_in_words
from neurofleet.jobs.fit.campaign_state import Engine, recorded_choices
from neurofleet.jobs.fit.engine_choice import try_vector
from neurofleet.jobs.fit.engines import engine_spec, scores_of
from neurofleet.jobs.fit.fit_inputs import job_mechanisms, prepare_cell, recording_source
from neurofleet.jobs.fit.fit_problem import Problem
from neurofleet.jobs.job_file import LocalPath, Name, Positive, PositiveInt
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.run_folder import JobRun
from neurofleet.jobs.studies.findings import stored_findings, table_rows
from neurofleet.jobs.studies.measurements import Block, mean_seconds
from neurofleet.jobs.studies.populations import (
    cells_with_models,
    draws_file,
    last_problem,
    open_fit,
    stage_winners,
)
from neurofleet.jobs.studies.posterior_chains import CellToSample, Chain, Drawn, StoredChain
from neurofleet.jobs.studies.posterior_predictions import (
    PREDICTED,
    prediction_rows,
    predictions_block,
    unseen_targets,
)
from neurofleet.jobs.studies.posterior_report import CellPosterior, PosteriorFindings
from neurofleet.jobs.studies.study import Plan, Study, StudySpec, rows_table
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.evolution import ParameterSpace, total_scores
from neurofleet.neurosim.studies.parameter_sampling import SampleMeasure
from neurofleet.neurosim.studies.posterior_sampling import (
    SWEEPS,
    Convergence,
    convergence,
    effective_share,
    log_density,
    spread_draws,
    sweeps_before_draws,
)

PARTICLES, PARTICLES_EACH = 64, 12
"""By default a multiple of the first, four full batches of the vector engine, and so many for each parameter."""

FEWEST_SWEEPS = 100
"""Evaluations allow for so many of all particles, beside those of the stages at the density itself before the draws."""

QUICK_PARTICLES, QUICK_SWEEPS, QUICK_DRAWS, QUICK_CHECKED = 32, 2, 50, 4
TIMED = 16
CHECKS = "checks"


class PosteriorSpec(StudySpec):
    """Sample the models that a recording allows, within the bounds of a fit (`kind: posterior`)."""

    study: ClassVar[str] = "neurofleet.jobs.studies.posterior:PosteriorStudy"
    decisive_packages: ClassVar[tuple[str, ...]] = (*StudySpec.decisive_packages, "scikit-learn")

    kind: Literal["posterior"] = "posterior"
    """Draws from the density of models given a recording."""
    fit: LocalPath
    """The run folder of a finished fit: its last stage is sampled, within the bounds that it was searched in."""
    cells: Annotated[list[Name], Field(min_length=1)] | None = None
    """Cells of the fit; by default all that are finished."""
    particles: Annotated[int, Field(ge=8)] | None = None
    """Models that move together, at least twice the parameters; by default twelve times, in multiples of 64."""
    draws: PositiveInt = 1000
    """Effective draws of every parameter of a cell: sampling ends when there are so many and they have converged."""
    most_evaluations: PositiveInt = 400_000
    """Evaluations of a cell after which sampling ends, converged or not. With more, the same command goes on."""
    sweeps: PositiveInt = SWEEPS
    """Moves of all particles in each stage at most, before the density itself is reached; there are 18 times as many at
    the density before the first draw.
    """
    largest_mean_z: Positive | None = 3.0
    """A cell is refused if the mean score of its best model is above this, in standard deviations of the recording;
    `null` samples around any model.
    """
    checked: Annotated[int, Field(ge=0)] = 20
    """Draws of each cell that NEURON scores again as accurately as a fit's finalists, and simulates at the steps of the
    recording that no stage of the fit was trained on.
    """
    known: LocalPath | None = None
    """JSON file with the true parameters, by name, of cells that were made: the report says where they lie."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Seed of the particles; the draws are the same on any number of CPUs."""
    deadline_s: Positive = 60.0
    """Wall-clock limit of one evaluation in seconds; of the checks by NEURON, for each step that a draw is run at."""
    max_steps: PositiveInt | None = 1_000_000
    """Integration steps of one evaluation by NEURON; `null` sets no limit."""
    memory_limit_mb: PositiveInt = 4096
    """Memory of one evaluation in MB."""

    def quick_version(self) -> Self:
        """A few moves of few particles, of the first cell."""
        particles = min(self.particles or QUICK_PARTICLES, QUICK_PARTICLES)
        sweeps = min(self.sweeps, QUICK_SWEEPS)
        fewest = FEWEST_SWEEPS + sweeps_before_draws(sweeps)
        return self.model_copy(
            update={
                "most_evaluations": min(self.most_evaluations, fewest * particles),
                "particles": particles,
                "sweeps": sweeps,
                "draws": min(self.draws, QUICK_DRAWS),
                "checked": min(self.checked, QUICK_CHECKED),
            }
        )

    def paths_named(self) -> list[Path]:
        """Return the files of the fit that draws depend on; they do not depend on what is known."""
        return [self.fit / "job.yaml", self.fit / "hall_of_fame"]

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on: not how far sampling goes."""
        return {
            key: value
            for key, value in self.plain().items()
            if key not in ("draws", "most_evaluations", "checked", "known")
        }


class PosteriorStudy(Study[PosteriorSpec, list[CellToSample]]):
    """Samples the density of models given the recording of each cell."""

    doing = "sampling"

    def check_paths(self) -> None:
        """Raise `UsageError` where the fit does not exist or is not finished."""
        cells_with_models(self.folder / self.spec.fit, self.spec.cells)
        super().check_paths()

    def read(self) -> tuple[list[CellToSample], list[str]]:
        """Read all cells.

        Raises
        ------
        UsageError, InputError
            The fit's inputs cannot be used, particles or evaluations are too few, or a cell's best model is far from
            its recording.
        """
        root = self.folder / self.spec.fit
        store, fit, folder = open_fit(root)
        winners, choices = stage_winners(store), recorded_choices(store.read_events())
        mechanisms = job_mechanisms(fit, folder)
        known = self._known_values()
        cells, notes = [], []
        for cell in cells_with_models(root, self.spec.cells)[: 1 if self.spec.quick else None]:
            subject = prepare_cell(cell, fit, folder, mechanisms)
            problem = last_problem(subject, winners.get(cell.id, {}))
            stage = subject.stages[-1].name
            choice = choices.get(cell.id, {}).get(stage)
            recording = recording_source(cell, folder)
            to_sample = replace(
                self._cell(store, cell.id, problem, choice.engine if choice else "neuron"),
                unseen=unseen_targets(subject, problem, recording) if self.spec.checked else None,
                known=self._known(problem, known),
            )
            cells.append(to_sample)
            recorded = recording is not None and problem.final_model is not None
            if self.spec.checked and recorded and to_sample.unseen is None:
                notes.append(f"{cell.id}: no steps but those that were trained: nothing to compare predictions with")
            notes += [f"{cell.id}: {warning}" for warning in subject.warnings]
            notes.append(
                f"{cell.id}: {len(to_sample.space)} parameters within the bounds of stage {stage}, "
                f"{len(problem.objectives)} objectives, {to_sample.particles} particles, engine {to_sample.engine}; "
                f"the best model of the fit has a mean |z| of {to_sample.mean_z:.2f}"
            )
        if fit.quick:
            notes.append("the fit is a quick run: what is sampled around its models is no result")
        far = [cell for cell in cells if self.spec.largest_mean_z and cell.mean_z > self.spec.largest_mean_z]
        if far:
            told = ", ".join(f"{cell.cell} ({cell.mean_z:.2f})" for cell in far)
            raise UsageError(
                f"largest_mean_z: the best model is far from the recording: {told}; expected a mean score of at most "
                f"{self.spec.largest_mean_z:g} standard deviations. What is sampled around such a model says little "
                "of the cell: fit it with a larger budget, leave it out with `cells:`, or allow it with a larger "
                "`largest_mean_z:`."
            )
        return cells, notes

    def _known_values(self) -> dict[str, float]:
        """Return the true values in the file of the job, none without one."""
        if self.spec.known is None:
            return {}
        path = self.folder / self.spec.known
        try:
            known = {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
            if endless := [name for name, value in known.items() if not math.isfinite(value)]:
                raise ValueError(f"{', '.join(endless)} is not finite")
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise UsageError(
                'known: expected a JSON file with a number for each parameter, such as {"gbar_NaTa_t.axon": 0.1}, '
                f"found {path}: {error}."
            ) from error
        return known

    def _known(self, problem: Problem, known: Mapping[str, float]) -> dict[str, float]:
        """Return the true values of the parameters of a stage, as far as they are known."""
        if self.spec.known is not None and not set(known) & set(problem.names):
            raise UsageError(
                f"known: expected some of the parameters that are sampled ({', '.join(problem.names)}), found "
                f"{', '.join(known) or 'none'} in {self.folder / self.spec.known}."
            )
        return {name: known[name] for name in problem.names if name in known}

    def _cell(self, store: RunStore, cell: str, problem: Problem, engine: Engine) -> CellToSample:
        spec = self.spec
        space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
        particles = spec.particles or PARTICLES * math.ceil(PARTICLES_EACH * len(space) / PARTICLES)
        if spec.quick:
            particles = max(particles, 2 * len(space))
        if particles < 2 * len(space):
            raise UsageError(
                f"particles: expected at least twice the {len(space)} parameters of cell {cell}, found {particles}."
            )
        fewest = FEWEST_SWEEPS + sweeps_before_draws(spec.sweeps)
        if spec.most_evaluations < fewest * particles and not spec.quick:
            raise UsageError(
                f"most_evaluations: expected at least {fewest * particles:,} for {particles:,} particles of "
                f"cell {cell}, {fewest} of each with `sweeps: {spec.sweeps}`, found {spec.most_evaluations:,}. Raise "
                "it, or take fewer `particles:` or `sweeps:`."
            )
        hall = store.read_hall_of_fame(cell)
        assert hall is not None
        if not set(problem.names) <= set(hall.parameter_names):
            raise UsageError(
                f"{store.root}: the inputs of cell {cell} have changed since it was fitted: its hall of fame has other "
                "parameters than they give now. Restore the inputs, or fit the cell again."
            )
        columns = [list(hall.parameter_names).index(name) for name in problem.names]
        best = space.to_unit(hall.parameters[:, columns])
        return CellToSample(cell, problem, engine, space, particles, best, float(hall.totals[0]))

    def finished(self, store: RunStore) -> bool:
        """Return whether nothing is left to do in a run folder: for more draws than it was run with, there is."""
        if not super().finished(store):
            return False
        found = stored_findings(store.root)
        converged = all(cell["converged"] for cell in found["cells"])
        asked = (self.spec.draws, self.spec.checked, self._known_values())
        same = (found["draws"], found["checked"], found.get("known_values", {})) == asked
        return same and (converged or found["most_evaluations"] >= self.spec.most_evaluations)

    def measure(self, run: JobRun, address: str | None) -> None:
        """Sample all cells and check their draws; raises as `run_in_folder` does."""
        from neurofleet.jobs.studies.posterior_run import sample_on_pool  # starts Ray

        spec = self.spec
        chains = [
            Chain(
                cell,
                run.store,
                seed=spec.seed,
                sweeps=spec.sweeps,
                draws=spec.draws,
                most_evaluations=spec.most_evaluations,
                deadline_s=spec.deadline_s,
                max_steps=spec.max_steps,
            )
            for cell in run.inputs
        ]
        sample_on_pool(run, chains, lambda: self._checks(run.inputs, run.store), address, self.cpus)

    def _checks(self, inputs: Sequence[CellToSample], store: RunStore) -> list[Block]:
        """Return what NEURON does of the draws: scores, and e-features at unseen steps."""
        blocks = []
        for cell in inputs:
            chain = StoredChain.read(cell.cell, store)
            rows = self._draws(cell, chain.drawn)
            blocks += [block for block in self._check(cell, rows, len(chain.steps)) if block is not None]
        return blocks

    def _check(self, cell: CellToSample, rows: HallOfFameRows, steps: int) -> tuple[Block | None, Block | None]:
        """Return scores, and e-features at unseen steps, of the first draws."""
        model = cell.problem.final_model_of(cell.engine)
        if not isinstance(model, FitModel) or not self.spec.checked or not len(rows):
            return None, None
        values = rows.parameters[: self.spec.checked, : len(cell.space)]
        searched = rows.scores[: len(values)]

        def table(outcomes: Sequence[Outcome]) -> pa.Table:
            return checks_table(rows, searched, outcomes)

        name = f"cell={cell.cell}/steps-{steps:06d}-{len(values)}-of-{len(rows)}.parquet"
        engine = engine_spec(f"{cell.cell}-check", model, self.spec.max_steps)
        trained = len(model.targets.protocols)
        check = Block(f"{CHECKS}/{name}", cell.cell, engine, len(values), lambda: list(values), table, trained)
        if cell.unseen is None:
            return check, None
        file, max_steps = f"{PREDICTED}/{name}", self.spec.max_steps
        return check, predictions_block(cell.cell, model, cell.unseen, values, file, max_steps)

    def _draws(self, cell: CellToSample, drawn: Drawn) -> HallOfFameRows:
        """Return draws that lie evenly in the chain, in random order: the first ones are a sample too."""
        steps, particles = spread_draws(len(drawn.unit), cell.particles, self.spec.draws, self.spec.seed)
        fixed = np.array(list(cell.problem.fixed.values()), dtype=np.float64)
        values = cell.space.from_unit(drawn.unit[steps, particles])
        scores = drawn.scores[steps, particles].astype(np.float64)
        return HallOfFameRows(
            cell=cell.cell,
            seeds=np.full(len(steps), self.spec.seed),
            generations=drawn.first + steps,
            individuals=particles,
            parameter_names=(*cell.problem.names, *cell.problem.fixed),
            objective_names=cell.problem.objectives,
            parameters=np.column_stack([values, np.tile(fixed, (len(steps), 1))]),
            scores=scores,
            totals=total_scores(scores),
        )

    def assemble(self, inputs: list[CellToSample], store: RunStore) -> tuple[dict[str, pa.Table], PosteriorFindings]:
        """Return draws of each cell, whether they have converged, and which parameters go together."""
        tables: dict[str, pa.Table] = {}
        cells: list[CellPosterior] = []
        converged_rows: list[dict[str, Any]] = []
        correlations: list[dict[str, Any]] = []
        predictions: list[dict[str, Any]] = []
        names = tuple(dict.fromkeys(name for cell in inputs for name in (*cell.problem.names, *cell.problem.fixed)))
        for cell in inputs:
            chain = StoredChain.read(cell.cell, store)
            drawn = chain.drawn
            rows = self._draws(cell, drawn)
            tables[draws_file(cell.cell)] = rows.to_table(names)
            found = convergence(drawn.unit)
            converged_rows += convergence_rows(cell, drawn.unit, found)
            correlations += correlation_rows(cell, rows)
            check, predicted = self._check(cell, rows, len(chain.steps))
            checks = table_rows(store, check.name) if check is not None else []
            if predicted is not None and cell.unseen is not None:
                predictions += prediction_rows(cell.cell, cell.unseen, table_rows(store, predicted.name))
            cells.append(self._found(cell, chain, drawn, found, checks))
        tables |= {"convergence.parquet": rows_table(converged_rows), "correlations.parquet": rows_table(correlations)}
        tables["predictions.parquet"] = rows_table(predictions)
        findings = PosteriorFindings(
            draws=self.spec.draws,
            most_evaluations=self.spec.most_evaluations,
            checked=self.spec.checked,
            known_values=self._known_values(),
            cells=cells,
        )
        return tables, findings

    def _found(
        self,
        cell: CellToSample,
        chain: StoredChain,
        drawn: Drawn,
        found: Convergence,
        checks: Sequence[Mapping[str, Any]],
    ) -> CellPosterior:
        totals = drawn.scores.sum(axis=2, dtype=np.float64)
        rhat, effective, shift = found.rhat, found.effective, found.shift
        good = [row for row in checks if row["status"] == "ok"]
        differences = np.array([row["neuron_total"] - row["total"] for row in good])
        weights = np.array([row["neuron_log_density"] - row["log_density"] for row in good])
        worst, shifted = int(np.argmax(rhat)), int(np.argmax(shift))
        return CellPosterior(
            cell=cell.cell,
            parameters=list(cell.problem.names),
            lower=list(cell.problem.lower),
            upper=list(cell.problem.upper),
            log=[bool(log) for log in cell.space.log],
            objectives=len(cell.problem.objectives),
            engine=cell.engine,
            particles=cell.particles,
            steps=len(chain.steps) - 1,
            drawn_steps=len(drawn.unit),
            power=chain.steps[-1].power,
            evaluations=chain.evaluations,
            outcomes=dict(chain.outcomes),
            last_outcomes=dict(chain.last_outcomes),
            core_seconds=round(chain.seconds, 3),
            acceptance=float(drawn.accepted.mean()) if drawn.accepted.size else 0.0,
            best_total=cell.best_total,
            median_total=float(np.median(totals)) if totals.size else None,
            rhat=float(rhat[worst]) if np.isfinite(rhat[worst]) else None,
            rhat_of=cell.problem.names[worst],
            effective=float(effective.min()),
            effective_of=cell.problem.names[int(np.argmin(effective))],
            shift=float(shift[shifted]) if np.isfinite(shift[shifted]) else None,
            shift_of=cell.problem.names[shifted],
            converged=chain.is_converged(self.spec.draws),
            checked=len(checks),
            check_failed=len(checks) - len(good),
            check_difference=float(np.median(differences)) if len(good) else None,
            check_largest=float(np.abs(differences).max()) if len(good) else None,
            check_effective=effective_share(weights) if len(good) else None,
        )

    def plan(self, inputs: list[CellToSample]) -> Plan:
        """Return cells, parameters, particles, evaluations at most and core-hours, after a few evaluations of each."""
        rows, total_s, lines = [], 0.0, []
        for cell in inputs:
            each_s = self._seconds(cell)
            cost = each_s * self.spec.most_evaluations
            total_s += cost
            sizes = (len(cell.space), len(cell.problem.objectives), f"{cell.mean_z:.2f}", cell.particles, cell.engine)
            rows.append((cell.cell, *sizes, f"{self.spec.most_evaluations:,}", f"{each_s:.3g}", f"{cost / 3600:.3g}"))
        head = (
            "cell",
            "parameters",
            "objectives",
            "best mean |z|",
            "particles",
            "engine",
            "evaluations at most",
            "s each",
            "core-h",
        )
        lines.append(f"At most {cost_in_words(total_s)}, from the mean of {TIMED} models of the hall of fame.")
        lines.append(f"Sampling ends earlier where {self.spec.draws:,} effective draws are reached.")
        numbers = [i for i in range(1, len(head)) if head[i] != "engine"]
        return Plan([ReportTable(head, rows, numbers=numbers, title=f"{self.spec.name}: posterior")], lines)

    def _seconds(self, cell: CellToSample) -> float:
        values, model = cell.space.from_unit(cell.best[:TIMED]), cell.problem.model
        assert isinstance(model, FitModel)
        if cell.engine == "vector":
            trial = try_vector(model, values)
            if trial.fault:
                raise UsageError(f"cell {cell.cell}: {trial.fault}")
            return trial.seconds_each or 0.0
        measure = SampleMeasure(model, within_z=math.inf, stop_early=False, max_steps=self.spec.max_steps)
        return mean_seconds(cell.cell, measure, list(values))


def checks_table(rows: HallOfFameRows, searched: np.ndarray, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row for each draw that NEURON scored again: totals and log densities of both."""
    table = []
    for i, outcome in enumerate(outcomes):
        scores = scores_of(outcome.value, rows.objective_names) if outcome.ok else None
        table.append(
            {
                "rank": i + 1,
                "total": float(rows.totals[i]),
                "neuron_total": None if scores is None else float(total_scores(scores[None])[0]),
                "log_density": float(log_density(searched[i : i + 1])[0]),
                "neuron_log_density": None if scores is None else float(log_density(scores[None])[0]),
                "status": outcome.status,
                "reason": outcome.reason,
                "seconds": outcome.seconds,
            }
        )
    kinds = {"rank": pa.int32(), "status": pa.string(), "reason": pa.string()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in table[0]])
    return pa.Table.from_pylist(table, schema)


def convergence_rows(cell: CellToSample, unit: np.ndarray, found: Convergence) -> list[dict[str, Any]]:
    """Return a row for each parameter: R-hat, effective draws, and where its draws lie."""
    rows = []
    draws = cell.space.from_unit(unit.reshape(-1, len(cell.space)))
    for i, name in enumerate(cell.problem.names):
        quantiles = np.quantile(draws[:, i], [0.05, 0.25, 0.5, 0.75, 0.95]) if len(draws) else np.full(5, np.nan)
        rows.append(
            {
                "cell": cell.cell,
                "parameter": name,
                "rhat": float(found.rhat[i]),
                "autocorrelation": float(found.autocorrelation[i]),
                "effective": float(found.effective[i]),
                "shift": float(found.shift[i]),
                **{f"q{q:02d}": float(v) for q, v in zip((5, 25, 50, 75, 95), quantiles, strict=True)},
                "lower": cell.problem.lower[i],
                "upper": cell.problem.upper[i],
                "known": (known := cell.known.get(name)),
                "known_at": None if known is None or not len(draws) else float((draws[:, i] < known).mean()),
            }
        )
    return rows


def correlation_rows(cell: CellToSample, rows: HallOfFameRows) -> list[dict[str, Any]]:
    """Return Spearman's correlation of each pair of parameters over the draws; nothing for fewer than ten."""
    names = cell.problem.names
    if len(rows) < 10 or len(names) < 2:
        return []
    rho = np.atleast_2d(spearmanr(rows.parameters[:, : len(names)]).statistic)
    if rho.shape == (1, 1):
        rho = np.array([[1.0, rho[0, 0]], [rho[0, 0], 1.0]])
    return [
        {"cell": cell.cell, "a": names[i], "b": names[j], "rho": float(rho[i, j])}
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
