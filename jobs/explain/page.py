"""explain.html: the lists of genes, with what tells how far they can be trusted beside each."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.explain.pictures import LOW, bars, dots, dots_each
from jobs.report import page
from jobs.report.drawing import picture

if TYPE_CHECKING:
    from learners.sims.explain import Explanation
    from learners.sims.model import SimsModel

NO_SIGNATURE = (
    "The masks of a single member are no signature of a type: among correlated genes, networks of equal"
    " accuracy choose mostly different ones. Lists are therefore ranked by contribution (value times"
    " gradient, averaged over members and the linear model), and beside each list stands how much the members"
    " share of their top 20: the mean Jaccard index of pairs, by contribution and by attention (1: the same"
    " genes, 0: none in common)."
)
ONE_MEMBER = (
    "This model has one member, so no overlap can be measured: train several before you trust a list."
)


def explanation_page(
    found: "Explanation",
    model: "SimsModel",
    classes: pa.Table,
    whole: pa.Table,
    facts: dict[str, Any],
    top: int,
) -> str:
    """Return the page.

    Parameters
    ----------
    classes, whole : Table
        Of `class_table` and `global_table`.
    facts : dict
        What stands at the top: words and figures.
    top : int
        Genes of each list.
    """
    body = [
        page.heading(1, "Genes that speak for each class"),
        page.table(("", ""), facts.items()),
        page.paragraph(NO_SIGNATURE, "note"),
    ]
    if len(found.contribution) == 1:
        body.append(page.paragraph(ONE_MEMBER, "note"))
    body += [page.table(*_overview(found, model, classes), numbers=(1, 2, 3))]
    absent = [name for name, n in zip(model.classes, found.n_cells, strict=True) if not n]
    if absent:
        body.append(page.paragraph(f"Predicted for no cell: {', '.join(absent)}.", "quiet"))
    each = dots_each(int((found.n_cells > 0).sum()))
    caption = (
        f"Genes of largest contribution, up to {each} of each class. Size: mean value in the class, as a"
        " share of the gene's largest. Colour: contribution to the class, as a share of the class's largest."
    )
    body.append(page.figure(picture(*dots(found, model), "contribution of genes to classes"), caption))
    caption = (
        "Bars: contribution of the whole model. Points: of each member; diamonds: of the linear model."
        f"{LOW}: the gene is lower in this class than in all cells, so its absence speaks."
    )
    body.append(page.figure(picture(*bars(found, model), "genes of largest contribution by class"), caption))
    for name in dict.fromkeys(classes["class"].to_pylist()):
        part = classes.filter(pc.equal(classes["class"], name))
        body += [page.heading(2, name), page.paragraph(_overlaps(part)), _genes(part, top)]
    body += [page.heading(2, "All cells"), page.paragraph(_overlaps(whole)), _genes(whole, top)]
    return page.page("Genes that speak for each class", body)


def _overview(found: "Explanation", model: "SimsModel", classes: pa.Table) -> tuple[list[str], list[Any]]:
    by_reading = [found.overlap(reading) for reading in ("contribution", "attention")]
    rows = []
    for number in np.flatnonzero(found.n_cells):
        part = classes.filter(pc.equal(classes["class"], model.classes[number]))
        first = ", ".join(part["gene"].slice(0, 6).to_pylist())
        figures = [_figure(float(overlaps[number])) for overlaps in by_reading]
        rows.append((model.classes[number], f"{found.n_cells[number]:,}", *figures, first))
    return ["class", "cells", "overlap, contribution", "overlap, attention", "first genes"], rows


def _overlaps(part: pa.Table) -> str:
    figures = {name: part[f"overlap_{name}"][0].as_py() for name in ("contribution", "attention")}
    return (
        f"{part['cells'][0].as_py():,} cells. Members' overlap: by contribution"
        f" {_figure(figures['contribution'])}, by attention {_figure(figures['attention'])}."
    )


def _genes(part: pa.Table, top: int) -> str:
    head = [
        "",
        "gene",
        "contribution",
        "sd of members",
        "in top 20 of",
        "linear",
        "attention",
        "sd of members",
    ]
    names = ["rank", "gene", "contribution", "contribution_sd", "members_in_top", "linear_contribution"]
    names += ["attention", "attention_sd"]
    if "dispersion" in part.column_names:
        head += ["dispersion", "value", "in all cells"]
        names += ["dispersion", "value", "value_all"]
    rows = [[_figure(row[name]) for name in names] for row in part.slice(0, top).to_pylist()]
    return page.table(head, rows, numbers=(0, *range(2, len(head))))


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "not measured" if np.isnan(value) else f"{value:.3f}" if abs(value) >= 0.0005 else "0"
