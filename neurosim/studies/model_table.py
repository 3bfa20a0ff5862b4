"""Tables of cells and of the fitted models of many cells: published ones and halls of fame of our runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from neurofleet.errors import InputError, did_you_mean
from neurofleet.neurosim.evolution.hall_of_fame_files import PARAMETER_PREFIX, of_seeds, own_columns

CELL_COLUMNS = ("cell", "cell_id")
RANK_COLUMNS = ("hof_index", "total")
SAME_PARAMETERS = 1e-9
"""Columns that agree to this relative difference are one parameter, written once a section."""


@dataclass(frozen=True, eq=False)
class ModelTable:
    """Models of many cells, sorted by cell and rank.

    Attributes
    ----------
    cells : array of str, shape (n,)
    ranks : array of int, shape (n,)
        0 is the best model of its cell.
    values : ndarray, shape (n, P)
        NaN where a cell's models do not have a parameter.
    parameters : tuple of str, length P
    """

    cells: np.ndarray
    ranks: np.ndarray
    values: np.ndarray
    parameters: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.cells)

    def rows(self, chosen: np.ndarray) -> "ModelTable":
        """Return some of the models; `chosen` is a mask or row numbers."""
        return ModelTable(self.cells[chosen], self.ranks[chosen], self.values[chosen], self.parameters)

    def columns(self, names: Sequence[str]) -> "ModelTable":
        """Return the models with some of their parameters."""
        numbers = [self.parameters.index(name) for name in names]
        return ModelTable(self.cells, self.ranks, self.values[:, numbers], tuple(names))

    def best(self, number: int = 1) -> "ModelTable":
        """Return the first `number` models of each cell."""
        return self.rows(self.ranks < number)


def read_models(path: str | Path) -> ModelTable:
    """Read the models of one source.

    Parameters
    ----------
    path : path
        The folder of a fit's run (the halls of fame of all its seeds), or a Parquet file: a published population
        (`cell_id`, `hof_index`, one column a parameter) or a hall of fame of ours (`cell`, `total`,
        `param.<name>`).

    Raises
    ------
    InputError
        Nothing readable there, a run without a hall of fame, or a table without cells, ranks or parameters.
    """
    path = Path(path)
    if path.is_dir():
        cells = halls_of_fame(path)
        return join_models([_from_table(files[0], pd.concat(map(_read, files))) for files in cells])
    return _from_table(path, _read(path))


def halls_of_fame(run: Path) -> list[list[Path]]:
    """Return the files of a run's halls of fame, by cell.

    Raises
    ------
    InputError
        There are none.
    """
    cells = []
    for folder in sorted(run.glob("hall_of_fame/cell=*")):
        if names := of_seeds(path.name for path in folder.glob("*.parquet")):
            cells.append([folder / name for name in names])
    if not cells:
        raise InputError(
            f"{run}: expected the folder of a run with its hall of fame (hall_of_fame/cell=ID/*.parquet),"
            f" found a folder without one. `neurofleet status {run}` says how far a fit is; let it finish, or"
            " name another folder."
        )
    return cells


def join_models(sources: Sequence[ModelTable]) -> ModelTable:
    """Return the models of several sources in one table, sorted by cell and rank.

    A parameter that a source does not have is NaN there.

    Raises
    ------
    InputError
        One cell is in more than one source.
    """
    seen: set[str] = set()
    for models in sources:
        twice = sorted(seen & set(models.cells))
        if twice:
            raise InputError(
                f"Expected each cell in one population, found {_listed(twice)} in more than one. Leave one of"
                " them out, or rename its cells."
            )
        seen |= set(models.cells)
    frames = [pd.DataFrame(models.values, columns=list(models.parameters)) for models in sources]
    values = pd.concat(frames, ignore_index=True)
    cells = np.concatenate([models.cells for models in sources])
    ranks = np.concatenate([models.ranks for models in sources])
    order = np.lexsort((ranks, cells))
    return ModelTable(cells[order], ranks[order], values.to_numpy(np.float64)[order], tuple(values.columns))


def shared_parameters(models: ModelTable) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the parameters that all models have and that differ between them.

    The paper compares only parameters shared by all cells, so that a recipe's own channels do not give its
    cells away. A constant says nothing, and a value repeated once a section (Ra, g_pas, e_pas) would count
    several times in a distance: of equal columns the first is kept.

    Returns
    -------
    tuple of str
    dict
        Left-out parameter -> reason.

    Raises
    ------
    InputError
        None is left.
    """
    lacking = np.isnan(models.values).any(axis=0)
    absent = {models.parameters[number]: "not in all cells" for number in np.flatnonzero(lacking)}
    left_out = absent | repeated_parameters(models)
    kept = tuple(name for name in models.parameters if name not in left_out)
    if not kept:
        raise InputError(
            "Expected parameters that all cells share, found none: "
            f"{_listed([f'{name} ({why})' for name, why in left_out.items()])}. Analyse cells of one recipe,"
            " or models with the same parameter names."
        )
    return kept, left_out


def repeated_parameters(models: ModelTable) -> dict[str, str]:
    """Return parameter -> reason, for those that are constant or equal to an earlier one."""
    repeated: dict[str, str] = {}
    firsts: list[int] = []
    for number, name in enumerate(models.parameters):
        column = models.values[:, number]
        known = column[~np.isnan(column)]
        if not len(known) or np.ptp(known) <= SAME_PARAMETERS * abs(known[0]):
            repeated[name] = "constant"
            continue
        equal = [first for first in firsts if _repeats(column, models.values[:, first])]
        if equal:
            repeated[name] = f"equal to {models.parameters[equal[0]]}"
        else:
            firsts.append(number)
    return repeated


