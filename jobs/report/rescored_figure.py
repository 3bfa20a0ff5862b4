"""Models of the hall of fame as the search had scored them, and as NEURON scored them again."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cluster.schemas import HallOfFameRows
from jobs.report.drawing import FAINT, MODEL, grid, picture, seed_colours
from jobs.report.words import score_text, split_objective

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_OBJECTIVES = 8


@dataclass(frozen=True)
class Change:
    """How far an objective's scores moved when they were scored again: over models, in their unit."""

    objective: str
    median: float
    largest: float


def changes(models: HallOfFameRows) -> list[Change]:
    """Return the objectives of a hall of fame with both scores, those that moved most first."""
    assert models.search_scores is not None
    moved = np.abs(models.scores - models.search_scores)
    found = [
        Change(name, float(np.median(column)), float(column.max()))
        for name, column in zip(models.objective_names, moved.T, strict=True)
    ]
    return sorted(found, key=lambda change: (-change.median, -change.largest))


def rescored_sentence(models: HallOfFameRows) -> str:
    """Say how much the totals moved."""
    assert models.search_totals is not None
    moved = models.totals - models.search_totals
    still = sum(change.largest < 0.1 for change in changes(models))
    return (
        f"Scored again by NEURON with CVODE, the totals of these {len(models)} models moved by "
        f"{score_text(float(np.median(np.abs(moved))))} in the median (from {moved.min():+.2g} to "
        f"{moved.max():+.2g}); {still} of {len(models.objective_names)} objectives moved by less than 0.1 "
        "standard deviations in all of them."
    )


def rescored_figure(models: HallOfFameRows) -> str:
    """Draw total against total, and the objectives that moved most."""
    shown = [change for change in changes(models) if change.largest > 0][:SHOWN_OBJECTIVES]

    def draw(figure: "Figure") -> None:
        totals, objectives = figure.subplots(1, 2, width_ratios=(1.0, 1.5))
        _draw_totals(totals, models)
        _draw_changes(objectives, shown)

    return picture(2.9, draw, "scores of the search and scores of NEURON")


def _draw_totals(axes: "Axes", models: HallOfFameRows) -> None:
    assert models.search_totals is not None
    both = np.concatenate([models.totals, models.search_totals])
    margin = 0.06 * (both.max() - both.min()) or 0.06 * both.max()
    limits = (float(both.min() - margin), float(both.max() + margin))
    axes.plot(limits, limits, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    for seed, colour in seed_colours(models.seeds.tolist()).items():
        of = models.seeds == seed
        axes.plot(
            models.search_totals[of],
            models.totals[of],
            color=colour,
            marker="o",
            markersize=4,
            linestyle="none",
            label=f"seed {seed}",
        )
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_box_aspect(1)
    axes.set_title("total")
    axes.set_xlabel("as the search scored it")
    axes.set_ylabel("scored again by NEURON")
    grid(axes, "x")
    grid(axes, "y")
    axes.legend(loc="upper left", handletextpad=0.1, borderaxespad=0.2)


def _draw_changes(axes: "Axes", shown: list[Change]) -> None:
    places = np.arange(len(shown))[::-1]
    for place, change in zip(places, shown, strict=True):
        axes.plot([0, change.largest], [place, place], color=FAINT, linewidth=0.8)
        axes.plot(change.median, place, color=MODEL, marker="o", markersize=4.5)
        axes.plot(change.largest, place, color=MODEL, marker="|", markersize=8)
    axes.set_yticks(places, [" ".join(split_objective(change.objective)) for change in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.7, max(len(shown) - 0.3, 0.7))
    axes.set_title("objectives that moved most")
    axes.set_xlabel("difference of the two scores (std): median and largest of all models")
    grid(axes, "x")
