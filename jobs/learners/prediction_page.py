"""predictions.html: which labels a query's cells have, how sure, where they lie on the reference's map, and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neurofleet.jobs.learners.explanation_page import COUNTED, DOTS_CAPTION, LOW_EXPLAINED, NO_SIGNATURE, dots, gene_of
from neurofleet.jobs.learners.learner_figures import CROSS, class_styles, draw_map
from neurofleet.jobs.learners.prediction_tables import PredictionSummary
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import MISSING, MODEL, grid, picture
from neurofleet.learners.reference_distance import COMPONENTS, INSIDE, NEIGHBOURS
from neurofleet.learners.sims.cell_prediction import Query, absent_in_all
from neurofleet.learners.sims.gene_importance import cells_in_block, class_table, explain
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.unknown_labels import UNKNOWN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPLAINED_CELLS = 1000
DRAWN_CELLS = 20_000
GENES = 8
BINS = 40
FARTHEST = 3.0


def prediction_page(model: SimsModel, queries: Sequence[Query], predictions: Path, summary: PredictionSummary) -> str:
    """Return the page.

    Parameters
    ----------
    queries : sequence of Query
        Of these up to 1,000 cells are explained.
    predictions : Path
        The table, in the order of the queries' cells.
    summary : PredictionSummary
        Of all cells.
    """
    about = summary.about
    identity = about["model"]
    facts = [
        ("query", ", ".join(query["file"] for query in about["queries"])),
        ("cells", f"{summary.n_cells:,}"),
        ("model", f"{identity['name'] or 'model'} (run {identity.get('run', '')[:12]})"),
        ("SHA-256 of its weights", identity.get("sha256", "")),
        ("trained with", f"neurofleet {identity['version'] or 'of a version that is not noted'}"),
        ("unknown below", f"{about['threshold']:.4g}" if about["threshold"] else "no threshold"),
    ]
    head, rows = summary.rows()
    body = [
        html.heading(1, "Labels of cells"),
        *(html.paragraph(text, "note") for text in _warnings(summary)),
        html.table(("", ""), facts),
        html.heading(2, "Labels"),
        html.table(head, rows, numbers=range(1, len(head))),
        *map(html.paragraph, [*summary.query_texts(), *summary.texts()]),
    ]
    table = _drawn(predictions)
    if model.space is not None:
        body += _map_section(model, table, about)
    body += _certainty_section(model, table, about)
    body += _genes_section(model, queries, summary.n_cells)
    return html.page("Labels of cells", body)


def _warnings(summary: PredictionSummary) -> list[str]:
    return [query["warning"] for query in summary.about["queries"] if query["warning"]]


def _drawn(predictions: Path) -> pa.Table:
    """Return what is drawn of at most 20,000 cells."""
    wanted = {"label", "prob_0", "distance", "map_0", "map_1"}
    table = pq.read_table(predictions, columns=[name for name in pq.read_schema(predictions).names if name in wanted])
    chosen = np.sort(np.random.default_rng(0).permutation(len(table))[:DRAWN_CELLS])
    return table.take(pa.array(chosen))


def _map_section(model: SimsModel, table: pa.Table, about: Mapping[str, Any]) -> list[str]:
    space = model.space
    assert space is not None
    classes = np.asarray(model.classes)
    reference, styles = classes[space.labels].astype(str), class_styles(model.classes)
    labels = np.where(np.isin(table["label"].to_numpy(), classes), table["label"].to_numpy(), "").astype(str)
    query = np.stack([table["map_0"].to_numpy(), table["map_1"].to_numpy()], 1)

    def draw(figure: "Figure") -> None:
        left, right = figure.subplots(1, 2)
        draw_map(left, space.plane, reference, styles, 8.0, UNKNOWN, "t-SNE")
        left.set_title(f"reference, {len(space.plane):,} of its cells")
        right.scatter(space.plane[:, 0], space.plane[:, 1], s=3.0, color=MISSING, alpha=0.3, linewidths=0)
        draw_map(right, query, labels, styles, 8.0, UNKNOWN, "t-SNE", CROSS)
        right.set_title("query, on the reference (grey)")
        handles: dict[str, Any] = {}
        for axes in (left, right):
            handles |= {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower left", ncols=6)

    caption = (
        "Each cell of the query lies among the reference's cells that are nearest to it, so also one that is like none"
        " of them has a place: see its distance below."
    )
    return [
        html.heading(2, "On the reference's map"),
        html.figure(picture(4.9, draw, "map of the reference, and of the query on it"), caption),
    ]


def _certainty_section(model: SimsModel, table: pa.Table, about: Mapping[str, Any]) -> list[str]:
    probability = table["prob_0"].to_numpy()
    distance = table["distance"].to_numpy() if "distance" in table.column_names else None

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(1, 1 if distance is None else 2, squeeze=False)[0]
        panels[0].hist(probability, np.linspace(0, 1, BINS + 1), color=MODEL, alpha=0.7)
        if about["threshold"]:
            panels[0].axvline(about["threshold"], color=MISSING, linewidth=1.2)
        panels[0].set_xlabel("probability of the likeliest class")
        if distance is not None and model.space is not None:
            edges = np.linspace(0, FARTHEST, BINS + 1)
            held = model.space.held_out / max(model.space.limit, 1e-9)
            for values, colour, label in ((distance, MODEL, "query"), (held, MISSING, "held-out reference")):
                shares = np.full(len(values), 1 / max(len(values), 1))
                cut = np.minimum(values, FARTHEST)
                panels[1].hist(cut, edges, weights=shares, color=colour, alpha=0.6, label=label)
            panels[1].axvline(1.0, color=MISSING, linewidth=1.2)
            panels[1].set_xlabel("distance from the reference (1: its 95 % limit; from 3 on in the last bar)")
            panels[1].set_ylabel("share of cells")
            panels[1].legend()
        panels[0].set_ylabel("cells")
        for axes in panels:
            grid(axes, "y")

    names, counts = np.unique(table["label"].to_numpy().astype(str), return_counts=True)
    rows = []
    for name, count in zip(names, counts, strict=True):
        of_class = pc.equal(table["label"], name).to_numpy()
        row = [name, f"{count:,}", f"{np.median(probability[of_class]):.3f}"]
        if distance is not None:
            row += [f"{np.median(distance[of_class]):.2f}", f"{(distance[of_class] > 1).mean():.1%}"]
        rows.append(row)
    rows.sort(key=lambda row: (row[0] == UNKNOWN, row[0]))
    head = ["label", "cells", "median probability"]
    head += ["median distance", "outside"] if distance is not None else []
    caption = "Probabilities are calibrated for cells like the reference's: of cells that lie far away they say little."
    if about["threshold"]:
        caption += f" The line on the left is the threshold: cells below it are {UNKNOWN}."
    if distance is not None:
        caption += (
            f" Distance: to the {NEIGHBOURS} nearest cells of the reference, in {COMPONENTS} principal components,"
            f" on average; {100 * INSIDE:.0f} % of its held-out cells lie within 1, and cells beyond it are outside."
        )
    return [
        html.heading(2, "How sure, and how far away"),
        html.figure(picture(2.6, draw, "probabilities, and distances from the reference"), caption),
        html.table(head, rows, numbers=range(1, len(head))),
    ]


def _genes_section(model: SimsModel, queries: Sequence[Query], n_cells: int) -> list[str]:
    share = min(1.0, EXPLAINED_CELLS / max(n_cells, 1))
    generator = np.random.default_rng(0)

    def blocks() -> Any:
        for query in queries:
            rows = np.sort(generator.permutation(len(query))[: max(round(share * len(query)), 1)])
            for _, values in query.blocks(rows, cells_in_block(model)):
                yield values

    means = explain(model, blocks()).without(absent_in_all(queries))
    classes = class_table(means, model)
    rows = []
    for number in np.flatnonzero(means.n_cells):
        of_class = classes.filter(pc.equal(classes["class"], model.classes[number])).slice(0, GENES).to_pylist()
        rows.append((model.classes[number], f"{means.n_cells[number]:,}", ", ".join(map(gene_of, of_class))))
    said = (
        f"Of {int(means.n_cells.sum()):,} cells, drawn at random. {COUNTED} {NO_SIGNATURE} `neurofleet explain` shows"
        " all cells, and how far the members agree."
    )
    return [
        html.heading(2, "Genes that speak for each class"),
        html.figure(picture(*dots(means, model), "contribution of genes to classes"), DOTS_CAPTION),
        html.table(("class", "cells", "genes by contribution"), rows, numbers=(1,)),
        html.paragraph(LOW_EXPLAINED, "quiet"),
        html.paragraph(said, "quiet"),
    ]
