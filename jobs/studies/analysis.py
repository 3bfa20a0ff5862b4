"""Analysis of populations of models against what is known of their cells: dispersion, tests, forests, maps."""

import os
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports.tables import ReportTable, print_line
from neurofleet.jobs.studies.analysis_inputs import (
    PARAMETER_MAP,
    AnalyseSpec,
    AnalysisInputs,
    MeasuredTable,
    check_tables,
    links_of,
    map_columns,
    read_analysis_inputs,
)
from neurofleet.jobs.studies.analysis_report import (
    AnalysisFindings,
    DispersionTest,
    FamilyTests,
    ForestScores,
    GroupingFindings,
    LinkedTest,
    MapFindings,
    PlacedRows,
)
from neurofleet.jobs.studies.study import Plan, Study
from neurofleet.jobs.terminal import terminal
from neurofleet.neurosim.studies.cell_maps import LEAST_CELLS, decision_regions, gap_clusters, umap_map
from neurofleet.neurosim.studies.class_comparisons import compare, side_by_side
from neurofleet.neurosim.studies.dispersion import dispersion
from neurofleet.neurosim.studies.model_table import repeated_parameters, shared_parameters, values_of_cells
from neurofleet.neurosim.studies.random_forest import classify

Tables = dict[str, pd.DataFrame]
Label = tuple[str, str, np.ndarray, np.ndarray]
"""Of the points of a map: part, table, cells and ranks."""


class Analysis(Study[AnalyseSpec, AnalysisInputs]):
    """Compares populations; it takes a minute or less and always runs on this machine."""

    def check_paths(self) -> None:
        """Raise `UsageError` where a population or table does not exist."""
        check_tables(self.spec, self.folder)

    def read(self) -> tuple[AnalysisInputs, list[str]]:
        """Read populations and tables; raises as `read_analysis_inputs` does."""
        return read_analysis_inputs(self.spec, self.folder)

    def assemble(self, inputs: AnalysisInputs, store: RunStore) -> tuple[dict[str, pa.Table], AnalysisFindings]:
        """Return the tables of the analysis, and the findings in them."""
        console = terminal(errors=True)
        spec, threads = self.spec, self.cpus or len(os.sched_getaffinity(0))
        steps = {
            "classes": lambda: {"classes": _classes(inputs)},
            "dispersion": lambda: _dispersions(spec, inputs),
            "tests": lambda: _tests(spec, inputs),
            "forests": lambda: _forests(spec, inputs, threads),
            "maps": lambda: _maps(spec, inputs),
        }
        tables: Tables = {}
        for name, step in steps.items():
            print_line(console, f"{spec.name}: {name} …")
            tables |= step()
        stored = {
            f"{name}.parquet": pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
            for name, table in tables.items()
        }
        return stored, findings_of(spec, inputs, tables)

    def plan(self, inputs: AnalysisInputs) -> Plan:
        """Return cells, classes, shared parameters and tables."""
        rows = []
        for name, grouping in inputs.groupings.items():
            sizes = grouping.classes.value_counts(sort=False).sort_index()
            rows.append(
                (
                    name,
                    ", ".join(f"{key} {size}" for key, size in sizes.items()),
                    len(grouping.shared),
                    "yes" if grouping.disperses else "no",
                    "no" if grouping.forest is None else f"{grouping.forest.nunique()} classes",
                )
            )
        head = ("grouping", "classes (cells)", "shared parameters", "dispersion", "forest")
        title = f"{self.spec.name}: {len(set(inputs.models.cells)):,} cells, {len(inputs.models):,} models"
        lines = [
            f"{key}: {len(measured.values):,} rows, {measured.values.shape[1]} columns, for "
            f"{', '.join(measured.classes)}"
            for key, measured in (*inputs.features.items(), *inputs.expression.items())
        ]
        return Plan([ReportTable(head, rows, title=title)], lines)


