"""The reliability diagram: how often predictions of some probability are right, before and after."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.report.drawing import FAINT, MISSING, MODEL, grid, picture, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def reliability_figure(reliability: Mapping[str, Any]) -> str:
    """Draw accuracy over probability with 95 % intervals, and below how many cells are where."""

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(3, 1))
        for axes, (key, colour) in zip(panels.T, (("before", MISSING), ("after", MODEL)), strict=True):
            bins = [one for one in reliability[key]["bins"] if one["n"]]
            _draw_accuracy(axes[0], bins, colour)
            _draw_cells(axes[1], bins, colour)
            axes[0].set_title(f"{key} calibration")
            axes[1].set_xlabel("probability of the predicted class")
        panels[0, 0].set_ylabel("share predicted right")
        panels[1, 0].set_ylabel("cells")

    return picture(4.2, draw, "reliability before and after calibration")


def _draw_accuracy(axes: "Axes", bins: Sequence[Mapping[str, Any]], colour: str) -> None:
    from scipy.stats import binomtest

    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    for one in bins:
        right = round(one["accuracy"] * one["n"])
        interval = binomtest(right, one["n"]).proportion_ci(0.95, method="wilson")
        at = one["mean_probability"]
        axes.plot([at, at], [interval.low, interval.high], color=colour, linewidth=1.0, alpha=0.5)
    axes.plot(
        [one["mean_probability"] for one in bins],
        [one["accuracy"] for one in bins],
        color=colour,
        marker="o",
        markersize=4,
        linewidth=1.2,
    )
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.04)
    grid(axes, "y")


def _draw_cells(axes: "Axes", bins: Sequence[Mapping[str, Any]], colour: str) -> None:
    widths = [one["high"] - one["low"] for one in bins]
    axes.bar(
        [one["low"] for one in bins],
        [one["n"] for one in bins],
        widths,
        align="edge",
        color=colour,
        alpha=0.55,
        linewidth=0,
    )
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    plain_log_ticks(axes.yaxis)
    grid(axes, "y")
