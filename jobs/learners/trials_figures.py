"""Pictures of a hyperparameter sweep: scores in the order of the trials, importances, parallel coordinates."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurofleet.cluster.sweeps.search_space import ChoiceDimension, Dimension
from neurofleet.cluster.sweeps.trial_records import TrialRow
from neurofleet.jobs.reports.drawing import FAINT, GROUND, INK, MODEL, SEEDS, grid, legend_label, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "cividis"
NAME_CHARACTERS = 20
TICKS = 4
APART = 0.08
"""Of the length of an axis: ticks nearer to one of its ends are left out."""


def history_figure(rows: Sequence[TrialRow], metric: str, title: str, mode: Literal["min", "max"]) -> str:
    """Draw the score of each trial in the order of their numbers, and the best of those so far that are done."""
    numbers = np.array([row.number for row in rows])
    scores = np.array([row.scores.get(metric, np.nan) for row in rows], dtype=float)
    is_done = np.array([row.status == "done" for row in rows])
    order = np.argsort(numbers)
    numbers, scores, is_done = numbers[order], scores[order], is_done[order]

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        counted = is_done & np.isfinite(scores)
        if counted.any():
            best = (np.fmax if mode == "max" else np.fmin).accumulate(np.where(counted, scores, np.nan))
            axes.step(numbers, best, where="post", color=MODEL, linewidth=1.4, label="best so far")
        axes.plot(numbers[counted], scores[counted], "o", color=SEEDS[0], markersize=4.5, label="done")
        stopped = ~is_done & np.isfinite(scores)
        if stopped.any():
            axes.plot(
                *(numbers[stopped], scores[stopped], "o"),
                color=INK,
                markersize=4.5,
                markerfacecolor="none",
                markeredgewidth=0.8,
                label="stopped early, its last score",
            )
        lost = ~np.isfinite(scores)
        if lost.any():
            axes.plot(
                numbers[lost],
                np.zeros(lost.sum()),
                "x",
                color=INK,
                markersize=5,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                label="failed",
            )
        axes.set_xlabel("trial")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid(axes, "y")
        figure.legend(loc="outside upper left", ncols=4)

    return picture(3.0, draw, f"{title} by trial")


def importances_figure(importances: Mapping[str, Mapping[str, float]]) -> str:
    """Draw a bar for each parameter, by each evaluator.

    Parameters
    ----------
    importances : mapping
        Evaluator -> parameter -> importance; parameters are drawn in the order of the first.
    """
    first = next(iter(importances.values()))
    names = sorted(first, key=lambda name: first[name])
    height = 0.8 / len(importances)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, (evaluator, found) in enumerate(importances.items()):
            places = np.arange(len(names)) + 0.4 - height * (number + 0.5)
            values = [found.get(name, 0.0) for name in names]
            bars = axes.barh(places, values, height * 0.92, color=SEEDS[number], label=evaluator)
            axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, max(max(found.values(), default=1.0) for found in importances.values()) * 1.1 or 1.0)
        axes.set_xlabel("importance (share of 1)")
        grid(axes, "x")
        figure.legend(loc="outside upper left", ncols=len(importances))

    return picture(0.9 + 0.42 * len(names), draw, "importance of each parameter")


def parallel_figure(rows: Sequence[TrialRow], dimensions: Mapping[str, Dimension], metric: str, title: str) -> str:
    """Draw a line for each trial that has a score, over an axis for each parameter and one for the score.

    Lines are coloured by the score; those of the best trials are drawn last by whoever orders the rows.
    """
    scored = [row for row in rows if np.isfinite(row.scores.get(metric, np.nan))]
    scores = np.array([row.scores[metric] for row in scored])
    low, high = float(scores.min()), float(scores.max())
    axes_of = [
        _Axis(name, dimension, [row.parameters[name] for row in scored]) for name, dimension in dimensions.items()
    ]
    heights = np.column_stack([*(axis.heights for axis in axes_of), (scores - low) / ((high - low) or 1.0)])

    def draw(figure: "Figure") -> None:
        from matplotlib import colormaps
        from matplotlib.colors import Normalize

        axes = figure.subplots()
        colours, shade = colormaps[COLOURS], Normalize(low, high if high > low else low + 1.0)
        for row, score in zip(heights, scores, strict=True):
            axes.plot(range(len(row)), row, color=colours(shade(score)), linewidth=1.3, alpha=0.85)
        for place, axis in enumerate(axes_of):
            axis.draw(axes, place)
        _draw_axis(
            axes, len(axes_of), [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [(0.0, f"{low:.3g}")]
        )
        names = [legend_label(_short(axis.name)) for axis in axes_of]
        axes.set_xticks(range(len(axes_of) + 1), [*names, _short(title)])
        axes.tick_params(axis="x", length=0, pad=8)
        axes.set_yticks([])
        axes.set_xlim(-0.35, len(axes_of) + 0.35)
        axes.set_ylim(-0.06, 1.08)
        for spine in axes.spines.values():
            spine.set_visible(False)

    return picture(3.6, draw, "parallel coordinates of the trials")


class _Axis:
    """An axis of parallel coordinates: where values lie on it, from 0 to 1, and its ticks."""

    def __init__(self, name: str, dimension: Dimension, values: Sequence[Any]) -> None:
        self.name = name
        if isinstance(dimension, ChoiceDimension):
            n = len(dimension.values)
            places = np.linspace(0, 1, n) if n > 1 else np.array([0.5])
            self.ticks = [
                (float(place), _short(_text(each))) for place, each in zip(places, dimension.values, strict=True)
            ]
            spread = np.random.default_rng(0).uniform(-0.012, 0.012, len(values))  # equal values would hide each other
            self.heights = np.array([places[choice_of(dimension, value)] for value in values]) + spread
            return
        from matplotlib.ticker import LogLocator, MaxNLocator

        scale = np.log if dimension.log else np.asarray
        ends = np.array([dimension.low, dimension.high], dtype=float)

        def height(numbers: Any) -> np.ndarray:
            return (scale(np.asarray(numbers, dtype=float)) - scale(ends[0])) / (scale(ends[1]) - scale(ends[0]))

        self.heights = height(values)
        locator = LogLocator(subs=(1.0, 3.0)) if dimension.log else MaxNLocator(TICKS, integer=dimension.whole)
        inner = [at for at in locator.tick_values(*ends) if ends[0] < at < ends[1]]
        inner = [at for at in inner if APART < height(at) < 1 - APART]
        self.ticks = [(float(height(at)), f"{at:.3g}") for at in (*ends, *inner)]

    def draw(self, axes: "Axes", place: int) -> None:
        _draw_axis(axes, place, self.ticks)


def _draw_axis(axes: "Axes", place: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([place, place], [0, 1], color=FAINT, linewidth=0.9, zorder=3)
    for height, text in ticks:
        axes.plot([place - 0.012, place + 0.012], [height, height], color=FAINT, linewidth=0.9, zorder=3)
        axes.annotate(
            text,
            (place, height),
            xytext=(-5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7,
            zorder=4,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": GROUND, "edgecolor": "none", "alpha": 0.8},
        )


def choice_of(dimension: ChoiceDimension, value: Any) -> int:
    """Return which of the choices a value of a table is; a table keeps what is no number and no word as JSON."""
    return next(i for i, choice in enumerate(dimension.values) if choice == value or _text(choice) == _text(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…"
