"""NeuPRINT jobs: trained, interrupted, resumed, compared, refused."""

import json
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from neurofleet.errors import InputError, Interrupted, LearnerError, UsageError
from neurofleet.jobs.job_file import load_job, parse_job
from neurofleet.jobs.job_kinds import write_report
from neurofleet.jobs.learners import evaluation_pieces, learner_job
from neurofleet.jobs.learners.embedding import embed_command
from neurofleet.jobs.learners.neuprint_report import NeuprintReport
from neurofleet.jobs.results.results_command import results_command
from neurofleet.jobs.run_job import print_plan, run_job
from neurofleet.jobs.status import print_status
from neurofleet.learners.model_folder import read_model
from neurofleet.learners.neuprint.neuprint_model import NeuprintModel
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.probes import KINDS
from neurofleet.learners.splits import read_splits
from tests.learners.neuprint.synthetic_animals import synthetic_animal

SEEN = ["running", "population"]
LAYOUT = {"labels": {"class": "type"}, "behaviour": ["running"]}
SMALL = {"phi": 3, "window": 40, "warm_up": 8, "lags": 4, "epochs": 2, "least_neurons": 4, "layout": LAYOUT}
N_NEURONS = 30
HEADER = "kind: train\nlearner: neuprint\nrecordings: [a.npz]\nlabel: class\n"


def write_animal(folder: Path, number: int, n_frames: int = 200, **arrays) -> Path:
    recording, types = synthetic_animal(f"s{number}", n_neurons=N_NEURONS, n_frames=n_frames, seed=number)
    kept = {"activity": recording.activity, "rate_hz": recording.rate_hz, "animal": recording.animal}
    kept |= {"type": types, "running": recording.behaviour[:, 0]}
    path = folder / f"s{number}.npz"
    np.savez(path, **(kept | arrays))
    return path


@pytest.fixture(scope="module")
def animals(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("animals")
    return [str(write_animal(folder, number)) for number in range(3)]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """UMAP compiles for longer than all else here takes; forests of 300 trees come next."""
    few = replace(KINDS["trees"], grid=({"trees": 10, "min_samples_leaf": 1},))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurofleet.jobs.learners.embedding.plane_map", lambda vectors: np.asarray(vectors)[:, :2])
        patch.setitem(KINDS, "trees", few)
        yield


def write_job(folder: Path, animals: list[str], **keys) -> Path:
    methods = ["phi", "phi_and_hand", "random"]
    job = {"kind": "train", "learner": "neuprint", "recordings": animals, "label": "class"}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job | {"methods": methods, "loggers": []} | SMALL | keys))
    return path


