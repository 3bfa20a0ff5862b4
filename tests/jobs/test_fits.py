"""What the cells of a campaign learn from each other, and what a campaign may use."""

import itertools
import logging
import random
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from neurofleet.cluster.log_records import fields_of
from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.parts import WHOLE, Part
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError, JobError, UsageError
from neurofleet.jobs.fit.campaign import Budget, Campaign, Fits, finished_cells
from neurofleet.jobs.fit.fit_problem import Problem, StagePlan
from neurofleet.jobs.fit.generation_metrics import generations_logged
from neurofleet.jobs.fit.stage_search import Deadline, GenerationSearch, Limits
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.run_folder import start_or_resume
from neurofleet.neurosim.evolution import FastConfig, FastStrategy, PaperConfig
from neurofleet.neurosim.recordings.recording_table import RecordingTable, SweepRow

NAMES = ("cm.soma", "gbar_A.soma", "gbar_B.soma")
SECONDS = 0.5
JOB = """
name: made
evolution: {{strategy: {strategy}, seeds: [1, 2], hall_of_fame: 3{evolution}}}
cells:
{cells}
{more}
"""


def made_job(cells, strategy="fast", evolution="", more=""):
    rows = "\n".join(f"- {{id: {cell}, morphology: m.swc, recordings: r.nwb}}" for cell in cells)
    text = JOB.format(strategy=strategy, evolution=evolution, cells=rows, more=more)
    return parse_job(text, "job.yaml", "made")


class MadeSubject:
    """A cell whose models are only names: the best parameters of each differ a little."""

    warnings = ()
    recording_table = None

    def __init__(self, id, strategy="fast", kind="made", evaluations=96):
        self.id, self.kind = id, kind
        configured = FastConfig(evaluations=evaluations, offspring=8)
        search = configured if strategy == "fast" else PaperConfig(offspring=8, generations=3)
        self.stages = (StagePlan("passive", (1,), search), StagePlan("active", (1, 2), search))

    def problem(self, stage, winner):
        return Problem(NAMES, (0.5, 1e-4, 1e-4), (5.0, 1.0, 2.0), {}, ("width", "rate"), f"{self.id}{stage}", None)


class MadePreparation:
    """Has all subjects, except that some cannot be prepared."""

    def __init__(self, subjects, errors=None):
        self._subjects = {subject.id: subject for subject in subjects}
        self._errors = errors or {}

    def take(self, cell, timeout_s):
        if cell in self._errors:
            raise self._errors[cell]
        return self._subjects[cell]


class OwnPool:
    """Evaluates in this process, one task at a time in an order of its own; `fail` says which ones fail."""

    def __init__(self, order=0, stop_after=None, fail=lambda task: False):
        self.hosts, self.spread = 2, True
        self.done = 0
        self.first = {}
        self._random = random.Random(order)
        self._waiting = []
        self._stop_after = stop_after
        self._fail = fail

    @property
    def idle(self):
        return max(0, self.hosts - len(self._waiting))

    def submit(self, task):
        key = task.id[0]
        self.first.setdefault(key, []).append(np.array(task.individual))
        self._waiting.append(task)

    def completed(self, timeout_s):
        if not self._waiting:
            return []
        if self.done == self._stop_after:
            raise KeyboardInterrupt
        self.done += 1
        task = self._waiting.pop(self._random.randrange(len(self._waiting)))
        if self._fail(task):
            return [(task.id, Outcome("crash", "signal 11", SECONDS))]
        x = np.log(task.individual / [2.0, 0.1, 0.2])
        signed = np.array([x[0] + x[1], x.sum()])
        return [(task.id, Outcome("ok", "", SECONDS, np.array([[abs(x[0]) + abs(x[1]), abs(x).sum()], signed])))]

    def withdraw(self, engine):
        kept = [task for task in self._waiting if task.engine.key != engine]
        gone, self._waiting = len(self._waiting) - len(kept), kept
        return gone

    def forget(self, engine):
        pass


