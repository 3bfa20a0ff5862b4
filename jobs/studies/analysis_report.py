"""The report of an analysis: one HTML page with its figures that needs nothing beside itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import FAINT, GOOD, INK, MISSING, MODEL, SEEDS, grid, picture
from neurofleet.jobs.studies import analysis_findings
from neurofleet.jobs.studies.study import read_findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CELLS = 60
TOP = 98
"""Percentile of the distances from which on all have one colour: single cells may lie far from all."""
PARTS = {"within_cell": "within\na cell", "between_cells": "cells of\na class", "between_classes": "classes"}


def dispersion_figure(cells: "pd.DataFrame", pairs: "pd.DataFrame") -> str:
    """Draw the distances of pairs of cells, and of each cell to its own, its class's and other models.

    Parameters
    ----------
    cells, pairs : DataFrame
        As in :class:`neurofleet.neurosim.studies.dispersion.Dispersion`.
    """

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1.0))
        _heat_map(figure, left, cells, pairs)
        _boxes(right, cells)

    return picture(4.6, draw, "distances of models within cells, between cells and between classes")


def _heat_map(figure: "Figure", axes: "Axes", cells: "pd.DataFrame", pairs: "pd.DataFrame") -> None:
    step = max(1.0, len(cells) / MOST_CELLS)
    ordered = cells.sort_values(["class", "cell"], kind="stable")
    drawn = ordered.iloc[np.unique(np.arange(0, len(cells), step).astype(int))]
    names = drawn["cell"].to_numpy()
    pivoted = pairs.pivot(index="cell", columns="other", values="distance")
    half = pivoted.reindex(index=names, columns=names).to_numpy()
    square = np.where(np.isnan(half), half.T, half)
    low, high = np.nanmin(square), np.nanpercentile(square, TOP)
    mesh = axes.pcolormesh(square[::-1], cmap="viridis", vmin=low, vmax=high, linewidth=0)
    classes = drawn["class"].to_numpy()
    edges = (np.flatnonzero(classes[1:] != classes[:-1]) + 1).tolist()
    for edge in edges:
        axes.axhline(len(names) - edge, color="white", linewidth=0.8)
        axes.axvline(edge, color="white", linewidth=0.8)
    starts, stops = [0, *edges], [*edges, len(names)]
    middles = np.array([(a + b) / 2 for a, b in zip(starts, stops, strict=True)])
    labels = classes[starts]
    axes.set_xticks(middles, labels, rotation=30, ha="right")
    axes.set_yticks(len(names) - middles, labels)
    axes.tick_params(length=0)
    axes.set_aspect("equal")
    axes.set_title("pairs of cells")
    bar = figure.colorbar(mesh, ax=axes, shrink=0.8, ticks=np.linspace(low, high, 5))
    bar.ax.set_yticklabels([f"{value:.1f}" for value in bar.get_ticks()])
    if bar.solids is not None:
        bar.solids.set_rasterized(False)  # the page shows no embedded images
    bar.outline.set_visible(False)


def _boxes(axes: "Axes", cells: "pd.DataFrame") -> None:
    rng = np.random.default_rng(0)
    names = sorted(set(cells["class"]))
    for place, part in enumerate(PARTS):
        values = cells[part].to_numpy(np.float64)
        known = values[~np.isnan(values)]
        axes.boxplot(
            [known],
            positions=[place],
            widths=0.62,
            showfliers=False,
            medianprops={"color": INK},
            boxprops={"color": FAINT},
        )
        for number, name in enumerate(names):
            mine = cells.loc[cells["class"] == name, part].to_numpy(np.float64)
            axes.scatter(
                place + rng.uniform(-0.22, 0.22, len(mine)),
                mine,
                s=9,
                color=SEEDS[number % len(SEEDS)],
                alpha=0.75,
                linewidths=0,
                label=name if place == 0 else None,
            )
    axes.set_xticks(range(len(PARTS)), list(PARTS.values()))
    axes.set_ylabel("mean distance between models")
    axes.set_title("each cell")
    axes.legend(loc="upper left")
    grid(axes, "y")


LEVELS = (0.05, 0.01, 0.001)
LOW, MIDDLE, HIGH = "#2f7ed8", "#f2f2f0", "#d9540f"


def effects_figure(tests: "pd.DataFrame") -> str:
    """Draw a row for each parameter and a column for each pair, with a dot more for each level of p.

    Parameters
    ----------
    tests : DataFrame
        Of parameters, as in :func:`neurofleet.neurosim.studies.class_comparisons.compare`.
    """
    pairs, delta, p = effects(tests)
    names = list(delta.index)

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap

        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("effects", [LOW, MIDDLE, HIGH])
        values = delta.to_numpy(np.float64)
        mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=-1, vmax=1, linewidth=0)
        for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
            dots = "·" * sum(p.to_numpy()[row, column] < level for level in LEVELS)
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{values[row, column]:+.2f} {dots}",
                ha="center",
                va="center",
                size=7,
                color="#101214",
            )
        axes.set_xticks(np.arange(len(pairs)) + 0.5, pairs, color=INK)
        axes.xaxis.tick_top()
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(mesh, ax=axes, shrink=0.4, aspect=14, ticks=[-1, 0, 1], label="Cliff's delta")
        if bar.solids is not None:
            bar.solids.set_rasterized(False)  # the page shows no embedded images
        bar.outline.set_visible(False)

    return picture(0.9 + 0.19 * len(names), draw, "effect sizes of parameters between classes")


def effects(tests: "pd.DataFrame") -> "tuple[list[str], pd.DataFrame, pd.DataFrame]":
    """Return the pairs, Cliff's delta towards the first class of each, and adjusted p, by quantity."""
    first = tests[["higher", "lower"]].min(axis=1)
    pair = first + " / " + tests[["higher", "lower"]].max(axis=1)
    signed = np.where(tests["higher"] == first, tests["cliffs_delta"], -tests["cliffs_delta"])
    flat = tests.assign(pair=pair, signed=signed)
    order = sorted(set(pair))
    names = sorted(set(flat["quantity"]))
    delta = flat.pivot(index="quantity", columns="pair", values="signed").reindex(index=names, columns=order)
    p = flat.pivot(index="quantity", columns="pair", values="p_adjusted").reindex(index=names, columns=order)
    return order, delta, p


