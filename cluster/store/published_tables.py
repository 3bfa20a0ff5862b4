"""Halls of fame and other tables in Ray's object store, read by any job on the cluster by their run's name.

To publish a run is to store its name and folder in the cluster's own key-value table. A table is put into the object
store when it is first requested, by a small detached actor of the run that owns it. Parquet stays the only lasting
place: an owner that is lost is started again, and reads the tables again.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import pyarrow as pa

from neurofleet.cluster.store.run_store import POOLED, RunStore
from neurofleet.errors import ClusterError

if TYPE_CHECKING:
    from ray import ObjectRef

NAMESPACE = "neurofleet"
GIVE_UP_S = 60.0
RETRY_S = 0.2

_KEY = b"published-run:"
TableKey: TypeAlias = "str | tuple[str, int | str]"
"""A table's file, or the cell and seed of a hall of fame."""

logger = logging.getLogger(__name__)


class _Published(NamedTuple):
    """Where a run is, and the node on which it was published, which can read it for certain."""

    root: str
    node: str


def publish(run: str, root: str | Path) -> None:
    """Let every job on this Ray cluster read the tables of a run by the run's name.

    It replaces a run that was published under the same name before, with a warning in the log.

    Parameters
    ----------
    run : str
    root : str or Path
        The run's folder or URI, as `RunStore` takes it. It may still be empty.

    Raises
    ------
    ClusterError
        If this process is not connected to Ray.
    """
    node = _connected().get_runtime_context().get_node_id()
    place = str(root) if "://" in str(root) else str(Path(root).resolve())
    before = _published(run)
    if before is not None and before.root != place:
        logger.warning("The name %s was published for %s; from now on it means %s.", run, before.root, place)
    value = json.dumps({"root": place, "node": node}).encode()
    _cluster_key_values()._internal_kv_put(_KEY + run.encode(), value, overwrite=True, namespace=NAMESPACE.encode())


def published_runs() -> list[str]:
    """The names of all runs that were published on this Ray cluster, sorted.

    Raises
    ------
    ClusterError
        If this process is not connected to Ray.
    """
    _connected()
    keys = _cluster_key_values()._internal_kv_list(_KEY, namespace=NAMESPACE.encode())
    return sorted(key.removeprefix(_KEY).decode() for key in keys)


def hall_of_fame(run: str, cell: str, seed: int | str = POOLED) -> pa.Table:
    """A hall of fame of a published run, as it is stored at this moment.

    The table's memory is the object store's: it is shared by all processes of a node, read-only, and stays
    valid as long as the table is used, whatever happens to the run.

    Parameters
    ----------
    run : str
        The name of a job.
    cell : str
    seed : int or str
        One seed, or ``"pooled"`` for all seeds together.

    Returns
    -------
    pyarrow.Table
        A row a model, best first: cell, seed, rank, total, generation, individual, ``param.<name>`` …,
        ``score.<objective>`` …

    Raises
    ------
    ClusterError
        If this process is not connected to Ray, or there is no such run, cell or seed; the message lists those there
        are.
    """
    return _fetch_table(run, (cell, seed))


def published_table(run: str, name: str) -> pa.Table:
    """A Parquet table in the folder of a published run, as it is stored at this moment.

    Parameters
    ----------
    run : str
        The name of a job.
    name : str
        Such as ``embeddings.parquet``; relative to the run's folder.

    Raises
    ------
    ClusterError
        If this process is not connected to Ray, or there is no such run or table.
    """
    return _fetch_table(run, name)


def _fetch_table(run: str, key: TableKey) -> pa.Table:
    ray = _connected()
    from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

    give_up = time.monotonic() + GIVE_UP_S
    while True:
        published = _published(run)
        if published is None:
            runs = ", ".join(published_runs()) or "none"
            raise ClusterError(
                f"No run named {run!r} is published on this Ray cluster; published are: {runs}. A run is"
                " published when it is started with --address."
            )
        try:
            left_s = max(give_up - time.monotonic(), RETRY_S)
            (table,) = ray.get(_table_owner(run, published.node).put.remote(published.root, key), timeout=left_s)
            return ray.get(table, timeout=left_s)
        except RayTaskError as error:
            if isinstance(error.cause, ClusterError):
                raise ClusterError(f"Run {run!r}: {error.cause}") from None
            raise
        except (RayActorError, ObjectLostError, GetTimeoutError) as error:
            if time.monotonic() > give_up:
                raise ClusterError(
                    f"The cluster did not hand out {_in_words(key)} of run {run!r} within {GIVE_UP_S:.0f} s"
                    f" ({type(error).__name__}: {str(error).strip().splitlines()[0]}). It is safe in"
                    f" {published.root}: read it from there, or try again."
                ) from error
            time.sleep(RETRY_S)


class _TableOwner:
    """The owner of a run's tables in the object store."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, TableKey], ObjectRef] = {}

    def put(self, root: str, key: TableKey) -> list[ObjectRef]:
        """Put a table into the object store, unless it is there already."""
        import ray

        stored = _read_file(root, key) if isinstance(key, str) else _read_hall_of_fame(root, *key)
        place = (root, key)
        if place not in self._tables or not ray.get(self._tables[place]).equals(stored, check_metadata=True):
            self._tables[place] = ray.put(stored)
        return [self._tables[place]]


def _read_file(root: str, name: str) -> pa.Table:
    parts = PurePosixPath(name).parts
    if not name.endswith(".parquet") or ".." in parts or name.startswith("/"):
        raise ClusterError(f"{name!r} was requested; it should be a Parquet file in the run's folder.")
    table = RunStore(root).table(name)
    if table is None:
        raise ClusterError(f"there is no {name} in {root}. It is written when the job ends.")
    return table


def _in_words(key: TableKey) -> str:
    return key if isinstance(key, str) else "the hall of fame"


def _read_hall_of_fame(root: str, cell: str, seed: int | str) -> pa.Table:
    store = RunStore(root)
    if seed != POOLED and not isinstance(seed, int):
        raise ClusterError(f"seed={seed!r} was requested; it should be a number or {POOLED!r}.")
    table = store.hall_of_fame_table(cell, seed)
    if table is not None:
        return table
    seeds_of: dict[str, list[str]] = {}
    for name, number in store.halls_of_fame():
        seeds_of.setdefault(name, []).append(str(number))
    listing = "; ".join(f"{name}: {', '.join(seeds)}" for name, seeds in seeds_of.items()) or "none yet"
    raise ClusterError(
        f"there is no hall of fame of cell {cell!r}, seed {seed!r} in {root}. There are (cell: seeds)"
        f" {listing}. A cell gets its hall of fame when its fit is finished."
    )


def _table_owner(run: str, node: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {
        "name": f"tables:{run}",
        "namespace": NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True),
    }
    return ray.remote(_TableOwner).options(**options).remote()


def _published(run: str) -> _Published | None:
    value = _cluster_key_values()._internal_kv_get(_KEY + run.encode(), namespace=NAMESPACE.encode())
    return None if value is None else _Published(**json.loads(value))


def _cluster_key_values() -> Any:
    """The cluster's own table of keys and values, which lives as long as the cluster."""
    from ray.experimental import internal_kv

    return internal_kv


def _connected() -> Any:
    import ray

    if not ray.is_initialized():
        raise ClusterError(
            "This process is not connected to a Ray cluster. Call ray.init(address=...) first, or work inside"
            " `with neurofleet.cluster.ray.session.connect(address)`."
        )
    return ray
