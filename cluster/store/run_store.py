"""The results of a run: one folder of Parquet, JSON and YAML, which can be read without neurofleet.

``OUT/job.yaml  provenance.json  events.jsonl``
``OUT/evaluations/cell=ID/stage=NAME/seed=N/generation-00012.parquet``, merged once the stage is finished
``OUT/hall_of_fame/cell=ID/seed=N.parquet``
``OUT/pooled/cell=ID/part.parquet``: the halls of fame of all seeds together

All files of one of these tables have one schema (`neurofleet.cluster.store.schemas`), so that any reader of Parquet
takes the folder as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from neurofleet.cluster.store.folders import LocalFolder, RemoteFolder, open_folder
from neurofleet.cluster.store.generations import (
    EVALUATIONS,
    Compaction,
    FitKey,
    GenerationFiles,
    checked_folder_name,
    compact,
    evaluation_files,
    merge_generations,
    read_tables,
)
from neurofleet.cluster.store.lease import Lease, file_lock, lock_holder, removed
from neurofleet.cluster.store.map_columns import dictionary_columns, unfold
from neurofleet.cluster.store.parts import WHOLE, Part, files_of_parts
from neurofleet.cluster.store.schemas import (
    SCHEMA_VERSION,
    Evaluations,
    HallOfFameRows,
    schema_version,
    uniform,
    wide_table,
)
from neurofleet.errors import ClusterError, RunFolderRefused

Rows = TypeVar("Rows", Evaluations, HallOfFameRows)

MARKER = ".neurofleet-run"
LEASE = "lease.json"
JOB = "job.yaml"
EVENTS = "events.jsonl"
HALLS_OF_FAME = "hall_of_fame"
POOLED = "pooled"

_HALL_OF_FAME_FILE = re.compile(rf"^{HALLS_OF_FAME}/cell=([^/]+)/seed=(\d+)\.parquet$")
_POOLED_FILE = re.compile(rf"^(?:{POOLED}/cell=([^/]+)/part|{HALLS_OF_FAME}/cell=([^/]+)/{POOLED})\.parquet$")
"""Where version 1 of the schemas had it, too."""


class RunStore:
    """The folder of one run.

    It can be read at any time. A process that writes evaluations holds `locked` meanwhile.

    Parameters
    ----------
    root : str or Path
        A path, or a URI that `pyarrow.fs` understands.
    part : Part
        Which part of the run this process is the driver of. It has events, status and lock of its own; what is read is
        of all parts.

    Attributes
    ----------
    parameters : sequence of str
        Those of all cells of the run, which each file of evaluations and each hall of fame that is written has a
        column for. Where it is empty, a file has those of its own cell and stage.
    """

    def __init__(self, root: str | Path, part: Part = WHOLE) -> None:
        self.parameters: Sequence[str] = ()
        self._folder = open_folder(root)
        self.part = part
        self._confirm: Callable[[], None] = lambda: None

    @property
    def root(self) -> str:
        return self._folder.root

    def room_bytes(self) -> int | None:
        """Return how large this run may grow on its disk, what it holds already included; None if unknown."""
        return self._folder.room_bytes()

    def holder(self) -> str:
        """Return which processes are writing this run, as text; empty if none is."""
        return "; ".join(holder for holder in self._holders(lambda part: True) if holder)

    @contextmanager
    def locked(self, wait_s: float | None = None, may_wait: Callable[[], bool] = lambda: True) -> Iterator[RunStore]:
        """Be the only driver of this run or part, and remove temporary files of one that was killed.

        Parameters
        ----------
        wait_s : float, optional
            How long to wait for an object store that does not answer meanwhile; by default as long as outside.
        may_wait : callable
            Returns whether to go on waiting.

        Raises
        ------
        RunFolderRefused
            If the folder holds something that is not a run, or another driver is writing it, or it is divided into
            another number of parts.
        StorageUnreachable
            If the object store does not answer; at the beginning, no more than some seconds are waited.
        """
        with ExitStack() as stack:
            if isinstance(self._folder, LocalFolder):
                self._lock_folder(self._folder, stack)
            else:
                assert isinstance(self._folder, RemoteFolder)
                self._lease_folder(self._folder, wait_s, may_wait, stack)
            for holder in self._holders(lambda part: part.of != self.part.of):
                if holder:
                    raise RunFolderRefused(
                        f"The run in {self.root} is being written by a driver of another number of parts ({holder})."
                        " Divide it among all drivers by the same number, or wait until that one has ended."
                    )
            if isinstance(self._folder, LocalFolder) and not any(self._holders(lambda part: part != self.part)):
                self._folder.sweep()
            self._drop_torn_event()
            yield self

    def _lock_folder(self, folder: LocalFolder, stack: ExitStack) -> None:
        try:
            self._refuse_other_content()
            folder.path.mkdir(parents=True, exist_ok=True)
            is_there = stack.enter_context(file_lock(folder.path / self.part.file(MARKER), self.root))
        except OSError as error:
            raise ClusterError(
                f"Cannot write in {self.root}: {error.strerror}. Give another folder with --out."
            ) from error
        had_job = False

        def refuse_removed() -> None:
            nonlocal had_job
            has_job = (folder.path / JOB).exists()
            if not is_there() or (had_job and not has_job):
                raise ClusterError(removed(self.root))
            had_job = has_job

        stack.callback(setattr, folder, "before_change", folder.before_change)
        folder.before_change = self._confirm = refuse_removed

    def _lease_folder(
        self, folder: RemoteFolder, wait_s: float | None, may_wait: Callable[[], bool], stack: ExitStack
    ) -> None:
        outages = folder.outages
        stack.callback(setattr, outages, "wait_s", outages.wait_s)
        stack.callback(setattr, folder, "before_change", folder.before_change)
        outages.may_wait = may_wait
        self._refuse_other_content()
        lease = Lease(folder, self.part.file(LEASE))
        stack.enter_context(lease.held())
        if wait_s is not None:
            outages.wait_s = wait_s
        folder.before_change = lease.check

        def renew() -> None:
            outages.call(f"renewing {LEASE}", lease.renew)
            lease.check()

        self._confirm = renew

    def _holders(self, concerns: Callable[[Part], bool]) -> Iterator[str]:
        """Return who holds the locks or leases of some parts, as text; empty where nobody does."""
        if isinstance(self._folder, LocalFolder):
            path = self._folder.path
            names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
            for name in files_of_parts(MARKER, names):
                if concerns(Part.in_name(name)):
                    yield lock_holder(path / name)
            return
        assert isinstance(self._folder, RemoteFolder)
        for name in files_of_parts(LEASE, self._folder.top_names()):
            if concerns(Part.in_name(name)):
                yield Lease(self._folder, name).holder()

    def check_whole(self) -> None:
        """Make sure, in the block of `locked`, that the run's folder is still there.

        Raises
        ------
        ClusterError
            If it was removed or moved, or another driver has taken it over.
        """
        self._confirm()
        if self._folder.read(JOB) is None:
            raise ClusterError(removed(self.root))

    def write_generation(self, cell: str, stage: str, seed: int, evaluations: Evaluations) -> None:
        """Store one generation, completely or not at all; it is on disk when this returns.

        The same evaluations give the same bytes, so writing a generation again changes nothing.
        """
        name = FitKey(cell, stage, seed).part(evaluations.generation)
        self._folder.write(name, _parquet(evaluations.to_table(self.parameters), for_a_while=True))

    def read_generations(self, cell: str, stage: str, seed: int) -> list[Evaluations]:
        """All stored generations of one stage and seed, in order from generation 0.

        Raises
        ------
        ClusterError
            If one is missing before the last, or cannot be read.
        """
        key = FitKey(cell, stage, seed)
        files = evaluation_files(self._folder.names(key.folder)).get(key, GenerationFiles())
        files.check_whole(f"{self.root}/{key.folder}")
        return [
            self._from_table(name, Evaluations, table)
            for generations, name in files.to_read()
            for table in read_tables(f"{self.root}/{name}", self._folder.read(name), generations)
        ]

    def stored(self) -> list[FitKey]:
        """Every (cell, stage, seed) that has evaluations."""
        return sorted(evaluation_files(self._folder.names(EVALUATIONS)))

    def spent_seconds(self, cell: str) -> float:
        """Return the summed time of a cell's stored evaluations."""
        stored = evaluation_files(self._folder.names(f"{EVALUATIONS}/cell={checked_folder_name(cell)}"))
        names = [name for files in stored.values() for _, name in files.to_read()]
        tables = [self.table(name, ["seconds"]) for name in names]
        return float(sum(table["seconds"].to_numpy().sum() for table in tables if table is not None))

    def merge_generations(self, cell: str, stage: str, seed: int) -> None:
        """Make one file of the generations of a stage and seed that is finished, at once for all readers.

        Where the storage cannot do it at once, see `neurofleet.cluster.store.generations`.

        Raises
        ------
        ClusterError
            They cannot be merged; all are still there.
        """
        merge_generations(self._folder, FitKey(cell, stage, seed), self._confirm)

    def compact(self, progress: Callable[[int, int], None] = lambda done, of: None) -> Compaction:
        """Merge the generation files of the cells that have a pooled hall of fame.

        See `neurofleet.cluster.store.generations`.

        The caller holds the run with `locked`. `progress` is called with how many stages and seeds are done, and of
        how many.
        """
        finished = [cell for cell, seed in self.halls_of_fame() if seed == POOLED]
        return compact(self._folder, finished, self._confirm, progress)

    def write_hall_of_fame(self, rows: HallOfFameRows, seed: int | str) -> None:
        """Store a cell's hall of fame: of one seed, or of all with seed ``"pooled"``."""
        self._folder.write(_hall_of_fame(rows.cell, seed), _parquet(rows.to_table(self.parameters)))

    def read_hall_of_fame(self, cell: str, seed: int | str = POOLED) -> HallOfFameRows | None:
        """A cell's hall of fame, None when it has none yet."""
        table = self.hall_of_fame_table(cell, seed)
        return None if table is None else self._from_table(_hall_of_fame(cell, seed), HallOfFameRows, table)

    def hall_of_fame_table(self, cell: str, seed: int | str = POOLED) -> pa.Table | None:
        """The same as a table, with the columns ``cell``, ``param.<name>`` … and ``score.<objective>`` …"""
        table = self.table(_hall_of_fame(cell, seed))
        if table is None and seed == POOLED:
            table = self.table(f"{HALLS_OF_FAME}/cell={cell}/{POOLED}.parquet")  # of version 1
        return None if table is None else wide_table(table)

    def halls_of_fame(self) -> list[tuple[str, int | str]]:
        """Every (cell, seed) that has a hall of fame; seed ``"pooled"`` once the cell is finished."""
        names = self._folder.names(HALLS_OF_FAME)
        halls: list[tuple[str, int | str]] = [(m[1], int(m[2])) for m in map(_HALL_OF_FAME_FILE.match, names) if m]
        pooled = map(_POOLED_FILE.match, [*names, *self._folder.names(POOLED)])
        return halls + [(m[1] or m[2], POOLED) for m in pooled if m]

    def upgrade(self) -> None:
        """Write evaluations and halls of fame of an older version of the schemas again, as they are written today.

        A run that was begun by an older neurofleet and goes on then has one schema too. The caller holds the run with
        `locked`, and has set `parameters`.
        """
        halls = [name for name in self._folder.names(HALLS_OF_FAME) if name.endswith(".parquet")]
        names = sorted(name for name in self._folder.names(EVALUATIONS) if name.endswith(".parquet")) + sorted(halls)
        if not names or not self._is_older(names[0]):
            return
        for name in reversed(names):  # so the first one is the last: a killed upgrade begins again
            if self._is_older(name):
                table = self.table(name)
                assert table is not None
                old = _POOLED_FILE.match(name)
                self._folder.write(
                    _hall_of_fame(old[2], POOLED) if old else name, _parquet(uniform(table, self.parameters))
                )
                if old:
                    self._folder.remove([name])

    def _is_older(self, name: str) -> bool:
        schema = pq.read_schema(pa.BufferReader(self._folder.read(name) or b""))
        return schema_version(schema) < SCHEMA_VERSION

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table | None:
        """A Parquet file of the run as a table, None when there is none; maps that `fold` made are columns again."""
        content = self._folder.read(name)
        if content is None:
            return None
        try:
            table = pq.read_table(pa.BufferReader(content), columns=columns)
            return table if columns else unfold(table)
        except (pa.ArrowException, OSError) as error:
            raise ClusterError(
                f"Cannot read {self.root}/{name}: {error}. Put back a good copy, or remove it and run the job"
                " again to have it computed again."
            ) from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Store a table as the Parquet file `name`, completely or not at all."""
        self._folder.write(name, _parquet(table))

    def names(self, folder: str = "") -> list[str]:
        """The files of the run below a folder of it, by their names in the run."""
        return self._folder.names(folder)

    def append_event(self, event: str, **fields: Any) -> None:
        """Add a line to events.jsonl: the time (UTC), the event's name, and whatever JSON can hold."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "event": event, **fields}, separators=(",", ":"))
        self._folder.append(self.part.file(EVENTS), line.encode() + b"\n")

    def read_events(self) -> list[dict[str, Any]]:
        """Return all events of all parts, oldest first. A last line that a killed driver left incomplete is ignored."""
        contents = [self._folder.read(name) or b"" for name in files_of_parts(EVENTS, self._folder.top_names())]
        events = [json.loads(line) for content in contents for line in content.split(b"\n")[:-1] if line]
        return sorted(events, key=lambda event: event.get("at", "")) if len(contents) > 1 else events

    def read_texts(self, name: str) -> list[str]:
        """Return the contents of a text file of which each part has its own."""
        texts = [self.read_text(own) for own in files_of_parts(name, self._folder.top_names())]
        return [text for text in texts if text is not None]

    def write_text(self, name: str, text: str) -> None:
        """Store a text file (job.yaml, provenance.json, report.html …), completely or not at all."""
        self._folder.write(name, text.encode())

    def read_text(self, name: str) -> str | None:
        """The content of a text file, None when there is none."""
        content = self._folder.read(name)
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError as error:
            raise RunFolderRefused(
                f"{self.root}/{name}: expected a text file, found other bytes ({error}). It is damaged: restore"
                " it from a copy."
            ) from error

    def _from_table(self, name: str, rows: type[Rows], table: pa.Table) -> Rows:
        try:
            return rows.from_table(table)
        except (ClusterError, KeyError) as error:
            raise ClusterError(f"{self.root}/{name}: {error}") from error

    def _refuse_other_content(self) -> None:
        if isinstance(self._folder, LocalFolder):
            path = self._folder.path
            if path.exists() and not path.is_dir():
                raise RunFolderRefused(f"{self.root} is a file; --out should be a folder. Give another.")
            names = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
        else:
            names = self._folder.names()
        is_run = files_of_parts(MARKER, names) or files_of_parts(LEASE, names) or {JOB, "provenance.json"} <= set(names)
        if is_run or not names:
            return
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise RunFolderRefused(
            f"{self.root} is not empty and holds no neurofleet run (it holds {shown}). Nothing was written."
            " Give a new or empty folder with --out."
        )

    def _drop_torn_event(self) -> None:
        name = self.part.file(EVENTS)
        content = self._folder.read(name)
        if content and not content.endswith(b"\n"):
            self._folder.write(name, content[: content.rfind(b"\n") + 1])


def _hall_of_fame(cell: str, seed: int | str) -> str:
    folder = f"cell={checked_folder_name(cell)}"
    return f"{POOLED}/{folder}/part.parquet" if seed == POOLED else f"{HALLS_OF_FAME}/{folder}/seed={int(seed)}.parquet"


def _parquet(table: pa.Table, for_a_while: bool = False) -> bytes:
    """Return a file's content; one that is merged with others soon is not compressed, which takes most of the time."""
    sink = pa.BufferOutputStream()
    compression = "none" if for_a_while else "zstd"
    texts = dictionary_columns(table.schema)
    pq.write_table(table, sink, compression=compression, use_dictionary=texts, write_statistics=not for_a_while)
    return sink.getvalue().to_pybytes()
