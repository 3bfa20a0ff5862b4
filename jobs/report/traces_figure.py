"""Recorded against fitted voltage of a stage's best model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.report.drawing import INK, MODEL, grid, picture, thinned
from jobs.report.traces import ShownTrace, Trace, first_peak_ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE_PEAK_MS, AFTER_PEAK_MS = 4.0, 16.0
RECORDED: dict[str, Any] = {"color": INK, "linewidth": 1.8, "alpha": 0.5}
FITTED: dict[str, Any] = {"color": MODEL, "linewidth": 0.9}


def traces_figure(groups: Sequence[Sequence[ShownTrace]]) -> str:
    """Draw a panel for each group of traces; where some spike, the first spikes beside them."""
    spiking = any(trace.spikes for group in groups for trace in group)

    def draw(figure: "Figure") -> None:
        ratios = [3.2, 1] if spiking else [1]
        panels = figure.subplots(len(groups), len(ratios), squeeze=False, width_ratios=ratios)
        for group, axes in zip(groups, panels, strict=True):
            _draw_group(axes[0], group)
            if spiking:
                _draw_first_spike(axes[1], group[0])
        panels[-1, 0].set_xlabel("time (ms)")
        if spiking:
            panels[-1, 1].set_xlabel("time from the peak (ms)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2)

    height = 1.4 * len(groups) + 0.6 if len(groups) > 1 else 3.0
    return picture(height, draw, "recorded and fitted voltage")


def _draw_group(axes: "Axes", group: Sequence[ShownTrace]) -> None:
    for i, shown in enumerate(group):
        for k, trace in enumerate(shown.recorded[:1] if shown.spikes else shown.recorded):
            label = "recorded" if i == k == 0 else None
            axes.plot(*_cut(trace, shown.window_ms), label=label, **RECORDED)
    for i, shown in enumerate(group):
        axes.plot(*_cut(shown.model, shown.window_ms), label="best model" if i == 0 else None, **FITTED)
    grid(axes, "y")
    axes.set_xlim(*group[0].window_ms)
    axes.set_ylabel("mV")
    axes.set_title(_title(group))


def _title(group: Sequence[ShownTrace]) -> str:
    if len(group) == 1:
        return group[0].title
    steps = ", ".join(f"{shown.amplitude_pA:.4g}" for shown in group)
    return f"{group[0].name} … {group[-1].name}: {steps} pA"


def _draw_first_spike(axes: "Axes", shown: ShownTrace) -> None:
    """Draw the first spikes with their peaks at 0."""
    lines = [(trace, RECORDED) for trace in shown.recorded[:1]] + [(shown.model, FITTED)]
    for (time, voltage), style in lines:
        if (peak_ms := first_peak_ms(time, voltage)) is not None:
            part = _cut((time, voltage), (peak_ms - BEFORE_PEAK_MS, peak_ms + AFTER_PEAK_MS))
            axes.plot(part[0] - peak_ms, part[1], **style)
    if not axes.lines:
        axes.set_axis_off()
        return
    grid(axes, "y")
    axes.set_xlim(-BEFORE_PEAK_MS, AFTER_PEAK_MS)
    axes.set_title("first spike")


def _cut(trace: Trace, window_ms: tuple[float, float]) -> Trace:
    time, voltage = trace
    inside = (time >= window_ms[0]) & (time <= window_ms[1])
    return thinned(time[inside], voltage[inside])
