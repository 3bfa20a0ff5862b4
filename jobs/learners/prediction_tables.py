"""Tables of predictions: their columns, the facts beside them, and what they come to."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.learner_folder import ABOUT
from neurofleet.jobs.progress import duration
from neurofleet.jobs.terminal import terminal
from neurofleet.learners.reference_distance import FAR, WARNED_OUTSIDE, outside_in_words
from neurofleet.learners.sims.cell_prediction import (
    Predictions,
    known_cells_in_words,
)
from neurofleet.learners.sims.majority_vote import CELLS_OF_CLUSTER, Votes
from neurofleet.learners.unknown_labels import UNKNOWN, labels_or_unknown


def schema(
    about: Mapping[str, Any],
    top: int,
    *,
    probabilities: bool = False,
    several_files: bool = False,
    coordinates: int = 0,
    vectors: int = 0,
) -> pa.Schema:
    """Return the columns of a table of predictions.

    ``cell_id``, ``file`` (where there are several), ``label``, ``unknown``, ``pred_0`` …, ``prob_0`` …, ``margin``,
    ``entropy`` (nats); where the model knows where its reference lies, ``distance`` (1 is the limit that 95 % of the
    reference's held-out cells do not exceed), ``outside`` (beyond it), ``map_0``, ``map_1`` (on the reference's map);
    ``cluster``, ``majority`` and ``majority_share`` where labels are smoothed over clusters; ``p.CLASS`` for each class
    where `probabilities` is set.

    Parameters
    ----------
    about : mapping
        Plain JSON that is kept in the file: the model's fingerprint, temperature, threshold …
    top : int
        How many classes a cell has in the table.
    coordinates : int
        How many coordinates of a cell are written too, as ``coordinate_0`` …; with them there are no columns of
        clusters, which are made of them.
    vectors : int
        How long the embedding of a cell is, where it is written too, as ``vector_0`` …
    """
    fields: list[tuple[str, pa.DataType]] = [("cell_id", pa.string())]
    fields += [("file", pa.string())] if several_files else []
    fields += [("label", pa.string()), ("unknown", pa.bool_())]
    fields += [(f"pred_{place}", pa.string()) for place in range(top)]
    fields += [(f"prob_{place}", pa.float32()) for place in range(top)]
    fields += [("margin", pa.float32()), ("entropy", pa.float32())]
    if about["reference"]:
        fields += [("distance", pa.float32()), ("outside", pa.bool_())]
        fields += [("map_0", pa.float32()), ("map_1", pa.float32())]
    if about["majority"] is not None and not coordinates:
        fields += [("cluster", pa.int32()), ("majority", pa.string()), ("majority_share", pa.float32())]
    fields += [(f"p.{name}", pa.float32()) for name in about["classes"]] if probabilities else []
    fields += [(f"coordinate_{number}", pa.float32()) for number in range(coordinates)]
    fields += [(f"vector_{number}", pa.float32()) for number in range(vectors)]
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
    if predictions.distance is not None and predictions.plane is not None:
        content |= {"distance": predictions.distance, "outside": predictions.distance > 1}
        content |= {"map_0": predictions.plane[:, 0], "map_1": predictions.plane[:, 1]}
    content |= {f"coordinate_{number}": column for number, column in enumerate(predictions.coordinates.T)}
    if predictions.vectors is not None:
        content |= {f"vector_{number}": column for number, column in enumerate(predictions.vectors.T)}
    content |= {f"p.{name}": predictions.probabilities[:, number] for number, name in enumerate(classes)}
    content |= labels_or_unknown(content["pred_0"], content["prob_0"], about["threshold"])
    return pa.table({name: content[name] for name in columns.names}, schema=columns)


class MajorityVote:
    """Gives each cluster of cells the label that most of its cells have.

    Parameters
    ----------
    about : mapping
        The facts beside the table: the classes, and the least share of a cluster's cells.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self._labels = pa.array([*(name for name in about["classes"] if name != UNKNOWN), UNKNOWN])
        self._least_share = about["majority"]["share"]
        self._votes: Votes | None = None

    def count(self, clusters: np.ndarray, labels: pa.ChunkedArray, n_clusters: int) -> None:
        """Count the labels of some cells."""
        numbers = pc.index_in(labels, self._labels).to_numpy()
        votes = Votes.of(clusters, numbers, n_clusters, len(self._labels))
        self._votes = votes if self._votes is None else self._votes + votes

    def columns(self, clusters: np.ndarray) -> dict[str, pa.Array]:
        """Return the columns ``cluster``, ``majority`` and ``majority_share`` of some cells."""
        assert self._votes is not None
        winners, share = self._votes.winners(self._least_share)
        winners = np.where(winners < 0, len(self._labels) - 1, winners)
        return {
            "cluster": pa.array(clusters, pa.int32()),
            "majority": self._labels.take(pa.array(winners[clusters])),
            "majority_share": pa.array(share[clusters], pa.float32()),
        }


