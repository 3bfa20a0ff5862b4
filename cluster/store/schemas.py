"""The tables of a run: their columns, types and version, in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from neurofleet.cluster.store.map_columns import MAPS, interleaved, keys_in_words, map_column, unfold
from neurofleet.errors import ClusterError

SCHEMA_VERSION = 2
"""Raised when a column changes its name, type or meaning; a reader refuses versions newer than its own."""

PARAMETER_PREFIX = "param."
OBJECTIVE_PREFIX = "score."
RESIDUAL_PREFIX = "residual."
"""Of evaluations: signed distance of an e-feature from its target, where the search learns from it."""
SEARCH_OBJECTIVE_PREFIX = "search_score."
"""Of a hall of fame: how the search had scored a model that was scored again after it."""

OWN_PARAMETERS, CELL = b"parameters", b"cell"
"""In the metadata of a file: which of its ``param.`` columns its cell has, in their order; and of a hall of fame, its
cell, which its folder names."""

_TEXT = pa.dictionary(pa.int32(), pa.string())
_ARRIVAL_FIELDS = [pa.field("asked", pa.int64()), pa.field("in_flight", pa.int32())]
_SEARCH_TOTAL = pa.field("search_total", pa.float64())
EVALUATIONS, HALL_OF_FAME = "evaluations", "hall_of_fame"
TRACES, FEATURES, RATES, MORPHOLOGY = "traces", "features", "rates", "morphology"
"""What the models of a pooled hall of fame do: a row a model and recording, a model and objective, a model and step;
and their cell's sections. Models are named by their rank, which is null for what was recorded."""

