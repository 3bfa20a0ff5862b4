"""What a host does with evaluations that hang, crash, or eat all memory. No Ray here."""

import itertools
import logging
import os
import pickle
import signal
import time
from dataclasses import replace

import psutil
import pytest

from neurofleet.cluster.pool import child_processes
from neurofleet.cluster.pool.host_worker import Assignment, HostWorker
from tests.cluster.engines import spec

DEADLINE_S = 0.4


class CollectingWorker:
    """A host worker whose tasks are numbered and whose outcomes are collected."""

    def __init__(self, memory_limit_mb=256, build_limit_s=30.0):
        self.host_worker = HostWorker(memory_limit_mb, build_limit_s)
        self._numbers = itertools.count()
        self._batches = itertools.count()
        self.returned = []
        self.unbuilt = {}

    def add(self, key="plain", **payload):
        engine = spec(key, **payload)
        self.host_worker.add_engine(key, lambda: (engine.factory, pickle.dumps(engine.payload)))

    def batch(self, individuals, key="plain", deadline_s=DEADLINE_S, expected_s=1.0):
        number = next(self._batches)
        return [
            Assignment(next(self._numbers), number, key, individual, deadline_s, expected_s)
            for individual in individuals
        ]

    def evaluate(self, individuals, key="plain", deadline_s=DEADLINE_S, timeout_s=30.0, during=None):
        """The outcomes of one batch, in its order; None for tasks that were given back."""
        # So long that a machine that is busy does not have the waiting tasks given back.
        assignments = self.batch(individuals, key, deadline_s, expected_s=10.0)
        report = self.host_worker.exchange(assignments, 0.0)
        if during is not None:
            during()
        outcomes, returned = dict(report.outcomes), list(report.returned)
        give_up = time.monotonic() + timeout_s
        while len(outcomes) + len(returned) < len(assignments) and time.monotonic() < give_up:
            report = self.host_worker.exchange([], 0.5)
            outcomes.update(report.outcomes)
            returned += report.returned
            self.unbuilt = report.unbuilt
        assert len(outcomes) + len(returned) == len(assignments), "tasks went missing"
        return [outcomes.get(assignment.number) for assignment in assignments]


@pytest.fixture
def worker():
    worker = CollectingWorker()
    worker.add()
    yield worker
    worker.host_worker.close()
    assert not engine_processes()


def engine_processes():
    """The worker's engine processes; other tests may have left this process a Ray of its own."""
    return [
        child
        for child in psutil.Process().children()
        if "neurofleet.cluster.pool.child_processes" in str(child.cmdline())
    ]


def the_engine_process():
    return engine_processes()[0]


def wait_for(condition, timeout_s=10.0):
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if value := condition():
            return value
        time.sleep(0.005)
    pytest.fail("waited in vain")


def the_child():
    return wait_for(lambda: engine_processes() and the_engine_process().children())[0]


FATES = {
    "hang": ("timeout", "no result within 0.4 s"),
    "stop itself": ("lost", "its process was stopped by a signal"),
    "print": ("timeout", "no result within 0.4 s"),
    "clock": ("timeout", "no result within 0.4 s"),
    "give up": ("timeout", "more than 1000 steps"),
    "segfault": ("crash", "was ended by SIGSEGV"),
    "abort": ("crash", "was ended by SIGABRT"),
    "exit": ("crash", "exited with code 3"),
    "exit quietly": ("crash", "exited with code 0"),
    "last words": ("crash", "was ended by SIGABRT; it said: hoc: the end is near"),
    "close its pipes": ("crash", "closed its pipe and went on"),
    "memory": ("error", "MemoryError: more than 256 MB"),
    "raise": ("error", "KeyError: 'no such section' (engines.py:"),
    "system exit": ("error", "SystemExit: "),
    "unpicklable": ("error", "TypeError: cannot pickle"),
    "nothing": ("error", "the engine yielded no value"),
    "kill itself": ("lost", "its process was ended by SIGKILL"),
    "interrupt itself": ("lost", "its process was ended by SIGINT"),
    "alarm itself": ("lost", "its process was ended by SIGALRM"),
    "kill the engine process": ("lost", "its engine process was ended by SIGKILL"),
}


