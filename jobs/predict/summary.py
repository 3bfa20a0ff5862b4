"""What a prediction found, in figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.predict.table import UNKNOWN
from jobs.progress import duration


class Summary:
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
        from rich.console import Console
        from rich.table import Table

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
            texts.append(
                f"{total:,} cells in {duration(seconds)}, {total / max(seconds, 1e-9):,.0f} a second."
            )
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
