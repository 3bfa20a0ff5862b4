"""Fitted models of many cells: published populations and halls of fame of our runs, in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurosim.errors import InputError

CELL_COLUMNS = ("cell", "cell_id")
RANK_COLUMNS = ("hof_index", "total")
OWN_PREFIX = "param."
POOLED = "pooled.parquet"
SAME = 1e-9
"""Columns that agree to this relative difference are one parameter, written once a section."""


@dataclass(frozen=True, eq=False)
class Models:
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

    def rows(self, chosen: np.ndarray) -> "Models":
        """Return some of the models; `chosen` is a mask or row numbers."""
        return Models(self.cells[chosen], self.ranks[chosen], self.values[chosen], self.parameters)

    def columns(self, names: Sequence[str]) -> "Models":
        """Return the models with some of their parameters."""
        numbers = [self.parameters.index(name) for name in names]
        return Models(self.cells, self.ranks, self.values[:, numbers], tuple(names))

    def best(self, number: int = 1) -> "Models":
        """Return the first `number` models of each cell."""
        return self.rows(self.ranks < number)


def read_models(path: str | Path) -> Models:
    """Read the models of one source.

    Parameters
    ----------
    path : path
        The folder of a fit's run (its pooled halls of fame), or a Parquet file: a published population
        (`cell_id`, `hof_index`, one column a parameter) or a hall of fame of ours (`cell`, `total`,
        `param.<name>`).

    Raises
    ------
    InputError
        Nothing readable there, a run without a hall of fame, or a table without cells, ranks or parameters.
    """
    path = Path(path)
    if path.is_dir():
        return join_models([_from_table(place, _read(place)) for place in halls_of_fame(path)])
    return _from_table(path, _read(path))


def halls_of_fame(run: Path) -> list[Path]:
    """Return the files of a run's halls of fame, those of all seeds together where a cell has them.

    Raises
    ------
    InputError
        There are none.
    """
    found = []
    for folder in sorted(run.glob("hall_of_fame/cell=*")):
        pooled = folder / POOLED
        found += [pooled] if pooled.is_file() else sorted(folder.glob("*.parquet"))
    if not found:
        raise InputError(
            f"{run}: expected the folder of a run with its hall of fame (hall_of_fame/cell=ID/*.parquet),"
            f" found a folder without one. `neurofleet status {run}` says how far a fit is; let it finish, or"
            " name another folder."
        )
    return found


def join_models(several: Sequence[Models]) -> Models:
    """Return the models of several sources in one table, sorted by cell and rank.

    A parameter that a source does not have is NaN there.

    Raises
    ------
    InputError
        One cell is in more than one source.
    """
    seen: set[str] = set()
    for one in several:
        twice = sorted(seen & set(one.cells))
        if twice:
            raise InputError(
                f"Expected each cell in one population, found {_listed(twice)} in more than one. Leave one of"
                " them out, or rename its cells."
            )
        seen |= set(one.cells)
    frames = [pd.DataFrame(one.values, columns=list(one.parameters)) for one in several]
    values = pd.concat(frames, ignore_index=True)
    cells = np.concatenate([one.cells for one in several])
    ranks = np.concatenate([one.ranks for one in several])
    order = np.lexsort((ranks, cells))
    return Models(cells[order], ranks[order], values.to_numpy(np.float64)[order], tuple(values.columns))


def shared_parameters(models: Models) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the parameters that all models have and that tell them apart.

    The paper compares only parameters shared by all cells, so that a recipe's own channels do not give its
    cells away. A constant says nothing, and a value repeated once a section (Ra, g_pas, e_pas) would count
    several times in a distance: of equal columns the first is kept.

    Returns
    -------
    tuple of str
    dict
        Left-out parameter -> why.

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


def repeated_parameters(models: Models) -> dict[str, str]:
    """Return the parameters that are constant or equal an earlier one -> why they add nothing."""
    found: dict[str, str] = {}
    firsts: list[int] = []
    for number, name in enumerate(models.parameters):
        column = models.values[:, number]
        known = column[~np.isnan(column)]
        if not len(known) or np.ptp(known) <= SAME * abs(known[0]):
            found[name] = "constant"
            continue
        equal = [first for first in firsts if _repeats(column, models.values[:, first])]
        if equal:
            found[name] = f"equal to {models.parameters[equal[0]]}"
        else:
            firsts.append(number)
    return found


def of_cells(models: Models, unit: str) -> pd.DataFrame:
    """Return one row a cell, the unit of every test: its models are no samples of their own.

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
    there = ~np.isnan(column)
    return bool(np.allclose(column[there], first[there], rtol=SAME, atol=0.0))


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, partitioning=None)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: expected a published population or a hall of fame as Parquet, or the folder of a run,"
            f" found none that can be read ({error})."
        ) from error


def _from_table(path: Path, table: pd.DataFrame) -> Models:
    cell = next((name for name in CELL_COLUMNS if name in table), None)
    rank = next((name for name in RANK_COLUMNS if name in table), None)
    if cell is None or rank is None:
        raise InputError(
            f"{path}: expected columns {' or '.join(CELL_COLUMNS)} and {' or '.join(RANK_COLUMNS)}, found "
            f"{_listed(list(table.columns))}. Give a published population or a hall of fame."
        )
    own = [name for name in table.columns if name.startswith(OWN_PREFIX)]
    names = own or [name for name in table.columns if name not in (cell, rank) and _numeric(table[name])]
    if not names or not len(table):
        raise InputError(f"{path}: expected models with their parameters, found none in this table.")
    cells = as_ids(table[cell])
    order = np.lexsort((np.arange(len(table)), table[rank].to_numpy(), cells))
    cells = cells[order]
    starts = np.searchsorted(cells, cells)
    values = table[names].to_numpy(np.float64)[order]
    return Models(
        cells, np.arange(len(cells)) - starts, values, tuple(name.removeprefix(OWN_PREFIX) for name in names)
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
