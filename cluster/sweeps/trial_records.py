"""The records of a sweep's trials: the folder of each, the table of those that have ended, and which come next.

A folder holds what the trial is, what it has reported and how it ended. The table's columns are named after the
parameters and scores there are. Which trial comes next is computed from the sweep's description and from these folders
alone, so a sweep whose driver died goes on as if it had not: trials that have ended are not run again, those that were
running go on with their parameters, and a searcher learns again what it had learned.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from neurofleet.cluster.store.folders import LocalFolder
from neurofleet.cluster.store.schemas import OBJECTIVE_PREFIX, PARAMETER_PREFIX, SCHEMA_VERSION
from neurofleet.cluster.sweeps.search_space import Parameters, SettingProposer

TrialStatus = Literal["done", "stopped", "failed"]
TRIALS_KIND = "trials"

_TEXT = pa.dictionary(pa.int32(), pa.string())
_FIELDS = [
    pa.field("trial", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("status", _TEXT, nullable=False),
    pa.field("error", pa.string(), nullable=False),
    pa.field("epochs", pa.int32(), nullable=False),
    pa.field("seconds", pa.float64(), nullable=False),
]


@dataclass(frozen=True)
class TrialRow:
    """A trial that has ended.

    Attributes
    ----------
    trial : str
        The name of its folder.
    parameters : dict
    seed : int
    status : {'done', 'stopped', 'failed'}
        ``stopped`` by the scheduler, or by its time limit.
    error : str
        Why, empty when done.
    epochs : int
        That it reported.
    seconds : float
    scores : dict
        Those that its function returned; of a stopped one, those of its last epoch.
    """

    trial: str
    parameters: dict[str, Any]
    seed: int
    status: TrialStatus
    error: str = ""
    epochs: int = 0
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """The trial's place among those that began, from 0."""
        return int(self.trial.rpartition("-")[2])


def trials_to_table(rows: Sequence[TrialRow]) -> pa.Table:
    """Return the trials as a table, with columns ``param.<name>`` and ``score.<name>``.

    A parameter's column has the type of its values if they are all numbers, truth values or text; else it is JSON.
    """
    columns: list[pa.Array] = [
        pa.array([row.trial for row in rows], pa.string()),
        pa.array([row.seed for row in rows], pa.int64()),
        pa.array([row.status for row in rows], pa.string()).dictionary_encode(),
        pa.array([row.error for row in rows], pa.string()),
        pa.array([row.epochs for row in rows], pa.int32()),
        pa.array([row.seconds for row in rows], pa.float64()),
    ]
    fields = list(_FIELDS)
    for name in _names(row.parameters for row in rows):
        column = _column([row.parameters.get(name) for row in rows])
        columns.append(column)
        fields.append(pa.field(PARAMETER_PREFIX + name, column.type))
    for name in _names(row.scores for row in rows):
        columns.append(pa.array([row.scores.get(name) for row in rows], pa.float64()))
        fields.append(pa.field(OBJECTIVE_PREFIX + name, pa.float64()))
    metadata = {"neurofleet_table": TRIALS_KIND, "schema_version": str(SCHEMA_VERSION)}
    return pa.table(columns, schema=pa.schema(fields, metadata))


def trials_from_table(table: pa.Table) -> list[TrialRow]:
    """Return the trials of a table that `trials_to_table` made.

    A parameter whose column is JSON stays text.
    """
    rows = []
    for row in table.to_pylist():
        values = {
            prefix: {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
            for prefix in (PARAMETER_PREFIX, OBJECTIVE_PREFIX)
        }
        scores = {name: value for name, value in values[OBJECTIVE_PREFIX].items() if value is not None}
        own = {field.name: row[field.name] for field in _FIELDS}
        rows.append(TrialRow(parameters=values[PARAMETER_PREFIX], scores=scores, **own))
    return rows


def _names(records: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record))


def _column(values: list[Any]) -> pa.Array:
    there = {type(value) for value in values if value is not None}
    for types, column in (
        ({bool}, pa.bool_()),
        ({int}, pa.int64()),
        ({int, float}, pa.float64()),
        ({str}, pa.string()),
    ):
        if there <= types:
            return pa.array(values, column)
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


EpochReport = dict[str, float]
"""A trial's metrics after an epoch, with ``epoch`` (from 1) and ``elapsed_s``, the time it has worked."""

_SETTING, REPORTS, _RESULT = "trial.json", "reports.jsonl", "result.json"


