"""The tables of a run folder as views of an SQL database that can see nothing else."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neurofleet.cluster.store.generations import EVALUATIONS, checked_folder_name, evaluation_files
from neurofleet.cluster.store.run_store import HALLS_OF_FAME, POOLED, RunStore
from neurofleet.cluster.store.schemas import (
    HALL_OF_FAME,
    OBJECTIVE_PREFIX,
    PARAMETER_PREFIX,
    RESIDUAL_PREFIX,
    SEARCH_OBJECTIVE_PREFIX,
    Evaluations,
    HallOfFameRows,
    wide_table,
)
from neurofleet.errors import JobError, UsageError
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.learners.learner_folder import JOB
from neurofleet.jobs.results.folder_listing import FolderReader, read_again_if_gone
from neurofleet.jobs.results.runs_found import FoundRun
from neurofleet.jobs.results.sql import Database, first_line, listed, near_names, plain, quoted
from neurofleet.jobs.results.table_scan import ROOT, RUN, Part, Scanned, ViewSummary, scan, summary_of

FIT_VIEWS = (EVALUATIONS, HALL_OF_FAME, POOLED)

_FILES = {
    HALL_OF_FAME: re.compile(rf"^{HALLS_OF_FAME}/cell=([^/]+)/seed=\d+\.parquet$"),
    POOLED: re.compile(rf"^(?:{POOLED}/cell=([^/]+)/part|{HALLS_OF_FAME}/cell=([^/]+)/{POOLED})\.parquet$"),
}
"""Version 0.1.0 had the pooled halls of fame among the others."""


def fit_parts(
    place: FolderReader, view: str, folder: str = "", run: str | None = None, cell: str | None = None
) -> list[Part]:
    """Return the files of one of the `FIT_VIEWS`, as far as the run has come.

    Parameters
    ----------
    folder : str
        Of the run, below the place's root; ends in a slash, or is empty.
    run : str, optional
        What column ``run`` is to say.
    cell : str, optional
        Only its files are looked for.
    """
    below = "" if cell is None else f"/cell={checked_folder_name(cell)}"
    if view == EVALUATIONS:
        return _evaluations(place, folder, run, below)
    folders = [part + below for part in ([HALLS_OF_FAME, POOLED] if view == POOLED else [HALLS_OF_FAME])]
    names = [name.removeprefix(folder) for sub in folders for name in place.names(folder + sub)]
    matches = [match for name in names if (match := _FILES[view].match(name))]
    return [
        Part(folder + match[0], run, {"cell": next(filter(None, match.groups()))}, kind=HALL_OF_FAME)
        for match in matches
    ]


def _evaluations(place: FolderReader, folder: str, run: str | None, below: str) -> list[Part]:
    names = [name.removeprefix(folder) for name in place.names(f"{folder}{EVALUATIONS}{below}")]
    parts = []
    for key, files in evaluation_files(names).items():
        keys = {name: str(value) for name, value in key._asdict().items()}
        for _, name in files.to_read():  # all files of one seed have the same columns
            parts.append(Part(folder + name, run, keys, kind=EVALUATIONS, alike=folder + key.folder))
    return parts


def empty(view: str, several_runs: bool = False) -> "pa.Schema":
    """Return the columns of a view where nothing is stored."""
    none, nobody = np.empty((0, 0)), np.empty(0, int)
    first = [pa.field(RUN, pa.string())] if several_runs else []
    if view == EVALUATIONS:
        table = Evaluations(0, (), (), none, none, np.empty(0), (), (), np.empty(0)).to_table()
        first += [pa.field("cell", pa.string()), pa.field("stage", pa.string()), pa.field("seed", pa.int64())]
    else:
        table = HallOfFameRows("", nobody, nobody, nobody, (), (), none, none, np.empty(0)).to_table()
    return pa.schema([*first, *plain(wide_table(table).schema)])


class RunTables:
    """Views ``evaluations``, ``hall_of_fame`` (one row a seed and rank) and ``pooled`` of a run folder.

    Made from what the folder holds at this moment; nothing is written, no lock is taken. DuckDB reads through
    pyarrow, so a run behind a URI is read like one on this machine, and DuckDB itself is given no access to
    any file.

    Parameters
    ----------
    root : str or Path
        A run folder, or its `pyarrow.fs` URI.
    cell : str, optional
        Only the rows of this cell are in the views, and only its files are looked at.

    Attributes
    ----------
    store : RunStore
    parameters, objectives : dict of (cell, stage) to tuple of str
        Columns of each stage, without their prefix.
    scanned : dict of str to Scanned
        By view.

    Raises
    ------
    UsageError
        When `root` is not a run folder.
    """

    def __init__(self, root: str | Path, cell: str | None = None) -> None:
        self.store = existing_run(root)
        self._cell = cell
        self.parameters: dict[tuple[str, str], tuple[str, ...]] = {}
        self.objectives: dict[tuple[str, str], tuple[str, ...]] = {}
        self._database = Database()
        self._place = FolderReader(root)
        self.scanned: dict[str, Scanned] = {}
        read_again_if_gone(self._scan)
        for part in self.scanned[EVALUATIONS].parts:
            stage = part.keys["cell"], part.keys["stage"]
            if stage not in self.parameters:
                names = self.scanned[EVALUATIONS].schemas[part.alike].names
                self.parameters[stage] = _with_prefix(PARAMETER_PREFIX, names)
                self.objectives[stage] = _with_prefix(OBJECTIVE_PREFIX, names)

    @cached_property
    def spec(self) -> Any:
        """The job as the folder keeps it, a `FitSpec`."""
        return parse_job(self.store.read_text("job.yaml") or "", f"{self.store.root}/job.yaml", "unnamed")

    def _scan(self) -> None:
        for view in FIT_VIEWS:
            parts = fit_parts(self._place, view, cell=self._cell)
            self.scanned[view] = scan(self._database, self._place, view, parts, empty=empty(view))

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query of our own."""
        import duckdb

        try:
            return read_again_if_gone(lambda: self._database.rows(sql, values), self._scan)
        except duckdb.Error as error:
            raise JobError(f"{self.store.root}: its tables cannot be read ({first_line(error)}).") from error

    def table(self, sql: str) -> "pa.Table":
        """Return the result of a user's query.

        Raises
        ------
        UsageError
            When it is not one SELECT, or SQL cannot make sense of it; names the columns there are.
        """
        return read_again_if_gone(lambda: self._database.select(sql, self._explain), self._scan)

    def views(self) -> list[ViewSummary]:
        """Return what each view holds."""
        unfinished = [] if FoundRun(self._place, "", [], [JOB]).finished else [ROOT]

        def summaries() -> list[ViewSummary]:
            made = self.scanned.items()
            return [summary_of(view, scanned, self._database, self._place, unfinished) for view, scanned in made]

        return read_again_if_gone(summaries, self._scan)

    def columns(self, view: str) -> list[tuple[str, str]]:
        """Return name and type of each column of a view."""
        return self._database.columns(view)

    def _explain(self, error: Exception) -> str:
        message = first_line(error)
        columns = [name for view in (EVALUATIONS, HALL_OF_FAME) for name, _ in self.columns(view)]
        if near := near_names(error, columns):
            message += f" Near names: {listed(near)}."
        wide_ones = (PARAMETER_PREFIX, OBJECTIVE_PREFIX, SEARCH_OBJECTIVE_PREFIX, RESIDUAL_PREFIX)
        plain = [c for c in dict.fromkeys(columns) if not c.startswith(wide_ones)]
        wide = [next((c for c in columns if c.startswith(p)), f"{p}…") for p in (PARAMETER_PREFIX, OBJECTIVE_PREFIX)]
        return (
            f"{message} The views are {EVALUATIONS}, {HALL_OF_FAME} and {POOLED}; their columns "
            f"{', '.join(plain)}, and one for each parameter and objective, in double quotes because of "
            f"their dots, such as {' and '.join(map(quoted, wide))}. `describe {EVALUATIONS}` lists them all."
        )


def existing_run(root: str | Path) -> RunStore:
    """Return the store of a run folder.

    Raises
    ------
    UsageError
        When `root` is not one.
    """
    store = RunStore(root)
    if store.read_text("job.yaml") is None:
        raise UsageError(_not_a_run(str(root)))
    return store


def _not_a_run(root: str) -> str:
    return (
        f"{root}: expected the folder of a run (job.yaml, provenance.json, evaluations/ …), as "
        f"`neurofleet run JOB.yaml --out OUT` makes it, found {what_is_in(root)}. Give the folder that was "
        "named with --out."
    )


def what_is_in(root: str) -> str:
    """Return what is at a place that holds no run, in words."""
    path = Path(root)
    if "://" in root:
        return "no job.yaml there"
    if not path.exists():
        return "no such folder"
    if not path.is_dir():
        return "a file"
    names = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "") if names else "an empty folder"


def _with_prefix(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))
