"""Many fits over one pool, on hosts that do not exist and on time that does not pass."""

import random
from collections import Counter

import pytest

from neurofleet.cluster.pool.outcome import EngineSpec, EvaluationTask, Outcome
from neurofleet.errors import JobError
from neurofleet.jobs.fit.campaign import Campaign
from tests.benchmarks.virtual_pool import VirtualPool

BUILD_S = 3.0


class Hosts(VirtualPool):
    """Takes note of what is handed in, withdrawn and forgotten."""

    def __init__(self, hosts, seconds=lambda task: task.individual, bad=0):
        super().__init__(hosts, seconds, BUILD_S)
        self.submitted, self.forgotten = [], []
        self._bad = bad
        for number in range(hosts - bad, hosts):
            self._scheduler.leave(number)
            self._scheduler.join(number, "bad")

    def submit(self, task):
        if self._bad:
            self._scheduler.exclude(task.engine.key, "bad")
        self.submitted.append(task.id)
        super().submit(task)

    def withdraw(self, engine):
        works = self._scheduler.queue.remove_engine(engine)
        self._ids.difference_update(work.task.id for work in works)
        return len(works)

    def forget(self, engine):
        assert not any(id[0][0] == engine for id in self._ids), "tasks of the engine are under way"
        self.forgotten.append(engine)
        super().forget(engine)


class Fit:
    """Generations of evaluations of given seconds, with a barrier after each; fails before `fails_at`."""

    finished = False

    def __init__(self, id, generations, fails_at=None, error=JobError):
        self.id = id
        self.generations = generations
        self.outcomes = Counter()
        self._fails_at = fails_at
        self._error = error
        self._number = -1
        self._left = 0

    @property
    def to_go(self):
        return sum(max(seconds) for seconds in self.generations[max(self._number, 0) :])

    def start(self):
        self._number += 1
        if self._number == self._fails_at:
            raise self._error(f"{self.id} at {self._number}")
        if self._number == len(self.generations):
            return []
        seconds = self.generations[self._number]
        self._left = len(seconds)
        engine = EngineSpec("none:none", None, self.id)
        return [EvaluationTask(((self.id, self._number), i), engine, s, 60.0) for i, s in enumerate(seconds)]

    def take(self, key, individual, outcome):
        self.outcomes[key, individual] += 1
        self._left -= 1
        return [] if self._left else self.start()


class Fits:
    """Opens fits; takes errors of the job, and none else."""

    def __init__(self, fits, unopened=(), slow=()):
        self.fits = {fit.id: fit for fit in fits}
        self.events = []
        self.aside = {}
        self.open_now = self.most_open = 0
        self._unopened = unopened
        self._slow = dict.fromkeys(slow, 3)

    def open(self, id, timeout_s):
        if self._slow.get(id, 0):
            self._slow[id] -= 1
            return None
        self.events.append(("open", id))
        if id in self._unopened:
            raise JobError("no soma")
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        return self.fits[id]

    def close(self, fit):
        self.open_now -= 1
        self.events.append(("close", fit.id))

    def set_aside(self, id, error):
        if not isinstance(error, JobError):
            return False
        self.open_now -= id not in self._unopened
        self.aside[id] = str(error)
        return True

    def opened(self):
        return [id for what, id in self.events if what == "open"]

    def closed(self):
        return [id for what, id in self.events if what == "close"]


def alike(n, generations=3, offspring=8, seconds=1.0):
    return [Fit(f"f{i}", [[seconds] * offspring] * generations) for i in range(n)]


def run(fits, pool, **changes):
    campaign = Campaign(list(fits.fits), fits, pool, **changes)
    campaign.run()
    assert not pool._ids, "tasks are under way"
    assert campaign.open == {}
    return campaign


def all_once(fit):
    return set(fit.outcomes.values()) <= {1} and len(fit.outcomes) == sum(map(len, fit.generations))


def test_fits_are_opened_in_order_and_end_about_in_order():
    fits = Fits(alike(20))
    run(fits, Hosts(4))
    assert fits.opened() == list(fits.fits)
    assert all(map(all_once, fits.fits.values()))
    places = [fits.closed().index(id) for id in fits.fits]
    assert all(abs(place - i) <= 3 for i, place in enumerate(places))


