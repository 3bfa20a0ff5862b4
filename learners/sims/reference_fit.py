"""Fit a SIMS model to a labelled reference: select, calibrate, train again on all, score.

The validation cells choose the temperature and, for settings that ask for it, the epoch. Where the
reference is small, the networks are then trained again on training and validation cells together, for as
many epochs. Test cells are used by nothing but the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch

from neurofleet.learners.calibration import UNCALIBRATED, calibrated_probabilities, fit_temperature
from neurofleet.learners.cells.cell_labels import Labels
from neurofleet.learners.cells.cell_matrix import CellMatrix
from neurofleet.learners.cells.normalisation import Normalisation, gene_statistics, normalisation, recognise
from neurofleet.learners.cells.value_kinds import LOG_FACTORS, Values
from neurofleet.learners.label_controls import shuffled_labels
from neurofleet.learners.local_training import Train
from neurofleet.learners.scores import Scores, score
from neurofleet.learners.sims.logistic_regression import LogisticModel, fit_logistic
from neurofleet.learners.sims.masked_gene_pretraining import encoder_state
from neurofleet.learners.sims.sims_classifier import blocks_of
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.sims.tabnet import TabNetEnsemble, inputs_from
from neurofleet.learners.sims.tabnet_settings import SimsSettings
from neurofleet.learners.sims.tabnet_training import SimsModule, SimsTask, set_exact_statistics
from neurofleet.learners.splits import Split

REFIT_CELLS = 20_000
"""References with fewer cells than this are trained on a second time, with the validation cells."""

STATISTICS_CELLS = 20_000
"""The number of training cells, at most, that the final statistics of batch norms are taken from."""

LINEAR_VALUES = 100_000_000
"""With more values (cells x genes) of training cells than this, no linear model is fitted beside the networks."""

CONTROL_EPOCHS = 15


@dataclass(frozen=True)
class Reference:
    """Labelled cells, and how their values are normalised.

    Attributes
    ----------
    cells : CellMatrix
    labels : array of int, shape (cells,)
        Class numbers; -1 where there is none.
    classes : tuple of str
    normalisation : Normalisation
    """

    cells: CellMatrix
    labels: np.ndarray
    classes: tuple[str, ...]
    normalisation: Normalisation

    def values(self, rows: np.ndarray) -> sp.csr_matrix:
        """Return log-normalised values (rows, genes)."""
        return self.normalisation.apply(self.cells.read(rows))

    def task(self, train_rows: np.ndarray, validation_rows: np.ndarray, settings: SimsSettings) -> SimsTask:
        """Return a training on some of the cells; genes and scaling come from its training rows."""
        statistics = gene_statistics(self.cells, train_rows, self.normalisation)
        return SimsTask(
            self.cells,
            self.normalisation,
            self.labels,
            len(self.classes),
            np.sort(train_rows),
            np.sort(validation_rows),
            inputs_from(settings, statistics),
            settings,
        )


@dataclass(frozen=True)
class Fitted:
    """A model and what the fit was like.

    Attributes
    ----------
    model : SimsModel
    validated : SimsModel
        The model that saw no validation cell; the same as `model` where that was not trained again.
    validation_top_probability : array, shape (validation cells,)
        Calibrated probability of the class that `validated` predicts, ascending.
    notes : tuple of str
        What a reader of the scores should know.
    """

    model: SimsModel
    validated: SimsModel
    validation_top_probability: np.ndarray
    notes: tuple[str, ...]


def reference_of(
    cells: CellMatrix, labels: Labels, values: Values | None = None, target_sum: float | None = None
) -> Reference:
    """Return cells with their labels, and how their values are normalised.

    Parameters
    ----------
    values : Values, optional
        What they were recognised as; looked at anew without it.
    target_sum : float, optional
        See `neurofleet.learners.cells.normalisation.normalisation`.
    """
    codes = np.full(len(cells), -1, dtype=np.int64)
    codes[labels.rows] = labels.codes
    how = normalisation(values or recognise(cells), target_sum)
    if cells.queries and how.kind not in ("scaled", *LOG_FACTORS):
        how = replace(how, totals="chosen genes")
    return Reference(cells, codes, labels.classes, how)


def fit(reference: Reference, split: Split, settings: SimsSettings, train: Train, seed: int = 1) -> Fitted:
    """Fit a model on the training and validation cells of a split.

    Parameters
    ----------
    train : Train
        `neurofleet.learners.local_training.train_here`, or one that uses a cluster.

    Raises
    ------
    LearnerError
        If the cells cannot be learned from.
    """
    train_rows, validation_rows = split.rows("train"), split.rows("validation")
    notes = list(split.notes)
    first = _model(reference, train_rows, validation_rows, settings, train, "model", seed)
    calibration, top = UNCALIBRATED, np.empty(0)
    if len(validation_rows):
        log_probabilities = predict_log(first, reference, validation_rows)
        calibration = fit_temperature(log_probabilities, reference.labels[validation_rows])
        top = np.sort(calibrated_probabilities(log_probabilities, calibration.temperature).max(1))
    first = replace(first, calibration=calibration)
    if first.linear is None and settings.linear_share:
        notes.append("The reference is too large for a linear model beside the networks; they stand alone.")
    if not is_trained_again(split, settings):
        return Fitted(first, first, top, tuple(notes))
    everything = np.concatenate([train_rows, validation_rows])
    none = np.array([], dtype=np.int64)
    again = _model(reference, everything, none, settings, train, "model-on-all", seed)
    notes.append("Trained again on training and validation cells together, after calibration.")
    return Fitted(replace(again, calibration=calibration), first, top, tuple(notes))


def is_trained_again(split: Split, settings: SimsSettings) -> bool:
    """Whether networks are trained again with the validation cells, which then have done their work.

    Not where these have chosen the epoch: a second training could not choose it as well.
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


