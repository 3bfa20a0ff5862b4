"""Splits as Parquet: columns sample_id, fold, role; one row per sample and fold."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from learners.errors import LearnerError
from learners.splits import Split, fingerprint

COLUMNS = ("sample_id", "fold", "role")


def split_table(splits: Sequence[Split]) -> pa.Table:
    """Return the table of one split, or of all folds one after the other; its metadata holds the notes."""
    table = pa.table(
        {
            "sample_id": pa.array(np.concatenate([split.sample_ids for split in splits]), pa.string()),
            "fold": pa.array(np.concatenate([split.fold for split in splits]), pa.int64()),
            "role": pa.array(np.concatenate([split.role for split in splits]), pa.string()),
        }
    )
    notes = {str(int(split.fold[0])): list(split.notes) for split in splits}
    return table.replace_schema_metadata({"notes": json.dumps(notes), "fingerprint": fingerprint(splits)})


def splits_from_table(table: pa.Table, source: str = "the table") -> list[Split]:
    """Return the splits of a table, by fold.

    Raises
    ------
    LearnerError
        When a column is missing, or the content is not what was fingerprinted.
    """
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise LearnerError(
            f"{source} is no split: expected the columns {', '.join(COLUMNS)}, found"
            f" {', '.join(table.column_names) or 'none'}."
        )
    metadata = table.schema.metadata or {}
    notes = json.loads(metadata.get(b"notes", b"{}"))
    sample_ids, fold, role = (np.asarray(table[name].to_pylist()) for name in COLUMNS)
    splits = []
    for number in np.unique(fold):
        rows = fold == number
        splits.append(Split(sample_ids[rows], fold[rows], role[rows], tuple(notes.get(str(number), ()))))
    stored = metadata.get(b"fingerprint", b"").decode()
    if stored and stored != fingerprint(splits):
        raise LearnerError(
            f"{source} was changed after it was written. Put back a good copy, or split again."
        )
    return splits


def write_splits(path: Path, splits: Sequence[Split]) -> None:
    """Write one split or all folds to a Parquet file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    pq.write_table(split_table(splits), partial, compression="zstd")
    os.replace(partial, path)


def read_splits(path: Path) -> list[Split]:
    """Read the splits of a file that `write_splits` wrote (one split: a list of one).

    Raises
    ------
    LearnerError
        When the file is missing, no Parquet, or no split.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise LearnerError(f"{path}: cannot be read as a split ({error}).") from error
    return splits_from_table(table, str(path))
