"""The state of a campaign: what its folder says of it, without the cluster."""

import io
import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from neurofleet.cluster.store.parts import Part
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.fit import campaign_progress
from neurofleet.jobs.fit.campaign_progress import CampaignReporter, Observer, core_seconds_left, stage_line
from neurofleet.jobs.fit.campaign_state import (
    STATUS,
    CampaignState,
    CellState,
    EngineChoice,
    StageState,
    ending_table,
    read_state,
    summary,
)
from neurofleet.jobs.fit.fit_run import error_of_unfinished
from neurofleet.jobs.fit.stage_search import SearchState
from neurofleet.jobs.status import print_status
from tests.jobs.made_run import write_run
from tests.jobs.test_campaign_cluster import CELL, RECIPE
from tests.jobs.test_fit import demo_input, neurofleet, write_job  # noqa: F401
from tests.jobs.test_fits import MadePreparation, MadeSubject, OwnPool, campaign, made_job  # noqa: F401

LITTLE = 0.0001


def stage(seed=1, evaluations=24, planned=96, best=12.5, phase="search", name="active"):
    return StageState(name, seed, phase, 3, evaluations, planned, best, best, {"ok": evaluations})


def cell(id, state="open", stages=(), reason="", total=None):
    done = sum(s.evaluations for s in stages)
    return CellState(id, state, reason, total, done, sum(s.planned for s in stages), list(stages))


STATE = CampaignState(
    run="rat",
    at=datetime.now(UTC).isoformat(timespec="seconds"),
    hosts=2,
    hosts_lost=1,
    utilisation=0.97,
    evaluations=48,
    planned=288,
    evaluations_per_s=4.0,
    core_hours=1.25,
    core_hours_left=6.2,
    seconds_left=60.0,
    max_core_hours=10.0,
    max_wall_hours=None,
    stopped="",
    cells=[
        cell("a", "finished", total=9.25),
        cell("b", "open", [stage(1), stage(2, best=None, evaluations=0)]),
        cell("c", "failed", reason="cell c: no soma"),
        cell("d", "waiting", [stage(1, 0, 96, None, "waiting")]),
    ],
)


def shown(out, as_json=False):
    console = Console(width=120, file=io.StringIO())
    print_status(str(out), as_json, console)
    return console.file.getvalue()


@pytest.fixture
def run(tmp_path):
    """A run folder in this state; return its store."""

    def write(state=STATE):
        store = RunStore(tmp_path / "run")
        with store.locked():
            store.write_text(STATUS, state.to_json())
        return store

    return write


def test_a_state_reads_back_as_it_was():
    assert CampaignState.from_json(STATE.to_json()) == STATE
    text = replace(STATE, core_hours_left=None, seconds_left=None).to_json()
    assert json.loads(text)["seconds_left"] is None


def test_a_run_that_rests_says_how_to_go_on(run):
    text = shown(run(replace(STATE, at=(datetime.now(UTC) - timedelta(hours=3)).isoformat())).root)
    assert "rat: 1 of 4 cells, 48 of 288 evaluations; the same command as before goes on with it" in text
    assert "no process is running it; as of 3 h 0 min ago" in text
    assert "2 hosts, 1 lost, utilisation 97%, 1.25 core-hours used" in text
    assert "of 10 allowed, about 6.2 left to do" in text
    assert "finished, 9.25" in text
    assert "1: 12.5 (3, 25%)" in text
    assert "2: …" in text
    assert "failed: cell c: no soma" in text


def test_engines_are_told_with_their_reasons_cells_alike_in_one_line(run):
    by_kernel = replace(stage(), engine="vector", engine_reason="16 at a time")
    fallback = replace(stage(), engine="neuron", engine_reason="no C++ compiler here.")
    cells = [cell("a", stages=[by_kernel] * 2), cell("b", stages=[by_kernel]), cell("c", stages=[fallback])]
    text = shown(run(replace(STATE, cells=cells)).root)
    assert "\ncells a, b, stage active: engine vector (16 at a time)\n" in text
    assert "\ncell c, stage active: engine neuron (no C++ compiler here)\n" in text


def test_the_state_of_an_older_run_is_read(run):
    store = run()
    older = json.loads(store.read_text(STATUS))
    for found in older["cells"]:
        for told in found["stages"]:
            del told["engine"], told["engine_reason"]
    assert CampaignState.from_json(json.dumps(older)) == STATE


