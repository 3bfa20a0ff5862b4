"""explain.html: the genes that speak for each class, with pictures, and how far they can be trusted."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import FAINT, INK, SEEDS, grid, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from neurofleet.learners.sims.gene_importance import Explanation
    from neurofleet.learners.sims.sims_model import SimsModel

Drawing = tuple[float, "Callable[[Figure], None]"]
"""Height in inches, and what draws."""

COLUMNS = 3
BARS = 12
DOTS, MOST_DOTS = 3, 60
SHADES = 21
LOW = " ↓"
LOW_EXPLAINED = (
    f"{LOW.strip()}: the gene is lower in this class than in all cells, so its absence speaks for the class."
)
_BAR, _MEMBER, _LINEAR = SEEDS[0], INK, SEEDS[1]


def bars(means: "Explanation", model: "SimsModel") -> Drawing:
    """Return a panel of bars a class: contribution of the whole, of each member, and of the linear model."""
    shown = np.flatnonzero(means.n_cells)
    n_rows = -(-len(shown) // COLUMNS)

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(n_rows, COLUMNS, squeeze=False)
        for axes in panels.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, number in zip(panels.flat, shown, strict=False):
            _draw_class(axes, means, model, int(number))
        for axes in panels[-1]:
            axes.set_xlabel("contribution (logits)")
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)

    return n_rows * (0.16 * BARS + 0.75) + 0.4, draw


def _draw_class(axes: "Axes", means: "Explanation", model: "SimsModel", number: int) -> None:
    whole = means.whole_contribution()[number]
    genes = [gene for gene in np.argsort(-whole, kind="stable")[:BARS] if whole[gene] > 0]
    places = np.arange(len(genes))[::-1]
    axes.barh(places, whole[genes], height=0.66, color=_BAR, alpha=0.55, linewidth=0, label="whole model")
    for index, member in enumerate(means.contribution[:, number]):
        label = "each member" if index == 0 else None
        axes.plot(
            member[genes],
            places,
            linestyle="",
            marker="o",
            markersize=2.2,
            color=_MEMBER,
            alpha=0.7,
            label=label,
        )
    if means.linear_share:
        linear = means.linear_contribution[number, genes]
        axes.plot(linear, places, linestyle="", marker="D", markersize=2.6, color=_LINEAR, label="linear model")
    low = means.value[number, genes] < means.global_value[genes]
    names = [model.genes[gene] + (LOW if is_low else "") for gene, is_low in zip(genes, low, strict=True)]
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0.0, color=FAINT, linewidth=0.7)
    axes.set_ylim(-0.7, BARS - 0.3)
    axes.set_title(f"{model.classes[number]}, {means.n_cells[number]} cells\n{overlap_words(means, number)}")
    grid(axes, "x")


def overlap_words(means: "Explanation", number: int) -> str:
    """Return how much of their lists the members of a class share."""
    contribution, attention = means.overlap("contribution")[number], means.overlap("attention")[number]
    if np.isnan(contribution):
        return "one network: no overlap"
    return f"overlap {contribution:.2f} (attention {attention:.2f})"


def dots_each(n_classes: int) -> int:
    """Return how many genes of each class have a dot, so that all of them fit on the page."""
    return max(min(DOTS, MOST_DOTS // n_classes), 1)


def dots(means: "Explanation", model: "SimsModel") -> Drawing:
    """Return a mark for each class and each top gene: what it contributes, and how many networks agree."""
    whole, in_top, n_members = means.whole_contribution(), means.in_top(), len(means.contribution)
    shown = np.flatnonzero(means.n_cells)
    each = dots_each(len(shown))
    tops = [gene for number in shown for gene in np.argsort(-whole[number], kind="stable")[:each]]
    genes = np.asarray(list(dict.fromkeys(tops)))

    def draw(figure: "Figure") -> None:
        from matplotlib import colormaps
        from matplotlib.lines import Line2D

        axes = figure.subplots()
        part = np.ix_(shown, genes)
        share = in_top[part] if n_members > 1 else np.full((len(shown), len(genes)), 0.5)
        colour = whole[part] / np.maximum(np.abs(whole[shown]).max(1, keepdims=True), 1e-12)
        low = means.value[part] < means.global_value[genes]
        x, y = np.meshgrid(np.arange(len(genes)), np.arange(len(shown))[::-1])
        for marker, chosen in (("o", ~low), ("v", low)):
            points = axes.scatter(
                x[chosen],
                y[chosen],
                s=_area(share[chosen]),
                c=colour[chosen],
                marker=marker,
                cmap=colormaps["RdBu_r"].resampled(SHADES),
                vmin=-1,
                vmax=1,
                linewidth=0.3,
                edgecolor=FAINT,
            )
        axes.set_xticks(np.arange(len(genes)), [model.genes[gene] for gene in genes], rotation=90)
        axes.set_yticks(np.arange(len(shown))[::-1], [model.classes[number] for number in shown])
        axes.set_xlim(-0.8, len(genes) - 0.2)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        scale = figure.colorbar(points, ax=axes, label="contribution", shrink=0.8, aspect=15, pad=0.01)
        assert scale.solids is not None
        scale.solids.set_rasterized(False)  # the page allows no pictures that are not drawn in it
        marks = [("o", 0.5, "higher than in all cells"), ("v", 0.5, "lower")]
        if n_members > 1:
            counts = sorted({0, (n_members + 1) // 2, n_members})
            marks += [("o", count / n_members, f"in top 20 of {count}/{n_members} networks") for count in counts]
        handles = [
            Line2D(
                [],
                [],
                linestyle="",
                marker=marker,
                markersize=_area(share) ** 0.5,
                color="none",
                markeredgecolor=INK,
                markeredgewidth=0.6,
                label=label,
            )
            for marker, share, label in marks
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handletextpad=0.2)

    return 0.28 * len(shown) + 1.7, draw


def _area(share: Any) -> Any:
    """Return the area of a mark, in square points, of a gene in the top 20 of this share of the networks."""
    return 6 + 80 * share


NO_SIGNATURE = (
    "The masks of a single member are not a signature of a type: among correlated genes, networks of equal"
    " accuracy choose mostly different ones. Lists are therefore ranked by contribution (value times"
    " gradient, averaged over members and the linear model)."
)
OVERLAP = (
    "Overlap is how much the members share of their top 20: the mean Jaccard index of pairs, by contribution and by"
    " attention (1: the same genes, 0: none in common)."
)
COUNTED = "A cell counts for its likeliest class, however small its probability."
COLUMNS_EXPLAINED = (
    "Contribution: of networks and linear model together, in logits; sd of members: between the networks; in top 20"
    " of: how many networks have the gene among their 20 of largest contribution; linear: what the linear model gives"
    " it. Attention: the mean mask of the networks, which sums to 1 over all genes and is 0 for most; dispersion:"
    " attention in the class over that in all cells. Value: mean log-normalised value in the class, and in all cells."
)
DOTS_CAPTION = (
    f"Genes of largest contribution, up to {DOTS} of each class. Colour: contribution to the class, as a share of the"
    " class's largest. Size: how many networks have the gene among their 20 of largest contribution for the class;"
    " small marks of strong colour rest on one network, or on the linear model. Triangles: the gene is lower in the"
    " class than in all cells."
)
ONE_MEMBER = (
    "This model has one network, and how far networks agree (overlap, sd of members) needs at least two: these columns"
    " are empty. Train several before you trust a list."
)


def agreement_in_words(n_members: int) -> str:
    """Return what the overlap of a model's networks is, or why there is none."""
    return OVERLAP if n_members > 1 else ONE_MEMBER