_FIELDS = {
    EVALUATIONS: [
        pa.field("generation", pa.int32()),
        pa.field("individual", pa.int32()),
        pa.field("status", _TEXT),
        pa.field("reason", _TEXT),
        pa.field("seconds", pa.float64()),
        pa.field("total", pa.float64()),
        *_ARRIVAL_FIELDS,
    ],
    HALL_OF_FAME: [
        pa.field("seed", pa.int64()),
        pa.field("rank", pa.int32()),
        pa.field("total", pa.float64()),
        pa.field("generation", pa.int32()),
        pa.field("individual", pa.int32()),
        _SEARCH_TOTAL,
    ],
    TRACES: [
        pa.field("rank", pa.int32()),
        pa.field("sweep", pa.int32()),
        pa.field("protocol", pa.string()),
        pa.field("amplitude_nA", pa.float64()),
        pa.field("start_ms", pa.float64()),
        pa.field("stop_ms", pa.float64()),
        pa.field("time_ms", pa.list_(pa.float32())),
        pa.field("voltage_mV", pa.list_(pa.float32())),
    ],
    FEATURES: [
        pa.field("rank", pa.int32()),
        pa.field("objective", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("mean", pa.float64()),
        pa.field("std", pa.float64()),
    ],
    RATES: [
        pa.field("rank", pa.int32()),
        pa.field("sweep", pa.int32()),
        pa.field("amplitude_nA", pa.float64()),
        pa.field("rate_Hz", pa.float64()),
    ],
    MORPHOLOGY: [
        pa.field("kind", pa.string()),
        pa.field("parent", pa.int32()),
        *(pa.field(name, pa.list_(pa.float32())) for name in ("x_um", "y_um", "z_um", "diameter_um")),
    ],
}
_SCORES = pa.map_(pa.string(), pa.float64())
_MAPS = {EVALUATIONS: ("score", "residual"), HALL_OF_FAME: ("score", "search_score")}
_ONLY_WHERE_GIVEN = ("residual",)
"""Maps without which a table is stored rather than with nulls: all searches of a run have them, or none has."""


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
    residuals : ndarray, shape (n, M), optional
        Signed distances of the e-features from their targets, rounded to float32; NaN where there is none. None, and
        no columns in the table, for a search that learns from the scores alone.
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
    residuals: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.totals)

    def to_table(self, parameters: Sequence[str] = ()) -> pa.Table:
        """The generation as a table of `SCHEMA_VERSION`.

        Parameters
        ----------
        parameters : sequence of str
            Those of all cells of the run: each has a column, which is null for one that this cell lacks.
        """
        n = len(self)
        columns = {
            "generation": np.full(n, self.generation, np.int32),
            "individual": np.arange(n, dtype=np.int32),
            "status": _texts(self.statuses),
            "reason": _texts(self.reasons),
            "seconds": np.asarray(self.seconds, float),
            "total": np.asarray(self.totals, float),
        }
        if self.asked is not None and self.in_flight is not None:
            columns |= {"asked": np.asarray(self.asked, np.int64), "in_flight": np.asarray(self.in_flight, np.int32)}
        maps = {"score": (self.objective_names, _row_by_row(self.scores))}
        if self.residuals is not None:
            maps["residual"] = (self.objective_names, _row_by_row(self.residuals.astype(np.float32)))
        return _stored_table(EVALUATIONS, n, columns, _own_columns(self), parameters, maps)

    @classmethod
    def from_table(cls, table: pa.Table) -> Evaluations:
        """Read back what `to_table` made."""
        check_version(table.schema, EVALUATIONS)
        table = wide_table(table)
        generations = np.unique(table["generation"].to_numpy())
        if len(generations) != 1:
            raise ClusterError(f"A generation's table should hold one generation; it holds {generations}.")
        if not np.array_equal(table["individual"].to_numpy(), np.arange(len(table))):
            raise ClusterError("A generation's table should hold the individuals 0, 1, 2 … in order; it does not.")
        wide = _wide_columns(table)
        signed = [RESIDUAL_PREFIX + name for name in wide["objective_names"]]
        return cls(
            generation=int(generations[0]),
            residuals=_matrix(table, signed) if set(signed) & set(table.column_names) else None,
            totals=table["total"].to_numpy(),
            statuses=table["status"].to_pylist(),
            reasons=table["reason"].to_pylist(),
            seconds=table["seconds"].to_numpy(),
            **{f.name: table[f.name].to_numpy() for f in _ARRIVAL_FIELDS if f.name in table.column_names},
            **wide,
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

    def to_table(self, parameters: Sequence[str] = ()) -> pa.Table:
        """The hall of fame as a table of `SCHEMA_VERSION`; ranks count from 1.

        Nothing in it tells when or where it was computed: equal fits have equal bytes.

        Parameters
        ----------
        parameters : sequence of str
            Those of all cells of the run: each has a column, which is null for one that this cell lacks.
        """
        columns = {
            "seed": np.asarray(self.seeds, np.int64),
            "rank": np.arange(1, len(self) + 1, dtype=np.int32),
            "total": np.asarray(self.totals, float),
            "generation": np.asarray(self.generations, np.int32),
            "individual": np.asarray(self.individuals, np.int32),
        }
        if self.search_totals is not None:
            columns["search_total"] = np.asarray(self.search_totals, float)
        maps = {"score": (self.objective_names, _row_by_row(self.scores))}
        if self.search_scores is not None:
            maps["search_score"] = (self.objective_names, _row_by_row(self.search_scores))
        own = _own_columns(self)
        return _stored_table(HALL_OF_FAME, len(self), columns, own, parameters, maps, {CELL: self.cell})

    @classmethod
    def from_table(cls, table: pa.Table) -> HallOfFameRows:
        """Read back what `to_table` made."""
        check_version(table.schema, HALL_OF_FAME)
        table = wide_table(table)
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


def table_of(kind: str, rows: Sequence[dict[str, Any]], cell: str) -> pa.Table:
    """Return rows as a table of `TRACES`, `FEATURES`, `RATES` or `MORPHOLOGY` of a cell; keys are the columns."""
    metadata = {b"neurofleet_table": kind, b"schema_version": str(SCHEMA_VERSION), CELL: cell}
    return pa.Table.from_pylist(list(rows), pa.schema(_FIELDS[kind], metadata))


def schema_version(schema: pa.Schema) -> int:
    """Return the version of a table's schema, 0 of one that says none."""
    return int((schema.metadata or {}).get(b"schema_version", b"0"))


def check_version(schema: pa.Schema, kind: str) -> None:
    """Refuse a table of another kind or of a newer version than this program knows.

    Raises
    ------
    ClusterError
    """
    metadata = schema.metadata or {}
    stored = metadata.get(b"neurofleet_table", b"nothing").decode()
    version = schema_version(schema)
    if stored != kind:
        raise ClusterError(f"A table of {kind} was expected; its metadata says it is {stored!r}.")
    if version > SCHEMA_VERSION:
        raise ClusterError(
            f"The table of {kind} has schema version {version}; this neurofleet knows versions up to"
            f" {SCHEMA_VERSION}. Read it with the neurofleet that wrote it, or a newer one."
        )


def uniform(table: pa.Table, parameters: Sequence[str]) -> pa.Table:
    """Return a table of evaluations or of a hall of fame as it is stored: all of a run have one schema.

    Parameters
    ----------
    table : pyarrow.Table
        With a column for each parameter and objective of its cell. Of an older version, or stored already, too.
    parameters : sequence of str
        Those of all cells of the run.
    """
    table = wide_table(table)
    metadata = table.schema.metadata
    kind = metadata[b"neurofleet_table"].decode()
    cell = table["cell"][0].as_py() if "cell" in table.column_names and len(table) else metadata.get(CELL)
    there = {name: table[name].combine_chunks() for name in table.column_names}
    columns = {field.name: there[field.name].cast(field.type) for field in _FIELDS[kind] if field.name in there}
    own = {name: there[PARAMETER_PREFIX + name] for name in _with_prefix(PARAMETER_PREFIX, table.column_names)}
    maps = {}
    for name in _MAPS[kind]:
        if keys := _with_prefix(f"{name}.", table.column_names):
            maps[name] = keys, interleaved([there[f"{name}.{key}"].cast(pa.float64()) for key in keys])
    return _stored_table(kind, len(table), columns, own, parameters, maps, {} if cell is None else {CELL: cell})


def _stored_table(
    kind: str,
    rows: int,
    columns: Mapping[str, Any],
    own: Mapping[str, Any],
    parameters: Sequence[str],
    maps: Mapping[str, tuple[Sequence[str], pa.Array]],
    facts: Mapping[bytes, str] | None = None,
) -> pa.Table:
    """Return a table of evaluations or of a hall of fame as it is stored: all of a run have one schema.

    Parameters
    ----------
    kind : str
    rows : int
    columns : mapping
        Those of `_FIELDS` that it has; the others are null.
    own : mapping
        Parameter of its cell -> column.
    parameters : sequence of str
        Those of all cells of the run.
    maps : mapping
        Those of `_MAPS` that it has -> their keys, and their values row by row.
    facts : mapping, optional
        For the metadata.
    """
    absent = pa.nulls(rows, pa.float64())
    fields = list(_FIELDS[kind])
    arrays = [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in fields]
    for name in dict.fromkeys([*parameters, *own]):
        fields.append(pa.field(PARAMETER_PREFIX + name, pa.float64()))
        arrays.append(own.get(name, absent))
    map_names = [name for name in _MAPS[kind] if name in maps or name not in _ONLY_WHERE_GIVEN]
    for name in map_names:
        keys, values = maps.get(name, ((), None))
        arrays.append(map_column(keys, values, pa.float64()) if keys else pa.nulls(rows, _SCORES))
        fields.append(pa.field(name, _SCORES))
    keys_of = {name: maps[name][0] if name in maps else () for name in map_names}
    metadata = {b"neurofleet_table": kind, b"schema_version": str(SCHEMA_VERSION), **(facts or {})}
    metadata |= {OWN_PARAMETERS: json.dumps(list(own)), MAPS: keys_in_words(keys_of)}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata))


