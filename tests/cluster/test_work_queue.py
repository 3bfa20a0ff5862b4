"""Which task goes next."""

import pytest

from cluster.outcome import Task
from cluster.work_queue import LONGEST_BATCH, Work, WorkQueue
from tests.cluster.engines import spec


def fill(queue, expected_s, engine="a", first=0):
    for number, seconds in enumerate(expected_s, first):
        queue.add(Work(number, Task(number, spec(engine), 0.0, 10.0, seconds)))


def take(queue, engine=None, barred=(), on=None, hosts=1):
    return [work.number for work in queue.take(engine, barred, on or {}, hosts)]


def test_longest_expected_first():
    queue = WorkQueue()
    fill(queue, [2.0, 9.0, 4.0])
    assert [take(queue) for _ in range(4)] == [[1], [2], [0], []]


def test_equal_tasks_in_the_order_they_came():
    queue = WorkQueue()
    fill(queue, [None, None, None])
    assert [take(queue) for _ in range(3)] == [[0], [1], [2]]


def test_no_submitter_overtakes_another_because_the_median_has_moved():
    queue = WorkQueue()
    queue.record("a", 1.0)
    fill(queue, [None, None])
    for _ in range(3):
        queue.record("a", 2.0)
    fill(queue, [None, None], first=2)
    assert [take(queue)[0] for _ in range(4)] == [0, 1, 2, 3]


def test_batches_by_time_from_the_running_median():
    queue = WorkQueue()
    for seconds in (0.125, 0.125, 30.0):
        queue.record("a", seconds)
    fill(queue, [None] * 100)
    assert len(take(queue)) == 12


@pytest.mark.parametrize(("seconds", "length"), [(1e-6, LONGEST_BATCH), (100.0, 1)])
def test_batches_have_bounds(seconds, length):
    queue = WorkQueue()
    queue.record("a", seconds)
    fill(queue, [None] * 1000)
    assert len(take(queue)) in (length, 1000 // 2)


def test_last_batches_are_small():
    queue = WorkQueue()
    queue.record("a", 0.01)
    fill(queue, [None] * 40)
    sizes = []
    while batch := take(queue, hosts=2):
        sizes.append(len(batch))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 10
    assert sizes[-1] == 1


def test_a_host_stays_with_its_engine_and_then_helps_where_most_is_left():
    queue = WorkQueue()
    fill(queue, [5.0], "a")
    fill(queue, [5.0] * 4, "b", 10)
    fill(queue, [5.0] * 3, "c", 20)
    assert take(queue, "a") == [0]
    assert take(queue, "a", on={"b": 3}) == [20]
    assert take(queue, "a", on={}) == [10]
    assert take(queue, "a", barred={"b"}) == [21]
    assert take(queue, None, barred={"b", "c"}) == []


def test_lost_tasks_are_kept_apart():
    queue = WorkQueue()
    fill(queue, [5.0])
    queue.add(Work(7, Task("x", spec("b"), 0.0, 10.0), losses=1))
    assert len(queue) == 2
    assert queue.take_lost(barred={"b"}) is None
    assert queue.take_lost(barred={}).number == 7
    assert take(queue) == [0]
    assert len(queue) == 0


def test_an_engines_tasks_can_be_taken_out():
    queue = WorkQueue()
    fill(queue, [5.0, 6.0], "a")
    fill(queue, [5.0], "b", 10)
    queue.add(Work(7, Task("x", spec("a"), 0.0, 10.0), losses=1))
    assert sorted(work.number for work in queue.remove_engine("a")) == [0, 1, 7]
    assert take(queue) == [10]
