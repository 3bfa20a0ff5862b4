"""Pictures of how a search went: objectives over generations, and outcomes of evaluations."""

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from neurofleet.cluster.pool.outcome import STATUSES
from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.reports.drawing import (
    BLUE,
    FAINT,
    INK,
    ORANGE,
    PINK,
    SEEDS,
    VERMILION,
    grid,
    picture,
    plain_log_ticks,
    seed_colours,
)
from neurofleet.jobs.results.run_summary import CellSummary, StageSummary
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.jobs.results.search_curves import search_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def search_figure(tables: RunTables, cell: CellSummary) -> str:
    """Draw the best mean |z| so far of each seed, and the spread of each generation."""

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(1, len(cell.stages), squeeze=False)[0]
        for axes, stage in zip(panels, cell.stages, strict=True):
            _draw_stage(axes, tables, cell.cell, stage)
        panels[0].set_ylabel("mean |z| (SD from target)")
        entries = panels[-1].get_legend_handles_labels()  # the last stage has all the seeds
        figure.legend(*entries, loc="outside lower left", ncols=6)

    return picture(3.1, draw, f"scores over generations of {cell.cell}")


def _draw_stage(axes: "Axes", tables: RunTables, cell: str, stage: StageSummary) -> None:
    from matplotlib.ticker import MaxNLocator

    curves = search_curves(tables, cell, stage)
    axes.fill_between(
        curves.generation, curves.low, curves.high, color=FAINT, alpha=0.25, linewidth=0, label="10 to 90 % of all"
    )
    axes.plot(curves.generation, curves.median, color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label="median of all")
    colours = seed_colours([seed.seed for seed in stage.seeds])
    for curve in curves.seeds:
        colour = colours[curve.seed]
        marker = "." if curve.generation.size == 1 else None
        label = f"best, seed {curve.seed}"
        axes.plot(curve.generation, curve.best, color=colour, linewidth=1.6, marker=marker, label=label)
        if curve.final is not None:
            axes.plot(curve.generation[-1:], [curve.final], marker="D", markersize=4, color=colour, linestyle="none")
    axes.set_yscale("log")
    plain_log_ticks(axes.yaxis)
    grid(axes, "y")
    axes.set_title(stage.stage if stage.finished else f"{stage.stage} (not finished)")
    axes.set_xlabel("generation")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


COLOURS = dict(zip(STATUSES, (BLUE, ORANGE, VERMILION, PINK, INK), strict=True))
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
