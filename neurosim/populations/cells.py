"""What is known of cells: a table with one row a cell, and the classes that its columns make."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from neurosim.errors import InputError
from neurosim.faults import nearest
from neurosim.populations.models import as_ids

ID_NAMES = ("cell_id", "cell", "specimen_id", "sample_id", "id")
Conditions = Mapping[str, Sequence[str]]


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Raises
    ------
    InputError
        It cannot be read, or is empty.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path) if path.suffix.lower() in (".csv", ".txt") else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a table as CSV or Parquet, found none ({error}).") from error
    if not len(table):
        raise InputError(f"{path}: expected a row for each cell, found a table without rows.")
    return table


def with_ids(table: pd.DataFrame, source: str, column: str | None, unique: bool = True) -> pd.DataFrame:
    """Return a table indexed by the ids of its cells, as text.

    Parameters
    ----------
    source : str
        What the table is called in errors.
    column : str, optional
        That holds the ids; without it, the first of `ID_NAMES` that is there, in capitals or not.
    unique : bool
        Whether a cell has one row.

    Raises
    ------
    InputError
        There is no such column, or a cell has several rows where it should have one.
    """
    if column is None:
        lower = {str(name).lower(): name for name in reversed(table.columns)}
        column = next((lower[name] for name in ID_NAMES if name in lower), None)
    if column is None or column not in table:
        wanted = f"`id: {column}`" if column else " or ".join(ID_NAMES)
        raise InputError(
            f"{source}: expected a column with the ids of the cells, {wanted}, found "
            f"{_columns(table)}{nearest(str(column), map(str, table.columns))}. Name it with `id:`."
        )
    ids = as_ids(table[column])
    if unique:
        values, counts = np.unique(ids, return_counts=True)
        doubled = values[counts > 1]
        if len(doubled):
            raise InputError(
                f"{source}: expected one row a cell, found {len(doubled)} ids in more than one row, such as "
                f"{', '.join(doubled[:3])}. Leave one row of each, or name another column with `id:`."
            )
    return table.drop(columns=[column]).set_axis(pd.Index(ids, name="cell"), axis=0)


def classes_of(
    table: pd.DataFrame, source: str, column: str | None, classes: Mapping[str, Sequence[str] | Conditions]
) -> pd.Series:
    """Return the class of each row, "" for rows of none.

    Parameters
    ----------
    table : DataFrame
    source : str
        What the table is called in errors.
    column : str, optional
        Where a class is a list of values, the column they are in.
    classes : mapping
        Class -> values of `column`, or column -> values, all of which a cell has to meet. Values are
        compared as text. Without classes, each value of `column` is one.

    Raises
    ------
    InputError
        A column is missing, a class without any row, or a row in two classes.
    """
    if not classes:
        return text_of(table, source, str(column))
    found = pd.Series("", index=table.index, dtype=object)
    for name, wanted in classes.items():
        conditions = wanted if isinstance(wanted, Mapping) else {str(column): wanted}
        inside = np.ones(len(table), dtype=bool)
        for key, values in conditions.items():
            inside &= text_of(table, source, key).isin([str(value) for value in values]).to_numpy()
        if not inside.any():
            raise InputError(f"{source}: {_no_rows(table, source, name, conditions)}")
        twice = inside & (found != "").to_numpy()
        if twice.any():
            raise InputError(
                f"{source}: expected each cell in one class, found {int(twice.sum())} in both {name} and "
                f"{found[twice].iloc[0]}, such as {found.index[twice][0]}. Narrow one of them with another"
                " column, as in `{cre_line: [...], layer: ['5']}`."
            )
        found[inside] = name
    return found


def text_of(table: pd.DataFrame, source: str, column: str) -> pd.Series:
    """Return a column as text, "" where it has no value.

    Raises
    ------
    InputError
        There is no such column.
    """
    if column not in table:
        raise InputError(
            f"{source}: expected a column {column!r}, found {_columns(table)}"
            f"{nearest(column, map(str, table.columns))}."
        )
    values = table[column]
    return pd.Series(as_ids(values), index=table.index).where(values.notna(), "")


def _no_rows(table: pd.DataFrame, source: str, name: str, conditions: Conditions) -> str:
    told = []
    for key, values in conditions.items():
        there = sorted(set(text_of(table, source, key)) - {""})
        strange = [f"{value}{nearest(str(value), there)}" for value in values if str(value) not in there]
        if strange:
            told.append(f"{key} is nowhere {', '.join(strange)}")
    why = "; ".join(told) or "no row meets all its conditions"
    return f"expected rows of class {name}, found none: {why}. Mend `classes:`, or leave the class out."


def _columns(table: pd.DataFrame, most: int = 8) -> str:
    names = [str(name) for name in table.columns]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