@pytest.mark.parametrize("deed", FATES)
def test_every_fate_is_an_outcome_and_the_next_evaluation_goes_on(worker, deed):
    first, bad, last = worker.evaluate([3.0, deed, 4.0], deadline_s=DEADLINE_S if deed != "memory" else 10.0)
    status, reason = FATES[deed]
    assert bad.status == status
    assert bad.reason.startswith(reason)
    assert bad.value is None
    assert (first.status, first.value) == ("ok", 9.0)
    assert (last.status, last.value) == ("ok", 16.0)


def test_a_deadline_is_kept_on_time(worker):
    [outcome] = worker.evaluate(["hang"], deadline_s=1.0)
    assert 1.0 <= outcome.seconds < 2.0


def test_the_engine_is_built_once_whatever_its_children_do(worker, tmp_path):
    log = tmp_path / "builds"
    worker.add("logged", build_log=str(log))
    outcomes = worker.evaluate([1.0, "hang", 2.0, "segfault", 3.0, "memory", "exit", 4.0], "logged", deadline_s=2.0)
    assert [outcome.value for outcome in outcomes if outcome.ok] == [1.0, 4.0, 9.0, 16.0]
    assert len(log.read_text().split()) == 1


def test_each_individual_meets_the_engine_as_it_was_built(worker):
    outcomes = worker.evaluate(["how many", 2.0, "how many", "how many"])
    assert [outcome.value for outcome in outcomes] == [1, 4.0, 1, 1]


def test_a_killed_child_is_lost_and_the_rest_goes_on(worker):
    outcomes = worker.evaluate(["hang", 3.0], deadline_s=20.0, during=lambda: the_child().send_signal(signal.SIGKILL))
    assert outcomes[0].status == "lost"
    assert outcomes[1].value == 9.0


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_crash_that_does_not_happen_again_came_from_outside(worker, name):
    signals = [signal.Signals[name]]
    outcomes = worker.evaluate(["hang", 3.0], deadline_s=2.0, during=lambda: the_child().send_signal(signals.pop()))
    assert (outcomes[0].status, outcomes[0].reason) == ("timeout", "no result within 2 s")
    assert outcomes[1].value == 9.0


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_stopped_child_is_lost_at_its_deadline_and_not_slow(worker, goes_on):
    def stop():
        child = the_child()
        child.suspend()
        if goes_on:
            wait_for(lambda: child.status() == psutil.STATUS_STOPPED)
            child.resume()

    outcomes = worker.evaluate(["hang", 3.0], deadline_s=1.0, during=stop)
    assert (outcomes[0].status, outcomes[0].reason) == ("lost", "its process was stopped by a signal")
    assert outcomes[1].value == 9.0


def test_a_child_that_was_stopped_and_is_done_in_time_counts(worker):
    worker.add("slow", pause_s=1.0)

    seen = []

    def stop():
        child = the_child()
        child.suspend()
        time.sleep(1.5)
        seen.append(child.status())
        child.resume()

    [outcome] = worker.evaluate([3.0], "slow", deadline_s=20.0, during=stop)
    assert seen == [psutil.STATUS_STOPPED]
    assert outcome.value == 9.0


def test_a_killed_engine_process_takes_its_child_along_and_is_built_anew(worker):
    seen = []

    def kill():
        seen.append(the_child())
        the_engine_process().kill()

    outcomes = worker.evaluate(["hang", 3.0], deadline_s=20.0, during=kill)
    assert (outcomes[0].status, outcomes[0].reason) == ("lost", "its engine process was ended by SIGKILL")
    assert outcomes[1].value == 9.0
    wait_for(lambda: not seen[0].is_running())


def test_a_stopped_engine_process_is_replaced(worker, monkeypatch):
    monkeypatch.setattr(child_processes, "SILENCE_S", 0.5)
    worker.evaluate([1.0])
    wait_for(lambda: not the_engine_process().children())
    the_engine_process().suspend()
    outcomes = worker.evaluate([2.0, 3.0])
    assert (outcomes[0].status, outcomes[0].reason) == ("lost", "its engine process stopped answering")
    assert outcomes[1].value == 9.0


