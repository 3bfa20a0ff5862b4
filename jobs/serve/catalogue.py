"""The runs below the folder that is served, as a table that stays up to date."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from neurofleet.cluster.store.folders import REQUESTS_AT_ONCE
from neurofleet.errors import NeurofleetError, UsageError, did_you_mean
from neurofleet.jobs.learners.learner_folder import DESCRIPTION, EVALUATION, JOB
from neurofleet.jobs.results.run_progress import RunProgress, run_progress
from neurofleet.jobs.results.runs_found import EVENTS, FIT, FoundRun, find_runs
from neurofleet.jobs.serve.root_reader import RootReader, Signature
from neurofleet.jobs.studies.findings import FINDINGS

FRESH_S, FRESH_REMOTE_S = 1.0, 20.0
"""A table as old as this is not made again."""

_DECISIVE = tuple(name.split(".")[0] for name in (JOB, EVENTS, "status.json", FINDINGS, DESCRIPTION, EVALUATION))


class NoSuchRun(UsageError):
    """There is no run of this name below the folder that is served."""


@dataclass(frozen=True)
class RunRow:
    """A run in the table of runs.

    Attributes
    ----------
    run : str
        Its folder below the root, ``.`` for the root itself.
    name, kind, learner : str
    progress : RunProgress
    changed : float
        When a file of it last changed, seconds since 1970.
    fault : str
        Why it cannot be read, else empty.
    quick : bool
        Whether it was run with ``--quick``.
    """

    run: str
    name: str
    kind: str
    learner: str
    progress: RunProgress
    changed: float
    fault: str = ""
    quick: bool = False

    def matches(self, words: Sequence[str]) -> bool:
        """Whether each word is in what the row says, capitals or not."""
        said = " ".join(
            (self.run, self.name, self.kind, self.learner, self.progress.state, *self.progress.failed_cells)
        )
        return all(word.casefold() in said.casefold() for word in words)


class RunCatalogue:
    """The runs below a folder. Only files that have changed are read again.

    Parameters
    ----------
    root : str or Path
        A path, or its `pyarrow.fs` URI.
    """

    def __init__(self, root: str | Path) -> None:
        self.place = RootReader(root)
        self._fresh_s = FRESH_S if self.place.is_local else FRESH_REMOTE_S
        self._refreshing = threading.Lock()
        self._made_at = -float("inf")
        self._found: dict[str, FoundRun] = {}
        self._rows: dict[str, RunRow] = {}
        self._seen: dict[str, tuple[tuple[tuple[str, Signature], ...], str]] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """A number that is another whenever a row is."""
        return self._version

    def rows(self) -> list[RunRow]:
        """Return a row a run, those that run, and those that changed last, first."""
        self.refresh()
        return sorted(self._rows.values(), key=lambda row: (row.progress.state != "running", -row.changed, row.run))

    def row(self, run: str) -> RunRow:
        """Return the row of a run.

        Raises
        ------
        NoSuchRun
        """
        self.found(run)
        return self._rows[run]

    def found(self, run: str) -> FoundRun:
        """Return a run by its folder below the root.

        Raises
        ------
        NoSuchRun
        """
        self.refresh()
        if run not in self._found:
            raise NoSuchRun(f"There is no run {run!r} below {self.place.root}{did_you_mean(run, self._found)}.")
        return self._found[run]

    def folder(self, run: str) -> str:
        """Return where the folder of a run is, a path or a URI, and make sure that none of its links leads out.

        Raises
        ------
        NoSuchRun, OutsideRoot
        """
        found = self.found(run)
        self.place.refuse_outside(found.folder)
        for name in self._all_entries(found):
            self.place.refuse_outside(found.prefix + name)
        return self.place.folder(found.folder)

    def refresh(self) -> set[str]:
        """Look for what has changed, unless that was done just now; return the runs that did."""
        if time.monotonic() - self._made_at < self._fresh_s:
            return set()
        if self._rows and self._refreshing.locked():
            return set()  # another thread is at it: the rows of a moment ago will do
        with self._refreshing:
            if time.monotonic() - self._made_at < self._fresh_s:
                return set()
            return self._refresh()

    def _refresh(self) -> set[str]:
        found = {run.run: run for run in find_runs(self.place).runs}
        if self.place.is_local:  # system calls that take microseconds each
            rows = {name: self._row(run) for name, run in found.items()}
        else:
            with ThreadPoolExecutor(REQUESTS_AT_ONCE) as requests:
                rows = dict(zip(found, requests.map(self._row, found.values()), strict=True))
        changed = {name for name in {*rows, *self._rows} if rows.get(name) != self._rows.get(name)}
        self._found, self._rows = found, rows
        self._seen = {name: seen for name, seen in self._seen.items() if name in rows}
        self._version += bool(changed)
        self._made_at = time.monotonic()
        return changed

    def _row(self, run: FoundRun) -> RunRow:
        try:
            signature = self.place.signature(run.folder, _DECISIVE)
            holder = self.place.holder(run.folder)
            seen = (signature, holder)
            if self._seen.get(run.run) == seen and (not holder or run.family == FIT):
                return self._rows[run.run]
            progress, fault = run_progress(run, self.place.folder(run.folder), holder), ""
            kind, learner, name, quick = run.kind, run.learner or "", run.name, run.quick
            self._seen[run.run] = seen
        except (NeurofleetError, ValueError, KeyError, TypeError, OSError) as error:  # of a damaged file
            progress, fault = RunProgress("unfinished"), f"{error}" or type(error).__name__
            kind, learner, name, quick, signature = "", "", None, False, ()
        changed = max((each[0] for _, each in signature), default=0) / 1e9
        name = str(name or Path(run.folder or self.place.root).name)
        return RunRow(run.run, name, kind, learner, progress, changed, fault, quick)

    def _all_entries(self, run: FoundRun) -> list[str]:
        if not self.place.is_local:
            return []
        return [entry.name for entry in Path(self.place.folder(run.folder)).iterdir() if entry.is_symlink()]
