"""``neurofleet submit``: a job file's job, sent to a cluster and started there."""

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import typer

from neurofleet.cluster.ray.submission import PACKAGE_LIMIT_BYTES, JobsApi, RemoteJob
from neurofleet.cluster.store.folders import leave_marker, remove_marker
from neurofleet.errors import UsageError
from neurofleet.input_paths import is_web_address
from neurofleet.jobs.job_file import named
from neurofleet.jobs.notify import VARIABLE
from neurofleet.jobs.remote.job_package import START_SCRIPT, collect, pack, size
from neurofleet.jobs.remote.remote_jobs import (
    check_outcome,
    commands,
    follow,
    looks_like_an_attempt,
    only_watching,
    our_jobs,
)
from neurofleet.jobs.run_job import job_and_folder, part_of, results_place
from neurofleet.jobs.terminal import print_json
from neurofleet.scratch import scratch_folder

START_TIMEOUT_S = 120.0
LOOK_S = 0.5
REFUSED = 2

_DRIVER = re.compile(r"^neurofleet (\S+), Ray \S+, Python \S+ on ", re.MULTILINE)


def submit_command(
    job: Path | Mapping[str, Any],
    address: str,
    out: str | None = None,
    follow_log: bool = False,
    python: str | None = None,
    part: str | None = None,
    quick: bool = False,
    as_json: bool = False,
    notify: str | None = None,
) -> None:
    """Send a job to the cluster at `address`. Return when its driver works there, or, to follow, at its end.

    The job and a part of it are given as in `neurofleet.jobs.run_job.run_job`. A part has its own name there, such as
    ``rat-2-of-5``, and the quick version is ``rat-quick``.

    Raises
    ------
    UsageError
        The job file, or the place of its results, is wrong; what the driver refuses too.
    ClusterUnreachable
        No answer, or no right to submit.
    """
    spec, folder = job_and_folder(job, quick)
    if notify is not None:
        if not is_web_address(notify):
            raise UsageError(
                "--notify: expected a URL, http:// or https://, that the cluster reaches. For a command, set"
                f" {VARIABLE} on the cluster's head."
            )
        spec = spec.model_copy(update={"notify": notify})  # in the package: what Ray is told of a job is shown to all
    if looks_like_an_attempt(spec.name):
        raise UsageError(f"name: {spec.name} would read as an attempt of another job; let it not end in -a<number>.")
    name = f"{spec.name}-quick" if spec.quick else spec.name
    name = name if part is None else part_of(part, spec).file(name)
    place, here_only = _absolute(results_place(out, spec, folder))
    job_files = collect(spec, folder)
    if spec.checker is not None:
        named(spec.checker)(spec, folder)
    api = JobsApi(address)
    say = partial(typer.echo, err=as_json)
    number = _next_attempt(api, name, place, say)
    _warn_of_the_cluster(api)
    say(f"{size(len(job_files.files), job_files.size_bytes)} are sent to the cluster")
    if job_files.remote:
        more = f" and {len(job_files.remote) - 3} more" if len(job_files.remote) > 3 else ""
        say(f"read there, by absolute path or URL: {', '.join(job_files.remote[:3])}{more}")
    for link in job_files.links:
        say(f"a symbolic link, whose content is sent: {link}")
    id = f"{name}-a{number}"
    with scratch_folder() as temporary:
        package = temporary / "job.zip"
        pack(job_files, package, PACKAGE_LIMIT_BYTES)
        marker = None if "://" in place else leave_marker(Path(place))
        try:
            command = _command(job_files.job_file, place, here_only, marker, python, part)
            api.submit(id, command, package, {"neurofleet": _version(), "name": name, "out": place})
        except Exception:
            _remove_marker(marker)
            raise
    say(f"{id} is submitted; results go to {place}")
    with only_watching(api, id):
        seen = _wait_for_start(api, id, spec.name)
    state = "waiting" if not seen else "succeeded" if seen[0].has_ended else "running"
    if seen:
        _remove_marker(marker)
        check_outcome(*seen)
        say(f"{id} {'has succeeded' if seen[0].has_ended else 'is running'}\n{commands(id, address)}")
    else:
        say(f"{id} has not started yet; it goes on without this terminal\n{commands(id, address)}")
    if as_json:
        print_json({"id": id, "name": name, "state": state, "out": place, "address": api.address})
    if follow_log:
        follow(api, id, errors=as_json)


def _absolute(place: str) -> tuple[str, bool]:
    """Return the place as another machine understands it, and whether the user meant this machine."""
    if "://" in place:
        return place, False
    return os.path.abspath(place), not os.path.isabs(place)


def _next_attempt(api: JobsApi, name: str, place: str, say: Callable[[str], None]) -> int:
    before = our_jobs(api, name)
    if not before:
        return 1
    last = before[0]
    if not last.job.has_ended:
        raise UsageError(
            f"{last.job.id} of this name is {last.job.state} already.\n{commands(last.job.id, api.address)}"
        )
    stored = next((attempt for attempt in before if attempt.job.exit_code != REFUSED), None)
    if stored and stored.out == place:
        say(f"{stored.job.id} has {stored.job.state}; this attempt goes on from its results")
    elif stored:
        _warn(f"{stored.job.id} has its results in {stored.out}; this attempt does not go on from there")
    return max(attempt.attempt for attempt in before) + 1


def _warn_of_the_cluster(api: JobsApi) -> None:
    if not api.asks_for_token:
        _warn(
            f"the cluster at {api.address} asks for no token: anyone who reaches it can run code there. Start"
            " its head with RAY_AUTH_MODE=token."
        )
    ours = metadata.version("ray")
    if api.ray_version != ours:
        _warn(f"the cluster runs Ray {api.ray_version}, and Ray {ours} is here")


def _command(
    job_file: str, place: str, here_only: bool, marker: Path | None, python: str | None, part: str | None = None
) -> str:
    arguments = [job_file, "--out", place]
    if part:
        arguments += ["--part", part]
    if marker:
        arguments += ["--witness", str(marker)]
    if here_only:
        arguments.append("--here-only")
    return shlex.join(["exec", "sh", START_SCRIPT, python or "", *arguments])


def _wait_for_start(api: JobsApi, id: str, name: str) -> tuple[RemoteJob, str] | None:
    """Return the job and its log when its driver works or has ended; None when the time is over."""
    works = re.compile(rf"^{re.escape(name)}: (starting|resuming|finished already)", re.MULTILINE)
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        job, log = api.job(id), api.log(id)
        if job.has_ended or works.search(log):
            driver = _DRIVER.search(log)
            if driver and driver[1] != _version():
                _warn(f"the cluster has neurofleet {driver[1]}, and {_version()} is here: results may differ")
            return job, log
        time.sleep(LOOK_S)
    return None


def _version() -> str:
    return metadata.version("neurofleet")


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _remove_marker(marker: Path | None) -> None:
    if marker:
        remove_marker(marker)
