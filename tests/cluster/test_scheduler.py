"""What each host does next."""

import random

import pytest

from neurofleet.cluster.pool.outcome import EvaluationTask
from neurofleet.cluster.pool.schedule import HELP_WORTH, TOP_UP_BELOW_S, Scheduler, Work
from tests.cluster.engines import spec

BUILD_S = 1.0


def scheduler(**hosts):
    """A scheduler with hosts by name, each on a node; every engine takes a second to build."""
    made = Scheduler()
    made.queue.record_build("any", BUILD_S)
    for host, node in hosts.items():
        made.join(host, node)
    return made


def submit(made, engine, numbers, expected_s=1.0, losses=0, **task):
    for number in numbers:
        made.submit(Work(number, EvaluationTask(number, spec(engine), 0.0, 10.0, expected_s, **task), losses))


def feed(made, spread=True):
    """Host -> the numbers that it is given."""
    given = {}
    for host, batch in made.feed(spread):
        given.setdefault(host, []).extend(work.number for work in batch)
    return given


def finish(made, host, seconds=1.0):
    """The host ends all that it has."""
    for number in [work.number for work, _ in made._hosts[host].tasks.values()]:
        made.done(host, number, seconds)


def test_hosts_that_hold_an_engine_get_its_tasks_first():
    made = scheduler(a="n1", b="n1", c="n2")
    submit(made, "x", [0])
    submit(made, "y", [1])
    submit(made, "z", [2])
    held = {numbers[0]: host for host, numbers in feed(made).items()}
    assert len(held) == 3
    for host in "abc":
        finish(made, host)
    submit(made, "z", [12])
    submit(made, "x", [10])
    assert feed(made) == {held[2]: [12], held[0]: [10]}


def test_a_host_keeps_two_engines():
    made = scheduler(a="n")
    for number, engine in enumerate("xyz"):
        submit(made, engine, [number])
        assert feed(made) == {"a": [number]}
        finish(made, "a")
    assert made._hosts["a"].held == ["y", "z"]
    assert set(made._idle_holders) == {"y", "z"}


def test_a_further_host_is_spread_to_as_soon_as_it_pays_or_only_for_a_longer_stay():
    def fed(spread, tasks):
        made = scheduler(a="n", b="n")
        submit(made, "x", range(tasks))
        return set(feed(made, spread))

    few, many = 4, round(HELP_WORTH * BUILD_S) + 3
    assert fed(True, few) == {"a", "b"}
    assert fed(False, few) == {"a"}
    assert fed(False, many) == {"a", "b"}


def test_an_engine_without_a_host_is_taken_whatever_it_pays():
    made = scheduler(a="n", b="n")
    submit(made, "x", [0], expected_s=0.001)
    submit(made, "y", [1], expected_s=0.001)
    assert len(feed(made, spread=False)) == 2


def test_hosts_at_something_stuck_are_not_counted_on():
    made = scheduler(a="n", b="n")
    submit(made, "x", [0, 1])
    assert len(feed(made, spread=False)) == 1
    made.set_stuck("a", True)
    assert made.next_batch("a", False) == [], "nothing is queued behind what is stuck"
    assert feed(made, spread=False) == {"b": [1]}
    made.set_stuck("a", False)
    assert made._at == {"x": 2}
    for host in "ab":
        finish(made, host)
    assert not made._at


def test_a_host_is_topped_up_before_it_runs_dry():
    made = scheduler(a="n")
    submit(made, "x", range(100), expected_s=0.01)
    (batch,) = feed(made).values()
    assert made.load_s("a") == pytest.approx(0.01 * len(batch))
    if made.load_s("a") >= TOP_UP_BELOW_S:
        assert made.next_batch("a", True) == []
    for number in batch:
        if made.load_s("a") < TOP_UP_BELOW_S:
            break
        made.done("a", number, 0.01)
    assert made.busy("a")
    assert made.next_batch("a", True)


def test_a_lost_task_travels_alone():
    made = scheduler(a="n", b="n")
    submit(made, "x", range(8))
    submit(made, "x", [100], expected_s=0.01, losses=1)
    given = feed(made)
    (alone,) = [host for host, numbers in given.items() if 100 in numbers]
    assert given[alone] == [100]
    assert made.next_batch(alone, True) == []
    finish(made, alone)
    assert 100 not in [work.number for work in made.next_batch(alone, True)]


