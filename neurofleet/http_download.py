"""Download files over HTTP that may break off: resumed where they stopped, tried again, never taken half."""

import fcntl
import json
import os
import re
import shutil
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from neurofleet.errors import JobError
from neurofleet.input_paths import shown, urls_shown

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
ATTEMPTS = 5  # in a row that bring less than a chunk
LONGEST_PAUSE_S = 60.0
LARGEST_ANSWER_BYTES = 64_000_000  # of a query
WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)
RANGE_NOT_SATISFIABLE = 416

DownloadProgress = Callable[[int, int | None], None]  # bytes that are here, of how many


class DownloadError(JobError):
    """The server, the way to it, or this disk failed; the input is not to blame. Try again later."""


class NotThere(DownloadError):
    """The server answers that it has no such file, or not for us: trying again does not help."""

    exit_code = 2


@dataclass(frozen=True)
class Origin:
    """What a partial file is a part of.

    Attributes
    ----------
    validator : str
        The server's mark of this version (a strong ETag, else the time of its last change), or nothing.
    size : int or None
        Length of the whole file in bytes, where the server says it.
    """

    validator: str = ""
    size: int | None = None


class Web:
    """Ask one server, by HTTP or HTTPS and nothing else.

    Parameters
    ----------
    address : str
        Such as ``https://api.brain-map.org``.
    attempts : int
        How often in a row a request may fail before it is given up.
    pause_s : float
        Before the second attempt; doubled before each further one, up to a minute. A server that says when to
        ask again (``Retry-After``) is asked then.
    report : callable, optional
        Called with a line of text on why there will be another attempt.

    Raises
    ------
    ValueError
        The address is no HTTP address.
    """

    def __init__(
        self,
        address: str,
        attempts: int = ATTEMPTS,
        pause_s: float = 1.0,
        report: Callable[[str], None] | None = None,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"expected an address such as https://HOST, found {shown(address)!r}.")
        self.address = address.rstrip("/")
        self._attempts = attempts
        self._pause_s = pause_s
        self._report = report
        self._session = _Session()

    def json(self, route: str) -> Any:
        """Return what `route` answers, parsed.

        Raises
        ------
        DownloadError
            No answer after all attempts, or one that is no JSON.
        """
        url = self.address + route
        content = b""
        for attempt in self._retrying(url):
            with attempt, self._open(url) as response:
                content = response.raw.read(LARGEST_ANSWER_BYTES, decode_content=False)
                if response.raw.length_remaining:
                    raise _CutOff(f"the connection ended {response.raw.length_remaining:,} bytes too early")
        try:
            return json.loads(content)
        except ValueError:
            raise DownloadError(
                f"{shown(url)}: expected JSON, found {_looks_like(content, len(content))}. Is this the "
                "address of the database, and is there a log-in page between?"
            ) from None

    def look(self, route: str) -> tuple[Origin, str]:
        """Return what the server has at `route` now, and what it calls the file; nothing of it is downloaded.

        Raises
        ------
        NotThere, DownloadError
            The server does not have it, or gives no answer after all attempts.
        """
        url = self.address + route
        origin, name = Origin(), ""
        for attempt in self._retrying(url):
            with attempt, self._open(url) as response:
                length = response.headers.get("Content-Length", "")
                origin = Origin(_validator(response.headers), int(length) if length.isdigit() else None)
                name = _file_name(response.headers.get("Content-Disposition", ""), (url, response.url))
        return origin, name

    def download(
        self, route: str, partial: Path, origin: Origin, began: Callable[[Origin], None], watch: DownloadProgress
    ) -> None:
        """Fetch all of `route` into `partial`, going on behind what that file holds already.

        Parameters
        ----------
        route : str
        partial : Path
            Kept when this fails or is interrupted: call again to go on.
        origin : Origin
            What `partial` was begun from; from another version on the server it is begun anew.
        began : callable
            Called with the origin as soon as the server has named it; to be kept beside `partial`.
        watch : callable
            Called with how far the file is.

        Raises
        ------
        DownloadError
            The server does not answer, does not have it, or ends too early each time; another process writes
            the same file; the disk is full.
        """
        url = self.address + route
        with partial.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DownloadError(f"{partial}: another process is downloading this file. Wait for it.") from None
            for attempt in self._retrying(url):
                with attempt:
                    before = file.tell()
                    try:
                        origin = self._append(url, file, origin, began, watch)
                    finally:
                        if file.tell() >= before + CHUNK_BYTES:
                            attempt.retry_state.attempt_number = 1  # only attempts without progress count
                    if origin.size is not None and file.tell() != origin.size:
                        raise _CutOff(f"the connection ended after {file.tell():,} of {origin.size:,} bytes")
                    os.fsync(file.fileno())

    def _retrying(self, url: str) -> Iterator[tenacity.AttemptManager]:
        """Return the attempts at `url`; a failure that another attempt cannot help ends them at once."""

        def give_up(state: tenacity.RetryCallState) -> None:
            raise DownloadError(
                f"{shown(url)}: no success in several attempts; the last: {_reason(_error(state))}. "
                "Nothing that arrived is lost: the same command goes on."
            ) from _error(state)

        def pause_s(state: tenacity.RetryCallState) -> float:
            growing_s = self._pause_s * 2 ** (state.attempt_number - 1)
            return min(max(growing_s, getattr(_error(state), "retry_after_s", 0.0)), LONGEST_PAUSE_S)

        def report(state: tenacity.RetryCallState) -> None:
            if self._report is not None:
                self._report(f"{shown(url)}: {_reason(_error(state))}; trying again in {pause_s(state):g} s")

        return iter(
            tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(_TRANSIENT),
                stop=tenacity.stop_after_attempt(self._attempts),
                wait=pause_s,
                before_sleep=report,
                retry_error_callback=give_up,
            )
        )

    def _append(
        self, url: str, file: FileIO, origin: Origin, began: Callable[[Origin], None], watch: DownloadProgress
    ) -> Origin:
        """Append what the server sends in one answer, and return what it is a part of."""
        here = file.tell()
        if origin.size is not None and here == origin.size:
            return origin
        headers = {"Range": f"bytes={here}-"} if here else {}
        if here and origin.validator:
            headers["If-Range"] = origin.validator
        with self._open(url, headers) as response:
            if response.status_code == RANGE_NOT_SATISFIABLE:
                _empty(file)  # what is here is not a beginning of what is there
                raise _CutOff("the server has nothing behind what was here; begun anew")
            if response.status_code == 206:
                first, size = _content_range(response.headers.get("Content-Range", ""))
                same = origin.size is None or size is None or origin.size == size
                if first != here or not same:
                    _empty(file)
                    raise _CutOff("the server has another version than what was here; begun anew")
            else:  # all of it, from the beginning
                _empty(file)
                length = response.headers.get("Content-Length")
                size = int(length) if length is not None and length.isdigit() else None
            origin = Origin(_validator(response.headers), size)
            began(origin)
            self._check_room(file, size)
            watch(file.tell(), size)
            # Not `iter_content`, which drops what it has of a chunk when the connection breaks off within it.
            while chunk := response.raw.read(CHUNK_BYTES, decode_content=False):
                _write(file, chunk)
                watch(file.tell(), size)
        return origin

    def _check_room(self, file: FileIO, size: int | None) -> None:
        needed = (size or 0) - file.tell()
        free = shutil.disk_usage(Path(file.name).parent).free
        if needed > free:
            raise DownloadError(
                f"{file.name}: {needed / 1e6:,.1f} MB are still to come and the disk has {free / 1e6:,.1f} MB"
                " left. Make room, or give a folder on another disk."
            )

    def _open(self, url: str, headers: dict[str, str] | None = None) -> requests.Response:
        try:
            response = self._session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
        except requests.exceptions.SSLError as error:
            if isinstance(_first_cause(error), ssl.SSLCertVerificationError):
                raise DownloadError(f"{shown(url)}: not to be had: {_reason(error)}.") from error
            raise
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL) as error:
            raise DownloadError(
                f"{shown(url)}: only http and https are followed ({urls_shown(str(error))})."
            ) from error
        if response.status_code < 400 or (response.status_code == RANGE_NOT_SATISFIABLE and "Range" in (headers or {})):
            return response
        response.close()
        reason = f"{response.status_code} {response.reason}"
        if response.status_code not in WORTH_ANOTHER_TRY:
            raise (NotThere if response.status_code < 500 else DownloadError)(f"{shown(url)}: not to be had: {reason}.")
        retry_after = response.headers.get("Retry-After", "")
        raise _Busy(reason, float(retry_after) if retry_after.isdigit() else 0.0)