def test_a_run_at_work_says_who_does_it_and_how_long_it_takes(run):
    store = run(replace(STATE, at=(datetime.now(UTC) - timedelta(seconds=90)).isoformat()))
    with store.locked():
        text = shown(store.root)
    assert "rat: 1 of 4 cells, 1 failed, 48 of 288 evaluations, 4.0/s, about 1 min 0 s left" in text
    assert "running: process" in text
    assert re.search(r"as of 1 min 3\d s ago", text)


def test_a_run_that_is_over_asks_for_nothing(run):
    cells = [cell("a", "finished", total=9.25), cell("c", "failed", reason="cell c: no soma")]
    text = shown(run(replace(STATE, cells=cells)).root)
    assert "1 of 2 cells" in text
    assert "goes on" not in text


def test_a_limit_that_was_reached_is_told(run):
    assert "stopped at max_core_hours: 10" in shown(run(replace(STATE, stopped="max_core_hours: 10")).root)


def test_of_many_cells_only_those_at_work_are_listed(run):
    cells = [cell(f"done{i}", "finished", total=1.0) for i in range(900)]
    cells += [cell(f"open{i}", "open", [stage()]) for i in range(3)]
    cells += [cell("late", "waiting")]
    text = shown(run(replace(STATE, cells=cells)).root)
    assert "open2" in text
    assert "done5" not in text
    assert "cells: 900 finished, 3 open, 1 waiting; all of them: --json" in text
    assert len(text.splitlines()) < 30


def test_json_is_the_whole_state(run, capsys):
    shown(run().root, as_json=True)
    assert CampaignState.from_json(capsys.readouterr().out) == STATE


def test_no_hosts_are_said(run, tmp_path):
    assert "4.0/s, about 1 min 0 s left" in summary(STATE)
    alone = replace(STATE, hosts=0, no_hosts_since="2026-03-01T10:20:30+00:00")
    assert "48 of 288 evaluations, no hosts since 2026-03-01 10:20:30 UTC, waiting" in summary(alone)
    assert CampaignState.from_json(alone.to_json()) == alone
    with run(alone).locked():
        assert "no hosts since 2026-03-01 10:20:30 UTC, waiting" in shown(tmp_path / "run")


def test_folders_without_a_state(tmp_path):
    with pytest.raises(UsageError, match="found no run. Give the folder that was named with --out"):
        print_status(str(tmp_path))
    with pytest.raises(UsageError, match="found no run"):
        print_status(str(tmp_path / "none"))
    write_run(tmp_path / "run")
    with pytest.raises(UsageError, match="found a run that has not begun its fits"):
        print_status(str(tmp_path / "run"))


# -- the state of a campaign at work


@pytest.fixture
def observed(campaign, tmp_path, monkeypatch):  # noqa: F811
    """Run a campaign and observe it; return the last state."""

    def run(cells, before=None, **job):
        fits, budget, pool = campaign(cells, **job)
        return observe(fits, cells, budget, before, job)

    def observe(fits, cells, budget=None, before=None, job=None):
        known = {"strategy", "evolution", "more"}
        spec = made_job(cells, **{key: value for key, value in (job or {}).items() if key in known})
        plans = {id: MadeSubject(id).stages for id in cells}

        class Pool:
            statistics = staticmethod(lambda: type("S", (), {"hosts": 2, "hosts_lost": 0, "utilisation": 0.5}))

        return Observer(spec, plans, fits, Pool(), lambda: budget.reached if budget else "", before).state()

    run.observe = observe
    return run


def test_the_loss_of_all_hosts_is_recorded(run, monkeypatch):
    monkeypatch.setattr(campaign_progress, "FIRST_HOSTS_S", 0.0)
    pool = SimpleNamespace(statistics=lambda: SimpleNamespace(hosts=hosts, hosts_lost=1, utilisation=0.5))
    fits = SimpleNamespace(finished={}, failed={}, states={}, open_cells=set(), core_seconds=0.0)
    observer = Observer(made_job(["a"]), {}, fits, pool, lambda: "")
    progress, metrics = SimpleNamespace(update=lambda state: None), SimpleNamespace(due=False)
    store = run()
    reporter = CampaignReporter(fits, pool, observer, progress, metrics, store)
    for hosts in (2, 0, 0, 1):
        reporter()
        told = json.loads(store.read_text(STATUS))["no_hosts_since"]
        assert bool(told) == (hosts == 0)
    assert [event["event"] for event in store.read_events()] == ["no hosts", "hosts again"]


