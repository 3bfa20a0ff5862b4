"""``neurofleet explain``: from a model and files of cells to the genes that speak for each class."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.explanation_page import NO_SIGNATURE, ONE_MEMBER, bars, dots, explanation_page
from neurofleet.jobs.learners.prediction import Reading, load_model
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.reports.drawing import png
from neurofleet.learners.sims.cell_prediction import Query
from neurofleet.learners.sims.gene_importance import (
    Explanation,
    cell_explanations,
    explain,
    linear_contribution,
    mean_overlap,
    top_genes,
)
from neurofleet.learners.sims.sims_model import SimsModel

if TYPE_CHECKING:
    import scipy.sparse as sp


def class_table(found: "Explanation", model: "SimsModel") -> pa.Table:
    """Return one row for each class that was predicted and each gene that the model looks at.

    ``class``, ``rank`` by contribution, ``gene``, ``contribution`` of members and linear model together,
    ``members_in_top`` (members that have the gene among their 20 of largest contribution),
    ``contribution_sd`` (over members), ``linear_contribution``, ``attention`` and ``attention_sd`` (mean and
    sd over members), ``members_in_top_attention``, ``dispersion``, ``value`` and ``value_all`` (mean
    log-normalised value in the class and in all cells), ``cells`` of the class, ``overlap_contribution`` and
    ``overlap_attention`` (mean Jaccard index of the members' top 20). In the order of classes and ranks.
    """
    whole, dispersion = found.whole_contribution(), found.dispersion()
    overlaps = {name: found.overlap(name) for name in ("contribution", "attention")}
    parts = []
    for number, name in enumerate(model.classes):
        if not found.n_cells[number]:
            continue
        columns = _gene_columns(
            whole[number],
            found.contribution[:, number],
            found.linear_contribution[number],
            found.attention[:, number],
        )
        columns |= {"dispersion": dispersion[number]}
        columns |= {"value": found.value[number], "value_all": found.global_value}
        table = _ranked(columns, model)
        constant: dict[str, float | int] = {"cells": int(found.n_cells[number])}
        constant |= {f"overlap_{reading}": float(found_in[number]) for reading, found_in in overlaps.items()}
        parts.append(_with_constants(table, {"class": name}, constant))
    return pa.concat_tables(parts)


def global_table(found: "Explanation", model: "SimsModel") -> pa.Table:
    """Return one row for each gene, over all cells and each for its predicted class; columns as above."""
    share = found.n_cells / max(found.n_cells.sum(), 1)
    members = found.global_contribution()
    columns = _gene_columns(
        share @ found.whole_contribution(), members, share @ found.linear_contribution, found.global_attention
    )
    columns |= {"value_all": found.global_value}
    constant: dict[str, float | int] = {"cells": int(found.n_cells.sum())}
    constant |= {"overlap_contribution": mean_overlap(members)}
    constant |= {"overlap_attention": mean_overlap(found.global_attention)}
    return _with_constants(_ranked(columns, model), {}, constant)


def cell_tables(
    model: "SimsModel", ids: np.ndarray, values: "sp.csr_matrix", weighting: str, top: int
) -> list[pa.Table]:
    """Return the top genes of single cells, for the class that each is predicted as.

    Parameters
    ----------
    ids : array of str, shape (cells,)
    values : csr_matrix, shape (cells, genes)
        Log-normalised.
    """
    predicted = model.log_probabilities(values).argmax(1)
    looked, spoke = cell_explanations(model, values, predicted, weighting)
    linear = linear_contribution(model, values, predicted)
    dense = values.toarray()
    tables = []
    for place, name in enumerate(ids):
        attention, contribution = np.zeros((2, len(looked), len(model.genes)))
        attention[:, model.inputs.columns] = looked[:, place]
        contribution[:, model.inputs.columns] = spoke[:, place]
        share = model.linear_share
        whole = contribution.mean(0) * (1.0 - share) + linear[place] * share
        columns = _gene_columns(whole, contribution, linear[place], attention) | {"value": dense[place]}
        constant: dict[str, float | int] = {"overlap_contribution": mean_overlap(contribution)}
        constant |= {"overlap_attention": mean_overlap(attention)}
        first = {"cell_id": str(name), "class": model.classes[predicted[place]]}
        tables.append(_with_constants(_ranked(columns, model).slice(0, top), first, constant))
    return tables


def _gene_columns(
    whole: np.ndarray, contribution: np.ndarray, linear: np.ndarray, attention: np.ndarray
) -> dict[str, np.ndarray]:
    return {
        "contribution": whole,
        "members_in_top": _in_top(contribution),
        "contribution_sd": contribution.std(0),
        "linear_contribution": linear,
        "attention": attention.mean(0),
        "attention_sd": attention.std(0),
        "members_in_top_attention": _in_top(attention),
    }


def _in_top(by_member: np.ndarray) -> np.ndarray:
    """Return for each gene how many members have it among their top genes."""
    chosen = [gene for weights in by_member for gene in top_genes(weights)]
    return np.bincount(np.asarray(chosen, dtype=np.int64), minlength=by_member.shape[1])


def _ranked(columns: dict[str, np.ndarray], model: "SimsModel") -> pa.Table:
    """Return the genes by contribution, without those that nothing looks at."""
    seen = (columns["contribution"] != 0) | (columns["attention"] != 0)
    genes = np.flatnonzero(seen)
    order = genes[np.argsort(-columns["contribution"][genes], kind="stable")]
    content: dict[str, Any] = {
        "rank": pa.array(np.arange(1, len(order) + 1), pa.int32()),
        "gene": pa.array([model.genes[gene] for gene in order], pa.string()),
    }
    for name, values in columns.items():
        kind = pa.int32() if values.dtype.kind == "i" else pa.float32()
        content[name] = pa.array(values[order], kind)
    return pa.table(content)


def _with_constants(table: pa.Table, first: dict[str, str], last: dict[str, float | int]) -> pa.Table:
    """Return the table with columns of one value: words before its own, figures after them."""
    for place, (name, word) in enumerate(first.items()):
        table = table.add_column(place, name, pa.array([word] * len(table), pa.string()))
    for name, figure in last.items():
        kind = pa.int32() if isinstance(figure, int) else pa.float32()
        table = table.append_column(name, pa.array([figure] * len(table), kind))
    return table


BLOCK_VALUES = 8_000_000


@dataclass(frozen=True)
class ExplanationOptions:
    """What is to be written.

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
    """

    out: Path
    weighting: str = "decision"
    cells: tuple[str, ...] = ()
    cells_file: Path | None = None
    top: int = 20
    overwrite: bool = False

    def ids(self) -> list[str]:
        """Return all cells that are explained one by one.

        Raises
        ------
        UsageError
            If the file cannot be read, or holds none.
        """
        found = list(self.cells)
        if self.cells_file is not None:
            try:
                lines = self.cells_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{self.cells_file} cannot be read as text ({error}).") from None
            listed = [line.strip() for line in lines if line.strip()]
            if not listed:
                raise UsageError(f"{self.cells_file}: expected one cell id a line, found none.")
            found += listed
        return list(dict.fromkeys(found))


def explain_command(folder: Path, reading: "Reading", wanted: ExplanationOptions) -> None:
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
    import pyarrow.csv

    if wanted.weighting not in ("decision", "uniform"):
        raise UsageError(f"--weighting is decision or uniform, found {wanted.weighting!r}.")
    ids = wanted.ids()
    if wanted.out.exists() and not wanted.out.is_dir():
        raise UsageError(f"--out {wanted.out} is a file; expected the name of a folder.")
    names = ["genes.parquet", "genes.csv", "global.parquet", "global.csv", "genes.png", "dots.png"]
    names += ["explain.html", *(["cells.parquet"] if ids else [])]
    files = {name: wanted.out / name for name in names}
    check_new(list(files.values()), wanted.overwrite)
    console = Console(stderr=True)
    model, fingerprint = load_model(folder)
    queries = reading.open(model)
    chosen = _rows_of(queries, ids)
    for query in queries:
        for note in (*query.cells.notes, query.warning):
            if note:
                console.print(note, soft_wrap=True, highlight=False, markup=False)
    facts: dict[str, Any] = {
        "query": ", ".join(str(query.path) for query in queries),
        "cells": f"{sum(len(query) for query in queries):,}",
        "model": f"{folder} (run {fingerprint['run'][:12]})",
        "members": f"{len(model.networks.members)} networks"
        + (f", and a linear model with weight {model.linear_share:g}" if model.linear_share else ""),
        "attention": f"masks weighted by {wanted.weighting}",
        "genes missing in the query": "; ".join(
            f"{query.alignment.n_missing} ({query.share_in_words})" for query in queries
        ),
    }
    with new_files(list(files.values())) as partial:
        with CountProgress("explaining", sum(len(query) for query in queries), "cells", console) as progress:
            found = explain(model, _blocks(queries, model, progress), wanted.weighting)
        classes, whole = class_table(found, model), global_table(found, model)
        top_of_class = classes.filter(pyarrow.compute.less_equal(classes["rank"], wanted.top))
        pq.write_table(classes, partial[files["genes.parquet"]])
        pyarrow.csv.write_csv(top_of_class, partial[files["genes.csv"]])
        pq.write_table(whole, partial[files["global.parquet"]])
        pyarrow.csv.write_csv(whole.slice(0, wanted.top), partial[files["global.csv"]])
        partial[files["genes.png"]].write_bytes(png(*bars(found, model)))
        partial[files["dots.png"]].write_bytes(png(*dots(found, model)))
        page = explanation_page(found, model, classes, whole, facts, wanted.top)
        partial[files["explain.html"]].write_text(page, encoding="utf-8")
        if ids:
            pq.write_table(_of_cells(model, queries, chosen, wanted), partial[files["cells.parquet"]])
    _print(top_of_class, wanted.out)
    said = NO_SIGNATURE if len(model.networks.members) > 1 else f"{NO_SIGNATURE} {ONE_MEMBER}"
    console.print(said, soft_wrap=True, highlight=False)


def _blocks(queries: "Sequence[Query]", model: "SimsModel", progress: "CountProgress") -> "Iterator[sp.csr_matrix]":
    size = _block_cells(model)
    for query in queries:
        for ids, values in query.blocks(size=size):
            yield values
            progress.add(len(ids))


def _block_cells(model: "SimsModel") -> int:
    """Return how many cells are explained at once: by each member, attention and contribution are dense."""
    a_cell = max(len(model.genes), len(model.networks.members) * len(model.inputs.columns))
    return max(min(BLOCK_VALUES // a_cell, 1024), 16)


def _rows_of(queries: "Sequence[Query]", ids: Sequence[str]) -> "list[np.ndarray]":
    """Return the rows of the chosen cells in each file."""
    found: list[np.ndarray] = []
    missing = list(ids)
    for query in queries:
        place = pd.Index(query.cells.cell_ids).get_indexer(pd.Index(np.asarray(ids, dtype=object)))
        found.append(np.sort(place[place >= 0]))
        missing = [name for name, row in zip(ids, place, strict=True) if row < 0 and name in missing]
    if missing:
        there = [str(name) for query in queries for name in query.cells.cell_ids[:20_000]]
        close = difflib.get_close_matches(missing[0], there, n=1, cutoff=0.8)
        advice = f" Did you mean {close[0]}?" if close else f" The first cell is {there[0]}."
        raise UsageError(f"{len(missing)} of {len(ids)} cells are not in the query: {', '.join(missing[:5])}.{advice}")
    return found


def _of_cells(
    model: "SimsModel", queries: "Sequence[Query]", chosen: "Sequence[np.ndarray]", wanted: ExplanationOptions
) -> "pa.Table":
    size = _block_cells(model)
    return pa.concat_tables(
        table
        for query, rows in zip(queries, chosen, strict=True)
        for ids, values in query.blocks(rows, size)
        for table in cell_tables(model, ids, values, wanted.weighting, wanted.top)
    )


def _print(top_of_class: "pa.Table", out: Path) -> None:
    console = Console()
    table = Table()
    for column, justify in (
        ("class", "left"),
        ("cells", "right"),
        ("overlap", "right"),
        ("attention", "right"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("genes by contribution")
    rows = top_of_class.to_pylist()
    for name in dict.fromkeys(row["class"] for row in rows):
        own = [row for row in rows if row["class"] == name]
        genes = ", ".join(row["gene"] for row in own[:8])
        overlaps = [f"{own[0][f'overlap_{reading}']:.2f}" for reading in ("contribution", "attention")]
        table.add_row(name, f"{own[0]['cells']:,}", *overlaps, genes)
    console.print(table)
    console.print(f"Written: {out / 'explain.html'}, with tables and pictures beside it.", soft_wrap=True)
