"""A run from Python: its state, its tables, its report and its models, read from its folder alone."""

import html
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from neurofleet.cluster.store.run_store import POOLED, RunStore
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.results.folder_listing import FolderReader
from neurofleet.jobs.results.run_tables import existing_run
from neurofleet.jobs.results.runs_found import FIT, MODEL, FoundRun

FINDINGS = "findings.json"


class Run:
    """The folder of a run, of any kind of job.

    Nothing is written, no lock is taken and no Ray is needed, so a run can be looked at while it runs, here or on
    another machine, and long after its cluster has gone. Every call reads what the folder holds at that moment.

    Parameters
    ----------
    folder : str or Path
        The run folder, a path or a `pyarrow.fs` URI.

    Raises
    ------
    UsageError
        If there is no run.

    Examples
    --------
    >>> run = nf.open_run("rat")
    >>> run.kind, run.status
    ('fit', 'finished')
    >>> run.sql("select seed, rank, total from hall_of_fame where rank <= 3")
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        if not self._is_model_alone():
            existing_run(folder)
        self._store = RunStore(folder)

    @cached_property
    def job(self) -> dict[str, Any]:
        """The keys and values of the job, as the folder keeps them; empty for a model that no job made."""
        content = yaml.safe_load(self._store.read_text("job.yaml") or "")
        return content if isinstance(content, dict) else {}

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self.job.get("name") or Path(self.folder).name)

    @property
    def kind(self) -> str:
        """The kind of its job: ``fit``, ``train``, ``sweep``, ``validate`` …; ``model`` where there is only a model."""
        return self._found.kind

    @property
    def status(self) -> str:
        """``running``, ``finished``, or ``unfinished``: the same job run again goes on with it."""
        if self._store.holder():
            return "running"
        return "finished" if self._found.finished else "unfinished"

    @property
    def tables(self) -> dict[str, int]:
        """The tables that `sql` and `table` know, with their numbers of rows."""
        return {view.view: view.rows for view in self._tables().views()}

    def table(self, name: str) -> pd.DataFrame:
        """Return one of the `tables` as a DataFrame.

        Raises
        ------
        UsageError
            If there is none of this name.
        """
        if name not in self.tables:
            known = ", ".join(self.tables) or "none yet"
            raise UsageError(f"{self.folder}: no table {name!r}{did_you_mean(name, self.tables)}. There are: {known}.")
        return self.sql(f'select * from "{name}"')

    def sql(self, query: str) -> pd.DataFrame:
        """Return the result of one SELECT over the `tables`, in DuckDB's SQL.

        Parameters
        ----------
        query : str
            It sees the run's tables and nothing else. Names with a dot stand in double quotes.

        Raises
        ------
        UsageError
            If it is not one SELECT, or names what there is not.
        """
        return self._tables().table(query).to_pandas()

    def hall_of_fame(self, cell: str | None = None, seed: int | str = POOLED) -> pd.DataFrame:
        """Return the best models of a fit.

        Parameters
        ----------
        cell : str, optional
            May be left out where the run has one cell.
        seed : int or str
            Of one seed; by default the best of all seeds.

        Returns
        -------
        DataFrame
            A row a model, best first: ``cell``, ``seed``, ``rank`` from 1, ``total`` (sum of the objectives, in
            standard deviations of the recording), ``generation``, ``individual``, ``param.<name>`` in NEURON's
            units and ``score.<objective>``.

        Raises
        ------
        UsageError
            If the run is no fit, has no such cell, or has not come so far.
        """
        cell = self._cell(cell)
        table = self._store.hall_of_fame_table(cell, seed)
        if table is None:
            raise UsageError(
                f"{self.folder}: cell {cell} has no hall of fame of seed {seed} yet. A hall of fame is stored when the "
                "last stage of its seed ends; `evaluations` has what there is."
            )
        return table.to_pandas()

    def evaluations(self, cell: str | None = None, stage: str | None = None, seed: int | None = None) -> pd.DataFrame:
        """Return the evaluations of a fit: a row an individual, with its outcome, parameters and scores.

        Parameters
        ----------
        cell, stage, seed : optional
            Only those of this cell, stage and seed.

        Raises
        ------
        UsageError
            If the run is no fit.
        """
        self._require_fit()
        wanted = {"cell": cell, "stage": stage, "seed": seed}
        conditions = [f"{column} = {_literal(value)}" for column, value in wanted.items() if value is not None]
        where = f" where {' and '.join(conditions)}" if conditions else ""
        return self.sql(f"select * from evaluations{where}")

    def findings(self) -> dict[str, Any]:
        """Return what a study found: the content of its ``findings.json``.

        Raises
        ------
        UsageError
            If the run has none: it is no study, or has not ended.
        """
        text = self._store.read_text(FINDINGS)
        if text is None:
            raise UsageError(f"{self.folder}: a run of kind {self.kind} that is {self.status} has no {FINDINGS}.")
        return json.loads(text)

    def model(self) -> Any:
        """Return the trained model in the folder, as `neurofleet.load_model` does."""
        from neurofleet.learners.model_folder import load_model

        return load_model(self.folder)

    def report(self) -> str:
        """Write ``report.html`` into the folder and return where it is."""
        from neurofleet.jobs.job_kinds import write_report

        return write_report(self.folder)

    def export(
        self, cell: str | None = None, to: str = "sonata", folder: str | Path | None = None, rank: int = 1
    ) -> Path:
        """Write a model of a fit for use without neurofleet.

        Parameters
        ----------
        cell : str, optional
            May be left out where the run has one cell.
        to : {"sonata", "allen", "hoc"}
            SONATA for BMTK, a fit file of the Allen Institute, or a hoc template.
        folder : path, optional
            New or empty; by default ``CELL-FORMAT`` in the working folder.
        rank : int
            Of the pooled hall of fame; 1 is the best.

        Returns
        -------
        Path
            The folder.
        """
        from neurofleet.jobs.export import export_command

        cell = self._cell(cell)
        return export_command(Path(self.folder), None if folder is None else Path(folder), to, cell, rank)

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.kind}, {self.status}, in {self.folder}>"

    def _repr_html_(self) -> str:
        rows = {"kind": self.kind, "status": self.status, "folder": self.folder}
        rows |= {name: f"{number} rows" for name, number in self.tables.items()}
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
        return f"<table><caption>{html.escape(self.name)}</caption>{cells}</table>"

    @property
    def _found(self) -> FoundRun:
        place = FolderReader(self.folder)
        folders, files = place.entries("")
        return FoundRun(place, "", folders, files)

    def _is_model_alone(self) -> bool:
        try:
            return self._found.kind == MODEL and bool(self._found.description())
        except Exception:  # noqa: BLE001 - `existing_run` says what is there instead
            return False

    def _tables(self) -> Any:
        from neurofleet.jobs.results.results_command import opened

        return opened(self.folder)

    def _require_fit(self) -> None:
        if self._found.family != FIT:
            names = ", ".join(self.tables)
            raise UsageError(f"{self.folder} is a run of kind {self.kind}, not a fit. Its tables: {names}.")

    def _cell(self, cell: str | None) -> str:
        self._require_fit()
        known = [entry["id"] for entry in self.job.get("cells") or ()] or [self.name]
        if cell is None and len(known) == 1:
            return known[0]
        if cell is None:
            raise UsageError(f"{self.folder} holds {len(known)} cells: name one, such as {known[0]!r}.")
        if cell not in known:
            raise UsageError(f"{self.folder} fits no cell {cell!r}{did_you_mean(cell, known)}.")
        return cell


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
