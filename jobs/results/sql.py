"""SQL over Arrow tables that can see nothing else, and the types of columns that many tables share."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from neurofleet.errors import UsageError

_ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")


class Database:
    """Views of an SQL database without access to files, to this program's variables, or to its own settings.

    DuckDB reads what is registered through pyarrow, as far as a query needs it.
    """

    def __init__(self) -> None:
        import duckdb

        self._connection = duckdb.connect(config={"enable_external_access": "false"})
        self._connection.execute("set python_enable_replacements = false")
        self._connection.execute("set lock_configuration = true")

    def register(self, name: str, content: Any) -> None:
        """Make a view of an Arrow table or dataset."""
        self._connection.register(name, content)

    def define(self, name: str, sql: str) -> None:
        """Make a view of other views."""
        self._connection.execute(f"create or replace view {quoted(name, always=True)} as {sql}")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query of our own."""
        return self._connection.execute(sql, list(values)).fetchall()

    def columns(self, view: str) -> list[tuple[str, str]]:
        """Return name and type of each column of a view."""
        return [(row[0], row[1]) for row in self.rows(f"describe {quoted(view, always=True)}")]

    def select(self, sql: str, explain: Callable[[Exception], str]) -> "pa.Table":
        """Return the result of a user's query.

        Parameters
        ----------
        explain : callable
            Puts an error of DuckDB in words.

        Raises
        ------
        UsageError
            When it is not one SELECT, or SQL cannot make sense of it.
        """
        import duckdb

        try:
            statements = self._connection.extract_statements(sql)
            kinds = [statement.type for statement in statements]
            if kinds != [duckdb.StatementType.SELECT]:
                statement_kinds = ", ".join(kind.name for kind in kinds) or "nothing"
                raise UsageError(
                    f"--query: expected one SELECT (or DESCRIBE, SUMMARIZE), found {statement_kinds}. A query "
                    "reads the run and changes nothing."
                )
            table = self._connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(f"--query: {explain(error)}") from error
        return table.rename_columns(_distinct(table.column_names))


def first_line(error: Exception) -> str:
    """Return what DuckDB says, without the excerpt of the query below it."""
    lines = [line.strip() for line in str(error).split("\nLINE ")[0].splitlines() if line.strip()]
    return _ADDRESS.sub("…", " ".join(lines)).rstrip(".") + "."


def near_names(error: Exception, columns: Sequence[str]) -> list[str]:
    """Return columns that are called nearly as what an error names in double quotes."""
    unknown_names = re.findall(r'"([^"]+)"', str(error).split("\n")[0])
    bare = {column.partition(".")[2]: column for column in columns if "." in column}
    near: list[str] = []
    for word in unknown_names:
        near += difflib.get_close_matches(word, columns, n=3, cutoff=0.5)
        near += [bare[name] for name in difflib.get_close_matches(word, list(bare), n=3, cutoff=0.5)]
    return list(dict.fromkeys(near))


def listed(names: Iterable[str]) -> str:
    """Return names as a query has to write them, with commas."""
    return ", ".join(quoted(name) for name in names)


def quoted(name: str, always: bool = False) -> str:
    """Return a name as a query has to write it."""
    return f'"{name}"' if always or not name.isidentifier() else name


def _distinct(names: Sequence[str]) -> list[str]:
    """Number the columns that a query gives one name."""
    return [f"{name}_{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def plain(schema: "pa.Schema") -> "pa.Schema":
    """Return the same columns with words as plain strings and without metadata: so all files agree."""

    def kind(type_: "pa.DataType") -> "pa.DataType":
        is_text = pa.types.is_dictionary(type_) or pa.types.is_large_string(type_)
        return pa.string() if is_text else type_

    return pa.schema([pa.field(column.name, kind(column.type)) for column in schema])


def united(
    schemas: "Sequence[tuple[str, pa.Schema]]",
) -> "tuple[dict[str, pa.DataType], dict[str, dict[pa.DataType, str]]]":
    """Return the type of each column, and of those without a common one the types with a run of each."""
    types_of: dict[str, dict[Any, str]] = {}
    for run, schema in schemas:
        for column in schema:
            types_of.setdefault(column.name, {}).setdefault(column.type, run)
    columns, several = {}, {}
    for name, types in types_of.items():
        try:
            ways = [pa.schema([(name, kind)]) for kind in types]
            columns[name] = pa.unify_schemas(ways, promote_options="permissive").field(0).type
        except pa.ArrowException:
            columns[name] = pa.string()
            several[name] = types
    return columns, several


def conflict(view: str, column: str, types: "Mapping[pa.DataType, str]") -> str:
    """Say which types a column has, and in which runs."""
    kinds = ", ".join(f"{kind} in {run}" for kind, run in types.items())
    return f"{view}: column {listed([column])} is {kinds}; it is read as text here."
