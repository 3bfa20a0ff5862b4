"""A fit of a small reference: what it is trained on, kept, and stored as."""

import itertools
import math
import re
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from neurofleet.errors import LearnerError
from neurofleet.fresh_process import ProcessFailed
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels
from neurofleet.learners.cells.cell_matrix import MatrixPart, MemorySource
from neurofleet.learners.label_controls import shuffle_control
from neurofleet.learners.local_training import train_here
from neurofleet.learners.model_folder import ModelRefused
from neurofleet.learners.sims.expression_baselines import fit_neighbours
from neurofleet.learners.sims.held_out_scores import cross_validate, facts, fit_and_test
from neurofleet.learners.sims.labelled_reference import Reference, reference_of
from neurofleet.learners.sims.logistic_regression import ABSENT_BIAS
from neurofleet.learners.sims.masked_gene_pretraining import encoder_state, reconstruction_loss
from neurofleet.learners.sims.reference_fit import fit, predict_log, shuffled_scores, trained_networks
from neurofleet.learners.sims.simple_methods import SimpleFits, SimpleMethods, fit_simple_methods, work_of
from neurofleet.learners.sims.sims_classifier import state_of
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.sims.streamed_regression import _Descent, _fitted, fit_streamed, seconds_of
from neurofleet.learners.sims.tabnet_settings import SimsSettings, settings_of
from neurofleet.learners.splits import ROLES, make_folds
from tests.learners.cells.made_cells import made_counts, written
from tests.learners.sims.small_reference import QUICK, small_reference, small_split


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return small_reference(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def split(reference):
    return small_split(reference)


@pytest.fixture(scope="module")
def fitted(reference, split):
    return fit(reference, split, QUICK, train_here)


def same(one: SimsModel, other: SimsModel) -> bool:
    ours, theirs = state_of(one.networks), state_of(other.networks)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_clear_classes_are_learnt(fitted, reference, split):
    rows = split.rows("test")
    predicted = predict_log(fitted.model, reference, rows).argmax(1)
    assert (predicted == reference.labels[rows]).mean() > 0.9


def test_the_kept_model_has_gone_on_with_all_but_test_cells(reference, split, monkeypatch):
    tasks = []

    def told(task, name, seed):
        tasks.append(task)
        return train_here(task, name, seed)

    fitted = fit(reference, split, QUICK, told)
    known = np.sort(np.concatenate([split.rows("train"), split.rows("validation")]))
    first, longer = tasks
    np.testing.assert_array_equal(first.train_rows, split.rows("train"))
    np.testing.assert_array_equal(longer.train_rows, known)
    assert longer.epochs() < first.epochs()
    begun = state_of(longer.classifier().networks)
    assert all(torch.equal(begun[name], tensor) for name, tensor in state_of(fitted.validated.networks).items())
    assert not same(fitted.model, fitted.validated)
    assert (fitted.model.linear.C, fitted.model.linear.scaling) == (
        fitted.validated.linear.C,
        fitted.validated.linear.scaling,
    )
    assert not np.array_equal(fitted.model.linear.weights, fitted.validated.linear.weights)
    assert fitted.model.calibration.n == fitted.choice.calibration.n == len(split.rows("validation"))
    role = np.where(split.role == "validation", "train", split.role)
    monkeypatch.setattr("neurofleet.learners.sims.simple_methods.DENSE_VALUES", 50 * len(reference.cells.genes))
    without = fit(reference, replace(split, role=role), QUICK, train_here)
    subsample = f"logistic regression beside the networks was fitted to .* of {len(known)} cells"
    assert [bool(re.search(subsample, "\n".join(one.notes))) for one in (fitted, without)] == [False, True]
    assert without.choice is None
    assert without.model.calibration.temperature == 1.0
    assert without.model.linear_share == 0.5


def test_test_cells_decide_nothing(fitted, reference, split):
    labels = reference.labels.copy()
    rows = split.rows("test")
    labels[rows] = np.random.default_rng(0).permutation(labels[rows])
    again = fit(replace(reference, labels=labels), split, QUICK, train_here)
    assert same(fitted.model, again.model)
    assert fitted.model.calibration == again.model.calibration
    np.testing.assert_array_equal(fitted.model.linear.weights, again.model.linear.weights)


def test_probabilities_are_of_all_classes_and_mix_networks_and_linear_model(fitted, reference, split):
    values = reference.values(split.rows("test"))
    model = replace(fitted.model, calibration=replace(fitted.model.calibration, temperature=1.0))
    parts = model.parts(values)
    expected = 0.5 * np.exp(parts["networks"]) + 0.5 * np.exp(parts["linear"])
    np.testing.assert_allclose(model.probabilities(values), expected, atol=1e-9)
    np.testing.assert_allclose(model.probabilities(values).sum(1), 1.0)
    flatter = replace(model, calibration=replace(model.calibration, temperature=2.0)).probabilities(values)
    assert (flatter.max(1) < expected.max(1)).all()


def test_a_stored_model_predicts_the_same(fitted, reference, split, tmp_path):
    values = reference.values(split.rows("test"))
    fitted.model.save(tmp_path / "model", run="a")
    loaded = SimsModel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.probabilities(values), fitted.model.probabilities(values))
    assert loaded.settings == fitted.model.settings
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]
    with pytest.raises(ModelRefused):
        fitted.validated.save(tmp_path / "model", run="b")


