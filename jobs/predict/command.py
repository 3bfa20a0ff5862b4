"""``neurofleet predict``: from a model and files of cells to a table of predictions."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.predict.work import Reading
    from learners.sims.query import Query


@dataclass(frozen=True)
class Wanted:
    """What is to be written, and how.

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
        See `jobs.predict.threshold`.
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
    reading: "Reading",
    wanted: Wanted,
    *,
    address: str | None = None,
    workers: int = 0,
) -> None:
    """Predict the cells of one or several files, and print what was found.

    Parameters
    ----------
    folder : Path
        The model's.
    address : str, optional
        A running Ray cluster to predict on.
    workers : int
        How many processes of this machine predict; 0 is this one.

    Raises
    ------
    UsageError, LearnerError, ClusterError
        Model, files or names cannot be used; nothing was written.
    """
    from rich.console import Console

    from jobs.count_progress import CountProgress
    from jobs.new_files import check_new, new_files
    from jobs.predict.h5ad import check_h5ad, write_h5ad
    from jobs.predict.model import load_model
    from jobs.predict.summary import Summary
    from jobs.predict.table import schema
    from jobs.predict.threshold import VALIDATION, check_one, threshold_for
    from jobs.predict.work import groups_of

    _check_names(wanted, address, workers)
    check_one(wanted.unknown_below, wanted.coverage)
    check_new(wanted.files(), wanted.overwrite, [Path(file) for file in reading.files])
    if wanted.h5ad is not None:
        check_h5ad(reading.files)
    console = Console(stderr=True)
    model, fingerprint = load_model(folder)
    threshold = threshold_for(wanted.unknown_below, wanted.coverage, model.facts, str(folder))
    queries = reading.open(model)
    for query in queries:
        _tell(query, console)
    about: dict[str, Any] = {
        "model": fingerprint,
        "classes": list(model.classes),
        "temperature": model.calibration.temperature,
        "threshold": threshold,
        "queries": [_described(query) for query in queries],
        VALIDATION: list(model.facts.get(VALIDATION, [])),
        "csv": wanted.csv,
    }
    top = min(wanted.top, len(model.classes))
    columns = schema(about, top, probabilities=wanted.probabilities, several_files=len(queries) > 1)
    groups = groups_of([len(query) for query in queries])
    n_cells = sum(len(query) for query in queries)
    summary = Summary(model.classes, about)
    with new_files(wanted.files()) as partial, ExitStack() as stack:
        write = stack.enter_context(table_writers(partial[wanted.out], partial.get(wanted.csv_file), columns))
        progress = stack.enter_context(CountProgress("predicting", n_cells, "cells", console))
        if address is None and workers == 0:
            from jobs.predict.work import predict_group

            tables: Iterator[tuple[pa.Table, int]] = (
                predict_group(model, queries, group, columns, about) for group in groups
            )
        else:
            tables = stack.enter_context(
                _on_cluster(folder, reading, groups, columns, wanted.out, address, workers)
            )
        for table, n_empty in tables:
            write(table)
            summary.add(table, n_empty)
            progress.add(len(table))
        stack.close()
        if wanted.h5ad is not None:
            console.print(f"writing {wanted.h5ad} …", soft_wrap=True)
            write_h5ad(reading.files[0], partial[wanted.out], partial[wanted.h5ad])
    summary.print(wanted.files(), progress.seconds)


@contextmanager
def _on_cluster(
    folder: Path,
    reading: "Reading",
    groups: Sequence[Any],
    columns: "pa.Schema",
    out: Path,
    address: str | None,
    workers: int,
) -> "Iterator[Iterator[tuple[pa.Table, int]]]":
    from cluster.session import connect
    from jobs.predict.work import predict_on_cluster

    with (
        tempfile.TemporaryDirectory(prefix=f"{out.name}.parts-", dir=out.parent.resolve()) as parts,
        connect(address, workers or None),
    ):
        tables = predict_on_cluster(folder, reading, groups, columns, Path(parts))
        try:
            yield tables
        finally:
            tables.close()  # type: ignore[attr-defined]


@contextmanager
def table_writers(
    out: Path, csv: Path | None, columns: "pa.Schema"
) -> Iterator[Callable[["pa.Table"], None]]:
    """Yield what writes pieces of a table to a Parquet file, and to a CSV file where one is wanted."""
    import pyarrow.csv
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        writers = [stack.enter_context(pq.ParquetWriter(out, columns))]
        if csv is not None:
            writers.append(stack.enter_context(pyarrow.csv.CSVWriter(csv, columns)))

        def write(table: "pa.Table") -> None:
            for writer in writers:
                writer.write_table(table)

        yield write


def _check_names(wanted: Wanted, address: str | None, workers: int) -> None:
    if wanted.out.suffix != ".parquet":
        raise UsageError(
            f"--out {wanted.out}: expected a name that ends in .parquet. For a CSV file beside it, add --csv."
        )
    if "://" in str(wanted.out):
        raise UsageError(f"--out {wanted.out}: predictions are written to a path, not to a URI.")
    if address is not None and workers:
        raise UsageError(
            "Give --address, which predicts on that cluster, or --workers, which predicts here; not both."
        )


def _tell(query: "Query", console: Any) -> None:
    for note in (*query.cells.notes, query.warning):
        if note:
            console.print(note, soft_wrap=True, highlight=False, markup=False)


def _described(query: "Query") -> dict[str, Any]:
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
