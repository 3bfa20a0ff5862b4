"""Tables of many runs as one view: columns united by name, a constant column for what their folders say."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from neurofleet.cluster.store.map_columns import map_keys
from neurofleet.cluster.store.schemas import own_columns
from neurofleet.jobs.results.folder_listing import FolderReader
from neurofleet.jobs.results.sql import Database, conflict, plain, quoted, united

RUN, OWN_RUN = "run", "own_run"
"""Which run a row is of; and what a table itself calls so, such as the number of a simulation."""

ROOT = "."
"""What a run at the root itself is called."""
WHOLE_NUMBERS = ("seed",)
"""Names of folders, NAME=VALUE, whose values are numbers; all others are text, whatever they look like."""


@dataclass(frozen=True)
class Part:
    """A file of a table.

    Attributes
    ----------
    name : str
        Below the root.
    run : str or None
        What column ``run`` says; None where there is only one and no such column.
    keys : mapping
        What the names of its folders say: column -> value.
    kind : str or None
        What it has to be by its own words.
    alike : str
        Files of one such name have the same columns: only the first is looked at.
    """

    name: str
    run: str | None
    keys: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    alike: str = ""


@dataclass(frozen=True)
class Scanned:
    """A view that was made.

    Attributes
    ----------
    datasets : list
        Of pyarrow; a table counts as one.
    parts : list of Part
    schemas : dict
        What each of `Part.alike` holds, in the order of the parts.
    notes : list of str
        Columns of several types, in words.
    runs : list of str
        Those that have a part in it.
    """

    datasets: list[Any]
    parts: "Sequence[Part]"
    schemas: "dict[str, pa.Schema]"
    notes: list[str]
    runs: list[str]


def keys_of(folders: Iterable[str]) -> dict[str, str]:
    """Return what names of folders such as ``cell=a`` say."""
    return {key: value for key, is_key, value in (name.partition("=") for name in folders) if is_key}


def scan(
    database: Database,
    place: FolderReader,
    view: str,
    parts: Sequence[Part],
    tables: "Mapping[str, pa.Table] | None" = None,
    empty: "pa.Schema | None" = None,
) -> Scanned:
    """Make a view of files, which are read as far as queries need them, and of tables that are at hand.

    A column that some lack is NULL there. One that has types which do not go together is read as text. A
    table's own column ``run`` is called ``own_run``.

    Parameters
    ----------
    tables : mapping, optional
        Run -> table.
    empty : Schema, optional
        Columns of the view where there is neither file nor table.

    Raises
    ------
    JobError, ClusterError
        A file cannot be read.
    """
    alike: dict[str, list[Part]] = {}
    for part in parts:
        alike.setdefault(part.alike or part.name, []).append(part)
    first = [found[0] for found in alike.values()]
    held = place.schemas([(part.name, part.kind) for part in first])
    maps = [map_keys(schema) for schema in held]
    schemas = [_with_keys(part, schema, keys) for part, schema, keys in zip(first, held, maps, strict=True)]
    named = {run: table.add_column(0, RUN, pa.array([run] * len(table))) for run, table in (tables or {}).items()}
    everything = [*zip([part.run or ROOT for part in first], schemas, strict=True)]
    everything += [(run, table.schema) for run, table in named.items()]
    if not everything:
        database.register(view, (empty or pa.schema([(RUN, pa.string())])).empty_table())
        return Scanned([], [], {}, [], [])
    columns, several = united(everything)
    groups: dict[tuple[Any, ...], _Group] = {}  # one dataset each; `alone` has one run only
    for found, schema, physical, keys in zip(alike.values(), schemas, held, maps, strict=True):
        alone = found[0].run if OWN_RUN in schema.names else None
        group = groups.setdefault((alone, tuple(keys), *_types(schema, several)), _Group(alone))
        group.parts += found
        for name, of_map in keys.items():
            group.maps.setdefault(name, physical.field(name).type)
            group.unfolded |= {f"{name}.{key}": (name, key) for key in of_map}
    datasets: list[tuple[Any, _Group]] = []
    for (alone, _, *types), group in groups.items():
        stored = {name: kind for name, kind in columns.items() if name not in group.unfolded}
        schema = _schema(stored, [name for name in several if name in stored], types, alone)
        for name, kind in group.maps.items():
            schema = schema.append(pa.field(name, kind))
        datasets.append((_dataset(place, group.parts, schema, alone), group))
    datasets += [(table, _Group(None)) for table in named.values()]
    _register(database, view, datasets, several)
    notes = [conflict(view, column, types) for column, types in several.items()]
    runs = dict.fromkeys(run for run, _ in everything)
    return Scanned([one for one, _ in datasets], parts, dict(zip(alike, schemas, strict=True)), notes, list(runs))


@dataclass
class _Group:
    """Files that one dataset reads.

    Attributes
    ----------
    alone : str or None
        The only run that they are of, where they have a column ``run`` of their own.
    parts : list of Part
    maps : dict
        Map column that views show as one column a key -> its type.
    unfolded : dict of str to (str, str)
        Such a column -> map and key.
    """

    alone: str | None
    parts: list[Part] = field(default_factory=list)
    maps: "dict[str, pa.DataType]" = field(default_factory=dict)
    unfolded: dict[str, tuple[str, str]] = field(default_factory=dict)


def _with_keys(part: Part, schema: "pa.Schema", maps: Mapping[str, Sequence[str]]) -> "pa.Schema":
    """Return the columns of a file as views show them.

    Those that its folders name are first; a folder's value goes before the file's. Maps are one column a key, and
    parameters that only other cells have are left out.
    """
    first = [] if part.run is None else [pa.field(RUN, pa.string())]
    first += [pa.field(key, pa.int64() if key in WHOLE_NUMBERS else pa.string()) for key in part.keys]
    own = [one.with_name(OWN_RUN) if first and one.name == RUN else one for one in plain(own_columns(schema))]
    own = [unfolded for one in own for unfolded in _unfolded(one, maps)]
    taken = {one.name for one in first}
    return pa.schema([*first, *(one for one in own if one.name not in taken)])


def _unfolded(column: "pa.Field", maps: Mapping[str, Sequence[str]]) -> "list[pa.Field]":
    if column.name not in maps:
        return [column]
    return [pa.field(f"{column.name}.{key}", column.type.item_type) for key in maps[column.name]]


def _types(schema: "pa.Schema", several: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(schema.field(name).type if name in schema.names else None for name in several)


def _schema(
    columns: "Mapping[str, pa.DataType]", several: Iterable[str], types: Sequence[Any], alone: str | None
) -> "pa.Schema":
    """Return the columns of files that agree in those of several types, as they stand in the files."""
    kinds = dict(columns) | dict(zip(several, types, strict=True))
    own = kinds.pop(OWN_RUN, None)
    if alone is not None:
        kinds[RUN] = own
    return pa.schema([(name, kind) for name, kind in kinds.items() if kind is not None])


def _dataset(place: FolderReader, parts: Sequence[Part], schema: "pa.Schema", alone: str | None) -> Any:
    known = []
    for part in parts:
        says: dict[str, Any] = {} if part.run is None or alone is not None else {RUN: part.run}
        says |= {key: int(text) if key in WHOLE_NUMBERS else text for key, text in part.keys.items()}
        one = ds.scalar(True)
        for key, value in says.items():
            one = one & (ds.field(key) == value)
        known.append(one)
    return place.dataset([part.name for part in parts], schema, known)


def _register(
    database: Database, view: str, datasets: "Sequence[tuple[Any, _Group]]", several: Mapping[str, Any]
) -> None:
    if len(datasets) == 1 and datasets[0][1].alone is None and not datasets[0][1].maps:
        database.register(view, datasets[0][0])
        return
    ways = []
    for number, (one, group) in enumerate(datasets):
        name = f"{view} {number}"
        database.register(name, one)
        ways.append(f"select {_columns(one.schema.names, several, group)} from {quoted(name, always=True)}")
    database.define(view, " union all by name ".join(ways))


def _columns(names: Sequence[str], several: Mapping[str, Any], group: _Group) -> str:
    """Return what is selected of a dataset so that it goes together with the others."""
    texts = [quoted(name, always=True) for name in several if name in names]
    replaced = ", ".join(f"cast({name} as varchar) as {name}" for name in texts)
    hidden = [quoted(name, always=True) for name in group.maps] + [RUN] * (group.alone is not None)
    rest = "*" + (f" exclude ({', '.join(hidden)})" if hidden else "") + (f" replace ({replaced})" if replaced else "")
    for column, (name, key) in group.unfolded.items():
        literal = key.replace("'", "''")
        value = f"map_extract({quoted(name, always=True)}, '{literal}')[1]"
        rest += f", {value} as {quoted(column, always=True)}"
    if group.alone is None:
        return rest
    own = f"cast({RUN} as varchar)" if OWN_RUN in several else RUN
    called = group.alone.replace("'", "''")
    return f"'{called}' as {RUN}, {rest}, {own} as {OWN_RUN}"


@dataclass(frozen=True)
class ViewSummary:
    """What a view holds.

    Attributes
    ----------
    view : str
    rows : int
    runs : tuple of str
        Those that have a part in it.
    unfinished : tuple of str
        Those of them that have not come to their end.
    columns : tuple of (str, str)
        Names and types.
    notes : tuple of str
    """

    view: str
    rows: int
    runs: tuple[str, ...]
    unfinished: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def summary_of(
    view: str, made: Scanned, database: Database, place: FolderReader, unfinished: Collection[str]
) -> ViewSummary:
    """Return what a view holds; of its files, only what they say at their ends is read.

    Raises
    ------
    JobError
        One of them is damaged.
    """
    try:
        rows = sum(part.count_rows() if hasattr(part, "count_rows") else part.num_rows for part in made.datasets)
    except (OSError, ValueError):
        place.refuse_damaged(part.name for part in made.parts)
        raise
    return ViewSummary(
        view,
        rows,
        tuple(made.runs),
        tuple(run for run in made.runs if run in unfinished),
        tuple(database.columns(view)),
        tuple(made.notes),
    )