def test_a_host_at_work_runs_dry_for_a_lost_task():
    made = scheduler(a="n")
    submit(made, "x", range(4), expected_s=0.01)
    feed(made)
    submit(made, "x", [100], losses=1)
    assert made.next_batch("a", True) == []
    finish(made, "a", 0.01)
    assert feed(made) == {"a": [100]}


def test_a_host_that_leaves_hands_back_what_it_had():
    made = scheduler(a="n", b="n")
    submit(made, "x", range(6), share="s")
    (had,) = (numbers for host, numbers in feed(made, spread=False).items() if host == "a")
    served = made.queue._shares["s"].served
    assert served == pytest.approx(len(had))
    assert [work.number for work in made.leave("a")] == had
    assert made.queue._shares["s"].served == pytest.approx(0.0)
    assert made.running == 0
    assert made.idle == 1
    assert not made._at
    assert made.leave("a") == []


def test_what_a_host_gives_back_was_never_charged():
    made = scheduler(a="n")
    submit(made, "x", [0, 1], expected_s=0.2, share="s")
    (numbers,) = feed(made).values()
    work = made.give_back("a", numbers[0])
    assert work.number == numbers[0]
    assert work.charged_s == 0.0
    assert made.queue._shares["s"].served == pytest.approx(0.2 * (len(numbers) - 1))


def test_hosts_of_a_node_where_an_engine_cannot_be_built_get_none_of_it():
    made = scheduler(a="bad", b="good")
    made.bar("x", "bad")
    submit(made, "x", range(40))
    assert set(feed(made)) == {"b"}
    assert made.idle == 1
    submit(made, "y", [100])
    assert feed(made) == {"a": [100]}
    made.forget("x")
    assert made._unbuilt_on == {}


def test_a_lost_task_waits_for_a_node_that_can_build_its_engine():
    made = scheduler(a="bad", b="good")
    made.bar("x", "bad")
    submit(made, "x", [100], losses=1)
    submit(made, "y", [0])
    assert feed(made) == {"b": [100], "a": [0]}


def test_an_engine_that_is_forgotten_is_held_by_nobody():
    made = scheduler(a="n", b="n")
    submit(made, "x", [0])
    (host,) = feed(made)
    finish(made, host)
    made.forget("x")
    assert made._hosts[host].held == []
    assert made._idle_holders == {}
    submit(made, "x", [1])
    assert sum(feed(made).values(), []) == [1]


@pytest.mark.parametrize("seed", range(20))
def test_the_books_balance_whatever_happens(seed):
    """Hosts come, go, get stuck and give back; every task is done once."""
    draw = random.Random(seed)
    made = scheduler(**{f"h{i}": f"n{i % 3}" for i in range(4)})
    made.bar("e1", "n1")
    left, done, hosts, came = set(range(300)), [], [f"h{i}" for i in range(4)], 4
    waiting = list(left)
    while left:
        for number in [waiting.pop() for _ in range(min(len(waiting), draw.randrange(40)))]:
            submit(made, f"e{draw.randrange(4)}", [number], draw.choice([None, 0.1, 3.0]), share=f"s{number % 2}")
        for host, _ in made.feed(draw.random() < 0.5):
            assert made.busy(host)
        for host in hosts:
            made.next_batch(host, True)
            for work, _ in list(made._hosts[host].tasks.values()):
                assert (host, work.task.engine.key) != ("h1", "e1")
                deed = draw.random()
                if deed < 0.5:
                    made.done(host, work.number, draw.random())
                    done.append(work.number)
                    left.discard(work.number)
                elif deed < 0.6:
                    made.submit(made.give_back(host, work.number))
            made.set_stuck(host, draw.random() < 0.1)
        if draw.random() < 0.2:
            gone = hosts.pop(draw.randrange(len(hosts)))
            for work in made.leave(gone):
                work.losses += 1
                made.submit(work)
            hosts.append(f"h{came}")
            made.join(hosts[-1], "n0")
            came += 1
        assert made.running == sum(len(made.tasks(host)) for host in hosts)
        assert made.idle == sum(not made.busy(host) for host in hosts)
        counted = [host for host in hosts if made.busy(host) and not made._hosts[host].stuck]
        assert sum(made._at.values()) == len(counted)
        for engine, holders in made._idle_holders.items():
            assert set(holders) == {h for h in hosts if not made.busy(h) and engine in made._hosts[h].held}
    assert sorted(done) == list(range(300))
    assert made.waiting == made.running == 0
    assert sum(share.waiting for share in made.queue._shares.values()) == 0
