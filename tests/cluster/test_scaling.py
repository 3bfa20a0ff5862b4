"""What a pool asks of a cluster that can grow, and that it lets go."""

import itertools

import numpy as np
import pytest

from neurofleet.cluster.pool import pool as pool_module
from neurofleet.cluster.pool.host_worker import HostReport
from neurofleet.cluster.pool.hosts import HostReady
from neurofleet.cluster.pool.outcome import EngineSpec, EvaluationTask, Outcome
from neurofleet.cluster.pool.scaling import LET_GO_AFTER_S, ClusterScaling


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class MadeHosts:
    """Hosts that answer at once, in this process, until they are told to keep silent."""

    def __init__(self) -> None:
        self.alive: set[int] = set()
        self.silent = False
        self._answers: list = []

    def start(self, host):
        self.alive.add(host)
        self._answers.append((host, HostReady("node", 1)))

    def send(self, host, message):
        outcomes = [(one.number, Outcome("ok", "", 0.1, one.individual)) for one in message.assignments]
        self._answers.append((host, HostReport(outcomes, [], {}, {}, 0.0, False)))

    def end(self, host):
        self.alive.discard(host)
        self._answers = [answer for answer in self._answers if answer[0] != host]

    def answers(self, timeout_s):
        if self.silent:
            return []
        answers, self._answers = self._answers, []
        return answers

    def may_have_answered(self, host):
        return True


@pytest.fixture
def scaled(monkeypatch):
    """A pool on a cluster of 8 CPUs that can grow, what it asked for, its hosts and its clock."""
    asked, clock, hosts = [], Clock(), MadeHosts()
    monkeypatch.setattr(pool_module.ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(pool_module.ray, "put", lambda content: content)
    monkeypatch.setattr(pool_module, "COUNT_CPUS_EVERY_S", 0.0)
    monkeypatch.setattr(pool_module, "CHECK_HOSTS_EVERY_S", 0.0)
    pool = pool_module.Pool(max_hosts=100)
    pool._scaling = ClusterScaling(100, asked.append, clock)
    pool._host_calls = hosts
    return pool, asked, hosts, clock


NUMBERS = itertools.count()


def task(lanes: int = 1) -> EvaluationTask:
    return EvaluationTask(next(NUMBERS), EngineSpec("made:engine", None, "made", lanes), np.zeros(2), 5.0)


def test_it_asks_for_as_many_hosts_as_have_work_and_for_none_at_the_end(scaled):
    pool, asked, hosts, _ = scaled
    with pool:
        assert asked == []
        for _ in range(48):
            pool.submit(task(lanes=16))
        pool.completed(0.0)
        assert asked == [3]
        pool.spread = False  # there are cells that were not opened yet
        pool.completed(0.0)
        assert asked == [3, 100]
    assert asked == [3, 100, 0]
    assert not hosts.alive


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_it_lets_go_whatever_ends_the_pool(scaled, error):
    pool, asked, _, _ = scaled

    def work():
        with pool:
            pool.submit(task())
            pool.completed(0.0)
            raise error

    with pytest.raises(error):
        work()
    assert asked == [1, 0]


def test_idle_hosts_end_when_they_have_had_no_work_for_a_while(scaled):
    pool, asked, hosts, clock = scaled
    with pool:
        for _ in range(20):
            pool.submit(task())
        hosts.silent = True
        pool.completed(0.0)
        assert asked == [20]
        assert len(hosts.alive) == 8
        hosts.silent = False
        while pool.statistics().outcomes.get("ok", 0) < 20:
            pool.completed(1.0)
        for _ in range(2):
            pool.submit(task())
        hosts.silent = True
        pool.completed(0.0)
        assert len(hosts.alive) == 8
        clock.now += LET_GO_AFTER_S
        pool.completed(0.0)
        assert asked == [20, 2]
        assert len(hosts.alive) == 2
        hosts.silent = False
        while pool.statistics().outcomes.get("ok", 0) < 22:
            pool.completed(1.0)


def test_a_cluster_that_cannot_be_asked_is_asked_again():
    answers = iter([RuntimeError("no answer"), None])
    asked = []

    def request(count):
        asked.append(count)
        if error := next(answers):
            raise error

    scaling = ClusterScaling(4, request, Clock())
    scaling.update(2)
    scaling.update(2)
    scaling.update(2)
    assert asked == [2, 2]


def test_without_max_hosts_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(pool_module.ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pool_module.Pool() as pool:
        assert pool._scaling is None
        assert pool.hosts == 2
