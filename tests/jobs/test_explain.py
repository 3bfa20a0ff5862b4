"""The genes that speak for each class, as tables, pictures and a page."""

import html
import re
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.explanation import ExplanationOptions, explain_command
from neurofleet.jobs.learners.explanation_page import NO_SIGNATURE, ONE_MEMBER
from neurofleet.jobs.learners.prediction import Reading
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels
from neurofleet.learners.local_training import train_here
from neurofleet.learners.sims.cell_prediction import open_query
from neurofleet.learners.sims.gene_importance import explain, top_genes
from neurofleet.learners.sims.labelled_reference import reference_of
from neurofleet.learners.sims.reference_fit import fit
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.sims.tabnet_settings import SimsSettings
from neurofleet.learners.splits import make_split
from tests.jobs.small_model import small_model
from tests.learners.cells.made_cells import made_counts, written


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def query(tmp_path_factory) -> Path:
    return written(made_counts(50, seed=5, prefix="query"), tmp_path_factory.mktemp("query") / "query.h5ad")


@pytest.fixture(scope="module")
def explained(model, query, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "explain"
    explain_command(model, Reading((str(query),)), ExplanationOptions(out, cells=("query7", "query3"), top=5))
    return out


def by_cell(model, values):
    """Each cell alone: class, and for each member attention and contribution; the linear contribution."""
    found = []
    for row in range(values.shape[0]):
        one = values[row]
        k = int(model.log_probabilities(one).argmax())
        seen = model.networks.look(model.network_input(one)).detach().requires_grad_()
        attention, contribution = np.zeros((2, len(model.networks.members), len(model.genes)))
        for number, member in enumerate(model.networks.members):
            logits, steps = member(seen)
            (gradient,) = torch.autograd.grad(logits[0, k] - logits[0].mean(), seen)
            contribution[number, model.inputs.columns] = (gradient * seen).detach().numpy()[0]
            mask = sum(step.decision.sum() * step.mask[0] for step in steps).detach().numpy()
            attention[number, model.inputs.columns] = mask / mask.sum()
        weights = model.linear.weights[:, k] - model.linear.weights.mean(1)
        found.append((k, attention, contribution, model.linear.scaled(one.toarray())[0] * weights))
    return found


def test_means_over_classes_agree_with_cells_one_by_one(model, query):
    loaded = SimsModel.load(model)
    opened = open_query(loaded, query)
    found = explain(loaded, (values for _, values in opened.blocks(size=9)))
    ((_, values),) = opened.blocks()
    cells = by_cell(loaded, values)
    assert found.n_cells.sum() == 50
    for k in range(len(loaded.classes)):
        own = [cell for cell in cells if cell[0] == k]
        assert len(own) == found.n_cells[k] > 0
        np.testing.assert_allclose(found.attention[:, k], np.mean([c[1] for c in own], 0), atol=1e-5)
        np.testing.assert_allclose(found.contribution[:, k], np.mean([c[2] for c in own], 0), atol=1e-4)
        np.testing.assert_allclose(found.linear_contribution[k], np.mean([c[3] for c in own], 0), atol=1e-4)
        rows = [row for row, cell in enumerate(cells) if cell[0] == k]
        np.testing.assert_allclose(found.value[k], values[rows].toarray().mean(0), rtol=1e-5)
    everyone = np.mean([cell[2] for cell in cells], 0)
    np.testing.assert_allclose(found.global_contribution(), everyone, atol=1e-4)
    np.testing.assert_allclose(found.global_attention, np.mean([cell[1] for cell in cells], 0), atol=1e-5)


def test_genes_are_ranked_by_contribution_with_their_overlap_beside(model, query, explained):
    loaded = SimsModel.load(model)
    found = explain(loaded, (values for _, values in open_query(loaded, query).blocks()))
    table = pq.read_table(explained / "genes.parquet").to_pandas()
    assert list(table["class"].unique()) == list(loaded.classes)
    for k, (_, part) in enumerate(table.groupby("class", sort=True)):
        assert list(part["rank"]) == list(range(1, len(part) + 1))
        assert (np.diff(part["contribution"]) <= 0).all()
        one, other = (top_genes(found.contribution[member, k]) for member in range(2))
        assert part["overlap_contribution"].unique() == pytest.approx([len(one & other) / len(one | other)])
        both = set(part["gene"][part["members_in_top"] == 2])
        assert both == {loaded.genes[gene] for gene in one & other}
        first = part.iloc[0]
        gene = loaded.genes.index(first["gene"])
        assert first["contribution"] == pytest.approx(found.whole_contribution()[k, gene], rel=1e-5)
        assert first["attention_sd"] == pytest.approx(found.attention[:, k, gene].std(), abs=1e-6)
        assert first["dispersion"] == pytest.approx(found.dispersion()[k, gene], rel=1e-5)


def test_genes_by_classes_are_written_for_scanpy(model, query, tmp_path):
    cells = anndata.read_h5ad(query)[:, ::-1]
    cells = cells[:, cells.var_names != "Gene3"].copy()
    cells.var_names = [{"Gene5": "other"}.get(name, name) for name in cells.var_names]
    loaded = SimsModel.load(model)
    found = loaded.explain(cells, into_varm=True).means
    explain_command(
        model,
        Reading((str(written(cells, tmp_path / "q.h5ad")),)),
        ExplanationOptions(tmp_path / "out", h5ad=tmp_path / "explained.h5ad"),
    )
    copy = anndata.read_h5ad(tmp_path / "explained.h5ad")
    assert list(copy.uns["sims_explanation"]["classes"]) == list(loaded.classes)
    assert copy.uns["sims_explanation"]["cells"].sum() == 50
    place = copy.var_names.get_loc("Gene9")
    top = [sum(9 in top_genes(member[k]) for member in found.contribution) / 2 for k in range(3)]
    for data in (cells, copy):
        contribution, in_top = data.varm["sims_contribution"], data.varm["sims_in_top"]
        assert contribution.shape == (59, 3)
        assert np.isnan(contribution).sum() == 3
        assert np.isnan(contribution[data.var_names.get_loc("other")]).all()
        np.testing.assert_allclose(contribution[place], found.whole_contribution()[:, 9], atol=1e-5)
        assert list(in_top[place]) == top
    with pytest.raises(UsageError, match="into_varm writes into an AnnData"):
        loaded.explain(query, into_varm=True)


def test_a_class_is_known_by_its_own_genes_or_those_of_others_that_are_low(explained):
    table = pq.read_table(explained / "genes.parquet").to_pandas()
    top = table[table["rank"] <= 8]
    own = top["gene"].str.removeprefix("Gene").astype(int) % 3 == top["class"].map({"B": 0, "NK": 1, "T": 2})
    assert own.mean() > 0.5
    assert (own == (top["value"] > top["value_all"])).mean() > 0.95
    lower = table[table["value"] < table["value_all"]]
    assert set(lower["direction"]) == {"lower"}
    assert set(table.drop(lower.index)["direction"]) == {"higher"}
    page = (explained / "explain.html").read_text()
    for gene in lower[lower["rank"] <= 5]["gene"]:  # its absence speaks, and the page says so
        assert f"{gene} ↓" in page


def test_single_cells_are_explained_on_demand(model, query, explained):
    loaded = SimsModel.load(model)
    table = pq.read_table(explained / "cells.parquet").to_pandas()
    assert table["cell_id"].tolist() == ["query3"] * 5 + ["query7"] * 5
    ((_, values),) = open_query(loaded, query).blocks()
    k, attention, contribution, linear = by_cell(loaded, values[[7]])[0]
    whole = contribution.mean(0) * (1 - loaded.linear_share) + linear * loaded.linear_share
    order = np.argsort(-whole)[:5]
    part = table[table["cell_id"] == "query7"]
    assert part["class"].unique().tolist() == [loaded.classes[k]]
    assert part["gene"].tolist() == [loaded.genes[gene] for gene in order]
    np.testing.assert_allclose(part["contribution"], whole[order], rtol=1e-4)
    np.testing.assert_allclose(part["attention"], attention.mean(0)[order], atol=1e-5)


def test_the_page_has_pictures_and_says_how_far_to_trust_it(explained):
    text = (explained / "explain.html").read_text()
    assert NO_SIGNATURE in text
    assert text.count("<svg") == 2
    assert "Members' overlap" in html.unescape(text)
    for name in ("genes.png", "dots.png"):
        assert (explained / name).read_bytes().startswith(b"\x89PNG")
    assert len((explained / "genes.csv").read_text().splitlines()) == 1 + 3 * 5


def test_one_network_alone_has_no_agreement(model, query, tmp_path, capsys):
    loaded = SimsModel.load(model)
    loaded.networks.members = loaded.networks.members[:1]
    one = replace(loaded, settings=loaded.settings.model_copy(update={"members": 1}))
    one.save(tmp_path / "one", run="made")
    out = tmp_path / "out"
    explain_command(tmp_path / "one", Reading((str(query),)), ExplanationOptions(out, cells=("query7",), top=5))
    said, page = "".join(capsys.readouterr()), (out / "explain.html").read_text()
    for table in ("genes.parquet", "global.parquet", "cells.parquet"):
        columns = pq.read_table(out / table)
        for name in ("overlap_contribution", "overlap_attention", "contribution_sd", "attention_sd"):
            assert columns[name].null_count == len(columns) > 0
    for text in (said, html.unescape(page)):
        assert ONE_MEMBER in " ".join(text.split())
        assert not re.search(r"\bnan\b|\bNone\b", text)
    assert "nan" not in (out / "genes.csv").read_text()


def test_nothing_is_overwritten_unasked(model, query, explained):
    before = (explained / "explain.html").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        explain_command(model, Reading((str(query),)), ExplanationOptions(explained))
    assert (explained / "explain.html").read_bytes() == before
    with pytest.raises(UsageError, match="gone.h5ad: no such file"):
        explain_command(model, Reading(("gone.h5ad",)), ExplanationOptions(explained))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"cells": ("query77",)}, "1 of 1 cell is not in the query: query77. Did you mean query7"),
        ({"weighting": "both"}, "decision or uniform"),
        ({"cells_file": Path("absent.txt")}, "absent.txt"),
        ({"h5ad": Path("copy.csv")}, "ends in .h5ad"),
    ],
)
def test_wrong_wishes_are_refused(model, query, tmp_path, wanted, told):
    with pytest.raises(UsageError, match=told):
        explain_command(model, Reading((str(query),)), ExplanationOptions(tmp_path / "out", **wanted))
    assert not (tmp_path / "out").exists()


MARKERS = {
    "B": {"MS4A1", "CD79A"},
    "NK": {"GNLY", "KLRD1"},
    "Mono_CD14": {"S100A8", "CD14"},
    "Mono_CD16": {"FCGR3A"},
    "T_CD8": {"CD8A", "CD8B"},
}


@pytest.mark.slow
def test_known_markers_come_out_on_top(shared_data, tmp_path):
    cells = open_cells(shared_data / "sims" / "pbmc_3tech_symphony.h5ad")
    labels = read_labels(cells, "cell_type")
    reference = reference_of(cells, labels)
    split = make_split(
        cells.cell_ids, np.asarray(labels.classes)[labels.codes], test={"donor": ["5p"]}, columns=cells.obs
    )
    model = fit(reference, split, SimsSettings(epochs=8), train_here).model
    found = explain(model, [reference.values(split.rows("test"))])
    for name, markers in MARKERS.items():
        k = model.classes.index(name)
        top = {model.genes[gene] for gene in top_genes(found.whole_contribution()[k])}
        assert markers <= top, (name, markers - top)
    seen = found.n_cells > 0
    assert found.overlap("contribution")[seen].mean() > 3 * found.overlap("attention")[seen].mean()
