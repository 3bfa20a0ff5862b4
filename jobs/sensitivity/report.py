"""The report of a sensitivity analysis: which conductances each feature depends on, and how sure that is."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.populations.folder import read_findings
from jobs.populations.report_page import write_page
from jobs.report import page
from jobs.sensitivity.engines import BEST, CHAOS, UNCERTAINPY
from jobs.sensitivity.figures import bars_figure, map_figure
from jobs.sensitivity.results import (
    AGREEMENT_HEAD,
    HEAD,
    QUALITY_HEAD,
    agreement_rows,
    index_rows,
    quality_rows,
    remarks,
    shown_engines,
)

if TYPE_CHECKING:
    from cluster.store import RunStore

MEANT = {
    CHAOS: "Polynomial chaos of total order 4, by least squares at Hammersley nodes.",
    BEST: "Polynomial chaos of the order, up to 4, whose error at runs left out is smallest; the same runs.",
    UNCERTAINPY: "uncertainpy's polynomial chaos of total order 4, point collocation at Hammersley nodes.",
}


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished analysis, and return where it is."""
    from cluster.store import RunStore

    return write_sensitivity_report(RunStore(folder), read_findings(folder))


def write_sensitivity_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of an analysis whose tables are stored."""
    models = sum(cell["models"] for cell in found["cells"])
    body = [
        page.paragraph(
            f"Parameters vary independently and uniformly within ±{100 * found['half_width']:g} % of each of"
            f" {models:,} model(s) of {len(found['cells']):,} cell(s). A first-order index is the share of a"
            " feature's variance that a parameter causes alone, a total index its share with all"
            " interactions. Means are over cells, each counted once; intervals"
            " resample cells, or the models of a single cell, and are left out where there is one model.",
            "quiet",
        ),
        *(page.paragraph(line, "note") for line in remarks(found)),
    ]
    for engine in shown_engines(found):
        body += _indices(found, engine)
    body += [
        page.heading(2, "How far to trust them"),
        page.paragraph(
            "The error of a surrogate is that at a run which it was not fitted to (leave-one-out), as a share"
            " of the feature's variance: 0 is exact, 1 no better than the mean.",
            "quiet",
        ),
        page.table(QUALITY_HEAD, quality_rows(found), numbers=range(1, 7)),
    ]
    if found["agreements"]:
        body += [
            page.paragraph("The same indices by other routes:"),
            page.table(AGREEMENT_HEAD, agreement_rows(found), numbers=range(3, 6)),
        ]
    return write_page(store, found, body)


def _indices(found: Mapping[str, Any], engine: str) -> list[str]:
    rows = [row for row in found["averages"] if row["engine"] == engine]
    if not any(row["total"] is not None for row in rows):
        return []
    parameters = list(dict.fromkeys(row["parameter"] for row in rows))
    bars = bars_figure(rows, found["features"], parameters)
    shares = map_figure(rows, found["features"], parameters)
    return [
        page.heading(2, f"Indices: {engine}"),
        page.paragraph(MEANT[engine], "quiet"),
        page.figure(bars, "Mean indices by feature, with 95 % intervals where there are several models."),
        page.figure(shares, "Mean total index; a dash where a feature has none."),
        page.details("Numbers", page.table(HEAD, index_rows(found, engine), numbers=range(2, len(HEAD)))),
    ]
