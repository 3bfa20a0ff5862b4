"""The class of each cell, from a column of `obs`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
import pandas as pd

from neurofleet.errors import CellsRefused, did_you_mean
from neurofleet.learners.cells.cell_matrix import SOURCE_COLUMN, CellMatrix
from neurofleet.learners.class_names import alike_notes
from neurofleet.learners.splits import some_of_each_class
from neurofleet.learners.unknown_labels import UNKNOWN
from neurofleet.wording import listed

MANY_NUMBERS = 50
"""Numbers that are classes, such as those of clusters, are fewer."""

NO_LABEL = ("", "nan", "NaN", "NA", "N/A", "None", "none", "<NA>")


@dataclass(frozen=True)
class Labels:
    """Classes of labelled cells.

    Attributes
    ----------
    rows : (n,) array of int
        The cells that have a label, ascending.
    codes : (n,) array of int
        The class of each of them.
    classes : tuple of str
        Names, sorted.
    notes : tuple of str
        What the user should know: cells without a label, classes of one cell.
    """

    rows: np.ndarray
    codes: np.ndarray
    classes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> np.ndarray:
        """Cells of each class."""
        return np.bincount(self.codes, minlength=len(self.classes))

    def some(self, most: int, seed: int) -> Labels:
        """Return about `most` of the labelled cells, see `neurofleet.learners.splits.some_of_each_class`."""
        if len(self.rows) <= most:
            return self
        places = some_of_each_class(self.codes, most, seed)
        note = f"{len(places):,} of {len(self.rows):,} labelled cells are used."
        return replace(self, rows=self.rows[places], codes=self.codes[places], notes=(*self.notes, note))


def read_labels(cells: CellMatrix, column: str, *, drop_missing: bool = False) -> Labels:
    """Read the classes from a column of `obs`.

    Parameters
    ----------
    drop_missing
        Leave cells without a label out, in place of refusing them.

    Raises
    ------
    CellsRefused
        If there is no such column, labels are missing, there is one class only, or labels are measurements; where one
        of several files has no label at all, with the nearest of its own columns.
    """
    if column not in cells.obs:
        if column in cells.var:
            raise CellsRefused(
                f"The column {column!r} belongs to var, where genes are described: cells seem to be in"
                " columns. Transpose the matrix; cells stand in rows."
            )
        columns = [str(name) for name in cells.obs.columns if name != SOURCE_COLUMN]
        raise CellsRefused(
            f"The cells have no column {column!r}{did_you_mean(column, columns)}. There are:"
            f" {', '.join(columns) or 'none'}."
        )
    refuse_files_without(cells, column)
    column_values = cells.obs[column]
    if pd.api.types.is_float_dtype(column_values) and (column_values.dropna() != column_values.dropna().round()).any():
        raise CellsRefused(
            f"Expected names of classes in {column!r}, found fractions such as {column_values.dropna().iloc[0]:g}."
            " Choose the column that holds the cell types."
        )
    if pd.api.types.is_float_dtype(column_values):
        column_values = column_values.astype("Int64")
    words = column_values.astype("string").str.strip()
    missing = (words.isna() | words.isin(NO_LABEL)).to_numpy(bool)
    notes = []
    if missing.any():
        names = ", ".join(map(str, cells.cell_ids[missing][:5]))
        missing_text = f"{int(missing.sum())} of {len(cells)} cells have no label in {column!r} ({names}, ...)"
        if not drop_missing:
            raise CellsRefused(f"{missing_text}. Label them, or leave them out (`drop_unlabelled: true`).")
        notes.append(f"{missing_text}; they are left out.")
    rows = np.flatnonzero(~missing)
    codes, classes = pd.factorize(words[~missing].astype(object), sort=True)
    if len(classes) < 2:
        only = f"one class, {classes[0]!r}" if len(classes) else "no label at all"
        raise CellsRefused(
            f"Expected at least two classes in {column!r}, found {only}. There is nothing to tell apart."
        )
    counts = np.bincount(codes)
    if len(classes) > 10 and len(classes) > len(rows) / 2:
        raise CellsRefused(
            f"Expected classes in {column!r}, found {len(classes)} different words for {len(rows)} cells,"
            f" such as {', '.join(classes[:3])}. Choose the column that holds the cell types."
        )
    if (counts == 1).any():
        single = listed(classes[counts == 1], 10)
        notes.append(f"Classes of one cell, which can only be learned from and never tested: {single}.")
    if pd.api.types.is_numeric_dtype(column_values) and len(classes) > MANY_NUMBERS:
        notes.append(
            f"{column!r} holds numbers, and each of its {len(classes)} values is taken as a class of its own. If it"
            " counts or measures something, choose the column that holds the cell types."
        )
    notes += alike_notes(classes)
    for name, count in zip(classes, counts, strict=True):
        if name.casefold() == UNKNOWN:
            notes.append(
                f"{count} cells are of a class {name!r}. The word is reserved: predictions call a cell {UNKNOWN!r}"
                " when its probability is below the threshold. Rename the class, or leave its cells without a label if"
                " nobody knows what they are."
            )
    return Labels(rows, codes.astype(np.int64), tuple(map(str, classes)), tuple(notes))


def refuse_files_without(cells: CellMatrix, column: str) -> None:
    """Refuse cells of several files where one of these has nothing in a column that others have.

    Raises
    ------
    CellsRefused
        With the file, and the nearest of the columns that it does have.
    """
    filled = cells.obs.notna()
    of_file = filled.groupby(cells.obs[SOURCE_COLUMN].to_numpy(), sort=False).any()
    if len(of_file) < 2 or column not in of_file:
        return
    for file in of_file.index[~of_file[column]]:
        others = [str(name) for name in of_file.columns[of_file.loc[file]] if name != SOURCE_COLUMN]
        raise CellsRefused(
            f"{file}: has no {column!r}{did_you_mean(column, others)}, which other files have; its columns are"
            f" {', '.join(others) or 'none'}. Name the column alike in all files, or leave this file out."
        )


def confounded(cells: CellMatrix, labels: Labels, batch: str | None = None) -> list[str]:
    """Say where the file or the batch of a cell already tells its class.

    A model then learns what differs between files or batches, and scores on their cells say nothing of others.

    Parameters
    ----------
    batch : str, optional
        The column of batches.
    """
    notes = []
    codes = pd.Series(labels.codes)
    for what, column in (("files", SOURCE_COLUMN), ("batches", batch)):
        if column is None or column not in cells.obs:
            continue
        source = cells.obs[column].astype(str).to_numpy()[labels.rows]
        n_sources = len(np.unique(source))
        alone = codes.groupby(source).nunique() == 1
        if n_sources < 2 or not alone.all():
            continue
        words = " ".join(PurePath(str(one)).name.lower() for one in alone.index)
        named = [
            name for name in labels.classes if re.search(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z])", words)
        ]
        names = f", and its name says which ({', '.join(named[:5])})" if named else ""
        notes.append(
            f"Each of {n_sources} {what} holds cells of one class only{names}: what tells classes apart may be what"
            f" tells {what} apart, and scores here say nothing of cells from others."
        )
    return notes
