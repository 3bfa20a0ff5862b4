"""``neurofleet drive``: what a submitted job runs on the cluster's head. Users do not type it."""

import socket
from pathlib import Path

from neurofleet.cluster.store.folders import mount_of, remove_marker, sees_marker
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import load_job
from neurofleet.jobs.run_folder import versions
from neurofleet.jobs.run_job import run_job


def drive(job: Path, out: str, marker: Path | None, here_only: bool, part: str | None = None) -> None:
    """Run the job on the cluster that this process was started by.

    Parameters
    ----------
    job : Path
    out : str
        An absolute path, or a URI.
    witness : Path or None
        A file that the submitting machine left beside the results: if it is seen, both have the same storage.
    here_only : bool
        Whether the user gave a relative path and so means a folder of the submitting machine.
    part : str or None
        See `run_job`.

    Raises
    ------
    UsageError
        When results would go to a disk of this machine alone, or input is not there. Nothing is written.
    """
    check_storage(out, marker, here_only)
    check_absolute_paths(job)
    now = versions()
    print(
        f"neurofleet {now['neurofleet']}, Ray {now['ray']}, Python {now['python']} on {socket.gethostname()};"
        f" results go to {out}",
        flush=True,
    )
    run_job(job, out, address="auto", part=part)


def check_storage(out: str, marker: Path | None, here_only: bool) -> None:
    """Refuse a place that would keep the results from the user.

    Raises
    ------
    UsageError
    """
    if "://" in out:
        return
    folder = Path(out)
    seen = marker is not None and sees_marker(folder, marker)
    if marker is not None:
        remove_marker(marker)
    mount = mount_of(folder)
    if seen or (mount.is_network and not here_only):
        return
    host = socket.gethostname()
    if here_only:
        cause = (
            f"{out} was given as a relative path, so as a folder of the machine that submits, and the"
            f" cluster's head ({host}) does not see that folder"
        )
    else:
        cause = (
            f"{out} would be on a disk of the cluster's head alone ({host}, {mount.kind} at {mount.point}),"
            " lost with it and out of your reach"
        )
    raise UsageError(
        f"{cause}. Give with --out, or `out:` in the job file, the absolute path of a folder on a network"
        " file system that the head has mounted, or the URI of an object store, such as s3://bucket/folder."
    )


def check_absolute_paths(job: Path) -> None:
    """Refuse a job whose absolute paths are not there.

    Raises
    ------
    UsageError
        All of them.
    """
    spec = load_job(job)
    missing = [
        str(path) for path in (*spec.paths_named(), *(spec.files or ())) if path.is_absolute() and not path.exists()
    ]
    if missing:
        raise UsageError(
            f"not there on the cluster ({socket.gethostname()}): {', '.join(missing)}. An absolute path is"
            " read on the cluster. Put the files there, or name them relative to the job file: those are sent along."
        )
