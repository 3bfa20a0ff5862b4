"""What an analysis reads, checked before anything is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.analyse.spec import AnalyseSpec, ExpressionSpec, FeaturesSpec, GroupingSpec
from jobs.errors import UsageError
from neurosim.errors import InputError
from neurosim.faults import nearest

if TYPE_CHECKING:
    import pandas as pd

    from neurosim.populations.links import Link
    from neurosim.populations.models import Models


@dataclass(frozen=True, eq=False)
class Grouped:
    """The models of a grouping's cells.

    Attributes
    ----------
    models : Models
        With all their parameters.
    classes : Series
        Class by cell, each cell in one.
    shared : tuple of str
        Parameters that all of its cells have.
    forest : Series or None
        Classes that are large enough for a forest.
    disperses : bool
        Whether there are models and classes enough for distances within and between them.
    """

    models: "Models"
    classes: "pd.Series[str]"
    shared: tuple[str, ...]
    forest: "pd.Series[str] | None"
    disperses: bool


@dataclass(frozen=True, eq=False)
class Measured:
    """Features or genes of one table.

    Attributes
    ----------
    values : DataFrame
        Rows by cell id, columns of numbers.
    ranks : ndarray or None
        Of models; None for experiments and sequenced cells.
    classes : dict
        Grouping -> class of each row, "" for none.
    """

    values: "pd.DataFrame"
    ranks: Any
    classes: "dict[str, pd.Series[str]]"


@dataclass(frozen=True, eq=False)
class Inputs:
    """All that an analysis is about.

    Attributes
    ----------
    models : Models
        Of the cells that are in the table of cells.
    groupings : dict of str to Grouped
    features, expression : dict of str to Measured
    """

    models: "Models"
    groupings: dict[str, Grouped]
    features: dict[str, Measured]
    expression: dict[str, Measured]


def read_inputs(spec: AnalyseSpec, folder: Path) -> tuple[Inputs, list[str]]:
    """Read everything that a job names, and what is to be said of it.

    Raises
    ------
    UsageError, InputError
        Something is missing, or does not fit the rest.
    """
    import numpy as np

    from neurosim.populations.cells import read_table, with_ids
    from neurosim.populations.links import missing_genes
    from neurosim.populations.models import join_models, read_models

    missing = [path for path in (*spec.populations, *spec.tables_named()) if not (folder / path).exists()]
    if missing:
        raise UsageError(
            f"{', '.join(map(str, missing))} does not exist. A relative path starts at the job file's"
            f" folder, {folder.resolve()}."
        )
    notes: list[str] = []
    models = join_models([read_models(folder / path) for path in spec.populations])
    source = str(spec.cells.table)
    table = with_ids(read_table(folder / spec.cells.table), source, spec.cells.id)
    known = np.isin(models.cells, table.index.to_numpy(dtype=str))
    modelled = np.unique(models.cells)
    if not known.any():
        raise InputError(
            f"{source}: expected cells of the populations, found none: its ids are such as "
            f"{', '.join(table.index[:3])}, those of the populations such as {', '.join(modelled[:3])}. Name"
            " the column with the right ids under `cells: {table: ..., id: ...}`."
        )
    without = sorted(set(models.cells[~known]))
    if without:
        notes.append(f"{source} says nothing of {len(without)} cells, which are left out: {_some(without)}.")
    unmodelled = sorted(set(table.index) - set(modelled))
    if unmodelled:
        notes.append(f"{source}: {len(unmodelled)} of its cells have no models: {_some(unmodelled)}.")
    models = models.rows(known)
    groupings = {
        name: _grouped(name, one, table, source, models, notes) for name, one in spec.groupings.items()
    }
    features = {
        name: _features(name, one, spec, folder, table, source, notes) for name, one in spec.features.items()
    }
    expression = {name: _expression(name, one, spec, folder, notes) for name, one in spec.expression.items()}
    _check_maps(spec, features)
    if expression:
        genes = {str(gene) for one in expression.values() for gene in one.values}
        absent = missing_genes(links_of(spec), genes)
        if absent:
            notes.append(f"No table of expression has {', '.join(absent)}.")
    return Inputs(models, groupings, features, expression), notes


def _grouped(
    name: str, spec: GroupingSpec, table: "pd.DataFrame", source: str, models: "Models", notes: list[str]
) -> Grouped:
    import numpy as np

    from neurosim.populations.cells import classes_of
    from neurosim.populations.dispersion import undispersed
    from neurosim.populations.forest import refuse_small_classes
    from neurosim.populations.models import shared_parameters

    try:
        told = classes_of(table, source, spec.column, spec.classes or {})
        here = told.loc[np.unique(models.cells)]
        classes = here[here != ""]
        empty = sorted(set(told) - set(classes) - {""})
        if empty:
            notes.append(f"Grouping {name}: no cell of {', '.join(empty)} has models.")
        if classes.nunique() < 2:
            raise InputError(
                f"expected cells of two classes or more, found {classes.nunique()} with models. Mend"
                " `classes:`, or add populations."
            )
        mine = models.rows(np.isin(models.cells, classes.index.to_numpy(dtype=str)))
        shared, left_out = shared_parameters(mine)
        forest, small = refuse_small_classes(classes) if spec.forest else (None, [])
    except InputError as error:
        raise InputError(f"grouping {name}: {error}") from error
    notes += [f"Grouping {name}: {note}" for note in small]
    absent = [one for one, why in left_out.items() if why == "not in all cells"]
    if absent:
        notes.append(
            f"Grouping {name}: {len(shared)} parameters are shared by all of its cells; not in all cells, and"
            f" so in no distance, map or forest: {', '.join(absent)}."
        )
    why = undispersed(mine.columns(shared), classes)
    if why:
        notes.append(f"Grouping {name}: no dispersion: {why}")
    return Grouped(mine, classes, shared, forest, why is None)


def _features(
    name: str,
    spec: FeaturesSpec,
    job: AnalyseSpec,
    folder: Path,
    cells: "pd.DataFrame",
    source: str,
    notes: list[str],
) -> Measured:
    import pandas as pd

    from neurosim.populations.cells import classes_of, read_table, with_ids

    told = f"features.{name}: {spec.table}"
    table = with_ids(read_table(folder / spec.table), told, spec.id, unique=spec.rank is None)
    if spec.rank is not None and spec.rank not in table:
        raise InputError(
            f"{told}: expected a column {spec.rank!r} with the rank of a model in its cell, found "
            f"{_some(list(table.columns))}{nearest(spec.rank, table.columns)}."
        )
    values = _numbers(table.drop(columns=[spec.rank] if spec.rank else []), told, spec.columns)
    wanted = [spec.grouping] if spec.grouping else list(job.groupings)
    classes = {}
    for key in wanted:
        grouping = job.groupings[key]
        if spec.column is not None or spec.classes is not None:
            classes[key] = _own_classes(table, told, spec.column, spec.classes, grouping, notes)
            continue
        all_cells = classes_of(cells, source, grouping.column, grouping.classes or {})
        classes[key] = pd.Series(all_cells.reindex(table.index).fillna("").to_numpy(), index=table.index)
        if (classes[key] == "").all():
            raise InputError(
                f"{told}: expected cells of grouping {key}, found none of them: its ids are such as "
                f"{_some(list(table.index), 3)}. Name the column with the right ids with `id:`, or say with"
                " `grouping:` which grouping the table is for."
            )
    return Measured(values, table[spec.rank].to_numpy() if spec.rank else None, classes)


def _expression(
    name: str, spec: ExpressionSpec, job: AnalyseSpec, folder: Path, notes: list[str]
) -> Measured:
    from neurosim.populations.cells import read_table, with_ids

    told = f"expression.{name}: {spec.table}"
    table = with_ids(read_table(folder / spec.table), told, spec.id)
    grouping = job.groupings[spec.grouping]
    classes = _own_classes(table, told, spec.column, spec.classes, grouping, notes)
    return Measured(_numbers(table, told, spec.genes), None, {spec.grouping: classes})


def _own_classes(
    table: "pd.DataFrame",
    told: str,
    column: str | None,
    classes: Any,
    grouping: GroupingSpec,
    notes: list[str],
) -> "pd.Series[str]":
    """Return classes that a table says itself: those it is given, or the grouping's where it has them."""
    from neurosim.populations.cells import classes_of, text_of

    if classes:
        names = list(grouping.classes or classes)
        strange = [f"{name}{nearest(name, names)}" for name in classes if name not in names]
        if strange:
            raise InputError(f"{told}: the grouping has no class {', '.join(strange)}, only {_some(names)}.")
        return classes_of(table, told, column, classes)
    if not grouping.classes:
        return text_of(table, told, str(column))
    there = set(text_of(table, told, str(column)))
    own = {
        name: wanted
        for name, wanted in grouping.classes.items()
        if isinstance(wanted, list) and there & set(wanted)
    }
    if len(own) < 2:
        raise InputError(
            f"{told}: expected rows of two classes or more of the grouping in column {column!r}, found "
            f"{len(own)}: it says {_some(sorted(there - {''}))}. Give `classes:` with what they are called"
            " here."
        )
    absent = [name for name in grouping.classes if name not in own]
    if absent:
        notes.append(f"{told}: nothing of {', '.join(absent)}.")
    return classes_of(table, told, column, own)


