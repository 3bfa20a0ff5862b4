"""How far a run of any kind is, in a few numbers, read from its folder alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.fit.campaign_state import CampaignState, read_state
from neurofleet.jobs.learners.learner_folder import learner_job_state
from neurofleet.jobs.results.runs_found import FIT, MODEL, FoundRun
from neurofleet.jobs.studies.findings import study_state

State = Literal["running", "finished", "unfinished", "failed"]


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes
    ----------
    state : {"running", "finished", "unfinished", "failed"}
        ``failed`` where the job has ended and some of its cells have none of what it was to give.
    holder : str
        Which process writes it; empty where none does.
    done, planned : int or None
        Of `unit`; None where the folder does not tell.
    unit : str
        ``evaluations``, ``blocks`` or ``epochs``.
    seconds_left : float or None
        At the pace of then, from `at` on; None while it is not known, or where nothing runs.
    cells, cells_finished : int or None
        Of a fit.
    failed_cells : mapping of str to str
        Cell -> reason.
    core_hours : float or None
        Spent on evaluations.
    at : str
        When this was so, UTC; empty where the folder does not tell.
    """

    state: State
    holder: str = ""
    done: int | None = None
    planned: int | None = None
    unit: str = ""
    seconds_left: float | None = None
    cells: int | None = None
    cells_finished: int | None = None
    failed_cells: Mapping[str, str] = field(default_factory=dict)
    core_hours: float | None = None
    at: str = ""

    @property
    def part_done(self) -> float | None:
        """Between 0 and 1; None where the folder does not tell."""
        return None if self.done is None or not self.planned else min(self.done / self.planned, 1.0)

    def seconds_left_now(self) -> float | None:
        """Return how long the rest takes from now on, at the pace of then."""
        if self.seconds_left is None:
            return None
        age_s = (datetime.now(UTC) - datetime.fromisoformat(self.at)).total_seconds()
        return max(self.seconds_left - age_s, 0.0)


def run_progress(run: FoundRun, folder: str, holder: str) -> RunProgress:
    """Return how far a run is.

    Parameters
    ----------
    run : FoundRun
    folder : str
        Where it is, a path or a URI.
    holder : str
        Which process writes it, as `RunStore.holder` tells.
    """
    if run.family == FIT:
        state = read_state(RunStore(folder))
        if state is None:
            return RunProgress(_state(run, holder), holder)
        return _of_fit(run, holder, state)
    if run.family == MODEL:
        return _of_learner(run, folder, holder)
    study = study_state(RunStore(folder), holder)
    return RunProgress(_state(run, holder), holder, study.stored, study.blocks, "blocks" if study.blocks else "")


def _state(run: FoundRun, holder: str) -> State:
    if holder:
        return "running"
    return "finished" if run.finished else "unfinished"


def _of_fit(run: FoundRun, holder: str, status: CampaignState) -> RunProgress:
    state = _state(run, holder)
    if state == "unfinished" and status.count("failed") and status.count("failed", "finished") == len(status.cells):
        state = "failed"
    return RunProgress(
        state,
        holder,
        status.evaluations,
        max(status.planned, status.evaluations),
        "evaluations",
        status.seconds_left if holder else None,
        len(status.cells),
        status.count("finished"),
        {cell.cell: cell.reason for cell in status.cells if cell.state == "failed"},
        status.core_hours,
        status.at,
    )


def _of_learner(run: FoundRun, folder: str, holder: str) -> RunProgress:
    state = _state(run, holder)
    if state == "finished" or "://" in folder or not Path(folder).is_dir():
        return RunProgress(state, holder)
    job = learner_job_state(folder)
    done = sum(training.epochs for training in job.trainings)
    planned = sum(training.planned for training in job.trainings)
    return RunProgress(state, holder, done, planned or None, "epochs" if planned else "", at=job.since)
