"""What each host does next."""

import random

import pytest

from neurofleet.cluster.pool.outcome import EvaluationTask
from neurofleet.cluster.pool.schedule import HELP_WORTH, TOP_UP_BELOW_S, Scheduler, Work
from tests.cluster.engines import spec

BUILD_S = 1.0


def make_scheduler(**hosts):
    """A scheduler with hosts by name, each on a node; every engine takes a second to build."""
    scheduler = Scheduler()
    scheduler.queue.record_build("any", BUILD_S)
    for host, node in hosts.items():
        scheduler.join(host, node)
    return scheduler


def submit(scheduler, engine, numbers, expected_s=1.0, losses=0, **task):
    for number in numbers:
        scheduler.submit(Work(number, EvaluationTask(number, spec(engine), 0.0, 10.0, expected_s, **task), losses))


def assign_idle(scheduler, spread=True):
    """Host -> the numbers that it is given."""
    given = {}
    for host, batch in scheduler.assign_idle(spread):
        given.setdefault(host, []).extend(work.number for work in batch)
    return given


def finish(scheduler, host, seconds=1.0):
    """The host ends all that it has."""
    for number in [work.number for work, _ in scheduler._hosts[host].tasks.values()]:
        scheduler.done(host, number, seconds)


def test_hosts_that_hold_an_engine_get_its_tasks_first():
    scheduler = make_scheduler(a="n1", b="n1", c="n2")
    submit(scheduler, "x", [0])
    submit(scheduler, "y", [1])
    submit(scheduler, "z", [2])
    held = {numbers[0]: host for host, numbers in assign_idle(scheduler).items()}
    assert len(held) == 3
    for host in "abc":
        finish(scheduler, host)
    submit(scheduler, "z", [12])
    submit(scheduler, "x", [10])
    assert assign_idle(scheduler) == {held[2]: [12], held[0]: [10]}


def test_a_host_keeps_two_engines():
    scheduler = make_scheduler(a="n")
    for number, engine in enumerate("xyz"):
        submit(scheduler, engine, [number])
        assert assign_idle(scheduler) == {"a": [number]}
        finish(scheduler, "a")
    assert scheduler._hosts["a"].held == ["y", "z"]
    assert set(scheduler._idle_holders) == {"y", "z"}


def test_a_further_host_is_spread_to_as_soon_as_it_pays_or_only_for_a_longer_stay():
    def fed(spread, tasks):
        scheduler = make_scheduler(a="n", b="n")
        submit(scheduler, "x", range(tasks))
        return set(assign_idle(scheduler, spread))

    few, many = 4, round(HELP_WORTH * BUILD_S) + 3
    assert fed(True, few) == {"a", "b"}
    assert fed(False, few) == {"a"}
    assert fed(False, many) == {"a", "b"}


def test_an_engine_without_a_host_is_taken_whatever_it_pays():
    scheduler = make_scheduler(a="n", b="n")
    submit(scheduler, "x", [0], expected_s=0.001)
    submit(scheduler, "y", [1], expected_s=0.001)
    assert len(assign_idle(scheduler, spread=False)) == 2


def test_hosts_at_something_stuck_are_not_counted_on():
    scheduler = make_scheduler(a="n", b="n")
    submit(scheduler, "x", [0, 1])
    assert len(assign_idle(scheduler, spread=False)) == 1
    scheduler.set_stuck("a", True)
    assert scheduler.next_batch("a", False) == [], "nothing is queued behind what is stuck"
    assert assign_idle(scheduler, spread=False) == {"b": [1]}
    scheduler.set_stuck("a", False)
    assert scheduler._at == {"x": 2}
    for host in "ab":
        finish(scheduler, host)
    assert not scheduler._at


def test_a_host_is_topped_up_before_it_runs_dry():
    scheduler = make_scheduler(a="n")
    submit(scheduler, "x", range(100), expected_s=0.01)
    (batch,) = assign_idle(scheduler).values()
    assert scheduler.load_s("a") == pytest.approx(0.01 * len(batch))
    if scheduler.load_s("a") >= TOP_UP_BELOW_S:
        assert scheduler.next_batch("a", True) == []
    for number in batch:
        if scheduler.load_s("a") < TOP_UP_BELOW_S:
            break
        scheduler.done("a", number, 0.01)
    assert scheduler.busy("a")
    assert scheduler.next_batch("a", True)


def test_a_lost_task_travels_alone():
    scheduler = make_scheduler(a="n", b="n")
    submit(scheduler, "x", range(8))
    submit(scheduler, "x", [100], expected_s=0.01, losses=1)
    given = assign_idle(scheduler)
    (alone,) = [host for host, numbers in given.items() if 100 in numbers]
    assert given[alone] == [100]
    assert scheduler.next_batch(alone, True) == []
    finish(scheduler, alone)
    assert 100 not in [work.number for work in scheduler.next_batch(alone, True)]


def test_a_host_at_work_runs_dry_for_a_lost_task():
    scheduler = make_scheduler(a="n")
    submit(scheduler, "x", range(4), expected_s=0.01)
    assign_idle(scheduler)
    submit(scheduler, "x", [100], losses=1)
    assert scheduler.next_batch("a", True) == []
    finish(scheduler, "a", 0.01)
    assert assign_idle(scheduler) == {"a": [100]}


