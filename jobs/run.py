"""``neurofleet run``: from a job file to a finished run folder, whatever the kind of job."""

from pathlib import Path

from jobs.interruption import interruptible
from jobs.results_place import results_place
from jobs.spec import load_job, named


def run_job(job: Path, out: str | None, *, address: str | None = None, cpus: int | None = None) -> str:
    """Run the job in file `job` with its results in `out` (else the job's own), or resume it there.

    Returns
    -------
    str
        The run folder.

    Raises
    ------
    UsageError, InputError, LearnerError
        The job file, its inputs or the folder cannot be used.
    JobError
        The job failed, or a limit was reached; the message says which and why.
    Interrupted
        Ctrl-C, or SIGTERM; the run can be resumed.
    """
    spec = load_job(job)
    folder = job.resolve().parent
    place = results_place(out, spec, folder)
    with interruptible():
        named(spec.runner)(spec, folder, place, address, cpus)
    return place
