"""Scores of a stage's best model, objective by objective."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jobs.report.drawing import FAINT, FAIR, GOOD, MISSING, POOR, grid, picture
from jobs.report.words import score_text, split_objective
from neurosim.fit_model import MAX_SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6
SHOWN_STD = 6.0


def scores_figure(scores: Mapping[str, float], titles: Mapping[str, str]) -> str:
    """Draw a panel of bars a protocol.

    Parameters
    ----------
    scores : mapping
        Objective -> distance from the target in its standard deviations.
    titles : mapping
        Protocol -> what to call it; those named here come first, in this order.
    """
    protocols: dict[str, dict[str, float]] = {}
    for objective, score in scores.items():
        protocol, feature = split_objective(objective)
        protocols.setdefault(protocol, {})[feature] = score
    order = [*(name for name in titles if name in protocols), *protocols]
    protocols = {name: protocols[name] for name in dict.fromkeys(order)}
    features = list(dict.fromkeys(feature for found in protocols.values() for feature in found))
    n_rows = -(-len(protocols) // COLUMNS)
    n_columns = min(COLUMNS, len(protocols))
    limit = min(SHOWN_STD, max(2.0, 1.15 * max(scores.values())))

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True, sharex=True)
        for axes in panels.flat[len(protocols) :]:
            axes.set_axis_off()
        for axes, (protocol, found) in zip(panels.flat, protocols.items(), strict=False):
            _draw_bars(axes, features, found, limit)
            axes.set_title(titles.get(protocol, protocol))
        for axes in panels.flat[max(0, len(protocols) - n_columns) : len(protocols)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("std from target")

    return picture(n_rows * (0.17 * len(features) + 0.65) + 0.2, draw, "scores by objective")


def _draw_bars(axes: "Axes", features: list[str], found: Mapping[str, float], limit: float) -> None:
    places = np.arange(len(features))[::-1]
    for place, feature in zip(places, features, strict=True):
        if feature not in found:
            continue
        score = found[feature]
        axes.barh(place, min(score, limit), height=0.66, color=score_colour(score), linewidth=0)
        inside = score > 0.8 * limit
        axes.annotate(
            score_text(score),
            (min(score, limit), place),
            xytext=(-3 if inside else 3, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            fontsize=6.5,
            color="white" if inside else None,
        )
    axes.axvline(1.0, color=FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_yticks(places, features)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, limit)
    axes.set_ylim(-0.7, len(features) - 0.3)
    grid(axes, "x")


def score_colour(score: float) -> str:
    """Return green within 1 std, amber within 3, red above, grey for the highest score there is."""
    if score >= MAX_SCORE:
        return MISSING
    return GOOD if score <= 1 else FAIR if score <= 3 else POOR
