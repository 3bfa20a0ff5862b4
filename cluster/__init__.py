"""Ray, and nothing of biology: the pool that evaluates under deadlines, the session, the result store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["hall_of_fame", "published_runs", "published_table"]


def hall_of_fame(run: str, cell: str, seed: int | str = "pooled") -> pa.Table:
    """A hall of fame of a run on this Ray cluster, by name; see `cluster.shared.hall_of_fame`."""
    from cluster import shared

    return shared.hall_of_fame(run, cell, seed)


def published_table(run: str, name: str) -> pa.Table:
    """A Parquet table of a run on this Ray cluster, by name; see `cluster.shared.published_table`."""
    from cluster import shared

    return shared.published_table(run, name)


def published_runs() -> list[str]:
    """The names of the runs whose tables are published; see `cluster.shared`."""
    from cluster import shared

    return shared.published_runs()
