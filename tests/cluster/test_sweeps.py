"""Sweeps of small trials, disturbed and not."""

import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pyarrow.parquet as pq
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from neurofleet.cluster.sweeps.optuna_journal import OptunaJournal
from neurofleet.cluster.sweeps.parameter_sweep import (
    ParameterSweep,
    SweepFailed,
    SweepRefused,
    SweepScheduler,
    TrialResources,
)
from neurofleet.cluster.sweeps.ray_tune import SweepFiles, _trial_resources, sweep
from neurofleet.cluster.sweeps.search_space import SearchSpaceRefused
from neurofleet.cluster.sweeps.trial_records import TrialRow, trials_to_table
from neurofleet.errors import RunFolderRefused

VALLEY = "tests.cluster.toy_trials:valley"
REPOSITORY = Path(__file__).resolve().parents[2]
ONE = TrialResources(at_once=1)


def valley(search, *, method="random", repeats=1, settings=None, scheduler=None, time_limit_s=None, **payload):
    scheduler = scheduler or SweepScheduler()
    return ParameterSweep(
        *(VALLEY, "loss", "min", payload, search, method, settings, repeats),
        scheduler=scheduler,
        time_limit_s=time_limit_s,
    )


def stored(folder):
    return pq.read_table(folder / "trials.parquet")


def timeless(table):
    return table.drop_columns(["error", "seconds"]).to_pylist()