def wide_table(table: pa.Table) -> pa.Table:
    """Return a table of evaluations or of a hall of fame with a column for each parameter and objective of its cell.

    A hall of fame has the column ``cell`` first.
    """
    metadata = table.schema.metadata or {}
    if OWN_PARAMETERS in metadata:
        own = [PARAMETER_PREFIX + name for name in json.loads(metadata[OWN_PARAMETERS])]
        names = table.column_names
        first = next((i for i, name in enumerate(names) if name.startswith(PARAMETER_PREFIX)), len(names))
        others = [name for name in names if not name.startswith(PARAMETER_PREFIX)]
        table = unfold(table.select([*others[:first], *own, *others[first:]]))
        absent = [f.name for f in (*_ARRIVAL_FIELDS, _SEARCH_TOTAL) if f.name in table.column_names]
        table = table.drop_columns([name for name in absent if table[name].null_count == len(table)])
    if CELL in metadata and "cell" not in table.column_names:
        table = table.add_column(0, "cell", pa.array([metadata[CELL].decode()] * len(table), pa.string()))
    return table


def own_columns(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the parameters that only other cells of the run have."""
    own = json.loads((schema.metadata or {}).get(OWN_PARAMETERS, b"null"))
    if own is None:
        return schema
    foreign = {name for name in schema.names if name.startswith(PARAMETER_PREFIX)} - {PARAMETER_PREFIX + n for n in own}
    return pa.schema([field for field in schema if field.name not in foreign], schema.metadata)


def _own_columns(rows: Evaluations | HallOfFameRows) -> dict[str, pa.Array]:
    """Return parameter -> column."""
    count, names = len(rows), rows.parameter_names
    values = pa.array(np.asarray(rows.parameters, float).reshape(count, len(names)).T.ravel())
    return {name: values.slice(i * count, count) for i, name in enumerate(names)}


def _row_by_row(values: np.ndarray) -> pa.Array:
    return pa.array(np.asarray(values, float).ravel())


def _texts(texts: Sequence[str]) -> pa.Array:
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    codes = np.fromiter((numbers[text] for text in texts), np.int32, len(texts))
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(numbers), pa.string()))


def _wide_columns(table: pa.Table) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for prefix, names_key, values_key in (
        (PARAMETER_PREFIX, "parameter_names", "parameters"),
        (OBJECTIVE_PREFIX, "objective_names", "scores"),
    ):
        names = _with_prefix(prefix, table.column_names)
        columns[names_key], columns[values_key] = names, _matrix(table, [prefix + name for name in names])
    return columns


def _with_prefix(prefix: str, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _matrix(table: pa.Table, columns: Sequence[str]) -> np.ndarray:
    values = np.empty((len(table), len(columns)))
    for i, name in enumerate(columns):
        values[:, i] = table[name].to_numpy()
    return values
