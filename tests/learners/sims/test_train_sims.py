"""A SIMS model from Python: trained on an AnnData or files; it labels, embeds and explains an AnnData."""

import signal
import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from neurofleet.errors import CellsRefused, Interrupted, LearnerError, UsageError
from neurofleet.learners import local_training, sims
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels
from neurofleet.learners.cells.gene_alignment import align
from neurofleet.learners.cells.normalisation import check_query, recognise
from neurofleet.learners.model_folder import ModelRefused, load_model
from neurofleet.learners.sims.cell_prediction import open_query
from neurofleet.learners.sims.labelled_reference import reference_of
from neurofleet.learners.sims.sims_classifier import state_of
from neurofleet.learners.sims.train_sims import prepare_reference
from tests.learners.cells.made_cells import made_counts, written

QUICK = {"n_d": 8, "n_a": 4, "epochs": 4, "batch_size": 32, "members": 2}


def trained(cells, **options):
    return sims.train(cells, "cell_type", **({"settings": QUICK, "baselines": (), "quiet": True} | options))


@pytest.fixture(scope="module")
def reference() -> anndata.AnnData:
    return made_counts(150)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("model") / "model"


@pytest.fixture(scope="module")
def model(reference, folder):
    return trained(reference, out=folder)


@pytest.fixture
def query() -> anndata.AnnData:
    return made_counts(40, seed=5, prefix="query")


def test_cells_in_memory_and_in_a_file_give_the_same_model(model, reference, tmp_path):
    from_file = trained(written(reference, tmp_path / "reference.h5ad"))
    ours, theirs = state_of(model.networks), state_of(from_file.networks)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    np.testing.assert_array_equal(model.linear.weights, from_file.linear.weights)
    assert model.calibration == from_file.calibration
    assert model.facts["scores"] == from_file.facts["scores"]
    assert (model.facts["data"]["files"], from_file.facts["data"]["files"]) == (["AnnData"], ["reference.h5ad"])


def test_a_trained_model_is_scored_and_calibrated_and_trained_again(model):
    assert model.facts["role"] == "test"
    assert model.facts["scores"]["sims"]["accuracy"] > 0.9
    assert model.facts["control"]["accuracy"] < 0.7
    assert model.calibration.n > 0
    assert model.facts["answer"]["linear_share"] == model.linear_share
    assert "The model answers with" in model.facts["answer"]["in_words"]
    assert any("trained on with training and validation cells" in note for note in model.facts["notes"])
    assert len(model.facts["gene_importance"]) == 60


def test_the_model_folder_opens_as_the_same_model(model, folder, query):
    loaded = load_model(folder)
    assert type(loaded) is sims.SimsModel
    pd.testing.assert_frame_equal(loaded.predict(query.copy()).obs, model.predict(query.copy()).obs)


