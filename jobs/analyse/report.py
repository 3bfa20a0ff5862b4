"""The report of an analysis: one HTML page that needs nothing beside itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.analyse import results
from jobs.analyse.dispersion_figure import MOST_CELLS, dispersion_figure
from jobs.analyse.effects_figure import effects_figure
from jobs.analyse.forest_figure import forest_figure
from jobs.analyse.links_figure import links_figure
from jobs.analyse.map_figure import map_figure
from jobs.populations.folder import read_findings
from jobs.report import page

if TYPE_CHECKING:
    import pandas as pd

NAME = "report.html"


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` from what the folder of a finished analysis holds, and return where it is.

    Raises
    ------
    UsageError
        It has not ended.
    """
    return write_analysis_report(folder, read_findings(folder))


def write_analysis_report(out: Path, found: Mapping[str, Any]) -> str:
    """Write the report of an analysis from its tables and findings, and return where it is."""
    from cluster.store import RunStore

    store = RunStore(out)
    body = [page.heading(1, found["name"]), page.paragraph(_summary(found), "quiet")]
    for name, one in found["groupings"].items():
        body += _grouping(store, found, name, one)
    body += _maps(store, found)
    if found["notes"]:
        body += [page.heading(2, "Notes"), *(page.paragraph(note) for note in found["notes"])]
    body += _provenance(store, found)
    store.write_text(NAME, page.page(f"{found['name']}: report", body))
    return f"{store.root.rstrip('/')}/{NAME}"


def _summary(found: Mapping[str, Any]) -> str:
    unit = {"median": "the median of its models", "best": "its best model"}[found["unit"]]
    return (
        f"{found['models']:,} models of {found['cells']:,} cells. A cell counts once in every test, with"
        f" {unit}; a forest is tested on cells of which it has seen no model."
    )


def _grouping(store: Any, found: Mapping[str, Any], name: str, one: Mapping[str, Any]) -> list[str]:
    counts = ", ".join(f"{key} {size}" for key, size in one["classes"].items())
    parts = [
        page.heading(2, name),
        page.paragraph(f"Cells: {counts}. Shared parameters: {len(one['shared_parameters'])}."),
    ]
    mine = {**found, "groupings": {name: one}}
    if one["dispersion"]:
        parts += _dispersion(store, name, mine)
    parts += _tests(store, name, mine)
    if one["forest"]:
        parts += _forest(store, name, mine)
    return parts


def _dispersion(store: Any, name: str, mine: Mapping[str, Any]) -> list[str]:
    cells, pairs = _table(store, "dispersion_cells", name), _table(store, "dispersion_pairs", name)
    numbers = (1, 3, 4, 5, 6)
    few = f" At most {MOST_CELLS} cells are drawn, of each class in proportion." * (len(cells) > MOST_CELLS)
    return [
        page.heading(3, "Dispersion"),
        page.table(results.DISPERSION_HEAD, results.dispersion_rows(mine), numbers=numbers),
        page.figure(
            dispersion_figure(cells, pairs),
            "Mean distance between models in the space of standardised shared parameters. Left: of pairs of"
            " cells; on the diagonal, of the models of one cell; the farthest 2 % have one"
            f" colour.{few} Right: of each cell's models, to each other, to those of other cells of its"
            " class, and to those of other classes.",
        ),
    ]


def _tests(store: Any, name: str, mine: Mapping[str, Any]) -> list[str]:
    tests = _table(store, "tests", name)
    parts = [page.heading(3, "Conductances of classes")]
    counted = [
        f"{row['significant']} of {row['tests']} tests of {row['table']}"
        for row in mine["groupings"][name]["tests"]
    ]
    parts.append(page.paragraph(f"Significant at a false discovery rate of 5 %: {', '.join(counted)}."))
    parts.append(
        page.figure(
            effects_figure(tests[tests["family"] == "parameters"]),
            "Cliff's delta of every parameter and pair of classes: orange where the first class of the pair"
            " is higher, blue where the second is. Dots: adjusted p < 0.05 (·), 0.01 (··), 0.001 (···).",
        )
    )
    pairs = [pair for grouping, pair in results.link_pairs(mine) if grouping == name]
    if pairs:
        links = _table(store, "links", name)
        parts += [
            page.heading(3, "Conductances, genes and e-features side by side"),
            page.figure(
                links_figure(links[links["pair"].isin(pairs)]),
                "Cliff's delta towards the first class of each pair: filled where the adjusted p is below"
                " 0.05, open where it is not.",
            ),
            page.paragraph(
                "“Agrees”: the class that is higher in the conductances that differ significantly is higher"
                " here as well. n: cells of the higher and the lower class. δ: Cliff's delta. The adjusted p"
                " is of the smaller of two one-sided tests, as in the paper; that of two-sided tests stands"
                " beside it."
            ),
        ]
        for pair in pairs:
            rows = page.table(results.LINK_HEAD, results.link_rows(mine, name, pair), numbers=(3, 4, 5, 6))
            parts.append(page.details(pair, rows))
    return parts


def _forest(store: Any, name: str, mine: Mapping[str, Any]) -> list[str]:
    predictions = _table(store, "forest_predictions", name)
    importances = _table(store, "forest_importances", name)
    return [
        page.heading(3, "Random forest"),
        page.table(results.FOREST_HEAD, results.forest_rows(mine), numbers=range(1, 7)),
        page.figure(
            forest_figure(predictions, importances),
            "Left: test cells of all shuffles by true class (rows) and predicted class (columns). Right: the"
            " parameters that the forests use most, by their share of the decrease in Gini impurity.",
        ),
        page.paragraph(
            "“Majority” always says the most frequent class; “shuffled” forests are trained on permuted"
            " classes."
        ),
    ]


def _maps(store: Any, found: Mapping[str, Any]) -> list[str]:
    points, classes = store.table("map_points.parquet"), store.table("classes.parquet")
    if points is None:
        return []
    points, classes = points.to_pandas(), classes.to_pandas()
    regions, gaps = (store.table(f"map_{part}.parquet").to_pandas() for part in ("regions", "gaps"))
    parts = [page.heading(2, "Maps"), page.table(results.MAP_HEAD, results.map_rows(found), numbers=(2, 4))]
    grouping = next(iter(found["groupings"]))
    named = classes[classes["grouping"] == grouping].set_index("cell")["class"]
    for name in found["maps"]:
        mine = [table[table["map"] == name] for table in (points, regions, gaps)]
        parts += [
            page.heading(3, name),
            page.figure(
                map_figure(mine[0], mine[1], mine[2], named),
                "UMAP with regions of k-means. Large points: what the map is made of; small points: placed on"
                f" it. Colours: {grouping}. Right: the gap statistic and the chosen number of clusters."
                " Distances between far groups mean little, and UMAP pushes placed points outwards.",
            ),
        ]
    return parts


def _provenance(store: Any, found: Mapping[str, Any]) -> list[str]:
    tables = sorted(name for name in store.names() if name.endswith(".parquet"))
    rows = [
        ("folder", store.root),
        ("tables", ", ".join(tables)),
        ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
    ]
    parts = [page.heading(2, "Where this comes from"), page.table(("", ""), rows)]
    if job := store.read_text("job.yaml"):
        parts.append(page.details("The job", page.code(job)))
    return parts


def _table(store: Any, name: str, grouping: str) -> "pd.DataFrame":
    table = store.table(f"{name}.parquet").to_pandas()
    return table[table["grouping"] == grouping]
