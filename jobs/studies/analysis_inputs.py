"""The job file of an analysis of populations, and the tables that it reads and checks."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator

from neurofleet.errors import InputError, UsageError, did_you_mean
from neurofleet.jobs.job_file import LocalPath, Name, Strict, expanded
from neurofleet.jobs.studies.study import StudySpec
from neurofleet.neurosim.studies.cell_maps import LEAST_CELLS
from neurofleet.neurosim.studies.class_comparisons import LINKS, Link, missing_genes
from neurofleet.neurosim.studies.dispersion import reason_for_no_dispersion
from neurofleet.neurosim.studies.model_table import (
    ModelTable,
    class_of_rows,
    column_as_text,
    join_models,
    read_models,
    read_table,
    shared_parameters,
    with_ids,
)
from neurofleet.neurosim.studies.random_forest import refuse_small_classes
from neurofleet.wording import listed

Values = Annotated[list[str], Field(min_length=1)]
Classes = Annotated[dict[str, Values | dict[str, Values]], Field(min_length=1)]
_ValuesAsGiven = Annotated[list[str | int | float], Field(min_length=1)] | str
_ClassesAsGiven = dict[str, _ValuesAsGiven | dict[str, _ValuesAsGiven]] | None

PARAMETER_MAP = "parameters"
HALLS = "hall_of_fame"


def _as_text(given: Any) -> Any:
    """Return numbers in a job file, such as layers, as text."""
    if isinstance(given, dict):
        return {str(key): _as_text(value) for key, value in given.items()}
    if isinstance(given, list):
        return [str(value) if isinstance(value, int | float) else value for value in given]
    return given


class _ClassesSpec(Strict):
    """A part of a job file that may have `classes:`, whose values are compared as text."""

    @field_validator("classes", mode="before", check_fields=False, json_schema_input_type=_ClassesAsGiven)
    @classmethod
    def _text(cls, given: Any) -> Any:
        return _as_text(given)


class TableSpec(Strict):
    """A table, and the column with the ids of its cells."""

    table: LocalPath
    """A CSV or Parquet file."""
    id: str | None = None
    """The column with the ids of the cells; by default `cell_id`, `specimen_id` or the like."""


class GroupingSpec(_ClassesSpec):
    """A way to divide cells into classes.

    A class is a list of values of `column`, or a mapping of columns to values, all of which a cell meets.
    """

    column: str | None = None
    """The column of the table of cells that has the class."""
    classes: Classes | None = None
    """Classes by name: lists of values of `column`, or columns with values, all of which a cell meets. By default each
    value of `column` is a class.
    """
    forest: bool = True
    """Whether a random forest is trained to tell the classes apart."""

    @model_validator(mode="after")
    def _has_column(self) -> "GroupingSpec":
        lists = [name for name, values in (self.classes or {}).items() if isinstance(values, list)]
        if self.column is None and (lists or not self.classes):
            what = f"classes {', '.join(lists)} are lists of values" if lists else "there are no classes"
            raise ValueError(f"name the `column:` of the table of cells that has the class: {what}")
        return self


class FeaturesSpec(TableSpec, _ClassesSpec):
    """E-features of experiments, or of models where `rank` names the column of a model's rank.

    With `grouping`, the rows are compared under that grouping alone. With `column` or `classes` their classes
    come from this table, which may then hold cells that have no models.
    """

    rank: str | None = None
    """The column with a model's rank, where the e-features are those of models."""
    columns: Values | None = None
    """The columns that are compared; by default all numbers."""
    grouping: str | None = None
    """The only grouping under which the rows are compared; by default all of them."""
    column: str | None = None
    """The column of this table that has the class, which may then hold cells that have no models."""
    classes: Classes | None = None
    """Classes by values of `column`, in place of the grouping's."""


class ExpressionSpec(TableSpec, _ClassesSpec):
    """Gene expression, a row for each sequenced cell, whose class for one grouping is in a column of this table.

    Without `classes`, those of the grouping that are lists of values are looked for in `column`.
    """

    grouping: str
    """The grouping under which the sequenced cells are compared."""
    column: str
    """The column of this table that has the class of a sequenced cell."""
    classes: Classes | None = None
    """Classes by values of `column`; by default those of the grouping that are lists of values."""
    genes: Values | None = None
    """The genes that are compared; by default all numbers."""


class MapSpec(Strict):
    """A map of e-features: made of experiments, with models placed on it."""

    fit: str
    """The table of `features:` that the map is made from."""
    place: list[str] = []
    """Tables of `features:` that are placed on the map."""