def _classes(inputs: AnalysisInputs) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"grouping": name, "cell": grouping.classes.index, "class": grouping.classes.to_numpy()})
        for name, grouping in inputs.groupings.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _dispersions(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, grouping in inputs.groupings.items():
        if grouping.disperses:
            parts = dispersion(grouping.models.columns(grouping.shared), grouping.classes, spec.seed)
            for part, table in vars(parts).items():
                tables.setdefault(f"dispersion_{part}", []).append(_with_grouping(name, table))
    return _joined(tables)


def _tests(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    tables = []
    for name, grouping in inputs.groupings.items():
        repeated = repeated_parameters(grouping.models)
        distinct = grouping.models.columns([key for key in grouping.models.parameters if key not in repeated])
        values = values_of_cells(distinct, spec.unit)
        tests = compare(values, grouping.classes.loc[values.index])
        tables.append(_labelled(tests, name, "parameters", "models"))
        for family, sources in (("genes", inputs.expression), ("features", inputs.features)):
            for source, measured in sources.items():
                if name in measured.classes:
                    rows, classes = _one_row_a_cell(measured, measured.classes[name], spec.unit)
                    tables.append(_labelled(compare(rows, classes), name, family, source))
    joined = pd.concat(tables, ignore_index=True)
    return {"tests": joined, "links": side_by_side(joined, links_of(spec))}


def _one_row_a_cell(measured: MeasuredTable, classes: pd.Series, unit: str) -> tuple[pd.DataFrame, pd.Series]:
    if measured.ranks is None:
        return measured.values, classes
    if unit == "best":
        best = measured.ranks == measured.values.assign(rank=measured.ranks).groupby(level=0)["rank"].transform("min")
        return measured.values[best.to_numpy()], classes[best.to_numpy()]
    values = measured.values.groupby(level=0, sort=True).median()
    return values, classes.groupby(level=0, sort=True).first()


def _forests(spec: AnalyseSpec, inputs: AnalysisInputs, jobs: int) -> Tables:
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, grouping in inputs.groupings.items():
        if grouping.forest is not None:
            parts = classify(grouping.models.columns(grouping.shared), grouping.forest, spec.seed, jobs)
            for part, table in vars(parts).items():
                tables.setdefault(f"forest_{part}", []).append(_with_grouping(name, table))
    return _joined(tables)


def _maps(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    tables: dict[str, list[pd.DataFrame]] = {}
    for parts in (_parameter_map(spec, inputs), *(_feature_map(spec, inputs, key) for key in spec.maps)):
        for part, table in parts.items():
            tables.setdefault(part, []).append(table)
    return _joined(tables)


def _parameter_map(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    """Map the best models of all cells, and place the other models on it.

    A map of all models would show nothing of other cells: the ten nearest neighbours of a model are other
    models of its cell.
    """
    grouped = [np.isin(inputs.models.cells, grouping.classes.index) for grouping in inputs.groupings.values()]
    models = inputs.models.rows(np.logical_or.reduce(grouped))
    models = models.columns(shared_parameters(models)[0])
    best = models.best()
    if len(best) < LEAST_CELLS:
        return {}
    others = models.rows(models.ranks > 0)
    labels = [("fitted", "models", best.cells, best.ranks)]
    if not len(others):
        return _mapped(PARAMETER_MAP, best.values, [], labels, spec.seed)
    labels.append(("placed", "models", others.cells, others.ranks))
    return _mapped(PARAMETER_MAP, best.values, [others.values], labels, spec.seed)


def _feature_map(spec: AnalyseSpec, inputs: AnalysisInputs, name: str) -> Tables:
    shown = spec.maps[name]
    sources = (shown.fit, *shown.place)
    tables = [inputs.features[source] for source in sources]
    columns = map_columns(tables[0], tables[1:])
    values, labels = [], []
    for number, (source, table) in enumerate(zip(sources, tables, strict=True)):
        complete = table.values[columns].notna().all(axis=1).to_numpy()
        values.append(table.values.loc[complete, columns].to_numpy())
        ranks = np.full(len(table.values), -1) if table.ranks is None else table.ranks
        cells = table.values.index.to_numpy(dtype=str)[complete]
        labels.append(("placed" if number else "fitted", source, cells, ranks[complete]))
    return _mapped(name, values[0], values[1:], labels, spec.seed)


def _mapped(name: str, fitted: np.ndarray, placed: list[np.ndarray], labels: list[Label], seed: int) -> Tables:
    drawn = umap_map(fitted, placed, seed)
    clusters = gap_clusters(drawn.fitted, seed)
    flats = [drawn.fitted, *drawn.placed]
    points = [
        pd.DataFrame(
            {
                "map": name,
                "part": part,
                "table": source,
                "cell": cells,
                "rank": ranks.astype("int64"),
                "x": flat[:, 0],
                "y": flat[:, 1],
                "cluster": clusters.model.predict(flat),
            }
        )
        for (part, source, cells, ranks), flat in zip(labels, flats, strict=True)
    ]
    grid, regions = decision_regions(clusters, flats)
    gap = pd.DataFrame({"map": name, "clusters": clusters.numbers, "gap": clusters.gap})
    gap["gap_sd"], gap["chosen"] = clusters.gap_sd, clusters.numbers == clusters.number
    return {
        "map_points": pd.concat(points, ignore_index=True),
        "map_regions": pd.DataFrame({"map": name, "x": grid[:, 0], "y": grid[:, 1], "cluster": regions}),
        "map_gaps": gap,
    }


def _labelled(table: pd.DataFrame, grouping: str, family: str, source: str) -> pd.DataFrame:
    table.insert(0, "grouping", grouping)
    table.insert(1, "family", family)
    table.insert(2, "table", source)
    return table


def _with_grouping(grouping: str, table: pd.DataFrame) -> pd.DataFrame:
    table.insert(0, "grouping", grouping)
    return table


def _joined(parts: dict[str, list[pd.DataFrame]]) -> Tables:
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def findings_of(spec: AnalyseSpec, inputs: AnalysisInputs, tables: Tables) -> AnalysisFindings:
    """Return the findings in the tables: dispersion, tests, forests, maps, and links."""
    return AnalysisFindings(
        unit=spec.unit,
        cells=len(set(inputs.models.cells)),
        models=len(inputs.models),
        groupings={name: _grouping_findings(name, inputs, tables) for name in inputs.groupings},
        maps=_map_findings(tables),
        links=[LinkedTest(**row) for row in _plain_rows(tables["links"])],
    )


def _grouping_findings(name: str, inputs: AnalysisInputs, tables: Tables) -> GroupingFindings:
    grouping = inputs.groupings[name]
    tests = tables["tests"]
    of_grouping = tests[tests["grouping"] == name]
    families = of_grouping.groupby(["family", "table"], sort=False)["significant"].agg(["size", "sum"])
    sizes = grouping.classes.value_counts(sort=False).sort_index()
    return GroupingFindings(
        classes={str(key): int(size) for key, size in sizes.items()},
        models=len(grouping.models),
        shared_parameters=list(grouping.shared),
        dispersion=[DispersionTest(**row) for row in _plain_rows(_of_grouping(tables.get("dispersion_tests"), name))],
        forest=_forest_scores(_of_grouping(tables.get("forest_scores"), name)),
        tests=[
            FamilyTests(family=family, table=source, tests=int(size), significant=int(number))
            for (family, source), size, number in families.itertuples()
        ],
    )


def _forest_scores(scores: pd.DataFrame | None) -> ForestScores | None:
    """Return the means over shuffles, and the range of F1."""
    if scores is None or not len(scores):
        return None
    mean = scores.drop(columns=["grouping", "shuffle", "trees"]).mean()
    means = {str(key): float(value) for key, value in mean.items()}
    return ForestScores(**means, f1_low=float(scores["f1"].min()), f1_high=float(scores["f1"].max()))


def _map_findings(tables: Tables) -> dict[str, MapFindings]:
    maps = {}
    points, gaps = tables.get("map_points"), tables.get("map_gaps")
    if points is None or gaps is None:
        return {}
    for name, of_map in points.groupby("map", sort=False):
        fitted = of_map[of_map["part"] == "fitted"].set_index("cell")["cluster"]
        placed = {}
        for source, rows in of_map[of_map["part"] == "placed"].groupby("table", sort=False):
            mapped = rows[rows["cell"].isin(fitted.index)]
            same = mapped["cluster"].to_numpy() == fitted.loc[mapped["cell"]].to_numpy()
            placed[str(source)] = PlacedRows(
                rows=len(rows),
                of_mapped_cells=len(mapped),
                in_their_cells_cluster=float(same.mean()) if len(mapped) else None,
            )
        chosen = gaps[(gaps["map"] == name) & gaps["chosen"]]
        maps[str(name)] = MapFindings(fitted=len(fitted), clusters=int(chosen["clusters"].iloc[0]), placed=placed)
    return maps


def _of_grouping(table: pd.DataFrame | None, grouping: str) -> pd.DataFrame | None:
    return None if table is None else table[table["grouping"] == grouping]


def _plain_rows(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the rows of a table with None for missing values."""
    if table is None:
        return []
    plain = table.astype(object)
    return [
        {str(key): value for key, value in row.items()} for row in plain.where(pd.notna(plain), None).to_dict("records")
    ]
