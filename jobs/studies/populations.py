"""The models that a study is about: of a fit's run, a sample's accepted ones, draws of a posterior, Allen fit files."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import POOLED, RunStore
from neurofleet.cluster.store.schemas import PARAMETER_PREFIX, HallOfFameRows
from neurofleet.errors import InputError, UsageError, did_you_mean
from neurofleet.input_paths import here, is_url
from neurofleet.jobs.fit.fit_inputs import file_notes, job_mechanisms, prepare_cell, recording_source
from neurofleet.jobs.fit.fit_job import CellSpec, FitSpec, RecordingSpec
from neurofleet.jobs.fit.fit_problem import CellSubject, Problem
from neurofleet.jobs.job_file import DataPath, JobSpec, LocalPath, Name, Positive, PositiveInt, Strict, parse_job
from neurofleet.jobs.job_folder import job_folder_of
from neurofleet.jobs.results.run_tables import existing_run
from neurofleet.jobs.studies.findings import stored_findings
from neurofleet.jobs.studies.measurements import Measure, Measurement
from neurofleet.jobs.studies.sampling import SampleSpec, read_samplings
from neurofleet.jobs.studies.study import Inputs, Study, StudySpec
from neurofleet.neurosim.cells.cell_model import Accuracy
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology_check import check_morphology
from neurofleet.neurosim.exchange.allen_fit import read_fit
from neurofleet.neurosim.features.published_targets import read_targets
from neurofleet.neurosim.recordings.recording import RecordingSource
from neurofleet.neurosim.studies.cell_models import (
    FINAL_ATOL,
    CellModels,
    make_cell_models,
    published_cell_models,
)

POSTERIOR = "posterior"
DRAWS = "draws"


class FitFileSpec(RecordingSpec):
    """A published model: an Allen fit file, its morphology, and what it was fitted to if that is known."""

    id: Name
    """The name of the cell in tables, files and messages."""
    fit: DataPath
    """The Allen fit file, a path or a URL."""
    morphology: DataPath
    """The morphology, a path or a URL."""
    axon: Literal["stub", "legacy-stub", "legacy-stub-60um", "full"] = "stub"
    """How the axon was treated in the fit; the file does not tell."""
    recordings: DataPath | None = None
    """The recording of the cell, if it is known."""
    targets: LocalPath | None = None
    """A folder with the `features.json` and `protocols.json` that the model was fitted to."""
    mechanisms: LocalPath | None = None
    """Folder of mod files that the fit file names, in place of the one for all fits."""


class ModelsSpec(Strict):
    """Models: the halls of fame of a fit's run, the accepted models of a sample, draws of a posterior, or Allen fit
    files.
    """

    run: LocalPath | None = None
    """The run folder of a fit: its pooled halls of fame."""
    sample: LocalPath | None = None
    """The run folder of a sample: its accepted draws."""
    posterior: LocalPath | None = None
    """The run folder of a posterior: its draws."""
    cells: Annotated[list[Name], Field(min_length=1)] | None = None
    """Cells of the run, sample or posterior; by default all that have models."""
    best: PositiveInt | None = None
    """Models of each cell, best first, of a sample or posterior the first draws; by default all."""
    first_cells: PositiveInt | None = None
    """How many of the cells, from the first on; by default all."""
    fits: Annotated[list[FitFileSpec], Field(min_length=1)] | None = None
    """Allen fit files."""
    mechanisms: LocalPath | None = None
    """Folder of mod files that the `fits:` name."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelsSpec":
        if sum(source is not None for source in (self.run, self.sample, self.posterior, self.fits)) != 1:
            raise ValueError(
                "name one of `run:` (the folder of a fit), `sample:` (of a sample), `posterior:` (of a posterior) and "
                "`fits:` (Allen fit files)"
            )
        if self.fits is None and self.mechanisms is not None:
            raise ValueError("`mechanisms:` belongs to `fits:`; a run, a sample and a posterior know their own")
        if self.fits is not None:
            if (self.cells, self.best, self.first_cells) != (None, None, None):
                raise ValueError(
                    "`cells:`, `first_cells:` and `best:` choose from a `run:`, `sample:` or `posterior:`; of "
                    "`fits:`, list those that you want"
                )
            ids = [fit.id for fit in self.fits]
            repeated = sorted({id for id in ids if ids.count(id) > 1})
            if repeated:
                raise ValueError(f"each fit needs its own id, found more than one {', '.join(repeated)}")
        return self

    def quick_version(self, best: int, first_cells: int | None = 1) -> "ModelsSpec":
        """Return the best of the models, of the first cells."""
        if self.fits is not None:
            return self.model_copy(update={"fits": self.fits[:first_cells]})
        few = {"best": min(self.best or best, best)}
        if first_cells is not None:
            few["first_cells"] = min(self.first_cells or first_cells, first_cells)
        return self.model_copy(update=few)

    def paths_named(self) -> list[Path]:
        """Return all paths that the models come from; of a run, the files that its models depend on."""
        if self.run is not None:
            return [self.run / "job.yaml", self.run / "hall_of_fame"]
        if self.sample is not None:
            return [self.sample / "job.yaml", self.sample / "accepted"]
        if self.posterior is not None:
            return [self.posterior / "job.yaml", self.posterior / DRAWS]
        fits = self.fits or ()
        files = [file for fit in fits for file in (fit.fit, fit.morphology, fit.recordings)]
        paths: list[Path | None] = [Path(file) for file in files if file is not None and not is_url(file)]
        paths += [fit.targets for fit in fits]
        paths += dict.fromkeys(fit.mechanisms or self.mechanisms for fit in fits)
        return [path for path in paths if path is not None]


