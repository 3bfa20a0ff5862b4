"""The job file of an analysis of populations."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from jobs.spec import JobSpec, Name, Strict

Values = Annotated[list[str], Field(min_length=1)]
Classes = Annotated[dict[str, Values | dict[str, Values]], Field(min_length=1)]

PARAMETER_MAP = "parameters"
HALLS = "hall_of_fame"


def _as_text(given: Any) -> Any:
    """Return numbers in a job file, such as layers, as text."""
    if isinstance(given, dict):
        return {str(key): _as_text(value) for key, value in given.items()}
    if isinstance(given, list):
        return [str(value) if isinstance(value, int | float) else value for value in given]
    return given


class TableSpec(Strict):
    """A table, and the column with the ids of its cells."""

    table: Path
    id: str | None = None


class GroupingSpec(Strict):
    """A way to class cells.

    A class is a list of values of `column`, or a mapping of columns to values, all of which a cell meets.
    """

    column: str | None = None
    classes: Classes | None = None
    forest: bool = True

    @field_validator("classes", mode="before")
    @classmethod
    def _text(cls, given: Any) -> Any:
        return _as_text(given)

    @model_validator(mode="after")
    def _has_column(self) -> "GroupingSpec":
        lists = [name for name, wanted in (self.classes or {}).items() if isinstance(wanted, list)]
        if self.column is None and (lists or not self.classes):
            what = f"classes {', '.join(lists)} are lists of values" if lists else "there are no classes"
            raise ValueError(f"name the `column:` of the table of cells that says the class: {what}")
        return self


class FeaturesSpec(TableSpec):
    """E-features of experiments, or of models where `rank` names the column of a model's rank.

    With `grouping`, the rows are compared under that grouping alone. With `column` or `classes` their classes
    come from this table, which may then hold cells that have no models.
    """

    rank: str | None = None
    columns: Values | None = None
    grouping: str | None = None
    column: str | None = None
    classes: Classes | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _text(cls, given: Any) -> Any:
        return _as_text(given)


class ExpressionSpec(TableSpec):
    """Gene expression, one row a sequenced cell, classed by its own column for one grouping.

    Without `classes`, those of the grouping that are lists of values are looked for in `column`.
    """

    grouping: str
    column: str
    classes: Classes | None = None
    genes: Values | None = None

    @field_validator("classes", mode="before")
    @classmethod
    def _text(cls, given: Any) -> Any:
        return _as_text(given)


class MapSpec(Strict):
    """A map of e-features: made of experiments, with models placed on it."""

    fit: str
    place: list[str] = []


class LinkSpec(Strict):
    """Mechanisms of a conductance, and the genes and e-features expected to rise with it."""

    mechanisms: Values
    genes: list[str] = []
    features: list[str] = []


class AnalyseSpec(JobSpec):
    """Populations of models against a table of their cells (`kind: analyse`)."""

    runner: ClassVar[str] = "jobs.analyse.run:run_analyse"
    planner: ClassVar[str] = "jobs.analyse.plan:print_analyse_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("numpy", "scipy", "scikit-learn", "umap-learn")

    kind: Literal["analyse"] = "analyse"
    populations: Annotated[list[Path], Field(min_length=1)]
    cells: TableSpec
    groupings: Annotated[dict[Name, GroupingSpec], Field(min_length=1)]
    unit: Literal["median", "best"] = "median"
    features: dict[Name, FeaturesSpec] = {}
    maps: dict[Name, MapSpec] = {}
    expression: dict[Name, ExpressionSpec] = {}
    links: dict[str, LinkSpec] = {}
    seed: Annotated[int, Field(ge=0)] = 1

    @field_validator("populations", mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("cells", mode="before")
    @classmethod
    def _bare(cls, given: Any) -> Any:
        return {"table": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _known_names(self) -> "AnalyseSpec":
        from neurosim.faults import nearest

        def check(place: str, name: str | None, known: Any, what: str) -> None:
            if name is not None and name not in known:
                listed = ", ".join(known) or "none"
                raise ValueError(f"{place}: there is no {what} {name!r}{nearest(name, known)}, only {listed}")

        for key, one in self.expression.items():
            check(f"expression.{key}.grouping", one.grouping, self.groupings, "grouping")
        for key, table in self.features.items():
            check(f"features.{key}.grouping", table.grouping, self.groupings, "grouping")
            if (table.column is not None or table.classes is not None) and table.grouping is None:
                raise ValueError(
                    f"features.{key}: `column:` and `classes:` need the `grouping:` they are for"
                )
        for key, wanted in self.maps.items():
            for name in (wanted.fit, *wanted.place):
                check(f"maps.{key}", name, self.features, "table of features")
        if PARAMETER_MAP in self.maps:
            raise ValueError(f"maps.{PARAMETER_MAP}: is the map of the parameters; choose another name")
        return self

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads; of a run, what holds its models."""
        models = [path if path.suffix == ".parquet" else path / HALLS for path in self.populations]
        return [*models, *self.tables_named()]

    def tables_named(self) -> list[Path]:
        """Return the tables that the job reads beside its populations."""
        tables = (self.cells, *self.features.values(), *self.expression.values())
        return [one.table for one in tables]