@pytest.fixture
def campaign(tmp_path):
    """Run a campaign in a folder, or go on with it; return its fits, its budget and its pool."""

    def run(cells, *, out="run", subjects=None, errors=None, order=0, stop_after=None, fail=None, part=WHOLE, **job):
        spec = made_job(cells, **job)
        store = RunStore(tmp_path / out, part)
        pool = OwnPool(order, stop_after, fail or (lambda task: False))
        made = subjects or [MadeSubject(cell, spec.evolution.strategy) for cell in cells]
        with store.locked():
            start_or_resume(spec, {}, tmp_path, store)
            own = part.share(cells)
            fits = Fits(spec, tmp_path, store, MadePreparation(made, errors), cells=own)
            budget = Budget(spec, fits, part.of)
            left = [cell for cell in own if cell not in fits.finished]
            try:
                Campaign(left, fits, pool, budget.allows).run()
            except KeyboardInterrupt:
                pass
        return fits, budget, pool

    run.store = lambda out="run": RunStore(tmp_path / out)
    return run


def learned(store):
    """Cell -> what each start of its last stage recorded."""
    found = {}
    for event in store.read_events():
        if "learned_from" in event:
            assert (event["event"], event["stage"]) == ("stage started", "active")
            found.setdefault(event["cell"], []).append(event["learned_from"])
    return found


def halls(store, cells):
    return {cell: store.read_hall_of_fame(cell).to_table() for cell in cells}


# -- loggers


def test_loggers_get_each_generation_once_over_an_interruption(campaign, tmp_path, caplog):
    caplog.set_level(logging.INFO, "neurofleet")
    for stop_after in (150, None):
        with generations_logged(["csv"], tmp_path / "loggers", "made"):
            campaign(["c0"], stop_after=stop_after)
    logged = pd.read_csv(tmp_path / "loggers" / "metrics.csv").set_index(["series", "step"])
    store = campaign.store()
    stored = {
        (f"{key.cell}/{key.stage}/seed-{key.seed}", rows.generation): rows
        for key in store.stored()
        for rows in store.read_generations(*key)
    }
    assert sorted(logged.index) == sorted(stored)
    for place, rows in stored.items():
        assert logged.loc[place, "evaluations"] == len(rows)
        assert logged.loc[place, "median"] == pytest.approx(np.median(rows.totals))
    assert (logged["diversity"] > 0).all()
    assert (logged["best"] <= logged["median"]).all()


# -- learning


def test_later_cells_start_from_those_that_are_finished(campaign):
    cells = [f"c{i}" for i in range(8)]
    _, _, pool = campaign(cells)
    found = learned(campaign.store())
    assert found["c0"] == [[]]
    assert "c0" in found["c7"][0]
    taught = campaign.store().read_hall_of_fame("c0").parameters
    first = np.array(pool.first["c7", "active", 1][:8])
    assert any(np.allclose(individual, model) for individual in first for model in taught)
    untaught = np.array(pool.first["c0", "active", 1][:8])
    assert not any(np.allclose(individual, model) for individual in untaught for model in taught)


@pytest.mark.parametrize("job", [{"evolution": ", learn: false"}, {"strategy": "paper"}])
def test_learning_is_off_when_told_so_and_by_default_with_the_papers_strategy(campaign, job):
    cells = ["c0", "c1", "c2", "c3"]
    campaign(cells, **job)
    assert set(sum(learned(campaign.store()).values(), [])[0]) == set()
    assert all(names == [[]] for names in learned(campaign.store()).values())


def test_the_papers_strategy_learns_when_told_so(campaign):
    campaign(["c0", "c1", "c2", "c3"], strategy="paper", evolution=", learn: true")
    assert "c0" in learned(campaign.store())["c3"][0]


