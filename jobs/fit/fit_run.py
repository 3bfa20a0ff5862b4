"""The run of a fit, from its inputs to a finished run folder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from neurofleet.cluster.log_records import AboutLogger
from neurofleet.cluster.metrics import CampaignMetrics
from neurofleet.cluster.pool.pool import Pool
from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.store.parts import WHOLE, Part
from neurofleet.cluster.store.published_tables import publish
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import JobError, UsageError
from neurofleet.jobs.fit.campaign import Budget, Campaign, Fits, finished_cells
from neurofleet.jobs.fit.campaign_progress import CampaignReporter, FitProgress, Observer
from neurofleet.jobs.fit.campaign_state import CampaignState, ending_table, engine_lines, read_state, recorded_choices
from neurofleet.jobs.fit.engine_choice import all_with_engines, choices_of
from neurofleet.jobs.fit.fit_costs import check_disk_space
from neurofleet.jobs.fit.fit_inputs import (
    cell_ids,
    check_warm_start,
    input_files,
    length_notes,
    prepare,
    run_parameters,
    stage_plans,
)
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.fit.fit_problem import Subject
from neurofleet.jobs.fit.generation_metrics import generations_logged
from neurofleet.jobs.fit.input_process import Preparation
from neurofleet.jobs.run_folder import Ending, JobRun, run_in_folder
from neurofleet.jobs.run_log import run_log

PREPARED_FIRST = 4
"""Cells whose inputs are checked before the run begins: a fault there refuses the job, a fault of a later cell only
sets that cell aside."""


LOGGERS = "loggers"
"""The folder of what loggers write."""


@dataclass(frozen=True)
class FitInputs:
    """What a run begins with.

    Attributes
    ----------
    left : sequence of str
        The cells that are not finished yet.
    subjects : sequence of Subject
        The first of them, with the engines of their stages.
    """

    left: Sequence[str]
    subjects: Sequence[Subject]


def run_fit(spec: FitSpec, folder: Path, out: str, address: str | None, cpus: int | None, part: Part = WHOLE) -> None:
    """Run a fit with its results in `out`, or resume it there.

    The inputs are checked before Ray is started and before anything is written; of many cells, those of the
    first cells, and that all files exist.

    Parameters
    ----------
    folder : Path
        Of the job file.
    part : Part
        Which of the cells to fit: other drivers fit the others, with the same folder of results.

    Raises
    ------
    UsageError, InputError
        The inputs or the folder cannot be used.
    JobError
        A fit failed, or a limit of the job was reached; the message says which and why.
    Interrupted
        Ctrl-C, or SIGTERM; the run can be resumed.
    """
    run_in_folder(
        spec,
        folder,
        out,
        lambda: _read(spec, folder, RunStore(out), part),
        lambda run: _fit(run, folder, address, cpus),
        lambda inputs: not inputs.left,
        files=lambda: input_files(spec, folder),
        storage_wait_s=60.0 * spec.storage_wait_minutes,
        part=part,
    )


def _read(spec: FitSpec, folder: Path, store: RunStore, part: Part) -> tuple[FitInputs, list[str]]:
    finished = finished_cells(store)
    cells = cell_ids(spec)
    if part.of > len(cells):
        raise UsageError(
            f"--part {part.number}/{part.of}: expected at most as many parts as there are cells ({len(cells)})."
        )
    left = [cell for cell in part.share(cells) if cell not in finished]
    subjects = prepare(spec, folder, left[:PREPARED_FIRST], keep_recordings=False, print_line=_print_line)
    check_warm_start(spec, folder, subjects)
    check_disk_space(subjects, len(left), store)
    subjects = all_with_engines(subjects, spec.engine, recorded_choices(store.read_events()))
    tables = {subject.id: subject.recording_table for subject in subjects}
    notes = [f"{cell}: {table.summary}" for cell, table in tables.items() if table is not None]
    notes += length_notes(spec, subjects)
    notes += engine_lines(choices_of(subjects)) if spec.engine == "auto" else []
    return FitInputs(left, subjects), notes


def _print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fit(run: JobRun, folder: Path, address: str | None, cpus: int | None) -> Ending:
    spec, store, left = run.spec, run.store, run.inputs.left
    store.parameters = run_parameters(spec, folder)
    store.upgrade()
    ready = {subject.id: subject for subject in run.inputs.subjects}
    later = [cell for cell in spec.cells or () if cell.id in left and cell.id not in ready]
    plans = stage_plans(spec, folder)
    plans |= {id: subject.stages for id, subject in ready.items()}
    own = store.part.share(cell_ids(spec))
    before = read_state(store)
    recorded = recorded_choices(store.read_events())
    shown_choices = {choice for _, _, choice in choices_of(ready.values())}
    progress = FitProgress(spec.name, run.console)
    with run_log(spec.name, store.root, run.console, store.part) as log:
        log.info("resumed" if run.resumed else "started", cells_left=len(left))
        with (
            connect(address, None if address else cpus) as session,
            Pool(
                hosts=cpus,
                memory_limit_mb=spec.memory_limit_mb,
                run=spec.name,
                max_hosts=None if session.embedded else spec.max_hosts,
            ) as pool,
            Preparation(spec, folder, ready, later, recorded) as preparation,
            progress,
            generations_logged(spec.loggers, run.out / store.part.file(LOGGERS), spec.name),
        ):
            fits = Fits(spec, folder, store, preparation, pool.hosts, shown_choices, own)
            budget = Budget(spec, fits, store.part.of)
            observer = Observer(spec, {id: plans[id] for id in own}, fits, pool, lambda: budget.reached, before)
            if not session.embedded:
                publish(spec.name, store.root)
            metrics = CampaignMetrics(spec.name)
            reporter = CampaignReporter(fits, pool, observer, progress, metrics, store)
            campaign = Campaign(left, fits, pool, budget.allows, metrics.evaluated)
            try:
                campaign.run(reporter)
            finally:
                state = reporter.close()
        _report(run, log)
    return Ending(
        recorded={"failed": fits.failed, "stopped": budget.reached},
        stopped=bool(state.stopped),
        table=ending_table(state) if len(state.cells) > 1 or state.count("failed") else None,
        error=error_of_unfinished(state),
    )


def _report(run: JobRun, log: AboutLogger) -> None:
    """Write the report; what is stored is worth the same without it."""
    from neurofleet.jobs.reports.fit_report import write_fit_report  # loads pandas, which a fit does without

    run.console.print("simulating the best models for the report …", soft_wrap=True)
    try:
        write_fit_report(run.store.root)
    except Exception as error:  # noqa: BLE001  libraries of simulation and pictures raise whatever they like
        log.warning("the report is not written (%s): `neurofleet report %s` tries again", error, run.store.root)


def error_of_unfinished(state: CampaignState) -> JobError | None:
    """Return an error when a limit stopped the campaign, or cells failed."""
    done, failed = state.count("finished"), state.count("failed")
    if state.stopped:
        return JobError(
            f"stopped at {state.stopped}: {done} of {len(state.cells)} cells done, {failed} failed. What was finished "
            "is stored. Raise the limit in the job file and give the same command to go on."
        )
    if failed:
        reasons = "\n".join(cell.reason for cell in state.cells if cell.state == "failed")
        return JobError(f"{failed} of {len(state.cells)} cells failed, {done} done:\n{reasons}")
    return None