def assert_journal_holds(rows, journal):
    """Each row of the table is a trial of the study, once."""
    study = optuna.load_study(storage=JournalStorage(JournalFileBackend(str(journal[0]))), study_name=journal[1])
    states = {"done": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    found = sorted(study.trials, key=lambda trial: trial.user_attrs["trial"])
    assert [
        (trial.user_attrs["trial"], trial.user_attrs["seed"], trial.params, trial.state.name, trial.value)
        for trial in found
    ] == [(row.trial, row.seed, row.parameters, states[row.status], row.scores.get("loss")) for row in rows]
    assert [list(trial.intermediate_values) for trial in found] == [list(range(1, row.epochs + 1)) for row in rows]
    assert study.direction.name == "MINIMIZE"


class Stopped(Exception):
    pass


def stop_after(number):
    rows = []

    def progress(row):
        rows.append(row)
        if len(rows) == number:
            raise Stopped

    return progress


def test_a_journal_of_any_method_takes_what_it_lacks_after_a_driver_was_killed(tmp_path, monkeypatch):
    locks, link = [], os.symlink
    monkeypatch.setattr(os, "symlink", lambda target, lock: (locks.append(target), link(target, lock)))
    monkeypatch.chdir(tmp_path)
    search = {"x": {"uniform": [0, 1]}, "sizes": [[8, 8], [16]], "w": 2}
    plan, journal = valley(search, method="random", settings=3), (Path("journal.log"), "valley")
    files = SweepFiles(tmp_path / "sweep", plan)
    for score in (0.5, math.nan, 0.25):
        trial = files.trials.next()
        folder = files.trials.folder(trial["index"])
        folder.report({"loss": 1.0, "epoch": 1, "elapsed_s": 0.5})
        folder.end("done" if score != 0.25 else "stopped", "", {"loss": score})
        if score == 0.5:
            SweepFiles(tmp_path / "sweep", plan, journal=journal)
            with journal[0].open("ab") as file:
                file.write(b'{"op_code": 4, "wor')
            link("out/journal.log", "journal.log.lock")  # which leads nowhere
    SweepFiles(tmp_path / "sweep", plan, journal=journal)
    study = optuna.load_study(storage=JournalStorage(JournalFileBackend(str(journal[0]))), study_name="valley")
    assert [(t.state.name, t.value) for t in study.trials] == [("COMPLETE", 0.5), ("FAIL", None), ("PRUNED", 0.25)]
    assert {trial.params["sizes"] for trial in study.trials} <= {"[8, 8]", "[16]"}
    assert {trial.user_attrs["w"] for trial in study.trials} == {2}
    assert set(locks) == {str(tmp_path / "journal.log")}


def test_a_journal_that_fails_is_told_once_and_the_sweep_goes_on_without_it(tmp_path, monkeypatch, caplog):
    plan = valley({"x": [0.1, 0.2]}, method="grid")
    (tmp_path / "other.log").write_text("{}\n")
    SweepFiles(tmp_path / "sweep", plan, journal=(tmp_path / "other.log", "valley")).write()
    (told,) = [record.getMessage() for record in caplog.records]
    assert re.search("without its Optuna journal: .*other.log was expected to be an Optuna journal.*Remove it", told)
    caplog.clear()
    files = SweepFiles(tmp_path / "sweep", plan, journal=(tmp_path / "journal.log", "valley"))

    def add(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(OptunaJournal, "add", add)
    for score in (0.5, 0.25):
        trial = files.trials.next()
        files.trials.folder(trial["index"]).end("done", "", {"loss": score})
        files.trials.ended(trial["index"])
        files.write()
    assert ["No space left on device" in record.getMessage() for record in caplog.records] == [True]
    assert files.result().score == 0.25


def test_the_table_keeps_types_and_what_is_missing():
    rows = [
        TrialRow("trial-00000", {"a": 1, "b": 1, "c": "x", "d": [1, 2]}, 1, "done", "", 3, 0.5, {"f1": 0.5}),
        TrialRow("trial-00001", {"a": 2, "b": 0.5, "c": None, "d": "y"}, 2, "failed", "ValueError: no"),
    ]
    table = trials_to_table(rows)
    assert table["param.a"].to_pylist() == [1, 2]
    assert table["param.b"].to_pylist() == [1.0, 0.5]
    assert table["param.c"].to_pylist() == ["x", None]
    assert table["param.d"].to_pylist() == ["[1, 2]", '"y"']
    assert table["score.f1"].to_pylist() == [0.5, None]
    for name in ("trial", "seed", "status", "error", "epochs", "seconds"):
        assert table[name].to_pylist() == [getattr(row, name) for row in rows]


def test_a_grid_with_repeats_failures_and_a_process_that_dies(ray_session, tmp_path, capsys):
    trace, seen = tmp_path / "trace", []
    plan = valley(*({"x": [0.1, 0.2, 0.5]},), method="grid", repeats=2, trace=str(trace), fails_at=0.5, dies_at=0.1)
    journal = (tmp_path / "journal.log", "valley")
    swept = sweep(plan, tmp_path / "sweep", progress=seen.append, journal=journal)
    assert [(r.parameters["x"], r.seed, r.status) for r in swept.rows] == [
        *((0.1, 1, "done"), (0.1, 2, "done")),
        *((0.2, 1, "done"), (0.2, 2, "done")),
        *((0.5, 1, "failed"), (0.5, 2, "failed")),
    ]
    assert swept.parameters == {"x": 0.2}
    assert swept.score == pytest.approx(0.01 + 0.0015)
    assert swept.trial == "trial-00002"
    assert swept.rows[4].error == "ValueError: x should not be 0.5"
    assert "toy_trials.py" in (tmp_path / "sweep" / "trial-00004" / "error.txt").read_text()
    begun = Counter(line.split()[1] for line in trace.read_text().splitlines() if line.startswith("begin"))
    assert begun == {f"trial-{i:05d}": 2 if i < 2 else 1 for i in range(6)}
    assert timeless(stored(tmp_path / "sweep")) == timeless(trials_to_table(swept.rows))
    assert_journal_holds(swept.rows, journal)
    assert "Last result" not in capsys.readouterr().out, "Tune prints no trials"
    assert sorted(row.trial for row in seen) == [row.trial for row in swept.rows]
    assert (tmp_path / "sweep" / "tune").stat().st_mode & 0o777 == 0o700
    before = trace.read_text()
    assert sweep(plan, tmp_path / "sweep", journal=journal) == swept
    assert trace.read_text() == before
    assert_journal_holds(swept.rows, journal)


def test_without_a_search_one_setting_is_repeated(ray_session, tmp_path):
    swept = sweep(valley({}, repeats=3, epochs=0), tmp_path)
    assert [(row.parameters, row.seed, row.epochs) for row in swept.rows] == [({}, s, 0) for s in (1, 2, 3)]
    assert swept.score == pytest.approx(0.09 + 0.002)


def test_a_trial_ends_at_its_time_limit(ray_session, tmp_path):
    swept = sweep(valley({"x": 0.3}, epochs=100, epoch_s=0.6, time_limit_s=1.5), tmp_path)
    (row,) = swept.rows
    assert (row.status, row.error) == ("stopped", "over its time limit of 1.5 s")
    assert row.epochs == 3
    assert row.scores == {"loss": pytest.approx(0.001 + 1 / 3)}


def test_trials_without_the_metric_fail_with_a_sentence(ray_session, tmp_path):
    plan = ParameterSweep(VALLEY, "accuracy", "max", search={"x": 0.1})
    with pytest.raises(SweepFailed, match="goes by the metric 'accuracy'.*valley reports loss"):
        sweep(plan, tmp_path / "a")
    with pytest.raises(SweepFailed, match="should return its scores; it returned None"):
        sweep(ParameterSweep("tests.cluster.toy_trials:no_scores", "loss", "min"), tmp_path / "b")


@pytest.mark.parametrize("lost", [math.nan, -math.inf])
def test_a_metric_that_is_nan_in_all_trials_is_told_with_where_to_look(tmp_path, lost):
    plan = valley({"x": [0.1, 0.2, 0.3]}, method="grid")
    files = SweepFiles(tmp_path, plan)
    for score in (lost, lost, None):
        trial = files.trials.next()
        if score is None:
            files.trials.folder(trial["index"]).end("failed", "ValueError: no")
        else:
            files.trials.folder(trial["index"]).end("done", "", {"loss": score})
        files.trials.ended(trial["index"])
    with pytest.raises(SweepFailed) as failed:
        files.result()
    told = str(failed.value)
    assert "loss is NaN or infinite in 2 of 3 trials: they have diverged." in told
    assert str(tmp_path / "trial-00000" / "reports.jsonl") in told
    assert told.endswith("1 of 3 trials failed; the first of them: ValueError: no")


def test_a_trial_that_diverged_is_not_the_best(tmp_path):
    files = SweepFiles(tmp_path, valley({"x": [0.1, 0.2]}, method="grid"))
    for score in (-math.inf, 0.5):
        trial = files.trials.next()
        files.trials.folder(trial["index"]).end("done", "", {"loss": score})
        files.trials.ended(trial["index"])
    assert files.result().parameters == {"x": 0.2}


def test_an_interrupted_optuna_sweep_goes_on_with_what_it_had_learned(ray_session, tmp_path):
    pytest.importorskip("optuna")
    plan = valley({"x": {"uniform": [-5, 5]}, "w": ["a", "b"]}, method="optuna", settings=8, repeats=2, epochs=1)
    undisturbed = sweep(plan, tmp_path / "undisturbed", ONE)
    with pytest.raises(Stopped):
        sweep(plan, tmp_path / "disturbed", ONE, stop_after(7))
    assert len(stored(tmp_path / "disturbed")) == 7
    again = sweep(plan, tmp_path / "disturbed", ONE)
    assert timeless(trials_to_table(again.rows)) == timeless(trials_to_table(undisturbed.rows))


def test_optuna_learns_from_scores(tmp_path):
    pytest.importorskip("optuna")
    from neurofleet.cluster.sweeps.search_space import OptunaSettings, parse_space

    proposer, tried = OptunaSettings(parse_space({"x": {"uniform": [-5, 5]}}), 1, "min"), []
    for setting in range(40):
        tried.append(proposer.propose(setting)["x"])
        proposer.learn(setting, (tried[-1] - 0.3) ** 2)
    assert sum(abs(x - 0.3) < 1 for x in tried[20:]) > 10, "at random it would be 4 of 20"


DRIVER = """
import sys
from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.sweeps.ray_tune import sweep
from tests.cluster.test_sweeps import ONE, halving

with connect(cpus=2):
    sweep(halving(sys.argv[2]), sys.argv[1], ONE)
"""


def halving(trace):
    asha = SweepScheduler("asha", max_epochs=9)
    return valley({"x": {"uniform": [-1, 1]}}, settings=12, scheduler=asha, epochs=9, epoch_s=0.05, trace=trace)


@pytest.mark.slow
def test_a_sweep_whose_driver_is_killed_repeats_no_finished_trial(ray_session, tmp_path):
    undisturbed = sweep(halving(str(tmp_path / "trace")), tmp_path / "undisturbed", ONE)
    statuses = Counter(row.status for row in undisturbed.rows)
    assert statuses["done"] >= 2
    assert statuses["stopped"] >= 2

    folder, trace = tmp_path / "killed", tmp_path / "trace of the killed"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, folder, trace], cwd=REPOSITORY)
    give_up = time.monotonic() + 120
    while not list(folder.glob("trial-00005/reports.jsonl")):
        assert driver.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.01)
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    psutil.wait_procs(family, timeout=60)
    before = set(stored(folder)["trial"].to_pylist())
    assert {"trial-00000", "trial-00001", "trial-00002"} <= before
    assert len(before) < 12

    swept = sweep(halving(str(trace)), folder, ONE)
    begun = Counter(line.split()[1] for line in trace.read_text().splitlines() if line.startswith("begin"))
    assert all(begun[trial] == 1 for trial in before)
    assert all(begun[row.trial] <= 2 for row in swept.rows)
    # The scheduler knew again what it had known: it stopped whom it would have stopped.
    ended = {row.trial: row.status for row in swept.rows}
    assert ended == {row.trial: row.status for row in undisturbed.rows}
    assert swept.parameters == undisturbed.parameters


