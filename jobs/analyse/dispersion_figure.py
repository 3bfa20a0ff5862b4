"""Distances within cells, between cells of a class and between classes."""

from typing import TYPE_CHECKING

import numpy as np

from jobs.report.drawing import FAINT, INK, SEEDS, grid, picture

if TYPE_CHECKING:
    import pandas as pd
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
        As in :class:`neurosim.populations.dispersion.Dispersion`.
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