MOST_PARAMETERS = 15


def forest_figure(predictions: "pd.DataFrame", importances: "pd.DataFrame") -> str:
    """Draw test cells by true and predicted class, and the most used parameters.

    Parameters
    ----------
    predictions, importances : DataFrame
        As in :class:`neurofleet.neurosim.studies.random_forest.Classified`.
    """
    names = sorted(set(predictions["true"]) | set(predictions["predicted"]))
    counts = np.zeros((len(names), len(names)), dtype=int)
    rows, columns = ([names.index(one) for one in predictions[key]] for key in ("true", "predicted"))
    np.add.at(counts, (rows, columns), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    top = importances.head(MOST_PARAMETERS)[::-1]

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2)
        left.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, linewidth=0)
        for row, column in np.ndindex(*counts.shape):
            shade = "white" if share[row, column] > 0.55 else "#101214"
            left.text(column + 0.5, row + 0.5, str(counts[row, column]), ha="center", va="center", color=shade)
        left.set_xticks(np.arange(len(names)) + 0.5, names)
        left.set_yticks(np.arange(len(names)) + 0.5, names)
        left.invert_yaxis()
        left.set_aspect("equal")
        left.tick_params(length=0)
        left.set_xlabel("predicted")
        left.set_ylabel("true")
        right.barh(top["quantity"], top["importance"], color=MODEL, height=0.65)
        right.set_xlabel("importance")
        right.tick_params(axis="y", length=0)

    return picture(3.6, draw, "test cells by true and predicted class, and importances of parameters")


FAMILIES = {"parameters": ("o", MODEL), "genes": ("D", GOOD), "features": ("s", SEEDS[0])}
NAMES = {"parameters": "conductance", "genes": "gene", "features": "e-feature"}
ALPHA = 0.05


