"""Fit a SIMS model to a labelled reference: train, choose, calibrate, train on with all.

The validation cells choose the share of the linear model, the temperature and, for settings that ask for it, the epoch.
Where the reference is small, the networks then go on with training and validation cells together, for a quarter of the
epochs. Test cells are used by nothing but the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from neurofleet.learners.calibration import calibrated_probabilities
from neurofleet.learners.cells.cell_matrix import stretches
from neurofleet.learners.folds import stratified_rows
from neurofleet.learners.label_controls import shuffled_labels
from neurofleet.learners.local_training import Train
from neurofleet.learners.scores import Scores, score
from neurofleet.learners.sims.labelled_reference import STRETCH, Reference
from neurofleet.learners.sims.linear_share import SHARES, ChosenShare, choose_share, mixed
from neurofleet.learners.sims.logistic_regression import LogisticModel, fit_logistic
from neurofleet.learners.sims.masked_gene_pretraining import encoder_state
from neurofleet.learners.sims.simple_methods import SimpleMethods, SimpleWork, work_of
from neurofleet.learners.sims.sims_classifier import blocks_of
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.sims.tabnet import TabNetEnsemble
from neurofleet.learners.sims.tabnet_settings import SimsSettings
from neurofleet.learners.sims.tabnet_training import SimsModule, SimsTask, set_exact_statistics
from neurofleet.learners.splits import Split

REFIT_CELLS = 20_000
"""References with fewer cells than this are trained on a second time, with the validation cells."""

STATISTICS_CELLS = 20_000
"""The number of training cells, at most, that the final statistics of batch norms are taken from."""

CONTROL_EPOCHS, CONTROL_CELLS = 15, 1000
"""How long, and on how many cells at most, the model of shuffled labels is trained."""

SHUFFLED = "shuffled-labels"
"""Its training's name."""


@dataclass(frozen=True)
class Fitted:
    """A model and what the fit was like.

    Attributes
    ----------
    model : SimsModel
    validated : SimsModel
        The model that saw no validation cell; the same as `model` where that was not trained on.
    validation_top_probability : array, shape (validation cells,)
        Calibrated probability of the class that `validated` predicts, ascending.
    notes : tuple of str
        What a reader of the scores should know.
    choice : ChosenShare or None
        What validation cells chose; None without these.
    """

    model: SimsModel
    validated: SimsModel
    validation_top_probability: np.ndarray
    notes: tuple[str, ...]
    choice: ChosenShare | None = None


def fit(
    reference: Reference,
    split: Split,
    settings: SimsSettings,
    train: Train,
    seed: int = 1,
    simple: SimpleMethods | None = None,
) -> Fitted:
    """Fit a model on the training and validation cells of a split.

    Parameters
    ----------
    train : Train
        `neurofleet.learners.local_training.train_here`, or one that uses a cluster.
    simple : SimpleMethods, optional
        Those of `simple_methods`, under way in another process; without, the linear model is fitted in one.

    Raises
    ------
    LearnerError
        If the cells cannot be learned from.
    """
    if simple is None:
        with simple_methods(reference, split, settings, (), seed) as simple:
            return fit(reference, split, settings, train, seed, simple)
    train_rows, validation_rows = split.rows("train"), split.rows("validation")
    task = _task(reference, train_rows, validation_rows, settings, train, "model", seed)
    validated = kept = trained_networks(task, train(task, "model", seed), seed)
    notes = list(split.notes)
    if again := is_trained_again(split, settings):
        longer = task.going_on(validated, np.concatenate([train_rows, validation_rows]))
        kept = trained_networks(longer, train(longer, "model-continued", seed), seed)
    linear = simple.fits
    n_shown = len(train_rows) + (len(validation_rows) if again else 0)
    if linear.kept is not None and (linear.how or linear.n_cells < n_shown):
        how = linear.how or f"fitted to {linear.n_cells:,} of {n_shown:,} cells, drawn at random from each class"
        notes.append(f"The logistic regression beside the networks was {how}.")
    first = _model(reference, task, validated, linear.validated, settings)
    choice, top = None, np.empty(0)
    if len(validation_rows):
        parts = _parts(first, reference, validation_rows)
        shares = SHARES if settings.linear_share is None else (settings.linear_share,)
        choice = choose_share(parts["networks"], parts.get("linear"), reference.labels[validation_rows], shares)
        settings = settings.model_copy(update={"linear_share": choice.share})
        first = replace(first, settings=settings, calibration=choice.calibration)
        average = mixed(parts["networks"], parts.get("linear"), choice.share)
        top = np.sort(calibrated_probabilities(average, choice.calibration.temperature).max(1))
    if not again:
        return Fitted(first, first, top, tuple(notes), choice)
    notes.append("After calibration, trained on with training and validation cells together.")
    model = replace(first, networks=kept, linear=linear.kept)
    return Fitted(model, first, top, tuple(notes), choice)


def simple_methods(
    reference: Reference,
    split: Split,
    settings: SimsSettings,
    baselines: Sequence[str] | None,
    seed: int,
    after: Callable[[], object] | None = None,
) -> SimpleMethods:
    """Return the linear model of a fit and the baselines of its scores, to be fitted beside the networks.

    Parameters
    ----------
    baselines : sequence of str or None
        See `neurofleet.learners.sims.expression_baselines.run_baselines`; None for all.
    after : callable, optional
        See `SimpleMethods`.
    """
    return SimpleMethods(simple_work(reference, split, settings, baselines, seed), after)


