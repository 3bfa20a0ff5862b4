"""Which task goes next."""

from collections import Counter

import pytest

from neurofleet.cluster.pool.outcome import EvaluationTask
from neurofleet.cluster.pool.schedule import LONGEST_BATCH, Work, WorkQueue
from tests.cluster.engines import spec


def fill(queue, expected_s, engine="a", first=0, lanes=1, **task):
    for number, seconds in enumerate(expected_s, first):
        queue.add(Work(number, EvaluationTask(number, spec(engine, lanes), 0.0, 10.0, seconds, **task)))


def take(queue, *held, excluded=(), on=None, hosts=1):
    return [work.number for work in queue.take(held, excluded, on or {}, hosts)]


def learn(queue, seconds, engine="a"):
    """Have a task evaluated in so many seconds."""
    queue.add(Work(-1, EvaluationTask(-1, spec(engine), 0.0, 10.0)))
    (work,) = queue.take([], (), {}, 1)
    queue.record(work, seconds)


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
    learn(queue, 1.0)
    fill(queue, [None] * 4)
    (work,) = queue.take([], (), {}, 1)
    queue.record(work, 9.0)
    fill(queue, [None, None], first=4)
    assert [take(queue)[0] for _ in range(5)] == [1, 2, 3, 4, 5]


def test_batches_by_time_from_the_running_median():
    queue = WorkQueue()
    for seconds in (0.125, 0.125, 30.0):
        learn(queue, seconds)
    fill(queue, [None] * 100)
    assert len(take(queue)) == 12