@pytest.fixture(scope="module")
def model(animals, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with (folder / "told.txt").open("w") as told, redirect_stderr(told):
        run_job(write_job(folder, animals), str(folder / "model"))
    return folder / "model"


def test_each_step_after_the_comparison_is_told(model):
    told = (model.parent / "told.txt").read_text()
    steps = ["split 1, ", "training with all neurons", "writing embeddings", "writing the report"]
    places = [told.rindex(step) for step in steps]
    assert places == sorted(places)


def test_a_model_folder_is_complete(model, animals):
    facts = read_model(model).description["facts"]
    assert facts["data"]["animals"] == ["s0", "s1", "s2"]
    splits = read_splits(model / "split.parquet")
    assert facts["split"]["fingerprint"]
    for split, animal in zip(splits, ("s0", "s1", "s2"), strict=True):
        assert {name.split("/")[0] for name in split.sample_ids[split.role == "test"]} == {animal}
    page = (model / "report.html").read_text()
    assert 'aria-label="recorded and predicted activity"' in page
    assert 'aria-label="accuracy of the methods"' in page
    assert "Neurons of each class and animal" in page
    loaded, recordings = NeuprintModel.load(model), open_recordings(animals, LAYOUT)
    np.testing.assert_allclose(loaded.infer(recordings).phi, loaded.phi, atol=1e-5)
    table = pq.read_table(model / "embeddings.parquet").to_pandas()
    np.testing.assert_array_equal(table[["phi_0", "phi_1", "phi_2"]].to_numpy(), loaded.phi)
    data = anndata.read_h5ad(model / "embeddings.h5ad")
    np.testing.assert_array_equal(data.obsm["X_phi"], loaded.phi)
    assert list(data.obs["animal"]) == list(recordings.labels("animal"))
    assert list(data.obs["class"]) == list(table["class"]) == list(recordings.labels("class"))
    examples = pq.read_table(model / "examples.parquet").to_pandas()
    assert set(examples["class"]) == set(recordings.labels("class"))
    for name, of_neuron in examples.groupby("neuron_id"):
        (session,) = [each for each in recordings.recordings if each.session == of_neuron["session"].iloc[0]]
        row = list(recordings.neurons.index[recordings.number(session)]).index(name)
        activity = session.activity[of_neuron["frame"], row]
        np.testing.assert_allclose(of_neuron["recorded"], activity, atol=1e-5)
        errors = of_neuron["recorded"] - of_neuron["predicted"]
        assert of_neuron["r2"].iloc[0] == pytest.approx(
            1 - (errors**2).sum() / ((activity - activity.mean()) ** 2).sum()
        )
        assert of_neuron["frame"].min() >= 0.75 * len(session.activity)
        before = session.activity[of_neuron["frame"] - 1, row]
        of_change = 1 - ((activity - before)[1:] ** 2).mean() / activity.var()
        assert of_neuron["r2_repeated"].iloc[0] == pytest.approx(of_change, abs=1e-4)
        assert of_neuron["rate_hz"].iloc[0] == session.rate_hz


def test_the_table_is_that_of_the_predictions(model):
    facts = read_model(model).description["facts"]
    frame = pq.read_table(model / "predictions.parquet").to_pandas()
    frame["right"] = frame["true"] == frame["predicted"]
    assert [(row["method"], row["probe"]) for row in facts["methods"]] == [
        ("phi", "knn"),
        ("phi", "linear"),
        ("phi", "mlp"),
        ("phi + hand statistics", "trees"),
        ("random", ""),
    ]
    for row in facts["methods"]:
        own = frame[(frame["method"] == row["method"]) & (frame["probe"] == row["probe"])]
        each = own.groupby("animal")["right"].mean().to_numpy()
        assert row["accuracy"] == pytest.approx(each.mean())
        half = 4.303 * each.std(ddof=1) / np.sqrt(3)  # Student's t with 2 degrees of freedom
        assert row["accuracy_high"] == pytest.approx(min(each.mean() + half, 1.0), abs=1e-3)
    rates = own.groupby("animal")["true"].agg(lambda names: names.value_counts().max()).sum()
    assert facts["majority_rate"] == pytest.approx(rates / len(own))


def test_a_model_names_the_neurons_of_other_recordings(model, tmp_path, capsys):
    """By the probe in its folder; the animal was not seen, and its file has no types."""
    path = write_animal(tmp_path, 7, n_frames=400)
    unlabelled = np.load(path)
    np.savez(tmp_path / "new.npz", **{name: unlabelled[name] for name in unlabelled.files if name != "type"})
    targets = tmp_path / "new.parquet", tmp_path / "new.h5ad"
    embed_command(model, [str(tmp_path / "new.npz")], None, *targets, False, unknown_below=1.0)
    with pytest.raises(LearnerError, match="no array 'speed'"):
        embed_command(model, [str(tmp_path / "new.npz")], "{behaviour: [speed]}", tmp_path / "no.parquet", None, False)
    table = pq.read_table(targets[0]).to_pandas()
    assert table.columns[:3].tolist() == ["neuron_id", "predicted", "label"]
    assert (table["label"] == table["predicted"].where(table["probability"] == 1.0, "unknown")).all()
    chances = table[[name for name in table.columns if name.startswith("p.")]]
    assert [name.removeprefix("p.") for name in chances] == sorted(set(unlabelled["type"]))
    assert (chances.idxmax(axis=1) == "p." + table["predicted"]).all()
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    np.testing.assert_array_equal(chances.max(axis=1), table["probability"])
    loaded = NeuprintModel.load(model)
    again = loaded.naming.probabilities(table[["phi_0", "phi_1", "phi_2"]].to_numpy(np.float32))
    np.testing.assert_array_equal(again, chances)
    majority = np.unique(unlabelled["type"], return_counts=True)[1].max() / N_NEURONS
    assert (table["predicted"].to_numpy() == unlabelled["type"]).mean() > majority + 0.2
    data = anndata.read_h5ad(targets[1])
    assert data.obsm["X_phi"].shape == (N_NEURONS, 3)
    assert data.obs["predicted"].tolist() == table["predicted"].tolist()
    replace(loaded, naming=None, space=None).save(tmp_path / "bare", run="bare")
    capsys.readouterr()
    layout, out = "{labels: {outside: type, predicted: type}}", tmp_path / "bare.parquet"
    embed_command(tmp_path / "bare", [str(path)], layout, out, None, False, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["labels"], told["outside"]) == (N_NEURONS, None, None)
    assert pq.read_table(out)["outside"].to_pylist() == unlabelled["type"].tolist()


def test_the_kept_probe_is_the_best_by_inner_validation(model, capsys):
    stored = read_model(model).description
    naming, kept = stored["facts"]["naming"], stored["naming"]
    assert set(naming["tried"]) == {"knn", "linear", "mlp"}
    assert naming["tried"][naming["probe"]] == max(naming["tried"].values())
    assert kept["probe"]["kind"] == naming["probe"]
    print_status(str(model))
    told = capsys.readouterr().out
    assert "finished" in told
    assert "names neurons by a probe of Phi" in told
    verdict = NeuprintReport.read(model).verdict()
    assert verdict[0].startswith("what embed names neurons by: Phi, ")


def test_interrupted_and_run_again_it_ends_in_the_same_model(model, animals, tmp_path, monkeypatch, capsys):
    calls = []

    def stop_in_the_second_fold() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    job = write_job(tmp_path, animals)
    monkeypatch.setattr(learner_job, "raise_if_interrupted", stop_in_the_second_fold)
    with pytest.raises(Interrupted):
        run_job(job, str(tmp_path / "model"))
    assert not (tmp_path / "model" / "model.json").exists()
    capsys.readouterr()
    print_status(str(tmp_path / "model"))
    told = capsys.readouterr().out
    assert "not finished; it is not running" in told
    assert "fold-0-model: epoch 2 of 2, 54 training samples" in told
    assert "fold-1-model: epoch 2 of 2" in told
    assert "fold-2" not in told
    assert "pieces of the evaluation that are done: 1" in told
    monkeypatch.setattr(learner_job, "raise_if_interrupted", lambda: None)
    run_job(job, str(tmp_path / "model"))
    for name in ("model.safetensors", "predictions.parquet", "split.parquet", "embeddings.parquet"):
        assert (tmp_path / "model" / name).read_bytes() == (model / name).read_bytes(), name
    told = capsys.readouterr().err
    assert "fold-2-model: epoch" in told
    assert "fold-0-model: epoch" not in told


def test_an_evaluation_has_the_same_answers_and_does_no_piece_twice(model, animals, tmp_path, monkeypatch, capsys):
    keys = {"kind": "evaluate", "seeds": 1, "methods": ["phi", "random"], "ablation": "growing"}
    job = write_job(tmp_path, animals, **keys)
    out = tmp_path / "out"
    run_job(job, str(out))
    told = capsys.readouterr().err
    assert "12 of 12\n" in told
    assert "Phi, own past" in told
    assert "Phi, +population, kNN" in " ".join(told.replace("│", " ").split())
    frame = pq.read_table(out / "predictions.parquet").to_pandas()
    assert set(frame["method"]) == {"none", "+running", "+population", "random"}
    trained = pq.read_table(model / "predictions.parquet").to_pandas()
    one, other = (table[table["method"] == "random"].reset_index(drop=True) for table in (frame, trained))
    assert one.equals(other)  # the same neurons, splits and answers
    before = (out / "evaluation.json").read_bytes()
    (out / "evaluation.json").unlink()
    (out / "pieces" / "split-1-random.json").unlink()
    done = []
    do_piece = evaluation_pieces.do_piece
    monkeypatch.setattr(
        evaluation_pieces, "do_piece", lambda payload: done.append(payload["piece"].name) or do_piece(payload)
    )
    run_job(job, str(out))
    assert done == ["random"]
    assert (out / "evaluation.json").read_bytes() == before
    assert json.loads(before)["inputs"] == {"none": [], "+running": ["running"], "+population": SEEN}


def test_the_class_task_tests_the_subclass_tasks_neurons(tmp_path):
    """Types C, D and E are subclasses of one class; the other class has none."""
    types = np.resize(list("AACDE"), N_NEURONS)
    sub = np.where(types == "A", "", types)
    coarse = np.where(types == "A", "EC", "IN")
    path = write_animal(tmp_path, 0, sub=sub, coarse=coarse)
    layout = {"labels": {"class": "coarse", "subclass": "sub"}, "behaviour": ["running"]}
    keys = {"kind": "evaluate", "methods": ["random"], "split": "pooled", "layout": layout, "seeds": 2}
    run_job(write_job(tmp_path, [str(path)], **keys, label="subclass"), str(tmp_path / "fine"))
    run_job(write_job(tmp_path, [str(path)], **keys, split_of="subclass"), str(tmp_path / "coarse"))
    told = json.loads((tmp_path / "coarse" / "evaluation.json").read_text())
    assert told["split"]["split_of"] == "subclass"
    assert any("as in the split of subclass" in note for note in told["notes"])
    assert told["data"]["neurons_of_class"] == {"EC": 12, "IN": 18}
    pairs = zip(*(read_splits(tmp_path / name / "split.parquet") for name in ("coarse", "fine")), strict=True)
    for one, finer in pairs:
        for role in ("test", "validation"):
            rows = one.rows(role)
            assert rows[coarse[rows] == "IN"].tolist() == finer.rows(role).tolist()
            assert (coarse[rows] == "EC").any()


def test_results_and_report_come_again_from_the_folder(model, capsys):
    page = (model / "report.html").read_text()
    write_report(model)
    assert len((model / "report.html").read_text()) == pytest.approx(len(page), rel=0.01)
    results_command(str(model), None, json=True)
    assert json.loads(capsys.readouterr().out)["control"]["valid"]


@pytest.mark.slow
def test_two_workers_learn_what_one_process_does_and_publish_it(model, animals, tmp_path, ray_session):
    from neurofleet.cluster.store.published_tables import published_table

    job = write_job(tmp_path, animals, workers=2, name="two-workers", methods=["random"])
    run_job(job, str(tmp_path / "model"))
    one, two = NeuprintModel.load(model), NeuprintModel.load(tmp_path / "model")
    np.testing.assert_allclose(two.phi, one.phi, atol=0.02)
    table = published_table("two-workers", "embeddings.parquet")
    np.testing.assert_array_equal(table["phi_0"].to_numpy(), two.phi[:, 0])


def test_a_trial_is_scored_on_frames_that_were_held_out(animals, tmp_path):
    job = write_job(tmp_path, animals, kind="sweep", search={"phi_rate": [1e-6, 0.1]}, trials={"method": "grid"})
    payload = {"spec": load_job(job).model_dump(mode="json"), "folder": str(tmp_path)}
    found, told = [], []
    for rate in (1e-6, 0.1):
        found.append(learner_job.run_trial(payload, {"phi_rate": rate}, 1, tmp_path / f"trial-{rate}", told.append))
    assert [row["epoch"] for row in told] == [1, 2, 1, 2]
    assert found[0]["val_loss"] > found[1]["val_loss"]
    assert found[0]["val_r2"] < found[1]["val_r2"]


def test_a_plan_says_what_a_job_will_do(animals, tmp_path, capsys):
    print_plan(write_job(tmp_path, animals, kind="sweep", search={"phi": [2, 4]}, trials={"number": 2}))
    told = capsys.readouterr().out
    assert "cross-animal, 3 splits" in told
    assert "2 epochs of 40 steps" in told
    assert "4 times: about" in told
    assert "Before that, 2 trials of up to 2 epochs" in told
    print_plan(
        write_job(tmp_path, animals, kind="evaluate", dynamics="gru", hidden=4, seeds=2, epochs=1, least_steps=0)
    )
    told = capsys.readouterr().out
    assert "gru of behaviour, population; 1 epoch of 6 steps" in told


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("epoch: 3", "did you mean 'epochs'"),
        ("dynamics: bilineal", "dynamics"),
        ("animal: s1", "goes with `split: single-animal`"),
        ("split: cross", "cross-animal"),
        ("split_of: subclass", "cross-animal split tests all neurons"),
        ("split: pooled\nsplit_of: class", "expected another label than `label:`"),
        ("kind: evaluate\nablation: grown", "growing"),
        ("methods: [phy]", "phi"),
        ("parts: [centre]", "need delta_um"),
        ("kind: evaluate\nmethods: [random]\nablation: true", "must have phi"),
        ("kind: sweep\nsearch: {loss: [mse, nll]}\ntrials: {method: grid}", "metric: val_r2"),
        ("kind: sweep\nsearch: {phy: [2]}\ntrials: {method: grid}", "did you mean 'phi'"),
        ("kind: sweep\ntrain_share: 1.0\nsearch: {phi: [2]}\ntrials: {method: grid}", "train_share"),
    ],
)
def test_a_wrong_job_file_is_refused_with_its_faults(keys, told):
    with pytest.raises(UsageError, match=told):
        parse_job((HEADER if "kind:" not in keys else HEADER.replace("kind: train\n", "")) + keys, "job", "j")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"label": "clas"}, "did you mean 'class'"),
        ({"recordings": ["nowhere.npz"]}, "does not exist"),
        ({"recordings": 1}, "at least 2 animals, found 1"),
        ({"window": 400}, "fewer than the window of 400"),
        ({"window": 180}, "are trained on, fewer than the window"),
        ({"parts": ["centre", "surround"], "delta_um": 50.0}, "has no positions"),
        ({"layout": {"labels": {"class": "typ"}}}, "did you mean 'type'"),
        ({"layout": {"labels": {"class": "type"}}}, "has no behaviour"),
        ({"split": "single-animal"}, "needs one animal of s0, s1, s2"),
        ({"least_neurons": 100}, "at least 2 classes of 100"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(keys, told, animals, tmp_path):
    if keys.get("recordings") == 1:
        keys = {"recordings": animals[:1]}
    with pytest.raises((UsageError, InputError, LearnerError), match=told):
        run_job(write_job(tmp_path, **{"animals": animals} | keys), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()


def test_constant_traces_are_dropped_and_a_recording_of_nothing_else_refused(tmp_path):
    activity = np.random.default_rng(0).standard_normal((200, 30)).astype(np.float32)
    activity[:, :3] = 1.0
    paths = [str(write_animal(tmp_path, 0)), str(write_animal(tmp_path, 1, activity=activity))]
    job = write_job(tmp_path, paths, kind="evaluate", methods=["random"], seeds=1)
    run_job(job, str(tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert told["data"]["n_neurons"] == 57
    assert any("3 neurons are left out: constant" in note for note in told["notes"])
    write_animal(tmp_path, 1, activity=np.ones((200, 30), np.float32))
    with pytest.raises((InputError, LearnerError), match="all 30 traces are constant"):
        run_job(job, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()
