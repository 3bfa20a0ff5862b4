"""A sweep job: trials compared on validation cells, the best trained again and kept."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from neurofleet.cluster.sweeps.parameter_sweep import ParameterSweep
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.learners.learner_job import TRIAL_FACTORY, rename_trial_factory
from neurofleet.jobs.learners.sims_job import stability_table
from neurofleet.jobs.run_job import run_job
from neurofleet.learners.model_folder import read_model
from tests.jobs.test_train import reference, write_job  # noqa: F401

SWEEP = "kind: sweep\nlearner: sims\nreference: a.h5ad\nlabel: x\n"


@pytest.mark.slow
def test_the_best_of_a_sweep_is_trained_again_and_kept(reference, tmp_path, ray_session):  # noqa: F811
    search = {"learning_rate": [1e-6, 0.02]}
    trials = {"method": "grid", "repeats": 2, "metric": "accuracy"}
    job = write_job(tmp_path, reference, kind="sweep", members=1, search=search, trials=trials)
    run_job(job, str(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / "trials" / "trials.parquet").to_pandas()
    assert len(rows) == 4
    assert set(rows.status) == {"done"}
    means = rows.groupby("param.learning_rate")["score.val_accuracy"].mean()
    assert means.idxmax() == 0.02
    stored = read_model(tmp_path / "out").description
    assert stored["settings"]["learning_rate"] == 0.02
    assert stored["facts"]["scores"]["sims"]["accuracy"] > 0.9
    genes = pq.read_table(tmp_path / "out" / "stability.parquet").to_pandas()
    assert len(genes) == 60
    assert set(genes.runs) == {2}
    assert genes.mean_weight.is_monotonic_decreasing
    assert 0 < genes.mean_weight[0] <= 1


def test_stability_is_of_weights_divided_by_each_runs_largest(tmp_path):
    for number, weights in enumerate(([2.0, 1.0, 0.0], [4.0, 0.0, 1.0])):
        (tmp_path / str(number)).mkdir()
        np.save(tmp_path / str(number) / "attention.npy", weights)
    table = stability_table([tmp_path / "0", tmp_path / "1"], ["a", "b", "c"]).to_pydict()
    assert table["gene"] == ["a", "b", "c"]
    assert table["mean_weight"] == [1.0, 0.25, 0.125]
    assert table["dispersion"] == [0.0, 0.25, 0.125]
    assert table["runs_in_top_20"] == [2, 1, 1]


def test_a_sweep_that_version_0_1_began_goes_on(tmp_path):
    spec = {"learner": "sims"}
    plan = ParameterSweep(factory=TRIAL_FACTORY, payload={"spec": spec}, search={"n_d": [8]}, metric="x", mode="min")
    before = replace(plan, factory="jobs.sims.trial:run")
    (tmp_path / "sweep.json").write_text(before.fingerprint)
    rename_trial_factory(tmp_path, plan)
    assert (tmp_path / "sweep.json").read_text() == plan.fingerprint
    (tmp_path / "sweep.json").write_text(replace(plan, factory="mine:run").fingerprint)
    rename_trial_factory(tmp_path, plan)
    assert "mine:run" in (tmp_path / "sweep.json").read_text()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("", "name what to try"),
        ("search: {n_d: [8, 16]}", "needs `number:`"),
        ("search: {n_dd: [8, 16]}\ntrials: {number: 2}", "did you mean 'n_d'"),
        ("search: {n_d: [8]}\ntrials: {number: 2, schedular: asha}", "did you mean 'scheduler'"),
        ("search: {n_d: [8]}\ntrials: {number: 2}\nsplit: {validation: 0}", "must be above 0"),
    ],
)
def test_a_wrong_sweep_is_refused(keys, told):
    with pytest.raises(UsageError, match=told):
        parse_job(SWEEP + keys, "job", "j")