@pytest.mark.parametrize("hosts", [1, 2, 8])
def test_only_as_many_are_open_as_the_hosts_need(hosts):
    fits = Fits(alike(100))
    run(fits, Hosts(hosts))
    assert len(fits.closed()) == 100
    assert fits.most_open <= hosts + 1


def test_hosts_that_can_build_nothing_do_not_have_all_fits_opened():
    fits = Fits(alike(100))
    run(fits, Hosts(4, bad=2))
    assert len(fits.closed()) == 100
    assert fits.most_open <= 8


def test_no_host_is_idle_while_a_fit_waits_at_its_barrier():
    fits = Fits([Fit(f"f{i}", [[100.0] + [1.0] * 15] * 3) for i in range(6)])
    pool = Hosts(2)
    run(fits, pool)
    assert pool.utilisation > 0.9
    alone = Hosts(2)
    run(Fits([Fit("f0", [[100.0] + [1.0] * 15] * 3)]), alone)
    assert alone.utilisation < 0.65


def test_a_fit_that_is_not_prepared_yet_holds_up_nobody():
    fits = Fits(alike(4), slow=["f0", "f2"])
    run(fits, Hosts(2))
    assert fits.opened() == ["f0", "f1", "f2", "f3"]
    assert all(map(all_once, fits.fits.values()))


def test_a_fit_that_cannot_be_opened_is_set_aside():
    fits = Fits(alike(5), unopened=["f0", "f3"])
    run(fits, Hosts(2))
    assert fits.aside == {"f0": "no soma", "f3": "no soma"}
    assert sorted(fits.closed()) == ["f1", "f2", "f4"]


@pytest.mark.parametrize(("fails_at", "handed_in"), [(0, 0), (1, 64), (3, 192)])
def test_a_fit_that_fails_is_set_aside_and_others_go_on(fails_at, handed_in):
    others = alike(6)
    fits = Fits([others[0], Fit("bad", [[1.0] * 64] * 3, fails_at), *others[1:]])
    pool = Hosts(2)
    run(fits, pool)
    assert fits.aside == {"bad": f"bad at {fails_at}"}
    assert sorted(fits.closed()) == [fit.id for fit in others]
    assert all(map(all_once, others))
    assert sum(id[0][0] == "bad" for id in pool.submitted) == handed_in
    assert pool.forgotten.count("bad") == (handed_in > 0)


def test_the_tasks_of_a_fit_that_fails_are_withdrawn():
    class Hopeless(Fit):
        def take(self, key, individual, outcome):
            self.outcomes[key, individual] += 1
            raise JobError("more than half of the first generation failed")

    others, bad = alike(3), Hopeless("bad", [[1.0] * 64])
    fits = Fits([bad, *others])
    pool = Hosts(2)
    took = []
    run(fits, pool, on_outcome=took.append)
    assert fits.aside == {"bad": "more than half of the first generation failed"}
    assert bad.outcomes.total() == 1, "it is asked again after it was given up"
    of_bad = pool.done - 3 * 24
    assert 1 < of_bad < 8, "what hosts had is finished, the rest withdrawn"
    assert len(took) == pool.done
    assert all(map(all_once, others))
    assert pool.forgotten.count("bad") == 1


@pytest.mark.parametrize("fails_at", [0, 1])
def test_other_errors_end_the_campaign(fails_at):
    fits = Fits([*alike(2), Fit("bad", [[1.0] * 4], fails_at, ZeroDivisionError)])
    with pytest.raises(ZeroDivisionError, match="bad at"):
        run(fits, Hosts(2))
    assert fits.aside == {}


@pytest.mark.parametrize("evaluations", [1, 20, 70])
def test_at_a_limit_generations_under_way_are_finished_and_nothing_more_is_begun(evaluations):
    fits = Fits(alike(30))
    pool = Hosts(2)
    at_limit = []

    def took(outcome):
        if pool.done >= evaluations:
            at_limit.append(len(pool.submitted))

    campaign = run(fits, pool, may_go_on=lambda: pool.done < evaluations, on_outcome=took)
    assert campaign.stopped
    assert len(pool.submitted) == at_limit[0]
    assert pool.done == len(pool.submitted)
    assert all(len(fit.outcomes) % 8 == 0 for fit in fits.fits.values())
    assert fits.open_now == 0
    assert set(pool.forgotten) == set(fits.opened())


