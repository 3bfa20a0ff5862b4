"""The learnt deadline follows the evaluations, and never cuts into what is usual."""

import pytest

from neurofleet.cluster.pool.outcome import EngineSpec
from neurofleet.jobs.fit.engines import LONG_S, task_deadline_s
from neurofleet.jobs.fit.stage_search import FLOOR_S, START_S, Deadline


def learnt(seconds: list[float]) -> float:
    deadline = Deadline("auto")
    for value in seconds:
        deadline.learn(value)
    return deadline.seconds


def test_a_given_deadline_stays():
    deadline = Deadline(12.5)
    for _ in range(1000):
        deadline.learn(0.1)
    assert deadline.seconds == 12.5


def test_starts_generously_until_enough_is_known():
    assert learnt([0.1] * 20) == START_S


def test_follows_the_95th_percentile_of_a_heavy_tail():
    assert learnt([10.0] * 900 + [80.0] * 100) == pytest.approx(80.0)


def test_leaves_room_above_evaluations_that_all_last_alike():
    assert learnt([10.0] * 500) == pytest.approx(50.0)
    assert learnt([0.01] * 500) == FLOOR_S


def test_does_not_shrink_by_its_own_timeouts():
    deadline = Deadline("auto")
    for _ in range(20):
        limit = deadline.seconds
        for i in range(100):
            deadline.learn(min(limit, 5.0 if i % 10 else 1000.0))
    assert deadline.seconds >= 25.0


@pytest.mark.parametrize(
    ("deadline_s", "task_s"), [(1.0, 16.0), (20.0, 320.0), (300.0, LONG_S), (2 * LONG_S, 2 * LONG_S)]
)
def test_individuals_side_by_side_have_the_time_of_all_lanes(deadline_s, task_s):
    assert task_deadline_s(EngineSpec("m:f", None, "k", lanes=16), deadline_s) == task_s
    assert task_deadline_s(EngineSpec("m:f", None, "k"), deadline_s) == deadline_s


def test_another_engine_learns_anew():
    deadline = Deadline("auto")
    for _ in range(100):
        deadline.learn(0.01)
    assert deadline.fresh().seconds == START_S
    assert Deadline(12.5).fresh().seconds == 12.5