def shuffled_scores(reference: Reference, split: Split, settings: SimsSettings, train: Train, seed: int = 1) -> Scores:
    """Return the scores on the test cells of a model of shuffled labels, test labels shuffled as well.

    The same way of training, shortened: whatever leaks labels into it shows here.
    """
    labels = shuffled_labels(reference.labels, split, seed)
    short = settings.model_copy(update={"members": 1, "epochs": min(settings.epochs, CONTROL_EPOCHS), "patience": None})
    shuffled = replace(reference, labels=labels)
    known, watched = split.rows("train"), split.rows("validation")
    model = _model(shuffled, known, watched, short, train, "shuffled-labels", seed)
    rows = split.rows("test")
    return score(labels[rows], predict_log(model, shuffled, rows).argmax(1), reference.classes)


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
        chosen = np.random.default_rng(seed).permutation(task.train_rows)[:STATISTICS_CELLS]
        _set_statistics(module, task, np.sort(chosen))
    return module.best.eval()


def _model(
    reference: Reference,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    settings: SimsSettings,
    train: Train,
    name: str,
    seed: int,
) -> SimsModel:
    task = reference.task(train_rows, validation_rows, settings)
    if settings.pretrain_epochs:
        unlabelled = np.flatnonzero(reference.labels < 0)
        shown = np.union1d(task.train_rows, unlabelled)
        learnt = train(replace(task, train_rows=shown, is_pretraining=True), f"{name}-pretraining", seed)
        task = replace(task, start=encoder_state(learnt))
    return SimsModel(
        trained_networks(task, train(task, name, seed), seed),
        _linear(reference, task.train_rows, settings, seed),
        task.inputs,
        tuple(map(str, reference.cells.genes)),
        reference.classes,
        reference.normalisation,
        settings,
    )


def _set_statistics(module: SimsModule, task: SimsTask, rows: np.ndarray) -> None:
    batches = [
        torch.from_numpy(task.used_values(task.cells.read(rows[block])).toarray())
        for block in blocks_of(len(rows), len(task.inputs.columns))
    ]
    set_exact_statistics(module.best, batches)


def _linear(reference: Reference, rows: np.ndarray, settings: SimsSettings, seed: int) -> LogisticModel | None:
    if not settings.linear_share or len(rows) * len(reference.cells.genes) > LINEAR_VALUES:
        return None
    return fit_logistic(reference.values(rows).toarray(), reference.labels[rows], len(reference.classes), seed=seed)