def explanation_page(
    means: "Explanation",
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
        html.heading(1, "Genes that speak for each class"),
        html.table(("", ""), facts.items()),
        html.paragraph(f"{NO_SIGNATURE} {agreement_in_words(len(means.contribution))}", "note"),
        html.table(*_overview(means, model, classes), numbers=(1, 2, 3)),
        html.paragraph(f"{COUNTED} {LOW_EXPLAINED}", "quiet"),
    ]
    absent = [name for name, n in zip(model.classes, means.n_cells, strict=True) if not n]
    if absent:
        body.append(html.paragraph(f"Predicted for no cell: {', '.join(absent)}.", "quiet"))
    body.append(html.figure(picture(*dots(means, model), "contribution of genes to classes"), DOTS_CAPTION))
    caption = (
        f"Bars: contribution of the whole model. Points: of each member; diamonds: of the linear model. {LOW_EXPLAINED}"
    )
    body.append(html.figure(picture(*bars(means, model), "genes of largest contribution by class"), caption))
    body.append(html.paragraph(f"In the tables below: {COLUMNS_EXPLAINED}", "quiet"))
    for name in dict.fromkeys(classes["class"].to_pylist()):
        part = classes.filter(pc.equal(classes["class"], name))
        body += [html.heading(2, name), html.paragraph(_overlaps(part)), _genes(part, top)]
    body += [html.heading(2, "All cells"), html.paragraph(_overlaps(whole)), _genes(whole, top)]
    return html.page("Genes that speak for each class", body)


def _overview(means: "Explanation", model: "SimsModel", classes: pa.Table) -> tuple[list[str], list[Any]]:
    by_reading = [means.overlap(reading) for reading in ("contribution", "attention")]
    rows = []
    for number in np.flatnonzero(means.n_cells):
        part = classes.filter(pc.equal(classes["class"], model.classes[number]))
        first = ", ".join(stable_gene(row, len(means.contribution)) for row in part.slice(0, 6).to_pylist())
        figures = [_figure(float(overlaps[number])) for overlaps in by_reading]
        rows.append((model.classes[number], f"{means.n_cells[number]:,}", *figures, first))
    genes = "first genes" + (", and in how many networks' top 20" if len(means.contribution) > 1 else "")
    return ["class", "cells", "overlap, contribution", "overlap, attention", genes], rows


def gene_of(row: Mapping[str, Any]) -> str:
    """Return the gene in a row of `class_table` or `global_table`, with an arrow where its absence speaks."""
    return row["gene"] + (LOW if row.get("direction") == "lower" else "")


def stable_gene(row: Mapping[str, Any], n_members: int) -> str:
    """Return `gene_of` with how many networks have the gene in their top 20, where there are several."""
    return f"{gene_of(row)} {row['members_in_top']}/{n_members}" if n_members > 1 else gene_of(row)


def _overlaps(part: pa.Table) -> str:
    figures = {name: part[f"overlap_{name}"][0].as_py() for name in ("contribution", "attention")}
    cells = f"{part['cells'][0].as_py():,} cells."
    if None in figures.values():
        return cells
    return (
        f"{cells} Members' overlap: by contribution {_figure(figures['contribution'])}, by attention"
        f" {_figure(figures['attention'])}."
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
    rows = [[_figure((row | {"gene": gene_of(row)})[name]) for name in names] for row in part.slice(0, top).to_pylist()]
    return html.table(head, rows, numbers=(0, *range(2, len(head))))


def _figure(value: Any) -> str:
    if value is None or value != value:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) >= 0.0005 else "0"