def test_linear_shares_of_nothing_and_all(reference, split):
    values = reference.values(split.rows("test"))
    none = fit(reference, split, QUICK.model_copy(update={"linear_share": 0.0}), train_here).model
    assert none.linear is None
    np.testing.assert_array_equal(none.log_probabilities(values), none.parts(values)["networks"])
    alone = fit(reference, split, QUICK.model_copy(update={"linear_share": 1.0}), train_here).model
    np.testing.assert_array_equal(alone.log_probabilities(values), alone.parts(values)["linear"])


def test_exact_statistics_are_those_of_the_training_cells(reference, split):
    """With them, evaluation gives what training mode gives for all cells as one batch, no gene hidden."""
    settings = QUICK.model_copy(update={"gene_masking": 0.0, "virtual_batch_size": 1000, "skip": False})
    task = reference.task(split.rows("train"), split.rows("validation"), settings)
    networks = trained_networks(task, train_here(task, "model", 1), 1)
    values = torch.from_numpy(task.used_values(task.cells.read(task.train_rows)).toarray())
    with torch.no_grad():
        evaluated = networks(values)[0][0]
        trained = networks.train()(values)[0][0]
    n = len(values)
    # Running variances are the unbiased ones, n / (n - 1) larger than a batch's own.
    torch.testing.assert_close(evaluated, trained, atol=20.0 / n, rtol=20.0 / n)


def test_the_released_settings_train_and_keep_their_best_epoch_rules(reference, split):
    settings = settings_of("released-tall", {"epochs": 2})
    model = fit(reference, split, settings, train_here).model
    assert model.linear is None
    assert len(model.networks.members) == 1
    assert model.networks.row_norm
    assert torch.equal(model.networks.sd, torch.ones_like(model.networks.sd))


class Leaking(Reference):
    """Its values carry the label, as a feature file does whose rows are sorted by class and numbered."""

    def values(self, rows):
        leaking = super().values(rows).tolil()
        leaking[:, 0] = 10.0 * self.labels[rows][:, None]
        return leaking.tocsr()


def test_the_control_has_cells_of_every_class(reference, split, monkeypatch):
    monkeypatch.setattr("neurofleet.learners.sims.reference_fit.CONTROL_CELLS", 10)
    labels = np.zeros_like(reference.labels)
    labels[split.rows("train")[:3]] = 1
    tasks = []

    def told(task, name, seed):
        tasks.append(task)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        shuffled_scores(replace(reference, labels=labels), split, QUICK, told)
    of_class = np.bincount(tasks[0].labels[tasks[0].train_rows])
    assert of_class[1] == 3
    assert of_class[0] < 13


def test_labels_that_leak_into_the_values_fail_the_shuffle_control(reference, split):
    settings = QUICK.model_copy(update={"linear_share": 1.0})
    leaking = Leaking(**vars(reference))
    for cells, valid in ((reference, True), (leaking, False)):
        control = shuffle_control([shuffled_scores(cells, split, settings, train_here)])
        assert control.valid == valid


