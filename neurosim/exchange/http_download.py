"""Files over HTTP that may break off: resumed where they stopped, tried again, never taken half."""

import fcntl
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
ATTEMPTS = 5  # in a row that bring less than a chunk
LONGEST_PAUSE_S = 60.0
LARGEST_ANSWER_BYTES = 64_000_000  # of a query
WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)

DownloadProgress = Callable[[int, int | None], None]  # bytes that are here, of how many


class DownloadError(Exception):
    """Nothing that the input is to blame for: the server, the way to it, or this disk. Try again later."""


@dataclass(frozen=True)
class Origin:
    """What a partial file is a part of.

    Attributes
    ----------
    validator : str
        The server's mark of this version (a strong ETag, else the time of its last change), or nothing.
    size : int or None
        Its length in bytes, where the server says it.
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
        Before the second attempt; doubled before each further one.
    tell : callable, optional
        Is told in words why there will be another attempt.

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
        tell: Callable[[str], None] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"expected an address such as https://HOST, found {address!r}.")
        self.address = address.rstrip("/")
        self._attempts = attempts
        self._pause_s = pause_s
        self._tell = tell
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _OnwardByHttp(),
        ):
            self._opener.add_handler(handler)

    def json(self, route: str) -> Any:
        """Return what `route` answers, parsed.

        Raises
        ------
        DownloadError
            No answer after all attempts, or one that is no JSON.
        """
        url = self.address + route
        tries = self._tries()
        while True:
            try:
                with self._open(url) as answer:
                    content = answer.read(LARGEST_ANSWER_BYTES)
                    if answer.length:
                        raise _CutOff(f"the connection ended {answer.length:,} bytes too early")
                break
            except _TRANSIENT as error:
                tries.failed(url, error)
        try:
            return json.loads(content)
        except ValueError:
            raise DownloadError(
                f"{_place(url)}: expected JSON, found {_looks_like(content, len(content))}. {_WRONG_SERVER}"
            ) from None

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
            Is told the origin as soon as the server has said it; to be kept beside `partial`.
        watch : callable
            Is told how far the file is.

        Raises
        ------
        DownloadError
            The server does not answer, does not have it, or ends too early each time; another process writes
            the same file; the disk is full.
        """
        tries = self._tries()
        with partial.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DownloadError(f"{partial}: another process is downloading this file. Wait for it.") from None
            while True:
                before = file.tell()
                try:
                    origin = self._append(self.address + route, file, origin, began, watch)
                    if origin.size is None or file.tell() == origin.size:
                        os.fsync(file.fileno())
                        return
                    raise _CutOff(f"the connection ended after {file.tell():,} of {origin.size:,} bytes")
                except _TRANSIENT as error:
                    if file.tell() >= before + CHUNK_BYTES:
                        tries = self._tries()
                    tries.failed(self.address + route, error)

    def _tries(self) -> "_Tries":
        return _Tries(self._attempts, self._pause_s, self._tell)

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
        try:
            answer = self._open(url, headers)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not here:
                raise
            _empty(file)  # what is here is not a beginning of what is there
            raise _CutOff("the server has nothing behind what was here; begun anew") from error
        with answer:
            if answer.status == 206:
                first, size = _content_range(answer.headers.get("Content-Range", ""))
                same = origin.size is None or size is None or origin.size == size
                if first != here or not same:
                    _empty(file)
                    raise _CutOff("the server has another version than what was here; begun anew")
            else:  # all of it, from the beginning
                _empty(file)
                length = answer.headers.get("Content-Length")
                size = int(length) if length is not None and length.isdigit() else None
            origin = Origin(_validator(answer.headers), size)
            began(origin)
            self._room_for(file, size)
            watch(file.tell(), size)
            while chunk := answer.read(CHUNK_BYTES):
                _write(file, chunk)
                watch(file.tell(), size)
        return origin

    def _room_for(self, file: FileIO, size: int | None) -> None:
        needed = (size or 0) - file.tell()
        free = shutil.disk_usage(Path(file.name).parent).free
        if needed > free:
            raise DownloadError(
                f"{file.name}: {needed / 1e6:,.1f} MB are still to come and the disk has {free / 1e6:,.1f} MB"
                " left. Make room, or give a folder on another disk."
            )

    def _open(self, url: str, headers: dict[str, str] | None = None) -> http.client.HTTPResponse:
        told = {"User-Agent": "neurofleet", "Accept-Encoding": "identity"} | (headers or {})
        answer = self._opener.open(urllib.request.Request(url, headers=told), timeout=TIMEOUT_S)
        if answer is None:
            raise DownloadError(f"{url}: only http and https are followed.")
        return answer


class _CutOff(Exception):
    """An answer that ended before its end, or that does not go on where the file ends."""


_TRANSIENT = (urllib.error.URLError, http.client.HTTPException, OSError, _CutOff)
_WRONG_SERVER = "Is this the address of the database, and is there a log-in page between?"


class _OnwardByHttp(urllib.request.HTTPRedirectHandler):
    """Follow a redirection to HTTP(S) only, and never from HTTPS to HTTP."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        scheme, before = (urllib.parse.urlsplit(url).scheme for url in (newurl, req.full_url))
        if scheme not in ("http", "https") or (before == "https" and scheme == "http"):
            raise DownloadError(
                f"{req.full_url}: the server sends on to {newurl}, which is not followed. Is the address right?"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Tries:
    """Attempts in a row, with a pause before each further one that grows."""

    def __init__(self, attempts: int, pause_s: float, tell: Callable[[str], None] | None) -> None:
        self._left = attempts
        self._pause_s = pause_s
        self._tell = tell

    def failed(self, url: str, error: Exception) -> None:
        """Wait before the next attempt, or raise a `DownloadError` if there is none or it would not help."""
        self._left -= 1
        asked_s = 0.0
        final = isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            final = error.code not in WORTH_ANOTHER_TRY
            reason = f"{error.code} {error.reason}"
            asked = error.headers.get("Retry-After", "")
            asked_s = float(asked) if asked.isdigit() else 0.0
        else:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        if final:
            raise DownloadError(f"{_place(url)}: not to be had: {reason}.") from error
        if self._left <= 0:
            raise DownloadError(
                f"{_place(url)}: no success in several attempts; the last: {reason}. Nothing that "
                "arrived is lost: the same command goes on."
            ) from error
        pause_s = min(max(self._pause_s, asked_s), LONGEST_PAUSE_S)
        if self._tell is not None:
            self._tell(f"{_place(url)}: {reason}; trying again in {pause_s:g} s")
        time.sleep(pause_s)
        self._pause_s *= 2


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


def _place(url: str) -> str:
    return url.partition("?")[0]


def _content_range(text: str) -> tuple[int, int | None]:
    """Return first byte and whole length from ``bytes 100-199/200``; -1 where it says nothing."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", text.strip())
    if found is None:
        return -1, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _validator(headers: Any) -> str:
    etag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag


def _looks_like(start: bytes, size: int) -> str:
    if start.lstrip()[:1] == b"<":
        return "a web page"
    return f"{size:,} bytes of something else" if size else "nothing"


def looks_like(path: Path) -> str:
    """Return in words what a file holds that is not what was expected."""
    with path.open("rb") as file:
        return _looks_like(file.read(200), path.stat().st_size)
