"""Ray, and nothing of biology: evaluations under deadlines, training, sweeps, stored results."""

from __future__ import annotations

import pyarrow as pa

from neurofleet.cluster.store import published_tables

__all__ = ["hall_of_fame", "published_runs", "published_table"]


def hall_of_fame(run: str, cell: str, seed: int | str = "pooled") -> pa.Table:
    """A hall of fame of a run on this Ray cluster, by name; see `neurofleet.cluster.store.published_tables.hall_of_fame`."""
    return published_tables.hall_of_fame(run, cell, seed)


def published_table(run: str, name: str) -> pa.Table:
    """A Parquet table of a run on this Ray cluster, by name; see `neurofleet.cluster.store.published_tables.published_table`."""
    return published_tables.published_table(run, name)


def published_runs() -> list[str]:
    """The names of the runs whose tables are published; see `neurofleet.cluster.store.published_tables`."""
    return published_tables.published_runs()