def _numbers(table: "pd.DataFrame", told: str, columns: list[str] | None) -> "pd.DataFrame":
    numeric = table.select_dtypes("number").astype("float64")
    wanted = list(numeric.columns) if columns is None else columns
    strange = [f"{name}{nearest(name, numeric.columns)}" for name in wanted if name not in numeric]
    if strange:
        raise InputError(f"{told}: expected columns of numbers, found no {', '.join(strange)}.")
    if not wanted:
        raise InputError(f"{told}: expected columns of numbers, found none in {_some(list(table.columns))}.")
    return numeric[wanted]


def _check_maps(spec: AnalyseSpec, features: dict[str, Measured]) -> None:
    from neurosim.populations.maps import LEAST_CELLS

    for name, wanted in spec.maps.items():
        columns = map_columns(features[wanted.fit], [features[one] for one in wanted.place])
        rows = int(features[wanted.fit].values[columns].notna().all(axis=1).sum()) if columns else 0
        if len(columns) < 2 or rows < LEAST_CELLS:
            raise InputError(
                f"maps.{name}: expected two features or more, known for {LEAST_CELLS} cells or more of "
                f"{wanted.fit} and in all placed tables, found {len(columns)} for {rows} cells. Choose them"
                " with `columns:`, or leave the map out."
            )


KNOWN = 0.9
"""A feature takes part in a map where at least this part of the mapped cells has it."""


def map_columns(fitted: Measured, placed: list[Measured]) -> list[str]:
    """Return the features of a map: known for nearly all of its cells, and in all tables."""
    known = fitted.values.columns[fitted.values.notna().mean() >= KNOWN]
    return [name for name in known if all(name in one.values for one in placed)]


def links_of(spec: AnalyseSpec) -> "dict[str, Link]":
    """Return the links of the paper with the job's own in their place or beside them."""
    from neurosim.populations.links import LINKS, Link

    own = {
        name: Link(tuple(one.mechanisms), tuple(one.genes), tuple(one.features))
        for name, one in spec.links.items()
    }
    return dict(LINKS) | own


def _some(names: list[Any], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
