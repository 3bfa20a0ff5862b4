"""Compaction: the many small files of finished fits merged into one for each cell, stage and seed.

The order is: write the merged file whole, read it back, compare each generation in it with its part by row
count and checksum, and only then remove the parts. A merged file wins over the parts of its generations (see
`cluster.generation_files`), so readers are right at every moment between, and what a killed compaction left
undone the next one does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import ClusterError
from cluster.folder import Folder
from cluster.generation_files import EVALUATIONS, FitKey, GenerationFiles, evaluation_files, read_tables

ROWS_IN_GROUP = 8192
"""With a row group for each generation, a footer of megabytes would eat most of what is saved."""

READERS = 16


@dataclass
class Compaction:
    """What a compaction did.

    Attributes
    ----------
    files_before, files_after, bytes_before, bytes_after : int
        Of the files that it read or wrote.
    unfinished : dict of str to int
        Cell -> its files, left alone because the cell has no pooled hall of fame yet.
    failed : dict of str to str
        Folder of a stage and seed -> why parts of it are still there.
    """

    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    unfinished: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


class _Sum(NamedTuple):
    """What two copies of a generation are compared by."""

    rows: int
    sha256: str


def compact(
    folder: Folder,
    finished: Iterable[str],
    may_change: Callable[[], None],
    watch: Callable[[int, int], None],
) -> Compaction:
    """Merge the generation files of finished cells. One that cannot be merged stays, and the others go on.

    Parameters
    ----------
    folder : Folder
        Of a run that the caller has locked.
    finished : iterable of str
        Cells that get no further generations.
    may_change : callable
        Called before anything is changed; raises if another driver has taken over the run.
    watch : callable
        Called with how many stages and seeds are done, and of how many.
    """
    done = Compaction()
    cells = set(finished)
    todo = {}
    for key, files in evaluation_files(folder.names(EVALUATIONS)).items():
        if key.cell not in cells:
            done.unfinished[key.cell] = done.unfinished.get(key.cell, 0) + len(files)
        elif len(files.unmerged()) > 1 or len(files.parts) > len(files.unmerged()):
            todo[key] = files
    with ThreadPoolExecutor(READERS) as readers:
        for number, (key, files) in enumerate(todo.items()):
            watch(number, len(todo))
            may_change()
            try:
                _Merger(folder, key, readers, may_change, done).merge(files)
            except ClusterError as error:
                done.failed[key.folder] = str(error)
    watch(len(todo), len(todo))
    return done


class _Merger:
    """Merges the parts of one stage and seed."""

    def __init__(
        self,
        folder: Folder,
        key: FitKey,
        readers: ThreadPoolExecutor,
        may_change: Callable[[], None],
        done: Compaction,
    ) -> None:
        self._folder = folder
        self._key = key
        self._readers = readers
        self._may_change = may_change
        self._done = done
        self._sums: dict[int, _Sum] = {}
        self._bytes: dict[str, int] = {}

    def merge(self, files: GenerationFiles) -> None:
        """Merge what is not merged yet, and remove all parts that are."""
        files.check_whole(f"{self._folder.root}/{self._key.folder}")
        before = set(files.merged.values())
        new = files.unmerged()
        if len(new) > 1:
            held, content = range(min(new), max(new) + 1), self._merged(new)
            files.merged[held] = self._key.merged(held)
            self._may_change()
            self._folder.write(files.merged[held], content)
        for held, name in files.merged.items():
            parts = {number: part for number, part in files.parts.items() if number in held}
            if parts:
                self._verify(held, name, parts)
                self._may_change()
                self._folder.remove(list(parts.values()))
                gone = [*parts.values(), *before & {name}]
                self._done.files_before += len(gone)
                self._done.bytes_before += sum(self._bytes[part] for part in gone)
                self._done.files_after += 1
                self._done.bytes_after += self._bytes[name]

    def _merged(self, parts: Mapping[int, str]) -> bytes:
        """Read parts and return the content of the file that holds them all."""
        tables = self._read_parts(parts)
        first, *others = parts.values()
        for name, table in zip(others, tables[1:], strict=True):
            if not table.schema.equals(tables[0].schema, check_metadata=True):
                raise ClusterError(
                    f"{self._folder.root}/{name} has other columns than {first}, so one file cannot"
                    " hold both. All generations of this stage and seed stay as they are."
                )
        sink = pa.BufferOutputStream()
        pq.write_table(
            pa.concat_tables(tables).unify_dictionaries(),
            sink,
            row_group_size=ROWS_IN_GROUP,
            compression="zstd",
            use_dictionary=[f.name for f in tables[0].schema if pa.types.is_dictionary(f.type)],
            write_page_checksum=True,
        )
        return sink.getvalue().to_pybytes()

    def _verify(self, held: range, name: str, parts: Mapping[int, str]) -> None:
        """Compare a merged file, as it is stored, with its parts; remove it if they can replace it."""
        self._read_parts({number: part for number, part in parts.items() if number not in self._sums})
        try:
            tables = self._read(name, held, self._folder.read(name))
            sums = dict(zip(held, map(_sum, tables), strict=True))
            wrong = [number for number in parts if sums[number] != self._sums[number]]
            if wrong:
                raise ClusterError(
                    f"{self._folder.root}/{name} should hold what its parts hold, and does not: row count or"
                    f" checksum differ in generation {wrong[0]} ({len(wrong)} of {len(parts)} differ)."
                )
        except ClusterError as error:
            if len(parts) < len(held):
                raise ClusterError(
                    f"{error} Some of its parts were removed when it was right, so it was damaged since. Put"
                    " back a good copy of it; the parts that are left stay."
                ) from error
            self._may_change()
            self._folder.remove([name])
            raise ClusterError(
                f"{error} The merged file was removed, all parts stay. Check the disk and compact again."
            ) from error

    def _read_parts(self, parts: Mapping[int, str]) -> list[pa.Table]:
        """Read parts and note their sums."""
        tables = []
        contents = self._readers.map(self._folder.read, parts.values())
        for (number, name), content in zip(parts.items(), contents, strict=True):
            (table,) = self._read(name, range(number, number + 1), content)
            self._sums[number] = _sum(table)
            tables.append(table)
        return tables

    def _read(self, name: str, held: range, content: bytes | None) -> list[pa.Table]:
        self._bytes[name] = len(content or b"")
        return read_tables(f"{self._folder.root}/{name}", content, held)


def _sum(table: pa.Table) -> _Sum:
    """Row count, and SHA-256 over the columns' names, types and values, however they are chunked."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.drop_null()
        digest.update(json.dumps([name, str(column.type)]).encode())
        digest.update(column.is_null().to_numpy().tobytes())
        if pa.types.is_primitive(column.type):
            digest.update(values.to_numpy().tobytes())
        else:
            digest.update(json.dumps(values.to_pylist()).encode())
    return _Sum(len(table), digest.hexdigest())
