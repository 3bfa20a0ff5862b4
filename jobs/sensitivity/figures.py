"""Pictures of Sobol indices: bars by feature, and a map of all features and parameters."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.report.drawing import FAINT, INK, SEEDS, grid, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3
ROW_IN = 0.24
MAP_COLOUR = "#1f66b8"
KINDS = (("first", "first order", SEEDS[0]), ("total", "total", SEEDS[1]))
DARK = 0.6


def bars_figure(rows: Sequence[Mapping[str, Any]], features: Sequence[str], parameters: Sequence[str]) -> str:
    """Return bars of mean first-order and total indices, a panel for each feature that has some.

    Parameters
    ----------
    rows : sequence of mapping
        Averages of one engine.
    features, parameters : sequence of str
    """
    place = {(row["feature"], row["parameter"]): row for row in rows if row["total"] is not None}
    shown = [feature for feature in features if any(key[0] == feature for key in place)]
    lines = -(-len(shown) // ACROSS)

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(lines, min(ACROSS, len(shown)), squeeze=False, sharex=True, sharey=True)
        for axes, feature in zip(panels.flat, shown, strict=False):
            found = [place.get((feature, parameter)) for parameter in parameters]
            _bars(axes, feature, found)
        panels.flat[0].set_xlim(*_limits(list(place.values())))
        panels.flat[0].set_yticks(range(len(parameters)), parameters)
        panels.flat[0].set_ylim(len(parameters) - 0.4, -0.6)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for column in panels.T:
            last = [axes for axes in column if axes.get_visible()][-1]
            last.set_xlabel("Sobol index")
            last.tick_params(labelbottom=True)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)

    height = lines * (ROW_IN * 1.4 * len(parameters) + 0.5) + 0.5
    return picture(height, draw, "Sobol indices of each feature to each parameter")


def _bars(axes: "Axes", feature: str, rows: Sequence[Mapping[str, Any] | None]) -> None:
    axes.set_title(feature)
    grid(axes, "x")
    for side, (kind, label, colour) in zip((-0.19, 0.19), KINDS, strict=True):
        values = np.array([np.nan if row is None else row[kind] for row in rows])
        y = np.arange(len(rows)) + side
        axes.barh(y, values, height=0.36, color=colour, label=label)
        low, high = (_bound(rows, f"{kind}_{end}") for end in ("low", "high"))
        known = np.isfinite(low)
        if known.any():
            reach = np.clip([(values - low)[known], (high - values)[known]], 0, None)
            axes.errorbar(values[known], y[known], xerr=reach, fmt="none", ecolor=INK, elinewidth=0.9)


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return an axis from 0 to 1, and further where an estimate or an interval goes further."""
    names = [name for kind, _, _ in KINDS for name in (kind, f"{kind}_low", f"{kind}_high")]
    values = [row[name] for row in rows for name in names if row[name] is not None]
    return min(0.0, *values), max(1.0, *values) * 1.02


def _bound(rows: Sequence[Mapping[str, Any] | None], name: str) -> np.ndarray:
    return np.array([np.nan if row is None or row[name] is None else row[name] for row in rows])


def map_figure(rows: Sequence[Mapping[str, Any]], features: Sequence[str], parameters: Sequence[str]) -> str:
    """Return a map of mean total indices: features by parameters, each with its number."""
    place = {(row["feature"], row["parameter"]): row["total"] for row in rows}
    values = np.array([[place.get((f, p)) for p in parameters] for f in features], dtype=np.float64)

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap, to_rgba

        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("share", [to_rgba(MAP_COLOUR, 0.04), to_rgba(MAP_COLOUR)])
        axes.pcolormesh(values, cmap=colours, vmin=0, vmax=1, edgecolors=FAINT, linewidth=0.4)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                text = "–" if np.isnan(value) else f"{value:.2f}"
                ink = "w" if value > DARK else INK
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink)
        axes.set_xticks(np.arange(len(parameters)) + 0.5, parameters, rotation=20, ha="right")
        axes.set_yticks(np.arange(len(features)) + 0.5, features)
        axes.invert_yaxis()
        axes.tick_params(length=0)

    return picture(1.0 + 0.36 * len(features), draw, "total Sobol indices, features by parameters")
