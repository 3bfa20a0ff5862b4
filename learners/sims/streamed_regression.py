"""Logistic regression of more cells than a tuned one can be fitted to: gradient descent on a stream of sparse rows.

Cells are z-scored as `neurofleet.learners.sims.logistic_regression` does, without ever being dense: what centring
changes in logits and gradients has rank one. Several step sizes are tried in the same passes, and cells that are not
trained on choose between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.special import softmax

from neurofleet.learners.calibration import calibrated_probabilities, fit_temperature, negative_log_likelihood
from neurofleet.learners.cells.cell_matrix import CellMatrix, MatrixPart, MemorySource, stretches
from neurofleet.learners.cells.cell_stream import CellBatch, stream
from neurofleet.learners.cells.normalisation import gene_statistics
from neurofleet.learners.scores import score
from neurofleet.learners.sims.labelled_reference import STRETCH, Reference
from neurofleet.learners.sims.logistic_regression import (
    ABSENT_BIAS,
    CLIP,
    SD_FLOOR_QUANTILE,
    Z_SCORE,
    LogisticModel,
)
from neurofleet.learners.splits import Split

WORTH_STREAMING = 2
"""How many times as many training cells there must be as a tuned regression is fitted to."""

MOST_PASSES, MOST_WORK = 4, 2e11
"""How often cells are shown at most, and how many values (stored ones of the genes used) x classes in all passes:
beyond, fewer cells are shown. That is a million cells of 1,000 such values and 200 classes once.
"""

MOST_GENES, GENE_CELLS, JUDGED_CELLS = 4000, 10_240, 5_120
"""How many genes are used, those of largest variance; how many cells say which and scale them, and how many choose the
step size."""

MEMORY_VALUES = 50_000_000
"""How many stored values are copied, at most, of cells that are in memory and not in files."""

STEP_SIZES = (4.0, 12.0, 36.0)
"""Divided by the number of genes: how far a weight goes in a step whose gradient is as large as it usually is."""

BATCH_CELLS, WINDOW_CELLS = 256, 8192
SMALLEST_BATCH, ENOUGH_STEPS = 32, 200
"""Batches are smaller than `BATCH_CELLS` where there would be fewer steps than enough."""

PENALTY = 1e-6
WARM_UP = 0.1
_MOMENTUM, _MEMORY = 0.9, 0.99


@dataclass(frozen=True)
class StreamedCells:
    """What a streamed regression is fitted to.

    Attributes
    ----------
    reference : Reference
        Its cells are without names and columns; it is pickled as the files' places, or as the cells needed.
    train_rows, judged_rows : array of int
        Cells that are trained on, and others that choose: validation cells, or held back where there are none.
    known_rows : array of int
        Cells that it is fitted to again when that is chosen; empty for none.
    n_cells : int
        How many there are to be fitted to in the end, of which the rows may be some.
    passes : int
        How often cells are shown, at most.
    seed : int
    """

    reference: Reference
    train_rows: np.ndarray
    judged_rows: np.ndarray
    known_rows: np.ndarray
    n_cells: int
    passes: int
    seed: int


@dataclass(frozen=True)
class StreamedFit:
    """A regression of many cells, which are likelier by it than by the tuned one.

    Attributes
    ----------
    validated, kept : LogisticModel
        Fitted to training cells; to all known cells, or the same where that is not done.
    n_cells : int
        What `kept` was fitted to.
    in_words : str
        How they were fitted, and why they are taken.
    """

    validated: LogisticModel
    kept: LogisticModel
    n_cells: int
    in_words: str


def streamed_cells(
    reference: Reference, split: Split, tuned_rows: np.ndarray, *, again: bool, epochs: int, seed: int
) -> StreamedCells | None:
    """Return what a streamed regression is fitted to; None where a tuned one sees half of the training cells or more.

    Parameters
    ----------
    tuned_rows : array of int
        Cells that the tuned regression is fitted to.
    again : bool
        Whether it is then fitted to training and validation cells together.
    epochs : int
        How often networks are shown the cells.
    """
    train, validation = np.sort(split.rows("train")), np.sort(split.rows("validation"))
    n_train = len(train)
    if n_train < WORTH_STREAMING * np.isin(tuned_rows, train).sum():
        return None
    judged = validation if len(validation) else np.setdiff1d(train, tuned_rows)
    n_judged = JUDGED_CELLS if len(validation) else min(JUDGED_CELLS, max(n_train // 10, STRETCH))
    judged = judged[stretches(len(judged), n_judged // STRETCH, STRETCH)]
    train = np.setdiff1d(train, judged)
    known = np.union1d(train, validation) if again else np.zeros(0, np.int64)
    cells = reference.cells
    if cells.is_in_memory:
        stored = sum(part.source.n_stored() or 0 for part in cells.parts) / max(len(cells), 1) or cells.shape[1]
        few = max(int(MEMORY_VALUES / stored) // STRETCH, 1)
        train = train[stretches(len(train), few, STRETCH)]
        known = np.union1d(train, validation[stretches(len(validation), few, STRETCH)]) if again else known
        rows = np.unique(np.concatenate([train, judged, known]))
        part = MatrixPart(MemorySource(cells.read(rows)), None)
        cells = replace(cells, parts=(part,))
        train, judged, known = (np.searchsorted(rows, some) for some in (train, judged, known))
        reference = replace(reference, labels=reference.labels[rows])
    nameless = replace(reference, cells=_without_names(cells), in_query=np.zeros(0, np.int64))
    n_cells = n_train + (len(validation) if again else 0)
    return StreamedCells(nameless, train, judged, known, n_cells, min(epochs, MOST_PASSES), seed)


def _without_names(cells: CellMatrix) -> CellMatrix:
    n_cells = int(cells.starts[-1])
    obs = pd.DataFrame(index=pd.RangeIndex(n_cells))
    return replace(cells, cell_ids=np.arange(n_cells), obs=obs, var=cells.var.iloc[:, :0], queries=())


def fit_streamed(work: StreamedCells, tuned: LogisticModel) -> StreamedFit | None:
    """Fit a logistic regression to many cells; None if one tuned on fewer has the lower log loss on other cells.

    Log losses are those at the temperature that is best for each.

    Parameters
    ----------
    tuned : LogisticModel
        Fitted to none of the cells that choose.
    """
    true = work.reference.labels[work.judged_rows]
    tuned_loss = _calibrated_loss(_judged_logits(work, tuned), true)
    first = _fitted(work, work.train_rows, STEP_SIZES)
    if first.log_loss >= tuned_loss:
        return None
    kept, n_cells = first.model, first.n_cells
    if len(work.known_rows):
        again = _fitted(work, work.known_rows, (first.step_size,))
        inner = {name: getattr(kept, name) for name in ("inner_accuracy", "inner_macro_f1", "inner_log_loss")}
        kept, n_cells = replace(again.model, **inner), again.n_cells
    words = (
        f"fitted to {n_cells:,} of {work.n_cells:,} cells by stochastic gradient descent, shown"
        f" {f'{first.passes} times' if first.passes > 1 else 'once'}: on {len(true):,} other cells its log loss is"
        f" {first.log_loss:.3f}, that of one tuned on fewer cells {tuned_loss:.3f}"
    )
    return StreamedFit(first.model, kept, n_cells, words)


@dataclass(frozen=True)
class _Fitted:
    """A regression, its step size, how many cells it was shown how often, and its log loss."""

    model: LogisticModel
    step_size: float
    n_cells: int
    passes: int
    log_loss: float


def _calibrated_loss(logits: np.ndarray, true: np.ndarray) -> float:
    temperature = fit_temperature(logits, true).temperature
    return negative_log_likelihood(calibrated_probabilities(logits, temperature), true)


def _judged_logits(work: StreamedCells, model: LogisticModel) -> np.ndarray:
    rows = work.judged_rows
    blocks = [rows[start : start + BATCH_CELLS] for start in range(0, len(rows), BATCH_CELLS)]
    return np.concatenate([model.logits(work.reference.values(block).toarray()) for block in blocks]).astype(np.float64)


def _fitted(work: StreamedCells, rows: np.ndarray, step_sizes: Sequence[float]) -> _Fitted:
    reference, n_classes = work.reference, len(work.reference.classes)
    genes = _Genes.of(reference, rows)
    most_shown = max(int(MOST_WORK / (genes.stored * n_classes)), STRETCH)
    rows = rows[stretches(len(rows), max(most_shown // STRETCH, 1), STRETCH)]
    passes = max(min(work.passes, most_shown // len(rows)), 1)
    batch_cells = min(max(passes * len(rows) // ENOUGH_STEPS, SMALLEST_BATCH), BATCH_CELLS)
    n_steps = passes * -(-len(rows) // batch_cells)
    tried = [_Descent(size, len(genes.columns), n_classes, n_steps) for size in step_sizes]
    batches = stream(
        reference.cells,
        rows,
        batch_cells,
        seed=work.seed,
        fetch_factor=WINDOW_CELLS // batch_cells,
        transform=lambda values: genes.scaled(reference.normalisation.apply(values)),
    )
    for epoch in range(passes):
        batches.set_epoch(epoch)
        for batch in batches:
            values, labels = _sparse(batch), reference.labels[batch.rows.numpy()]
            for one in tried:
                one.step(values, labels, genes.centre)
    there = np.bincount(reference.labels[rows], minlength=n_classes) > 0
    models = [genes.model(one, there, len(rows)) for one in tried]
    logits, true = [_judged_logits(work, model) for model in models], reference.labels[work.judged_rows]
    losses = [_calibrated_loss(one, true) for one in logits]
    best = int(np.argmin(losses))
    found = score(true, logits[best].argmax(1), reference.classes)
    model = replace(
        models[best],
        inner_accuracy=found.accuracy,
        inner_macro_f1=found.macro_f1,
        inner_log_loss=negative_log_likelihood(calibrated_probabilities(logits[best]), true),
    )
    return _Fitted(model, step_sizes[best], len(rows), passes, losses[best])


def _sparse(batch: CellBatch) -> sp.csr_matrix:
    assert batch.columns is not None
    assert batch.offsets is not None
    parts = (batch.values.numpy(), batch.columns.numpy(), batch.offsets.numpy())
    return sp.csr_matrix(parts, shape=(len(batch.rows), batch.n_genes), copy=False)


@dataclass(frozen=True)
class _Genes:
    """The genes used, and how they are scaled.

    Attributes
    ----------
    columns : array of int, shape (genes used,)
    mean, sd : array of float32, shape (all genes,)
        No sd is so small that a value of zero would be clipped: stored values alone are scaled.
    stored : float
        Values that a cell has for the genes used, on average.
    """

    columns: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    stored: float

    @classmethod
    def of(cls, reference: Reference, rows: np.ndarray) -> _Genes:
        some = rows[stretches(len(rows), GENE_CELLS // STRETCH, STRETCH)]
        found = gene_statistics(reference.cells, some, reference.normalisation)
        columns = np.sort(np.argsort(-found.sd, kind="stable")[:MOST_GENES])
        columns = columns[found.sd[columns] > 0]
        floor = np.quantile(found.sd[columns], SD_FLOOR_QUANTILE) if len(columns) else 1.0
        sd = np.maximum(np.maximum(found.sd, floor), np.abs(found.mean) / CLIP)
        stored = max(float(found.n_expressing[columns].sum()) / found.n_cells, 1.0)
        return cls(columns, found.mean.astype(np.float32), sd.astype(np.float32), stored)

    @property
    def centre(self) -> np.ndarray:
        """What z-scores are less than the values of `scaled`, (genes used,)."""
        return self.mean[self.columns] / self.sd[self.columns]

    def scaled(self, values: sp.csr_matrix) -> sp.csr_matrix:
        """Return clipped values of the genes used, divided by their sd, not centred."""
        values = sp.csr_matrix(values[:, self.columns])
        mean, sd = self.mean[self.columns][values.indices], self.sd[self.columns][values.indices]
        data = np.clip(values.data, mean - CLIP * sd, mean + CLIP * sd) / sd
        return sp.csr_matrix((data, values.indices, values.indptr), shape=values.shape, copy=False)

    def model(self, fitted: _Descent, there: np.ndarray, n_cells: int) -> LogisticModel:
        """Return the regression on all genes; a class without a cell gets probability about 0."""
        weights = np.zeros((len(self.mean), len(there)), np.float32)
        weights[self.columns] = np.where(there, fitted.weights, 0.0)
        return LogisticModel(
            weights=weights,
            bias=np.where(there, fitted.bias, ABSENT_BIAS).astype(np.float32),
            mean=self.mean,
            sd=self.sd,
            clip=CLIP,
            C=1.0 / (PENALTY * n_cells),
            scaling=Z_SCORE,
            inner_accuracy=np.nan,
            inner_macro_f1=np.nan,
            inner_log_loss=np.nan,
            held_out_probabilities=np.empty((0, len(there)), np.float32),
        )


class _Descent:
    """Stochastic gradient descent with momentum on a softmax layer.

    Gradients of a class are divided by their usual size, so that rare classes are learnt as fast as frequent ones; the
    step size grows during the first tenth and falls to zero.
    """

    def __init__(self, step_size: float, n_genes: int, n_classes: int, n_steps: int) -> None:
        self.weights, self.bias = np.zeros((n_genes, n_classes), np.float32), np.zeros(n_classes, np.float32)
        self._direction = np.zeros_like(self.weights)
        self._square = np.zeros(n_classes)
        self._rate, self._n_steps, self._done = step_size / n_genes, n_steps, 0

    def step(self, values: sp.csr_matrix, labels: np.ndarray, centre: np.ndarray) -> None:
        """Learn from a batch of cells, not centred."""
        errors = softmax(values @ self.weights + (self.bias - centre @ self.weights), axis=1)
        errors[np.arange(len(labels)), labels] -= 1.0
        errors /= len(labels)
        of_bias = errors.sum(0)
        gradient = values.T @ errors
        gradient -= np.outer(centre, of_bias)
        gradient += PENALTY * self.weights
        self._direction *= _MOMENTUM
        self._direction += (1.0 - _MOMENTUM) * gradient
        self._square += (1.0 - _MEMORY) * (np.einsum("gc,gc->c", gradient, gradient) / len(gradient) - self._square)
        self._done += 1
        usual = np.sqrt(self._square / (1.0 - _MEMORY**self._done)) + 1e-8
        part = self._done / self._n_steps
        rate = self._rate * min(part / WARM_UP, 1.0) * max(1.0 - part, 0.0)
        self.weights -= self._direction * (rate / (1.0 - _MOMENTUM**self._done) / usual).astype(np.float32)
        self.bias -= (rate * of_bias / usual).astype(np.float32)