class PopulationSpec(StudySpec):
    """A job that simulates models which were fitted before."""

    models: ModelsSpec
    """The models to simulate: of a fit (`run:`), of a sample (`sample:`), of a posterior (`posterior:`), or Allen
    `fits:`.
    """
    deadline_s: Positive = 300.0
    """Wall-clock limit of one simulated model in seconds."""
    max_steps: PositiveInt | None = 10_000_000
    """Integration steps of one run; `null` sets no limit."""
    memory_limit_mb: PositiveInt = 4096
    """Memory of one run in MB."""

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return self.models.paths_named()


Spec = TypeVar("Spec", bound=PopulationSpec)


class PopulationStudy(Study[Spec, Inputs]):
    """A study of models that were fitted before."""

    def check_paths(self) -> None:
        """Raise `UsageError` where a path does not exist, or the named run has no models yet."""
        models = self.spec.models
        if models.run is not None:
            cells_with_models(self.folder / models.run, models.cells)
        if models.sample is not None:
            _accepted(self.folder / models.sample, models.cells)
        if models.posterior is not None:
            cells_with_draws(self.folder / models.posterior, models.cells)
        super().check_paths()

    def populations(self) -> list[CellModels]:
        """Return the models that the job names, a population a cell; raises as `read_populations` does."""
        return read_populations(self.spec.models, self.folder)


def told(populations: Iterable[CellModels]) -> list[str]:
    """Return what looks odd about the files of each cell."""
    return [f"{population.cell}: {note}" for population in populations for note in population.notes]


def model_measurement(
    population: CellModels,
    measure: Measure,
    table: Callable[[int, Sequence[Outcome]], pa.Table],
    *,
    file: str,
    engine: str,
    block_size: int = 8,
) -> Measurement:
    """Return a measurement of all models of a cell.

    Parameters
    ----------
    population : CellModels
    measure : Measure
    table : callable
        Makes the table that is stored from the number of the first model and the outcomes.
    file, engine, block_size
        As in `Measurement`.
    """
    return Measurement(
        file=file,
        cell=population.cell,
        measure=measure,
        size=len(population),
        individuals=lambda rows: list(population.values[rows]),
        table=lambda rows, outcomes: table(rows.start, outcomes),
        engine=f"{population.cell}-{engine}",
        block_size=block_size,
    )


