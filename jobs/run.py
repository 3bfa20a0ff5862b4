"""``neurofleet run``: from a job file to a finished run folder."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import Interrupted, JobError
from jobs.spec import FitSpec, load_job
from jobs.subjects import Subject

if TYPE_CHECKING:
    from cluster.store import RunStore


def run_job(job: Path, out: str, *, address: str | None = None, cpus: int | None = None) -> "RunStore":
    """Run the job in file `job` with its results in `out`, or resume it there.

    Everything that can be wrong with the input is found before Ray is started and before anything is written.

    Raises
    ------
    UsageError, InputError
        The job file, its inputs or the folder cannot be used.
    JobError
        A fit failed; the message says which and why.
    Interrupted
        Ctrl-C; the run can be resumed.
    """
    from jobs.prepare import input_files, prepare

    spec, _ = load_job(job)
    folder = job.resolve().parent
    subjects = prepare(spec, folder)
    return _run(spec, folder, subjects, input_files(spec, folder), out, address, cpus)


def _run(
    spec: FitSpec,
    folder: Path,
    subjects: Sequence[Subject],
    inputs: dict[str, str],
    out: str,
    address: str | None,
    cpus: int | None,
) -> "RunStore":
    from cluster.pool import Pool
    from cluster.session import connect
    from cluster.store import RunStore
    from jobs.disk import check_room
    from jobs.fit import run_fit
    from jobs.progress import Progress
    from jobs.provenance import open_run

    started = time.monotonic()
    store = RunStore(out)
    check_room(subjects, store)
    with store.locked():
        resumed = open_run(spec, inputs, folder, store)
        progress = Progress(spec.name, resumed)
        for subject in subjects:
            for warning in subject.warnings:
                progress.warn(f"{subject.id}: {warning}")
        store.append_event("resumed" if resumed else "started")
        try:
            with (
                connect(address, None if address else cpus),
                Pool(hosts=cpus, memory_limit_mb=spec.memory_limit_mb) as pool,
            ):
                with progress:
                    failed = run_fit(spec, folder, subjects, store, pool, progress.update)
        except KeyboardInterrupt:
            store.append_event("interrupted")
            raise Interrupted(
                f"interrupted. Finished generations are kept in {store.root}; run the same command to resume."
            ) from None
        store.append_event("finished", failed=failed, seconds=round(time.monotonic() - started, 1))
    if failed:
        done = len(subjects) - len(failed)
        told = "\n".join(failed.values())
        raise JobError(f"{len(failed)} of {len(subjects)} cells failed, {done} done:\n{told}")
    progress.finish(store.root)
    return store