def links_figure(links: "pd.DataFrame") -> str:
    """Draw a panel for each pair of classes: one line a quantity, grouped by link.

    Parameters
    ----------
    links : DataFrame
        As in :func:`neurofleet.neurosim.studies.class_comparisons.side_by_side`.
    """
    pairs = sorted(set(links["pair"]))
    lines = list(dict.fromkeys(zip(links["link"], links["family"], links["table"], links["quantity"], strict=True)))
    order = {name: number for number, name in enumerate(dict.fromkeys(links["link"]))}
    kinds = list(FAMILIES)
    lines.sort(key=lambda line: (order[line[0]], kinds.index(line[1])))
    places = {line: number for number, line in enumerate(lines)}

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
        for axes, pair in zip(panels, pairs, strict=True):
            mine = links[links["pair"] == pair]
            first = min(mine["higher"].min(), mine["lower"].min())
            for row in mine.itertuples(index=False):
                marker, colour = FAMILIES[row.family]
                delta = row.cliffs_delta if row.higher == first else -row.cliffs_delta
                is_clear = row.p_adjusted < ALPHA
                axes.plot(
                    [delta],
                    [places[row.link, row.family, row.table, row.quantity]],
                    marker=marker,
                    markersize=5,
                    color=colour,
                    markerfacecolor=colour if is_clear else "none",
                    linestyle="",
                )
            axes.axvline(0, color=FAINT, linewidth=0.7)
            axes.set_xlim(-1.08, 1.08)
            axes.set_title(pair)
            axes.set_xlabel("Cliff's delta")
            grid(axes, "y")
        edges = [n for n in range(1, len(lines)) if lines[n][0] != lines[n - 1][0]]
        for axes in panels:
            for edge in edges:
                axes.axhline(edge - 0.5, color=FAINT, linewidth=0.7)
        panels[0].set_yticks(range(len(lines)), [_difference_label(line) for line in lines])
        panels[0].invert_yaxis()
        for family, (marker, colour) in FAMILIES.items():
            if family in set(links["family"]):
                panels[-1].plot([], [], marker=marker, color=colour, linestyle="", label=NAMES[family])
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return picture(1.0 + 0.2 * len(lines), draw, "effect sizes of conductances, genes and e-features")


def _difference_label(line: tuple[str, str, str, str]) -> str:
    _, family, table, quantity = line
    return quantity if family == "parameters" else f"{quantity} ({table})"


MOST_PLACED = 2000


def cell_map_figure(
    points: "pd.DataFrame", regions: "pd.DataFrame", gaps: "pd.DataFrame", classes: "pd.Series[str]"
) -> str:
    """Draw one map.

    Parameters
    ----------
    points, regions, gaps : DataFrame
        Of one map, as in the tables of an analysis.
    classes : Series
        Class by cell.
    """

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2, width_ratios=(2.6, 1.0))
        _regions(left, regions)
        _points(left, points, classes)
        right.errorbar(gaps["clusters"], gaps["gap"], gaps["gap_sd"], color=FAINT, marker=".")
        chosen = gaps[gaps["chosen"]]
        right.plot(chosen["clusters"], chosen["gap"], "o", color=MODEL)
        right.set_xlabel("clusters")
        right.set_title("gap statistic")
        grid(right, "y")

    return picture(4.8, draw, "map of cells with clusters")


def _regions(axes: "Axes", regions: "pd.DataFrame") -> None:
    square = regions.pivot(index="y", columns="x", values="cluster")
    for number in sorted(set(regions["cluster"])):
        inside = (square.to_numpy() == number).astype(float)
        axes.contour(square.columns, square.index, inside, levels=[0.5], colors=FAINT, linewidths=0.8)


def _points(axes: "Axes", points: "pd.DataFrame", classes: "pd.Series[str]") -> None:
    names = sorted(set(classes))
    label = points["cell"].map(classes).fillna("")
    drawn = np.random.default_rng(0).permutation(len(points))
    for part, size, edge in (("placed", 3.0, 0.0), ("fitted", 26.0, 0.5)):
        rows = drawn[(points["part"] == part).to_numpy()[drawn]][:MOST_PLACED]
        for number, name in enumerate(["", *names]):
            mine = rows[(label == name).to_numpy()[rows]]
            if len(mine):
                axes.scatter(
                    points["x"].to_numpy()[mine],
                    points["y"].to_numpy()[mine],
                    s=size,
                    color=SEEDS[(number - 1) % len(SEEDS)] if name else MISSING,
                    alpha=0.45 if part == "placed" else 0.95,
                    linewidths=edge,
                    edgecolors=INK if edge else "none",
                    label=(name or "other cells") if part == "fitted" else None,
                )
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend(loc="best")


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
    store = RunStore(out)
    body = [html.heading(1, found["name"]), html.paragraph(_summary(found), "quiet")]
    for name, one in found["groupings"].items():
        body += _grouping(store, found, name, one)
    body += _maps(store, found)
    if found["notes"]:
        body += [html.heading(2, "Notes"), *(html.paragraph(note) for note in found["notes"])]
    body += _provenance(store, found)
    store.write_text(NAME, html.page(f"{found['name']}: report", body))
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
        html.heading(2, name),
        html.paragraph(f"Cells: {counts}. Shared parameters: {len(one['shared_parameters'])}."),
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
        html.heading(3, "Dispersion"),
        html.table(analysis_findings.DISPERSION_HEAD, analysis_findings.dispersion_rows(mine), numbers=numbers),
        html.figure(
            dispersion_figure(cells, pairs),
            "Mean distance between models in the space of standardised shared parameters. Left: of pairs of"
            " cells; on the diagonal, of the models of one cell; the farthest 2 % have one"
            f" colour.{few} Right: of each cell's models, to each other, to those of other cells of its"
            " class, and to those of other classes.",
        ),
    ]


