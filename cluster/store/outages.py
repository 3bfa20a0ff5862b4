"""An object store that does not answer: its requests are repeated for a while, and that is said once."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NoReturn, TypeVar

import tenacity

from neurofleet.errors import StorageUnreachable

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 20.0
"""How long requests are repeated outside of a run: a store that never answered may be the wrong one."""

LONGEST_PAUSE_S = 15.0

_FINAL = re.compile(
    r"AWS Error (?!NETWORK|UNKNOWN|INTERNAL|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT)"
    r"|HTTP status 4(?!08|25|29)\d\d|Bucket '.*' not found|NoSuchBucket"
    r"|PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND|INVALID_ARGUMENT"
)
"""Refusals that repeating does not change, in the words of pyarrow's clients for S3 and Google Cloud Storage."""

Result = TypeVar("Result")


def is_outage(error: BaseException) -> bool:
    """Whether a request that failed with this error may succeed if it is repeated."""
    if isinstance(
        error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError
    ):
        return False
    return isinstance(error, OSError) and not _FINAL.search(str(error))


def reason_of(error: BaseException) -> str:
    """Return what a client says about a failed request, in one line."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split())


class Outages:
    """Repeats requests to one store while it does not answer.

    An outage begins with the first request that fails and ends with the first that succeeds, of any thread. When it
    has lasted for `wait_s`, the request at hand fails, and all that follow fail after one try.

    Parameters
    ----------
    root : str
        What the store is called in messages.

    Attributes
    ----------
    root : str
    wait_s : float
    may_wait : callable
        Returns whether to go on waiting; asked about once a second.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.wait_s = FIRST_WAIT_S
        self.may_wait: Callable[[], bool] = lambda: True
        self._lock = threading.Lock()
        self._since: float | None = None
        self._first = ""

    def call(self, doing: str, request: Callable[[], Result], *, once: bool = False) -> Result:
        """Return what `request` returns.

        Parameters
        ----------
        doing : str
            Such as ``writing events.jsonl``.
        once : bool
            Whether it is not repeated; what the request raises is raised then.

        Raises
        ------
        StorageUnreachable
            The store has not answered for `wait_s`; names what failed first.
        Exception
            Whatever else the request raises, at once.
        """

        began = 0.0

        def answered() -> Result:
            nonlocal began
            began = time.monotonic()
            try:
                result = request()
            except Exception as error:
                if not is_outage(error):
                    self._end()
                raise
            self._end()
            return result

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_outage),
            after=lambda state: self._note(doing, began, _reason(state)),
            stop=lambda state: once or self._is_over(),
            wait=tenacity.wait_exponential(multiplier=0.5, max=LONGEST_PAUSE_S),
            sleep=self._pause,
            retry_error_callback=None if once else lambda state: self._give_up(doing, self._since or began, state),
            reraise=True,
        )
        return retrying(answered)

    def _note(self, doing: str, began: float, reason: str) -> None:
        with self._lock:
            if self._since is not None:
                return
            self._since, self._first = began, f"{doing} failed: {reason}"
            logger.warning("%s: %s. Trying again until %s UTC.", self.root, self._first, _clock(began + self.wait_s))

    def _is_over(self) -> bool:
        with self._lock:
            since = self._since
        return since is not None and (time.monotonic() - since >= self.wait_s or not self.may_wait())

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._is_over() and self._since is not None and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))

    def _end(self) -> None:
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            logger.warning("%s answers again after %.0f s.", self.root, time.monotonic() - since)

    def _give_up(self, doing: str, since: float, state: tenacity.RetryCallState) -> NoReturn:
        now = f"{doing} failed: {_reason(state)}"
        cause = state.outcome.exception() if state.outcome else None
        raise StorageUnreachable(
            f"{self.root} does not answer since {_clock(since)} UTC; what failed first: {self._first}."
            f"{f' Last: {now}.' if now != self._first else ''} What was stored before is whole. Give the same command"
            " again once the object store answers: it goes on from there."
        ) from cause


def _clock(monotonic: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=monotonic - time.monotonic())).strftime("%H:%M:%S")


def _reason(state: tenacity.RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    return reason_of(error) if error else ""