def test_scores_stand_beside_their_baselines_and_the_control(fitted, reference, split, monkeypatch):
    monkeypatch.setattr("neurofleet.learners.sims.simple_methods.WORTH_A_PROCESS", 0)
    again, tested = fit_and_test(reference, split, QUICK, train_here, baselines=["majority", "logistic"])
    found = facts([tested], reference)
    assert found["role"] == "test"
    assert found["control"]["valid"]
    assert found["scores"]["sims"]["n"] == len(split.rows("test"))
    assert found["baselines"]["majority"]["accuracy"] == found["scores"]["sims"]["majority_rate"]
    assert found["baselines"]["logistic"]["accuracy"] == found["scores"]["linear"]["accuracy"]
    # The same numbers as without another process.
    np.testing.assert_array_equal(again.model.linear.weights, fitted.model.linear.weights)
    assert again.choice == fitted.choice


def test_without_test_cells_baselines_are_not_fitted_to_those_that_are_scored(reference):
    labels = np.random.default_rng(0).permutation(reference.labels)
    random, split = replace(reference, labels=labels), small_split(reference, test=0.0, validation=0.3)
    fits = fit_simple_methods(work_of(random, split, linear=True, again=True, names=["logistic", "raw_knn"], seed=1))
    (x, y), (scored, true) = ((random.values(split.rows(role)), labels[split.rows(role)]) for role in ROLES[:2])
    guess = {
        "logistic": fits.validated.logits(scored.toarray()).argmax(1),
        "raw_knn": fit_neighbours(x.toarray(), y, 3, seed=1).predict(scored.toarray()),
    }
    for name, predicted in guess.items():
        assert fits.baselines[name].scores.accuracy == pytest.approx((predicted == true).mean())
        assert fits.baselines[name].scores.accuracy < 0.55
    assert len(fits.kept.held_out_probabilities) == len(x.toarray()) + len(true)


def test_many_cells_are_streamed_where_a_tuned_regression_sees_few(tmp_path, monkeypatch):
    cells = made_counts(1800, 90)
    rng = np.random.default_rng(1)  # most counts say nothing, so that some dozens of cells are not enough
    cells.X = sp.csr_matrix(cells.X.multiply(rng.random(cells.shape) < 0.1) + rng.poisson(1.0, cells.shape))
    opened = open_cells(written(cells, tmp_path / "many.h5ad"))
    reference = reference_of(opened, read_labels(opened, "cell_type"))
    split = small_split(reference)
    train, validation = split.rows("train"), split.rows("validation")
    names = ["logistic", "majority"]
    arguments = {"linear": True, "again": False, "names": names, "seed": 1, "epochs": 9}
    assert work_of(reference, split, **arguments).streamed is None
    monkeypatch.setattr("neurofleet.learners.sims.simple_methods.DENSE_VALUES", 90 * 90)
    work = work_of(reference, split, **arguments)
    fits = fit_simple_methods(work)
    assert (work.streamed.n_cells, fits.n_cells) == (len(train), len(train))
    with monkeypatch.context() as patched:
        clock = Mock(thread_time=itertools.count().__next__)
        patched.setattr("neurofleet.learners.sims.streamed_regression.time", clock)
        n_steps = 4 * math.ceil(len(train) / 32)
        assert seconds_of(work.streamed) == n_steps * (1 + 3)  # a second to read a batch, and for a step of each size
    np.testing.assert_array_equal(work.streamed.train_rows, train)
    np.testing.assert_array_equal(work.streamed.judged_rows, validation)
    x, true = reference.values(split.rows("test")).toarray(), reference.labels[split.rows("test")]
    right = (fits.kept.logits(x).argmax(1) == true).mean()
    assert right > (fits.tuned.logits(x).argmax(1) == true).mean() + 0.1
    assert f"itted to {len(train):,} of {len(train):,} cells" in fits.baselines["logistic"].notes[0]
    tested, known = work.scored.toarray(), work.scored_labels
    assert fits.baselines["logistic"].scores.accuracy == (fits.kept.logits(tested).argmax(1) == known).mean()
    # Without validation cells, and where these are scored, others that the tuned one has not seen choose.
    for gone in ("validation", "test"):
        other = replace(split, role=np.where(split.role == gone, "train", split.role))
        streamed = work_of(reference, other, **arguments | {"again": True}).streamed
        rows = np.concatenate([streamed.train_rows, streamed.judged_rows])
        assert len(streamed.judged_rows) == 128
        np.testing.assert_array_equal(np.sort(rows), np.sort(other.rows("train")))
        known = np.union1d(other.rows("train"), other.rows("validation"))
        np.testing.assert_array_equal(streamed.known_rows, known)