def test_finished_and_failed_cells(observed):
    state = observed(["a", "bad", "c"], fail=lambda task: task.id[0][0] == "bad")
    assert [c.state for c in state.cells] == ["finished", "failed", "finished"]
    assert "more than half of the first generation failed" in state.cells[1].reason
    assert state.cells[0].evaluations == state.cells[0].planned > 200
    assert {s.stage for s in state.cells[0].stages} == {"passive", "active"}
    assert all(s.phase == "done" for s in state.cells[0].stages)
    assert state.cells[0].total == min(s.best for s in state.cells[0].stages if s.stage == "active")
    assert re.search(r"(?s)1 of 3 cells failed, 2 done:.*cell bad, stage passive", str(error_of_unfinished(state)))
    console = Console(width=200, file=io.StringIO())
    console.print(ending_table(state))
    assert "2 of 3 cells finished" in console.file.getvalue()


def test_a_limit_is_an_error_with_advice(observed):
    state = observed(["a", "b", "c"], more=f"max_core_hours: {100 / 3600}")
    assert state.stopped.startswith("max_core_hours: 0.02")
    assert {c.state for c in state.cells} == {"stopped", "waiting"}
    assert state.core_hours * 3600 == pytest.approx(100, rel=0.3)
    assert re.search("stopped at max_core_hours: .* Raise the limit in the job file", str(error_of_unfinished(state)))


def test_the_state_of_an_earlier_start_is_kept_for_cells_that_were_finished_in_it(observed, campaign):  # noqa: F811
    before = observed(["a", "b"])
    fits, _, _ = campaign(["a", "b"])
    after = observed.observe(fits, ["a", "b"], before=before)
    assert after.cells == before.cells


def test_a_cell_that_was_finished_after_the_last_snapshot_is_finished(observed, campaign):  # noqa: F811
    """The driver was killed between the end of a cell and the next snapshot."""
    state = observed(["a", "b"])
    late = [replace(c, state="open", total=None, evaluations=5) for c in state.cells]
    fits, _, _ = campaign(["a", "b"])
    for before in (replace(state, cells=late), None):
        after = observed.observe(fits, ["a", "b"], before=before)
        assert [c.state for c in after.cells] == ["finished", "finished"]
        assert [c.total for c in after.cells] == [c.total for c in state.cells]
        assert after.evaluations == state.evaluations


def test_patience_leaves_nothing_to_wait_for(observed):
    state = observed(["a"], evolution=", patience: 16")
    assert state.evaluations == state.planned


def test_what_is_left_is_a_first_estimate_until_every_stage_has_run_for_a_while():
    two = replace(STATE, cells=[cell("b", "open", [stage(name="ih"), stage(evaluations=0, phase="waiting")])])
    assert summary(two).endswith("first estimate: 1 min 0 s left")
    assert "unknown time left" in summary(replace(two, seconds_left=None))
    ran = replace(two, cells=[cell("b", "open", [stage(name="ih", phase="done"), stage(evaluations=200)])])
    assert summary(ran).endswith("about 1 min 0 s left")
    traces = replace(two, seconds_left=0.0, cells=[cell("b", "open", [stage(phase="done")])])
    assert summary(traces).endswith("simulating the best models again, to store their traces")
    assert summary(replace(traces, cells=[cell("b", "finished", [stage(phase="done")])])).endswith("all done")


