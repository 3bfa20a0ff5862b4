"""Columns of one prefix as one map column, so that tables with different names in them have one schema.

The objectives of two cells have different names. As ``score.<name>`` columns, no two halls of fame would have the
same schema, and most readers refuse a folder of them; as a map ``score`` from name to value, all have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

MAPS = b"neurofleet_maps"
"""In a schema's metadata: map column -> the keys of all its rows, in their order, as JSON."""


def fold(table: pa.Table, prefixes: Mapping[str, pa.DataType]) -> pa.Table:
    """Return a table with the columns ``PREFIX.NAME`` as one map column ``PREFIX``, after the other columns.

    Parameters
    ----------
    table : pyarrow.Table
    prefixes : mapping
        Prefix -> type of its values. Where the table has no such column, the map is null.
    """
    keys: dict[str, list[str]] = {}
    for prefix, kind in prefixes.items():
        names = [name for name in table.column_names if name.startswith(f"{prefix}.")]
        keys[prefix] = [name.removeprefix(f"{prefix}.") for name in names]
        column = pa.nulls(len(table), pa.map_(pa.string(), kind))
        if names:
            values = interleaved([table[name].combine_chunks().cast(kind) for name in names])
            column = map_column(keys[prefix], values, kind)
            table = table.drop_columns(names)
        table = table.append_column(prefix, column)
    metadata = dict(table.schema.metadata or {})
    return table.replace_schema_metadata({**metadata, MAPS: keys_in_words(keys)})


def unfold(table: pa.Table) -> pa.Table:
    """Return a table that `fold` made, or a part of it, as it was before."""
    maps = map_keys(table.schema)
    if not maps:
        return table
    columns, names = [], []
    for name in table.column_names:
        column = table[name].combine_chunks()
        if name not in maps:
            names.append(name)
            columns.append(column)
        elif keys := maps[name]:
            values = _items(column)
            names += [f"{name}.{key}" for key in keys]
            columns += [values.take(np.arange(i, len(values), len(keys))) for i in range(len(keys))]
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != MAPS}
    return pa.table(columns, names=names).replace_schema_metadata(metadata)


def map_keys(schema: pa.Schema) -> dict[str, list[str]]:
    """Return column that `fold` made -> the keys of all its rows, none where all of them are null."""
    keys: dict[str, list[str]] = json.loads((schema.metadata or {}).get(MAPS, b"{}"))
    return {name: keys[name] for name in schema.names if name in keys}


def dictionary_columns(schema: pa.Schema) -> list[str]:
    """Return the columns that Parquet should store with a dictionary: words, and the keys of maps."""
    words = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return words + [f"{field.name}.key_value.key" for field in schema if pa.types.is_map(field.type)]


def _items(maps: pa.MapArray) -> pa.Array:
    """Return the values of all rows, of a slice only its own."""
    begin, end = maps.offsets[0].as_py(), maps.offsets[-1].as_py()
    return maps.items.slice(begin, end - begin)


def interleaved(columns: Sequence[pa.Array]) -> pa.Array:
    """Return the values of columns row by row."""
    rows, width = len(columns[0]), len(columns)
    return pa.concat_arrays(columns).take(np.arange(rows * width).reshape(width, rows).T.ravel())


def map_column(keys: Sequence[str], values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a map column of which each row has these keys; `values` are given row by row."""
    width = len(keys)
    rows = len(values) // width
    offsets = pa.array(np.arange(0, rows * width + 1, width), pa.int32())
    words = pa.DictionaryArray.from_arrays(np.tile(np.arange(width, dtype=np.int32), rows), pa.array(list(keys)))
    return pa.MapArray.from_arrays(offsets, words.cast(pa.string()), values, pa.map_(pa.string(), kind))


def keys_in_words(keys: Mapping[str, Sequence[str]]) -> str:
    """Return what a schema's metadata says of its map columns, as `map_keys` reads it."""
    return json.dumps({name: list(own) for name, own in keys.items()})
