"""The files below the folder that is served: never outside of it, and read again only when they have changed."""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pyarrow.fs import FileSelector

from neurofleet.cluster.store.lease import LOST_AFTER_S
from neurofleet.cluster.store.parts import files_of_parts
from neurofleet.cluster.store.run_store import LEASE, MARKER, RunStore
from neurofleet.errors import UsageError
from neurofleet.input_paths import shown
from neurofleet.jobs.results.folder_listing import FolderReader

SETTLED_S = 2.0
"""What has changed so recently is read again: a file system may give two changes one time."""

KEPT_BYTES = 64 * 2**20
LARGEST_KEPT_BYTES = 2**20

Signature = tuple[int, int, int]
"""Time of the last change in ns, size, inode."""


class OutsideRoot(UsageError):
    """A link leads out of the folder that is served."""


@dataclass(frozen=True)
class _Kept:
    signature: Signature
    content: object


class RootReader(FolderReader):
    """A folder reader for a server.

    Links that lead out of the folder are passed over in listings, and refused where one is named. On this machine,
    listings and small texts are kept and read again when their time of change or size is another.

    Parameters
    ----------
    root : str or Path
        A path, or its `pyarrow.fs` URI.

    Attributes
    ----------
    root : str
        As it is shown, without keys.
    uri : str
        As it was given.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self.uri, self.root = self.root, shown(self.root)  # the latter is for pages and messages
        self._real_root = os.path.realpath(self.path("")) if self._local else ""
        self._listings: dict[str, _Kept] = {}
        self._texts: dict[str, _Kept] = {}
        self._kept_bytes = 0

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine's file systems."""
        return self._local

    def folder(self, run: str) -> str:
        """Return where a run's folder is, a path or a URI."""
        if self._local:
            return self.path(run)
        place, mark, options = self.uri.partition("?")  # such as the address of a server of one's own
        return f"{place.rstrip('/')}/{run}".rstrip("/") + mark + options

    def refuse_outside(self, name: str) -> None:
        """Raise `OutsideRoot` where a file or folder is, behind its links, not below the root."""
        if self._local and not self._is_inside(self.path(name)):
            raise OutsideRoot(
                f"{name} is a link that leads out of {self.root}, which alone is served. Move what it points to "
                "below that folder, or start a server there."
            )

    def holds(self, path: Path) -> bool:
        """Whether a path of this machine is, behind its links, below the root."""
        return self._local and self._is_inside(str(path))

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and files in a folder, sorted, without links that lead out of the root."""
        if not self._local:
            return super().entries(folder)
        path = self.path(folder)
        signature = self._signature(path)
        kept = self._listings.get(folder)
        if kept is None or kept.signature != signature:
            kept = _Kept(signature, self._listed(path))
            self._keep(self._listings, folder, kept, path)
        folders, files = cast(tuple[list[str], list[str]], kept.content)
        return list(folders), list(files)

    def text(self, name: str) -> str | None:
        """Return the content of a text file, None where there is none.

        Raises
        ------
        OutsideRoot
        """
        if not self._local:
            return super().text(name)
        path = self.path(name)
        signature = self._signature(path)
        kept = self._texts.get(name)
        if kept is not None and kept.signature == signature:
            return cast(str, kept.content)
        self.refuse_outside(name)
        text = super().text(name)
        if text is not None and len(text) <= LARGEST_KEPT_BYTES:
            if self._kept_bytes > KEPT_BYTES:
                self._texts.clear()
                self._kept_bytes = 0
            self._kept_bytes += len(text)
            self._keep(self._texts, name, _Kept(signature, text), path)
        return text

    def signature(self, folder: str, beginnings: tuple[str, ...]) -> tuple[tuple[str, Signature], ...]:
        """Return what changes whenever one of some files in a folder does: those whose names begin so."""
        prefix = f"{folder}/" if folder else ""
        names = [name for name in self.entries(folder)[1] if name.startswith(beginnings)]
        if self._local:
            return tuple((name, self._signature(self.path(prefix + name))) for name in names)
        infos = self.filesystem.get_file_info([self.path(prefix + name) for name in names])
        return tuple((name, (info.mtime_ns or 0, info.size or 0, 0)) for name, info in zip(names, infos, strict=True))

    def holder(self, run: str) -> str:
        """Return which process is writing a run, as text; empty if none is.

        In an object store, where nobody can ask a lock, a driver is at work whose lease is young by the clocks of
        store and server.
        """
        files = self.entries(run)[1]
        if self._local:
            return RunStore(self.folder(run)).holder() if files_of_parts(MARKER, files) else ""
        leases = [f"{run}/{name}".lstrip("/") for name in files_of_parts(LEASE, files)]
        infos = self.filesystem.get_file_info(FileSelector(self.path(run))) if leases else []
        young = [i for i in infos if self.path(run) + "/" + i.base_name in {self.path(n) for n in leases}]
        now = time.time()
        return "a driver with a lease" if any(now - (i.mtime_ns or 0) / 1e9 < LOST_AFTER_S for i in young) else ""

    def _listed(self, path: str) -> tuple[list[str], list[str]]:
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_symlink() and not self._is_inside(entry.path):
                        continue
                    (files if entry.is_file() else folders).append(entry.name)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return [], []
        return sorted(folders), sorted(files)

    def _is_inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self._real_root or real.startswith(self._real_root.rstrip("/") + "/")

    def _signature(self, path: str) -> Signature:
        try:
            found = os.stat(path)
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, 0 if stat.S_ISDIR(found.st_mode) else found.st_size, found.st_ino)

    def _keep(self, kept: dict[str, _Kept], name: str, what: _Kept, path: str) -> None:
        """Keep what was read, unless it changed just now or while it was read."""
        if time.time() - what.signature[0] / 1e9 > SETTLED_S and self._signature(path) == what.signature:
            kept[name] = what
        else:
            kept.pop(name, None)