def test_the_same_training_may_write_again_and_another_is_refused_before_it_begins(reference, folder, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()
    trained(reference, out=folder)
    assert (folder / "model.safetensors").read_bytes() == before
    monkeypatch.setattr("neurofleet.learners.sims.train_sims.fit_and_score", None)
    with pytest.raises(ModelRefused, match="another run"):
        trained(reference, out=folder, seed=2)


def test_batches_are_tested_as_a_whole(reference):
    cells = reference.copy()
    cells.obs["donor"] = np.resize(list("abcde"), len(cells))
    prepared = prepare_reference(open_cells(cells), "cell_type", batch="donor")
    donors = cells.obs["donor"].to_numpy()
    tested = set(donors[prepared.final.rows("test")])
    assert len(tested) == 1
    assert not tested & set(donors[prepared.final.rows("train")])
    assert not tested & set(donors[prepared.final.rows("validation")])
    folds = prepare_reference(open_cells(cells), "cell_type", batch="donor", folds=5)
    assert [set(donors[split.rows("test")]) for split in folds.splits] == [{name} for name in "abcde"]
    assert len(folds.final.rows("test")) == 0


def test_a_query_decides_the_genes_and_none_of_its_cells_is_used(reference, query, tmp_path):
    some = query[:, [3, 1, *range(20, 50)]].copy()
    again = reference[:12, some.var_names].copy()
    again.obs_names = [f"again{number}" for number in range(12)]
    path = written(anndata.concat([some, again]), tmp_path / "query.h5ad")
    labelled = reference.copy()
    labelled.var_names = [f"hg38_{name}" for name in labelled.var_names]
    labelled.obs.loc["cell3", "cell_type"] = None
    cells = open_cells(labelled, query=path, gene_names="ignore-prefix")
    assert (cells.shape, cells.queries[0].shape) == ((150, 32), (52, 32))
    np.testing.assert_array_equal(
        cells.read([7, 2]).toarray(), reference[[7, 2], list(cells.queries[0].genes)].X.toarray()
    )
    prepared = prepare_reference(cells, "cell_type", drop_unlabelled=True)
    assert prepared.reference.labels.shape == (150,)
    assert prepared.reference.in_query.tolist() == list(range(12))
    assert not set(range(12)) & set(
        np.concatenate([prepared.final.rows(role) for role in ("train", "validation", "test")])
    )
    notes = "\n".join(prepared.notes)
    assert "Trained on 32 of the reference's 60 genes (53.3 %): those that query.h5ad has as well" in notes
    assert "11 of 149 labelled cells are in query.h5ad as well" in notes
    how = prepared.reference.normalisation
    both = map(open_cells, (some, logged(some, 777.0)))
    same = [check_query(how, recognise(one)).apply(one.read(range(40))) for one in both]
    np.testing.assert_allclose(same[0].toarray(), same[1].toarray(), rtol=1e-4)
    some.X = some.X.toarray() - 0.99 * some.X.toarray().mean(0)
    with pytest.raises(CellsRefused, match=r"AnnData cannot be predicted.*has scaled values.*query_layer"):
        prepare_reference(open_cells(reference, query=some), "cell_type")


def logged(cells, target_sum) -> anndata.AnnData:
    cells = cells.copy()
    cells.X = sp.csr_matrix(np.log1p(cells.X.toarray() / cells.X.sum(1) * target_sum))
    return cells


def test_logs_are_scaled_over_the_genes_that_the_query_has(reference):
    logs, panel = logged(reference, 1e4), reference[:, 20:50].copy()
    for query, n_genes in ((panel, 30), (logged(panel, 777.0), 30), (logs[:, 15:].copy(), 45), (reference, 60)):
        cells = open_cells(logs, query=query.copy())
        made = reference_of(cells, read_labels(cells, "cell_type"))
        values = made.values(np.arange(150)).toarray()
        opened = open_cells(query)
        how, alignment = check_query(made.normalisation, recognise(opened)), align(cells.genes, opened.genes)
        np.testing.assert_allclose(how.apply_to_query(opened.read(range(150)), alignment).toarray(), values, rtol=1e-3)
        kept = np.expm1(logs[:, cells.genes].X.toarray()).sum(1)
        np.testing.assert_allclose(np.expm1(values).sum(1), np.median(kept), rtol=1e-3)
        assert values.shape == (150, n_genes)


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        (
            [f"ENSG{number:011d}" for number in range(60)],
            "shares none of the reference's 60.*by Ensembl ids.*gene_names=",
        ),
        (["Gene1", *(f"other{number}" for number in range(59))], "shares 1 of the reference's 60 genes.*too few"),
        ([f"gene{number}" for number in range(60)], "ignore-case would share 60|upper case would share 60"),
    ],
)
def test_a_query_of_other_genes_is_refused(reference, query, genes, words):
    query.var_names = genes
    with pytest.raises(CellsRefused, match=f"AnnData: .*{words}"):
        open_cells(reference, query=query)
    with pytest.raises(CellsRefused, match="given twice"):
        open_cells(reference, query=[query, reference])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"batch": "doner"}, LearnerError, "did you mean 'donor'"),
        ({"batch": "donor", "test": 0.0}, LearnerError, "whole batches"),
        ({"batch": "donor", "folds": 3}, LearnerError, "at least 3 groups"),
        ({"settings": {"epoch": 3}}, UsageError, "did you mean 'epochs'"),
        ({"settings": {"epochs": 0}}, UsageError, "epochs: .*found 0"),
        ({"preset": "defualt"}, UsageError, "did you mean 'default'"),
    ],
)
def test_what_cannot_be_used_is_refused(reference, options, error, words):
    with pytest.raises(error, match=words):
        trained(reference, **options)