@pytest.mark.slow
def test_a_population_goes_on_from_its_better_members(ray_session, tmp_path):
    plan = ParameterSweep(
        *("tests.cluster.toy_trials:trained", "val_loss", "min", {"epochs": 6}),
        search={"lr": {"log_uniform": [1e-5, 1e-1]}},
        settings=3,
        scheduler=SweepScheduler("pbt", perturb_epochs=2),
    )
    swept = sweep(plan, tmp_path)
    assert [row.status for row in swept.rows] == ["done"] * 3
    assert all(row.epochs == 6 and 1e-5 <= row.parameters["lr"] <= 1e-1 for row in swept.rows)
    heirs = [path.parent for path in tmp_path.glob("trial-*/inherited.json")]
    assert heirs
    for heir in heirs:
        lines = (heir / "reports.jsonl").read_text().splitlines()
        donors = [p.read_text().splitlines() for p in tmp_path.glob("trial-*/reports.jsonl") if p.parent != heir]
        assert any(lines[:2] == other[:2] for other in donors)


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_trials_of_two_workers_on_two_cpus_do_not_wait_for_each_other(ray_session, tmp_path):
    trace = tmp_path / "trace"
    plan = ParameterSweep(
        *("tests.cluster.toy_trials:trained", "val_loss", "min"),
        payload={"epochs": 1, "workers": 2, "trace": str(trace)},
        search={"lr": [0.1, 0.01]},
        method="grid",
    )
    swept = sweep(plan, tmp_path / "sweep", TrialResources(workers=2))
    assert [row.status for row in swept.rows] == ["done", "done"]
    assert trace.read_text().split() == "begin trial-00000 end trial-00000 begin trial-00001 end trial-00001".split()


