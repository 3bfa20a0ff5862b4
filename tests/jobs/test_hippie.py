"""Jobs of HIPPIE: a folder with everything in it, pieces not done twice, controls that catch a leak."""

import json
import shutil
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.decomposition import PCA

from neurofleet.errors import InputError, Interrupted, LearnerError, UsageError
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.job_kinds import write_report
from neurofleet.jobs.learners import evaluation_pieces
from neurofleet.jobs.learners.embedding import embed_command
from neurofleet.jobs.learners.hippie_job import methods_of
from neurofleet.jobs.learners.hippie_report import HippieReport, invalid
from neurofleet.jobs.results.results_command import results_command
from neurofleet.jobs.run_job import print_plan, run_job
from neurofleet.jobs.status import print_status
from neurofleet.learners.hippie.hippie_model import HippieModel
from neurofleet.learners.units.unit_files import open_units
from tests.learners.hippie.small_units import QUICK, write_units

SMALL = {name: getattr(QUICK, name) for name in ("width", "features", "fusion", "latent", "batch_size")}
SMALL |= {"members": 1, "epochs": 8, "pretrain_epochs": 1}
TRAIN = {
    "kind": "train",
    "learner": "hippie",
    "units": "units.npz",
    "label": "cell_type",
    "group": "animal",
    "folds": 2,
    "methods": ["raw_knn", "head"],
    **SMALL,
}


def write_job(folder: Path, content: dict) -> Path:
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(content))
    return job


