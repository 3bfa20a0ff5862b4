"""``neurofleet predict`` and ``neurofleet relabel``: the class of each cell of a query by a trained model."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from rich.table import Table

from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.ray.shards import map_shards
from neurofleet.errors import UsageError
from neurofleet.input_paths import local_files
from neurofleet.jobs.learners.learner_folder import ABOUT
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.progress import CountProgress, duration
from neurofleet.jobs.terminal import terminal
from neurofleet.learners.model_folder import DESCRIPTION, QUICK
from neurofleet.learners.sims.cell_prediction import Predictions, Query, known_cells_in_words, open_query, predict
from neurofleet.learners.sims.sims_model import OBS_COLUMNS, SimsModel
from neurofleet.learners.unknown_labels import (
    UNKNOWN,
    VALIDATION,
    labels_or_unknown,
    refuse_two_thresholds,
    threshold_for,
)
from neurofleet.scratch import scratch_folder


def schema(
    about: Mapping[str, Any], top: int, *, probabilities: bool = False, several_files: bool = False
) -> pa.Schema:
    """Return the columns of a table of predictions.

    ``cell_id``, ``file`` (where there are several), ``label``, ``unknown``, ``pred_0`` …, ``prob_0`` …,
    ``margin``, ``entropy`` (nats), and ``p.CLASS`` for each class where `probabilities` is set.

    Parameters
    ----------
    about : mapping
        Plain JSON that is kept in the file: the model's fingerprint, temperature, threshold …
    top : int
        How many classes a cell has in the table.
    """
    fields: list[tuple[str, pa.DataType]] = [("cell_id", pa.string())]
    fields += [("file", pa.string())] if several_files else []
    fields += [("label", pa.string()), ("unknown", pa.bool_())]
    fields += [(f"pred_{place}", pa.string()) for place in range(top)]
    fields += [(f"prob_{place}", pa.float32()) for place in range(top)]
    fields += [("margin", pa.float32()), ("entropy", pa.float32())]
    fields += [(f"p.{name}", pa.float32()) for name in about["classes"]] if probabilities else []
    return with_about(pa.schema(fields), about)


def with_about(columns: pa.Schema, about: Mapping[str, Any]) -> pa.Schema:
    """Return the same columns with other facts beside them."""
    return columns.with_metadata({ABOUT: json.dumps(dict(about), ensure_ascii=False).encode()})


def about_of(columns: pa.Schema, path: Path) -> dict[str, Any]:
    """Return the facts that a file of predictions holds.

    Raises
    ------
    UsageError
        If it holds none.
    """
    facts = (columns.metadata or {}).get(ABOUT)
    if facts is None:
        raise UsageError(
            f"{path} holds no predictions of `neurofleet predict`: expected its facts beside the columns,"
            f" found the columns {', '.join(columns.names[:6])} alone."
        )
    return json.loads(facts)


def predictions_to_table(predictions: Predictions, columns: pa.Schema, about: Mapping[str, Any], file: str) -> pa.Table:
    """Return predictions as a table with the given columns."""
    classes = np.asarray(about["classes"], dtype=object)
    content: dict[str, Any] = {"cell_id": predictions.cell_ids, "file": [file] * len(predictions.cell_ids)}
    for place in range(predictions.best.shape[1]):
        best = predictions.best[:, place]
        content[f"pred_{place}"] = classes[best]
        content[f"prob_{place}"] = predictions.probabilities[np.arange(len(best)), best]
    content |= {"margin": predictions.margin, "entropy": predictions.entropy}
    content |= {f"p.{name}": predictions.probabilities[:, number] for number, name in enumerate(classes)}
    content |= labels_or_unknown(content["pred_0"], content["prob_0"], about["threshold"])
    return pa.table({name: content[name] for name in columns.names}, schema=columns)


class PredictionSummary:
    """Counts labels as they come.

    Parameters
    ----------
    classes : sequence of str
    about : mapping
        The facts beside the table.
    """

    def __init__(self, classes: Sequence[str], about: Mapping[str, Any]) -> None:
        self._classes = classes
        self._about = about
        self._labels: Counter[str] = Counter()
        self._unknown = self._empty = self._known = 0

    def add(self, table: pa.Table, n_empty: int = 0, n_known: int = 0) -> None:
        """Count some cells, of which some have no value at all, and some are cells of the reference."""
        known = table.filter(pc.invert(table["unknown"]))
        self._labels.update(known["label"].to_pylist())
        self._unknown += len(table) - len(known)
        self._empty += n_empty
        self._known += n_known

    def plain(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return the cells of each label, what is told about the queries, and where the predictions are."""
        return {
            "labels": {name: self._labels[name] for name in self._classes},
            "unknown": self._unknown,
            "without_values": self._empty,
            "cells_of_the_reference": self._known,
            "threshold": self._about["threshold"],
            "queries": self._about["queries"],
            "files": [*map(str, files)],
        }

    def print(self, files: Sequence[Path], seconds: float | None = None) -> None:
        """Print the cells of each label, how well the genes fit, and where the predictions are."""
        console = terminal()
        total = sum(self._labels.values()) + self._unknown
        table = Table()
        table.add_column("label")
        table.add_column("cells", justify="right")
        table.add_column("share", justify="right")
        for name in self._classes:
            table.add_row(name, f"{self._labels[name]:,}", _percent(self._labels[name], total))
        below = f"{UNKNOWN}, below the threshold" if UNKNOWN in self._classes else UNKNOWN
        table.add_row(below, f"{self._unknown:,}", _percent(self._unknown, total), style="bold")
        console.print(table)
        for text in self._texts(total, seconds):
            console.print(text, soft_wrap=True, highlight=False, markup=False)
        console.print(f"Written: {', '.join(map(str, files))}", soft_wrap=True, highlight=False, markup=False)

    def _texts(self, total: int, seconds: float | None) -> list[str]:
        texts = []
        if seconds is not None:
            texts.append(f"{total:,} cells in {duration(seconds)}, {total / max(seconds, 1e-9):,.0f} a second.")
            for query in self._about["queries"]:
                texts.append(
                    f"{query['file']}: {query['n_shared']:,} of the model's genes shared,"
                    f" {query['n_missing']:,} missing ({query['missing_share_in_words']}),"
                    f" {query['n_not_in_model']:,} of its own left out. Values: {query['normalisation']}."
                )
            texts += [f"WARNING: {q['warning']}" for q in self._about["queries"] if q["warning"]]
        if self._empty:
            texts.append(f"WARNING: {self._empty:,} cells have no value in any of the model's genes.")
        if self._known:
            texts.append(f"WARNING: {known_cells_in_words(self._known, total)}")
        threshold = self._about["threshold"]
        if threshold:
            texts.append(
                f"Cells are {UNKNOWN} whose largest probability is below {threshold:.4g};"
                " `neurofleet relabel` sets another threshold without predicting again."
            )
        else:
            texts.append(
                f"No cell is called {UNKNOWN}, as no threshold was given; `neurofleet relabel PREDICTIONS"
                " --unknown-below 0.6` sets one without predicting again."
            )
        return texts


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


