"""The tables of a run: their columns, types and version, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from neurofleet.errors import ClusterError

SCHEMA_VERSION = 1
"""Raised when a column changes its name, type or meaning; a reader refuses versions newer than its own."""

PARAMETER_PREFIX = "param."
OBJECTIVE_PREFIX = "score."
SEARCH_OBJECTIVE_PREFIX = "search_score."
"""Of a hall of fame: how the search had scored a model that was scored again after it."""

_TEXT = pa.dictionary(pa.int32(), pa.string())
_EVALUATION_FIELDS = [
    pa.field("generation", pa.int32(), nullable=False),
    pa.field("individual", pa.int32(), nullable=False),
    pa.field("status", _TEXT, nullable=False),
    pa.field("reason", _TEXT, nullable=False),
    pa.field("seconds", pa.float64(), nullable=False),
    pa.field("total", pa.float64(), nullable=False),
]
_ARRIVAL_FIELDS = [pa.field("asked", pa.int64()), pa.field("in_flight", pa.int32())]
_SEARCH_TOTAL = pa.field("search_total", pa.float64())
_HALL_OF_FAME_FIELDS = [
    pa.field("cell", pa.string(), nullable=False),
    pa.field("seed", pa.int64(), nullable=False),
    pa.field("rank", pa.int32(), nullable=False),
    pa.field("total", pa.float64(), nullable=False),
    pa.field("generation", pa.int32(), nullable=False),
    pa.field("individual", pa.int32(), nullable=False),
]


@dataclass(frozen=True)
class Evaluations:
    """One generation of one stage and seed, as it is stored: row i is individual i.

    A search without generations stores its evaluations in the order in which they arrived, a block of them as one
    generation, with two more columns from which that order can be replayed.

    Attributes
    ----------
    generation : int
    parameter_names, objective_names : sequence of str
        P and M names.
    parameters : ndarray, shape (n, P)
    scores : ndarray, shape (n, M)
    totals : ndarray, shape (n,)
    statuses, reasons : sequence of str, n each
    seconds : ndarray, shape (n,)
    asked : ndarray of int, shape (n,), optional
        The position of the evaluation in the order in which the search proposed them, counted from 0. None, like
        `in_flight`, and no column in the table, for a search with generations.
    in_flight : ndarray of int, shape (n,), optional
        How many were proposed and not finished when it arrived, itself included.
    """

    generation: int
    parameter_names: Sequence[str]
    objective_names: Sequence[str]
    parameters: np.ndarray
    scores: np.ndarray
    totals: np.ndarray
    statuses: Sequence[str]
    reasons: Sequence[str]
    seconds: np.ndarray
    asked: np.ndarray | None = None
    in_flight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.totals)

    def to_table(self) -> pa.Table:
        """The generation as a table of `SCHEMA_VERSION`."""
        n = len(self)
        columns = [
            np.full(n, self.generation, np.int32),
            np.arange(n, dtype=np.int32),
            _texts(self.statuses),
            _texts(self.reasons),
            np.asarray(self.seconds, float),
            np.asarray(self.totals, float),
        ]
        fields = list(_EVALUATION_FIELDS)
        if self.asked is not None and self.in_flight is not None:
            fields += _ARRIVAL_FIELDS
            columns += [np.asarray(self.asked, np.int64), np.asarray(self.in_flight, np.int32)]
        return _table("evaluations", fields, columns, self)

    @classmethod
    def from_table(cls, table: pa.Table) -> Evaluations:
        """Read back what `to_table` made."""
        check_version(table.schema, "evaluations")
        generations = np.unique(table["generation"].to_numpy())
        if len(generations) != 1:
            raise ClusterError(f"A generation's table should hold one generation; it holds {generations}.")
        if not np.array_equal(table["individual"].to_numpy(), np.arange(len(table))):
            raise ClusterError("A generation's table should hold the individuals 0, 1, 2 … in order; it does not.")
        return cls(
            generation=int(generations[0]),
            totals=table["total"].to_numpy(),
            statuses=table["status"].to_pylist(),
            reasons=table["reason"].to_pylist(),
            seconds=table["seconds"].to_numpy(),
            **{f.name: table[f.name].to_numpy() for f in _ARRIVAL_FIELDS if f.name in table.column_names},
            **_wide_columns(table),
        )


@dataclass(frozen=True)
class HallOfFameRows:
    """The best individuals of one cell, best first: of one seed, or pooled over seeds.

    Attributes
    ----------
    cell : str
    seeds, generations, individuals : ndarray of int, shape (n,)
        Where each was found. An individual that was not a member of a generation has individual -1.
    parameter_names, objective_names : sequence of str
        P and M names.
    parameters : ndarray, shape (n, P)
    scores : ndarray, shape (n, M)
    totals : ndarray, shape (n,)
    search_scores : ndarray, shape (n, M), optional
        How the search had scored them, where they were scored again after it. None, like `search_totals`, and
        no columns in the table, where `scores` are the search's own.
    search_totals : ndarray, shape (n,), optional
    """

    cell: str
    seeds: np.ndarray
    generations: np.ndarray
    individuals: np.ndarray
    parameter_names: Sequence[str]
    objective_names: Sequence[str]
    parameters: np.ndarray
    scores: np.ndarray
    totals: np.ndarray
    search_scores: np.ndarray | None = None
    search_totals: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.totals)

    def to_table(self) -> pa.Table:
        """The hall of fame as a table of `SCHEMA_VERSION`; ranks count from 1.

        Nothing in it tells when or where it was computed: equal fits have equal bytes.
        """
        n = len(self)
        columns = [
            pa.array([self.cell] * n, pa.string()),
            np.asarray(self.seeds, np.int64),
            np.arange(1, n + 1, dtype=np.int32),
            np.asarray(self.totals, float),
            np.asarray(self.generations, np.int32),
            np.asarray(self.individuals, np.int32),
        ]
        fields = list(_HALL_OF_FAME_FIELDS)
        if self.search_totals is not None:
            fields.append(_SEARCH_TOTAL)
            columns.append(np.asarray(self.search_totals, float))
        return _table("hall_of_fame", fields, columns, self, self.search_scores)

    @classmethod
    def from_table(cls, table: pa.Table) -> HallOfFameRows:
        """Read back what `to_table` made."""
        check_version(table.schema, "hall_of_fame")
        cells = set(table["cell"].to_pylist())
        if len(cells) > 1:
            raise ClusterError(f"A hall of fame should be of one cell; it is of {sorted(cells)}.")
        wide = _wide_columns(table)
        own = [SEARCH_OBJECTIVE_PREFIX + name for name in wide["objective_names"]]
        searched = _SEARCH_TOTAL.name in table.column_names
        return cls(
            cell=cells.pop() if cells else "",
            seeds=table["seed"].to_numpy(),
            generations=table["generation"].to_numpy(),
            individuals=table["individual"].to_numpy(),
            totals=table["total"].to_numpy(),
            search_scores=_matrix(table, own) if searched else None,
            search_totals=table[_SEARCH_TOTAL.name].to_numpy() if searched else None,
            **wide,
        )


def check_version(schema: pa.Schema, kind: str) -> None:
    """Refuse a table of another kind or of a newer version than this program knows.

    Raises
    ------
    ClusterError
    """
    metadata = schema.metadata or {}
    stored = metadata.get(b"neurofleet_table", b"nothing").decode()
    version = int(metadata.get(b"schema_version", b"0"))
    if stored != kind:
        raise ClusterError(f"A table of {kind} was expected; its metadata says it is {stored!r}.")
    if version > SCHEMA_VERSION:
        raise ClusterError(
            f"The table of {kind} has schema version {version}; this neurofleet knows versions up to"
            f" {SCHEMA_VERSION}. Read it with the neurofleet that wrote it, or a newer one."
        )


def _table(
    kind: str,
    fields: list[pa.Field],
    columns: list,
    rows: Evaluations | HallOfFameRows,
    search_scores: np.ndarray | None = None,
) -> pa.Table:
    n, fields, columns = len(rows), list(fields), list(columns)
    wide = [
        (PARAMETER_PREFIX, rows.parameter_names, rows.parameters),
        (OBJECTIVE_PREFIX, rows.objective_names, rows.scores),
    ]
    if search_scores is not None:
        wide.append((SEARCH_OBJECTIVE_PREFIX, rows.objective_names, search_scores))
    for prefix, names, values in wide:
        values = np.asarray(values, float).reshape(n, len(names))
        fields += [pa.field(prefix + name, pa.float64(), nullable=False) for name in names]
        columns += [np.ascontiguousarray(column) for column in values.T]
    metadata = {"neurofleet_table": kind, "schema_version": str(SCHEMA_VERSION)}
    schema = pa.schema(fields, metadata)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, fields, strict=True)], schema=schema)


def _texts(texts: Sequence[str]) -> pa.Array:
    return pa.array(list(texts), pa.string()).dictionary_encode()


def _wide_columns(table: pa.Table) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for prefix, names_key, values_key in (
        (PARAMETER_PREFIX, "parameter_names", "parameters"),
        (OBJECTIVE_PREFIX, "objective_names", "scores"),
    ):
        names = tuple(name.removeprefix(prefix) for name in table.column_names if name.startswith(prefix))
        columns[names_key], columns[values_key] = names, _matrix(table, [prefix + name for name in names])
    return columns


def _matrix(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    values = np.empty((len(table), len(columns)))
    for i, name in enumerate(columns):
        values[:, i] = table[name].to_numpy()
    return values
