"""The findings of an analysis: dispersion, forests, maps and linked tests, and a report with figures."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MARKERS,
    MISSING,
    MODEL,
    SEEDS,
    VERMILION,
    colour_bar,
    grid,
    legend_label,
    picture,
)
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import Findings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPREAD = {
    "within_cell": "models of one cell",
    "between_cells": "cells of a class",
    "between_classes": "classes",
}
DISPERSION_HEAD = ("", "mean", "against", "mean", "Mann-Whitney p", "Wilcoxon p", "permuted p")
FOREST_HEAD = (
    "grouping",
    "macro F1 [of shuffles]",
    "accuracy",
    "majority F1",
    "majority rate",
    "shuffled F1",
    "shuffled acc.",
)
LINK_HEAD = ("quantity", "of", "higher", "n", "δ", "adj. p", "2-sided", "agrees")
MAP_HEAD = ("map", "made of", "clusters", "placed", "in their cell's cluster")


@dataclass(frozen=True, kw_only=True)
class DispersionTest:
    """Whether models are closer to each other at one level than at the next; p is None where not tested.

    Attributes
    ----------
    grouping : str
    smaller, larger : str
        Levels, keys of `SPREAD`.
    n_cells : int
    mean_smaller, mean_larger : float
        Mean distances.
    p_mann_whitney, p_wilcoxon, p_permutation : float or None
    cliffs_delta : float or None
    """

    grouping: str
    smaller: str
    larger: str
    n_cells: int = 0
    mean_smaller: float
    mean_larger: float
    p_mann_whitney: float | None = None
    p_wilcoxon: float | None = None
    p_permutation: float | None = None
    cliffs_delta: float | None = None

    def row(self, grouping: str) -> tuple[str, ...]:
        """Return it as a row of `DISPERSION_HEAD`."""
        return (
            f"{grouping}: {SPREAD[self.smaller]}",
            f"{self.mean_smaller:.2f}",
            SPREAD[self.larger],
            f"{self.mean_larger:.2f}",
            p_value(self.p_mann_whitney),
            p_value(self.p_wilcoxon),
            p_value(self.p_permutation),
        )


@dataclass(frozen=True, kw_only=True)
class ForestScores:
    """Scores of random forests on cells that they were not trained on: means over shuffles, and the range of F1.

    "Majority" is always the most frequent class; "shuffled" forests are trained on permuted classes.
    """

    n_train: float = 0.0
    n_test: float = 0.0
    f1: float
    accuracy: float
    majority_f1: float
    majority_rate: float
    shuffled_f1: float
    shuffled_accuracy: float
    f1_low: float
    f1_high: float

    def row(self, grouping: str) -> tuple[str, ...]:
        """Return it as a row of `FOREST_HEAD`."""
        scores = (self.accuracy, self.majority_f1, self.majority_rate, self.shuffled_f1, self.shuffled_accuracy)
        f1 = f"{self.f1:.3f} [{self.f1_low:.3f}, {self.f1_high:.3f}]"
        return grouping, f1, *(f"{score:.3f}" for score in scores)


@dataclass(frozen=True, kw_only=True)
class FamilyTests:
    """Tests of the quantities of one table, and how many are significant."""

    family: str
    table: str
    tests: int
    significant: int


@dataclass(frozen=True, kw_only=True)
class GroupingFindings:
    """The classes of a grouping, and how their models differ.

    Attributes
    ----------
    classes : dict of str to int
        Class -> cells.
    models : int
    shared_parameters : list of str
        Parameters that all models have.
    dispersion : list of DispersionTest
    forest : ForestScores or None
    tests : list of FamilyTests
    """

    classes: dict[str, int] = field(default_factory=dict)
    models: int = 0
    shared_parameters: list[str] = field(default_factory=list)
    dispersion: list[DispersionTest] = field(default_factory=list)
    forest: ForestScores | None = None
    tests: list[FamilyTests] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PlacedRows:
    """Rows of a table that were placed on a map.

    Attributes
    ----------
    rows : int
    of_mapped_cells : int
        Of cells that the map is made of.
    in_their_cells_cluster : float or None
        The share of these that is in the cluster of its cell.
    """

    rows: int
    of_mapped_cells: int = 0
    in_their_cells_cluster: float | None = None


@dataclass(frozen=True, kw_only=True)
class MapFindings:
    """A map: how many rows it is made of, its clusters, and what was placed on it, by table."""

    fitted: int
    clusters: int
    placed: dict[str, PlacedRows] = field(default_factory=dict)

    def rows(self, name: str) -> list[tuple[str, ...]]:
        """Return rows of `MAP_HEAD`, one for each placed table."""
        first = (name, f"{self.fitted:,} rows", str(self.clusters))
        rows: list[tuple[str, ...]] = []
        for source, placed in self.placed.items():
            share = placed.in_their_cells_cluster
            rows.append((*first, f"{placed.rows:,} of {source}", "" if share is None else f"{share:.0%}"))
        return rows or [(*first, "", "")]


@dataclass(frozen=True, kw_only=True)
class LinkedTest:
    """The difference between two classes in a quantity that is linked to others.

    Attributes
    ----------
    grouping, pair, link : str
    family : str
        ``parameters``, ``genes`` or ``features``.
    table, quantity : str
    higher, lower : str
        Classes.
    n_higher, n_lower : int
        Cells.
    cliffs_delta : float
    p_adjusted, p_adjusted_two_sided : float
    agrees : bool or None
        Whether the class is higher that is higher in the conductances that differ significantly.
    """

    grouping: str
    pair: str
    link: str
    family: str
    table: str
    quantity: str
    higher: str
    lower: str
    n_higher: int
    n_lower: int
    cliffs_delta: float
    p_adjusted: float | None = None
    p_adjusted_two_sided: float | None = None
    agrees: bool | None = None

    def row(self) -> tuple[str, ...]:
        """Return it as a row of `LINK_HEAD`."""
        return (
            self.quantity,
            self.table,
            self.higher,
            f"{self.n_higher}/{self.n_lower}",
            f"{self.cliffs_delta:.2f}",
            p_value(self.p_adjusted),
            p_value(self.p_adjusted_two_sided),
            {True: "yes", False: "no", None: ""}[self.agrees],
        )


def p_value(p: float | None) -> str:
    """Return a p value as text, "" where there is none."""
    if p is None:
        return ""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


@dataclass(frozen=True, kw_only=True)
class AnalysisFindings(Findings):
    """How populations of models differ between classes of cells.

    Attributes
    ----------
    unit : str
        What stands for a cell in tests: ``median`` of its models, or its ``best``.
    cells, models : int
    groupings : dict of str to GroupingFindings
    maps : dict of str to MapFindings
    links : list of LinkedTest
    """

    unit: str
    cells: int = 0
    models: int = 0
    groupings: dict[str, GroupingFindings] = field(default_factory=dict)
    maps: dict[str, MapFindings] = field(default_factory=dict)
    links: list[LinkedTest] = field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        """Return dispersion, forests, maps, and conductances beside genes and e-features."""
        tables = [self.dispersion(*self.groupings), self.forests(*self.groupings), self.map_table()]
        tables += [self.link_table(grouping, pair) for grouping, pair in self.link_pairs()]
        return [table for table in tables if table.rows]

    def verdict(self) -> list[str]:
        """Return how well the classes of each grouping are told apart, by how much, and how many tests say so."""
        lines = []
        for name, grouping in self.groupings.items():
            said = [f"{len(grouping.classes)} classes, {sum(grouping.classes.values())} cells"]
            if (forest := grouping.forest) is not None:
                said.append(
                    f"a forest reaches macro F1 {forest.f1:.2f} [{forest.f1_low:.2f}, {forest.f1_high:.2f}] on unseen"
                    f" cells, with shuffled classes {forest.shuffled_f1:.2f}"
                )
            classes = [test for test in grouping.dispersion if test.larger == "between_classes"]
            said += [
                f"pairs of classes {test.mean_larger:.2f} apart, cells of a class {test.mean_smaller:.2f}"
                f" (permuted p {p_value(test.p_permutation) or 'not known'})"
                for test in classes
            ]
            if tests := sum(family.tests for family in grouping.tests):
                significant = sum(family.significant for family in grouping.tests)
                said.append(f"{significant} of {tests} quantities differ significantly")
            lines.append(f"{name}: {'; '.join(said)}")
        return [*lines, f"from {self.models:,} models of {self.cells:,} cells; a cell counts once"]

    def dispersion(self, *groupings: str) -> ReportTable:
        """Return a row for each expectation of each of the groupings."""
        rows = [test.row(name) for name in groupings for test in self.groupings[name].dispersion]
        title = "Dispersion, one row a grouping and expectation"
        return ReportTable(DISPERSION_HEAD, rows, numbers=(1, 3, 4, 5, 6), title=title, compact=True)

    def forests(self, *groupings: str) -> ReportTable:
        """Return a row for each of the groupings that has a forest."""
        rows = [forest.row(name) for name in groupings if (forest := self.groupings[name].forest)]
        title = "Random forests, split by cell"
        return ReportTable(FOREST_HEAD, rows, numbers=range(1, 7), title=title, compact=True)

    def map_table(self) -> ReportTable:
        """Return a row for each map and table that is placed on it."""
        rows = [row for name, of_map in self.maps.items() for row in of_map.rows(name)]
        return ReportTable(MAP_HEAD, rows, numbers=(2, 4), title="Maps", compact=True)

    def link_pairs(self) -> list[tuple[str, str]]:
        """Return the groupings and pairs of classes with linked quantities of more than one family."""
        families: dict[tuple[str, str], set[str]] = {}
        for test in self.links:
            families.setdefault((test.grouping, test.pair), set()).add(test.family)
        return [pair for pair, names in families.items() if len(names) > 1]

    def link_table(self, grouping: str, pair: str) -> ReportTable:
        """Return a row for each linked quantity of a pair of classes."""
        rows = [test.row() for test in self.links if (test.grouping, test.pair) == (grouping, pair)]
        title = f"{grouping}: {pair}"
        return ReportTable(LINK_HEAD, rows, numbers=(3, 4, 5, 6), title=title, no_wrap=(0,), compact=True)

    def sections(self, store: RunStore) -> list[str]:
        """Return a section for each grouping, and the maps."""
        unit = {"median": "the median of its models", "best": "its best model"}[self.unit]
        parts = [
            html.paragraph(
                f"{self.models:,} models of {self.cells:,} cells. A cell counts once in every test, with"
                f" {unit}; a forest is tested on cells of which it has seen no model.",
                "quiet",
            )
        ]
        for name in self.groupings:
            parts += _grouping_section(store, self, name)
        return parts + _map_section(store, self)


def _grouping_section(store: RunStore, findings: AnalysisFindings, name: str) -> list[str]:
    grouping = findings.groupings[name]
    counts = ", ".join(f"{key} {size}" for key, size in grouping.classes.items())
    parts = [
        html.heading(2, name),
        html.paragraph(f"Cells: {counts}. Shared parameters: {len(grouping.shared_parameters)}."),
    ]
    if grouping.dispersion:
        parts += _dispersion_section(store, findings, name)
    parts += _test_section(store, findings, name)
    if grouping.forest:
        parts += _forest_section(store, findings, name)
    return parts


def _dispersion_section(store: RunStore, findings: AnalysisFindings, name: str) -> list[str]:
    cells, pairs = (
        _rows_of(store, "dispersion_cells", "grouping", name),
        _rows_of(store, "dispersion_pairs", "grouping", name),
    )
    few = f" At most {MOST_CELLS} cells are drawn, of each class in proportion." * (len(cells) > MOST_CELLS)
    return [
        html.heading(3, "Dispersion"),
        findings.dispersion(name).html(),
        html.figure(
            dispersion_figure(cells, pairs),
            "Mean distance between models in the space of standardised shared parameters. Left: of pairs of"
            " cells; on the diagonal, of the models of one cell; the farthest 2 % have one"
            f" colour.{few} Right: of each cell's models, to each other, to those of other cells of its"
            " class, and to those of other classes.",
        ),
    ]


def _test_section(store: RunStore, findings: AnalysisFindings, name: str) -> list[str]:
    tests = _rows_of(store, "tests", "grouping", name)
    parts = [html.heading(3, "Conductances of classes")]
    counts = ", ".join(
        f"{row.significant} of {row.tests} tests of {row.table}" for row in findings.groupings[name].tests
    )
    parts.append(html.paragraph(f"Significant at a false discovery rate of 5 %: {counts}."))
    parts.append(
        html.figure(
            effects_figure(tests[tests["family"] == "parameters"]),
            "Cliff's delta of every parameter and pair of classes: orange where the first class of the pair"
            " is higher, blue where the second is. Dots: adjusted p < 0.05 (·), 0.01 (··), 0.001 (···).",
        )
    )
    pairs = [pair for grouping, pair in findings.link_pairs() if grouping == name]
    if pairs:
        links = _rows_of(store, "links", "grouping", name)
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
        parts += [html.details(pair, findings.link_table(name, pair).html()) for pair in pairs]
    return parts


def _forest_section(store: RunStore, findings: AnalysisFindings, name: str) -> list[str]:
    predictions = _rows_of(store, "forest_predictions", "grouping", name)
    importances = _rows_of(store, "forest_importances", "grouping", name)
    return [
        html.heading(3, "Random forest"),
        findings.forests(name).html(),
        html.figure(
            forest_figure(predictions, importances),
            "Left: test cells of all shuffles by true class (rows) and predicted class (columns). Right: the"
            " parameters that the forests use most, by their share of the decrease in Gini impurity.",
        ),
        html.paragraph(
            "“Majority” is always the most frequent class; “shuffled” forests are trained on permuted classes."
        ),
    ]


def _map_section(store: RunStore, findings: AnalysisFindings) -> list[str]:
    if not findings.maps:
        return []
    grouping = next(iter(findings.groupings))
    classes = _rows_of(store, "classes", "grouping", grouping).set_index("cell")["class"]
    parts = [html.heading(2, "Maps"), findings.map_table().html()]
    for name in findings.maps:
        points, regions, gaps = (
            _rows_of(store, table, "map", name) for table in ("map_points", "map_regions", "map_gaps")
        )
        parts += [
            html.heading(3, name),
            html.figure(
                cell_map_figure(points, regions, gaps, classes),
                "UMAP with regions of k-means. Large points: what the map is made of; small points: placed on"
                f" it. Colours: {grouping}. Right: the gap statistic and the chosen number of clusters."
                " Distances between far groups mean little, and UMAP pushes placed points outwards.",
            ),
        ]
    return parts


def _rows_of(store: RunStore, name: str, column: str, value: str) -> "pd.DataFrame":
    """Return the rows of a table that have a value in a column."""
    table = store.table(f"{name}.parquet")
    assert table is not None
    rows = table.to_pandas()
    return rows[rows[column] == value]


MOST_CELLS = 60
TOP = 98
"""Percentile of the distances above which all have the same colour: a few cells may lie far from all others."""
PARTS = {"within_cell": "within\na cell", "between_cells": "cells of\na class", "between_classes": "classes"}


def dispersion_figure(cells: "pd.DataFrame", pairs: "pd.DataFrame") -> str:
    """Draw the distances of pairs of cells, and of each cell's models to each other and to those of other cells.

    Parameters
    ----------
    cells, pairs : DataFrame
        As in `neurofleet.neurosim.studies.dispersion.Dispersion`.
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
    axes.set(xlabel="cells, by class", ylabel="cells, by class")
    ticks = np.linspace(low, high, 5)
    bar = colour_bar(figure, mesh, axes, "mean distance between models", shrink=0.8, ticks=ticks)
    bar.set_yticklabels([f"{value:.1f}" for value in ticks])


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
            of_class = cells.loc[cells["class"] == name, part].to_numpy(np.float64)
            axes.scatter(
                place + rng.uniform(-0.22, 0.22, len(of_class)),
                of_class,
                s=14,
                marker=MARKERS[number % len(MARKERS)],
                color=SEEDS[number % len(SEEDS)],
                alpha=0.75,
                linewidths=0,
                label=legend_label(name) if place == 0 else None,
            )
    axes.set_xticks(range(len(PARTS)), list(PARTS.values()))
    axes.set_ylabel("mean distance between models")
    axes.set_title("each cell")
    axes.legend(loc="upper left", markerscale=2.0)
    grid(axes, "y")