@pytest.fixture(autouse=True, scope="module")
def quick_maps():
    """Maps by principal components: UMAP takes long to compile, and what it draws is not tested."""
    with pytest.MonkeyPatch.context() as patched:
        for module in ("embedding", "hippie_job"):
            patched.setattr(f"neurofleet.jobs.learners.{module}.plane_map", lambda x: PCA(2).fit_transform(x))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hippie")
    write_units(folder / "units.npz")
    write_units(folder / "others.npz", seed=1, first=100, technology="other")
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A finished training with a pool."""
    job = write_job(folder, TRAIN | {"pool": [{"units": "others.npz"}], "name": "made"})
    with (folder / "told.txt").open("w") as told, redirect_stderr(told):
        run_job(job, str(folder / "trained"))
    return folder / "trained"


def test_each_step_after_the_comparison_is_told(trained, folder):
    told = (folder / "told.txt").read_text()
    compared = told.index("test labels exchanged: done")
    steps = ["training with all 48 labelled units", "epoch 8 of 8", "classical classifiers: ", "writing embeddings"]
    places = [told.index(step, compared) for step in [*steps, "writing the report"]]
    assert places == sorted(places)


def test_a_training_leaves_a_model_that_names_new_units(trained, folder, tmp_path, capfd):
    model = HippieModel.load(trained)
    units = open_units([write_units(tmp_path / "new.npz", seed=7, first=500)])
    guess = np.array(model.classes)[model.probabilities(units).argmax(1)]
    assert (guess == units.column("cell_type")).mean() >= 0.9
    assert model.facts["data"]["n_pool"] == 48
    targets = tmp_path / "e.parquet", tmp_path / "e.h5ad"
    embed_command(trained, [str(tmp_path / "new.npz")], None, *targets, False, unknown_below=0.8)
    printed, told = capfd.readouterr()
    with pytest.raises(UsageError, match="expected 'pandas' or 'anndata', found 'numpy'"):
        model.embed(units, to="numpy")
    with pytest.raises(UsageError, match="a probability from 0 to 1, found 60"):
        model.predict(units, unknown_below=60)
    assert units.notes
    assert all(note in told for note in units.notes)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table["class"].to_pylist() == guess.tolist()
    labels = np.where(table["probability"].to_numpy() < 0.8, "unknown", guess)
    assert table["label"].to_pylist() == labels.tolist()
    assert model.predict(units, unknown_below=0.8)["label"].tolist() == labels.tolist()
    assert not model.lacking(units)
    assert "No unit has isi" in model.lacking(replace(units, present=units.present & [True, False, True]))[0]
    assert f"{(labels == labels[0]).sum()}  " in next(line for line in printed.splitlines() if labels[0] in line)
    data = anndata.read_h5ad(tmp_path / "e.h5ad")
    assert data.obsm["X_fusion"].shape == (48, 16)
    assert list(data.obs_names) == units.unit_ids.tolist()


def test_embeddings_of_all_units_lie_in_the_folder(trained, folder):
    table = pq.read_table(trained / "embeddings.parquet")
    model = HippieModel.load(trained)
    fusion, mean = model.vectors(open_units([folder / "units.npz"])).values()
    assert np.stack([table[f"fusion_{i}"] for i in range(16)], 1) == pytest.approx(fusion, abs=1e-6)
    assert np.stack([table[f"mean_{i}"] for i in range(4)], 1) == pytest.approx(mean, abs=1e-6)
    assert set(table.column_names) >= {"unit_id", "class", "animal", "umap_0", "umap_1"}
    assert anndata.read_h5ad(trained / "embeddings.h5ad").obsm["X_umap"].shape == (48, 2)


def test_mean_signals_of_the_classes_lie_in_the_folder(trained, folder):
    units = open_units([folder / "units.npz"])
    signals = pq.read_table(trained / "signals").to_pandas()
    assert set(signals["set"]) == {"made"}
    for name in set(units.column("cell_type")):
        rows = units.column("cell_type") == name
        isi = signals[(signals["class"] == name) & (signals["signal"] == "isi")]
        np.testing.assert_allclose(isi["mean"], units.isi[rows].mean(0), atol=1e-6)
        assert set(isi["units"]) == {rows.sum()}
        assert list(isi["at_ms"][:2]) == [0.5, 1.5]
        waveform = signals[(signals["class"] == name) & (signals["signal"] == "waveform")]
        assert waveform["mean"][waveform["at_ms"] == 0.0].item() == pytest.approx(-1.0)


def test_scores_stand_beside_baselines_and_controls(trained, capsys):
    (one,) = HippieReport.read(trained).sets
    assert set(one.methods) == {"raw_knn", "head"}
    assert one.comparison.split == "by group"
    assert one.methods["head"].balanced_accuracy >= 0.9
    assert set(one.shuffled) == {"head"}
    assert all(control.valid and len(control.each) == 5 for control in one.shuffled.values())
    assert one.permuted.valid
    assert one.permuted.changed_labels > 0
    assert not invalid(one)
    results_command(str(trained), None, json=True)
    assert json.loads(capsys.readouterr().out)["sets"] == [HippieModel.load(trained).facts]
    results_command(str(trained), None, json=False)
    print_status(str(trained))
    told = capsys.readouterr().out
    assert "raw KNN" in told
    assert "shuffled" in told


def test_the_report_shows_what_there_is(trained):
    place = Path(write_report(trained))
    text = place.read_text()
    for part in ("split by animal (6)", "Class by class", "UMAP", "mean signals of the classes of made", "others.npz"):
        assert part in text
    assert 'aria-label="balanced accuracy of the methods"' in text
    assert "INVALID" not in text


def test_a_finished_training_is_not_repeated(trained, folder, capsys):
    before = (trained / "model.safetensors").read_bytes()
    run_job(folder / "job.yaml", str(trained))
    assert "finished already" in capsys.readouterr().err
    assert (trained / "model.safetensors").read_bytes() == before


def test_a_training_that_was_cut_off_ends_in_the_same_model(trained, folder, monkeypatch):
    """Its last piece and the model are gone, as after a kill; the first ones are not done again."""
    whole = [(trained / name).read_bytes() for name in ("model.json", "model.safetensors")]
    for name in ("model.json", "model.safetensors", "embeddings.parquet", "pieces/made/permuted.json"):
        (trained / name).unlink()
    done = []
    do = evaluation_pieces.do_piece
    monkeypatch.setattr(
        evaluation_pieces, "do_piece", lambda payload: done.append(payload["piece"].work) or do(payload)
    )
    run_job(folder / "job.yaml", str(trained))
    assert done == ["permuted"]
    assert [(trained / name).read_bytes() for name in ("model.json", "model.safetensors")] == whole


def test_an_evaluation_compares_methods_on_each_set_and_does_no_piece_twice(folder, monkeypatch):
    sets = [
        {"name": "one", "units": "units.npz", "label": "cell_type", "group": "animal"},
        {"name": "two", "units": "others.npz", "label": "cell_type"},
    ]
    content = {"kind": "evaluate", "learner": "hippie", "sets": sets, "folds": 2, "repeats": 1, **SMALL}
    content |= {"epochs": 2}
    job = folder / "evaluate.yaml"
    job.write_text(yaml.safe_dump(content | {"methods": ["raw_knn", "frozen", "mean_knn", "head"]}))
    undisturbed = evaluation_pieces._seconds_of

    def killed_before_it_heard_of_any(*given):
        for _ in undisturbed(*given):
            pass
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(evaluation_pieces, "_seconds_of", killed_before_it_heard_of_any)
    with pytest.raises(Interrupted):
        run_job(job, str(folder / "evaluated"))
    monkeypatch.setattr(evaluation_pieces, "_seconds_of", undisturbed)
    monkeypatch.setattr(evaluation_pieces, "do_piece", None)  # all are kept: none is done again
    run_job(job, str(folder / "evaluated"))
    sets = HippieReport.stored(folder / "evaluated")["sets"]
    assert [one["set"] for one in sets] == ["one", "two"]
    assert all(one["pretrained"] for one in sets)
    table = pq.read_table(folder / "evaluated/scores.parquet").to_pandas()
    assert table.groupby("set")["method"].count().tolist() == [4, 4]
    assert set(table["split"]) == {"by group", "random"}
    predictions = pq.read_table(folder / "evaluated/predictions").to_pandas()
    by_hand = predictions[(predictions["set"] == "one") & (predictions["method"] == "head")]
    accuracy = (by_hand["true"] == by_hand["predicted"]).mean()
    kept = table[(table["set"] == "one") & (table["method"] == "head")]["accuracy"].item()
    assert accuracy == pytest.approx(kept)
    text = Path(write_report(folder / "evaluated")).read_text()
    assert "pretrained on other units" in text


def test_methods_that_need_a_pool_are_left_out_without_one():
    job = "kind: train\nlearner: hippie\nunits: u.npz\nlabel: cell_type\n"
    spec = parse_job(job, "job", "j")
    methods, told = methods_of(spec, has_pool=False)
    assert set(spec.methods) - set(methods) == {"frozen", "mean_knn"}
    assert any("random projection" in one for one in told)
    assert methods_of(spec, has_pool=True) == (spec.methods, [])
    contrastive = parse_job(job + "preset: contrastive", "job", "j")
    assert set(spec.methods) - set(methods_of(contrastive, has_pool=True)[0]) == {"mean_knn"}
    reconstructing = parse_job(job + "reconstruction_weight: 0.1", "job", "j")
    assert set(spec.methods) - set(methods_of(reconstructing, has_pool=False)[0]) == {"frozen"}


def test_the_plan_counts_networks(folder, capsys):
    print_plan(write_job(folder, TRAIN | {"pool": [{"units": "others.npz"}], "name": "made"}))
    told = capsys.readouterr().out
    assert "6 groups kept apart" in told
    assert "units of each class: narrow 24, wide 24" in told
    assert "and classical classifiers, fitted 1 time, about " in told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "cell_typ"}, "did you mean"),
        ({"group": "animl"}, "did you mean"),
        ({"classes": ["narow", "wide"]}, "no class 'narow'"),
        ({"classes": ["wide"]}, "expected two or more"),
        ({"units": "gone.npz"}, "does not exist"),
        ({"waveform_rate_hz": 4}, "waveform_rate_hz: expected under `layout:`, found beside it"),
        ({"widht": 4}, r"widht: unknown key .did you mean 'width'"),
        ({"preset": "papers"}, "expected one of default, paper"),
        ({"folds": 7}, "groups"),
        ({"layout": {"waveform_rate": 3}}, "waveform_rate"),
        ({"modalities": ["psth"]}, "modalities are waveform, isi, acg"),
        ({"pool": [{"units": "units.npz"}]}, "also in the pretraining pool"),
        ({"methods": ["mean_knn"]}, "nothing is left to do.*reconstruction_weight"),
        ({"learner": "hipie"}, "did you mean 'hippie'"),
    ],
)
def test_wrong_input_is_said_before_anything_is_written(folder, tmp_path, changes, said):
    job = write_job(tmp_path, TRAIN | changes)
    shutil.copy(folder / "units.npz", tmp_path)
    with pytest.raises((UsageError, InputError, LearnerError), match=said) as caught:
        run_job(job, str(tmp_path / "out"))
    assert isinstance(caught.value, UsageError) or caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_one_animal_only_is_refused(tmp_path):
    write_units(tmp_path / "units.npz")
    job = write_job(tmp_path, TRAIN | {"layout": {"keep": {"animal": ["m1"]}}})
    with pytest.raises((InputError, LearnerError), match="animal|group"):
        run_job(job, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_leak_makes_the_scores_invalid(folder):
    (one,) = HippieReport.read(folder / "trained").sets
    leaking = replace(one.shuffled["head"], valid=False, balanced_accuracy=0.98)
    one = replace(one, shuffled={"head": leaking})
    assert "INVALID: head with shuffled labels does better than chance" in invalid(one)[0]
