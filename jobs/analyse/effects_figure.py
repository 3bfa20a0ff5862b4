"""Cliff's delta of every parameter and pair of classes."""

from typing import TYPE_CHECKING

import numpy as np

from jobs.report.drawing import INK, picture

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LEVELS = (0.05, 0.01, 0.001)
LOW, MIDDLE, HIGH = "#2f7ed8", "#f2f2f0", "#d9540f"


def effects_figure(tests: "pd.DataFrame") -> str:
    """Draw a row for each parameter and a column for each pair, with a dot more for each level of p.

    Parameters
    ----------
    tests : DataFrame
        Of parameters, as in :func:`neurosim.populations.comparisons.compare`.
    """
    pairs, delta, p = effects(tests)
    names = list(delta.index)

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap

        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("effects", [LOW, MIDDLE, HIGH])
        values = delta.to_numpy(np.float64)
        mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, vmin=-1, vmax=1, linewidth=0)
        for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
            dots = "·" * sum(p.to_numpy()[row, column] < level for level in LEVELS)
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{values[row, column]:+.2f} {dots}",
                ha="center",
                va="center",
                size=7,
                color="#101214",
            )
        axes.set_xticks(np.arange(len(pairs)) + 0.5, pairs, color=INK)
        axes.xaxis.tick_top()
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(mesh, ax=axes, shrink=0.4, aspect=14, ticks=[-1, 0, 1], label="Cliff's delta")
        if bar.solids is not None:
            bar.solids.set_rasterized(False)  # the page shows no embedded images
        bar.outline.set_visible(False)

    return picture(0.9 + 0.19 * len(names), draw, "effect sizes of parameters between classes")


def effects(tests: "pd.DataFrame") -> "tuple[list[str], pd.DataFrame, pd.DataFrame]":
    """Return the pairs, Cliff's delta towards the first class of each, and adjusted p, by quantity."""
    first = tests[["higher", "lower"]].min(axis=1)
    pair = first + " / " + tests[["higher", "lower"]].max(axis=1)
    signed = np.where(tests["higher"] == first, tests["cliffs_delta"], -tests["cliffs_delta"])
    flat = tests.assign(pair=pair, signed=signed)
    order = sorted(set(pair))
    names = sorted(set(flat["quantity"]))
    delta = flat.pivot(index="quantity", columns="pair", values="signed").reindex(index=names, columns=order)
    p = flat.pivot(index="quantity", columns="pair", values="p_adjusted").reindex(index=names, columns=order)
    return order, delta, p