def test_no_class_is_lost_where_cells_that_are_streamed_are_too_many(tmp_path, monkeypatch):
    cells = made_counts(1800, 30)
    of_class = [np.flatnonzero(cells.obs.cell_type == name) for name in ("B", "NK", "T")]
    cells = cells[np.concatenate([of_class[0], of_class[1][:30], of_class[2]])].copy()  # sorted, as many references are
    halves = [
        written(cells[rows].copy(), tmp_path / f"{i}.h5ad") for i, rows in enumerate((slice(615), slice(615, None)))
    ]
    opened = open_cells(halves)
    reference = reference_of(opened, read_labels(opened, "cell_type"))
    split = small_split(reference)
    settings = {"linear": True, "again": False, "names": [], "seed": 1}
    monkeypatch.setattr("neurofleet.learners.sims.simple_methods.DENSE_VALUES", 60 * 30)
    monkeypatch.setattr("neurofleet.learners.sims.streamed_regression.JUDGED_CELLS", 64)
    streamed = work_of(reference, split, **settings).streamed
    assert len(np.unique(reference.labels[streamed.judged_rows])) == 3
    assert 64 < len(streamed.judged_rows) < 110
    # So few values x classes that two stretches of 64 cells are shown.
    per_cell = opened.read(np.arange(len(opened))).nnz / len(opened)
    with monkeypatch.context() as patched:
        patched.setattr("neurofleet.learners.sims.streamed_regression.MOST_WORK", 3 * per_cell * 150)
        fitted = _fitted(streamed, streamed.train_rows, (12.0,))
    assert 128 < fitted.n_cells < 135
    assert fitted.models[0].bias.min() > ABSENT_BIAS
    two = streamed.train_rows[reference.labels[streamed.train_rows] != 1]
    assert fit_streamed(replace(streamed, train_rows=two), fitted.models[0]) is None
    # Dense cells in memory, alone and beside a file: zeros do not count.
    in_memory = opened.in_memory()
    assert in_memory.dense is not None
    known = set(map(tuple, np.column_stack([reference.labels, in_memory.dense])))
    part = MatrixPart(MemorySource(in_memory.dense[615:]), None)
    for all_cells in (in_memory, replace(opened, parts=(opened.parts[0], part))):
        monkeypatch.setattr("neurofleet.learners.sims.streamed_regression.MEMORY_VALUES", 150 * per_cell)
        streamed = work_of(replace(reference, cells=all_cells), split, **settings).streamed
        kept = streamed.reference
        (copied,) = (part.source for part in kept.cells.parts if isinstance(part.source, MemorySource))
        assert 120 * per_cell < copied.read(np.arange(copied.shape[0])).nnz < 280 * per_cell
        for rows in (streamed.train_rows, streamed.judged_rows):
            assert set(kept.labels[rows]) == {0, 1, 2}
            found = np.column_stack([kept.labels[rows], kept.cells.read(rows).toarray()])
            assert set(map(tuple, found)) <= known
    monkeypatch.setattr("neurofleet.learners.sims.streamed_regression.MEMORY_VALUES", per_cell * 80)
    assert work_of(replace(reference, cells=in_memory), split, **settings).streamed is None


def test_descent_on_sparse_rows_is_that_on_z_scores():
    rng = np.random.default_rng(0)
    raw, labels = rng.poisson(0.4, (50, 8)).astype(np.float32), rng.integers(3, size=50)
    centre = raw.mean(0)
    sparse, dense = (_Descent(2.0, 8, 3, 20) for _ in range(2))
    for _ in range(10):
        sparse.step(sp.csr_matrix(raw), labels, centre)
        dense.step(sp.csr_matrix(raw - centre), labels, np.zeros_like(centre))
    np.testing.assert_allclose(sparse.weights, dense.weights, atol=1e-4)
    assert np.abs(dense.weights).max() > 0.1
    np.testing.assert_allclose(sparse.bias, dense.bias, atol=1e-4)


