"""The report of synapses: PSPs along the apical dendrite, by class."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.populations.folder import read_findings
from jobs.populations.report_page import write_page
from jobs.report import page
from jobs.report.drawing import SEEDS, grid, picture
from jobs.synapse.results import HEAD, curve_table, remarks

if TYPE_CHECKING:
    from cluster.store import RunStore

PANELS = (
    ("amplitude_change_percent", "amplitude, change (%)"),
    ("half_width_change_percent", "half-width, change (%)"),
    ("latency_change_percent", "latency, change (%)"),
)


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished job, and return where it is."""
    from cluster.store import RunStore

    return write_synapse_report(RunStore(folder), read_findings(folder))


def write_synapse_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of synapses whose tables are stored."""
    synapse = found["synapse"]
    curves = found["curves"]
    body = [
        page.paragraph(
            f"One synapse at a time: rise {synapse['rise_ms']:g} ms, decay {synapse['decay_ms']:g} ms,"
            f" reversal {synapse['reversal_mV']:g} mV, {1000 * synapse['weight_uS']:g} nS. The potential is"
            " read at the soma; the latency is that of the peak. Changes are against the same synapse at the"
            " soma, model by model. Each cell counts once, with the mean of its models; intervals are"
            " of 95 % over cells.",
            "quiet",
        ),
    ]
    if curves:
        body.append(_figure(curves))
    body.append(page.table(HEAD, curve_table(curves), numbers=range(1, len(HEAD))))
    body += [page.paragraph(line, "note") for line in remarks(found)]
    return write_page(store, found, body)


def _figure(curves: list[Mapping[str, Any]]) -> str:
    groups = list(dict.fromkeys(row["class"] for row in curves))

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(PANELS))
        for axis, (name, label) in zip(axes, PANELS, strict=True):
            for colour, group in zip(SEEDS, groups, strict=False):
                rows = [
                    row
                    for row in curves
                    if row["measure"] == name and row["class"] == group and row["section"] == "apic"
                ]
                rows.sort(key=lambda row: row["distance_um"])
                x = [row["distance_um"] for row in rows]
                axis.plot(x, [row["mean"] for row in rows], "o-", ms=3, color=colour, label=group)
                if all(row["low"] is not None for row in rows):
                    low, high = [row["low"] for row in rows], [row["high"] for row in rows]
                    axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
            axis.set(xlabel="distance from the soma (µm)", ylabel=label)
            grid(axis, "y")
        axes[0].legend()

    return page.figure(
        picture(3.0, draw, "PSPs at the soma against the distance of the synapse"),
        "PSPs at the soma from synapses on the apical dendrite, relative to one at the soma.",
    )