def _tests(store: Any, name: str, mine: Mapping[str, Any]) -> list[str]:
    tests = _table(store, "tests", name)
    parts = [html.heading(3, "Conductances of classes")]
    counted = [
        f"{row['significant']} of {row['tests']} tests of {row['table']}" for row in mine["groupings"][name]["tests"]
    ]
    parts.append(html.paragraph(f"Significant at a false discovery rate of 5 %: {', '.join(counted)}."))
    parts.append(
        html.figure(
            effects_figure(tests[tests["family"] == "parameters"]),
            "Cliff's delta of every parameter and pair of classes: orange where the first class of the pair"
            " is higher, blue where the second is. Dots: adjusted p < 0.05 (·), 0.01 (··), 0.001 (···).",
        )
    )
    pairs = [pair for grouping, pair in analysis_findings.link_pairs(mine) if grouping == name]
    if pairs:
        links = _table(store, "links", name)
        parts += [
            html.heading(3, "Conductances, genes and e-features side by side"),
            html.figure(
                links_figure(links[links["pair"].isin(pairs)]),
                "Cliff's delta towards the first class of each pair: filled where the adjusted p is below"
                " 0.05, open where it is not.",
            ),
            html.paragraph(
                "“Agrees”: the class that is higher in the conductances that differ significantly is higher"
                " here as well. n: cells of the higher and the lower class. δ: Cliff's delta. The adjusted p"
                " is of the smaller of two one-sided tests, as in the paper; that of two-sided tests stands"
                " beside it."
            ),
        ]
        for pair in pairs:
            rows = html.table(
                analysis_findings.LINK_HEAD, analysis_findings.link_rows(mine, name, pair), numbers=(3, 4, 5, 6)
            )
            parts.append(html.details(pair, rows))
    return parts


def _forest(store: Any, name: str, mine: Mapping[str, Any]) -> list[str]:
    predictions = _table(store, "forest_predictions", name)
    importances = _table(store, "forest_importances", name)
    return [
        html.heading(3, "Random forest"),
        html.table(analysis_findings.FOREST_HEAD, analysis_findings.forest_rows(mine), numbers=range(1, 7)),
        html.figure(
            forest_figure(predictions, importances),
            "Left: test cells of all shuffles by true class (rows) and predicted class (columns). Right: the"
            " parameters that the forests use most, by their share of the decrease in Gini impurity.",
        ),
        html.paragraph(
            "“Majority” always says the most frequent class; “shuffled” forests are trained on permuted classes."
        ),
    ]


def _maps(store: Any, found: Mapping[str, Any]) -> list[str]:
    points, classes = store.table("map_points.parquet"), store.table("classes.parquet")
    if points is None:
        return []
    points, classes = points.to_pandas(), classes.to_pandas()
    regions, gaps = (store.table(f"map_{part}.parquet").to_pandas() for part in ("regions", "gaps"))
    parts = [
        html.heading(2, "Maps"),
        html.table(analysis_findings.MAP_HEAD, analysis_findings.map_rows(found), numbers=(2, 4)),
    ]
    grouping = next(iter(found["groupings"]))
    named = classes[classes["grouping"] == grouping].set_index("cell")["class"]
    for name in found["maps"]:
        mine = [table[table["map"] == name] for table in (points, regions, gaps)]
        parts += [
            html.heading(3, name),
            html.figure(
                cell_map_figure(mine[0], mine[1], mine[2], named),
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
    parts = [html.heading(2, "Where this comes from"), html.table(("", ""), rows)]
    if job := store.read_text("job.yaml"):
        parts.append(html.details("The job", html.code(job)))
    return parts


def _table(store: Any, name: str, grouping: str) -> "pd.DataFrame":
    table = store.table(f"{name}.parquet").to_pandas()
    return table[table["grouping"] == grouping]
