"""The findings of synapses on models: postsynaptic potentials by class and distance, and a report with curves."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import SEEDS, grid, picture
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import Findings

HEAD = ("class", "cells", "at", "amplitude, mV", "half-width, ms", "latency, ms", "change of amplitude, %")
SHOWN = ("amplitude_mV", "half_width_ms", "latency_ms", "amplitude_change_percent")
PANELS = (
    ("amplitude_change_percent", "amplitude, change (%)"),
    ("half_width_change_percent", "half-width, change (%)"),
    ("latency_change_percent", "latency, change (%)"),
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
        parts = [
            html.paragraph(
                f"One synapse at a time: rise {synapse.rise_ms:g} ms, decay {synapse.decay_ms:g} ms,"
                f" reversal {synapse.reversal_mV:g} mV, {1000 * synapse.weight_uS:g} nS. The potential is"
                " read at the soma; the latency is that of the peak. Changes are against the same synapse at the"
                " soma, model by model. Each cell counts once, with the mean of its models; intervals are"
                " of 95 % over cells.",
                "quiet",
            ),
        ]
        if self.curves:
            parts.append(_figure(self.curves))
        return [*parts, self.means().html(), *(html.paragraph(line, "note") for line in self.remarks())]


def _figure(curves: Sequence[CurvePoint]) -> str:
    groups = list(dict.fromkeys(point.group for point in curves))

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(PANELS))
        for axis, (name, label) in zip(axes, PANELS, strict=True):
            for colour, group in zip(SEEDS, groups, strict=False):
                points = [p for p in curves if (p.measure, p.group, p.section) == (name, group, "apic")]
                points.sort(key=lambda point: point.distance_um)
                x = [point.distance_um for point in points]
                axis.plot(x, [point.mean for point in points], "o-", ms=3, color=colour, label=group)
                if all(point.low is not None for point in points):
                    low, high = [point.low for point in points], [point.high for point in points]
                    axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
            axis.set(xlabel="distance from the soma (µm)", ylabel=label)
            grid(axis, "y")
        axes[0].legend()

    return html.figure(
        picture(3.0, draw, "PSPs at the soma against the distance of the synapse"),
        "PSPs at the soma from synapses on the apical dendrite, relative to one at the soma.",
    )
