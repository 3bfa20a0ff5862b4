"""Predictions from a model folder and files of cells, and what may go wrong."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from neurofleet.errors import Interrupted, LearnerError, UsageError
from neurofleet.jobs.learners import prediction
from neurofleet.jobs.learners.prediction import PredictionOptions, Reading, about_of, predict_command, relabel_command
from neurofleet.learners.sims.cell_prediction import open_query
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.unknown_labels import threshold_for_coverage
from tests.jobs.small_model import small_model
from tests.learners.cells.made_cells import made_counts, written
from tests.learners.test_old_models import OLD


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def query(tmp_path_factory) -> Path:
    return written(made_counts(100, seed=5, prefix="query"), tmp_path_factory.mktemp("query") / "query.h5ad")


@pytest.fixture
def groups_of_16(monkeypatch):
    monkeypatch.setattr(prediction, "GROUP_CELLS", 16)


def predicted(model, query, out, reading=None, **wanted) -> pd.DataFrame:
    predict_command(model, Reading((str(query),), **(reading or {})), PredictionOptions(out, **wanted))
    return pq.read_table(out).to_pandas()


def about(path):
    return about_of(pq.read_schema(path), path)


def test_every_cell_has_its_row_in_order(model, query, tmp_path, groups_of_16):
    found = predicted(model, query, tmp_path / "p.parquet", probabilities=True)
    loaded = SimsModel.load(model)
    ((ids, values),) = open_query(loaded, query).blocks()
    expected = loaded.probabilities(values)
    assert list(found["cell_id"]) == list(ids) == [f"query{i}" for i in range(100)]
    np.testing.assert_allclose(found[[f"p.{name}" for name in loaded.classes]], expected, atol=1e-6)
    order = np.argsort(-expected, axis=1, kind="stable")
    for place in range(3):
        assert list(found[f"pred_{place}"]) == [loaded.classes[k] for k in order[:, place]]
        top = np.take_along_axis(expected, order[:, place : place + 1], 1)[:, 0]
        np.testing.assert_allclose(found[f"prob_{place}"], top, atol=1e-6)
    np.testing.assert_allclose(found["margin"], found["prob_0"] - found["prob_1"], atol=1e-6)
    np.testing.assert_allclose(found["entropy"], -(expected * np.log(expected)).sum(1), atol=1e-5)
    assert not found["unknown"].any()
    assert list(found["label"]) == list(found["pred_0"])
    assert (found["pred_0"] == made_counts(100, seed=5).obs["cell_type"].to_numpy()).mean() > 0.8
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 7


def test_the_table_says_where_it_comes_from(model, query, tmp_path):
    predicted(model, query, tmp_path / "p.parquet", unknown_below=0.6, top=2)
    told, head = about(tmp_path / "p.parquet"), json.loads((model / "model.json").read_text())
    assert (told["model"]["run"], told["model"]["sha256"]) == ("made", head["sha256"])
    assert told["temperature"] == head["description"]["calibration"]["temperature"]
    assert told["threshold"] == 0.6
    assert told["queries"][0]["n_shared"] == 60


def test_csv_and_h5ad_hold_the_same(model, query, tmp_path):
    before = query.read_bytes()
    found = predicted(model, query, tmp_path / "p.parquet", csv=True, h5ad=tmp_path / "q2.h5ad", unknown_below=0.7)
    text = pd.read_csv(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(text, found, check_dtype=False, check_exact=False, rtol=1e-5)
    copy, original = anndata.read_h5ad(tmp_path / "q2.h5ad"), anndata.read_h5ad(query)
    assert list(copy.obs_names) == list(found["cell_id"])
    assert list(copy.obs["sims_label"]) == list(found["label"])
    assert list(copy.obs["sims_class"]) == list(found["pred_0"])
    assert list(copy.obs["sims_unknown"]) == list(found["unknown"])
    np.testing.assert_array_equal(copy.obs["sims_prob"], found["prob_0"])
    np.testing.assert_array_equal(copy.obs["sims_outside"], found["distance"] > 1)
    np.testing.assert_array_equal(copy.obsm["X_sims_map"], found[["map_0", "map_1"]])
    told = copy.uns["sims"]
    assert list(told["classes"][copy.obsm["sims_probabilities"].argmax(1)]) == list(found["pred_0"])
    assert told["threshold"] == 0.7
    assert told["model"]["sha256"] == json.loads((model / "model.json").read_text())["sha256"]
    in_memory = SimsModel.load(model).predict(original, unknown_below=0.7)
    for name in ("sims_probabilities", "X_sims"):
        np.testing.assert_allclose(in_memory.obsm[name], copy.obsm[name], atol=1e-5)
    for name in copy.obs:
        same = np.allclose if copy.obs[name].dtype.kind == "f" else np.array_equal
        assert same(in_memory.obs[name], copy.obs[name]), name
    assert list(copy.obs["donor"]) == list(original.obs["donor"])
    assert (copy.X != original.X).nnz == 0
    assert query.read_bytes() == before


def test_a_query_of_another_format_becomes_h5ad(model, query, tmp_path):
    cells = anndata.read_h5ad(query)
    table = written(cells, tmp_path / "query.csv")
    found = predicted(model, table, tmp_path / "p.parquet", h5ad=tmp_path / "q.h5ad")
    copy = anndata.read_h5ad(tmp_path / "q.h5ad")
    assert list(copy.obs["sims_label"]) == list(found["label"])
    np.testing.assert_array_equal(copy.X.toarray(), cells.X.toarray())


def test_a_page_shows_labels_map_and_genes(model, tmp_path):
    query = written(made_counts(60, seed=5)[:, :40].copy(), tmp_path / "<b>.h5ad")
    predicted(model, query, tmp_path / "p.parquet", unknown_below=0.6, report=True, majority=0.0)
    page = (tmp_path / "p.html").read_text()
    assert "<b>" not in page
    assert page.count("<svg") == 3
    for words in (
        "by majority",
        "estimated from the others",
        "farther from the reference",
        "Genes that speak for each class",
    ):
        assert words in page


def test_several_files_are_told_apart(model, query, tmp_path):
    other = written(made_counts(30, seed=6, prefix="query"), tmp_path / "other.csv")
    predict_command(model, Reading((str(query), str(other))), PredictionOptions(tmp_path / "p.parquet"))
    both = pq.read_table(tmp_path / "p.parquet").to_pandas()
    alone = predicted(model, other, tmp_path / "other.parquet")
    assert list(both["file"]) == [str(query)] * 100 + [str(other)] * 30
    second = both[both["file"] == str(other)].drop(columns="file").reset_index(drop=True)
    pd.testing.assert_frame_equal(second, alone)


def test_another_threshold_is_set_without_the_model(model, query, tmp_path):
    kept = tmp_path / "model"
    shutil.copytree(model, kept)
    first = predicted(kept, query, tmp_path / "p.parquet", csv=True)
    shutil.rmtree(kept)
    limit = float(first["prob_0"].median())
    relabel_command(tmp_path / "p.parquet", limit, None, None, False)
    changed = pq.read_table(tmp_path / "p.parquet").to_pandas()
    assert 0 < changed["unknown"].sum() < 100
    assert list(changed["unknown"]) == list(first["prob_0"].astype(float) < limit)
    assert list(changed["label"]) == [
        "unknown" if u else p for u, p in zip(changed["unknown"], changed["pred_0"], strict=True)
    ]
    assert list(pd.read_csv(tmp_path / "p.csv")["label"]) == list(changed["label"])
    pd.testing.assert_frame_equal(changed.drop(columns=["label", "unknown"]), first.drop(columns=["label", "unknown"]))
    direct = predicted(model, query, tmp_path / "direct.parquet", unknown_below=limit)
    pd.testing.assert_frame_equal(changed, direct)
    assert about(tmp_path / "p.parquet")["threshold"] == limit
    relabel_command(tmp_path / "p.parquet", 0.0, None, tmp_path / "back.parquet", False)
    pd.testing.assert_frame_equal(pq.read_table(tmp_path / "back.parquet").to_pandas(), first)


def test_a_majority_smooths_labels_and_follows_the_threshold(model, query, tmp_path, groups_of_16, capsys):
    found = predicted(model, query, tmp_path / "p.parquet", majority=0.5, csv=True, h5ad=tmp_path / "q.h5ad")
    assert not [name for name in found if name.startswith(("coordinate", "p."))]
    votes = found.groupby("cluster")["label"].agg(lambda labels: labels.value_counts().iloc[0] / len(labels))
    np.testing.assert_allclose(found["majority_share"], votes[found["cluster"]], atol=1e-6)
    for _, cluster in found.groupby("cluster"):
        most = cluster["label"].value_counts()
        expected = most.index[most == most.iloc[0]] if most.iloc[0] >= 0.5 * len(cluster) else ["unknown"]
        assert cluster["majority"].iloc[0] in expected
    assert list(anndata.read_h5ad(tmp_path / "q.h5ad").obs["sims_majority"]) == list(found["majority"])
    relabel_command(tmp_path / "p.parquet", 1.0, None, None, False, tmp_path / "q.h5ad")
    changed = pq.read_table(tmp_path / "p.parquet").to_pandas()
    assert list(anndata.read_h5ad(tmp_path / "q.h5ad").obs["sims_label"]) == list(changed["label"])
    anndata.read_h5ad(tmp_path / "q.h5ad")[::-1].copy().write_h5ad(tmp_path / "q.h5ad")
    for other in (query, tmp_path / "q.h5ad"):
        with pytest.raises(UsageError, match="expected what `neurofleet predict --write-h5ad` wrote with"):
            relabel_command(tmp_path / "p.parquet", 0.5, None, None, False, other)
    assert (changed["majority"] == "unknown").mean() == (changed["unknown"].mean() == 1.0)
    assert "by majority" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.parquet", "q.h5ad"]


def test_an_old_model_says_that_it_holds_no_distances(query, tmp_path, capsys):
    predicted(OLD / "sims", query, tmp_path / "p.parquet", majority=0.0, report=True)
    assert "reference's map" not in (tmp_path / "p.html").read_text()
    assert "does not hold where its reference lies" in " ".join(capsys.readouterr().out.split())


def test_coverage_chooses_the_threshold_on_validation_cells(model, query, tmp_path):
    facts = json.loads((model / "model.json").read_text())["description"]["facts"]
    expected = threshold_for_coverage(facts["validation_top_probability"], 0.8)
    assert 0 < expected < 1
    predicted(model, query, tmp_path / "p.parquet", coverage=0.8)
    assert about(tmp_path / "p.parquet")["threshold"] == expected
    predicted(model, query, tmp_path / "other.parquet")
    relabel_command(tmp_path / "other.parquet", None, 0.8, None, False)
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "other.parquet").read_bytes()


def test_coverage_without_validation_cells_is_refused(model, query, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    head = json.loads((folder / "model.json").read_text())
    head["description"]["facts"] = {}
    (folder / "model.json").write_text(json.dumps(head))
    with pytest.raises(UsageError, match="validation cells"):
        predicted(folder, query, tmp_path / "p.parquet", coverage=0.8)


def test_shards_on_a_cluster_give_the_same_bytes(model, query, tmp_path, groups_of_16, ray_session):
    predicted(model, query, tmp_path / "here.parquet", unknown_below=0.5)
    predict_command(
        model,
        Reading((str(query),)),
        PredictionOptions(tmp_path / "there.parquet", unknown_below=0.5),
        workers=2,
    )
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.parquet", "there.parquet"]


def test_a_refusal_of_a_worker_is_told_as_it_is(model, tmp_path, groups_of_16, ray_session):
    cells = made_counts(3000, seed=6)
    cells.X.data[np.arange(len(cells.X.data)) == cells.X.indptr[100]] = np.nan
    query = written(cells, tmp_path / "query.h5ad")
    with pytest.raises(LearnerError, match=r"query\.h5ad, cells cell96 to cell111: .*1 NaN"):
        predict_command(model, Reading((str(query),)), PredictionOptions(tmp_path / "p.parquet"), workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["query.h5ad"]


def test_nothing_is_overwritten_unasked(model, query, tmp_path):
    out = tmp_path / "p.parquet"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        predicted(model, query, out)
    assert out.read_text() == "mine"
    with pytest.raises(UsageError, match="gone.h5ad: no such file"):  # what is read comes first
        predicted(model, tmp_path / "gone.h5ad", out)
    with pytest.raises(UsageError, match="is read"):
        predicted(model, query, tmp_path / "q.parquet", h5ad=query, overwrite=True)
    assert len(predicted(model, query, out, overwrite=True)) == 100


def test_an_interrupted_prediction_leaves_nothing(model, query, tmp_path, groups_of_16, monkeypatch):
    whole = prediction.predict_group

    def interrupted(model, queries, group, *others):
        if group.start >= 32:
            raise KeyboardInterrupt
        return whole(model, queries, group, *others)

    monkeypatch.setattr(prediction, "predict_group", interrupted)
    with pytest.raises(Interrupted):
        predicted(model, query, tmp_path / "p.parquet", csv=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"out": Path("p.csv")}, "--csv"),
        ({"unknown_below": 0.5, "coverage": 0.9}, "one of the two"),
        ({"coverage": 1.5}, "--coverage"),
    ],
)
def test_wrong_wishes_are_refused(model, query, tmp_path, wanted, told):
    with pytest.raises(UsageError, match=told):
        predict_command(model, Reading((str(query),)), PredictionOptions(**{"out": tmp_path / "p.parquet"} | wanted))


def test_a_description_without_its_parts_is_damaged(model, query, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for key, change in (("classes", ["B", "NK"]), ("settings", None)):
        head = json.loads((model / "model.json").read_text())
        head["description"][key] = change
        (folder / "model.json").write_text(json.dumps(head))
        with pytest.raises(LearnerError, match="damaged"):
            predicted(folder, query, tmp_path / "p.parquet")


def test_a_table_of_something_else_is_no_predictions(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="no predictions"):
        relabel_command(tmp_path / "other.parquet", 0.5, None, None, False)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UsageError, match="cannot be read"):
        relabel_command(tmp_path / "text.parquet", 0.5, None, None, False)


def test_real_cells_of_other_genes_are_refused(shared_data, model, tmp_path):
    with pytest.raises(LearnerError, match="shares none"):
        predicted(model, shared_data / "sims" / "pbmc_3tech_symphony.h5ad", tmp_path / "p.parquet")