def load_model(folder: Path) -> tuple[SimsModel, dict[str, Any]]:
    """Return a model, on a GPU where there is one, and the fingerprint of its folder.

    Raises
    ------
    ModelRefused
        If the folder holds no SIMS model, or a damaged one.
    """
    import torch

    model = SimsModel.load(folder, "cuda" if torch.cuda.is_available() else "cpu")
    if quick := model.facts.get(QUICK):
        terminal(errors=True).print(quick, soft_wrap=True, markup=False, highlight=False)
    head = json.loads((folder / DESCRIPTION).read_bytes())
    return model, {"folder": str(folder), "run": head["run"], "sha256": head["sha256"]}


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
    predictions = predict(model, query, np.arange(group.start, group.stop), top)
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


def check_predictions_h5ad(files: Sequence[str]) -> None:
    """Refuse queries that cannot be copied as h5ad.

    Raises
    ------
    UsageError
    """
    if len(files) > 1:
        raise UsageError(f"--write-h5ad writes a copy of one query, found {len(files)}. Predict them one by one.")
    path = local_files(files)[0]
    if path.suffix != ".h5ad" and path.exists():
        raise UsageError(f"--write-h5ad writes a copy of an h5ad query; {path} is none.")


def write_predictions_h5ad(query: str, predictions: Path, out: Path) -> None:
    """Copy an h5ad file and put predictions into its `obs`; its matrices are copied unread.

    Parameters
    ----------
    query : str
    predictions : Path
        The table, one row a cell in the query's order.
    out : Path
    """
    from anndata.io import read_elem, write_elem

    table = pq.read_table(predictions, columns=list(OBS_COLUMNS)).to_pandas()
    shutil.copyfile(local_files([query])[0], out)
    with h5py.File(out, "r+") as file:
        obs = read_elem(file["obs"])
        for column, name in OBS_COLUMNS.items():
            is_word = column in ("label", "pred_0")
            obs[name] = pd.Categorical(table[column]) if is_word else table[column].to_numpy()
        write_elem(file, "obs", obs)


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
        A copy of the query with the predictions in `obs`.
    unknown_below, coverage : float or None
        See `neurofleet.learners.unknown_labels.threshold_for`.
    overwrite : bool
    """

    out: Path
    top: int = 3
    probabilities: bool = False
    csv: bool = False
    h5ad: Path | None = None
    unknown_below: float | None = None
    coverage: float | None = None
    overwrite: bool = False

    @property
    def csv_file(self) -> Path:
        return self.out.with_suffix(".csv")

    def files(self) -> list[Path]:
        """Return all files that are written."""
        return [self.out, *([self.csv_file] if self.csv else []), *([self.h5ad] if self.h5ad else [])]


def predict_command(
    folder: Path,
    reading: Reading,
    options: PredictionOptions,
    *,
    address: str | None = None,
    workers: int = 0,
    as_json: bool = False,
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

    Raises
    ------
    UsageError, LearnerError, ClusterError
        Model, files or names cannot be used; nothing was written.
    """
    _check_names(options, address, workers)
    refuse_two_thresholds(options.unknown_below, options.coverage)
    check_new(options.files(), options.overwrite, [Path(file) for file in reading.files])
    if options.h5ad is not None:
        check_predictions_h5ad(reading.files)
    console = terminal(errors=True)
    model, fingerprint = load_model(folder)
    threshold = threshold_for(options.unknown_below, options.coverage, model.facts, str(folder))
    queries = reading.open(model)
    for query in queries:
        _print_notes(query, console)
    about: dict[str, Any] = {
        "model": fingerprint,
        "classes": list(model.classes),
        "temperature": model.calibration.temperature,
        "threshold": threshold,
        "queries": [_described(query) for query in queries],
        VALIDATION: list(model.facts.get(VALIDATION, [])),
        "csv": options.csv,
        **({QUICK: model.facts[QUICK]} if QUICK in model.facts else {}),
    }
    top = min(options.top, len(model.classes))
    columns = schema(about, top, probabilities=options.probabilities, several_files=len(queries) > 1)
    groups = groups_of([len(query) for query in queries])
    n_cells = sum(len(query) for query in queries)
    summary = PredictionSummary(model.classes, about)
    with new_files(options.files()) as partial, ExitStack() as stack:
        write = stack.enter_context(table_writers(partial[options.out], partial.get(options.csv_file), columns))
        progress = stack.enter_context(CountProgress("predicting", n_cells, "cells", console))
        if address is None and workers == 0:
            tables: Iterator[tuple[pa.Table, Counts]] = (
                predict_group(model, queries, group, columns, about) for group in groups
            )
        else:
            tables = stack.enter_context(_on_cluster(folder, reading, groups, columns, options.out, address, workers))
        for table, counts in tables:
            write(table)
            summary.add(table, *counts)
            progress.add(len(table))
        stack.close()
        if options.h5ad is not None:
            console.print(f"writing {options.h5ad} …", soft_wrap=True)
            write_predictions_h5ad(reading.files[0], partial[options.out], partial[options.h5ad])
    if as_json:
        print(json.dumps(summary.plain(options.files()), indent=1))
    else:
        summary.print(options.files(), progress.seconds)


