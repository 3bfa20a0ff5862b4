"""The trials of a sweep: a table that other libraries read as it is, on the terminal, as JSON and on the page."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.sweeps.parameter_sweep import ParameterSweep
from neurofleet.cluster.sweeps.ray_tune import SweepFiles
from neurofleet.cluster.sweeps.trial_records import TrialFolder, TrialRow, trials_from_table, trials_to_table
from neurofleet.jobs.job_kinds import write_report
from neurofleet.jobs.learners.learner_folder import TRIALS, learner_job_state, remove_working_files, sweep_folder
from neurofleet.jobs.learners.trials_report import Trials
from neurofleet.jobs.results.results_command import results_command
from tests.cluster.test_run_store import plain_readers
from tests.jobs.test_report import Page

OLD = Path(__file__).parents[1] / "old_runs" / "sweep"
SEARCH = {
    "learning_rate": {"log_uniform": [1e-3, 1e-1]},
    "n_d": {"integer": [8, 64]},
    "most_variable_genes": [None, 500],
    "gamma": 1.5,
}


def made_rows() -> list[TrialRow]:
    """Return trials whose score depends on the learning rate alone; one was stopped, and one failed."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(12):
        parameters = {
            "learning_rate": float(10 ** random.uniform(-3, -1)),
            "n_d": int(random.integers(8, 65)),
            "most_variable_genes": [None, 500][number % 2],
            "gamma": 1.5,
        }
        score = 0.9 - 0.1 * (np.log10(parameters["learning_rate"]) + 2) ** 2
        scores = {"val_macro_f1": float(score), "val_accuracy": 0.5, "val_loss": 1.0}
        rows.append(TrialRow(f"trial-{number:05d}", parameters, 1, "done", "", 5, 2.0, scores))
    rows[3] = TrialRow("trial-00003", rows[3].parameters, 1, "stopped", "by the scheduler", 2, 1.0, rows[3].scores)
    rows[7] = TrialRow("trial-00007", rows[7].parameters, 1, "failed", "TrainingFailed: diverged", 1, 0.5, {})
    return rows


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A finished sweep with other trials in its table."""
    folder = tmp_path_factory.mktemp("swept") / "run"
    shutil.copytree(OLD, folder)
    job = yaml.safe_load((folder / "job.yaml").read_text())
    job |= {"search": SEARCH, "trials": {"number": 12, "metric": "macro_f1"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    pq.write_table(trials_to_table(made_rows()), folder / TRIALS)
    return folder


@pytest.mark.parametrize("reader", plain_readers())
def test_other_libraries_read_the_folder_of_trials_as_it_is(tmp_path, reader):
    plan = ParameterSweep("module:function", "loss", "min", search={"x": [1, 2, 3]}, method="grid")
    for number in range(2):
        trial = TrialFolder(sweep_folder(tmp_path), number)
        trial.set({"x": number}, 1)
        trial.end("done", "", {"loss": 0.5 * number})
    SweepFiles(sweep_folder(tmp_path), plan, tmp_path / TRIALS)
    table = plain_readers()[reader](tmp_path / "trials")
    assert table["param.x"].tolist() == [0, 1]
    assert table["score.loss"].tolist() == [0.0, 0.5]
    state = learner_job_state(tmp_path)
    assert (state.trials_begun, state.trials_ended) == (2, 2)


def test_a_sweep_that_began_beside_its_table_goes_on_there(tmp_path):
    shutil.copytree(OLD, tmp_path / "run")
    assert sweep_folder(tmp_path / "run") == tmp_path / "run" / "trials"
    checkpoints = tmp_path / "run" / "trials" / "trial-00000" / "checkpoints"
    checkpoints.mkdir()
    remove_working_files(tmp_path / "run")
    assert not checkpoints.exists()
    assert (tmp_path / "run" / TRIALS).is_file()


def test_trials_are_read_as_they_were_written():
    rows = [row for row in made_rows() if row.status == "done"]
    assert trials_from_table(trials_to_table(rows)) == rows


def test_the_parameter_that_scores_depend_on_matters_most(swept):
    trials = Trials.read(RunStore(swept))
    for found in trials.importances().values():
        assert max(found, key=found.get) == "learning_rate"
    assert [row.status for row in trials.rows[-2:]] == ["stopped", "failed"]
    scores = [row.scores["val_macro_f1"] for row in trials.done]
    assert scores == sorted(scores, reverse=True)
    (line,) = trials.verdict()
    assert line.startswith(f"12 trials (10 done, 1 stopped, 1 failed): validation macro-F1 {scores[0]:.3f} at best")


def test_the_page_and_the_terminal_show_the_trials_of_a_sweep(swept, capsys):
    page = Page(Path(write_report(swept)).read_text())
    assert page.open == []
    assert page.pictures[:3] == [
        "validation macro-F1 by trial",
        "importance of each parameter",
        "parallel coordinates of the trials",
    ]
    assert "12 trials, compared by validation macro-F1" in page.text
    assert "failed: TrainingFailed: diverged" in page.text
    results_command(str(swept), None, json=False)
    told = capsys.readouterr().out
    best = max(row.scores.get("val_macro_f1", 0.0) for row in made_rows())
    assert f"{best:.4f}" in told
    assert f"2 more in {TRIALS}" in told
    results_command(str(swept), None, json=True)
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert len(trials) == 12
    assert trials[0]["scores"]["val_macro_f1"] == best


def test_a_folder_that_is_no_sweeps_has_no_trials():
    assert Trials.read(RunStore(OLD.parent / "sims")) is None