def test_what_an_evaluation_started_ends_with_it(worker):
    def grandchildren():
        return [p for p in psutil.process_iter(["cmdline"]) if "# grandchild" in str(p.info["cmdline"])]

    [outcome] = worker.evaluate(["grandchild"])
    assert outcome.ok
    worker.evaluate([1.0])
    assert not grandchildren()


def test_an_engine_that_cannot_be_built_says_why_and_is_tried_once(worker, tmp_path):
    worker.add("bad", fail=True, build_log=str(tmp_path / "builds"))
    assert worker.evaluate([1.0, 2.0], "bad") == [None, None]
    assert worker.evaluate([1.0], "bad") == [None]
    assert worker.unbuilt["bad"].startswith("RuntimeError: the morphology has no soma (engines.py:")
    assert "Traceback" in worker.unbuilt["bad"] or "File" in worker.unbuilt["bad"]
    assert len((tmp_path / "builds").read_text().split()) == 1
    [outcome] = worker.evaluate([3.0])
    assert outcome.value == 9.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGSEGV, signal.SIGSTOP])
def test_an_engine_whose_build_a_signal_ends_or_stops_is_built_again(tmp_path, number):
    worker = CollectingWorker(build_limit_s=3.0 if number == signal.SIGSTOP else 30.0)
    worker.add(signal=number, mark=str(tmp_path / "mark"))
    (outcome,) = worker.evaluate([3.0])
    assert (outcome.status, outcome.value) == ("ok", 9.0)
    worker.host_worker.close()


def test_an_engine_that_crashes_while_it_is_built_is_given_up(worker):
    worker.add("fatal", segfault=True)
    assert worker.evaluate([1.0], "fatal") == [None]
    assert worker.unbuilt["fatal"] == "while it was built, its engine process was ended by SIGSEGV"


def test_an_engine_that_is_never_built_is_given_up(tmp_path):
    worker = CollectingWorker(build_limit_s=0.7)
    worker.add("slow", hang=True)
    try:
        assert worker.evaluate([1.0], "slow") == [None]
        assert worker.unbuilt == {"slow": "not built within 0.7 s"}
    finally:
        worker.host_worker.close()


def test_the_last_two_engines_are_kept(worker, tmp_path):
    logs = {key: tmp_path / key for key in "abc"}
    for key, log in logs.items():
        worker.add(key, build_log=str(log))
    for key in "ababcba":
        worker.evaluate([1.0], key)
    assert {key: len(log.read_text().split()) for key, log in logs.items()} == {"a": 2, "b": 1, "c": 1}


def test_an_engine_that_takes_batches_gets_them_whole(worker):
    worker.add("together", kind="together")
    outcomes = worker.evaluate([1.0, 2.0, 3.0], "together")
    assert [outcome.value for outcome in outcomes] == [(1.0, 3), (4.0, 3), (9.0, 3)]


def test_one_of_a_batch_that_has_no_value_is_an_error_and_the_batch_goes_on(worker):
    worker.add("together", kind="together")
    outcomes = worker.evaluate(["fail", 2.0, "fail", 3.0], "together")
    assert [outcome.status for outcome in outcomes] == ["error", "ok", "error", "ok"]
    assert [outcome.reason for outcome in outcomes] == ["ran away", "", "ran away", ""]
    assert [outcome.value for outcome in outcomes] == [None, (4.0, 4), None, (9.0, 4)]


def test_the_time_of_a_batch_is_shared_equally(worker):
    worker.add("together", kind="together", pause_s=0.2)
    outcomes = worker.evaluate([1.0, 2.0, 3.0], "together", deadline_s=20.0)
    assert [outcome.seconds for outcome in outcomes] == pytest.approx([0.2] * 3, rel=0.25)
    worker.add("streaming", kind="streaming", pause_s=0.2)  # the first value took the time of one only
    outcomes = worker.evaluate([1.0, 2.0, 3.0], "streaming", deadline_s=20.0)
    assert sum(outcome.seconds for outcome in outcomes) == pytest.approx(0.6, rel=0.25)


