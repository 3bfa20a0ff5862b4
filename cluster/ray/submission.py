"""Jobs on another cluster over Ray's Jobs API: submit, list, follow, stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast

import aiohttp
import requests
from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from neurofleet.cluster.ray.internals import environment
from neurofleet.cluster.ray.tokens import has_token, own_token
from neurofleet.errors import ClusterError, ClusterUnreachable

PACKAGE_LIMIT_BYTES = DASHBOARD_CLIENT_MAX_SIZE
"""What the Jobs API takes as one body; the 512 MiB of Ray's documentation are for other ways in."""

CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 5.0, 60.0
STOP_WAIT_S = 60
POLL_S = 0.5
ENDED = ("succeeded", "failed", "stopped")


@dataclass(frozen=True)
class RemoteJob:
    """A job as the cluster knows it.

    Attributes
    ----------
    id : str
        Its submission id.
    state : str
        pending, running, succeeded, failed or stopped.
    metadata : mapping
        What was submitted with it.
    started, ended : datetime or None
    exit_code : int or None
        Of its command; None while it runs, and when it never ran or was stopped.
    message : str
        What Ray says about its state.
    """

    id: str
    state: str
    metadata: Mapping[str, str]
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    message: str

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs or will run."""
        return self.state in ENDED


class JobsApi:
    """The Jobs API of one cluster.

    Parameters
    ----------
    address : str
        Of the dashboard, ``http://host:8265``.

    Attributes
    ----------
    address : str
    asks_for_token : bool
        Whether the cluster takes jobs only with its token.
    ray_version : str
        Of the cluster.

    Raises
    ------
    ClusterUnreachable
        If nothing answers within seconds, or it does not take our token.
    """

    def __init__(self, address: str) -> None:
        self.address = _url(address)
        for module in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(module).setLevel(logging.WARNING)
        self.asks_for_token = self._reach() == "token"
        # These variables would win over the address.
        with (
            environment({}, without=("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")),
            own_token(),
            self._answers(),
        ):
            self._client = _Client(self.address)
            self.ray_version: str = self._client.server_version()

    def submit(self, id: str, command: str, package: Path, metadata: Mapping[str, str]) -> None:
        """Submit a job.

        Parameters
        ----------
        id : str
            New on this cluster.
        command : str
            For a shell on the head, in the folder that the package is unpacked to.
        package : Path
            A zip file of less than `PACKAGE_LIMIT_BYTES`.
        metadata : mapping
            Kept with the job.
        """
        env_vars = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        with self._answers():
            self._client.submit_job(
                submission_id=id,
                entrypoint=command,
                runtime_env={"working_dir": str(package), "env_vars": env_vars},
                metadata=dict(metadata),
            )

    def jobs(self) -> list[RemoteJob]:
        """All jobs that were submitted to the cluster since its head started, newest first."""
        with self._answers():
            jobs = self._client.list_jobs()
        started = sorted((job for job in jobs if job.submission_id), key=lambda job: job.start_time or 0, reverse=True)
        return [_remote_job(job) for job in started]

    def job(self, id: str) -> RemoteJob:
        """The job with this submission id."""
        with self._answers():
            return _remote_job(self._client.get_job_info(id))

    def log(self, id: str) -> str:
        """All that the job has printed."""
        with self._answers():
            return self._client.get_job_logs(id)

    def follow(self, id: str) -> Iterator[str]:
        """What the job has printed and goes on to print, until it ends."""
        with asyncio.Runner() as runner, self._answers():
            texts = cast("AsyncGenerator[str]", self._client.tail_job_logs(id))
            try:
                while (text := runner.run(_next(texts))) is not None:
                    yield text
            except RuntimeError as error:  # the connection was cut
                raise self._unreachable(error) from error
            finally:
                runner.run(texts.aclose())

    def stop(self, id: str) -> None:
        """Ask the job to end: SIGTERM, and SIGKILL `STOP_WAIT_S` later."""
        with self._answers():
            self._client.stop_job(id)

    def wait(self, id: str, timeout_s: float) -> RemoteJob:
        """Return the job when it has ended, or as it is when the time is over."""
        until = time.monotonic() + timeout_s
        while not (job := self.job(id)).has_ended and time.monotonic() < until:
            time.sleep(POLL_S)
        return job

    def _reach(self) -> str:
        """Return the cluster's way of authentication; fail fast where there is no cluster."""
        try:
            answer = requests.get(
                f"{self.address}/api/authentication_mode", timeout=(CONNECT_TIMEOUT_S, CONNECT_TIMEOUT_S)
            )
            answer.raise_for_status()
            return answer.json()["authentication_mode"]
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        except (KeyError, TypeError) as error:
            raise self._unreachable(ValueError("what answers there is no dashboard of Ray")) from error

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Raise errors of the client as `ClusterError`."""
        try:
            yield
        except AuthenticationError as error:
            raise self._refused() from error
        except aiohttp.WSServerHandshakeError as error:
            raise (self._refused() if error.status in (401, 403) else self._failed(error)) from error
        except (requests.RequestException, aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise self._unreachable(error) from error
        except RuntimeError as error:
            raise self._failed(error) from error

    def _refused(self) -> ClusterUnreachable:
        cause = "does not take the token of this machine" if has_token() else "asks for a token, and none is here"
        return ClusterUnreachable(
            f"The cluster at {self.address} {cause}. Copy ~/.ray/auth_token of the cluster's head to"
            " ~/.ray/auth_token here and make it yours alone (chmod 600), or name another place with"
            " RAY_AUTH_TOKEN_PATH."
        )

    def _unreachable(self, error: Exception) -> ClusterUnreachable:
        return ClusterUnreachable(
            f"No Jobs API answers at {self.address}: {_cause(error)}. Give the address of the dashboard,"
            " http://HOST:8265 (not the head's own port, 6379), and see that the tunnel to it is open:"
            " ssh -L 8265:127.0.0.1:8265 HEAD, or kubectl port-forward."
        )

    def _failed(self, error: Exception) -> ClusterError:
        return ClusterError(f"The cluster at {self.address} refused: {_first_line(error)}")


class _Client(JobSubmissionClient):
    """Ray's client with time limits: it would wait for ever on a tunnel that is gone."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S), **options)

    def server_version(self) -> str:
        return self._server_ray_version or "unknown"


async def _next(texts: AsyncGenerator[str]) -> str | None:
    return await anext(texts, None)


def _remote_job(job: JobDetails) -> RemoteJob:
    return RemoteJob(
        id=job.submission_id or "",
        state=job.status.value.lower(),
        metadata=job.metadata or {},
        started=_time(job.start_time),
        ended=_time(job.end_time),
        exit_code=job.driver_exit_code,
        message=job.message or "",
    )


def _time(milliseconds: int | None) -> datetime | None:
    return None if not milliseconds else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _url(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "http", address
    if scheme not in ("http", "https") or not rest or rest == "auto":
        raise ClusterUnreachable(
            f"{address} is not the address of a Jobs API. Give that of the cluster's dashboard, http://HOST:8265."
        )
    return f"{scheme}://{rest.rstrip('/')}"


def _cause(error: BaseException) -> str:
    """Return what is at the bottom of an error of the network."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return "what answers there speaks no HTTP" if isinstance(error, HTTPException) else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0].rstrip(".")