def outcome_columns(population: CellModels, model: int, outcome: Outcome) -> dict[str, Any]:
    """Return the columns that say which model was measured, and how that ended."""
    return {
        "seed": int(population.seeds[model]),
        "rank": int(population.ranks[model]),
        "status": outcome.status,
        "reason": outcome.reason,
        "seconds": outcome.seconds,
    }


OUTCOME_SCHEMA = [
    ("seed", pa.int64()),
    ("rank", pa.int32()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("seconds", pa.float64()),
]
"""Types of `outcome_columns`."""


def read_populations(models: ModelsSpec, folder: Path) -> list[CellModels]:
    """Return the models that a job names, a population a cell; relative paths start at `folder`.

    Raises
    ------
    UsageError, InputError
        A folder is no run, a run has no hall of fame yet, or files do not exist or cannot be used.
    """
    if models.run is not None:
        return _of_run(folder / models.run, models)
    if models.sample is not None:
        return _of_sample(folder / models.sample, models)
    if models.posterior is not None:
        return _of_posterior(folder / models.posterior, models)
    return [_of_fit_file(fit, folder, fit.mechanisms or models.mechanisms) for fit in models.fits or ()]


def _of_fit_file(fit: FitFileSpec, folder: Path, mechanisms: Path | None) -> CellModels:
    content = read_fit(here(fit.fit, folder), None if mechanisms is None else folder / mechanisms)
    content.user_mechanisms.compile()
    morphology = check_morphology(here(fit.morphology, folder), fit.axon)
    recording = None
    if fit.recordings is not None:
        recording = RecordingSource(
            here(fit.recordings, folder),
            content.junction_potential_mV,
            tuple(fit.stimuli),
            tuple(fit.exclude_sweeps),
            fit.electrode,
            fit.bias_current,
            fit.spike_threshold_mV,
            fit.current,
            fit.window_ms,
        )
    models = published_cell_models(
        fit.id,
        content,
        morphology.file,
        fit.axon,
        None if fit.targets is None else read_targets(folder / fit.targets),
        recording,
    )
    read = None
    if recording is not None:
        with suppress(InputError):  # a study that needs such sweeps says so itself
            read = recording.look()
    return replace(models, notes=file_notes(fit.morphology, morphology, read))


def _of_run(root: Path, models: ModelsSpec) -> list[CellModels]:
    cells = cells_with_models(root, models.cells)[: models.first_cells]
    store = existing_run(root)
    return _of_cells(root, {cell.id: store.read_hall_of_fame(cell.id) for cell in cells}, models)


def _of_cells(root: Path, rows: Mapping[str, HallOfFameRows | None], models: ModelsSpec) -> list[CellModels]:
    """Return models of a fit's cells, of each those that it names."""
    store, spec, job_folder = open_fit(root)
    winners = stage_winners(store)
    mechanisms = job_mechanisms(spec, job_folder)
    known = {cell.id: cell for cell in spec.cells or ()}
    populations = []
    for id, of_cell in rows.items():
        if of_cell is not None:
            cell = known[id]
            subject = prepare_cell(cell, spec, job_folder, mechanisms)
            problem = last_problem(subject, winners.get(id, {}))
            population = _of_cell(store, spec, subject, problem, of_cell, recording_source(cell, job_folder))
            populations.append(population.best(models.best))
    return populations


def _of_posterior(root: Path, models: ModelsSpec) -> list[CellModels]:
    fit, rows, notes = cells_with_draws(root, models.cells)
    chosen = dict(list(rows.items())[: models.first_cells])
    return [replace(drawn, notes=(*drawn.notes, *notes)) for drawn in _of_cells(fit, chosen, models)]


def cells_with_draws(root: Path, cells: Sequence[str] | None) -> tuple[Path, dict[str, HallOfFameRows], list[str]]:
    """Return the run of a finished posterior's fit, its draws by cell, and what is to be said of them.

    Raises
    ------
    UsageError
        The folder is no posterior's, it has no such cell or no draws of it, or it has not ended.
    """
    store = existing_run(root)
    spec = parse_job(store.read_text("job.yaml") or "", f"{root}/job.yaml", "unnamed")
    if spec.kind != POSTERIOR:
        raise UsageError(f"models: expected the folder of a posterior, found one of kind {spec.kind} in {root}.")
    findings = stored_findings(root)  # raises where it has not ended
    known = {cell["cell"]: cell for cell in findings["cells"]}
    if unknown := [f"{cell}{did_you_mean(cell, known)}" for cell in cells or () if cell not in known]:
        raise UsageError(f"cells: {root} has no draws of cell {', '.join(unknown)}.")
    rows = {}
    for cell in known if cells is None else cells:
        table = store.table(draws_file(cell))
        if table is not None and len(table):
            rows[cell] = HallOfFameRows.from_table(table)
    without = ", ".join(cell for cell in cells or known if cell not in rows)
    if without and (cells is not None or not rows):
        raise UsageError(
            f"models: {root} has no draws of cell {without}: sampling ended before its particles were draws of the "
            "density. Raise its `most_evaluations:` and give the same command again."
        )
    notes = _of_quick_run(spec)
    if without:
        notes.append(f"{without}: left out, sampling ended before its particles were draws of the density")
    if unsure := [cell for cell in rows if not known[cell]["converged"]]:
        notes.append(f"the draws of {', '.join(unsure)} have not converged: the recording may allow other models too")
    return Path(os.path.normpath(job_folder_of(store) / spec.fit)), rows, notes


def draws_file(cell: str) -> str:
    """Return the name of the table with a posterior's draws of a cell."""
    return f"{DRAWS}/cell={cell}/part.parquet"


def cells_with_models(root: Path, cells: Sequence[str] | None) -> list[CellSpec]:
    """Return the named cells of a fit, by default all that have a hall of fame.

    Raises
    ------
    UsageError
        The folder is no fit's, it has no such cell, or there is no hall of fame yet.
    """
    store, spec, _ = open_fit(root)
    with_hall = [cell for cell, seed in store.halls_of_fame() if seed == POOLED]
    known = {cell.id: cell for cell in spec.cells or ()}
    names = [cell for cell in known if cell in with_hall] if cells is None else list(cells)
    unknown = [f"{cell}{did_you_mean(cell, known)}" for cell in names if cell not in known]
    if unknown:
        raise UsageError(f"cells: {root} fits no cell {', '.join(unknown)}.")
    without = [cell for cell in names if cell not in with_hall]
    if without or not names:
        which = f" of {', '.join(without)}" if without else ""
        raise UsageError(
            f"{root} has no hall of fame{which}: the fit has not come to its end. `neurofleet status "
            f"{root}` shows its progress; the same `neurofleet run` as before resumes it."
        )
    return [known[cell] for cell in names]


def _of_sample(root: Path, models: ModelsSpec) -> list[CellModels]:
    spec, accepted, job_folder = _accepted(root, models.cells)
    chosen = list(accepted)[: models.first_cells]
    populations = []
    for sampling in read_samplings(spec, job_folder)[0]:
        if sampling.cell in chosen:
            table = accepted[sampling.cell].sort_by("draw")
            columns = [PARAMETER_PREFIX + parameter.full_name for parameter in sampling.model.free]
            values = np.column_stack([table[column].to_numpy() for column in columns])
            model = replace(sampling.model, accuracy=Accuracy(FINAL_ATOL))
            trained = tuple(model.targets.protocols.values())
            seeds = np.full(len(values), spec.seed)
            source = next(recording_source(c, job_folder) for c in spec.cells if c.id == sampling.cell)
            drawn = make_cell_models(model, values, seeds, np.arange(len(values)), trained, source)
            populations.append(replace(drawn, notes=(*drawn.notes, *_of_quick_run(spec))).best(models.best))
    return populations


def _accepted(root: Path, cells: Sequence[str] | None) -> tuple[SampleSpec, dict[str, pa.Table], Path]:
    """Return the job of a finished sample, its accepted models by cell, and the folder of its job file."""
    store = existing_run(root)
    spec = parse_job(store.read_text("job.yaml") or "", f"{root}/job.yaml", "unnamed")
    if not isinstance(spec, SampleSpec):
        raise UsageError(f"models: expected the folder of a sample, found one of kind {spec.kind} in {root}.")
    stored_findings(root)  # raises where the sample has not ended
    known = [cell.id for cell in spec.cells]
    unknown = [f"{cell}{did_you_mean(cell, known)}" for cell in cells or () if cell not in known]
    if unknown:
        raise UsageError(f"cells: {root} draws for no cell {', '.join(unknown)}.")
    accepted = {}
    for cell in known if cells is None else cells:
        table = store.table(f"accepted/cell={cell}/part.parquet")
        if table is not None and len(table):
            accepted[cell] = table
    if not accepted:
        raise UsageError(f"models: {root} has accepted no model. Loosen its `within_z:` or `features:`.")
    return spec, accepted, job_folder_of(store)


def open_fit(root: Path) -> tuple[RunStore, FitSpec, Path]:
    """Return the store of a fit's run, its job, and the folder where the job's relative paths start.

    Raises
    ------
    UsageError
        When `root` is not the run of a fit of cells.
    """
    store = existing_run(root)
    spec = parse_job(store.read_text("job.yaml") or "", f"{root}/job.yaml", "unnamed")
    if not isinstance(spec, FitSpec):
        raise UsageError(f"Expected the run of a fit, found one of kind {spec.kind} in {root}.")
    if spec.cells is None:
        raise UsageError(
            f"{root} fitted an evaluator of your own, which only it can simulate in another way. "
            "Expected the run of a fit with `cells:`."
        )
    return store, spec, job_folder_of(store)


def _of_quick_run(spec: JobSpec) -> list[str]:
    return ["its models are from a quick run: what they do is no result"] if spec.quick else []


Winners = dict[str, Mapping[str, float]]
"""Stage -> parameters of the model that won it."""


def stage_winners(store: RunStore) -> dict[str, Winners]:
    """Return the winners of each cell of a fit."""
    winners: dict[str, Winners] = {}
    for event in store.read_events():
        if event["event"] == "stage finished":
            winners.setdefault(event["cell"], {})[event["stage"]] = event["parameters"]
    return winners


def _of_cell(
    store: RunStore,
    spec: FitSpec,
    subject: CellSubject,
    problem: Problem,
    rows: HallOfFameRows,
    recording: RecordingSource | None,
) -> CellModels:
    model = problem.final_model or problem.model  # as accurate as the finalists
    assert isinstance(model, FitModel)
    trained = {step.name: step for targets in subject.targets for step in targets.protocols.values()}
    models = make_cell_models(
        model, _values(store, rows, model), rows.seeds, np.arange(len(rows)), tuple(trained.values()), recording
    )
    return replace(models, notes=(*subject.warnings, *_of_quick_run(spec)))


def last_problem(subject: CellSubject, winners: Winners) -> Problem:
    """Return what the last stage of a fit searched, from the winners of its stages."""
    last = len(subject.stages) - 1
    return subject.problem(last, winners.get(subject.stages[last - 1].name) if last else None)


def _values(store: RunStore, hall: HallOfFameRows, model: FitModel) -> np.ndarray:
    names = [parameter.full_name for parameter in model.free]
    fixed = [name for name in hall.parameter_names if name not in names]
    if not set(names) <= set(hall.parameter_names) or not set(fixed) <= set(model.fixed):
        raise UsageError(
            f"{store.root}: the inputs of cell {hall.cell} have changed since it was fitted: its hall of fame"
            " has other parameters than they give now. Restore the inputs, or fit the cell again."
        )
    return hall.parameters[:, [list(hall.parameter_names).index(name) for name in names]]
