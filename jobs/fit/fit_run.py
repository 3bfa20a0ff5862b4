"""The run of a fit, from its inputs to a finished run folder."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from neurofleet.cluster.metrics import CampaignMetrics
from neurofleet.cluster.pool.pool import Pool
from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.store.published_tables import publish
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import Interrupted, JobError
from neurofleet.jobs.fit.campaign import Budget, Campaign, Fits, finished_cells
from neurofleet.jobs.fit.campaign_progress import Progress, Watch
from neurofleet.jobs.fit.campaign_state import STATUS, CampaignState, Observer
from neurofleet.jobs.fit.engine_choice import all_with_engines, choices_of, engine_lines, recorded_choices
from neurofleet.jobs.fit.fit_costs import check_room
from neurofleet.jobs.fit.fit_inputs import cell_ids, check_warm_start, input_files, prepare, stage_plans
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.fit.fit_problem import Subject
from neurofleet.jobs.fit.input_process import Preparation
from neurofleet.jobs.run_folder import open_run
from neurofleet.jobs.run_log import run_log

PREPARED_FIRST = 4
"""So many cells are read and checked before the run begins, and refuse it; later ones are set aside."""


def run_fit(spec: FitSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> "RunStore":
    """Run a fit with its results in `out`, or resume it there.

    What can be wrong with the input is found before Ray is started and before anything is written; in a
    campaign of many cells that holds for the first cells, and for all files' presence.

    Parameters
    ----------
    folder : Path
        Of the job file.

    Raises
    ------
    UsageError, InputError
        The inputs or the folder cannot be used.
    JobError
        A fit failed, or a limit of the job was reached; the message says which and why.
    Interrupted
        Ctrl-C, or SIGTERM; the run can be resumed.
    """
    store = RunStore(out)
    finished = finished_cells(store)
    left = [cell for cell in cell_ids(spec) if cell not in finished]
    first = left[:PREPARED_FIRST]
    subjects = prepare(spec, folder, first, keep_recordings=False, tell=_tell)
    check_warm_start(spec, folder, subjects)
    check_room(subjects, len(left), store)
    subjects = all_with_engines(subjects, spec.engine, recorded_choices(store.read_events()))
    if spec.engine == "auto":
        for line in engine_lines(choices_of(subjects)):
            _tell(line)
    ready = {subject.id: subject for subject in subjects}
    _run(spec, folder, left, ready, input_files(spec, folder), store, address, cpus)
    return store


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(
    spec: FitSpec,
    folder: Path,
    left: Sequence[str],
    ready: Mapping[str, Subject],
    inputs: dict[str, str],
    store: "RunStore",
    address: str | None,
    cpus: int | None,
) -> None:
    started = time.monotonic()
    console = Console(stderr=True)  # one for the display and the log
    with store.locked(), run_log(spec.name, store.root, console) as log:
        resumed = open_run(spec, inputs, folder, store)
        progress = Progress(spec.name, resumed, console)
        how = "resumed" if resumed else "started"
        store.append_event(how)
        log.info(how, cells_left=len(left))
        if not left:
            console.print(f"{spec.name}: all cells are finished. Results in {store.root}", soft_wrap=True)
            return
        later = [cell for cell in spec.cells or () if cell.id in left and cell.id not in ready]
        plans = stage_plans(spec, folder)
        plans |= {id: subject.stages for id, subject in ready.items()}
        before = store.read_text(STATUS)
        recorded = recorded_choices(store.read_events())
        told = {choice for _, _, choice in choices_of(ready.values())}
        try:
            with (
                connect(address, None if address else cpus) as session,
                Pool(hosts=cpus, memory_limit_mb=spec.memory_limit_mb, run=spec.name) as pool,
                Preparation(spec, folder, ready, later, recorded) as preparation,
                progress,
            ):
                fits = Fits(spec, folder, store, preparation, pool.hosts, told)
                budget = Budget(spec, fits)
                earlier = CampaignState.from_json(before) if before else None
                observer = Observer(spec, plans, fits, pool, lambda: budget.reached, earlier)
                if not session.embedded:
                    publish(spec.name, store.root)
                metrics = CampaignMetrics(spec.name)
                watch = Watch(fits, pool, observer, progress, metrics, store)
                campaign = Campaign(left, fits, pool, budget.allows, metrics.evaluated)
                try:
                    campaign.run(watch)
                finally:
                    state = watch.close()
        except KeyboardInterrupt:
            store.append_event("interrupted")
            raise Interrupted(
                f"interrupted. Finished generations are kept in {store.root}; run the same command to resume."
            ) from None
        spent_s = round(time.monotonic() - started, 1)
        store.append_event("finished", failed=fits.failed, stopped=budget.reached, seconds=spent_s)
    progress.finish(store.root, state)
    _raise_what_is_left(state)


def _raise_what_is_left(state: "CampaignState") -> None:
    """Raise `JobError` when a limit stopped the campaign, or cells failed."""
    done, failed = state.count("finished"), state.count("failed")
    of = f"{done} of {len(state.cells)} cells done"
    if state.stopped:
        raise JobError(
            f"stopped at {state.stopped}: {of}, {failed} failed. What was finished is stored. "
            "Raise the limit in the job file and give the same command to go on."
        )
    if failed:
        told = "\n".join(cell.reason for cell in state.cells if cell.state == "failed")
        raise JobError(f"{failed} of {len(state.cells)} cells failed, {done} done:\n{told}")