def test_nobody_learns_from_another_recipe_or_from_the_same_specimen(campaign):
    cells = ["Rorb_485574832", "other", "repeat_485574832", "last"]
    subjects = [MadeSubject(cell, kind="other" if cell == "other" else "made") for cell in cells]
    campaign(cells[:2], subjects=subjects, out="first")
    campaign(cells, subjects=subjects)
    found = learned(campaign.store())
    assert all("Rorb_485574832" not in names for names in found["repeat_485574832"])
    assert all("other" not in names for cell in cells for names in found[cell])
    assert "Rorb_485574832" in found["last"][0]


@pytest.mark.parametrize("after", [1, 60])
def test_a_resumed_cell_starts_from_those_that_it_began_with(campaign, after):
    cells = [f"c{i}" for i in range(6)]
    seen = []

    def stop(task):
        seen.append(task.id[0][:2] == ("c3", "active"))
        if sum(seen) == after:
            raise KeyboardInterrupt
        return False

    fits, _, _ = campaign(cells, fail=stop)
    begun = learned(campaign.store())
    assert "c3" not in fits.finished
    assert begun["c3"][0]
    fits, _, _ = campaign(cells, order=9)
    found = learned(campaign.store())
    assert found["c3"] == 2 * begun["c3"]
    assert len(fits.finished) == 6


def test_without_learning_order_and_interruptions_change_nothing(campaign):
    cells = [f"c{i}" for i in range(4)]
    job = {"evolution": ", learn: false"}
    campaign(cells, out="one", **job)
    campaign(cells, out="two", order=5, stop_after=333, **job)
    campaign(cells, out="two", order=6, **job)
    one, two = (halls(campaign.store(out), cells) for out in ("one", "two"))
    assert all(one[cell].equals(two[cell]) for cell in cells)


def test_what_was_stored_without_signs_goes_on_as_it_was(campaign, monkeypatch):
    cells, job = ["c0"], {"evolution": ", learn: false"}
    with monkeypatch.context() as earlier:
        earlier.setattr(FastStrategy, "learns_from_residuals", False)  # so were runs stored before `fast` learnt
        campaign(cells, out="one", **job)
        campaign(cells, out="two", stop_after=200, **job)  # all searches have begun
    begun = {key for key in campaign.store("two").stored()}
    campaign(cells, out="two", **job)
    assert {key.stage for key in begun} == {"passive", "active"}
    assert halls(campaign.store("one"), cells)["c0"].equals(halls(campaign.store("two"), cells)["c0"])
    campaign(cells, out="three", **job)
    assert not halls(campaign.store("one"), cells)["c0"].equals(halls(campaign.store("three"), cells)["c0"])


def test_several_drivers_fit_the_cells_of_one_run(campaign):
    cells = [f"c{i}" for i in range(5)]
    job = {"evolution": ", learn: false"}
    campaign(cells, out="one", **job)
    first, _, _ = campaign(cells, out="two", part=Part(1, 2), **job)
    assert set(first.finished) == {"c0", "c2", "c4"}
    campaign(cells, out="two", part=Part(2, 2), stop_after=100, **job)
    second, _, _ = campaign(cells, out="two", part=Part(2, 2), **job)
    assert set(second.finished) == {"c1", "c3"}
    one, two = (halls(campaign.store(out), cells) for out in ("one", "two"))
    assert all(one[cell].equals(two[cell]) for cell in cells)
    assert set(finished_cells(campaign.store("two"))) == set(cells)
    assert first.core_seconds + second.core_seconds == pytest.approx(campaign(cells, out="two", **job)[0].core_seconds)


# -- budgets


def test_core_seconds_are_those_of_all_stored_evaluations_over_restarts(campaign):
    cells = [f"c{i}" for i in range(4)]
    fits, _, pool = campaign(cells, stop_after=800)
    assert fits.core_seconds == pytest.approx(SECONDS * 800)
    spec = made_job(cells)
    stored = [key for key in campaign.store().stored()]
    rows = sum(len(g) for key in stored for g in campaign.store().read_generations(*key))
    again = Fits(spec, campaign.store().root, campaign.store(), MadePreparation([]))
    assert again.core_seconds == pytest.approx(SECONDS * rows), "before any cell is opened again"
    assert again.finished
    assert any(key.cell not in again.finished for key in stored)
    fits, _, more = campaign(cells)
    total = sum(event["evaluations"] for event in fits.finished.values())
    assert total == sum(len(g) for key in campaign.store().stored() for g in campaign.store().read_generations(*key))
    assert fits.core_seconds == pytest.approx(SECONDS * total)
    assert sum(event["core_seconds"] for event in fits.finished.values()) == pytest.approx(SECONDS * total)
    assert more.done == total - rows