def simple_work(
    reference: Reference, split: Split, settings: SimsSettings, baselines: Sequence[str] | None, seed: int
) -> SimpleWork:
    """Return what `simple_methods` are fitted to and scored on."""
    linear, again = settings.linear_share != 0.0, is_trained_again(split, settings)
    epochs = settings.epochs_for(len(split.rows("train")))
    return work_of(reference, split, linear=linear, again=again, names=baselines, seed=seed, epochs=epochs)


def is_trained_again(split: Split, settings: SimsSettings) -> bool:
    """Whether networks are trained on with the validation cells, which then have done their work.

    Not where these have chosen the epoch: a longer training could not choose it as well.
    """
    n_validation = len(split.rows("validation"))
    small = len(split.rows("train")) + n_validation < REFIT_CELLS
    return n_validation > 0 and small and settings.patience is None


def predict_log(model: SimsModel, reference: Reference, rows: np.ndarray) -> np.ndarray:
    """Return uncalibrated log-probabilities of some of the reference's cells, (rows, classes)."""
    return np.concatenate(
        [
            model.log_probabilities(reference.values(rows[block]))
            for block in blocks_of(len(rows), len(reference.cells.genes))
        ]
    )


@dataclass(frozen=True)
class ShuffledTraining:
    """The training of a control: cells with shuffled labels, and what is trained on about 1,000 of them."""

    reference: Reference
    task: SimsTask


def shuffled_training(reference: Reference, split: Split, settings: SimsSettings, seed: int = 1) -> ShuffledTraining:
    """Return the training of `shuffled_scores`."""
    labels = shuffled_labels(reference.labels, split, seed)
    changes = {"members": 1, "epochs": min(settings.epochs, CONTROL_EPOCHS), "patience": None, "pretrain_epochs": 0}
    shuffled = replace(reference, labels=labels)
    parts = [split.rows(role) for role in ("train", "validation")]
    known, watched = (rows[stratified_rows(labels[rows], CONTROL_CELLS, seed=seed)] for rows in parts)
    return ShuffledTraining(shuffled, shuffled.task(known, watched, settings.model_copy(update=changes)))


def shuffled_scores(
    reference: Reference,
    split: Split,
    settings: SimsSettings,
    train: Train,
    seed: int = 1,
    tuned: LogisticModel | None = None,
    control: ShuffledTraining | None = None,
) -> Scores:
    """Return the scores on the test cells of a model of shuffled labels, test labels shuffled as well.

    The same way of training, shortened, on about 1,000 cells of all classes: whatever leaks labels into it shows here.

    Parameters
    ----------
    tuned : LogisticModel, optional
        The linear model takes its C and scaling from this one, in place of a search.
    control : ShuffledTraining, optional
        That of the same arguments.
    """
    control = control or shuffled_training(reference, split, settings, seed)
    shuffled, task = control.reference, control.task
    networks = trained_networks(task, train(task, SHUFFLED, seed), seed)
    linear = None
    if settings.linear_share != 0.0:
        known = task.train_rows
        values = shuffled.values(known).toarray()
        linear = fit_logistic(values, shuffled.labels[known], len(reference.classes), seed=seed, tuned=tuned)
    model = _model(shuffled, task, networks, linear, task.settings)
    rows = split.rows("test")
    return score(shuffled.labels[rows], predict_log(model, shuffled, rows).argmax(1), reference.classes)


def trained_networks(task: SimsTask, weights: Mapping[str, torch.Tensor], seed: int) -> TabNetEnsemble:
    """Return the networks to be kept after a training, with the statistics that they are to be used with.

    Parameters
    ----------
    weights : mapping
        The state of the task's module after training.
    """
    module = task.classifier()
    module.load_state_dict(dict(weights))
    if task.settings.exact_statistics:
        rows = task.train_rows
        if task.cells.is_in_memory:
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:STATISTICS_CELLS])
        else:  # single cells of a large file are slow to read
            rows = rows[stretches(len(rows), STATISTICS_CELLS // STRETCH, STRETCH)]
        _set_statistics(module, task, rows)
    return module.best.eval()


def _task(
    reference: Reference,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    settings: SimsSettings,
    train: Train,
    name: str,
    seed: int,
) -> SimsTask:
    """Return a training of classes, after its pretraining where there is one."""
    task = reference.task(train_rows, validation_rows, settings)
    if not settings.pretrain_epochs:
        return task
    unlabelled = np.setdiff1d(np.flatnonzero(reference.labels < 0), reference.in_query)
    shown = np.union1d(task.train_rows, unlabelled)
    learnt = train(replace(task, train_rows=shown, is_pretraining=True), f"{name}-pretraining", seed)
    return replace(task, start=encoder_state(learnt))


def _model(
    reference: Reference,
    task: SimsTask,
    networks: TabNetEnsemble,
    linear: LogisticModel | None,
    settings: SimsSettings,
) -> SimsModel:
    return SimsModel(
        networks,
        linear,
        task.inputs,
        tuple(map(str, reference.cells.genes)),
        reference.classes,
        reference.normalisation,
        settings,
    )


def _parts(model: SimsModel, reference: Reference, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the log-probabilities of networks and linear model for some of the reference's cells."""
    blocks = blocks_of(len(rows), len(reference.cells.genes))
    parts = [model.parts(reference.values(rows[block])) for block in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _set_statistics(module: SimsModule, task: SimsTask, rows: np.ndarray) -> None:
    batches = [
        torch.from_numpy(task.used_values(task.cells.read(rows[block])).toarray())
        for block in blocks_of(len(rows), len(task.inputs.columns))
    ]
    set_exact_statistics(module.best, batches)