class PredictionSummary:
    """Counts labels as they come.

    Parameters
    ----------
    about : mapping
        The facts beside the table.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self.labels: Counter[str] = Counter()
        self.majority: Counter[str] = Counter()
        self.outside: Counter[str] = Counter()
        self.n_cells = self.n_unknown = self.n_empty = self.n_known = 0

    def add(self, table: pa.Table) -> None:
        """Count the labels of some cells."""
        self.n_cells += len(table)
        self.n_unknown += pc.sum(table["unknown"]).as_py() or 0
        known = table.filter(pc.invert(table["unknown"]))
        self.labels.update(known["label"].to_pylist())
        if "majority" in table.column_names:
            self.majority.update(table["majority"].to_pylist())
        if "outside" in table.column_names:
            self.outside.update(table.filter(table["outside"])["pred_0"].to_pylist())

    def add_counts(self, n_empty: int, n_known: int) -> None:
        """Count cells that have no value at all, and cells of the reference."""
        self.n_empty += n_empty
        self.n_known += n_known

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return the cells of each label as a table: its head, and its rows."""
        head = ["label", "cells", "share"]
        classes = self.about["classes"]
        rows = [[name, f"{self.labels[name]:,}", _percent(self.labels[name], self.n_cells)] for name in classes]
        below = f"{UNKNOWN}, below the threshold" if UNKNOWN in classes else UNKNOWN
        rows.append([below, f"{self.n_unknown:,}", _percent(self.n_unknown, self.n_cells)])
        if self.about["majority"] is not None:
            head += ["by majority", "share"]
            for name, row in zip([*classes, *([] if UNKNOWN in classes else [UNKNOWN])], rows, strict=False):
                row += [f"{self.majority[name]:,}", _percent(self.majority[name], self.n_cells)]
        return head, rows

    def plain(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return the cells of each label, what is told about the queries, and where the predictions are."""
        return {
            "labels": {name: self.labels[name] for name in self.about["classes"]},
            "unknown": self.n_unknown,
            "majority": dict(self.majority) if self.about["majority"] is not None else None,
            "outside": sum(self.outside.values()) if self.about["reference"] else None,
            "without_values": self.n_empty,
            "cells_of_the_reference": self.n_known,
            "threshold": self.about["threshold"],
            "queries": self.about["queries"],
            "files": [*map(str, files)],
        }

    def print(self, files: Sequence[Path], seconds: float | None = None) -> None:
        """Print the cells of each label, how well the genes fit, and where the predictions are."""
        console = terminal()
        table = Table()
        head, rows = self.rows()
        for name in head:
            table.add_column(name, justify="left" if name == "label" else "right")
        for row in rows:
            table.add_row(*map(escape, row), style="bold" if row is rows[-1] else None)
        console.print(table)
        texts = self.texts()
        if seconds is not None:
            speed = f"{self.n_cells / max(seconds, 1e-9):,.0f} a second"
            texts = [f"{self.n_cells:,} cells in {duration(seconds)}, {speed}.", *self.query_texts(), *texts]
        for text in [*texts, f"Written: {', '.join(map(str, files))}"]:
            console.print(text, soft_wrap=True, highlight=False, markup=False)

    def query_texts(self) -> list[str]:
        """Return how well the genes of the query fit, in sentences."""
        texts = []
        for query in self.about["queries"]:
            missing = f"{query['n_missing']:,} missing"
            if query["n_missing"]:
                missing += f" and {query['missing_genes_are']}"
            texts.append(
                f"{query['file']}: {query['n_shared']:,} of the model's genes shared, {missing}"
                f" ({query['missing_share_in_words']}), {query['n_not_in_model']:,} of its own left out."
                f" Values: {query['normalisation']}."
            )
        return texts

    def texts(self) -> list[str]:
        """Return what the user must know of the predictions, in sentences."""
        texts = [self._outside_in_words()]
        if self.n_empty:
            texts.append(f"WARNING: {self.n_empty:,} cells have no value in any of the model's genes.")
        if self.n_known:
            texts.append(f"WARNING: {known_cells_in_words(self.n_known, self.n_cells)}")
        threshold = self.about["threshold"]
        if self.about["majority"] is not None:
            texts.append(
                "By majority, a cell has the label of most cells of its cluster (k-means, about"
                f" {CELLS_OF_CLUSTER} cells each), which may be {UNKNOWN}."
            )
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

    def _outside_in_words(self) -> str:
        if not self.about["reference"]:
            return (
                "The model does not hold where its reference lies (an earlier neurofleet trained it), so nothing says"
                " which cells lie outside. Train it again to know."
            )
        n = sum(self.outside.values())
        text = outside_in_words(n, self.n_cells)
        if not n:
            return f"{text}."
        most = ", ".join(f"{count:,} called {name}" for name, count in self.outside.most_common(3))
        far = f" {FAR}" if n > WARNED_OUTSIDE * self.n_cells else ""
        return f"{text} ({most}).{far}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


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


def tables_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a Parquet file's row groups, in order."""
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns)
