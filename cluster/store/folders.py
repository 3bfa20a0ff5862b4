"""Folders on a file system or behind any `pyarrow.fs` URI, and whether a path is on shared storage.

A file is complete or absent: it is written under a temporary name and renamed, or put as one object.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from neurofleet.cluster.store.outages import Outages, Result, reason_of
from neurofleet.errors import ClusterError
from neurofleet.input_paths import shown, urls_shown

NETWORK_FILE_SYSTEMS = frozenset(
    "9p afs beegfs ceph cifs efs glusterfs gpfs lustre nfs nfs3 nfs4 orangefs panfs pvfs2 smb3 wekafs".split()
)
LOCAL_FUSE = re.compile(
    r"^fuse\.(fuse-overlayfs|unionfs.*|mergerfs|bindfs|squashfuse.*|snapfuse|lxcfs|gvfsd-fuse|portal"
    r"|encfs|gocryptfs|appimage.*)$"
)
_MARKER_NAME = re.compile(r"^\.neurofleet-[0-9a-f]{16}$")


def leave_marker(folder: Path) -> Path | None:
    """Put a small file where `folder` is, or would be made; another machine looks for it.

    Returns
    -------
    Path or None
        The file; None if this machine cannot write there.
    """
    marker = _existing(folder) / f".neurofleet-{secrets.token_hex(8)}"
    try:
        marker.touch(mode=0o600, exist_ok=False)
    except OSError:
        return None
    return marker


def remove_marker(marker: Path) -> None:
    """Remove a file of `leave_marker`, and nothing else."""
    if _MARKER_NAME.match(marker.name):
        marker.unlink(missing_ok=True)


def sees_marker(folder: Path, marker: Path) -> bool:
    """Whether `folder` is on the storage where another machine has left the marker."""
    try:
        return marker.exists() and _existing(folder).stat().st_dev == marker.parent.stat().st_dev
    except OSError:
        return False


class Mount(NamedTuple):
    """A mounted file system: where, and its type, such as ``ext4`` or ``nfs4``."""

    point: str
    kind: str

    @property
    def is_network(self) -> bool:
        """Whether it is served to several machines; a root file system is a machine's own in any case."""
        if self.point == "/":
            return False
        if self.kind.startswith("fuse."):
            return not LOCAL_FUSE.match(self.kind)
        return self.kind in NETWORK_FILE_SYSTEMS


def mount_of(folder: Path, table: str | None = None) -> Mount:
    """Return the file system that `folder` is on, or would be.

    Parameters
    ----------
    folder : Path
    table : str, optional
        Lines as in ``/proc/mounts``, which is the default.
    """
    if table is None:
        mounts = Path("/proc/mounts")
        table = mounts.read_text() if mounts.exists() else ""  # macOS
    path, innermost = _existing(folder).resolve(), Mount("/", "unknown")
    for line in table.splitlines():
        _, point, kind, *_ = line.split(" ")
        mount = Mount(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point), kind)
        if path.is_relative_to(mount.point) and len(mount.point) >= len(innermost.point):
            innermost = mount
    return innermost


def _existing(folder: Path) -> Path:
    folder = Path(os.path.abspath(folder))
    return next(place for place in (folder, *folder.parents) if os.path.isdir(place))


REQUESTS_AT_ONCE = 16
WITHOUT_FOLDERS = ("s3", "gcs")
"""File systems of `pyarrow.fs` where an object needs no folder."""

_TEMPORARY = re.compile(r"^\..+\.[0-9a-f]{8}\.tmp$")


