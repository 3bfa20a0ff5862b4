"""f-I curve: firing rates of the recorded cell and of its best models."""

from collections import defaultdict
from typing import TYPE_CHECKING

from neurofleet.jobs.reports.drawing import INK, MODEL, grid, picture
from neurofleet.jobs.reports.fit_contents import CellContents

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rates_figure(contents: CellContents) -> str:
    """Draw spikes per second over the amplitude of the step."""
    assert contents.rates is not None
    curves: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for rate in contents.rates.rates:
        curves[rate.individual].append((rate.amplitude_nA * 1000, rate.rate_Hz))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        if published := contents.published_rates:
            axes.errorbar(
                [1000 * rate.amplitude_nA for rate in published],
                [rate.mean_Hz for rate in published],
                [rate.std_Hz for rate in published],
                fmt="o",
                markersize=5,
                zorder=3,
                capsize=3,
                color=INK,
                markerfacecolor="none",
                label="published",
            )
        if recorded := contents.recorded_rates:
            amplitudes = [rate.amplitude_nA * 1000 for rate in recorded]
            axes.plot(
                amplitudes,
                [rate.rate_Hz for rate in recorded],
                marker="o",
                markersize=5,
                zorder=3,
                linestyle="none",
                color=INK,
                markerfacecolor="none",
                label="recorded, each sweep",
            )
        for individual, points in sorted(curves.items(), reverse=True):
            best = individual == 0
            axes.plot(
                *zip(*sorted(points), strict=True),
                color=MODEL,
                linewidth=1.6 if best else 0.8,
                alpha=1.0 if best else 0.55,
                marker="." if best else None,
                label={0: "best model", 1: "next best models"}.get(individual),
            )
        axes.set_xlabel("step amplitude (pA)")
        axes.set_ylabel("firing rate (spikes/s)")
        axes.set_ylim(bottom=0)
        grid(axes, "y")
        figure.legend(loc="outside right upper")

    return picture(2.6, draw, "firing rate over step amplitude")