def test_progress_is_on_standard_error_unless_quiet(reference, capfd):
    trained(reference, settings=QUICK | {"epochs": 1, "members": 1})
    assert capfd.readouterr() == ("", "")
    trained(reference, settings=QUICK | {"epochs": 1, "members": 1}, quiet=False)
    out, err = capfd.readouterr()
    assert out == ""
    assert "model: epoch 1 of 1 · training loss" in err
    assert "accuracy" in err
    assert "\r" not in err


def test_an_interrupted_training_says_so_and_writes_no_model(reference, tmp_path, monkeypatch):
    def interrupted(metrics):
        raise KeyboardInterrupt

    monkeypatch.setattr(local_training, "metrics_in_words", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="no model was written"):
        trained(reference, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert signal.getsignal(signal.SIGINT) is handler


def test_predictions_are_written_into_the_cells(model, query):
    ((_, values),) = open_query(model, query).blocks()
    expected = model.probabilities(values)
    labelled = model.predict(query, unknown_below=0.9)
    assert labelled is query
    obs = labelled.obs
    assert list(obs["sims_class"]) == [model.classes[k] for k in expected.argmax(1)]
    np.testing.assert_allclose(obs["sims_prob"], expected.max(1), atol=1e-6)
    assert list(obs["sims_unknown"]) == list(obs["sims_prob"].astype(float) < 0.9)
    assert list(obs["sims_label"]) == [
        "unknown" if unknown else name for unknown, name in zip(obs["sims_unknown"], obs["sims_class"], strict=True)
    ]
    assert (obs["sims_class"].astype(str) == obs["cell_type"].astype(str)).mean() > 0.8
    assert labelled.obsm["X_sims"].shape == (40, 8 + 3)
    assert labelled.uns["sims"]["genes"] == {"shared": 60, "missing": 0}
    assert "donor" in obs


def test_a_coverage_gives_the_threshold(model, query):
    labelled = model.predict(query, coverage=0.5)
    assert 0 < labelled.obs["sims_unknown"].sum() < 40
    with pytest.raises(UsageError, match="one of the two"):
        model.predict(query, coverage=0.5, unknown_below=0.5)


@pytest.mark.parametrize("ending", [".h5ad", ".zarr", ".csv"])
def test_files_are_predicted_as_cells_in_memory(model, query, tmp_path, ending):
    path = written(query, tmp_path / f"query{ending}")
    labelled = model.predict(str(path))
    in_memory = model.predict(query)
    for name in ("sims_label", "sims_prob", "sims_entropy"):
        np.testing.assert_array_equal(labelled.obs[name].to_numpy(), in_memory.obs[name].to_numpy())
    np.testing.assert_array_equal(labelled.obsm["X_sims"], in_memory.obsm["X_sims"])


def test_the_embedding_is_what_the_logits_are_made_of(model, query):
    alone = replace(model, linear=None, calibration=replace(model.calibration, temperature=1.0))
    vectors = alone.embed(query).obsm["X_sims"]
    ((_, values),) = open_query(alone, query).blocks()
    member = alone.networks.members[0]
    with torch.inference_mode():
        decided, skipped = torch.from_numpy(vectors).split([8, 3], 1)
        logits, _ = member(alone.networks.look(alone.network_input(values)))
        np.testing.assert_allclose(member.head(decided) + skipped, logits, atol=1e-4)
        assert (member.head(decided) - logits).abs().max() > 0.1  # the skip has its part


def test_genes_that_speak_for_classes(model, query):
    tables = model.explain(query, cell_ids=["query3"], top=4)
    assert set(tables.classes["class"]) == set(model.classes)
    assert list(tables.cells["cell_id"]) == ["query3"] * 4
    assert tables.overall["cells"].unique() == [40]
    assert "3 classes" in repr(tables)
    with pytest.raises(UsageError, match="Did you mean query3"):
        model.explain(query, cell_ids=["query33333"[:6] + "x"])


def test_too_few_genes_are_refused(model, query):
    with pytest.raises(CellsRefused, match="AnnData: the query lacks"):
        model.predict(query[:, :5].copy())


def test_a_model_is_described(model):
    text = repr(model)
    assert "3 classes: B, NK, T" in text
    assert "60 genes" in text
    assert "150 cells of AnnData, label 'cell_type'" in text
    assert model.facts["trained_at"] in text


def test_an_anndata_opens_as_its_file_does(reference, tmp_path):
    from_file = open_cells(written(reference, tmp_path / "reference.h5ad"))
    for matrix in (reference.X, sp.csc_matrix(reference.X), reference.X.toarray().astype(np.float64)):
        data = reference.copy()
        data.X = matrix
        cells = open_cells(data)
        np.testing.assert_array_equal(cells.read(np.arange(150)).toarray(), from_file.read(np.arange(150)).toarray())
        assert list(cells.cell_ids) == list(from_file.cell_ids)
    data.layers["counts"] = data.X
    data.raw = data
    assert open_cells(data, layer="counts").shape == open_cells(data, layer="raw").shape == (150, 60)
    with pytest.raises(CellsRefused, match="no layer 'count'. It has X, raw, counts"):
        open_cells(data, layer="count")
    with pytest.raises(CellsRefused, match="Expected an AnnData or the path"):
        open_cells({"X": 1})


def test_several_sources_are_one_set(reference, tmp_path):
    path = written(made_counts(30, seed=3), tmp_path / "more.h5ad")
    cells = open_cells([reference, path])
    assert cells.shape == (180, 60)
    assert set(cells.obs["source_file"]) == {"AnnData", str(path)}


def test_several_files_are_predicted_as_one(model, query, tmp_path):
    files = [written(query[:25].copy(), tmp_path / "a.h5ad"), written(query[25:].copy(), tmp_path / "b.csv")]
    labelled = model.predict(files)
    assert list(labelled.obs_names) == list(query.obs_names)
    np.testing.assert_array_equal(labelled.obs["sims_prob"], model.predict(query).obs["sims_prob"])
    assert model.predict([query[:25].copy(), files[1]]).n_obs == 40


def test_cells_of_the_reference_are_warned_of(model, reference, query, tmp_path):
    with pytest.warns(UserWarning, match="20 of 60 cells are in the reference that the model was trained on"):
        model.predict(anndata.concat([reference[:20], query]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(query)
        replace(model, known_cells=None).predict(reference[:20].copy())


def test_checks_hold_in_memory_as_in_files(model, query):
    mixed = query.copy()
    values = mixed.X.toarray()
    values[30:] = np.log1p(values[30:] / values[30:].sum(1, keepdims=True) * 1e4)
    mixed.X = values
    with pytest.raises(CellsRefused, match="AnnData: values are not of one kind"):
        model.predict(mixed)
    renamed = query.copy()
    renamed.var["symbol"], renamed.var_names = list(renamed.var_names), [f"ENSG{i}" for i in range(60)]
    with pytest.raises(CellsRefused, match="would share 60.*gene_names='symbol'"):
        model.predict(renamed)
    with pytest.warns(UserWarning, match="names of the var column 'symbol'"):
        labelled = model.predict(renamed, gene_names="symbol")
    np.testing.assert_array_equal(labelled.obs["sims_prob"], model.predict(query.copy()).obs["sims_prob"])
    halves = query.copy()
    halves.X = sp.csr_matrix(halves.X.toarray() * 0.9)
    assert (model.predict(halves, values="counts").obs["sims_class"] == model.predict(query).obs["sims_class"]).all()
