"""Take the first individuals of a search from models that were fitted before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs, parquet

from neurofleet.errors import InputError
from neurofleet.input_paths import shown
from neurofleet.neurosim.evolution.hall_of_fame_files import PARAMETER_PREFIX, of_seeds, own_columns
from neurofleet.neurosim.evolution.parameter_space import ParameterSpace

_SPECIMEN_DIGITS = 6  # numbers at least this long identify a specimen wherever they stand in a cell's id


def fill_missing(warm: np.ndarray, drawn: np.ndarray, space: ParameterSpace) -> np.ndarray:
    """Complete warm individuals (k, P): clipped to the bounds, and drawn values where they are NaN."""
    return np.where(np.isnan(warm), drawn, np.clip(warm, space.lower, space.upper))


def read_warm_start(path: str | Path, space: ParameterSpace, exclude_cell: str | None = None) -> np.ndarray:
    """Read fitted models as first individuals for a space.

    Parameters
    ----------
    path : path or URI
        The folder of a run (its `hall_of_fame/`), or one Parquet file: a hall of fame of ours (`cell`,
        `total`, `param.<name>`) or a published population (`cell_id`, `hof_index`, one column per parameter).
    space : ParameterSpace
        Says which parameters are wanted, in which order.
    exclude_cell : str, optional
        The cell that is to be fitted: its own models are left out.

    Returns
    -------
    ndarray, shape (k, P)
        The best model of every cell, then every cell's second best, and so on; NaN where a cell has no such
        parameter. Models that have more of the parameters go before those that have fewer (a library may mix
        recipes), and those that share none are left out.

    Raises
    ------
    InputError
        Nothing readable at `path`, no parameter of the space in it, or no model of another cell.
    """
    shared = _shared_models(_read_tables(str(path)), space)
    if not shared:
        names = ", ".join(space.names[:4]) + (", …" if len(space) > 4 else "")
        raise InputError(
            f"warm_start {shown(str(path))}: expected models with parameters of this stage ({names}), found none in "
            "any of them; use a hall of fame of the same recipe."
        )
    others = _without_cell(shared, exclude_cell)
    if not others:
        raise InputError(
            f"warm_start {shown(str(path))}: expected models of other cells, found only those of {exclude_cell}, and a "
            "cell is never started from its own fit; give a hall of fame of other cells."
        )
    return _ordered(others)


def warm_start_models(
    tables: Sequence[Any], space: ParameterSpace, exclude_cell: str | None = None
) -> np.ndarray | None:
    """Return the models of hall-of-fame tables as `read_warm_start` does, None when there are none.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
    space : ParameterSpace
    exclude_cell : str, optional
        The cell that is to be fitted.

    Returns
    -------
    ndarray, shape (k, P)
    """
    models = _without_cell(_shared_models(tables, space), exclude_cell)
    return _ordered(models) if models else None


WarmStartModel = tuple[int, str, np.ndarray]


def _shared_models(tables: Sequence[Any], space: ParameterSpace) -> list[WarmStartModel]:
    """The models that have at least one parameter of the space."""
    return [model for table in tables for model in _models(table, space) if not np.isnan(model[2]).all()]


def _without_cell(models: list[WarmStartModel], cell: str | None) -> list[WarmStartModel]:
    return [model for model in models if cell is None or not same_cell(model[1], cell)]


def _ordered(models: list[WarmStartModel]) -> np.ndarray:
    def order(model: WarmStartModel) -> tuple[int, int, str]:
        rank, cell, values = model
        return int(np.isnan(values).sum()), rank, cell

    return np.array([values for _, _, values in sorted(models, key=order)])


def _models(table: Any, space: ParameterSpace) -> list[WarmStartModel]:
    """Models of one table as (rank within the cell, cell, values with NaN where missing)."""
    parameters = {name.removeprefix(PARAMETER_PREFIX): name for name in table.column_names}
    nothing = np.full(table.num_rows, np.nan)
    values = np.stack(
        [
            nothing
            if (column := _find(name, parameters)) is None
            else np.asarray(table[column].to_pandas(), np.float64)
            for name in space.names
        ],
        axis=1,
    )
    cells = [str(cell) for cell in _column(table, "cell", "cell_id").to_pylist()]
    quality = _column(table, "total", "hof_index").to_pylist()
    ranks: dict[str, int] = {}
    models = []
    for row in sorted(range(len(cells)), key=lambda row: (quality[row], row)):
        rank = ranks.get(cells[row], 0)
        ranks[cells[row]] = rank + 1
        models.append((rank, cells[row], values[row]))
    return models


def _find(name: str, columns: dict[str, str]) -> str | None:
    """Column of a parameter; a whole cell's value also serves a section, and the soma's the whole cell."""
    base, _, section = name.rpartition(".")
    alternatives = [name, f"{base}.all", base] + ([f"{base}.soma"] if section == "all" else [])
    return next((columns[known] for known in alternatives if known in columns), None)


def _column(table: Any, *names: str) -> Any:
    for name in names:
        if name in table.column_names:
            return table[name]
    raise InputError(
        f"warm_start: expected a column {' or '.join(names)} in the Parquet file, found "
        f"{', '.join(table.column_names[:8])}; use a hall of fame written by neurofleet or a published "
        "population."
    )


def same_cell(cell: str, other_cell: str) -> bool:
    """Whether two ids mean one cell: equal, or naming the same specimen number."""
    number = rf"\d{{{_SPECIMEN_DIGITS},}}"
    return cell == other_cell or bool(set(re.findall(number, cell)) & set(re.findall(number, other_cell)))


def _read_tables(path: str) -> list[Any]:
    """Parquet tables of a file, or of a run's halls of fame with all models of a cell in one table."""
    if "://" in path:
        filesystem, root = fs.FileSystem.from_uri(path)
    else:
        filesystem, root = fs.LocalFileSystem(), str(Path(path).absolute())

    def read(file: str) -> Any:
        try:
            with filesystem.open_input_file(file) as source:
                return own_columns(parquet.ParquetFile(source).read())
        except (OSError, pa.ArrowException) as problem:
            raise InputError(f"warm_start {shown(str(path))}: cannot read {file} as Parquet ({problem}).") from problem

    kind = filesystem.get_file_info(root).type
    if kind == fs.FileType.File:
        return [read(root)]
    selector = fs.FileSelector(f"{root}/hall_of_fame", recursive=True, allow_not_found=True)
    folders: dict[str, list[str]] = {}
    for info in filesystem.get_file_info(selector):
        if info.type == fs.FileType.File and info.extension == "parquet":
            folder, _, name = info.path.rpartition("/")
            folders.setdefault(folder, []).append(name)
    if not folders:
        content = "a folder without one" if kind == fs.FileType.Directory else "nothing there"
        raise InputError(
            f"warm_start {shown(str(path))}: expected a Parquet file, or the folder of a run with its hall of fame "
            f"(hall_of_fame/cell=ID/*.parquet), found {content}; check the path, or let that run finish first."
        )
    tables = []
    for folder, names in sorted(folders.items()):
        found = [read(f"{folder}/{name}") for name in of_seeds(names)]
        tables.append(pa.concat_tables(found, promote_options="default"))
    return tables