def test_a_batch_is_expected_to_take_as_long_as_all_of_it(worker, monkeypatch):
    monkeypatch.setattr("neurofleet.cluster.pool.host_worker.STUCK_AFTER_S", 0.1)
    worker.add("together", kind="together", pause_s=0.25)
    worker.evaluate([1.0], "together", deadline_s=20.0)
    assignments = worker.batch([1.0, 2.0, 3.0], "together", deadline_s=20.0, expected_s=0.25)
    waiting = worker.batch([4.0], "together", deadline_s=20.0)
    report = worker.host_worker.exchange(assignments + waiting, 0.6)
    assert not report.stuck
    assert report.returned == []


@pytest.mark.parametrize("deed", ["hang", "segfault", "exit"])
def test_a_batch_that_fails_as_one_is_finished_one_by_one(worker, deed):
    worker.add("together", kind="together")
    worker.evaluate([1.0], "together", deadline_s=20.0)  # what waits while an engine is built is given back
    deadline_s = DEADLINE_S if deed == "hang" else 20.0  # a crash takes its time on a busy machine
    outcomes = worker.evaluate([1.0, 2.0, deed, 3.0], "together", deadline_s)
    assert [outcome.status for outcome in outcomes] == ["ok", "ok", FATES[deed][0], "ok"]
    assert outcomes[2].reason == FATES[deed][1]
    assert outcomes[3].value == (9.0, 1)


def test_a_batch_streams_and_an_error_in_it_is_one_individuals(worker):
    worker.add("streaming", kind="streaming")
    outcomes = worker.evaluate([1.0, "how many", "raise", 3.0, "how many"], "streaming")
    assert [outcome.status for outcome in outcomes] == ["ok", "ok", "error", "ok", "ok"]
    assert outcomes[1].value == 2


def test_waiting_tasks_are_given_back_when_one_takes_long(worker, monkeypatch):
    monkeypatch.setattr("neurofleet.cluster.pool.host_worker.STUCK_AFTER_S", 0.3)
    worker.evaluate([1.0])
    assignments = worker.batch(["hang", 1.0, 2.0], deadline_s=1.5, expected_s=0.01)
    report = worker.host_worker.exchange(assignments, 0.6)
    assert report.stuck
    assert report.returned == [assignment.number for assignment in assignments[1:]]
    give_up = time.monotonic() + 10
    while not report.outcomes and time.monotonic() < give_up:
        report = worker.host_worker.exchange([], 0.5)
    assert [outcome.status for _, outcome in report.outcomes] == ["timeout"]
    assert not report.stuck


def test_outcomes_do_not_wait_for_a_hung_batch_mate(worker):
    worker.evaluate([1.0])
    assignments = worker.batch([1.0, 2.0, "hang"], deadline_s=60.0, expected_s=60.0)
    outcomes = list(worker.host_worker.exchange(assignments, 3.0).outcomes)
    give_up = time.monotonic() + 30
    while len(outcomes) < 2 and time.monotonic() < give_up:
        outcomes += worker.host_worker.exchange([], 0.5).outcomes
    assert [number for number, _ in outcomes] == [a.number for a in assignments[:2]]


def test_a_child_leaves_no_core_and_has_no_thread_but_one(worker):
    worker.evaluate(["segfault"])
    assert not [name for name in os.listdir(".") if name.startswith("core")]
    assert the_engine_process().num_threads() == 1


def test_a_late_but_finished_evaluation_counts(worker):
    """An engine that notices its deadline itself has a moment to say so."""
    [outcome] = worker.evaluate(["clock"], deadline_s=0.2)
    assert outcome.status == "timeout"
    assert outcome.seconds < 0.2 + child_processes.GRACE_S


def test_the_log_says_which_fit_went_wrong_and_what_its_engine_printed(worker, caplog):
    about = {"cell": "C1", "generation": 7}
    assignments = [replace(assignment, about=about) for assignment in worker.batch([2.0, "last words"])]
    with caplog.at_level(logging.INFO, "neurofleet.cluster.pool.hosts"):
        report = worker.host_worker.exchange(assignments, 20.0)
        while len(report.outcomes) < 2:
            report.outcomes.extend(worker.host_worker.exchange([], 20.0).outcomes)
    built, crashed = caplog.records
    assert built.message == "engine built"
    assert crashed.message == "evaluation ended as crash"
    assert crashed.fields["printed"] == "first\nhoc: the end is near"
    assert about.items() <= crashed.fields.items()