def test_a_limit_that_is_reached_with_the_last_evaluation_stops_nothing():
    fits = Fits(alike(2))
    pool = Hosts(2)
    campaign = run(fits, pool, may_go_on=lambda: pool.done < 48)
    assert not campaign.stopped
    assert len(fits.closed()) == 2


def test_engines_are_forgotten_once_at_the_end_of_each_fit():
    fits = Fits(alike(10))
    pool = Hosts(3)
    run(fits, pool)
    assert sorted(pool.forgotten) == sorted(fits.fits)
    assert not pool._scheduler._idle_holders


def test_fits_that_are_stored_whole_take_no_time():
    fits = Fits([Fit(f"f{i}", []) for i in range(50)])
    pool = Hosts(2)
    run(fits, pool)
    assert fits.closed() == list(fits.fits)
    assert pool.submitted == []


def test_without_fits_there_is_nothing_to_do():
    assert not run(Fits([]), Hosts(2)).stopped


@pytest.mark.parametrize("seed", range(12))
def test_every_task_has_exactly_one_outcome_whatever_happens(seed):
    draw = random.Random(seed)
    hosts = draw.choice([1, 2, 5, 16])
    made = []
    for i in range(draw.randrange(1, 40)):
        generations = [
            [draw.lognormvariate(0.0, 1.5) for _ in range(draw.randrange(1, 30))] for _ in range(draw.randrange(0, 5))
        ]
        fails_at = draw.randrange(5) if draw.random() < 0.2 else None
        made.append(Fit(f"f{i}", generations, fails_at))
    unopened = [fit.id for fit in made if draw.random() < 0.1]
    slow = [fit.id for fit in made if draw.random() < 0.2]
    fits = Fits(made, unopened, slow)
    pool = Hosts(hosts)
    took: list[Outcome] = []
    run(fits, pool, on_outcome=took.append)
    for fit in made:
        if fit.id in fits.aside:
            assert fit.id not in fits.closed()
        else:
            assert all_once(fit)
    assert set(fits.aside) | set(fits.closed()) == set(fits.fits)
    assert fits.opened() == list(fits.fits)
    assert len(took) == pool.done == len(pool.submitted) == len(set(pool.submitted))
    assert fits.open_now == 0
    assert pool._scheduler.running == pool._scheduler.waiting == 0
    assert pool._scheduler.idle == hosts
    assert +pool._scheduler._at == {}


def test_with_hosts_for_all_fits_those_with_most_to_go_are_served_first():
    handed_in = []

    class Recorder(Hosts):
        def submit(self, task):
            handed_in.append(task)
            super().submit(task)

    fits = [Fit("short", [[4.0] * 2] * 3), Fit("long", [[9.0] * 2] * 3)]
    Campaign(["short", "long"], Fits(fits), Recorder(8)).run()
    at_once = [task for task in handed_in if task.id[0][1] == 1]
    ranks = {task.id[0][0]: task.rank for task in at_once}
    assert ranks["long"] < ranks["short"] < 0


class FitWithMore(Fit):
    """Has all that it is for before its last generation, as a cell before its traces."""

    def start(self):
        self.finished = self._number + 2 == len(self.generations)
        return super().start()


def test_what_a_finished_fit_hands_out_is_done_though_the_budget_is_used_up():
    fits = Fits([FitWithMore("f0", [[1.0] * 8] * 3)])
    pool = Hosts(2)
    campaign = run(fits, pool, may_go_on=lambda: pool.done < 16)
    assert all_once(fits.fits["f0"])
    assert not campaign.stopped
    fits = Fits([Fit("f0", [[1.0] * 8] * 3)])
    pool = Hosts(2)
    assert run(fits, pool, may_go_on=lambda: pool.done < 16).stopped
