"""``neurofleet explain``: the genes that speak for each class, as tables, pictures and a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
from rich.table import Table

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.explanation_page import (
    COUNTED,
    LOW_EXPLAINED,
    NO_SIGNATURE,
    agreement_in_words,
    bars,
    dots,
    explanation_page,
    stable_gene,
)
from neurofleet.jobs.learners.prediction import Reading, load_model
from neurofleet.jobs.learners.prediction_h5ad import check_one_query, write_explanation_h5ad
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.reports.drawing import png
from neurofleet.jobs.terminal import terminal

if TYPE_CHECKING:
    import scipy.sparse as sp

    from neurofleet.learners.sims.cell_prediction import Query
    from neurofleet.learners.sims.sims_model import SimsModel


@dataclass(frozen=True)
class ExplanationOptions:
    """Which files are written.

    Attributes
    ----------
    out : Path
        The folder.
    weighting : str
        ``decision`` or ``uniform``: how the masks of several steps are added up.
    cells : tuple of str
        Ids of cells that are explained one by one.
    cells_file : Path or None
        A text file with more of them, one a line.
    top : int
        Genes of each list.
    overwrite : bool
    h5ad : Path or None
        A copy of the query with matrices genes × classes in `varm`.
    """

    out: Path
    weighting: str = "decision"
    cells: tuple[str, ...] = ()
    cells_file: Path | None = None
    top: int = 20
    overwrite: bool = False
    h5ad: Path | None = None

    def ids(self) -> list[str]:
        """Return all cells that are explained one by one.

        Raises
        ------
        UsageError
            If the file cannot be read, or holds none.
        """
        ids = list(self.cells)
        if self.cells_file is not None:
            try:
                lines = self.cells_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{self.cells_file} cannot be read as text ({error}).") from None
            listed = [line.strip() for line in lines if line.strip()]
            if not listed:
                raise UsageError(f"{self.cells_file}: expected one cell id a line, found none.")
            ids += listed
        return list(dict.fromkeys(ids))


def explain_command(folder: Path, reading: Reading, options: ExplanationOptions) -> None:
    """Explain the cells of one or several files: tables, pictures, and a page that shows them.

    Parameters
    ----------
    folder : Path
        The model's.

    Raises
    ------
    UsageError, LearnerError
        Model, files, cells or names cannot be used; nothing was written.
    """
    from neurofleet.learners.sims.cell_prediction import absent_in_all, rows_of_cells
    from neurofleet.learners.sims.gene_importance import class_table, explain, global_table

    if options.weighting not in ("decision", "uniform"):
        raise UsageError(f"--weighting is decision or uniform, found {options.weighting!r}.")
    ids = options.ids()
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file; expected the name of a folder.")
    names = ["genes.parquet", "genes.csv", "global.parquet", "global.csv", "genes.png", "dots.png"]
    names += ["explain.html", *(["cells.parquet"] if ids else [])]
    files = {name: options.out / name for name in names}
    if options.h5ad is not None:
        if options.h5ad.suffix != ".h5ad":
            raise UsageError(f"--write-h5ad {options.h5ad}: expected a name that ends in .h5ad.")
        check_one_query(reading.files)
        files["h5ad"] = options.h5ad
    console = terminal(errors=True)
    model = load_model(folder)
    check_new(list(files.values()), options.overwrite, reading.files)
    queries = reading.open(model)
    chosen = rows_of_cells(queries, ids)
    for query in queries:
        for note in (*query.cells.notes, query.warning):
            if note:
                console.print(note, soft_wrap=True, highlight=False, markup=False)
    facts: dict[str, Any] = {
        "query": ", ".join(str(query.path) for query in queries),
        "cells": f"{sum(len(query) for query in queries):,}",
        "model": f"{folder} (run {model.identity['run'][:12]})",
        "members": f"{len(model.networks.members)} networks"
        + (f", and a linear model with weight {model.linear_share:g}" if model.linear_share else ""),
        "attention": f"masks weighted by {options.weighting}",
        "genes missing in the query": "; ".join(
            f"{query.alignment.n_missing} ({query.share_in_words})" for query in queries
        ),
    }
    with new_files(list(files.values())) as partial:
        with CountProgress("explaining", sum(len(query) for query in queries), "cells", console) as progress:
            means = explain(model, _blocks(queries, model, progress), options.weighting)
        means = means.without(absent_in_all(queries))
        classes, whole = class_table(means, model), global_table(means, model)
        top_of_class = classes.filter(pyarrow.compute.less_equal(classes["rank"], options.top))
        pq.write_table(classes, partial[files["genes.parquet"]])
        pyarrow.csv.write_csv(top_of_class, partial[files["genes.csv"]])
        pq.write_table(whole, partial[files["global.parquet"]])
        pyarrow.csv.write_csv(whole.slice(0, options.top), partial[files["global.csv"]])
        partial[files["genes.png"]].write_bytes(png(*bars(means, model)))
        partial[files["dots.png"]].write_bytes(png(*dots(means, model)))
        page = explanation_page(means, model, classes, whole, facts, options.top)
        partial[files["explain.html"]].write_text(page, encoding="utf-8")
        if options.h5ad is not None:
            console.print(f"writing {options.h5ad} …", soft_wrap=True)
            write_explanation_h5ad(queries[0], means, model, partial[options.h5ad])
        if ids:
            pq.write_table(_of_cells(model, queries, chosen, options), partial[files["cells.parquet"]])
    _print(top_of_class, len(model.networks.members), options)
    agreement = agreement_in_words(len(model.networks.members))
    console.print(f"{COUNTED} {NO_SIGNATURE} {agreement}", soft_wrap=True, highlight=False)


def _blocks(queries: "Sequence[Query]", model: "SimsModel", progress: CountProgress) -> Iterator["sp.csr_matrix"]:
    from neurofleet.learners.sims.gene_importance import cells_in_block

    size = cells_in_block(model)
    for query in queries:
        for ids, values in query.blocks(size=size):
            yield values
            progress.add(len(ids))


def _of_cells(
    model: "SimsModel", queries: "Sequence[Query]", chosen: Sequence[np.ndarray], options: ExplanationOptions
) -> pa.Table:
    from neurofleet.learners.sims.gene_importance import cell_tables, cells_in_block

    size = cells_in_block(model)
    return pa.concat_tables(
        table
        for query, rows in zip(queries, chosen, strict=True)
        for ids, values in query.blocks(rows, size)
        for table in cell_tables(model, ids, values, options.weighting, options.top)
    )


def _print(top_of_class: pa.Table, n_members: int, options: ExplanationOptions) -> None:
    console = terminal()
    table = Table()
    for column, justify in (
        ("class", "left"),
        ("cells", "right"),
        ("overlap", "right"),
        ("by attention", "right"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    of_members = ", and how many networks have each in their top 20" if n_members > 1 else ""
    table.add_column(f"genes by contribution{of_members}")
    rows = top_of_class.to_pylist()
    for name in dict.fromkeys(row["class"] for row in rows):
        of_class = [row for row in rows if row["class"] == name]
        genes = ", ".join(stable_gene(row, n_members) for row in of_class[:8])
        overlaps = [of_class[0][f"overlap_{reading}"] for reading in ("contribution", "attention")]
        overlaps = ["" if overlap is None else f"{overlap:.2f}" for overlap in overlaps]
        table.add_row(name, f"{of_class[0]['cells']:,}", *overlaps, genes)
    console.print(table)
    if "lower" in top_of_class["direction"].to_pylist():
        console.print(LOW_EXPLAINED, soft_wrap=True)
    also = f", and {options.h5ad}" if options.h5ad else ""
    console.print(f"Written: {options.out / 'explain.html'}, with tables and pictures beside it{also}.", soft_wrap=True)
