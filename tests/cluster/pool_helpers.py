"""Handing tasks to a pool and collecting what comes back."""

import itertools
import time

import psutil
import pytest

from neurofleet.cluster.pool.outcome import EvaluationTask
from tests.cluster.engines import spec

IDS = itertools.count()


def submit(pool, individuals, engine=None, deadline_s=20.0, **options):
    """Hand in tasks; return individual by task id."""
    tasks = {f"task {next(IDS)}": individual for individual in individuals}
    for task_id, individual in tasks.items():
        pool.submit(EvaluationTask(task_id, engine or spec(), individual, deadline_s, **options))
    return tasks


def collect(pool, tasks, timeout_s=60.0, meanwhile=lambda: None):
    """The (individual, outcome) pairs of `tasks`, in the order they were handed in."""
    found = {}
    give_up = time.monotonic() + timeout_s
    while len(found) < len(tasks) and time.monotonic() < give_up:
        meanwhile()
        for task_id, outcome in pool.completed(0.2):
            assert task_id in tasks
            assert task_id not in found, "an outcome came twice"
            found[task_id] = outcome
    assert len(found) == len(tasks), f"outcomes are missing: {pool.statistics()}"
    return [(individual, found[task_id]) for task_id, individual in tasks.items()]


def host_processes(pool):
    return [psutil.Process(host.process) for host in pool._hosts.values() if host.ready]


def wait_for(condition, timeout_s=20.0):
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("waited in vain")
