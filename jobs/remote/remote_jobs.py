"""``neurofleet status | logs | cancel | list`` of jobs that were submitted to a cluster."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import typer
from rich.table import Table

from neurofleet.cluster.ray.submission import STOP_WAIT_S, JobsApi, RemoteJob
from neurofleet.errors import ClusterUnreachable, Interrupted, JobError, UsageError, did_you_mean
from neurofleet.jobs.progress import duration
from neurofleet.jobs.terminal import print_json, terminal

_ATTEMPT = re.compile(r"-a(\d+)$")
_ERRORS = {2: UsageError, 3: ClusterUnreachable, 130: Interrupted}
_LAST_LINES = 10


@dataclass(frozen=True)
class SubmittedJob:
    """One attempt at one of neurofleet's jobs on a cluster.

    Attributes
    ----------
    job : RemoteJob
    name, out : str
        Of the job, and where its results go.
    attempt : int
    """

    job: RemoteJob
    name: str
    out: str
    attempt: int

    @property
    def seconds(self) -> float:
        """How long it has run."""
        start = self.job.started or datetime.now(UTC)
        return ((self.job.ended or datetime.now(UTC)) - start).total_seconds()

    def plain(self) -> dict[str, Any]:
        """The same as JSON types."""
        job = self.job
        return {
            "id": job.id,
            "name": self.name,
            "attempt": self.attempt,
            "state": job.state,
            "out": self.out,
            "submitted": job.started and job.started.isoformat(timespec="seconds"),
            "ended": job.ended and job.ended.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "exit_code": job.exit_code,
        }


def our_jobs(api: JobsApi, name: str | None = None) -> list[SubmittedJob]:
    """Return neurofleet's jobs on the cluster, or the attempts at one of them, newest first."""
    jobs = []
    for job in api.jobs():
        attempt = _ATTEMPT.search(job.id)
        if attempt and "neurofleet" in job.metadata and name in (None, job.metadata.get("name")):
            jobs.append(SubmittedJob(job, job.metadata.get("name", ""), job.metadata.get("out", ""), int(attempt[1])))
    return jobs


def looks_like_an_attempt(name: str) -> bool:
    """Whether a name could be taken for the id of an attempt."""
    return bool(_ATTEMPT.search(name))


def find(api: JobsApi, name_or_id: str) -> SubmittedJob:
    """Return the attempt of this id, or the latest one at the job of this name.

    Raises
    ------
    UsageError
    """
    known = our_jobs(api)
    for job in known:
        if name_or_id in (job.job.id, job.name):
            return job
    names = list(dict.fromkeys(job.name for job in known))
    raise UsageError(
        f"no job {name_or_id!r} was submitted to {api.address}{did_you_mean(name_or_id, names)}."
        f" Known there: {', '.join(names[:8]) or 'none'}."
    )


def commands(id: str, address: str) -> str:
    """Return what a user can do with a running job."""
    return "\n".join(
        f"  neurofleet {verb:<11} --address {address}" for verb in (f"logs {id} -f", f"status {id}", f"cancel {id}")
    )


def status_command(name_or_id: str, address: str, as_json: bool = False) -> None:
    """Print the state of a job, and the last line of its log."""
    api = JobsApi(address)
    submitted = find(api, name_or_id)
    lines = _last_lines(api.log(submitted.job.id), 1)
    if as_json:
        print_json(submitted.plain() | {"last_line": "".join(lines), "address": api.address})
        return
    since = f"{submitted.job.started:%Y-%m-%d %H:%M:%S} UTC" if submitted.job.started else "now"
    print(f"{submitted.job.id}: {_state(submitted.job)}, attempt {submitted.attempt} of {submitted.name}")
    print(f"  submitted  {since}, {duration(submitted.seconds)} {'long' if submitted.job.has_ended else 'ago'}")
    print(f"  results    {submitted.out}")
    if lines:
        print(f"  last line  {lines[0]}")


