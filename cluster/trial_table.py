"""The table of a sweep's trials: one row each, its columns after the parameters and scores there are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from cluster.schemas import OBJECTIVE_PREFIX, PARAMETER_PREFIX, SCHEMA_VERSION, check_version

TrialStatus = Literal["done", "stopped", "failed"]
KIND = "trials"

_WORD = pa.dictionary(pa.int32(), pa.string())
_FIELDS = [
    pa.field("trial", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("status", _WORD, nullable=False),
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
        Stopped by the scheduler, or by its time limit.
    error : str
        Why, empty when done.
    epochs : int
        That it reported.
    seconds : float
    scores : dict
        Those that it returned; of a stopped one, those of its last epoch.
    """

    trial: str
    parameters: dict[str, Any]
    seed: int
    status: TrialStatus
    error: str = ""
    epochs: int = 0
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


def to_table(rows: Sequence[TrialRow]) -> pa.Table:
    """The trials as a table: their own columns, ``param.<name>`` and ``score.<name>``.

    A parameter's column is of numbers, truth values or text where all its values are, else of JSON.
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
    metadata = {"neurofleet_table": KIND, "schema_version": str(SCHEMA_VERSION)}
    return pa.table(columns, schema=pa.schema(fields, metadata))


def from_table(table: pa.Table) -> list[TrialRow]:
    """Read back what `to_table` made; a parameter stored as JSON stays text.

    Raises
    ------
    ClusterError
        If it is another table, or a newer one.
    """
    check_version(table.schema, KIND)
    return [
        TrialRow(
            **{f.name: row[f.name] for f in _FIELDS},
            parameters=_with_prefix(row, PARAMETER_PREFIX),
            scores=_with_prefix(row, OBJECTIVE_PREFIX),
        )
        for row in table.to_pylist()
    ]


def _with_prefix(row: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): v for n, v in row.items() if n.startswith(prefix) and v is not None}


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