class _CutOff(Exception):
    """An answer that ended before its end, or that does not go on where the file ends."""


class _Busy(Exception):
    """A server that could not answer now, and may have said after how many seconds it can."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


_TRANSIENT = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError, _CutOff, _Busy)


class _Session(requests.Session):
    """Follows redirections to HTTP(S) only and never from HTTPS to HTTP; trusts what the system trusts."""

    def __init__(self) -> None:
        super().__init__()
        self.headers.update({"User-Agent": "neurofleet", "Accept-Encoding": "identity"})
        self.mount("https://", _SystemCertificates())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            before = urlsplit(resp.url).scheme
            scheme = urlsplit(target).scheme or before
            if scheme not in ("http", "https") or (before == "https" and scheme == "http"):
                raise DownloadError(
                    f"{shown(resp.url)}: the server sends on to {shown(target)}, which is not followed. Is the address"
                    " right?"
                )
        return target


class _SystemCertificates(HTTPAdapter):
    """Trusts the system's certificates (a laboratory's own, for instance) as well as those of requests."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options, ssl_context=ssl.create_default_context())


def _error(state: tenacity.RetryCallState) -> BaseException:
    """Return what the last attempt raised."""
    error = state.outcome.exception() if state.outcome is not None else None
    assert error is not None
    return error