class TrialFolder:
    """The folder of a trial, written by the driver before it runs, by its process while it runs, by either at its end.

    Parameters
    ----------
    sweep : str or Path
        The sweep's folder.
    index : int
    """

    def __init__(self, sweep: str | Path, index: int) -> None:
        self.name = f"trial-{index:05d}"
        self.path = Path(sweep) / self.name
        self._folder = LocalFolder(self.path)

    def set(self, parameters: dict[str, Any], seed: int) -> None:
        """Store the trial's parameters and seed."""
        self._write(_SETTING, {"parameters": parameters, "seed": seed})

    def parameters(self) -> dict[str, Any] | None:
        """The parameters that `set` has stored; None before."""
        setting = self._read(_SETTING)
        return None if setting is None else setting["parameters"]

    def report(self, report: EpochReport) -> None:
        """Add an epoch's metrics."""
        self._folder.append(REPORTS, json.dumps(report).encode() + b"\n")

    def reports(self) -> list[EpochReport]:
        """The reports in the order of their epochs, of each epoch the last one."""
        lines = (self._folder.read(REPORTS) or b"").split(b"\n")
        by_epoch = {report["epoch"]: report for report in map(json.loads, filter(None, lines[:-1]))}
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    def set_reports(self, reports: Sequence[EpochReport]) -> None:
        """Replace all reports."""
        self._folder.write(REPORTS, "".join(json.dumps(r) + "\n" for r in reports).encode())

    def end(
        self,
        status: TrialStatus,
        error: str = "",
        scores: dict[str, float] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Store how it ended. Without scores, those of the last report count."""
        reports = self.reports()
        last = reports[-1] if reports else {}
        if scores is None:
            scores = {name: value for name, value in last.items() if name not in ("epoch", "elapsed_s")}
        result = {
            "status": status,
            "error": error,
            "scores": scores,
            "epochs": int(last.get("epoch", 0)),
            "seconds": max(seconds, last.get("elapsed_s", 0.0)),
        }
        self._write(_RESULT, result)

    def row(self) -> TrialRow | None:
        """The trial as it ended; None as long as it has not."""
        result = self._read(_RESULT)
        return None if result is None else TrialRow(trial=self.name, **self._read(_SETTING), **result)

    def ended_at(self) -> datetime:
        """When its end was stored, in the local time."""
        return datetime.fromtimestamp((self.path / _RESULT).stat().st_mtime)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._folder.write(name, json.dumps(content).encode())

    def _read(self, name: str) -> Any:
        content = self._folder.read(name)
        return None if content is None else json.loads(content)


class SweepTrials:
    """The trials of a sweep, each setting repeated with several seeds.

    Trial ``i`` is repeat ``i % repeats`` of setting ``i // repeats``, and its seed is the sweep's plus the
    repeat.

    Parameters
    ----------
    folder : Path
        The sweep's.
    proposer : SettingProposer
    settings, repeats, seed : int
    metric : str
    """

    def __init__(
        self, folder: Path, proposer: SettingProposer, settings: int, repeats: int, seed: int, metric: str
    ) -> None:
        self._folder = folder
        self._proposer = proposer
        self._repeats = repeats
        self._seed = seed
        self._metric = metric
        self.number = settings * repeats
        self.rows: dict[int, TrialRow] = {}
        self._parameters: dict[int, Parameters] = {}
        for index in range(self.number):
            if row := self.folder(index).row():
                self.rows[index] = row
        for setting in range(settings):
            self._recall(setting)
        self._waiting = [index for index in range(self.number) if index not in self.rows]
        self.running: set[int] = set()

    @property
    def unfinished(self) -> int:
        """How many trials have not begun in this process, and not ended in another."""
        return len(self._waiting)

    def folder(self, index: int) -> TrialFolder:
        """The folder of a trial."""
        return TrialFolder(self._folder, index)

    def next(self) -> dict[str, Any] | None:
        """Begin a trial: its ``index``, ``parameters`` and ``seed``. None when all have begun."""
        if not self._waiting:
            return None
        index = self._waiting.pop(0)
        self.running.add(index)
        setting, repeat = divmod(index, self._repeats)
        if setting not in self._parameters:
            self._parameters[setting] = self._proposer.propose(setting)
        folder, seed = self.folder(index), self._seed + repeat
        parameters = folder.parameters() or self._parameters[setting]  # a population's have changed since
        folder.set(parameters, seed)
        return {"index": index, "parameters": parameters, "seed": seed}

    def ended(self, index: int) -> TrialRow | None:
        """Record a trial that has ended; None if its folder has no result yet."""
        row = self.folder(index).row()
        if row is not None:
            self.rows[index] = row
            self.running.discard(index)
            self._learn(index // self._repeats)
        return row

    def of_setting(self, setting: int) -> list[TrialRow]:
        """The trials of a setting that have ended."""
        first = setting * self._repeats
        return [self.rows[i] for i in range(first, first + self._repeats) if i in self.rows]

    def _recall(self, setting: int) -> None:
        """Restore a setting of which an earlier run has begun a trial."""
        for index in range(setting * self._repeats, (setting + 1) * self._repeats):
            if (parameters := self.folder(index).parameters()) is not None:
                self._parameters[setting] = parameters
                self._proposer.restore(setting, parameters)
                self._learn(setting)
                return

    def _learn(self, setting: int) -> None:
        rows = self.of_setting(setting)
        if len(rows) == self._repeats:
            scores = [row.scores[self._metric] for row in rows if self._metric in row.scores]
            self._proposer.learn(setting, float(np.mean(scores)) if scores else None)
