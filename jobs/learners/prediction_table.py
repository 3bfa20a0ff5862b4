"""The table of predictions: its columns, labels that become `unknown` below a threshold, and its summary."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.learner_folder import ABOUT
from neurofleet.jobs.progress import duration
from neurofleet.learners.sims.cell_prediction import Predictions
from neurofleet.learners.unknown_labels import UNKNOWN, labels_or_unknown


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
        self._unknown = self._empty = 0

    def add(self, table: pa.Table, n_empty: int = 0) -> None:
        """Count some cells, of which some have no value at all."""
        known = table.filter(pc.invert(table["unknown"]))
        self._labels.update(known["label"].to_pylist())
        self._unknown += len(table) - len(known)
        self._empty += n_empty

    def print(self, files: Sequence[Path], seconds: float | None = None) -> None:
        """Print the cells of each label, how well the genes fit, and where the predictions are."""
        console = Console()
        total = sum(self._labels.values()) + self._unknown
        table = Table()
        table.add_column("label")
        table.add_column("cells", justify="right")
        table.add_column("share", justify="right")
        for name in self._classes:
            table.add_row(name, f"{self._labels[name]:,}", _percent(self._labels[name], total))
        table.add_row(UNKNOWN, f"{self._unknown:,}", _percent(self._unknown, total), style="bold")
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
