"""Populations of models against what is known of their cells: dispersion, tests, forests, maps, and the findings."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from neurofleet.jobs.run_folder import JobRun, run_in_folder, versions
from neurofleet.jobs.studies.analysis_findings import print_findings
from neurofleet.jobs.studies.analysis_inputs import (
    PARAMETER_MAP,
    AnalyseSpec,
    AnalysisInputs,
    MapSpec,
    MeasuredTable,
    links_of,
    map_columns,
    read_analysis_inputs,
)
from neurofleet.jobs.studies.analysis_report import write_analysis_report
from neurofleet.jobs.studies.study import FINDINGS, write_findings
from neurofleet.neurosim.studies.cell_maps import LEAST_CELLS, decision_regions, gap_clusters, umap_map
from neurofleet.neurosim.studies.class_comparisons import compare, side_by_side
from neurofleet.neurosim.studies.dispersion import dispersion
from neurofleet.neurosim.studies.model_table import repeated_parameters, shared_parameters, values_of_cells
from neurofleet.neurosim.studies.random_forest import classify

Tables = dict[str, "pd.DataFrame"]


def analyse(
    spec: AnalyseSpec, inputs: AnalysisInputs, jobs: int, say: Callable[[str], None] = lambda step: None
) -> Tables:
    """Return the tables of an analysis by name.

    Parameters
    ----------
    jobs : int
        Threads for the forests; tables do not depend on it.
    say : callable
        Told each step as it begins.
    """
    steps: list[tuple[str, Callable[[], Tables]]] = [
        ("classes", lambda: {"classes": _classes(inputs)}),
        ("dispersion", lambda: _dispersions(spec, inputs)),
        ("tests", lambda: _tests(spec, inputs)),
        ("forests", lambda: _forests(spec, inputs, jobs)),
        ("maps", lambda: _maps(spec, inputs)),
    ]
    found: Tables = {}
    for name, step in steps:
        say(name)
        found |= step()
    return found


def _classes(inputs: AnalysisInputs) -> "pd.DataFrame":
    frames = [
        pd.DataFrame({"grouping": name, "cell": one.classes.index, "class": one.classes.to_numpy()})
        for name, one in inputs.groupings.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _dispersions(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    found: dict[str, list[pd.DataFrame]] = {}
    for name, one in inputs.groupings.items():
        if one.disperses:
            parts = dispersion(one.models.columns(one.shared), one.classes, spec.seed)
            for part, table in vars(parts).items():
                found.setdefault(f"dispersion_{part}", []).append(_with_grouping(name, table))
    return _joined(found)


def _tests(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    tables = []
    for name, one in inputs.groupings.items():
        repeated = repeated_parameters(one.models)
        own = one.models.columns([key for key in one.models.parameters if key not in repeated])
        values = values_of_cells(own, spec.unit)
        found = compare(values, one.classes.loc[values.index])
        tables.append(_labelled(found, name, "parameters", "models"))
        for family, sources in (("genes", inputs.expression), ("features", inputs.features)):
            for source, measured in sources.items():
                if name in measured.classes:
                    rows, classes = _one_row_a_cell(measured, measured.classes[name], spec.unit)
                    tables.append(_labelled(compare(rows, classes), name, family, source))
    tests = pd.concat(tables, ignore_index=True)
    return {"tests": tests, "links": side_by_side(tests, links_of(spec))}


def _one_row_a_cell(
    measured: MeasuredTable, classes: "pd.Series[str]", unit: str
) -> "tuple[pd.DataFrame, pd.Series[str]]":
    if measured.ranks is None:
        return measured.values, classes
    if unit == "best":
        best = measured.ranks == measured.values.assign(rank=measured.ranks).groupby(level=0)["rank"].transform("min")
        return measured.values[best.to_numpy()], classes[best.to_numpy()]
    values = measured.values.groupby(level=0, sort=True).median()
    return values, classes.groupby(level=0, sort=True).first()


def _forests(spec: AnalyseSpec, inputs: AnalysisInputs, jobs: int) -> Tables:
    found: dict[str, list[pd.DataFrame]] = {}
    for name, one in inputs.groupings.items():
        if one.forest is not None:
            parts = classify(one.models.columns(one.shared), one.forest, spec.seed, jobs)
            for part, table in vars(parts).items():
                found.setdefault(f"forest_{part}", []).append(_with_grouping(name, table))
    return _joined(found)


def _maps(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    found: dict[str, list[pd.DataFrame]] = {}
    for parts in (_parameter_map(spec, inputs), *(_feature_map(spec, inputs, key) for key in spec.maps)):
        for part, table in parts.items():
            found.setdefault(part, []).append(table)
    return _joined(found)


def _parameter_map(spec: AnalyseSpec, inputs: AnalysisInputs) -> Tables:
    """Map the best models of all cells, and place their others on it.

    Made of all models, a map of ten neighbours would know nothing of other cells: a model's nearest
    neighbours are the other models of its own cell.
    """
    grouped = [np.isin(inputs.models.cells, one.classes.index) for one in inputs.groupings.values()]
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
    wanted: MapSpec = spec.maps[name]
    tables = [inputs.features[one] for one in (wanted.fit, *wanted.place)]
    columns = map_columns(tables[0], tables[1:])
    values, labels = [], []
    for number, (source, one) in enumerate(zip((wanted.fit, *wanted.place), tables, strict=True)):
        there = one.values[columns].notna().all(axis=1).to_numpy()
        values.append(one.values.loc[there, columns].to_numpy())
        ranks = np.full(len(one.values), -1) if one.ranks is None else one.ranks
        cells = one.values.index.to_numpy(dtype=str)[there]
        labels.append(("placed" if number else "fitted", source, cells, ranks[there]))
    return _mapped(name, values[0], values[1:], labels, spec.seed)


def _mapped(name: str, fitted: Any, placed: list[Any], labels: list[Any], seed: int) -> Tables:
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


def _labelled(table: "pd.DataFrame", grouping: str, family: str, source: str) -> "pd.DataFrame":
    table.insert(0, "grouping", grouping)
    table.insert(1, "family", family)
    table.insert(2, "table", source)
    return table


def _with_grouping(grouping: str, table: "pd.DataFrame") -> "pd.DataFrame":
    table.insert(0, "grouping", grouping)
    return table


def _joined(parts: "dict[str, list[pd.DataFrame]]") -> Tables:
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


Findings = dict[str, Any]


def findings_of(spec: AnalyseSpec, inputs: AnalysisInputs, tables: Tables, notes: list[str]) -> Findings:
    """Return what is worth telling: dispersion, forests, maps, tests, links."""
    return {
        "name": spec.name,
        "kind": spec.kind,
        "notes": notes,
        "versions": versions(),
        "unit": spec.unit,
        "cells": len(set(inputs.models.cells)),
        "models": len(inputs.models),
        "groupings": {name: _grouping_findings(name, inputs, tables) for name in inputs.groupings},
        "maps": _map_findings(tables),
        "links": _plain_rows(tables["links"]),
    }


def _grouping_findings(name: str, inputs: AnalysisInputs, tables: Tables) -> dict[str, Any]:
    one = inputs.groupings[name]
    tests = tables["tests"]
    mine = tests[tests["grouping"] == name]
    families = mine.groupby(["family", "table"], sort=False)["significant"].agg(["size", "sum"])
    return {
        "classes": {str(key): int(size) for key, size in one.classes.value_counts(sort=False).sort_index().items()},
        "models": len(one.models),
        "shared_parameters": list(one.shared),
        "dispersion": _plain_rows(_of_grouping(tables.get("dispersion_tests"), name)),
        "forest": _forest_findings(_of_grouping(tables.get("forest_scores"), name)),
        "tests": [
            {"family": family, "table": source, "tests": int(size), "significant": int(number)}
            for (family, source), size, number in families.itertuples()
        ],
    }


def _forest_findings(scores: "pd.DataFrame | None") -> dict[str, Any] | None:
    """Return the means over shuffles, and the range of F1."""
    if scores is None or not len(scores):
        return None
    mean = scores.drop(columns=["grouping", "shuffle", "trees"]).mean()
    found = {str(key): float(value) for key, value in mean.items()}
    return found | {"f1_low": float(scores["f1"].min()), "f1_high": float(scores["f1"].max())}


def _map_findings(tables: Tables) -> dict[str, Any]:
    found = {}
    points, gaps = tables.get("map_points"), tables.get("map_gaps")
    if points is None or gaps is None:
        return {}
    for name, mine in points.groupby("map", sort=False):
        fitted = mine[mine["part"] == "fitted"].set_index("cell")["cluster"]
        placed = {}
        for source, rows in mine[mine["part"] == "placed"].groupby("table", sort=False):
            there = rows[rows["cell"].isin(fitted.index)]
            same = there["cluster"].to_numpy() == fitted.loc[there["cell"]].to_numpy()
            placed[str(source)] = {
                "rows": len(rows),
                "of_mapped_cells": len(there),
                "in_their_cells_cluster": float(same.mean()) if len(there) else None,
            }
        chosen = gaps[(gaps["map"] == name) & gaps["chosen"]]
        found[str(name)] = {
            "fitted": len(fitted),
            "clusters": int(chosen["clusters"].iloc[0]),
            "placed": placed,
        }
    return found


def _of_grouping(table: "pd.DataFrame | None", grouping: str) -> "pd.DataFrame | None":
    return None if table is None else table[table["grouping"] == grouping]


def _plain_rows(table: "pd.DataFrame | None") -> list[dict[str, Any]]:
    """Return the rows of a table with None for missing values."""
    if table is None:
        return []
    plain = table.astype(object)
    return [
        {str(key): value for key, value in row.items()} for row in plain.where(pd.notna(plain), None).to_dict("records")
    ]


def run_analyse(spec: AnalyseSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Analyse populations with everything kept in `out`; raises as `run_in_folder` does.

    It takes a minute or less and runs here, also where `address` names a cluster.
    """
    run_in_folder(
        spec, folder, out, lambda: read_analysis_inputs(spec, folder), lambda run: _analyse(run, cpus), FINDINGS
    )


def _analyse(run: JobRun, cpus: int | None) -> None:
    spec: AnalyseSpec = run.spec
    inputs: AnalysisInputs = run.inputs
    jobs = cpus or len(os.sched_getaffinity(0))

    def say(step: str) -> None:
        run.console.print(f"{spec.name}: {step} …", highlight=False, markup=False)

    tables = analyse(spec, inputs, jobs, say)
    write_analysis_tables(run, tables)
    found = findings_of(spec, inputs, tables, run.notes)
    write_analysis_report(run.out, found)
    print_findings(found, run.console)
    write_findings(run.out, found)


def write_analysis_tables(run: Any, tables: Tables) -> None:
    """Write tables as Parquet without an index, `NAME.parquet` in the run's folder."""
    for name, table in tables.items():
        plain = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
        run.store.write_table(f"{name}.parquet", plain)
