"""What became of the evaluations, and how long they took."""

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from cluster.outcome import STATUSES
from jobs.fit.stage_search import FINAL
from jobs.report.drawing import FAIR, GOOD, MISSING, POOR, SEEDS, grid, picture, plain_log_ticks
from jobs.results.run_tables import RunTables
from jobs.results.summary import CellSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = dict(zip(STATUSES, (GOOD, FAIR, POOR, "#b5179e", MISSING), strict=True))
BINS_A_DECADE = 8


def outcomes_figure(tables: RunTables, cell: CellSummary) -> str:
    """Draw shares of outcomes by stage, and the distribution of evaluation times."""

    def draw(figure: "Figure") -> None:
        shares, times = figure.subplots(1, 2, width_ratios=[1.1, 1])
        _draw_shares(shares, cell)
        _draw_times(times, tables, cell)

    return picture(0.3 * len(cell.stages) + 1.7, draw, f"outcomes and evaluation times of {cell.cell}")


def _draw_shares(axes: "Axes", cell: CellSummary) -> None:
    places = np.arange(len(cell.stages))[::-1]
    left = np.zeros(len(cell.stages))
    totals = np.array([sum(stage.outcomes.values()) for stage in cell.stages])
    for status in STATUSES:
        counts = np.array([stage.outcomes.get(status, 0) for stage in cell.stages])
        if counts.any():
            shares = 100 * counts / totals
            label = f"{status} ({counts.sum()})"
            axes.barh(places, shares, left=left, height=0.6, color=COLOURS[status], linewidth=0, label=label)
            left += shares
    axes.set_yticks(places, [stage.stage for stage in cell.stages])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("evaluations (%)")
    axes.set_xlim(0, 100)
    axes.set_title("outcomes")
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=len(STATUSES))


def _draw_times(axes: "Axes", tables: RunTables, cell: CellSummary) -> None:
    for stage, colour in zip(cell.stages, cycle(SEEDS)):
        rows = tables.rows(
            f"select floor(log10(greatest(seconds, 1e-3)) * {BINS_A_DECADE})::int b, count(*) "
            "from evaluations where cell = ? and stage in (?, ?) group by b order by b",
            [cell.cell, stage.stage, stage.stage + FINAL],
        )
        bins = np.arange(rows[0][0], rows[-1][0] + 1)
        counts = np.array([dict(rows).get(int(b), 0) for b in bins])
        edges = 10.0 ** (np.append(bins, bins[-1] + 1) / BINS_A_DECADE)
        axes.stairs(100 * counts / counts.sum(), edges, color=colour, label=stage.stage, linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xlabel("time of an evaluation (s)")
    axes.set_ylabel("evaluations (%)")
    axes.set_title("evaluation times")
    axes.set_ylim(bottom=0)
    plain_log_ticks(axes.xaxis)
    grid(axes, "y")
    axes.legend(loc="best")
