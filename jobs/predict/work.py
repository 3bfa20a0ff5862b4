"""What predicting is cut into: row groups of so many cells, here or as shards on a cluster."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import UsageError
from jobs.predict.table import about_of, to_table

if TYPE_CHECKING:
    from learners.sims.model import SimsModel
    from learners.sims.query import Query

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
    """

    files: tuple[str, ...]
    layer: str = "X"
    target_sum: float | None = None
    most_missing: float = 0.8
    close_missing: bool = False

    def open(self, model: "SimsModel") -> "list[Query]":
        """Open all files and check them against a model.

        Raises
        ------
        LearnerError
            If one cannot be used.
        """
        from learners.sims.query import open_query

        options = {name: value for name, value in asdict(self).items() if name != "files"}
        return [open_query(model, file, **options) for file in self.files]


@dataclass(frozen=True)
class Group:
    """Neighbouring cells of one file."""

    file: int
    start: int
    stop: int


def groups_of(lengths: Sequence[int]) -> list[Group]:
    """Return the row groups of files of so many cells, in order."""
    return [
        Group(file, start, min(start + GROUP_CELLS, length))
        for file, length in enumerate(lengths)
        for start in range(0, length, GROUP_CELLS)
    ]


def predict_group(
    model: "SimsModel", queries: "Sequence[Query]", group: Group, columns: pa.Schema, about: Mapping[str, Any]
) -> tuple[pa.Table, int]:
    """Return the predictions of a row group, and how many of its cells have no value at all."""
    from learners.sims.predictions import predict

    query, top = queries[group.file], sum(name.startswith("pred_") for name in columns.names)
    found = predict(model, query, np.arange(group.start, group.stop), top)
    return to_table(found, columns, about, str(query.path)), found.n_empty


def predict_on_cluster(
    folder: Path, reading: Reading, groups: Sequence[Group], columns: pa.Schema, parts: Path
) -> Iterator[tuple[pa.Table, int]]:
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
    from cluster.shards import map_shards

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
    done = map_shards("jobs.predict.work:predict_shard", payloads)
    for payload, empty in zip(payloads, done, strict=True):
        part = Path(payload["part"])
        if not part.is_file():
            raise UsageError(
                f"A worker has written {part}, and this machine does not see it. Write --out into a folder"
                " that all machines of the cluster share."
            )
        with pq.ParquetFile(part) as file:
            for number, n_empty in enumerate(empty):
                yield file.read_row_group(number).cast(columns), n_empty
        part.unlink()


def predict_shard(payload: Mapping[str, Any]) -> list[int]:
    """Predict the groups of a shard and write them as its part; return how many cells of each are empty."""
    part, columns = Path(payload["part"]), payload["columns"]
    if not part.parent.is_dir():
        raise UsageError(
            f"A worker on {os.uname().nodename} does not see the folder {part.parent.parent}. Write --out"
            " into a folder that all machines of the cluster share."
        )
    model, queries = _opened(payload["model"], payload["reading"])
    about, empty = about_of(columns, part), []
    partial = part.with_name(f"{part.name}.{os.uname().nodename}.{os.getpid()}")
    with pq.ParquetWriter(partial, columns) as writer:
        for group in payload["groups"]:
            table, n_empty = predict_group(model, queries, group, columns, about)
            writer.write_table(table)
            empty.append(n_empty)
    os.replace(partial, part)
    return empty


@lru_cache(maxsize=1)
def _opened(folder: str, reading: Reading) -> "tuple[SimsModel, list[Query]]":
    """Open model and files, once for all shards that a worker is given."""
    from learners.sims.model import SimsModel

    model = SimsModel.load(Path(folder))
    return model, reading.open(model)
