"""The pool: every task gets its one outcome, whatever happens to the processes that work on it."""

import pytest

from cluster.outcome import Task
from tests.cluster.engines import spec

pool_module = pytest.importorskip("cluster.pool")


@pytest.fixture
def pool(ray_session):
    with pool_module.Pool(memory_limit_mb=256) as pool:
        yield pool


def collect(pool, n, timeout_s=60.0):
    """The outcomes of `n` tasks by id."""
    import time

    found = {}
    give_up = time.monotonic() + timeout_s
    while len(found) < n and time.monotonic() < give_up:
        for task_id, outcome in pool.completed(1.0):
            assert task_id not in found, "an outcome came twice"
            found[task_id] = outcome
    assert len(found) == n, f"{n - len(found)} outcomes are missing: {pool.statistics()}"
    return found


def test_every_task_has_its_outcome(pool):
    for number in range(40):
        pool.submit(Task(number, spec(), float(number), deadline_s=5.0))
    found = collect(pool, 40)
    assert {number: outcome.value for number, outcome in found.items()} == {n: n**2.0 for n in range(40)}
    assert all(outcome.ok for outcome in found.values())
    assert pool.completed(1.0) == []
