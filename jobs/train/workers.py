"""On how many workers a learner's job runs, and the cluster that they are on."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from jobs.train.spec import LearnerSpec

Workers = int | tuple[int, int]


def workers_of(spec: LearnerSpec, address: str | None) -> Workers:
    """Return how many workers a job has: its own number, else one on a cluster and none here."""
    return spec.workers if spec.workers is not None else (1 if address else 0)


def most(workers: Workers) -> int:
    """Return how many workers there are at most."""
    return workers[1] if isinstance(workers, tuple) else workers


def connected(workers: Workers, address: str | None, cpus: int | None) -> AbstractContextManager[Any]:
    """Return the connection to Ray that so many workers need; without workers nothing is started."""
    from cluster.session import connect

    return connect(address, None if address else cpus) if workers else nullcontext()
