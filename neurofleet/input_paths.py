"""Paths that a user names: ``~``, patterns, and files that are elsewhere (https, s3 and what else pyarrow opens).

A file that is elsewhere is copied once into the cache of this machine. Before the copy is used, the server is asked
whether it is still what is there, by ETag or time of change, and by size.
"""

import fnmatch
import glob
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from neurofleet.cache import cache_folder, keep_small, locked, used
from neurofleet.errors import InputError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
LOCAL_SCHEMES = ("file", "local")
REMOTE_SCHEMES = ("http", "https", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_COPY = "copy.json"
LINE_S = 10.0
STEP_BYTES = 2**20


def is_url(path: object) -> bool:
    """Whether a path names something elsewhere, such as ``https://host/cells.h5ad`` or ``s3://bucket/cells.h5ad``."""
    return bool(_URL.match(str(path)))


def is_web_address(text: str) -> bool:
    """Whether this is a URL of http or https, with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def name_of(path: str | Path) -> str:
    """Return the name of a file, also of one that is elsewhere."""
    return unquote(urlsplit(str(path)).path).rstrip("/").rpartition("/")[2] if is_url(path) else Path(path).name


def shown(url: str) -> str:
    """Return a path or URL for messages: without keys, and without what stands behind ``?``.

    Keys end at the last ``@``, as those of object stores may hold ``/``; one behind a mere host is no end of keys.
    """
    return re.sub(r"//(?:[^/]*[:@].*|[^/]*)@", "//", url.partition("?")[0], count=1) if is_url(url) else url


def urls_shown(text: str) -> str:
    """Return a message of others with its URLs as `shown` tells them."""
    return re.sub(_URL.pattern + r"[^\s'\"]+", lambda url: shown(url[0]), text)


def place_of(path: str | Path, folder: Path = Path()) -> str:
    """Return where a path leads: a URL as it is, ``~`` as the home folder, what is relative from `folder` on."""
    return str(path) if is_url(path) else str((folder / with_home(path)).resolve())


def with_home(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home folder; one of an unknown user is left as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def text_of(path: str | Path) -> str:
    """Return a path or URL as text, with ``~`` replaced by the home folder."""
    return str(path) if is_url(path) else str(with_home(path))


def here(path: str | Path, folder: Path) -> Path:
    """Return where a file of a job is on this machine: from `folder` on, or the copy of one that is elsewhere.

    Raises
    ------
    InputError, DownloadError
        As `local_copy` does.
    """
    return local_copy(str(path)) if is_url(path) else folder / with_home(path)


def has_pattern(path: str | Path) -> bool:
    """Whether a path may stand for several files, such as ``cells/*.h5ad``."""
    return not is_url(path) and glob.has_magic(str(path))


def matching(path: str, folder: Path = Path()) -> list[str]:
    """Return what a path stands for, sorted; the path itself where it is no pattern, or matches nothing.

    Parameters
    ----------
    path : str
        Relative to `folder`, as are those that are returned. ``**`` stands for any folders between.
    """
    if not has_pattern(path):
        return [path]
    pattern = str(with_home(path))
    if (folder / pattern).exists():
        return [path]  # a name with brackets in it
    return sorted(glob.glob(pattern, root_dir=folder, recursive=True)) or [path]


def named(paths: Iterable[str | Path]) -> list[str]:
    """Return the files that paths stand for: patterns by their matches, URLs as they are.

    Raises
    ------
    InputError
        A pattern matches nothing.
    """
    found: list[str] = []
    for path in paths:
        if is_url(path):
            found += _matching_urls(str(path))
            continue
        matches = matching(str(path))
        if has_pattern(path) and matches == [str(path)] and not with_home(path).exists():
            raise InputError(f"{path}: no file matches this pattern, seen from {Path.cwd()}.")
        found += [str(with_home(match)) for match in matches]
    return found


def local_files(paths: Iterable[str | Path]) -> list[Path]:
    """Return the files that paths stand for, on this machine: what is elsewhere by its copy.

    Raises
    ------
    InputError
        A pattern matches nothing, or a URL leads to nothing that can be copied.
    DownloadError
        A server does not answer.
    """
    return [local_copy(path) if is_url(path) else Path(path) for path in named(paths)]


def _matching_urls(url: str) -> list[str]:
    """Return the files of a bucket that a pattern such as ``s3://bucket/*.h5ad`` stands for; other URLs as they are."""
    start, _, query = url.partition("?")
    folder, _, pattern = start.rpartition("/")
    if not glob.has_magic(pattern) or urlsplit(url).scheme.lower() in ("http", "https", *LOCAL_SCHEMES):
        return [url]
    import pyarrow as pa
    from pyarrow.fs import FileSelector, FileSystem

    tail = f"?{query}" if query else ""
    try:
        system, path = FileSystem.from_uri(folder + tail)
        names = sorted(info.base_name for info in system.get_file_info(FileSelector(path)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _not_opened(url, error) from error
    if not (matches := fnmatch.filter(names, pattern)):
        raise InputError(
            f"{shown(url)}: no file of {shown(folder)} matches this pattern; there are"
            f" {', '.join(names[:10]) or 'none'}."
        )
    return [f"{folder}/{name}{tail}" for name in matches]


def local_copy(url: str, most_bytes: int | None = None) -> Path:
    """Return the copy of a file or folder that is elsewhere; it is fetched if it is not there or not the same any more.

    Parameters
    ----------
    url : str
    most_bytes : int, optional
        What is larger is refused, at the latest when so much of it has come.

    Raises
    ------
    InputError
        There is nothing at `url`, it cannot be opened, or it is too large.
    DownloadError
        The server does not answer, and there is no copy.
    """
    scheme = urlsplit(url).scheme.lower()
    place = cache_folder() / "files" / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        if scheme in LOCAL_SCHEMES:
            return Path(unquote(urlsplit(url).path))
        place.mkdir(parents=True, exist_ok=True)
        with locked(place / ".lock"):
            fetch = _http_copy if scheme in ("http", "https") else _arrow_copy
            copy = fetch(url, place, most_bytes)
        used(place)
        keep_small()
        return copy
    except OSError as error:
        raise InputError(
            f"{shown(url)}: cannot be copied to {place} ({error.strerror or error}). Free some space, or set"
            " NEUROFLEET_CACHE to a folder of yours."
        ) from error


def _http_copy(url: str, place: Path, most_bytes: int | None) -> Path:
    from neurofleet.http_download import DownloadError, NotThere, Origin, Web, looks_like  # loads requests

    parts = urlsplit(url)
    route = url.partition("://")[2].partition("/")[2].partition("#")[0]
    web = Web(f"{parts.scheme}://{parts.netloc}", report=_print)
    copy = _read(place)
    try:
        origin, name = web.look(f"/{route}")
    except NotThere as error:
        raise InputError(str(error)) from error
    except DownloadError as error:
        if copy is None:
            raise
        _print(f"{shown(url)}: cannot be reached, so the copy of {copy['at']} is used ({error})")
        return place / copy["name"]
    known = {"validator": origin.validator, "size": origin.size}
    if copy is not None and any(known.values()) and known == {key: copy[key] for key in known}:
        return place / copy["name"]
    name = re.sub(r"[/\\\0]", "_", name).lstrip(".") or "file"
    partial, begun = place / ".partial", place / ".begun.json"
    before = json.loads(begun.read_text()) if begun.is_file() and partial.is_file() else {}
    progress = _Progress(shown(url), name, most_bytes)
    progress(0, origin.size)
    web.download(
        f"/{route}",
        partial,
        Origin(**before),
        lambda origin: _write(begun, {"validator": origin.validator, "size": origin.size}),
        progress,
    )
    if not name.endswith((".html", ".htm")) and looks_like(partial) == "a web page":
        partial.unlink()
        raise InputError(
            f"{shown(url)}: expected a file, found a web page. Give the address of the file itself (what the page's"
            " download button leads to), or download it and give its path."
        )
    size = partial.stat().st_size
    if size == 0:
        partial.unlink()
        raise InputError(f"{shown(url)}: the server sent an empty file.")
    _replace(place, copy, partial, name)
    begun.unlink(missing_ok=True)
    _keep(place, {"url": shown(url), "name": name, **known})
    return place / name


def _arrow_copy(url: str, place: Path, most_bytes: int | None) -> Path:
    import pyarrow as pa
    from pyarrow.fs import FileSelector, FileSystem, FileType

    try:
        system, path = FileSystem.from_uri(url)
        info = system.get_file_info(path)
        if info.type == FileType.NotFound:
            raise InputError(f"{shown(url)}: there is no such file.")
        is_folder = info.type == FileType.Directory
        files = system.get_file_info(FileSelector(path, recursive=True)) if is_folder else [info]
        files = sorted((file for file in files if file.type == FileType.File), key=lambda file: file.path)
        if not files:
            raise InputError(f"{shown(url)}: there is nothing in this folder.")
        known = {"files": [[file.path, file.size, file.mtime_ns] for file in files]}
        copy, name = _read(place), name_of(url)
        if copy is not None and copy.get("files") == known["files"]:
            return place / name
        partial = place / ".partial"
        _remove(partial)
        progress, here = _Progress(shown(url), name, most_bytes), 0
        total = sum(file.size or 0 for file in files)
        progress(here, total)
        for file in files:
            target = partial / file.path[len(path) :].lstrip("/") if is_folder else partial
            target.parent.mkdir(parents=True, exist_ok=True)
            with system.open_input_stream(file.path) as source, target.open("wb") as sink:
                while chunk := source.read(STEP_BYTES):
                    sink.write(chunk)
                    here += len(chunk)
                    progress(here, total)
            if target.stat().st_size != file.size:
                raise InputError(
                    f"{shown(url)}: {file.path} ended after {target.stat().st_size:,} of {file.size:,} bytes."
                )
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise _not_opened(url, error) from error
    _replace(place, copy, partial, name)
    _keep(place, {"url": shown(url), "name": name, **known})
    return place / name


def _not_opened(url: str, error: Exception) -> InputError:
    told = urls_shown(" ".join(str(error).split()))
    return InputError(
        f"{shown(url)}: cannot be opened ({told}). Give a path, or a URL that starts with https://, s3://, gs://"
        " or another scheme that pyarrow knows, with the credentials in the environment (`?anonymous=true` for a"
        " public bucket)."
    )


def _read(place: Path) -> dict[str, Any] | None:
    """Return what is known of a copy that is whole; None without one."""
    try:
        known = json.loads((place / _COPY).read_text())
        copy = place / known["name"]
        whole = copy.is_dir() or copy.stat().st_size == known["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if whole else None


def _keep(place: Path, known: dict[str, Any]) -> None:
    copy = place / known["name"]
    known |= {"at": time.strftime("%Y-%m-%d %H:%M"), "bytes": 0 if copy.is_dir() else copy.stat().st_size}
    _write(place / _COPY, known)


def _write(file: Path, content: dict[str, Any]) -> None:
    partial = file.with_name(f"{file.name}.new")
    partial.write_text(json.dumps(content))
    partial.replace(file)


def _replace(place: Path, copy: dict[str, Any] | None, partial: Path, name: str) -> None:
    (place / _COPY).unlink(missing_ok=True)
    if copy is not None:
        _remove(place / copy["name"])
    _remove(place / name)
    partial.rename(place / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Progress:
    """Prints now and then how much of a file is here, and refuses one that is too large."""

    def __init__(self, url: str, name: str, most_bytes: int | None) -> None:
        self._url = url
        self._name = name
        self._most_bytes = most_bytes
        self._next = time.monotonic() + LINE_S

    def __call__(self, here: int, size: int | None) -> None:
        if self._most_bytes is not None and max(here, size or 0) > self._most_bytes:
            raise InputError(f"{self._url}: expected at most {self._most_bytes:,} bytes, found more. It is not read.")
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_S
            _print(f"{self._name}: {here / 1e6:,.0f} MB{f' of {size / 1e6:,.0f} MB' if size else ''} are here")
