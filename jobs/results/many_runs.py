"""The tables of all runs below a folder as views of one SQL database."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.learner_folder import ABOUT, EXAMPLES, MAP, TRIALS
from neurofleet.jobs.results.folder_listing import FolderReader, read_again_if_gone
from neurofleet.jobs.results.run_tables import FIT_VIEWS, empty, fit_parts, what_is_in
from neurofleet.jobs.results.runs_found import ENDING, FIT, MODEL, FoundRun, FoundRuns, find_runs
from neurofleet.jobs.results.sql import Database, first_line, listed, near_names
from neurofleet.jobs.results.table_scan import RUN, Part, Scanned, ViewSummary, keys_of, scan, summary_of

PREDICTIONS, EMBEDDINGS, SCORES = "predictions", "embeddings", "scores"
OF_LOOSE = (PREDICTIONS, EMBEDDINGS)
SIMS = "sims"
OF_LEARNERS = {
    PREDICTIONS: "predictions.parquet",
    EMBEDDINGS: "embeddings.parquet",
    SCORES: "scores.parquet",
    "signals": "signals.parquet",
    "map": MAP,
    "examples": EXAMPLES,
    "history": "history.parquet",
    "split": "split.parquet",
    "stability": "stability.parquet",
    "trials": TRIALS,
}
"""The tables of trainings, sweeps and evaluations; those of several data sets are in NAME/set=SET/."""

Parts = Callable[[], list[Part]]


def loose_tables(runs: FoundRuns) -> list[str]:
    """Return the Parquet files that no run has written for itself, below the root."""
    names = []
    for run, name in runs.tables:
        written_by_its_run = (
            run is not None and run.family != FIT and (run.family != MODEL or name in OF_LEARNERS.values())
        )
        if not written_by_its_run:
            names.append(name if run is None else run.prefix + name)
    return sorted(names)


def tables_of(run: FoundRun) -> dict[str, Parts]:
    """Return the views that a run has a part in, each with what finds its files."""
    if run.family == FIT:
        return {view: partial(fit_parts, run.place, view, run.prefix, run.run) for view in FIT_VIEWS}
    if run.family == MODEL:
        return _of_learner(run)
    views: dict[str, Parts] = {}
    for name in run.files:
        if name.endswith(ENDING) and not name.startswith("."):
            views[_view(run.kind, name.removesuffix(ENDING))] = partial(_single_file, run, name)
    for name in run.partitioned:
        views[_view(run.kind, name)] = partial(_files_below, run, name)
    return views


def _of_learner(run: FoundRun) -> dict[str, Parts]:
    views: dict[str, Parts] = {}
    for view, name in OF_LEARNERS.items():
        folder, _, file = name.rpartition("/")
        if name in run.files:
            views[view] = partial(_single_file, run, name)
        elif not folder and view in run.folders:
            views[view] = partial(_files_below, run, view)
        elif folder in run.folders and file in run.place.entries(run.prefix + folder)[1]:
            views[view] = partial(_single_file, run, name)
    if run.learner == SIMS:  # its scores are in its model.json
        views.setdefault(SCORES, list)
    return views


def _files_below(run: FoundRun, folder: str) -> list[Part]:
    names = run.place.names(run.prefix + folder)
    parts = [Part(name, run.run, keys_of(name.removeprefix(run.prefix).split("/")[:-1])) for name in names]
    return [part for part in parts if part.keys and part.name.endswith(ENDING)]


def _single_file(run: FoundRun, name: str) -> list[Part]:
    return [Part(run.prefix + name, run.run)]


def _view(kind: str, name: str) -> str:
    return re.sub(r"\W", "_", f"{kind}_{name}").lower()


def view_of_loose(schema: "pa.Schema") -> str | None:
    """Return where a table that `neurofleet predict` or `embed` has written belongs; None for any other."""
    if ABOUT in (schema.metadata or {}):
        return PREDICTIONS
    is_map = {"umap_0", "umap_1"} <= set(schema.names) and schema.names[0] in ("unit_id", "neuron_id")
    return EMBEDDINGS if is_map else None


def sims_scores(run: FoundRun) -> "pa.Table":
    """Return the scores that stand in a SIMS model, which has no file of them: a row a method, none before
    the model has any."""
    from neurofleet.jobs.learners.sims_report import scores_rows, stored_scores  # the run of a fit needs no learners

    numbers = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1")
    schema = pa.schema([("method", pa.string()), *((name, pa.float64()) for name in numbers)])
    scores = stored_scores(run.description().get("description", {}).get("facts", {}))
    rows = []
    for row in scores_rows(scores) if scores else []:
        low, high = row.interval or (None, None)
        rows.append((row.key, row.accuracy, low, high, row.macro_f1))
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


RUNS = "runs"
SHOWN = 4

_DUCKDBS_OWN_GUESS = re.compile(r'! Did you mean "[^"]*"\?')  # may be a view of its own
_LISTS_VIEWS = re.compile(r"\b(show|information_schema|duckdb_\w+|sqlite_master|pg_\w+)\b", re.IGNORECASE)


class AllRuns:
    """Views of everything that runs below a folder have stored, each row with its run.

    Nothing is written, and no lock is taken. A view is made when a query names it, and its files are read as
    far as the query needs them.

    Parameters
    ----------
    root : str or Path
        A path, or its `pyarrow.fs` URI.
    runs : FoundRuns, optional
        What was found there.

    Attributes
    ----------
    runs : list of FoundRun
    notes : list of str
        What is to be said of the views that were made.

    Raises
    ------
    UsageError
        There is no run.
    """

    def __init__(self, root: str | Path, runs: FoundRuns | None = None) -> None:
        self._place = FolderReader(root)
        self._found = runs or find_runs(self._place)
        self.runs = self._found.runs
        if not self.runs:
            raise UsageError(_no_runs(self._place))
        self.notes: list[str] = []
        self._tables: dict[str, list[tuple[FoundRun, Parts]]] = {RUNS: []}
        for run in self.runs:
            for view, parts in tables_of(run).items():
                self._tables.setdefault(view, []).append((run, parts))
        self._database = Database()
        self._made: dict[str, Scanned] = {}

    @cached_property
    def names(self) -> list[str]:
        """The views there are."""
        return sorted({*self._tables, *self._loose})

    def table(self, sql: str) -> "pa.Table":
        """Return the result of one SELECT.

        Raises
        ------
        UsageError
            When it is not one SELECT, or SQL cannot make sense of it; names the views or columns there are.
        JobError
            A file of one of its views is damaged.
        """
        words = {word.lower() for word in re.findall(r"\w+", sql)}

        def select() -> pa.Table:
            for view in self.names if _LISTS_VIEWS.search(sql) else sorted(words):
                if view in self._tables or (view in OF_LOOSE and view in self._loose):
                    self._make(view)
            return self._database.select(sql, self._explain)

        return read_again_if_gone(select, self._forget_made)

    def views(self) -> list[ViewSummary]:
        """Return what each view holds."""
        unfinished = [run.run for run in self.runs if not run.finished]

        def summaries() -> list[ViewSummary]:
            made = {view: self._make(view) for view in self.names}
            return [
                summary_of(view, scanned, self._database, self._place, unfinished) for view, scanned in made.items()
            ]

        return read_again_if_gone(summaries, self._forget_made)

    def _forget_made(self) -> None:
        """Have all views made again."""
        self._made.clear()
        self.notes.clear()

    def _make(self, view: str) -> Scanned:
        if view not in self._made:
            made = self._scan(view)
            self._made[view] = made
            self.notes += made.notes
        return self._made[view]

    def _scan(self, view: str) -> Scanned:
        if view == RUNS:
            table = _runs_table(self.runs)
            self._database.register(RUNS, table)
            return Scanned([table], [], {}, [], [run.run for run in self.runs])
        parts = [part for _, find in self._tables.get(view, []) for part in find()]
        parts += self._loose.get(view, []) if view in OF_LOOSE else []
        tables, none = {}, None
        if view == SCORES:
            tables = self._sims_scores([run for run, _ in self._tables[view] if run.learner == SIMS])
        elif view in FIT_VIEWS:
            none = empty(view, several_runs=True)
        return scan(self._database, self._place, view, parts, tables, none)

    def _sims_scores(self, runs: Sequence[FoundRun]) -> dict[str, pa.Table]:
        """Return the scores of each model; one whose scores cannot be read is left out, with a note."""
        tables = {}
        for run in runs:
            try:
                tables[run.run] = sims_scores(run)
            except UsageError as error:
                self.notes.append(f"The scores of {run.run} are left out. {error}")
        return tables

    @cached_property
    def _loose(self) -> dict[str, list[Part]]:
        """Predictions and embeddings that stand by themselves; they come from their own file."""
        parts: dict[str, list[Part]] = {}
        names = loose_tables(self._found)
        for name, schema in zip(names, self._place.schemas([(n, None) for n in names]), strict=True):
            if view := view_of_loose(schema):
                parts.setdefault(view, []).append(Part(name, name))
        return parts

    def _explain(self, error: Exception) -> str:
        import duckdb

        if isinstance(error, duckdb.InvalidInputException | duckdb.IOException):
            self._place.refuse_damaged(part.name for made in self._made.values() for part in made.parts)
        message = _DUCKDBS_OWN_GUESS.sub("", first_line(error))
        columns = {name for view in self._made for name, _ in self._database.columns(view)}
        near = near_names(error, sorted(columns))
        if isinstance(error, duckdb.CatalogException):
            unknown_names = re.findall(r"name (\S+) does not exist", message)
            near = [name for word in unknown_names for name in get_close_matches(word.lower(), self.names)]
        if near:
            message += f" Near names: {listed(near)}."
        return " ".join(
            [
                f"{message} The views are {', '.join(self.names)}; `neurofleet results {self._place.root}",
                "--views` lists their columns. Names with a dot stand in double quotes, as in",
                '"param.cm.soma".',
                *self.notes,
            ]
        )


def _runs_table(runs: "list[FoundRun]") -> "pa.Table":
    schema = pa.schema([(name, pa.string()) for name in (RUN, "name", "kind", "learner")])
    schema = schema.append(pa.field("finished", pa.bool_())).append(pa.field("quick", pa.bool_()))
    rows: list[dict[str, Any]] = [{name: getattr(run, name) for name in schema.names} for run in runs]
    return pa.Table.from_pylist(rows, schema=schema)


def same_names(runs: "list[FoundRun]") -> list[str]:
    """Say which runs have one name."""
    named: dict[str, list[str]] = {}
    for run in runs:
        if run.name:
            named.setdefault(run.name, []).append(run.run)
    return [
        f"{len(places)} runs are named {name}: {', '.join(places[:SHOWN])}{', …' * (len(places) > SHOWN)}. "
        f"Column {RUN} tells them apart."
        for name, places in named.items()
        if len(places) > 1
    ]


def _no_runs(place: FolderReader) -> str:
    return (
        f"{place.root}: expected the folder of a run (job.yaml, provenance.json …), as `neurofleet run "
        f"JOB.yaml --out OUT` makes it, or one with runs below it, found {what_is_in(place.root)}. Give the "
        "folder that was named with --out, or one above."
    )