LEVELS = (0.05, 0.01, 0.001)
WHITE_ABOVE = 0.6
LOW, MIDDLE, HIGH = BLUE, "#f2f2f0", VERMILION


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
                color="white" if abs(values[row, column]) > WHITE_ABOVE else "#101214",
            )
        axes.set_xticks(np.arange(len(pairs)) + 0.5, pairs, color=INK)
        axes.set(xlabel="pair of classes", ylabel="parameter")
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        colour_bar(figure, mesh, axes, "Cliff's delta", aspect=14, ticks=[-1, 0, 1])

    return picture(1.2 + 0.19 * len(names), draw, "effect sizes of parameters between classes")


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
    rows, columns = ([names.index(name) for name in predictions[key]] for key in ("true", "predicted"))
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
        right.set(xlabel="importance (share of the decrease in Gini impurity)", ylabel="parameter")
        right.tick_params(axis="y", length=0)

    return picture(3.6, draw, "test cells by true and predicted class, and importances of parameters")


FAMILIES = {"parameters": ("o", MODEL), "genes": ("D", GREEN), "features": ("s", SEEDS[0])}
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
            of_pair = links[links["pair"] == pair]
            first = min(of_pair["higher"].min(), of_pair["lower"].min())
            for row in of_pair.itertuples(index=False):
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
        right.plot(chosen["clusters"], chosen["gap"], "o", color=MODEL, label="chosen")
        right.set(xlabel="number of clusters", ylabel="gap statistic (± SD)")
        right.set_title("gap statistic")
        right.legend(loc="best")
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
    for part, size, edge in (("placed", 9.0, 0.0), ("fitted", 30.0, 0.5)):
        rows = drawn[(points["part"] == part).to_numpy()[drawn]][:MOST_PLACED]
        for number, name in enumerate(["", *names]):
            of_class = rows[(label == name).to_numpy()[rows]]
            if len(of_class):
                axes.scatter(
                    points["x"].to_numpy()[of_class],
                    points["y"].to_numpy()[of_class],
                    s=size,
                    marker=MARKERS[(number - 1) % len(MARKERS)],
                    color=SEEDS[(number - 1) % len(SEEDS)] if name else MISSING,
                    alpha=0.45 if part == "placed" else 0.95,
                    linewidths=edge,
                    edgecolors=INK if edge else "none",
                    label=(legend_label(name) or "other cells") if part == "fitted" else None,
                )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set(xlabel="UMAP 1", ylabel="UMAP 2")
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.set_aspect("equal", adjustable="datalim")
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=6)
