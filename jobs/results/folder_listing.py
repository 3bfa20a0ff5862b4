"""The files below a folder, on this machine or behind a `pyarrow.fs` URI; nothing is written."""

import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from neurofleet.cluster.store.folders import REQUESTS_AT_ONCE, open_folder
from neurofleet.cluster.store.schemas import check_version
from neurofleet.errors import ClusterError, JobError

KIND = b"neurofleet_table"

Read = TypeVar("Read")

ATTEMPTS = 5
_GONE = re.compile(r"No such file|FileNotFoundError|was there and is gone|NoSuchKey|404", re.IGNORECASE)


def read_again_if_gone(read: Callable[[], Read], list_again: Callable[[], object] = lambda: None) -> Read:
    """Return what `read` returns; when it finds that a file has gone, list the files and read again, a few times.

    The generations of a fit under way become one file whenever one of its stages ends.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return read()
        except Exception as error:  # of DuckDB, pyarrow or our own
            if not _GONE.search(str(error)):
                raise
        list_again()
    return read()


class FolderReader:
    """A folder whose files are read. Names are relative to it, with forward slashes.

    Parameters
    ----------
    root : str or Path
        A path, or its `pyarrow.fs` URI.
    """

    def __init__(self, root: str | Path) -> None:
        self._folder = open_folder(root)
        self.root = str(root)
        self.filesystem, base = file_system(root)
        self._base = base.rstrip("/")
        self._local = isinstance(self.filesystem, LocalFileSystem)

    def path(self, name: str) -> str:
        """Return where a file is, as the file system knows it."""
        return f"{self._base}/{name}".rstrip("/")

    def full_name(self, name: str) -> str:
        """Return where a file is, for messages."""
        return f"{self.root.rstrip('/')}/{name}"

    def identity(self, folder: str) -> str:
        """Return what two ways to one folder have in common."""
        return os.path.realpath(self.path(folder)) if self._local else folder

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and files in a folder, sorted; nothing where there is none."""
        try:
            infos = self.filesystem.get_file_info(FileSelector(self.path(folder), allow_not_found=True))
        except NotADirectoryError:
            return [], []
        except OSError as error:
            raise ClusterError(f"Cannot list {self.full_name(folder)}: {error}.") from error
        folders = sorted(info.base_name for info in infos if not info.is_file)
        return folders, sorted(info.base_name for info in infos if info.is_file)

    def names(self, folder: str) -> list[str]:
        """Return all files below a folder."""
        return self._folder.names(folder)

    def text(self, name: str) -> str | None:
        """Return the content of a text file, None where there is none."""
        content = self._folder.read(name)
        return None if content is None else content.decode(errors="replace")

    def schema(self, name: str, kind: str | None = None) -> "pa.Schema":
        """Return the columns of a Parquet file, with its metadata.

        Parameters
        ----------
        kind : str, optional
            What it has to be by its own words.

        Raises
        ------
        JobError
            It cannot be read.
        ClusterError
            It is of another kind, or newer than this program.
        """
        try:
            schema = pq.read_schema(self.path(name), filesystem=self.filesystem)
        except (pa.ArrowException, OSError) as error:
            raise JobError(f"{self._unreadable(name, error)}") from error
        declared_kind = (schema.metadata or {}).get(KIND)
        says = kind or (declared_kind.decode() if declared_kind else None)
        if says:
            try:
                check_version(schema, says)
            except ClusterError as error:
                raise ClusterError(f"{self.full_name(name)}: {error}") from error
        return schema

    def schemas(self, files: Iterable[tuple[str, str | None]]) -> "list[pa.Schema]":
        """Return the columns of many files, of which names and kinds are given; several requests at once."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as requests:
            return list(requests.map(lambda file: self.schema(*file), files))

    def dataset(self, names: Iterable[str], schema: "pa.Schema", known: Iterable[Any]) -> Any:
        """Return files as one dataset; of each file, `known` says which columns have which value."""
        return ds.FileSystemDataset.from_paths(
            [self.path(name) for name in names],
            schema=schema,
            format=ds.ParquetFileFormat(),
            filesystem=self.filesystem,
            partitions=list(known),
        )

    def refuse_damaged(self, names: Iterable[str]) -> None:
        """Read files as a whole, and raise JobError with the first that cannot be."""
        for name in names:
            try:
                with self.filesystem.open_input_file(self.path(name)) as source:
                    for _ in pq.ParquetFile(source).iter_batches():
                        pass
            except (pa.ArrowException, OSError) as error:
                raise JobError(self._unreadable(name, error)) from error

    def _unreadable(self, name: str, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return (
                f"{self.full_name(name)} was there and is gone: somebody has removed it, or it was merged with "
                "others at this moment. Give the command again."
            )
        again = "(and later generations) " if "/evaluations/" in f"/{name}" else ""
        return (
            f"{self.full_name(name)}: cannot be read as Parquet ({error}). Put back a good copy, or remove it "
            f"{again}and run the job again."
        )


def file_system(root: str | Path) -> tuple[Any, str]:
    """Return the file system of a path or URI, and where the root is in it."""
    if "://" in str(root):
        return FileSystem.from_uri(str(root))
    return LocalFileSystem(), str(Path(root).absolute())