@pytest.mark.parametrize(("seconds", "length"), [(1e-6, LONGEST_BATCH), (100.0, 1)])
def test_batches_have_bounds(seconds, length):
    queue = WorkQueue()
    learn(queue, seconds)
    fill(queue, [None] * 1000)
    assert len(take(queue)) in (length, 1000 // 2)


def test_last_batches_are_small():
    queue = WorkQueue()
    learn(queue, 0.01)
    fill(queue, [None] * 40)
    sizes = []
    while batch := take(queue, hosts=2):
        sizes.append(len(batch))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 10
    assert sizes[-1] == 1


@pytest.mark.parametrize(
    ("seconds", "waiting", "sizes"),
    [
        (None, 40, [16, 16, 8]),  # nothing is known yet
        (0.5, 40, [16, 16, 8]),  # a vector takes 8 s, and still goes whole
        (0.03, 1000, [48, 48, 48]),  # three vectors take 1.44 s
        (0.03, 40, [16, 16, 8]),
        (1e-6, 1000, [LONGEST_BATCH] * 3),
        (0.03, 5, [5]),
    ],
)
def test_batches_are_full_multiples_of_an_engines_lanes(seconds, waiting, sizes):
    queue = WorkQueue()
    if seconds is not None:
        learn(queue, seconds)
    fill(queue, [None] * waiting, lanes=16)
    found = [len(take(queue)) for _ in sizes]
    assert found == sizes
    assert len(queue) == waiting - sum(found)


def test_a_host_stays_with_its_engine_and_then_helps_where_most_is_left():
    queue = WorkQueue()
    queue.record_build("b", 4.0)
    queue.record_build("c", 4.0)
    fill(queue, [5.0], "a")
    fill(queue, [5.0] * 4, "b", 10)
    fill(queue, [5.0] * 3, "c", 20)
    assert take(queue, "a") == [0]
    assert take(queue, "a", on={"b": 6}) == [20]
    assert take(queue, "a") == [10]
    assert take(queue, "a", excluded={"b"}) == [21]
    assert take(queue, excluded={"b", "c"}) == []


def test_no_engine_is_built_for_work_that_others_finish_before():
    queue = WorkQueue()
    queue.record_build("a", 12.0)
    fill(queue, [5.0] * 4)
    assert take(queue, on={"a": 2}) == []
    assert take(queue, on={"a": 1}) == [0]
    assert take(queue, "a", on={"a": 2}) == [1]


def served(queue, batches, *held):
    """Take batches; return how many tasks each share got."""
    counts = {}
    for _ in range(batches):
        for work in queue.take(held, (), {}, 1):
            queue.record(work, 1.0)
            counts[work.task.share] = counts.get(work.task.share, 0) + 1
    return counts


def test_shares_get_hosts_by_weight_whatever_they_hand_in():
    queue = WorkQueue()
    fill(queue, [1.0] * 100, "a", share="a")
    fill(queue, [1.0] * 1000, "b", 200, share="b", weight=3.0)
    assert served(queue, 40) == {"a": 10, "b": 30}


def test_within_a_share_later_ranks_fill_the_gaps():
    queue = WorkQueue()
    fill(queue, [1.0] * 4, "b", 10, rank=1)
    fill(queue, [1.0] * 3, "a", rank=0)
    assert [take(queue, "a", "b")[0] for _ in range(4)] == [0, 1, 2, 10]
    fill(queue, [1.0], "a", 3, rank=0)
    assert [take(queue, "a", "b")[0] for _ in range(2)] == [3, 11]


def test_hosts_spread_over_engines_in_proportion_to_what_they_have_to_go():
    queue = WorkQueue()
    for first, (engine, to_go) in enumerate([("a", 60), ("b", 30), ("c", 10)]):
        fill(queue, [2.0] * 100, engine, 100 * first, rank=-to_go)
    on = Counter()
    for _ in range(20):
        (number, *_) = take(queue, on=on, hosts=20)
        on["abc"[number // 100]] += 1
    assert on == {"a": 12, "b": 6, "c": 2}


def test_an_engine_has_to_go_what_its_latest_task_says():
    queue = WorkQueue()
    fill(queue, [1.0] * 2, "a", rank=-50)
    fill(queue, [1.0] * 2, "b", 10, rank=-40)
    assert take(queue, "a", "b") == [0]
    fill(queue, [1.0], "a", 2, rank=-30)
    assert take(queue, "a", "b") == [10]


def test_a_share_that_had_nothing_to_do_does_not_catch_up():
    queue = WorkQueue()
    fill(queue, [1.0] * 100, "a", share="a")
    served(queue, 50)
    fill(queue, [1.0] * 100, "b", 200, share="b")
    assert served(queue, 20) == {"a": 10, "b": 10}


def test_long_evaluations_count_as_long():
    queue = WorkQueue()
    fill(queue, [None] * 100, "a", share="a")
    fill(queue, [None] * 100, "b", 200, share="b")
    counts = {"a": 0, "b": 0}
    for _ in range(44):
        for work in queue.take([], (), {}, 1):
            queue.record(work, 10.0 if work.task.share == "a" else 1.0)
            counts[work.task.share] += 1
    assert counts["b"] == pytest.approx(10 * counts["a"], rel=0.3)


def test_a_warm_engine_is_left_only_when_a_build_is_worth_it():
    queue = WorkQueue()
    queue.record_build("b", 1.0)
    fill(queue, [1.0] * 100, "a", share="a")
    fill(queue, [1.0] * 100, "b", 200, share="b")
    counts = served(queue, 21, "a")
    assert counts == {"a": 21}
    assert served(queue, 1, "a") == {"b": 1}
    assert served(queue, 10, "a", "b") == {"b": 10}


def test_lost_tasks_are_kept_apart():
    queue = WorkQueue()
    fill(queue, [5.0])
    queue.add(Work(7, EvaluationTask("x", spec("b"), 0.0, 10.0), losses=1))
    assert len(queue) == 2
    assert queue.take_lost(excluded={"b"}) is None
    assert queue.take_lost(excluded={}).number == 7
    assert take(queue) == [0]
    assert len(queue) == 0


def test_an_engines_tasks_can_be_taken_out():
    queue = WorkQueue()
    fill(queue, [5.0, 6.0], "a")
    fill(queue, [5.0], "b", 10)
    queue.add(Work(7, EvaluationTask("x", spec("a"), 0.0, 10.0), losses=1))
    assert sorted(work.number for work in queue.remove_engine("a")) == [0, 1, 7]
    assert take(queue) == [10]