def test_core_hours_end_a_campaign_and_a_raised_limit_lets_it_go_on(campaign):
    cells = [f"c{i}" for i in range(4)]
    limit_s = 300 * SECONDS
    fits, budget, pool = campaign(cells, more=f"max_core_hours: {limit_s / 3600}")
    assert budget.reached.startswith("max_core_hours: ")
    assert 300 <= pool.done <= 300 + 2 * 8 * 4, "generations under way are finished and nothing more"
    assert len(fits.finished) < 4
    assert fits.open_cells == set()
    fits, budget, again = campaign(cells, more=f"max_core_hours: {limit_s / 3600}")
    assert budget.reached
    assert again.done == 0, "a run that has used its core-hours uses no more when it is started again"
    fits, budget, rest = campaign(cells, more="max_core_hours: 1")
    assert budget.reached == ""
    assert len(fits.finished) == 4
    assert pool.done + rest.done == sum(event["evaluations"] for event in fits.finished.values())


def test_wall_hours_count_from_the_start(campaign, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("neurofleet.jobs.fit.campaign.time.monotonic", lambda: now[0])
    cells = ["c0", "c1"]
    spec = made_job(cells, more="max_wall_hours: 0.5")
    with campaign.store().locked():
        budget = Budget(spec, Fits(spec, campaign.store().root, campaign.store(), MadePreparation([])))
        assert budget.allows()
        now[0] = 1799.0
        assert budget.allows()
        now[0] = 1800.0
        assert not budget.allows()
        assert budget.reached == "max_wall_hours: 0.5"


# -- recordings


def test_what_is_used_of_a_recording_is_an_event_of_the_run(campaign):
    subject = MadeSubject("c0")
    rows = (SweepRow(3, "Long Square", used_for=("active",)), SweepRow(4, "Long Square", left_out="10 samples are NaN"))
    subject.recording_table = RecordingTable("cell.nwb", rows, warnings=("the cell drifts",))
    campaign(["c0"], subjects=[subject], stop_after=40)
    campaign(["c0"], subjects=[subject])  # resumed, which is nothing new about the recording
    (event,) = [event for event in campaign.store().read_events() if event["event"] == "recording read"]
    assert (event["cell"], event["file"], event["used"], event["sweeps"]) == ("c0", "cell.nwb", 1, 2)
    assert event["left_out"] == {"4": "10 samples are NaN"}
    assert event["warnings"] == ["the cell drifts"]


# -- cells that fail


def test_a_cell_whose_first_generation_fails_is_set_aside_with_its_reason(campaign):
    cells = ["c0", "bad", "c2"]
    hopeless = {"fail": lambda task: task.id[0][0] == "bad"}
    fits, _, pool = campaign(cells, **hopeless)
    assert set(fits.finished) == {"c0", "c2"}
    assert "cell bad, stage passive, seed 1: more than half of the first generation failed" in fits.failed["bad"]
    assert "signal 11 (12 of 12)" in fits.failed["bad"]
    (event,) = [event for event in campaign.store().read_events() if event["event"] == "cell failed"]
    assert (event["cell"], event["reason"]) == ("bad", fits.failed["bad"])
    assert fits.core_seconds == pytest.approx(SECONDS * pool.done)
    again, _, _ = campaign(cells, **hopeless)
    assert set(again.failed) == {"bad"}
    assert again.core_seconds == pytest.approx(fits.core_seconds)


@pytest.mark.parametrize("error", [InputError("no soma"), UsageError("no stage ih"), JobError("cell bad: ended")])
def test_a_cell_that_cannot_be_prepared_is_set_aside(campaign, error):
    fits, _, _ = campaign(["c0", "bad", "c2"], errors={"bad": error})
    assert set(fits.finished) == {"c0", "c2"}
    assert fits.failed["bad"].startswith("cell bad: ")


def test_faults_of_the_program_end_the_campaign(campaign):
    with pytest.raises(ZeroDivisionError):
        campaign(["c0", "bad"], errors={"bad": ZeroDivisionError()})


# -- what of a job may change


@pytest.mark.parametrize(
    "changed",
    [
        {"more": "max_core_hours: 2\nmax_wall_hours: 3\nloggers: [csv]\nout: elsewhere"},
        {"cells": ["a", "b, weight: 2"]},
        {"cells": ["a, group: g", "b"], "more": "weights: {g: 3}"},
        {"cells": ["b", "a"]},
    ],
)
def test_limits_and_shares_may_change(tmp_path, changed):
    store = RunStore(tmp_path / "run")
    with store.locked():
        assert not start_or_resume(made_job(["a", "b"]), {}, tmp_path, store)
        assert start_or_resume(made_job(**({"cells": ["a", "b"]} | changed)), {}, tmp_path, store)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"more": "recipe: demo"}, "recipe was 'all-active', is 'demo'"),
        ({"more": "max_steps: 10"}, "max_steps was 1000000, is 10"),
        ({"more": "max_steps: null"}, "max_steps was 1000000, is nothing"),
        ({"evolution": ", patience: 100"}, "evolution.patience was nothing, is 100"),
        ({"evolution": ", learn: false"}, "evolution.learn was nothing, is false"),
        ({"cells": ["a", "c"]}, "cells.b was"),
        ({"cells": ["a, dendrite: aspiny", "b"]}, "cells.a.dendrite was 'spiny', is 'aspiny'"),
    ],
)
def test_what_results_depend_on_may_not(tmp_path, changed, told):
    store = RunStore(tmp_path / "run")
    with store.locked():
        start_or_resume(made_job(["a", "b"]), {}, tmp_path, store)
        with pytest.raises(UsageError) as refused:
            start_or_resume(made_job(**({"cells": ["a", "b"]} | changed)), {}, tmp_path, store)
    assert told in str(refused.value)


