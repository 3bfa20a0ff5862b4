"""Halls of fame as the runs of fits store them, read without a run's store."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pyarrow as pa

PARAMETER_PREFIX = "param."
POOLED = "pooled.parquet"
_SEED = re.compile(r"seed=(\d+)\.parquet$")


def own_columns(table: pa.Table) -> pa.Table:
    """Return a hall of fame with its cell as a column, and without the parameters that only other cells have.

    A file of a run has a column for each parameter of all cells of the run, and leaves its cell to the name of its
    folder; both stand in its metadata. Any other table is returned as it is.
    """
    metadata = table.schema.metadata or {}
    if b"parameters" in metadata:
        own = {PARAMETER_PREFIX + name for name in json.loads(metadata[b"parameters"])}
        others = [n for n in table.column_names if n.startswith(PARAMETER_PREFIX) and n not in own]
        table = table.drop_columns(others)
    if b"cell" in metadata and "cell" not in table.column_names:
        table = table.add_column(0, "cell", pa.array([metadata[b"cell"].decode()] * len(table), pa.string()))
    return table


def of_seeds(files: Iterable[str]) -> list[str]:
    """Return those files of one cell that have each of its models once, in the order of the seeds.

    The runs of version 0.1.0 keep the models of all seeds once more beside those of each.
    """

    def order(file: str) -> tuple[int, str]:
        match = _SEED.search(file)
        return (int(match[1]) if match else -1, file)

    files = sorted(files, key=order)
    return [POOLED] if POOLED in files else files