def test_a_host_that_leaves_hands_back_what_it_had():
    scheduler = make_scheduler(a="n", b="n")
    submit(scheduler, "x", range(6), share="s")
    (had,) = (numbers for host, numbers in assign_idle(scheduler, spread=False).items() if host == "a")
    served = scheduler.queue._shares["s"].served
    assert served == pytest.approx(len(had))
    assert [work.number for work in scheduler.leave("a")] == had
    assert scheduler.queue._shares["s"].served == pytest.approx(0.0)
    assert scheduler.running == 0
    assert scheduler.idle == 1
    assert not scheduler._at
    assert scheduler.leave("a") == []


def test_what_a_lost_host_had_is_not_lost_again_with_its_node():
    scheduler = make_scheduler(a="n1", b="n1", c="n1")
    submit(scheduler, "x", [0])
    (host,) = assign_idle(scheduler)
    (work,) = scheduler.leave(host)
    work.losses += 1
    scheduler.submit(work)
    assert assign_idle(scheduler) == {}  # the others of the node may be gone as well
    submit(scheduler, "x", [1])
    assert list(assign_idle(scheduler).values()) == [[1]]
    scheduler.join("elsewhere", "n2")
    assert assign_idle(scheduler) == {"elsewhere": [0]}
    (work,) = scheduler.leave("elsewhere")
    scheduler.submit(work)
    assert list(assign_idle(scheduler).values()) == [[0]]  # of the first node
    (host,) = (host for host, load in scheduler._hosts.items() if 0 in load.tasks)
    (work,) = scheduler.leave(host)
    scheduler.submit(work)
    assert assign_idle(scheduler) == {}
    scheduler.join("new", "n1")
    assert assign_idle(scheduler) == {"new": [0]}


def test_what_a_host_gives_back_was_never_charged():
    scheduler = make_scheduler(a="n")
    submit(scheduler, "x", [0, 1], expected_s=0.2, share="s")
    (numbers,) = assign_idle(scheduler).values()
    work = scheduler.give_back("a", numbers[0])
    assert work.number == numbers[0]
    assert work.charged_s == 0.0
    assert scheduler.queue._shares["s"].served == pytest.approx(0.2 * (len(numbers) - 1))


def test_hosts_of_a_node_where_an_engine_cannot_be_built_get_none_of_it():
    scheduler = make_scheduler(a="bad", b="good")
    scheduler.exclude("x", "bad")
    submit(scheduler, "x", range(40))
    assert set(assign_idle(scheduler)) == {"b"}
    assert scheduler.idle == 1
    submit(scheduler, "y", [100])
    assert assign_idle(scheduler) == {"a": [100]}
    scheduler.forget("x")
    assert scheduler._unbuilt_on == {}


def test_a_lost_task_waits_for_a_node_that_can_build_its_engine():
    scheduler = make_scheduler(a="bad", b="good")
    scheduler.exclude("x", "bad")
    submit(scheduler, "x", [100], losses=1)
    submit(scheduler, "y", [0])
    assert assign_idle(scheduler) == {"b": [100], "a": [0]}


def test_an_engine_that_is_forgotten_is_held_by_nobody():
    scheduler = make_scheduler(a="n", b="n")
    submit(scheduler, "x", [0])
    (host,) = assign_idle(scheduler)
    finish(scheduler, host)
    scheduler.forget("x")
    assert scheduler._hosts[host].held == []
    assert scheduler._idle_holders == {}
    submit(scheduler, "x", [1])
    assert sum(assign_idle(scheduler).values(), []) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_the_books_balance_whatever_happens(seed):
    """Hosts come, go, get stuck and give back; every task is done once."""
    draw = random.Random(seed)
    scheduler = make_scheduler(**{f"h{i}": f"n{i % 3}" for i in range(4)})
    scheduler.exclude("e1", "n1")
    left, done, hosts, came = set(range(300)), [], [f"h{i}" for i in range(4)], 4
    waiting = list(left)
    while left:
        for number in [waiting.pop() for _ in range(min(len(waiting), draw.randrange(40)))]:
            submit(scheduler, f"e{draw.randrange(4)}", [number], draw.choice([None, 0.1, 3.0]), share=f"s{number % 2}")
        for host, _ in scheduler.assign_idle(draw.random() < 0.5):
            assert scheduler.busy(host)
        for host in hosts:
            scheduler.next_batch(host, True)
            for work, _ in list(scheduler._hosts[host].tasks.values()):
                assert (host, work.task.engine.key) != ("h1", "e1")
                deed = draw.random()
                if deed < 0.5:
                    scheduler.done(host, work.number, draw.random())
                    done.append(work.number)
                    left.discard(work.number)
                elif deed < 0.6:
                    scheduler.submit(scheduler.give_back(host, work.number))
            scheduler.set_stuck(host, draw.random() < 0.1)
        if draw.random() < 0.2:
            gone = hosts.pop(draw.randrange(len(hosts)))
            for work in scheduler.leave(gone):
                work.losses += 1
                scheduler.submit(work)
            hosts.append(f"h{came}")
            scheduler.join(hosts[-1], "n0")
            came += 1
        assert scheduler.running == sum(len(scheduler.tasks(host)) for host in hosts)
        assert scheduler.idle == sum(not scheduler.busy(host) for host in hosts)
        counted = [host for host in hosts if scheduler.busy(host) and not scheduler._hosts[host].stuck]
        assert sum(scheduler._at.values()) == len(counted)
        for engine, holders in scheduler._idle_holders.items():
            assert set(holders) == {h for h in hosts if not scheduler.busy(h) and engine in scheduler._hosts[h].held}
    assert sorted(done) == list(range(300))
    assert scheduler.waiting == scheduler.running == 0
    assert sum(share.waiting for share in scheduler.queue._shares.values()) == 0
