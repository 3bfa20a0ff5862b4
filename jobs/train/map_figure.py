"""A map of an embedding in the plane, coloured by class."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jobs.report.drawing import FAINT, MISSING, SEEDS, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 5000
MARKERS = "osD^vP*X"


def map_figure(flat: np.ndarray, names: Sequence[str] | np.ndarray, what: str) -> str:
    """Draw points by class; those without a class are small and grey.

    Parameters
    ----------
    flat : array, shape (n, 2)
    names : sequence of str
        The classes; "" where there is none.
    what : str
        What the picture shows, for readers who cannot see it.
    """
    names = np.asarray(names)
    classes = sorted(set(names) - {""})
    drawn = np.random.default_rng(0).permutation(len(names))[:MOST_POINTS]
    size = 14.0 if len(drawn) < 1000 else 6.0

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for number, name in enumerate(["", *classes]):
            rows = drawn[names[drawn] == name]
            if not len(rows):
                continue
            colour = SEEDS[(number - 1) % len(SEEDS)] if name else MISSING
            axes.scatter(
                flat[rows, 0],
                flat[rows, 1],
                s=size if name else size / 2,
                color=colour,
                marker=MARKERS[(number - 1) // len(SEEDS) % len(MARKERS)] if name else ".",
                alpha=0.75 if name else 0.6,
                label=name or "no class",
                linewidths=0,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(FAINT)
        axes.set_aspect("equal", adjustable="datalim")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(classes) // 26)

    return picture(5.0, draw, what)