def test_another_process_that_cannot_begin_is_told(reference, split, monkeypatch):
    def ended(*_, **__):
        raise ProcessFailed("its process ended with signal 9")
        yield

    monkeypatch.setattr("neurofleet.learners.sims.simple_methods.WORTH_A_PROCESS", 1)
    monkeypatch.setattr("neurofleet.learners.sims.simple_methods.begin", ended)
    with pytest.raises(
        LearnerError, match="that fits logistic regression and the baselines has .* ended with signal 9"
    ):
        fit_and_test(reference, split, QUICK, train_here)
    work = work_of(reference, split, linear=False, again=False, names=["majority"], seed=1)
    with pytest.raises(LearnerError, match="baselines and trains the control of shuffled labels has failed"):
        SimpleMethods(work, after=print).__enter__()
    nothing = work_of(reference, split, linear=False, again=False, names=[], seed=1)
    with SimpleMethods(nothing, after=print) as simple:  # needs no process
        assert simple.fits == SimpleFits(None, None, {})


def test_folds_are_pooled_cell_by_cell(reference):
    names = np.asarray(reference.classes)[reference.labels]
    splits = make_folds(reference.cells.cell_ids, names, 3, validation=0.15)
    seen = []

    def told(task, name, seed):
        seen.append(name)
        return train_here(task, name, seed)

    found = facts(cross_validate(reference, splits, QUICK, told, baselines=["majority"]), reference)
    assert found["scores"]["sims"]["n"] == len(reference.cells)
    assert len(found["folds"]) == 3
    assert len(seen) == len(set(seen)) == 9
    accuracies = [fold["sims"]["accuracy"] * fold["sims"]["n"] for fold in found["folds"]]
    assert sum(accuracies) / len(reference.cells) == pytest.approx(found["scores"]["sims"]["accuracy"])


def test_settings_that_cannot_be_are_refused():
    for wrong in ({"n_shared": 0, "n_independent": 0}, {"gene_masking": 1.0}, {"n_dd": 3}):
        with pytest.raises(ValueError):  # noqa: PT011  pydantic's own
            SimsSettings(**wrong)


def test_pretraining_fills_in_hidden_genes_and_is_where_training_starts(reference, split):
    settings = QUICK.model_copy(update={"pretrain_epochs": 12, "linear_share": 0.0})
    losses, starts = [], []
    unlabelled, labels = split.rows("test")[:2], reference.labels.copy()
    labels[unlabelled] = -1
    some = replace(reference, labels=labels, in_query=unlabelled[1:])

    def told(task, name, seed):
        rows = []
        weights = train_here(task, name, seed, rows.append)
        if task.is_pretraining:
            np.testing.assert_array_equal(task.train_rows, np.union1d(split.rows("train"), unlabelled[:1]))
            losses.append([row["val_loss"] for row in rows if "val_loss" in row])
        else:
            starts.append(task.start)
        return weights

    model = fit(some, split, settings, told).model
    predicted = predict_log(model, reference, split.rows("test")).argmax(1)
    assert (predicted == reference.labels[split.rows("test")]).mean() > 0.9
    assert losses[0][-1] < 0.95 < losses[0][0]  # 1 is what the mean of each gene would get
    module = replace(reference.task(split.rows("train"), split.rows("test"), settings), start=starts[0])
    state = module.classifier().networks.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in starts[0].items())
    assert {name.split(".")[2] for name in starts[0]} == {"encoder", "input_norm"}


def test_a_pretrained_encoder_of_other_sizes_is_refused(reference, split):
    task = reference.task(split.rows("train"), split.rows("validation"), QUICK)
    start = encoder_state(replace(task, is_pretraining=True).module().state_dict())
    wider = replace(task, settings=QUICK.model_copy(update={"n_d": 16}), start=start)
    with pytest.raises(ValueError, match="tensors of the pretrained encoder do not fit"):
        wider.classifier()


def test_hidden_genes_alone_count_in_the_reconstruction():
    values = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    hidden = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    found = torch.tensor([[2.0, 99.0], [3.0, 6.0]])
    # Variances 1 and, of the constant gene, the mean 0.5: rows (1 / 1) / 1 and (0 + 1 / 0.5) / 2.
    assert reconstruction_loss(found, values, hidden).item() == pytest.approx(1.0)