class Folder(Protocol):
    """What a `RunStore` needs of the place where it stores. Names are relative, with forward slashes."""

    root: str

    def read(self, name: str) -> bytes | None:
        """The content of a file, None when there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file, completely or not at all; it is on disk when this returns."""

    def append(self, name: str, line: bytes) -> None:
        """Add one line, which ends in a newline."""

    def names(self, folder: str = "") -> list[str]:
        """All files at or below `folder`, sorted, without temporary ones."""

    def top_names(self) -> list[str]:
        """The files in the folder itself, sorted."""

    def remove(self, names: Sequence[str]) -> None:
        """Remove files, in any order; those that are gone already are ignored."""

    def replace(self, names: Sequence[str], name: str, content: bytes, check: Callable[[bytes | None], None]) -> None:
        """Make the file `name` and remove those at `names`, which are all that its folder holds.

        It happens at once where the file system can exchange two folders. Elsewhere the file is there before the others
        are removed.

        Parameters
        ----------
        check : callable
            Is given what was stored of the file before anything is removed; if it raises, all stays as it was.
        """

    def sweep(self) -> None:
        """Remove temporary files of writers that were killed."""

    def room_bytes(self) -> int | None:
        """Free bytes on the disk plus those of the folder itself; None if unknown."""


def open_folder(root: str | Path) -> Folder:
    """Return the folder at a path or URI; it is not made yet.

    Raises
    ------
    ClusterError
        If the URI is not one that `pyarrow.fs` understands.
    """
    if "://" not in str(root):
        return LocalFolder(Path(root))
    try:
        filesystem, path = FileSystem.from_uri(str(root))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ClusterError(
            f"Cannot open {shown(str(root))}: {urls_shown(str(error))}. Give a path, or a URI that pyarrow"
            " understands, such as s3://bucket/folder or gs://bucket/folder, with the credentials in the environment."
        ) from error
    if isinstance(filesystem, LocalFileSystem):
        return LocalFolder(Path(path))
    return RemoteFolder(str(root), filesystem, path)