def _first_cause(error: BaseException) -> BaseException:
    """Return the first exception of a chain: requests and urllib3 wrap that of the socket several times."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _reason(error: BaseException) -> str:
    cause = error if isinstance(error, _CutOff | _Busy) else _first_cause(error)
    return urls_shown(str(cause)) or type(cause).__name__


def _empty(file: FileIO) -> None:
    file.truncate(0)
    file.seek(0)


def _write(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise DownloadError(
            f"{file.name}: cannot be written ({error.strerror}). {file.tell():,} bytes are here; make room, "
            "and the same command goes on behind them."
        ) from error


def _content_range(text: str) -> tuple[int, int | None]:
    """Return first byte and whole length from ``bytes 100-199/200``; -1 where it says nothing."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _file_name(disposition: str, urls: Sequence[str]) -> str:
    """Return what the server calls a file, else the first name with an ending that an address has."""
    if named := re.search(r"filename\*?=(?:UTF-8'')?\"?([^\";]+)", disposition):
        return unquote(named[1].strip())
    names = [unquote(urlsplit(url).path).rpartition("/")[2] for url in urls]
    return next((name for name in names if "." in name), names[0])


def _validator(headers: Any) -> str:
    etag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag


def _looks_like(start: bytes, size: int) -> str:
    if start.lstrip()[:1] == b"<" and b"\0" not in start:  # numbers of a binary file may look like it
        return "a web page"
    return f"{size:,} bytes of something else" if size else "nothing"


def looks_like(path: Path) -> str:
    """Return in words what a file holds that is not what was expected."""
    with path.open("rb") as file:
        return _looks_like(file.read(200), path.stat().st_size)