def test_the_time_left_counts_finalists_by_what_they_cost():
    vector = EngineChoice("vector", "16 at a time")
    passive = SearchState("a", "passive", 1, 32, evaluated=32, seconds=64.0, finished=True)
    active = SearchState("a", "active", 1, 110, 10, evaluated=50, seconds=5.0, choice=vector)
    later = [SearchState("b", "passive", 1, 32), SearchState("b", "active", 1, 110, 10, choice=vector)]
    assert core_seconds_left([SearchState("a", "passive", 1, 32)], []) is None
    # 0.1 s of the vector engine; finalists as NEURON's other evaluations, while none of theirs is known
    left = 50 * 0.1 + 10 * 2.0 + 32 * 2.0 + 100 * 0.1 + 10 * 2.0
    assert core_seconds_left([passive, active], [passive, active, *later]) == pytest.approx(left)
    done = SearchState("c", "active", 1, 110, 10, 10, 70.0, evaluated=110, seconds=80.0, finished=True, choice=vector)
    left = 50 * 0.1 + 10 * 7.0 + 32 * 2.0 + 100 * 0.1 + 10 * 7.0
    assert core_seconds_left([passive, active, done], [active, *later, done]) == pytest.approx(left)
    ended_early = replace(active, phase="finalists", final_evaluated=4, final_seconds=28.0, evaluated=54, seconds=33.0)
    assert core_seconds_left([ended_early], [ended_early]) == pytest.approx(6 * 7.0)


def test_a_line_before_the_first_generation_has_no_empty_figures():
    waiting = replace(stage(best=None, evaluations=12), generation=0, outcomes={"ok": 12})
    told = stage_line(cell("a"), waiting)
    assert told == "a active seed 1 generation 0: 12 evaluations, timeouts 0"
    assert "best 12.5, median 12.5" in stage_line(cell("a"), stage())


def test_the_parts_of_a_run_are_one_campaign(tmp_path, capsys):
    store, states = RunStore(tmp_path), {}
    for number, name in ((1, "a"), (2, "b")):
        part = Part(number, 2)
        states[name] = replace(STATE, cells=[cell(name, "open", [stage()])], hosts=number, seconds_left=60.0 * number)
        store.write_text(part.file(STATUS), states[name].to_json())
    both = read_state(store)
    assert [one.cell for one in both.cells] == ["a", "b"]
    assert (both.hosts, both.seconds_left) == (3, 120.0)
    assert both.evaluations == sum(one.evaluations for one in both.cells)
    assert both.evaluations_per_s == pytest.approx(2 * STATE.evaluations_per_s)
    print_status(str(tmp_path), as_json=True)
    assert [one["cell"] for one in json.loads(capsys.readouterr().out)["cells"]] == ["a", "b"]


# -- from the command line


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_campaign_that_is_stopped_by_a_limit_and_goes_on(demo_input, tmp_path):  # noqa: F811
    (demo_input / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    evolution = {"seeds": [1], "offspring": 16, "evaluations": {"passive": 32, "leak": 32}}
    small = {"cells": [{"id": id} | CELL for id in ("one", "two")], "recipe": "small.yaml"}
    small |= {"evolution": evolution}
    out = tmp_path / "run"
    job = write_job(demo_input, "pair.yaml", max_core_hours=LITTLE, **small)
    stopped = neurofleet("run", job, "--out", out, "--cpus", 2)
    assert stopped.returncode == 1, stopped.stderr
    assert f"stopped at max_core_hours: {LITTLE}" in stopped.stderr
    assert "Raise the limit in the job file" in stopped.stderr
    told = neurofleet("status", out).stdout
    assert "goes on with it" in told
    assert f"stopped at max_core_hours: {LITTLE}" in told

    write_job(demo_input, "pair.yaml", max_core_hours=1, **small)
    process = neurofleet("run", job, "--out", out, "--cpus", 2, start=True)
    while process.poll() is None and "running: process" not in neurofleet("status", out).stdout:
        time.sleep(2.0)
    assert process.poll() is None, "it ended before it was seen at work"
    assert process.wait(timeout=200) == 0, process.stderr.read()
    told = neurofleet("status", out, "--json")
    state = CampaignState.from_json(told.stdout)
    assert [c.state for c in state.cells] == ["finished", "finished"]
    assert state.evaluations == state.planned
    store = RunStore(out)
    stored = sum(len(g) for key in store.stored() for g in store.read_generations(*key))
    assert state.evaluations == stored
    assert state.core_hours * 3600 == pytest.approx(sum(map(store.spent_seconds, ("one", "two"))), rel=0.01)
    begun = [event for event in store.read_events() if "learned_from" in event]
    assert [event["cell"] for event in begun].count("two") >= 1
    assert (set(begun[0]["learned_from"]), begun[0]["stage"]) == (set(), "leak")