def values_of_cells(models: ModelTable, unit: str) -> pd.DataFrame:
    """Return one row for each cell, the unit of every test: models of one cell are not independent samples.

    Parameters
    ----------
    unit : str
        ``best``: the model with the least training error; ``median``: of each parameter over its models.

    Returns
    -------
    DataFrame
        Indexed by cell, a column a parameter.
    """
    frame = pd.DataFrame(models.values, columns=list(models.parameters), index=models.cells)
    if unit == "best":
        return frame[models.ranks == 0]
    return frame.groupby(level=0, sort=True).median()


def _repeats(column: np.ndarray, first: np.ndarray) -> bool:
    present = ~np.isnan(column)
    return bool(np.allclose(column[present], first[present], rtol=SAME_PARAMETERS, atol=0.0))


def _read(path: Path) -> pd.DataFrame:
    try:
        return own_columns(pq.read_table(path, partitioning=None)).to_pandas()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a published population or a hall of fame as Parquet, or the folder of a run,"
            f" found none that can be read ({error})."
        ) from error


def _from_table(path: Path, table: pd.DataFrame) -> ModelTable:
    cell = next((name for name in CELL_COLUMNS if name in table), None)
    rank = next((name for name in RANK_COLUMNS if name in table), None)
    if cell is None or rank is None:
        raise InputError(
            f"{path}: expected columns {' or '.join(CELL_COLUMNS)} and {' or '.join(RANK_COLUMNS)}, found "
            f"{_listed(list(table.columns))}. Give a published population or a hall of fame."
        )
    prefixed = [name for name in table.columns if name.startswith(PARAMETER_PREFIX)]
    names = prefixed or [name for name in table.columns if name not in (cell, rank) and _numeric(table[name])]
    if not names or not len(table):
        raise InputError(f"{path}: expected models with their parameters, found none in this table.")
    cells = as_ids(table[cell])
    order = np.lexsort((np.arange(len(table)), table[rank].to_numpy(), cells))
    cells = cells[order]
    starts = np.searchsorted(cells, cells)
    values = table[names].to_numpy(np.float64)[order]
    return ModelTable(
        cells, np.arange(len(cells)) - starts, values, tuple(name.removeprefix(PARAMETER_PREFIX) for name in names)
    )


def as_ids(column: pd.Series) -> np.ndarray:
    """Return ids as text, also where a table holds them as numbers."""
    if pd.api.types.is_float_dtype(column) and column.notna().all() and (column % 1 == 0).all():
        column = column.astype("int64")
    return column.astype(str).str.strip().to_numpy(dtype=str)


def _numeric(column: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column))


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


ID_NAMES = ("cell_id", "cell", "specimen_id", "sample_id", "id")
CellConditions = Mapping[str, Sequence[str]]


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
        expected = f"`id: {column}`" if column else " or ".join(ID_NAMES)
        raise InputError(
            f"{source}: expected a column with the ids of the cells, {expected}, found "
            f"{_columns(table)}{did_you_mean(str(column), map(str, table.columns))}. Name it with `id:`."
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


def class_of_rows(
    table: pd.DataFrame, source: str, column: str | None, classes: Mapping[str, Sequence[str] | CellConditions]
) -> pd.Series:
    """Return the class of each row, "" for rows without one.

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
        return column_as_text(table, source, str(column))
    labels = pd.Series("", index=table.index, dtype=object)
    for name, values_or_conditions in classes.items():
        conditions = (
            values_or_conditions if isinstance(values_or_conditions, Mapping) else {str(column): values_or_conditions}
        )
        inside = np.ones(len(table), dtype=bool)
        for key, values in conditions.items():
            inside &= column_as_text(table, source, key).isin([str(value) for value in values]).to_numpy()
        if not inside.any():
            raise InputError(f"{source}: {_no_rows(table, source, name, conditions)}")
        twice = inside & (labels != "").to_numpy()
        if twice.any():
            raise InputError(
                f"{source}: expected each cell in one class, found {int(twice.sum())} in both {name} and "
                f"{labels[twice].iloc[0]}, such as {labels.index[twice][0]}. Narrow one of them with another"
                " column, as in `{cre_line: [...], layer: ['5']}`."
            )
        labels[inside] = name
    return labels


def column_as_text(table: pd.DataFrame, source: str, column: str) -> pd.Series:
    """Return a column as text, "" where it has no value.

    Raises
    ------
    InputError
        There is no such column.
    """
    if column not in table:
        raise InputError(
            f"{source}: expected a column {column!r}, found {_columns(table)}"
            f"{did_you_mean(column, map(str, table.columns))}."
        )
    values = table[column]
    return pd.Series(as_ids(values), index=table.index).where(values.notna(), "")


def _no_rows(table: pd.DataFrame, source: str, name: str, conditions: CellConditions) -> str:
    reasons = []
    for key, values in conditions.items():
        present = sorted(set(column_as_text(table, source, key)) - {""})
        unknown = [f"{value}{did_you_mean(str(value), present)}" for value in values if str(value) not in present]
        if unknown:
            reasons.append(f"{key} is nowhere {', '.join(unknown)}")
    reason = "; ".join(reasons) or "no row meets all its conditions"
    return f"expected rows of class {name}, found none: {reason}. Fix `classes:`, or leave the class out."


def _columns(table: pd.DataFrame, most: int = 8) -> str:
    names = [str(name) for name in table.columns]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