def test_no_more_trials_run_at_once_than_can_have_all_their_workers(ray_session):
    assert [_trial_resources(TrialResources(workers=workers))[1] for workers in (1, 2)] == [2, 1]
    assert _trial_resources(TrialResources(workers=1, at_once=1))[1] == 1


def test_another_sweep_in_the_folder_is_refused(ray_session, tmp_path):
    sweep(valley({"x": 0.1}), tmp_path)
    with pytest.raises(RunFolderRefused, match="holds another sweep: its search in sweep.json"):
        sweep(valley({"x": 0.2}), tmp_path)


def test_a_sweep_goes_on_where_another_version_had_its_function_elsewhere(ray_session, tmp_path):
    plan = valley({"x": [0.1, 0.2]}, method="grid")
    with pytest.raises(Stopped):
        sweep(plan, tmp_path, ONE, progress=stop_after(1))
    file = tmp_path / "sweep.json"
    file.write_text(file.read_text().replace(VALLEY, "jobs.sims.trial:run"))
    seen = []
    swept = sweep(plan, tmp_path, progress=seen.append)
    assert [row.parameters["x"] for row in swept.rows] == [0.1, 0.2]
    assert [row.trial for row in seen] == ["trial-00001"]


@pytest.mark.parametrize(
    ("plan", "resources", "message"),
    [
        (valley({"x": [1, 2]}), ONE, "method random needs a number of settings"),
        (valley({"x": 1}), TrialResources(workers=3), "needs 3 CPUs, and the cluster has 2"),
        (valley({"x": 1}), TrialResources(gpus=0.25), "needs 0.25 GPUs, and the cluster has 0"),
        (
            valley({"x": 1}, scheduler=SweepScheduler("asha", 4, 4)),
            ONE,
            "grace_epochs from 1 to below the epochs of a trial",
        ),
        (valley({"x": [1]}, settings=2, repeats=2, scheduler=SweepScheduler("pbt")), ONE, "with one repeat"),
        (valley({"x": 1}, scheduler=SweepScheduler("pbt")), ONE, "the search space is empty"),
        (
            valley({"x": [1]}, settings=2, scheduler=SweepScheduler("pbt", 4, perturb_epochs=4)),
            ONE,
            "never be compared",
        ),
    ],
)
def test_sweeps_that_cannot_be_are_refused(ray_session, tmp_path, plan, resources, message):
    with pytest.raises(SweepRefused, match=message) as refused:
        sweep(plan, tmp_path, resources)
    assert refused.value.exit_code == 2
    assert not list(tmp_path.glob("trial-*"))


def test_a_grid_of_a_range_is_refused(tmp_path):
    with pytest.raises(SearchSpaceRefused):
        sweep(valley({"x": {"uniform": [0, 1]}}, method="grid"), tmp_path)
