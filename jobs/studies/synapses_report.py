"""The findings of synapses on models: postsynaptic potentials by class and distance, and a report with curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import INK, SEEDS, grid, picture
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import Findings, table_rows

HEAD = ("class", "cells", "at", "amplitude, mV", "half-width, ms", "peak latency, ms", "change of amplitude, %")
SHOWN = ("amplitude_mV", "half_width_ms", "latency_ms", "amplitude_change_percent")
PSPS, TRACE, TRACE_TIMES = "psps.parquet", "trace_mV", "trace_ms"
CLASSES_A_ROW = 3
PANELS = (
    ("amplitude_mV", "amplitude (mV)"),
    ("amplitude_change_percent", "amplitude, change (%)"),
    ("half_width_change_percent", "half-width, change (%)"),
    ("latency_change_percent", "peak latency, change (%)"),
)

Group = Annotated[str, Field(alias="class")]


@dataclass(frozen=True, kw_only=True)
class SynapseShape:
    """Time course (ms), reversal potential and weight of a synapse."""

    rise_ms: float
    decay_ms: float
    reversal_mV: float
    weight_uS: float


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Cells and models of a class; of each reason, how many of its potentials cannot be read."""

    group: Group
    cells: int
    models: int
    unreadable: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A mean over the cells of a class.

    Attributes
    ----------
    group : str
        The class.
    section : str
        Where the synapse is: ``soma`` or ``apic``.
    distance_um : float
        From the soma.
    measure : str
    cells : int
    mean : float
    low, high : float or None
        Interval of 95 %; None for a single cell.
    """

    group: Group
    section: str
    distance_um: float
    measure: str
    cells: int
    mean: float
    low: float | None = None
    high: float | None = None

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return {"class" if key == "group" else key: value for key, value in vars(self).items()}

    def text(self) -> str:
        """Return mean and interval as they are shown."""
        if self.low is None or self.high is None:
            return f"{self.mean:.3g}"
        return f"{self.mean:.3g} ± {(self.high - self.low) / 2:.2g}"


@dataclass(frozen=True, kw_only=True)
class SynapseFindings(Findings):
    """Postsynaptic potentials at the soma."""

    synapse: SynapseShape
    classes: list[ClassCounts] = field(default_factory=list)
    curves: list[CurvePoint] = field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        """Return the means by class and distance."""
        return [self.means()]

    def means(self) -> ReportTable:
        """Return a row for each class and distance, the soma first."""
        by_place: dict[tuple[str, bool, float], dict[str, CurvePoint]] = {}
        for point in self.curves:
            place = (point.group, point.section != "soma", point.distance_um)
            by_place.setdefault(place, {})[point.measure] = point
        rows = [
            (
                group,
                max(point.cells for point in points.values()),
                f"{distance:g} µm" if outside else "soma",
                *(points[name].text() if name in points else "" for name in SHOWN),
            )
            for (group, outside, distance), points in sorted(by_place.items(), key=lambda item: item[0])
        ]
        title = f"{self.name}: means over cells (± 95 % interval)"
        return ReportTable(HEAD, rows, numbers=range(1, len(HEAD)), title=title)

    def verdict(self) -> list[str]:
        """Return the potentials of each class at the soma and from farthest away, and what cannot be read."""
        lines = []
        for counts in self.classes:
            points = [p for p in self.curves if p.group == counts.group and p.measure == "amplitude_mV"]
            points.sort(key=lambda point: (point.section != "soma", point.distance_um))
            places = [f"{points[0].text()} mV at the soma"] if points else ["no PSP"]
            if len(points) > 1:
                places.append(f"{points[-1].text()} mV from {points[-1].distance_um:g} µm")
            over = f"{counts.cells} cell{'s' * (counts.cells != 1)}, {counts.models} model{'s' * (counts.models != 1)}"
            lines.append(f"{counts.group}: PSPs of {', '.join(places)} ({over})")
        unreadable = sum(number for counts in self.classes for number in counts.unreadable.values())
        return [*lines, f"failed: {unreadable} PSPs cannot be read. ± is the 95 % interval over cells"]

    def remarks(self) -> list[str]:
        """Return which potentials cannot be read."""
        return [
            f"{counts.group}: {number} PSPs cannot be read: {reason}"
            for counts in self.classes
            for reason, number in counts.unreadable.items()
        ]

    def sections(self, store: RunStore) -> list[str]:
        """Return the curves by class, and their means."""
        synapse = self.synapse
        traced = [row for row in table_rows(store, PSPS) if row.get(TRACE)]
        parts = [
            html.paragraph(
                f"One synapse at a time: rise {synapse.rise_ms:g} ms, decay {synapse.decay_ms:g} ms,"
                f" reversal {synapse.reversal_mV:g} mV, {1000 * synapse.weight_uS:g} nS. The potential is"
                " read at the soma; the peak latency is the time from the event to the peak. Changes are against"
                " the same synapse at the soma, model by model. Each cell counts once, with the mean of its"
                " models; intervals are of 95 % over cells.",
                "quiet",
            ),
        ]
        if traced:
            parts.append(_traces(traced))
        if self.curves:
            parts.append(_figure(self.curves))
        return [*parts, self.means().html(), *(html.paragraph(line, "note") for line in self.remarks())]


def _traces(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the potentials of the best model of one cell of each class, those from farther away lighter."""
    cells = {row["class"]: row["cell"] for row in reversed(rows)}  # the first of each class
    shown = {group: [row for row in rows if row["cell"] == cells[group]] for group in dict.fromkeys(cells)}
    shown = dict(sorted(shown.items()))
    farthest = max(row["distance_um"] for row in rows) or 1.0
    columns = min(CLASSES_A_ROW, len(shown))

    def draw(figure: Any) -> None:
        import matplotlib

        colours = matplotlib.colormaps["viridis"]
        n_rows = -(-len(shown) // columns)
        panels = figure.subplots(n_rows, columns, squeeze=False, sharex=True)
        for axis in panels.flat[len(shown) :]:
            axis.set_axis_off()
        for axis, (group, of_cell) in zip(panels.flat, shown.items(), strict=False):
            for row in of_cell:
                somatic = row["section"] == "soma"
                label = "at the soma" if somatic else f"{row['distance_um']:.0f} µm"
                colour = INK if somatic else colours(0.05 + 0.8 * row["distance_um"] / farthest)
                axis.plot(row[TRACE_TIMES], row[TRACE], color=colour, lw=1.6 if somatic else 1.0, label=label)
            axis.set(xlabel="time after the event (ms)", ylabel="PSP at the soma (mV)")
            axis.set_title(f"{group}: {cells[group]}")
            grid(axis, "y")
            axis.legend(loc="upper right", title="synapse")

    caption = (
        "PSPs of the best model of a cell of each class, above the potential before the event: black, the synapse at"
        " the soma; colours, on the apical dendrite at these path distances."
    )
    height = 2.9 * -(-len(shown) // columns)
    return html.figure(picture(height, draw, "PSPs at the soma by the place of the synapse"), caption)


def _figure(curves: Sequence[CurvePoint]) -> str:
    groups = list(dict.fromkeys(point.group for point in curves))

    def draw(figure: Any) -> None:
        axes = figure.subplots(2, 2, sharex=True)
        for axis, (name, label) in zip(axes.flat, PANELS, strict=True):
            for colour, group in zip(SEEDS, groups, strict=False):
                points = [p for p in curves if (p.measure, p.group, p.section) == (name, group, "apic")]
                points.sort(key=lambda point: point.distance_um)
                x = [point.distance_um for point in points]
                axis.plot(x, [point.mean for point in points], "o-", ms=3, color=colour, label=group)
                if all(point.low is not None for point in points):
                    low, high = [point.low for point in points], [point.high for point in points]
                    axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
            axis.set_ylabel(label)
            grid(axis, "y")
        for axis in axes[-1]:
            axis.set_xlabel("path distance from the soma (µm)")
        if len(groups) > 1:
            figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=6)

    return html.figure(
        picture(4.6, draw, "PSPs at the soma against the distance of the synapse"),
        "PSPs at the soma from synapses on the apical dendrite: amplitude, and changes against one at the soma. Bands:"
        " intervals of 95 % over cells.",
    )
