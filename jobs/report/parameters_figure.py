"""Parameter values of the best models inside the bounds that were searched."""

from typing import TYPE_CHECKING

import numpy as np

from cluster.schemas import HallOfFameRows
from jobs.report.drawing import FAINT, INK, POOR, picture, seed_colours
from jobs.report.words import parameter_unit
from jobs.results.bounds import NEAR, Bounds, positions

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def parameters_figure(models: HallOfFameRows, bounds: Bounds) -> str:
    """Draw one line a parameter, from its lower to its upper bound, with a mark for each model."""
    names, unit = positions(models, bounds)
    rows = np.arange(len(names))[::-1]
    colours = seed_colours(models.seeds.tolist())

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.hlines(rows, 0, 1, color=FAINT, linewidth=0.6, alpha=0.8)
        axes.vlines([0, 1], -0.6, len(names) - 0.4, color=FAINT, linewidth=0.8)
        for seed, colour in colours.items():
            mine = unit[models.seeds == seed]
            axes.plot(
                mine.ravel(),
                np.tile(rows, len(mine)),
                marker="o",
                markersize=4,
                linestyle="none",
                color=colour,
                alpha=0.6,
                markeredgewidth=0,
                label=f"seed {seed}",
            )
        axes.plot(
            unit[0],
            rows,
            marker="D",
            markersize=4.5,
            linestyle="none",
            markerfacecolor="none",
            color=INK,
            label="best model",
        )
        _label(axes, names, rows, unit, bounds)
        figure.legend(loc="outside upper center", ncols=len(colours) + 1)

    return picture(0.19 * len(names) + 0.8, draw, "parameter values inside their bounds")


def _label(axes, names, rows, unit, bounds: Bounds) -> None:
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    hit = ((unit <= NEAR) | (unit >= 1 - NEAR)).mean(axis=0) >= 0.5
    for label, on_bound in zip(axes.get_yticklabels(), hit, strict=True):
        if on_bound:
            label.set_color(POOR)
    for row, name in zip(rows, names, strict=True):
        low, high = bounds[name]
        text = f"{low:.4g} to {high:.4g} {parameter_unit(name)}".rstrip()
        axes.annotate(
            text,
            (1.02, row),
            va="center",
            fontsize=7,
            xycoords=("axes fraction", "data"),
            annotation_clip=False,
        )
    axes.set_xticks([0, 1], ["lower bound", "upper bound"])
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.8, len(names) - 0.2)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