def test_a_folder_with_another_kind_of_run_says_so_in_one_line(tmp_path):
    store = RunStore(tmp_path / "run")
    with store.locked():
        start_or_resume(made_job(["a"]), {}, tmp_path, store)
        study = made_job(["b"]).model_copy(update={"kind": "validate"})
        with pytest.raises(UsageError, match=r"holds a run of `kind: fit`, not one of `kind: validate`\. Give another"):
            start_or_resume(study, {"a.swc": ""}, tmp_path, store)


def test_a_job_without_a_limit_of_steps_can_be_resumed(tmp_path):
    store = RunStore(tmp_path / "run")
    with store.locked():
        start_or_resume(made_job(["a"], more="max_steps: null"), {}, tmp_path, store)
        assert start_or_resume(made_job(["a"], more="max_steps: null"), {}, tmp_path, store)
        with pytest.raises(UsageError, match="max_steps was nothing, is 1000000"):
            start_or_resume(made_job(["a"]), {}, tmp_path, store)


class ScoredProblem(Problem):
    """Scores depend on a threshold."""

    threshold_mV = -20.0

    def scoring(self, engine):
        return {"spike_threshold_mV": self.threshold_mV, "vector_scoring_revision": 1}


def scored_subject(threshold_mV):
    subject = MadeSubject("c0")
    kind = type("OwnProblem", (ScoredProblem,), {"threshold_mV": threshold_mV})
    of_stage = subject.problem
    subject.problem = lambda *stage: kind(**vars(of_stage(*stage)))
    return [subject]


