"""A training job from its file to a model folder, interrupted and refused."""

import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from neurofleet.errors import ClusterError, InputError, LearnerError, TrainingFailed, UsageError
from neurofleet.jobs.cli import main
from neurofleet.jobs.job_file import load_job, parse_job
from neurofleet.jobs.learners import learner_job, sims_job
from neurofleet.jobs.learners.learner_job import job_of, trials_of
from neurofleet.jobs.learners.sims_report import SimsReport
from neurofleet.jobs.progress import duration
from neurofleet.jobs.quick import QUICK_NOTE
from neurofleet.jobs.run_job import print_plan, run_job
from neurofleet.learners.model_folder import read_model
from neurofleet.learners.sims import tabnet_training
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.splits import read_splits
from tests.learners.cells.made_cells import made_counts, written

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"n_d": 8, "n_a": 4, "members": 2, "epochs": 4, "batch_size": 32}


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return written(made_counts(150), tmp_path_factory.mktemp("cells") / "reference.h5ad")


def write_job(folder: Path, reference: Path, **keys) -> Path:
    job = {
        "kind": "train",
        "learner": "sims",
        "reference": str(reference),
        "label": "cell_type",
        "baselines": ["majority", "logistic"],
        **SMALL,
        **keys,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.fixture(scope="module")
def model(reference, tmp_path_factory) -> Path:
    """Trained beside another process, as larger references are."""
    folder, trained_here = tmp_path_factory.mktemp("run"), set()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("neurofleet.learners.sims.simple_methods.WORTH_A_PROCESS", 0)
        patched.setattr(learner_job, "available_cpus", lambda: 2)
        patched.setattr(learner_job.Trainings, "_epoch_done", lambda self, name, *_: trained_here.add(name))
        run_job(write_job(folder, reference), str(folder / "model"))
    assert trained_here == {"model", "model-continued"}, "the other process trains the control"
    return folder / "model"


def test_a_model_folder_is_complete(model, reference):
    names = {path.name for path in model.iterdir()}
    tables = {f"{name}.parquet" for name in ("split", "history", "predictions", "map")}
    assert {"model.safetensors", "model.json", "report.html"} | tables <= names
    kept = {
        path.suffix for path in (model / "trainings").rglob("*") if path.is_file() and "tensorboard" not in path.parts
    }
    assert not kept, "a model that is finished needs no checkpoints and no samples"
    facts = read_model(model).description["facts"]
    assert facts["scores"]["sims"]["accuracy"] > 0.9
    assert {"majority", "logistic"} == set(facts["baselines"])
    assert facts["control"]["valid"]
    assert facts["data"]["n_cells"] == 150
    digest = hashlib.sha256(reference.read_bytes()).hexdigest()
    assert facts["data"]["sha256"] == {str(reference): digest}
    (split,) = read_splits(model / "split.parquet")
    assert facts["split"]["fingerprint"] == split.fingerprint
    history = pq.read_table(model / "history.parquet").to_pandas()
    assert sorted(set(history.training)) == ["model", "model-continued", "shuffled-labels"]
    assert list(history[history.training == "model"].epoch) == [1, 2, 3, 4]
    assert history[history.training == "model"].val_macro_f1.notna().all()
    assert facts["scores"]["sims"]["accuracy"] >= facts["baselines"]["majority"]["accuracy"]
    changed = (model / "report.html").read_text().partition("Settings that are not")[2].partition("All settings")[0]
    assert "members" in changed
    assert "linear_share" not in changed, "validation cells have chosen it, and no user"


def test_what_to_type_next_names_the_query(model, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(model, copy)
    assert SimsReport.verdict_of(copy)[-1] == f"next: neurofleet predict {copy} QUERY.h5ad --out predictions.parquet"
    job = yaml.safe_load((copy / "job.yaml").read_text()) | {"query": ["a b.h5ad"], "query_layer": "counts"}
    (copy / "job.yaml").write_text(yaml.safe_dump(job))
    query = os.path.relpath(model.parent / "a b.h5ad")
    told = SimsReport.verdict_of(copy)[-1]
    assert told == f"next: neurofleet predict {copy} '{query}' --layer counts --out predictions.parquet"
    # Of a run that was sent to a cluster, the folder of the job is seen from the run.
    provenance = json.loads((copy / "provenance.json").read_text()) | {"job_folder": "../job"}
    (copy / "provenance.json").write_text(json.dumps(provenance))
    assert f"'{os.path.relpath(tmp_path / 'job' / 'a b.h5ad')}'" in SimsReport.verdict_of(copy)[-1]


def test_the_stored_scores_are_those_of_the_stored_model(model, reference):
    from neurofleet.learners.cells.cell_files import open_cells

    loaded = SimsModel.load(model)
    cells = open_cells(reference)
    (split,) = read_splits(model / "split.parquet")
    rows = split.rows("test")
    values = loaded.normalisation.apply(cells.read(rows))
    predicted = np.asarray(loaded.classes)[loaded.probabilities(values).argmax(1)]
    true = cells.obs["cell_type"].to_numpy()[rows]
    assert (predicted == true).mean() == loaded.facts["scores"]["sims"]["accuracy"]
    kept = pq.read_table(model / "predictions.parquet").to_pandas().set_index("cell_id")
    assert kept.loc[cells.cell_ids[rows].astype(str), "predicted"].tolist() == predicted.tolist()
    assert kept.loc[cells.cell_ids[rows].astype(str), "true"].tolist() == true.tolist()
    on_map = pq.read_table(model / "map.parquet").to_pandas().set_index("cell_id")
    assert len(on_map) == 150
    assert on_map["predicted"].dropna().to_dict() == kept["predicted"].to_dict()
    assert "map of the cells by true and by predicted class" in (model / "report.html").read_text()


def test_it_loads_without_ray_or_lightning(model):
    code = (
        "import sys\nfrom pathlib import Path\nfrom neurofleet.learners.sims.sims_model import SimsModel\n"
        f"SimsModel.load(Path({str(model)!r}))\nprint(sorted({{'ray', 'lightning'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_finished_job_is_not_run_again_and_another_is_refused(model, reference, capsys):
    before = (model / "model.json").stat().st_mtime_ns
    run_job(write_job(model.parent, reference, workers=1), str(model))  # who works decides nothing
    assert "finished already" in capsys.readouterr().err
    with pytest.raises(UsageError, match="n_d"):
        run_job(write_job(model.parent, reference, n_d=16), str(model))
    assert (model / "model.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_and_run_again_it_ends_in_the_same_model(model, reference, tmp_path):
    job = write_job(tmp_path, reference)
    command = [sys.executable, "-m", "neurofleet.jobs.cli", "run", str(job), "--out", str(tmp_path / "model")]
    start = "import sys; from neurofleet.jobs.cli import main; sys.argv = sys.argv[1:]; main()"
    command = [sys.executable, "-c", start, "neurofleet", *command[3:]]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ}, stderr=subprocess.PIPE)
    second = tmp_path / "model" / "trainings" / "model" / "checkpoints" / "epoch-00002.ckpt"
    deadline = time.monotonic() + 120
    while not second.exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "model" / "model.json").exists()
    run_job(job, str(tmp_path / "model"))
    one, other = read_model(model), read_model(tmp_path / "model")
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(tensor, other.tensors[name], err_msg=name)
    assert one.description["facts"]["scores"] == other.description["facts"]["scores"]


@pytest.mark.slow
def test_two_workers_learn_as_one_process_does(reference, tmp_path, ray_session):
    found = []
    for workers in (0, 2):
        split = {"test": 0.0, "validation": 0.2}
        job = write_job(tmp_path, reference, workers=workers, split=split, patience=10)  # one training
        run_job(job, str(tmp_path / f"model-{workers}"))
        found.append(pq.read_table(tmp_path / f"model-{workers}" / "history.parquet").to_pandas())
    one, two = found
    # Masks are drawn by each worker for itself, and batch norms see a worker's share of a batch.
    np.testing.assert_allclose(one.train_loss, two.train_loss, rtol=0.25)
    assert two.val_accuracy.max() > 0.9


def test_types_left_out_are_in_the_report(reference, tmp_path):
    job = write_job(tmp_path, reference, unknown_curve=["NK"], epochs=2, members=1)
    run_job(job, str(tmp_path / "model"))
    curves = read_model(tmp_path / "model").description["facts"]["unknown_types"]
    assert list(curves) == ["NK"]
    recall = curves["NK"]["unknown_recall"]
    assert recall[0] == 0.0
    assert recall == sorted(recall)
    assert "Types that the reference does not have" in (tmp_path / "model" / "report.html").read_text()


def test_settings_stand_beside_other_keys_or_under_settings(reference, tmp_path):
    beside = parse_job("kind: train\nlearner: sims\nreference: a.h5ad\nlabel: x\nn_d: 32", "job", "j")
    under = parse_job("kind: train\nlearner: sims\nreference: [a.h5ad]\nlabel: x\nsettings: {n_d: 32}", "job", "j")
    assert beside == under
    assert beside.chosen.n_d == 32


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("n_dd: 3", "did you mean 'n_d'"),
        ("nonsense: 3", "nonsense: unknown key"),
        ("settings: {n_dd: 3}", "did you mean 'n_d'"),
        ("preset: defualt", "expected one of default"),
        ("gene_masking: 1.5", "gene_masking"),
        ("split: {test: 0.2, folds: 3}", "one of the two"),
        ("preset: released-tall\nsplit: {validation: 0}", "must be above 0"),
        ("workers: [3, 2]", "the smallest and the largest"),
    ],
)
def test_a_wrong_job_file_is_refused_with_its_faults(keys, told):
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        parse_job(f"kind: train\nlearner: sims\nreference: a.h5ad\nlabel: x\n{keys}", "job", "j")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"label": "celltype"}, "cell_type"),
        ({"reference": "nowhere.h5ad"}, "does not exist"),
        ({"split": {"test": {"donor": ["c"]}}}, "donor"),
        ({"split": {"test": {"doner": ["a"]}}}, "donor"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(keys, told, reference, tmp_path):
    with pytest.raises((UsageError, InputError, LearnerError), match=told):
        run_job(write_job(tmp_path, **{"reference": reference} | keys), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (
            {"split": {"test": {"donor": ["A"]}}},
            r"test: donor has no group 'A' \(did you mean 'a'\?\). There are: a, b.",
        ),
        ({"split": {"test": {"donor": ["a", "b"]}}}, "No sample is left to train on."),
        ({"split": {"folds": 5, "by": "donor"}}, "5 folds by donor need at least 5 groups, found 2: a, b."),
        ({"unknown_curve": ["nk"]}, r"unknown_curve: no class is called 'nk' \(did you mean 'NK'\?\)."),
        (
            {"label": "donor", "split": {"validation": 0.97, "test": 0}},
            "fractions|leave nothing|training cells or more",
        ),
    ],
)
def test_a_wrong_job_ends_in_exit_code_2_with_the_name_of_its_file(
    keys, told, reference, tmp_path, monkeypatch, capsys
):
    job = write_job(tmp_path, reference, **keys)
    for command in (["plan", str(job)], ["run", str(job), "--out", str(tmp_path / "model")]):
        monkeypatch.setattr("sys.argv", ["neurofleet", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 2, said
        assert re.search(told, said), said
        assert reference.name in said
    assert not (tmp_path / "model").exists()


def test_loggers_that_are_not_installed_are_told_by_plan(reference, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="The results of kind train go to a path, found s3://bucket/out"):
        run_job(write_job(tmp_path, reference, loggers=["csv"]), "s3://bucket/out")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for logger, package in (("mlflow", "mlflow-skinny sqlalchemy alembic"), ("wandb", "wandb")):
        with pytest.raises(UsageError, match=f"loggers: .* not installed: pip install {package}.$"):
            print_plan(write_job(tmp_path, reference, loggers=[logger]))


def test_a_sweep_says_in_its_plan_what_its_scheduler_and_this_machine_cannot_do(reference, tmp_path, capsys):
    search = {"learning_rate": [0.01, 0.02]}
    for trials, told in (
        ({"number": 2, "scheduler": "asha", "grace_epochs": 50}, "grace_epochs from 1 to below the epochs of a trial"),
        ({"number": 2, "scheduler": "pbt", "method": "optuna"}, "goes with the methods random and grid"),
        ({"number": 2, "scheduler": "pbt", "perturb_epochs": 9}, "would never be compared"),
    ):
        with pytest.raises(ClusterError, match=told) as refused:
            print_plan(write_job(tmp_path, reference, kind="sweep", search=search, trials=trials))
        assert refused.value.exit_code == 2
    large = write_job(tmp_path, reference, kind="sweep", search=search, trials={"number": 2, "cpus": 4096})
    print_plan(large)
    assert "a trial needs 4096 CPUs, and this machine has" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UsageError, match="a trial needs 4096 CPUs, and this machine has .* or a cluster by --address"):
        run_job(large, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_longest_of_the_epochs_that_are_searched_is_the_schedulers(reference, tmp_path):
    keys = {"search": {"epochs": [2, 9]}, "trials": {"number": 2, "scheduler": "asha", "grace_epochs": 5}}
    job = job_of(load_job(write_job(tmp_path, reference, kind="sweep", **keys)), tmp_path)
    assert trials_of(job, job.read()).scheduler.max_epochs == 9


def test_a_training_that_diverges_is_told_and_leaves_no_model(reference, tmp_path):
    keys = {"learning_rate": 1e38, "clip_norm": 1e30, "members": 1, "epochs": 2, "baselines": ["majority"]}
    with pytest.raises(TrainingFailed, match="the training has diverged: weights of the network are NaN") as failed:
        run_job(write_job(tmp_path, reference, **keys), str(tmp_path / "model"))
    assert failed.value.exit_code == 1
    assert not (tmp_path / "model" / "model.json").exists()


def test_an_event_for_each_start_and_end(model):
    events = [json.loads(line)["event"] for line in (model / "events.jsonl").read_text().splitlines()]
    assert events[0] == "started"
    assert "finished" in events


def test_a_plan_says_what_a_training_and_a_sweep_will_do(reference, tmp_path, monkeypatch, capsys):
    query = written(made_counts(30, seed=7, prefix="query")[:, :45].copy(), tmp_path / "query.h5ad")
    monkeypatch.setattr(sims_job, "time", Mock(thread_time=itertools.count(step=0.03).__next__))
    monkeypatch.setattr(learner_job, "time", Mock(process_time=lambda: 0.0))
    print_plan(write_job(tmp_path, reference, query=str(query)))
    told = capsys.readouterr().out
    assert "150 cells × 45 genes, 3 classes" in told
    assert "Trained on 45 of the reference's 60 genes (75.0 %)" in " ".join(told.split())
    assert "9 epochs of about 3 steps in all trainings" in told
    assert "streams cells" not in told
    monkeypatch.setattr("neurofleet.learners.sims.simple_methods.DENSE_VALUES", 30 * 60)
    trials = {"number": 5, "repeats": 2}
    print_plan(write_job(tmp_path, reference, kind="sweep", search={"n_d": [8, 16]}, trials=trials))
    told = capsys.readouterr().out
    assert "streams cells for a logistic regression (120 at most), too: about" in told
    assert "On top come about 5 s to start and to read the input." in told
    assert "Before that, 10 trials of up to 4 epochs: about 24 s one by one, of which about 23 s are to start" in told


def test_the_time_left_of_trainings_that_go_on_is_that_of_the_epochs_left(tmp_path, monkeypatch):
    """The first training was finished before, the second one had 7 of its 10 epochs."""
    job, task = Mock(), Mock()
    job.work.return_value, job.epoch_work.return_value = 40.0, 1.0
    job.spec.chosen.model_dump.return_value = {}
    job.write_task.return_value, task.epochs.return_value = {}, 10

    def resumed(training, folder, *, progress, **settings):
        for epoch in {"first": (), "second": (8, 9, 10), "third": range(1, 11)}[folder.name]:
            progress({"epoch": epoch, "seconds": 2.0, "train_loss": 0.5})
        return Mock(history=[], weights=dict)

    monkeypatch.setattr(learner_job, "train", resumed)
    monkeypatch.setattr("neurofleet.jobs.learners.learner_job.LINE_S", 0.0)
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(learner_job, "available_cpus", lambda: 4)
    assert learner_job.Trainings(job, Mock(), tmp_path, 0, console, cpus=1).ahead(task, "fourth", 1) is None
    trainings = learner_job.Trainings(job, Mock(), tmp_path, 0, console)
    assert trainings.ahead(task, "fourth", 1) is not None  # which another process does
    for name in ("first", "second", "third"):
        trainings(task, name, 1)
    lines = console.file.getvalue().splitlines()
    left = [re.search("about (.*) of training left", line)[1] for line in lines[:-1]]
    assert left == [duration(2.0 * n) for n in (12, 11, 10, *range(9, 0, -1))]
    assert "left" not in lines[-1]


def test_a_reference_that_is_streamed_is_learnt_as_well_and_a_quick_model_says_what_it_is(
    reference, tmp_path, monkeypatch
):
    monkeypatch.setattr(tabnet_training, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(sims_job, "QUICK_CELLS", 120)
    run_job(write_job(tmp_path, reference), str(tmp_path / "model"), quick=True)
    facts = read_model(tmp_path / "model").description["facts"]
    assert facts["scores"]["networks"]["accuracy"] > 0.8
    assert facts["quick"] == QUICK_NOTE
    assert QUICK_NOTE in repr(SimsModel.load(tmp_path / "model"))
    assert sum(facts["split"]["cells"][0].values()) == 120
    assert "120 of 150 labelled cells are used." in facts["notes"]
    assert not [note for note in facts["notes"] if "no label" in note]
    history = pq.read_table(tmp_path / "model" / "history.parquet").to_pandas()
    assert sorted(set(history.training)) == ["model", "shuffled-labels"]