@contextmanager
def _on_cluster(
    folder: Path,
    reading: Reading,
    groups: Sequence[Any],
    columns: pa.Schema,
    out: Path,
    address: str | None,
    workers: int,
) -> Iterator[Iterator[tuple[pa.Table, Counts]]]:
    with (
        scratch_folder(f"{out.name}.parts", out.parent.resolve()) as parts,
        connect(address, workers or None),
    ):
        tables = predict_on_cluster(folder, reading, groups, columns, parts)
        try:
            yield tables
        finally:
            tables.close()  # type: ignore[attr-defined]


@contextmanager
def table_writers(out: Path, csv: Path | None, columns: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield what writes pieces of a table to a Parquet file, and to a CSV file where one is options."""
    with ExitStack() as stack:
        writers = [stack.enter_context(pq.ParquetWriter(out, columns))]
        if csv is not None:
            writers.append(stack.enter_context(pyarrow.csv.CSVWriter(csv, columns)))

        def write(table: pa.Table) -> None:
            for writer in writers:
                writer.write_table(table)

        yield write


def _check_names(options: PredictionOptions, address: str | None, workers: int) -> None:
    if options.out.suffix != ".parquet":
        raise UsageError(
            f"--out {options.out}: expected a name that ends in .parquet. For a CSV file beside it, add --csv."
        )
    if "://" in str(options.out):
        raise UsageError(f"--out {options.out}: predictions are written to a path, not to a URI.")
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
        "warning": query.warning,
    }


def relabel_command(
    predictions: Path,
    unknown_below: float | None,
    coverage: float | None,
    out: Path | None,
    overwrite: bool,
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

    Raises
    ------
    UsageError
        If the file holds no predictions, or the threshold cannot be found; nothing is changed.
    """
    if unknown_below is None and coverage is None:
        raise UsageError("Give --unknown-below or --coverage: relabel changes nothing else.")
    try:
        file = pq.ParquetFile(predictions)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{predictions} cannot be read as a Parquet file ({error}).") from None
    with file:
        about = about_of(file.schema_arrow, predictions)
        about["threshold"] = threshold_for(unknown_below, coverage, about, str(predictions))
        columns = with_about(file.schema_arrow, about)
        summary = PredictionSummary(about["classes"], about)
        target = out or predictions
        has_csv = out is None and about["csv"] and predictions.with_suffix(".csv").exists()
        csv = predictions.with_suffix(".csv") if has_csv else None
        if out is not None:
            check_new([out], overwrite, [predictions])
        with new_files([target, *([csv] if csv else [])]) as partial:
            with table_writers(partial[target], partial[csv] if csv else None, columns) as write:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number)
                    changed = labels_or_unknown(
                        table["pred_0"].to_numpy(), table["prob_0"].to_numpy(), about["threshold"]
                    )
                    for name, values in changed.items():
                        place = table.schema.get_field_index(name)
                        table = table.set_column(place, columns.field(name), pa.array(values))
                    table = table.replace_schema_metadata(columns.metadata)
                    write(table)
                    summary.add(table)
    summary.print([target, *([csv] if csv else [])])