def test_stored_scores_of_another_threshold_are_not_gone_on_with(campaign):
    campaign(["c0"], subjects=scored_subject(-20.0), stop_after=150)
    fits, _, pool = campaign(["c0"], subjects=scored_subject(-35.0))
    assert re.search(r"stage active: .*: spike_threshold_mV was -20\.0, is -35\.0\. Scores of both", fits.failed["c0"])
    assert pool.done == 0
    fits, _, _ = campaign(["c0"], subjects=scored_subject(-20.0))
    starts = [event for event in campaign.store().read_events() if event.get("stage") == "active" and "bounds" in event]
    assert [event["scoring"]["spike_threshold_mV"] for event in starts] == [-20.0, -20.0]
    assert set(fits.finished) == {"c0"}


def test_a_stage_that_was_begun_without_a_record_of_its_scoring_goes_on(campaign, caplog):
    campaign(["c0"], stop_after=150)
    campaign(["c0"], subjects=scored_subject(-35.0), stop_after=20)
    fits, _, _ = campaign(["c0"], subjects=scored_subject(-35.0))
    assert set(fits.finished) == {"c0"}
    warned = [record for record in caplog.records if "begun with an earlier version" in record.getMessage()]
    assert [fields_of(record)["stage"] for record in warned] == ["active"]


@pytest.mark.parametrize(
    ("objectives", "told"), [(("width", "depth"), "only there rate; only here depth"), (("rate", "width"), "order")]
)
def test_stored_scores_of_other_objectives_are_not_gone_on_with(campaign, objectives, told):
    campaign(["c0"], stop_after=50)
    subject = MadeSubject("c0")
    of_stage = subject.problem
    subject.problem = lambda *stage: replace(of_stage(*stage), objectives=objectives)
    fits, _, pool = campaign(["c0"], subjects=[subject])
    assert told in fits.failed["c0"]
    assert pool.done == 0


# -- patience


def test_patience_waits_for_what_has_begun_again(tmp_path):
    """Nothing is better than the first model: the second search ends the stage, when it has settled."""
    config = FastConfig(evaluations=240, offspring=8, polish_population=8, patience=16)
    stage, limits = StagePlan("active", (1,), config), Limits(Deadline(300.0), patience=60)
    with RunStore(tmp_path / "run").locked() as store:
        search = GenerationSearch(
            "c0", stage, 1, MadeSubject("c0").problem(1, None), store, hall_of_fame=3, limits=limits
        )
        tasks, phases = search.start(), []
        while tasks:
            phases.append(search.state.phase)
            for task in tasks:
                tasks = search.take(task.id[1], Outcome("ok", "", SECONDS, np.full((2, 2), 5.0)))
    assert search.finished
    assert [phase for phase, _ in itertools.groupby(phases)] == ["search", "residuals"] * 2
    assert config.initial_for(3) + 60 < search.state.evaluated < 240


def test_patience_ends_a_stage_early_and_at_the_same_point_after_a_resume(campaign):
    cells, job = ["c0"], {"evolution": ", patience: 24, learn: false"}
    subjects = [MadeSubject("c0", evaluations=800)]
    fits, _, pool = campaign(cells, out="one", subjects=subjects, **job)
    assert fits.finished["c0"]["evaluations"] == pool.done < 3 * 800
    for number, stop_after in enumerate((pool.done // 3, pool.done // 3)):
        campaign(cells, out="two", subjects=subjects, order=number, stop_after=stop_after, **job)
    again, _, _ = campaign(cells, out="two", subjects=subjects, **job)
    assert again.finished["c0"]["evaluations"] == pool.done
    one, two = (campaign.store(out) for out in ("one", "two"))
    assert one.stored() == two.stored()
    assert halls(one, cells)["c0"].equals(halls(two, cells)["c0"])
    active = one.read_generations("c0", "active", 1)
    best = np.minimum.accumulate([generation.totals.min() for generation in active])
    assert best[-1] > 0.99 * best[-4], "three generations of 8 without a gain are what it waits for"
