"""Pictures of spike-sorted units: mean waveform, intervals and autocorrelogram of each class."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from neurofleet.jobs.learners.learner_figures import class_styles
from neurofleet.jobs.reports.drawing import grid, legend_label, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "waveform": ("waveform", "time from the main deflection (ms)", "depths of the deflection", 1.0),
    "isi": ("intervals between spikes", "interval (ms)", "% of all intervals per ms", 100.0),
    "acg": ("autocorrelogram", "lag (ms)", "relative to its mean", 1.0),
}
"""Signal -> title, axes, and what its values are multiplied by."""

MOST_BANDS = 4
"""With more classes than this, quartiles would hide each other."""


def signals_figure(signals: pd.DataFrame, name: str) -> str:
    """Draw a panel for each signal, with a line for each class.

    Parameters
    ----------
    signals : DataFrame
        As `neurofleet.learners.units.class_signals.class_signals` returns it.
    name : str
        Of the data set.
    """
    classes = sorted(set(signals["class"]))
    styles = class_styles(classes)
    panels = [panel for panel in PANELS if panel in set(signals["signal"])]
    sizes = signals.groupby("class")["units"].max()

    def draw(figure: "Figure") -> None:
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            title, x, y, factor = PANELS[panel]
            for each in classes:
                of_class = signals[(signals["class"] == each) & (signals["signal"] == panel)]
                if of_class.empty:
                    continue
                at, style = of_class["at_ms"], styles[each]
                axes.plot(
                    at,
                    factor * of_class["mean"],
                    color=style.colour,
                    linestyle=style.line,
                    linewidth=1.4,
                    label=legend_label(f"{each} ({sizes[each]:,})"),
                )
                if len(classes) <= MOST_BANDS:
                    low, high = factor * of_class["low"], factor * of_class["high"]
                    axes.fill_between(at, low, high, color=style.colour, alpha=0.15, linewidth=0)
            axes.set_title(title)
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.margins(x=0)
            grid(axes, "y")
        entries: dict[str, Any] = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                entries.setdefault(label, handle)
        figure.legend(list(entries.values()), list(entries), loc="outside lower left", ncols=6)

    return picture(3.1 + 0.18 * (len(classes) // 6), draw, f"mean signals of the classes of {name}")
