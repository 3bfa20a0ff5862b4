"""The reliability diagram: how often predictions of some probability are right, before and after."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.report.drawing import FAINT, MISSING, MODEL, grid, picture, plain_log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLOURS = (MISSING, MODEL)


def reliability_figure(panels: Mapping[str, Sequence[Mapping[str, Any]]], what: str = "cells") -> str:
    """Draw accuracy over probability with 95 % intervals, and below how many samples are where.

    Parameters
    ----------
    panels : mapping
        One or two: title -> bins as `learners.calibration.reliability_table` makes them.
    what : str
        What the samples are.
    """

    def draw(figure: "Figure") -> None:
        grid_of_axes = figure.subplots(
            2, len(panels), sharex=True, sharey="row", height_ratios=(3, 1), squeeze=False
        )
        colours = COLOURS[-len(panels) :]
        for axes, (title, every), colour in zip(grid_of_axes.T, panels.items(), colours, strict=True):
            bins = [one for one in every if one["n"]]
            _draw_accuracy(axes[0], bins, colour)
            _draw_cells(axes[1], bins, colour)
            axes[0].set_title(title)
            axes[1].set_xlabel("probability of the predicted class")
        grid_of_axes[0, 0].set_ylabel("share predicted right")
        grid_of_axes[1, 0].set_ylabel(what)

    return picture(4.2, draw, f"reliability of probabilities: {', '.join(panels)}")


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