class LinkSpec(Strict):
    """Mechanisms of a conductance, and the genes and e-features that are expected to rise with it."""

    mechanisms: Values
    """Mechanisms of a conductance."""
    genes: list[str] = []
    """Genes that are expected to rise with the conductance."""
    features: list[str] = []
    """E-features that are expected to rise with the conductance."""


class AnalyseSpec(StudySpec):
    """Populations of models against a table of their cells (`kind: analyse`)."""

    study: ClassVar[str] = "neurofleet.jobs.studies.analysis:Analysis"
    decisive_packages: ClassVar[tuple[str, ...]] = ("numpy", "scipy", "scikit-learn", "umap-learn")

    kind: Literal["analyse"] = "analyse"
    """A comparison of cells and classes by their populations of models."""
    populations: Annotated[list[LocalPath], Field(min_length=1)]
    """Folders of finished fits, or Parquet files with published populations or halls of fame; patterns are expanded."""
    cells: TableSpec
    """The table of the cells, one row per cell: a file, or `{table: ..., id: ...}`."""
    groupings: Annotated[dict[Name, GroupingSpec], Field(min_length=1)]
    """Ways to divide the cells into classes, by name."""
    unit: Literal["median", "best"] = "median"
    """The value of a cell in every test: the `median` of its models, or its `best` model."""
    features: dict[Name, FeaturesSpec] = {}
    """Tables of e-features, by name."""
    maps: dict[Name, MapSpec] = {}
    """Maps of e-features, by name, beside the map of the parameters."""
    expression: dict[Name, ExpressionSpec] = {}
    """Tables of gene expression, by name."""
    links: dict[str, LinkSpec] = {}
    """Conductances with the genes and e-features that belong to them, by name; they replace or add to Kv3.1-Kcnc1,
    Ih-Hcn1-3, NaTa_t-Scn8a, K_P-Kcna1-3,6 and K_T-Kcnd1-3.
    """
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of maps, forests and permutations; the same job writes the same tables, byte for byte."""

    def quick_version(self) -> Self:
        """The best model of each cell in place of the median of its models, and no forests."""
        groupings = {name: grouping.model_copy(update={"forest": False}) for name, grouping in self.groupings.items()}
        return self.model_copy(update={"unit": "best", "groupings": groupings})

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with patterns of run folders replaced by what they match."""
        if "populations" not in content:
            return content
        return content | {"populations": expanded(content["populations"], folder)}

    @field_validator("populations", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("cells", mode="before", json_schema_input_type=str | TableSpec)
    @classmethod
    def _as_table(cls, given: Any) -> Any:
        return {"table": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _known_names(self) -> "AnalyseSpec":
        def check(place: str, name: str | None, known: Collection[str], what: str) -> None:
            if name is not None and name not in known:
                listed = ", ".join(known) or "none"
                raise ValueError(f"{place}: there is no {what} {name!r}{did_you_mean(name, known)}, only {listed}")

        for key, genes in self.expression.items():
            check(f"expression.{key}.grouping", genes.grouping, self.groupings, "grouping")
        for key, table in self.features.items():
            check(f"features.{key}.grouping", table.grouping, self.groupings, "grouping")
            if (table.column is not None or table.classes is not None) and table.grouping is None:
                raise ValueError(f"features.{key}: `column:` and `classes:` need the `grouping:` they are for")
        for key, shown in self.maps.items():
            for name in (shown.fit, *shown.place):
                check(f"maps.{key}", name, self.features, "table of features")
        if PARAMETER_MAP in self.maps:
            raise ValueError(f"maps.{PARAMETER_MAP}: is the map of the parameters; choose another name")
        return self

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads; of a run, the folder of its models."""
        models = [path if path.suffix == ".parquet" else path / HALLS for path in self.populations]
        return [*models, *self.tables_named()]

    def tables_named(self) -> list[Path]:
        """Return the tables that the job reads besides its populations."""
        specs = (self.cells, *self.features.values(), *self.expression.values())
        return [spec.table for spec in specs]


@dataclass(frozen=True, eq=False)
class GroupingModels:
    """The models of a grouping's cells.

    Attributes
    ----------
    models : ModelTable
        With all their parameters.
    classes : Series
        Class by cell.
    shared : tuple of str
        Parameters that all of its cells have.
    forest : Series or None
        Classes that are large enough for a forest.
    disperses : bool
        Whether there are models and classes enough for distances within and between them.
    """

    models: ModelTable
    classes: pd.Series
    shared: tuple[str, ...]
    forest: pd.Series | None
    disperses: bool


@dataclass(frozen=True, eq=False)
class MeasuredTable:
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

    values: pd.DataFrame
    ranks: np.ndarray | None
    classes: dict[str, pd.Series]


@dataclass(frozen=True, eq=False)
class AnalysisInputs:
    """Models, and what is known of their cells.

    Attributes
    ----------
    models : ModelTable
        Of the cells that are in the table of cells.
    groupings : dict of str to GroupingModels
    features, expression : dict of str to MeasuredTable
    """

    models: ModelTable
    groupings: dict[str, GroupingModels]
    features: dict[str, MeasuredTable]
    expression: dict[str, MeasuredTable]


def check_tables(spec: AnalyseSpec, folder: Path) -> None:
    """Raise `UsageError` where a population or table does not exist."""
    missing = [path for path in (*spec.populations, *spec.tables_named()) if not (folder / path).exists()]
    if missing:
        raise UsageError(
            f"{', '.join(map(str, missing))} does not exist. A relative path starts at the job file's"
            f" folder, {folder.resolve()}."
        )


def read_analysis_inputs(spec: AnalyseSpec, folder: Path) -> tuple[AnalysisInputs, list[str]]:
    """Read everything that a job names.

    Returns
    -------
    AnalysisInputs
    list of str
        What is left out, and why.

    Raises
    ------
    UsageError, InputError
        A table cannot be used, or does not fit the others.
    """
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
        notes.append(f"{source} has no row for {len(without)} cells, which are left out: {listed(without)}.")
    unmodelled = sorted(set(table.index) - set(modelled))
    if unmodelled:
        notes.append(f"{source}: {len(unmodelled)} of its cells have no models: {listed(unmodelled)}.")
    models = models.rows(known)
    groupings = {
        name: _grouped(name, grouping, table, source, models, notes) for name, grouping in spec.groupings.items()
    }
    features = {
        name: _features(name, measured, spec, folder, table, source, notes) for name, measured in spec.features.items()
    }
    expression = {name: _expression(name, genes, spec, folder, notes) for name, genes in spec.expression.items()}
    _check_maps(spec, features)
    if expression:
        genes = {str(gene) for measured in expression.values() for gene in measured.values}
        absent = missing_genes(links_of(spec), genes)
        if absent:
            notes.append(f"No table of expression has {', '.join(absent)}.")
    return AnalysisInputs(models, groupings, features, expression), notes


def _grouped(
    name: str, spec: GroupingSpec, table: pd.DataFrame, source: str, models: ModelTable, notes: list[str]
) -> GroupingModels:
    try:
        all_classes = class_of_rows(table, source, spec.column, spec.classes or {})
        modelled = all_classes.loc[np.unique(models.cells)]
        classes = modelled[modelled != ""]
        empty = sorted(set(all_classes) - set(classes) - {""})
        if empty:
            notes.append(f"Grouping {name}: no cell of {', '.join(empty)} has models.")
        if classes.nunique() < 2:
            raise InputError(
                f"expected cells of two classes or more, found {classes.nunique()} with models. Correct"
                " `classes:`, or add populations."
            )
        members = models.rows(np.isin(models.cells, classes.index.to_numpy(dtype=str)))
        shared, left_out = shared_parameters(members)
        forest, small = refuse_small_classes(classes) if spec.forest else (None, [])
    except InputError as error:
        raise InputError(f"grouping {name}: {error}") from error
    notes += [f"Grouping {name}: {note}" for note in small]
    absent = [name for name, why in left_out.items() if why == "not in all cells"]
    if absent:
        notes.append(
            f"Grouping {name}: {len(shared)} parameters are shared by all of its cells; not in all cells, and"
            f" so in no distance, map or forest: {', '.join(absent)}."
        )
    why = reason_for_no_dispersion(members.columns(shared), classes)
    if why:
        notes.append(f"Grouping {name}: no dispersion: {why}")
    return GroupingModels(members, classes, shared, forest, why is None)


def _features(
    name: str,
    spec: FeaturesSpec,
    job: AnalyseSpec,
    folder: Path,
    cells: pd.DataFrame,
    source: str,
    notes: list[str],
) -> MeasuredTable:
    place = f"features.{name}: {spec.table}"
    table = with_ids(read_table(folder / spec.table), place, spec.id, unique=spec.rank is None)
    if spec.rank is not None and spec.rank not in table:
        raise InputError(
            f"{place}: expected a column {spec.rank!r} with the rank of a model in its cell, found "
            f"{listed(list(table.columns))}{did_you_mean(spec.rank, table.columns)}."
        )
    values = _numbers(table.drop(columns=[spec.rank] if spec.rank else []), place, spec.columns)
    classes = {}
    for key in [spec.grouping] if spec.grouping else list(job.groupings):
        grouping = job.groupings[key]
        if spec.column is not None or spec.classes is not None:
            classes[key] = _table_classes(table, place, spec.column, spec.classes, grouping, notes)
            continue
        all_cells = class_of_rows(cells, source, grouping.column, grouping.classes or {})
        classes[key] = pd.Series(all_cells.reindex(table.index).fillna("").to_numpy(), index=table.index)
        if (classes[key] == "").all():
            raise InputError(
                f"{place}: expected cells of grouping {key}, found none of them: its ids are such as "
                f"{listed(list(table.index), 3)}. Name the column with the right ids with `id:`, or say with"
                " `grouping:` which grouping the table is for."
            )
    return MeasuredTable(values, table[spec.rank].to_numpy() if spec.rank else None, classes)


def _expression(name: str, spec: ExpressionSpec, job: AnalyseSpec, folder: Path, notes: list[str]) -> MeasuredTable:
    place = f"expression.{name}: {spec.table}"
    table = with_ids(read_table(folder / spec.table), place, spec.id)
    grouping = job.groupings[spec.grouping]
    classes = _table_classes(table, place, spec.column, spec.classes, grouping, notes)
    return MeasuredTable(_numbers(table, place, spec.genes), None, {spec.grouping: classes})


def _table_classes(
    table: pd.DataFrame,
    place: str,
    column: str | None,
    classes: Any,
    grouping: GroupingSpec,
    notes: list[str],
) -> pd.Series:
    """Return the classes that a table gives: the named ones, else those of the grouping that it has."""
    if classes:
        names = list(grouping.classes or classes)
        unknown = [f"{name}{did_you_mean(name, names)}" for name in classes if name not in names]
        if unknown:
            raise InputError(f"{place}: the grouping has no class {', '.join(unknown)}, only {listed(names)}.")
        return class_of_rows(table, place, column, classes)
    if not grouping.classes:
        return column_as_text(table, place, str(column))
    values = set(column_as_text(table, place, str(column)))
    known = {
        name: members
        for name, members in grouping.classes.items()
        if isinstance(members, list) and values & set(members)
    }
    if len(known) < 2:
        raise InputError(
            f"{place}: expected rows of two classes or more of the grouping in column {column!r}, found "
            f"{len(known)}: it has {listed(sorted(values - {''}))}. Give `classes:` with what they are called"
            " here."
        )
    absent = [name for name in grouping.classes if name not in known]
    if absent:
        notes.append(f"{place}: no rows of {', '.join(absent)}.")
    return class_of_rows(table, place, column, known)


def _numbers(table: pd.DataFrame, place: str, columns: list[str] | None) -> pd.DataFrame:
    numeric = table.select_dtypes("number").astype("float64")
    names = list(numeric.columns) if columns is None else columns
    missing = [f"{name}{did_you_mean(name, numeric.columns)}" for name in names if name not in numeric]
    if missing:
        raise InputError(f"{place}: expected columns of numbers, found no {', '.join(missing)}.")
    if not names:
        raise InputError(f"{place}: expected columns of numbers, found none in {listed(list(table.columns))}.")
    return numeric[names]


def _check_maps(spec: AnalyseSpec, features: dict[str, MeasuredTable]) -> None:
    for name, shown in spec.maps.items():
        columns = map_columns(features[shown.fit], [features[table] for table in shown.place])
        rows = int(features[shown.fit].values[columns].notna().all(axis=1).sum()) if columns else 0
        if len(columns) < 2 or rows < LEAST_CELLS:
            raise InputError(
                f"maps.{name}: expected two features or more, known for {LEAST_CELLS} cells or more of "
                f"{shown.fit} and in all placed tables, found {len(columns)} for {rows} cells. Choose them"
                " with `columns:`, or leave the map out."
            )


KNOWN = 0.9
"""A feature takes part in a map where at least this part of the mapped cells has it."""


def map_columns(fitted: MeasuredTable, placed: list[MeasuredTable]) -> list[str]:
    """Return the features of a map: known for nearly all of its cells, and in all tables."""
    known = fitted.values.columns[fitted.values.notna().mean() >= KNOWN]
    return [name for name in known if all(name in table.values for table in placed)]


def links_of(spec: AnalyseSpec) -> dict[str, Link]:
    """Return the links of the paper, with those of the job added or in their place."""
    of_job = {
        name: Link(tuple(link.mechanisms), tuple(link.genes), tuple(link.features)) for name, link in spec.links.items()
    }
    return dict(LINKS) | of_job