class LocalFolder:
    """A folder on a file system with rename; `before_change` is called before anything is changed, and may raise."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.root = str(path)
        self.before_change: Callable[[], None] = lambda: None

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ClusterError(f"Cannot read {self.path / name}: {error.strerror}.") from error

    def write(self, name: str, content: bytes) -> None:
        self.before_change()
        path = self.path / name
        temporary = _temporary(path)
        try:
            self._make_folders(path.parent)
            try:
                with open(temporary, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
                _sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise _not_written(path, error) from error

    def append(self, name: str, line: bytes) -> None:
        self.before_change()
        path = self.path / name
        try:
            self._make_folders(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                size = os.fstat(descriptor).st_size
                try:
                    if os.write(descriptor, line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _not_written(path, error) from error

    def names(self, folder: str = "") -> list[str]:
        return sorted(path.relative_to(self.path).as_posix() for path in self._files(folder))

    def top_names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir() if path.is_file()) if self.path.is_dir() else []

    def remove(self, names: Sequence[str]) -> None:
        self.before_change()
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
            for folder in {(self.path / name).parent for name in names}:
                _sync_folder(folder)
        except OSError as error:
            raise _not_removed(error.filename, error) from error

    def replace(self, names: Sequence[str], name: str, content: bytes, check: Callable[[bytes | None], None]) -> None:
        self.before_change()
        path = (self.path / name).parent
        beside = LocalFolder(_temporary(self.path / path.name))  # not in a folder that readers search
        try:
            if {entry.name for entry in os.scandir(path)} != {Path(old).name for old in names}:
                _replace_one_by_one(self, names, name, content, check)
                return
            beside.write(Path(name).name, content)
            check(beside.read(Path(name).name))
            if _exchange(beside.path, path):
                _sync_folder(path.parent)
                _sync_folder(self.path)
            else:
                _replace_one_by_one(self, names, name, content, check)
        except OSError as error:
            raise _not_written(path, error) from error
        finally:
            shutil.rmtree(beside.path, ignore_errors=True)

    def sweep(self) -> None:
        for path in list(self.path.rglob(".*.tmp")):
            if not _TEMPORARY.match(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def room_bytes(self) -> int | None:
        there = next(place for place in (self.path, *self.path.parents) if place.exists())
        held = 0
        for file in self._files():
            with suppress(FileNotFoundError):
                held += file.stat().st_size
        return shutil.disk_usage(there).free + held

    def _files(self, folder: str = "") -> Iterator[Path]:
        for at, folders, names in os.walk(self.path / folder):
            folders[:] = [name for name in folders if not _TEMPORARY.match(name)]
            yield from (Path(at, name) for name in names if not _TEMPORARY.match(name))

    def _make_folders(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make_folders(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


class RemoteFolder:
    """A folder of an object store, which can neither rename nor append: a file is put as a whole each time.

    Requests that are not answered are repeated, see `Outages`.

    Attributes
    ----------
    filesystem : FileSystem
    outages : Outages
    before_change : callable
        Called before each attempt to change anything; raises if nothing may be changed.
    """

    def __init__(self, root: str, filesystem: FileSystem, path: str) -> None:
        self.root = root
        self.filesystem = filesystem
        self.outages = Outages(shown(root))
        self.before_change: Callable[[], None] = lambda: None
        self._path = path.rstrip("/")

    def read(self, name: str) -> bytes | None:
        return self._call("reading", name, lambda: self.get(name))

    def write(self, name: str, content: bytes) -> None:
        self._change("writing", name, lambda: self.put(name, content))

    def append(self, name: str, line: bytes) -> None:
        self.write(name, (self.read(name) or b"") + line)

    def names(self, folder: str = "") -> list[str]:
        return self._names(folder, recursive=True)

    def _names(self, folder: str, recursive: bool) -> list[str]:
        base = f"{self._path}/{folder}".rstrip("/")
        selector = FileSelector(base, allow_not_found=True, recursive=recursive)
        entries = self._call("listing", folder, lambda: self.filesystem.get_file_info(selector))
        return sorted(info.path.removeprefix(self._path + "/") for info in entries if info.is_file)

    def top_names(self) -> list[str]:
        return self._names("", recursive=False)

    def remove(self, names: Sequence[str]) -> None:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as requests:
            list(requests.map(lambda name: self._change("removing", name, lambda: self._delete(name)), names))

    def replace(self, names: Sequence[str], name: str, content: bytes, check: Callable[[bytes | None], None]) -> None:
        _replace_one_by_one(self, names, name, content, check)

    def sweep(self) -> None:
        """Nothing to do: an object that was not put completely does not appear."""

    def room_bytes(self) -> int | None:
        return None

    def get(self, name: str) -> bytes | None:
        """The content of a file, None when there is none; one attempt.

        Raises
        ------
        OSError
        """
        try:
            with self.filesystem.open_input_stream(f"{self._path}/{name}") as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Make or replace a file; one attempt, without `before_change`.

        Raises
        ------
        OSError
        """
        path = f"{self._path}/{name}"
        if self.filesystem.type_name not in WITHOUT_FOLDERS:
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(content)

    def _delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self._path}/{name}")

    def _change(self, doing: str, name: str, request: Callable[[], None]) -> None:
        def allowed() -> None:
            self.before_change()
            request()

        self._call(doing, name, allowed)

    def _call(self, doing: str, name: str, request: Callable[[], Result]) -> Result:
        try:
            return self.outages.call(f"{doing} {name or 'the folder'}", request)
        except OSError as error:
            raise refused(self.outages.root, f"{doing} {name or 'the folder'}", error) from error


def refused(root: str, doing: str, error: OSError) -> ClusterError:
    """Return what to say of a request that an object store has answered with no."""
    return ClusterError(
        f"{root}: {doing} failed: {reason_of(error)}. Check that the bucket exists and that the credentials allow this,"
        " and give the same command again. What was stored before is whole."
    )


def _replace_one_by_one(
    folder: Folder, names: Sequence[str], name: str, content: bytes, check: Callable[[bytes | None], None]
) -> None:
    folder.write(name, content)
    try:
        check(folder.read(name))
    except ClusterError:
        folder.remove([name])
        raise
    folder.remove(names)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders at once; False where the file system cannot (NFS, older kernels)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _RENAME_EXCHANGE):
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(descriptor)


def _not_written(path: str | Path, error: OSError) -> ClusterError:
    return ClusterError(
        f"Cannot write {path}: {error.strerror or error}. What was written before is whole. Make room, or"
        " make the folder writable, and give the same command again: it goes on from there."
    )


def _not_removed(path: str | Path, error: OSError) -> ClusterError:
    return ClusterError(
        f"Cannot remove {path}: {error.strerror or error}. Nothing is lost; make the folder writable and give"
        " the same command again."
    )
