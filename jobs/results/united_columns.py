"""Columns of tables of many runs: what types they have in common."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.results.sql import listed

if TYPE_CHECKING:
    import pyarrow as pa


def plain(schema: "pa.Schema") -> "pa.Schema":
    """Return the same columns with words as plain strings and without metadata: so all files agree."""
    import pyarrow as pa

    def kind(found: "pa.DataType") -> "pa.DataType":
        is_text = pa.types.is_dictionary(found) or pa.types.is_large_string(found)
        return pa.string() if is_text else found

    return pa.schema([pa.field(one.name, kind(one.type)) for one in schema])


def united(
    schemas: "Sequence[tuple[str, pa.Schema]]",
) -> "tuple[dict[str, pa.DataType], dict[str, dict[pa.DataType, str]]]":
    """Return the type of each column, and of those without a common one the types with a run of each."""
    import pyarrow as pa

    found: dict[str, dict[Any, str]] = {}
    for run, schema in schemas:
        for one in schema:
            found.setdefault(one.name, {}).setdefault(one.type, run)
    columns, several = {}, {}
    for name, types in found.items():
        try:
            ways = [pa.schema([(name, kind)]) for kind in types]
            columns[name] = pa.unify_schemas(ways, promote_options="permissive").field(0).type
        except pa.ArrowException:
            columns[name] = pa.string()
            several[name] = types
    return columns, several


def conflict(view: str, column: str, types: "Mapping[pa.DataType, str]") -> str:
    """Say which types a column has, and in which runs."""
    told = ", ".join(f"{kind} in {run}" for kind, run in types.items())
    return f"{view}: column {listed([column])} is {told}; it is read as text here."
