"""A map of cells with regions of k-means, coloured by class, and its gap statistic."""

from typing import TYPE_CHECKING

import numpy as np

from jobs.report.drawing import FAINT, INK, MISSING, MODEL, SEEDS, grid, picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PLACED = 2000


def map_figure(
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
