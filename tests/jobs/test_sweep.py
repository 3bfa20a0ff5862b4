"""A sweep job: trials compared on validation cells, the best trained again and kept."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from neurofleet.cluster.sweeps.parameter_sweep import ParameterSweep
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.learners.learner_job import TRIAL_FACTORY, renew_description
from neurofleet.jobs.learners.sims_job import stability_table
from neurofleet.jobs.learners.sims_spec import SimsSweepSpec
from neurofleet.jobs.run_job import run_job
from neurofleet.learners.model_folder import read_model
from tests.jobs.test_train import reference, write_job  # noqa: F401

OLD_SWEEP = Path(__file__).parents[1] / "old_runs/sweep"
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
    assert rows["score.train_loss"].notna().all()
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
    kept = json.loads((OLD_SWEEP / "trials/sweep.json").read_text())
    assert kept[0] == "jobs.sims.trial:run"
    spec = SimsSweepSpec.model_validate(kept[1]["spec"])
    payload = {"spec": spec.model_dump(mode="json", exclude={"notify"}), "folder": kept[1]["folder"]}
    plan = ParameterSweep(TRIAL_FACTORY, kept[3], kept[4], payload, kept[2], kept[5], repeats=kept[6], seed=kept[7])

    def changes() -> list[str]:
        (tmp_path / "sweep.json").write_text(json.dumps(kept))
        renew_description(tmp_path, plan)
        return plan.changes_since((tmp_path / "sweep.json").read_text())

    assert plan.changes_since(json.dumps(kept)) == ["payload"]  # it has no key of later versions
    assert changes() == []
    assert json.loads((tmp_path / "sweep.json").read_text())[0] == TRIAL_FACTORY
    kept[0] = "mine:run"
    assert changes() == []
    assert "mine:run" in (tmp_path / "sweep.json").read_text()
    kept[1]["spec"]["settings"]["patience"] = None
    assert changes() == ["payload"]
    kept[1]["spec"] = {"learner": "hippie"}
    assert changes() == ["payload"]


@pytest.mark.parametrize(
    "keys",
    [
        "search: {n_d: {integer: [8, 64]}, mask: [sparsemax, entmax15], skip: [true, false]}\ntrials: {number: 2}",
        "search: {learning_rate: {log_uniform: [1e-4, 1e-1]}}\ntrials: {number: 2, scheduler: pbt}",
        "search: {patience: [null, 5], learning_rate: [1e-4, 0.01]}\ntrials: {method: grid}",
        "search: {n_shared: [0, 1], n_independent: [1, 2], gamma: 1.5}\ntrials: {method: grid}",
    ],
)
def test_values_that_the_settings_take_are_taken(keys):
    assert parse_job(SWEEP + keys, "job", "j").search


def test_values_that_go_together_by_chance_are_refused():
    neuprint = "kind: sweep\nlearner: neuprint\nrecordings: a.npz\nlabel: x\n"
    with pytest.raises(UsageError, match="with hidden 33, dynamics 'gru': hidden .33. is not a multiple of heads"):
        parse_job(neuprint + "search: {hidden: {integer: [16, 64]}, dynamics: gru}\ntrials: {number: 2}", "job", "j")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("", "name what to try"),
        ("search: {n_d: [8, 16]}", "needs `number:`"),
        ("search: {n_dd: [8, 16]}\ntrials: {number: 2}", "did you mean 'n_d'"),
        ("search: {n_d: [8]}\ntrials: {number: 2, schedular: asha}", "did you mean 'scheduler'"),
        ("search: {n_d: [8]}\ntrials: {number: 2}\nsplit: {validation: 0}", "must be above 0"),
        (
            "search: {n_d: {uniform: [8, 64]}}\ntrials: {number: 2}",
            "search.n_d: expected a whole number, found 28.6012; `integer: .lowest, highest.` draws whole numbers",
        ),
        (
            "search: {gene_masking: {uniform: [0.2, 1.6]}}\ntrials: {number: 2}",
            "search.gene_masking: expected a number below 1, found 1.6",
        ),
        ("search: {n_steps: [1, 0, 3]}\ntrials: {method: grid}", "search.n_steps: .* at least 1, found 0"),
        ("search: {mask: [entmax]}\ntrials: {method: grid}", "search.mask: expected one of .*'entmax15'"),
        (
            "search: {n_independent: [0, 1], n_shared: [0, 1]}\ntrials: {method: grid}",
            "search: with n_independent 0, n_shared 0: n_shared and n_independent are both 0",
        ),
        ("search: {learning_rate: {uniform: [-0.1, 0.1]}}\ntrials: {number: 2}", "above 0, found -0.1"),
        ("search: {learning_rate: tune.loguniform(1e-4)}\ntrials: {number: 2}", "expected a number, found 'tune"),
        ("search: {skip: {uniform: [0, 1]}}\ntrials: {number: 2}", "search.skip: expected true or false"),
        ("search: {n_d: {log: [1, 2]}}\ntrials: {number: 2}", "search.n_d: one of uniform, log_uniform"),
        ("search: {n_d: {integer: [1, 2]}}\ntrials: {method: grid}", "A grid needs a list of values"),
        ("search: {schedule: [plateau]}\ntrials: {method: grid}", "with plateau set it to null"),
        ("search: {n_d: [8, 16]}\ntrials: {number: 2, scheduler: pbt}", "n_d cannot change then"),
    ],
)
def test_a_wrong_sweep_is_refused(keys, told):
    with pytest.raises(UsageError, match=told):
        parse_job(SWEEP + keys, "job", "j")
