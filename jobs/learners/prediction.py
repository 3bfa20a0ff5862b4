"""``neurofleet predict`` and ``neurofleet relabel``: the class of each cell of a query by a trained model."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.ray.shards import map_shards
from neurofleet.errors import UsageError
from neurofleet.jobs.learners.prediction_h5ad import (
    check_one_query,
    check_same_cells,
    relabel_h5ad,
    write_predictions_h5ad,
)
from neurofleet.jobs.learners.prediction_tables import (
    MajorityVote,
    PredictionSummary,
    about_of,
    predictions_to_table,
    schema,
    table_writers,
    tables_of,
    with_about,
)
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.terminal import print_json, terminal
from neurofleet.learners.model_folder import QUICK
from neurofleet.learners.sims.cell_prediction import Query, open_query, predict
from neurofleet.learners.sims.majority_vote import cluster_cells
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.unknown_labels import VALIDATION, labels_or_unknown, refuse_two_thresholds, threshold_for
from neurofleet.scratch import scratch_folder


def load_model(folder: Path) -> SimsModel:
    """Return a model, on a GPU where there is one.

    Raises
    ------
    ModelRefused
        If the folder holds no SIMS model, or a damaged one.
    """
    import torch

    model = SimsModel.load(folder, "cuda" if torch.cuda.is_available() else "cpu")
    if quick := model.facts.get(QUICK):
        terminal(errors=True).print(quick, soft_wrap=True, markup=False, highlight=False)
    return model


GROUP_CELLS = 8192
"""Cells of a row group of the table, which is also the least that a worker is given."""

SHARDS = 64


@dataclass(frozen=True)
class Reading:
    """How the files of a query are read.

    Attributes
    ----------
    files : tuple of str
    layer : str
    target_sum : float or None
        Of log values, as the user states it.
    most_missing : float
    close_missing : bool
    values, gene_names : str or None
        See `neurofleet.learners.sims.cell_prediction.open_query`.
    """

    files: tuple[str, ...]
    layer: str = "X"
    target_sum: float | None = None
    most_missing: float = 0.8
    close_missing: bool = False
    values: str | None = None
    gene_names: str | None = None

    def open(self, model: SimsModel) -> list[Query]:
        """Open all files and check them against a model.

        Raises
        ------
        LearnerError
            If one cannot be used.
        """
        options = {name: value for name, value in asdict(self).items() if name != "files"}
        return [open_query(model, file, **options) for file in self.files]


class Counts(NamedTuple):
    """Cells of a group without any value, and those that the reference holds as well."""

    n_empty: int
    n_known: int


@dataclass(frozen=True)
class Group:
    """Neighbouring cells of one file."""

    file: int
    start: int
    stop: int


def groups_of(lengths: Sequence[int]) -> list[Group]:
    """Return the row groups of files with these numbers of cells, in order."""
    return [
        Group(file, start, min(start + GROUP_CELLS, length))
        for file, length in enumerate(lengths)
        for start in range(0, length, GROUP_CELLS)
    ]


def predict_group(
    model: SimsModel, queries: Sequence[Query], group: Group, columns: pa.Schema, about: Mapping[str, Any]
) -> tuple[pa.Table, Counts]:
    """Return the predictions of a row group, and what is counted of its cells."""
    query, top = queries[group.file], sum(name.startswith("pred_") for name in columns.names)
    embedding = any(name.startswith("vector_") for name in columns.names)
    predictions = predict(model, query, np.arange(group.start, group.stop), top, embedding=embedding)
    counts = Counts(predictions.n_empty, predictions.n_known)
    return predictions_to_table(predictions, columns, about, str(query.path)), counts


def predict_on_cluster(
    folder: Path, reading: Reading, groups: Sequence[Group], columns: pa.Schema, parts: Path
) -> Iterator[tuple[pa.Table, Counts]]:
    """Yield what `predict_group` returns for each group, in order; they are predicted on Ray's workers.

    Parameters
    ----------
    folder : Path
        The model's.
    parts : Path
        A folder that all machines see; each worker writes its part of the table there.

    Raises
    ------
    ClusterError, LearnerError, UsageError
        What a worker could not do.
    """
    size = -(-len(groups) // SHARDS)
    shards = [groups[start : start + size] for start in range(0, len(groups), size)]
    payloads = [
        {
            "model": str(folder.resolve()),
            "reading": reading,
            "groups": shard,
            "columns": columns,
            "part": str(parts / f"{number:05d}.parquet"),
        }
        for number, shard in enumerate(shards)
    ]
    done = map_shards("neurofleet.jobs.learners.prediction:predict_shard", payloads)
    for payload, counts_of_groups in zip(payloads, done, strict=True):
        part = Path(payload["part"])
        if not part.is_file():
            raise UsageError(
                f"A worker has written {part}, and this machine does not see it. Write --out into a folder"
                " that all machines of the cluster share."
            )
        with pq.ParquetFile(part) as file:
            for number, counts in enumerate(counts_of_groups):
                yield file.read_row_group(number).cast(columns), Counts(*counts)
        part.unlink()


def predict_shard(payload: Mapping[str, Any]) -> list[Counts]:
    """Predict the groups of a shard and write them as its part; return the counts of each."""
    part, columns = Path(payload["part"]), payload["columns"]
    if not part.parent.is_dir():
        raise UsageError(
            f"A worker on {os.uname().nodename} does not see the folder {part.parent.parent}. Write --out"
            " into a folder that all machines of the cluster share."
        )
    model, queries = _opened(payload["model"], payload["reading"])
    about, counts_of_groups = about_of(columns, part), []
    partial = part.with_name(f"{part.name}.{os.uname().nodename}.{os.getpid()}")
    with pq.ParquetWriter(partial, columns) as writer:
        for group in payload["groups"]:
            table, counts = predict_group(model, queries, group, columns, about)
            writer.write_table(table)
            counts_of_groups.append(counts)
    os.replace(partial, part)
    return counts_of_groups


@lru_cache(maxsize=1)
def _opened(folder: str, reading: Reading) -> tuple[SimsModel, list[Query]]:
    """Open model and files, once for all shards that a worker is given."""
    model = SimsModel.load(Path(folder))
    return model, reading.open(model)


@dataclass(frozen=True)
class PredictionOptions:
    """Which files are written, and how.

    Attributes
    ----------
    out : Path
        The Parquet file.
    top : int
        Likeliest classes of a cell in the table.
    probabilities : bool
        Whether the table has those of all classes.
    csv : bool
        Whether the table is written as CSV too.
    h5ad : Path or None
        A copy of the query with the predictions in `obs` and `obsm`.
    unknown_below, coverage : float or None
        See `neurofleet.learners.unknown_labels.threshold_for`.
    overwrite : bool
    majority : float or None
        Labels are smoothed over clusters of the query, where a label has at least this share of a cluster's cells.
    report : bool
        Whether a page that shows them is written beside the table.
    """

    out: Path
    top: int = 3
    probabilities: bool = False
    csv: bool = False
    h5ad: Path | None = None
    unknown_below: float | None = None
    coverage: float | None = None
    overwrite: bool = False
    majority: float | None = None
    report: bool = False

    @property
    def csv_file(self) -> Path:
        return self.out.with_suffix(".csv")

    @property
    def report_file(self) -> Path:
        return self.out.with_suffix(".html")

    def files(self) -> list[Path]:
        """Return all files that are written."""
        more = {self.csv_file: self.csv, self.report_file: self.report}
        return [self.out, *(file for file, wanted in more.items() if wanted), *([self.h5ad] if self.h5ad else [])]


def predict_command(
    folder: Path,
    reading: Reading,
    options: PredictionOptions,
    *,
    address: str | None = None,
    workers: int = 0,
    as_json: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, number: None,
) -> None:
    """Predict the cells of one or several files, and print how many have which label.

    Parameters
    ----------
    folder : Path
        The model's.
    address : str, optional
        A running Ray cluster to predict on.
    workers : int
        How many processes of this machine predict; 0 is this one.
    as_json : bool
        Print the summary as JSON.
    on_progress : callable
        Gets how many cells are done, and how many there are.

    Raises
    ------
    UsageError, LearnerError, ClusterError
        Model, files or names cannot be used; nothing was written.
    """
    _check_names(options, address, workers)
    refuse_two_thresholds(options.unknown_below, options.coverage)
    console = terminal(errors=True)
    model = load_model(folder)
    check_new(options.files(), options.overwrite, reading.files)
    if options.h5ad is not None:
        check_one_query(reading.files)
    threshold = threshold_for(options.unknown_below, options.coverage, model.facts, str(folder))
    queries = reading.open(model)
    for query in queries:
        _print_notes(query, console)
    about = _about(model, queries, options, threshold)
    groups = groups_of([len(query) for query in queries])
    n_cells = sum(len(query) for query in queries)
    summary, n_done = PredictionSummary(about), 0
    on_progress(n_done, n_cells)
    common: dict[str, Any] = {"top": min(options.top, len(model.classes)), "several_files": len(queries) > 1}
    columns = schema(about, probabilities=options.probabilities, **common)
    with new_files(options.files()) as partial, ExitStack() as stack:
        work = stack.enter_context(scratch_folder(f"{options.out.name}.parts", options.out.parent.resolve()))
        whole, whole_columns = partial[options.out], columns
        if options.majority is not None or options.h5ad is not None:
            whole = work / "whole.parquet"
            size = 0 if options.majority is None else model.n_coordinates
            vectors = 0 if options.h5ad is None else model.embedding_size
            whole_columns = schema(about, probabilities=True, coordinates=size, vectors=vectors, **common)
        with ExitStack() as predicting:
            progress = predicting.enter_context(CountProgress("predicting", n_cells, "cells", console))
            csv = partial.get(options.csv_file) if whole_columns is columns else None
            write = predicting.enter_context(table_writers(whole, csv, whole_columns))
            if address is None and workers == 0:
                tables: Iterator[tuple[pa.Table, Counts]] = (
                    predict_group(model, queries, group, whole_columns, about) for group in groups
                )
            else:
                predicting.enter_context(connect(address, workers or None))
                tables = predict_on_cluster(folder, reading, groups, whole_columns, work)
                predicting.callback(tables.close)  # type: ignore[attr-defined]
            for table, counts in tables:
                write(table)
                summary.add_counts(*counts)
                progress.add(len(table))
                n_done += len(table)
                on_progress(n_done, n_cells)
        if whole_columns is not columns:
            write_final(whole, partial[options.out], partial.get(options.csv_file), columns)
        for table in tables_of(partial[options.out]):
            summary.add(table)
        if options.h5ad is not None:
            console.print(f"writing {options.h5ad} …", soft_wrap=True)
            write_predictions_h5ad(queries[0], partial[options.out], whole, partial[options.h5ad])
        if options.report:
            console.print(f"writing {options.report_file} …", soft_wrap=True)
            from neurofleet.jobs.learners.prediction_page import prediction_page

            page = prediction_page(model, queries, partial[options.out], summary)
            partial[options.report_file].write_text(page, encoding="utf-8")
    if as_json:
        print_json(summary.plain(options.files()))
    else:
        summary.print(options.files(), progress.seconds)


def _about(model: SimsModel, queries: Sequence[Query], options: PredictionOptions, threshold: float) -> dict[str, Any]:
    """Return the facts that stand beside the table."""
    return {
        "model": model.identity,
        "classes": list(model.classes),
        "temperature": model.calibration.temperature,
        "threshold": threshold,
        "queries": [_described(query) for query in queries],
        VALIDATION: list(model.facts.get(VALIDATION, [])),
        "csv": options.csv,
        "reference": None if model.space is None else model.space.distance.described(),
        "majority": None if options.majority is None else {"share": options.majority},
        **({QUICK: model.facts[QUICK]} if QUICK in model.facts else {}),
    }


def write_final(whole: Path, out: Path, csv: Path | None, columns: pa.Schema) -> None:
    """Write the columns that are wanted of a whole table; labels are smoothed over clusters if that is among them.

    Parameters
    ----------
    whole : Path
        A table with coordinates of the cells, if there are clusters to be made.
    out, csv : Path
    columns : Schema
    """
    about = about_of(columns, out)
    vote = clusters = None
    if "cluster" in columns.names:
        vote, clusters = MajorityVote(about), clusters_of(whole)
        count_votes(vote, whole, clusters)
    with table_writers(out, csv, columns) as write:
        start = 0
        for table in tables_of(whole):
            if vote is not None and clusters is not None:
                for name, values in vote.columns(clusters[start : start + len(table)]).items():
                    table = table.append_column(name, values)
            start += len(table)
            write(table.select(columns.names).cast(columns))


def clusters_of(whole: Path) -> np.ndarray:
    """Return the cluster of each cell of a table with coordinates."""
    names = [name for name in pq.read_schema(whole).names if name.startswith("coordinate_")]

    def blocks() -> Iterator[np.ndarray]:
        for table in tables_of(whole, names):
            yield np.stack([column.to_numpy() for column in table.columns], 1)

    return cluster_cells(blocks, pq.read_metadata(whole).num_rows)


def _check_names(options: PredictionOptions, address: str | None, workers: int) -> None:
    if options.out.suffix != ".parquet":
        raise UsageError(
            f"--out {options.out}: expected a name that ends in .parquet. For a CSV file beside it, add --csv."
        )
    if "://" in str(options.out):
        raise UsageError(f"--out {options.out}: predictions are written to a path, not to a URI.")
    if options.majority is not None and not 0 <= options.majority <= 1:
        raise UsageError(f"--majority-share lies between 0 and 1, found {options.majority:g}.")
    if address is not None and workers:
        raise UsageError("Give --address, which predicts on that cluster, or --workers, which predicts here; not both.")


def _print_notes(query: Query, console: Any) -> None:
    for note in query.notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)


def _described(query: Query) -> dict[str, Any]:
    return {
        "file": str(query.path),
        "n_cells": len(query),
        "n_shared": query.alignment.n_shared,
        "n_missing": query.alignment.n_missing,
        "n_not_in_model": query.alignment.n_unknown,
        "missing_share": query.missing_share,
        "missing_share_in_words": query.share_in_words,
        "values": f"{query.values.kind} ({query.values.evidence})",
        "normalisation": str(query.normalisation),
        "missing_genes_are": query.missing_genes_are,
        "temperature": query.temperature,
        "warning": query.warning,
    }


def relabel_command(
    predictions: Path,
    unknown_below: float | None,
    coverage: float | None,
    out: Path | None,
    overwrite: bool,
    h5ad: Path | None = None,
) -> None:
    """Set which cells are of unknown type, and their labels; all else stays as it is.

    Parameters
    ----------
    predictions : Path
        A table that `neurofleet predict` wrote. The CSV file that was written with it is written again too.
    unknown_below, coverage : float or None
        See `neurofleet.learners.unknown_labels.threshold_for`.
    out : Path, optional
        Where the table goes, with ``--overwrite`` in place of another; by default it is changed in place.
    h5ad : Path, optional
        What ``predict --write-h5ad`` wrote with the table; its labels are set as well, in place.

    Raises
    ------
    UsageError
        If the file holds no predictions, or the threshold cannot be found; nothing is changed.
    """
    if unknown_below is None and coverage is None:
        raise UsageError("Give --unknown-below or --coverage: relabel changes nothing else.")
    try:
        about = about_of(pq.read_schema(predictions), predictions)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(
            f"{predictions} cannot be read as a Parquet file ({error}). Expected the table that `neurofleet predict`"
            " wrote; the h5ad that it wrote with it goes with --write-h5ad."
        ) from None
    threshold = threshold_for(unknown_below, coverage, about, str(predictions))
    target = out or predictions
    has_csv = out is None and about["csv"] and predictions.with_suffix(".csv").exists()
    csv = predictions.with_suffix(".csv") if has_csv else None
    if out is not None:
        check_new([out], overwrite, [predictions])
    if h5ad is not None:
        check_same_cells(h5ad, predictions)
    written = [target, *(file for file in (csv, h5ad) if file is not None)]
    with new_files(written) as partial:
        summary = relabel_table(predictions, threshold, partial[target], partial[csv] if csv else None)
        if h5ad is not None:
            relabel_h5ad(h5ad, partial[target], partial[h5ad])
    summary.print(written)
    if out is None and (page := predictions.with_suffix(".html")).exists():
        terminal(errors=True).print(f"{page} shows the threshold before; predict again for another.", soft_wrap=True)


def relabel_table(predictions: Path, threshold: float, out: Path, csv: Path | None) -> PredictionSummary:
    """Write a table of predictions with the labels of another threshold, and count them.

    Parameters
    ----------
    predictions, out : Path
    threshold : float
    csv : Path or None
        The same as CSV.
    """
    present = pq.read_schema(predictions)
    about = about_of(present, predictions)
    for name in ("reference", "majority"):
        about.setdefault(name, None)  # an earlier neurofleet did not know of them
    about["threshold"] = threshold
    columns = with_about(present, about)
    summary, vote = PredictionSummary(about), None
    if "cluster" in columns.names:
        vote = MajorityVote(about)
        count_votes(vote, predictions, pq.read_table(predictions, columns=["cluster"])["cluster"].to_numpy())
    with table_writers(out, csv, columns) as write:
        for table in tables_of(predictions):
            changed: dict[str, Any] = _labels_of(table, about)
            if vote is not None:
                changed |= vote.columns(table["cluster"].to_numpy())
            for name, values in changed.items():
                table = table.set_column(table.schema.get_field_index(name), columns.field(name), pa.array(values))
            table = table.replace_schema_metadata(columns.metadata)
            write(table)
            summary.add(table)
    return summary


def _labels_of(table: pa.Table, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return labels_or_unknown(table["pred_0"].to_numpy(), table["prob_0"].to_numpy(), about["threshold"])


def count_votes(vote: MajorityVote, path: Path, clusters: np.ndarray) -> None:
    """Count the labels in each cluster, by the threshold that is to hold.

    Parameters
    ----------
    path : Path
        A table of predictions.
    clusters : array of int, shape (cells,)
    """
    start, n_clusters = 0, int(clusters.max(initial=-1)) + 1
    for table in tables_of(path, ["pred_0", "prob_0"]):
        labels = pa.chunked_array([pa.array(_labels_of(table, vote.about)["label"])])
        vote.count(clusters[start : start + len(table)], labels, n_clusters)
        start += len(table)