def logs_command(name_or_id: str, address: str, follow_log: bool = False) -> None:
    """Print the log of a job; to follow, until it ends, and then fail as it did."""
    api = JobsApi(address)
    submitted = find(api, name_or_id)
    if follow_log:
        follow(api, submitted.job.id)
    else:
        print(api.log(submitted.job.id), end="")


def cancel_command(name_or_id: str, address: str) -> None:
    """End a job and wait for it. What it has stored stays; submitting the job again resumes it."""
    api = JobsApi(address)
    submitted = find(api, name_or_id)
    id = submitted.job.id
    if submitted.job.has_ended:
        print(f"{id} had {submitted.job.state} already")
        return
    api.stop(id)
    print(f"{id} is being stopped …", flush=True)
    ended = api.wait(id, STOP_WAIT_S + 15.0)
    if not ended.has_ended:
        raise JobError(f"{id} was asked to end {STOP_WAIT_S} s ago and is {ended.state} still; look again later.")
    print(
        f"{id} {_state(ended)}. What it has stored in {submitted.out} is kept: submit the same job file again to go on."
    )


def list_command(address: str, as_json: bool = False) -> None:
    """Print neurofleet's jobs on a cluster, newest first."""
    api = JobsApi(address)
    jobs = our_jobs(api)
    if as_json:
        print_json([job.plain() for job in jobs])
        return
    if not jobs:
        print(f"no job of neurofleet was submitted to {api.address} since its head started")
        return
    table = Table()
    for column in ("job", "state", "submitted (UTC)", "time"):
        table.add_column(column, no_wrap=True)
    table.add_column("results", overflow="fold")
    for job in jobs:
        since = f"{job.job.started:%Y-%m-%d %H:%M}" if job.job.started else ""
        table.add_row(job.job.id, _state(job.job), since, duration(job.seconds), job.out)
    terminal().print(table)


def follow(api: JobsApi, id: str, errors: bool = False) -> None:
    """Print the log of a job until it ends, on standard output, or with `errors` on standard error.

    Raises
    ------
    UsageError, JobError, ClusterUnreachable, Interrupted
        As the job ended.
    Interrupted
        Ctrl-C: the job goes on.
    """
    with only_watching(api, id):
        for text in api.follow(id):
            typer.echo(text, nl=False, err=errors)
        job = api.wait(id, 10.0)
    check_outcome(job)


@contextmanager
def only_watching(api: JobsApi, id: str) -> Iterator[None]:
    """Say, when the user or the network ends what is in this block, that the job goes on.

    Raises
    ------
    Interrupted, ClusterUnreachable
    """
    advice = f"{id} goes on without this terminal. Look at it again, or end it:\n{commands(id, api.address)}"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(advice) from None
    except ClusterUnreachable as error:
        raise ClusterUnreachable(f"{error}\n{advice}") from error


def check_outcome(job: RemoteJob, log: str | None = None) -> None:
    """Fail as the job failed; return if it has not.

    Parameters
    ----------
    job : RemoteJob
    log : str, optional
        Its log, unless the user has seen it: the reason is taken from there.

    Raises
    ------
    UsageError, JobError, ClusterUnreachable, Interrupted
    """
    if job.state == "stopped":
        raise Interrupted(f"{job.id} was cancelled. Submit the same job file again to go on.")
    if job.state != "failed":
        return
    if job.exit_code is None:
        reason = f"{job.id} could not be started: {job.message.strip()}"
    elif log is None:
        reason = f"{job.id} failed with exit code {job.exit_code}; its log says why."
    else:
        _, separator, message = log.rpartition("\nneurofleet: ")
        reason = message.strip() if separator else "\n".join([f"{job.id} failed:", *_last_lines(log, _LAST_LINES)])
    raise _ERRORS.get(job.exit_code or 1, JobError)(reason)


def _state(job: RemoteJob) -> str:
    if job.state == "stopped":
        return "was cancelled"
    return f"failed with exit code {job.exit_code}" if job.state == "failed" and job.exit_code else job.state


def _last_lines(log: str, count: int) -> list[str]:
    return [line for line in log.splitlines() if line.strip()][-count:]
