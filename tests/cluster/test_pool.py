"""The pool: every task gets its one outcome, whatever happens to the processes that work on it."""

import random
import signal
from contextlib import suppress

import psutil
import pytest

from neurofleet.cluster.pool.outcome import EvaluationTask
from tests.cluster.engines import spec
from tests.cluster.pool_helpers import collect, host_processes, submit


@pytest.fixture(scope="module")
def pool_module(ray_session):
    import neurofleet.cluster.pool.pool

    return neurofleet.cluster.pool.pool


@pytest.fixture(scope="module")
def pool(pool_module):
    """One pool for the tests that ask for nothing special; what they do to its hosts it has to stand."""
    with pool_module.Pool(memory_limit_mb=256) as pool:
        yield pool


def test_every_task_has_its_outcome(pool):
    for individual, outcome in collect(pool, submit(pool, [float(n) for n in range(40)])):
        assert (outcome.status, outcome.value) == ("ok", individual**2)
    assert pool.completed(1.0) == []


def test_tasks_may_come_at_any_time_and_ids_again(pool):
    first = submit(pool, [1.0, 2.0])
    found = collect(pool, first)
    second = submit(pool, [float(n) for n in range(5)], spec("other"))
    pool.completed(0.0)
    assert len(found) == 2
    with pytest.raises(ValueError, match="under way"):
        pool.submit(EvaluationTask(next(iter(second)), spec(), 1.0, 5.0))
    collect(pool, second)
    pool.submit(EvaluationTask(next(iter(second)), spec(), 3.0, 5.0))
    [(_, outcome)] = collect(pool, {next(iter(second)): 3.0})
    assert outcome.value == 9.0


def test_hung_crashed_and_failed_evaluations_are_outcomes(pool):
    tasks = submit(pool, [1.0, "hang", "segfault", "raise", "memory", "give up", 2.0], deadline_s=8.0)
    found = dict(collect(pool, tasks))
    assert {individual: outcome.status for individual, outcome in found.items()} == {
        1.0: "ok",
        "hang": "timeout",
        "segfault": "crash",
        "raise": "error",
        "memory": "error",
        "give up": "timeout",
        2.0: "ok",
    }
    assert found["hang"].reason == "no result within 8 s"


def test_an_engine_that_cannot_be_built_ends_its_tasks_with_the_reason(pool):
    bad = spec("no soma", fail=True)
    tasks = submit(pool, [float(n) for n in range(20)], bad) | submit(pool, [5.0])
    for individual, outcome in collect(pool, tasks):
        if outcome.ok:
            assert individual == 5.0
        else:
            assert outcome.status == "error"
            assert "the engine no soma could not be built: RuntimeError: the morphology has" in outcome.reason
    assert "no soma" in pool.statistics().engines_failed["no soma"]
    [(_, late)] = collect(pool, submit(pool, [1.0], bad))
    assert late.status == "error"


def test_an_evaluation_that_kills_its_host_is_lost_alone(pool):
    tasks = submit(pool, [1.0, 2.0, "kill the host", 3.0, 4.0], expected_s=0.1)
    for individual, outcome in collect(pool, tasks):
        if individual == "kill the host":
            assert (outcome.status, outcome.reason) == ("lost", "its host was lost, 3 times")
        else:
            assert outcome.value == individual**2
    assert pool.statistics().hosts_lost >= 3


def test_a_task_lost_once_is_evaluated_again(pool, tmp_path):
    tasks = submit(pool, [("once", str(tmp_path / "happened"), "kill the host")])
    [(_, outcome)] = collect(pool, tasks)
    assert (outcome.status, outcome.value) == ("ok", 49.0)


def test_killed_hosts_engine_processes_and_children_change_no_result(pool):
    chance = random.Random(1)
    slow = spec("slow", pause_s=0.05)
    tasks = submit(pool, [float(n) for n in range(120)], slow)
    kills = []
    finished_before = pool.statistics().outcomes.get("ok", 0)

    def kill_something():
        finished = pool.statistics().outcomes.get("ok", 0) - finished_before
        if len(kills) == 6 or finished < 15 * len(kills):  # not the same evaluation again and again
            return
        with suppress(psutil.NoSuchProcess, IndexError):  # it may just have ended, or not begun
            victims = host_processes(pool)
            for _ in range(len(kills) % 3):
                victims = [child for process in victims for child in process.children()]
            victim = chance.choice(victims)
            victim.send_signal(signal.SIGKILL)
            kills.append(victim.pid)

    for individual, outcome in collect(pool, tasks, meanwhile=kill_something):
        assert (outcome.status, outcome.value) == ("ok", individual**2), outcome
    assert len(kills) == 6
