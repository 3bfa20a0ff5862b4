"""The files of evaluations: one per generation of a search under way, one of a search that is finished.

``OUT/evaluations/cell=ID/stage=NAME/seed=N/generation-00012.parquet``: a part, one generation.
``OUT/evaluations/cell=ID/stage=NAME/seed=N/generations-00000-00199.parquet``: a merged file, the generations
from the first to the last number in its name, sorted by generation and individual.

A merged file is written beside the folder, read back, and compared with its parts, value by value. Then the two folders
are exchanged, in one step: whoever lists the folder finds all parts or the merged file.

Object stores, and file systems such as NFS, cannot exchange folders: there the merged file is put beside its parts,
which are then removed. It has precedence: a part whose generation lies in its range is not read by us. DuckDB and
pandas see both until the parts are gone; if the driver was killed between, until the next start or compaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neurofleet.cluster.store.folders import Folder
from neurofleet.cluster.store.map_columns import dictionary_columns, unfold
from neurofleet.cluster.store.schemas import EVALUATIONS, check_version
from neurofleet.errors import ClusterError

_FOLDER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
_FILE = re.compile(
    rf"^{EVALUATIONS}/cell=(?P<cell>[^/]+)/stage=(?P<stage>[^/]+)/seed=(?P<seed>\d+)/"
    r"(?:generation-(?P<part>\d{5})|generations-(?P<first>\d{5})-(?P<last>\d{5}))\.parquet$"
)


class FitKey(NamedTuple):
    """One stage of one cell with one seed."""

    cell: str
    stage: str
    seed: int

    @property
    def folder(self) -> str:
        """Where its evaluations are, from the run's folder.

        Raises
        ------
        ClusterError
            If the cell or the stage cannot be a folder's name.
        """
        cell, stage = checked_folder_name(self.cell), checked_folder_name(self.stage)
        return f"{EVALUATIONS}/cell={cell}/stage={stage}/seed={int(self.seed)}"

    def part(self, generation: int) -> str:
        """The name of the file of one generation."""
        return f"{self.folder}/generation-{generation:05d}.parquet"

    def merged(self, generations: range) -> str:
        """The name of the file of several generations."""
        return f"{self.folder}/generations-{generations[0]:05d}-{generations[-1]:05d}.parquet"


@dataclass
class GenerationFiles:
    """The files of one stage and seed.

    Attributes
    ----------
    parts : dict of int to str
        Generation -> name.
    merged : dict of range to str
        Generations -> name.
    """

    parts: dict[int, str] = field(default_factory=dict)
    merged: dict[range, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.parts) + len(self.merged)

    def to_read(self) -> list[tuple[range, str]]:
        """The files that a reader reads, with the generations each should hold, in their order."""
        alone = [(range(number, number + 1), name) for number, name in self.unmerged().items()]
        return sorted([*self.merged.items(), *alone], key=lambda file: file[0].start)

    def unmerged(self) -> dict[int, str]:
        """The parts that no merged file holds."""
        return {
            n: self.parts[n] for n in sorted(self.parts) if not any(n in generations for generations in self.merged)
        }

    def check_whole(self, folder: str) -> None:
        """Raise `ClusterError` if a generation is missing before the last, or two merged files overlap."""
        expected = 0
        for numbers, name in self.to_read():
            if numbers.start > expected:
                raise ClusterError(
                    f"{folder} holds generation {numbers.start} but not {expected}. Generations build on each"
                    " other: put the missing file back, or remove the later ones to have them computed again."
                )
            if numbers.start < expected:
                raise ClusterError(
                    f"{folder}/{name.rpartition('/')[2]} begins before the file before it ends. A file was"
                    " renamed or copied: remove the one that is too many."
                )
            expected = numbers.stop


def evaluation_files(names: Iterable[str]) -> dict[FitKey, GenerationFiles]:
    """Sort names of files by cell, stage and seed; those that hold no evaluations are ignored."""
    by_fit: dict[FitKey, GenerationFiles] = {}
    for name in sorted(names):
        if match := _FILE.match(name):
            files = by_fit.setdefault(FitKey(match["cell"], match["stage"], int(match["seed"])), GenerationFiles())
            if match["part"]:
                files.parts[int(match["part"])] = name
            else:
                files.merged[range(int(match["first"]), int(match["last"]) + 1)] = name
    return by_fit


def read_tables(name: str, content: bytes | None, generations: range) -> list[pa.Table]:
    """Read the content of a file of evaluations: a table for each generation.

    Parameters
    ----------
    name : str
        For messages.
    content : bytes or None
        None if the file is gone.
    generations : range
        The generations it should hold.

    Raises
    ------
    ClusterError
        If it cannot be read, or holds others.
    """
    if content is None:
        raise ClusterError(
            f"{name} was there and is gone. It was removed, or merged with others at this very moment."
            " Give the command again."
        )
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read(use_threads=False)  # small files: threads cost more than they save
        check_version(table.schema, EVALUATIONS)
    except ClusterError as error:
        raise ClusterError(f"{name}: {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise ClusterError(
            f"Cannot read {name}: {error}. Put back a good copy, or remove it (and later generations) to have"
            " it computed again."
        ) from error
    numbers = table["generation"].to_numpy()
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    present = numbers[starts].tolist()
    if present != list(generations):
        raise ClusterError(
            f"{name} holds {_generations(present)}; by its name it should hold {_generations(list(generations))}."
            " A file was renamed or copied; put the right one back."
        )
    return [table.slice(a, b - a) for a, b in zip(starts, [*starts[1:], len(table)], strict=True)]


def _generations(numbers: list[int]) -> str:
    if len(numbers) < 2:
        return f"generation {numbers[0]}" if numbers else "no generation"
    return f"{len(numbers)} generations from {numbers[0]} to {numbers[-1]}"


def checked_folder_name(name: str) -> str:
    """Return a cell's or stage's name if a folder may have it.

    Raises
    ------
    ClusterError
    """
    if not _FOLDER_NAME.match(name):
        raise ClusterError(
            f"{name!r} names a folder of results, so it should be letters, digits and ._+- only, and begin"
            " with a letter or digit. Give the cell or stage another name."
        )
    return name


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


def compact(
    folder: Folder,
    finished: Iterable[str],
    may_change: Callable[[], None],
    progress: Callable[[int, int], None],
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
    progress : callable
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
            progress(number, len(todo))
            may_change()
            try:
                _Merger(folder, key, readers, may_change, done).merge(files)
            except ClusterError as error:
                done.failed[key.folder] = str(error)
    progress(len(todo), len(todo))
    return done


def merge_generations(folder: Folder, key: FitKey, may_change: Callable[[], None]) -> None:
    """Merge the generation files of one stage and seed that gets no further generations.

    Raises
    ------
    ClusterError
        They cannot be merged; all are still there.
    """
    files = evaluation_files(folder.names(key.folder)).get(key, GenerationFiles())
    with ThreadPoolExecutor(READERS) as readers:
        _Merger(folder, key, readers, may_change, Compaction()).merge(files)


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
        self._bytes: dict[str, int] = {}

    def merge(self, files: GenerationFiles) -> None:
        """Merge what is not merged yet, and remove all parts that are."""
        files.check_whole(f"{self._folder.root}/{self._key.folder}")
        for generations, name in files.merged.items():
            if parts := {number: part for number, part in files.parts.items() if number in generations}:
                self._remove_merged_parts(generations, name, parts)
        new = files.unmerged()
        if len(new) > 1:
            generations, table = range(min(new), max(new) + 1), self._read_parts(new)
            name = self._key.merged(generations)
            self._may_change()
            check = partial(self._verify, generations, name, list(new), table)
            self._folder.replace(list(new.values()), name, _merged(table), check)
            self._count(new.values(), name)

    def _remove_merged_parts(self, generations: range, name: str, parts: Mapping[int, str]) -> None:
        """Remove parts that are merged already: a compaction was stopped before it had removed them."""
        table = self._read_parts(parts)
        try:
            self._verify(generations, name, list(parts), table, self._folder.read(name))
        except ClusterError:
            if len(parts) == len(generations):
                self._may_change()
                self._folder.remove([name])
            raise
        self._may_change()
        self._folder.remove(list(parts.values()))
        self._count([*parts.values(), name], name)

    def _count(self, gone: Iterable[str], name: str) -> None:
        sizes = [self._bytes[part] for part in gone]
        self._done.files_before += len(sizes)
        self._done.bytes_before += sum(sizes)
        self._done.files_after += 1
        self._done.bytes_after += self._bytes[name]

    def _verify(
        self, generations: range, name: str, parts: Sequence[int], table: pa.Table, stored: bytes | None
    ) -> None:
        """Compare a merged file, as it is stored, with the table of its parts, or of those that are left."""
        try:
            held = dict(zip(generations, self._read(name, generations, stored), strict=True))
            wrong = _differing(table, pa.concat_tables([held[number] for number in parts]))
            if wrong:
                raise ClusterError(
                    f"{self._folder.root}/{name} should hold what its parts hold, and does not: row count or"
                    f" values differ in generation {wrong[0]} ({len(wrong)} of {len(parts)} differ)."
                )
        except ClusterError as error:
            if len(parts) < len(generations):
                raise ClusterError(
                    f"{error} Some of its parts were removed when it was right, so it was damaged since. Put"
                    " back a good copy of it; the parts that are left stay."
                ) from error
            raise ClusterError(
                f"{error} The merged file is not kept, all parts stay. Check the disk and compact again."
            ) from error

    def _read_parts(self, parts: Mapping[int, str]) -> pa.Table:
        """Return the rows of parts, in their order."""
        contents = self._readers.map(self._folder.read, parts.values())
        first = next(iter(parts.values()))
        tables: list[pa.Table] = []
        for (number, name), content in zip(parts.items(), contents, strict=True):
            tables += self._read(name, range(number, number + 1), content)
            if not tables[-1].schema.equals(tables[0].schema, check_metadata=True):
                raise ClusterError(
                    f"{self._folder.root}/{name} has other columns than {first}, so one file cannot"
                    " hold both. All generations of this stage and seed stay as they are."
                )
        return pa.concat_tables(tables).unify_dictionaries()

    def _read(self, name: str, generations: range, content: bytes | None) -> list[pa.Table]:
        self._bytes[name] = len(content or b"")
        return read_tables(f"{self._folder.root}/{name}", content, generations)


def _merged(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROWS_IN_GROUP,
        compression="zstd",
        use_dictionary=dictionary_columns(table.schema),
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def _differing(one: pa.Table, other: pa.Table) -> list[int]:
    """Return the generations of which two tables do not hold the same rows, to the last bit."""
    one, other = unfold(one), unfold(other)
    numbers, rows = np.unique(one["generation"].to_numpy(), return_counts=True)
    others, other_rows = np.unique(other["generation"].to_numpy(), return_counts=True)
    if not one.schema.equals(other.schema) or not np.array_equal(numbers, others):
        return numbers.tolist()
    if not np.array_equal(rows, other_rows):
        return numbers[rows != other_rows].tolist()
    different = np.zeros(len(one), bool)
    for column, copy in zip(one.columns, other.columns, strict=True):
        if pa.types.is_primitive(column.type):
            different |= (_bytes_of(column) != _bytes_of(copy)).any(axis=1)
        else:
            different |= pc.not_equal(column.cast(pa.string()), copy.cast(pa.string())).to_numpy()
    return np.unique(one["generation"].to_numpy()[different]).tolist()


def _bytes_of(column: pa.ChunkedArray) -> np.ndarray:
    values = np.ascontiguousarray(column.to_numpy())
    return values.view(np.uint8).reshape(len(values), -1)
