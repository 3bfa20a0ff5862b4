"""Logistic regression of more cells than a tuned one can be fitted to: gradient descent on a stream of sparse rows.

Cells are z-scored as `neurofleet.learners.sims.logistic_regression` does, without ever being dense: what centring
changes in logits and gradients has rank one. Several step sizes are tried in the same passes, and cells that are not
trained on choose between them.
"""

from __future__ import annotations

import time
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
from neurofleet.learners.folds import stratified_rows
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

COUNTED_STRETCHES = 8
"""Of how many stretches values are counted."""

MEMORY_VALUES = 50_000_000
"""How many values other than zero are copied, at most, of cells that are in memory and not in files."""

RARE_CELLS = 3
"""How many cells of each class are trained on, where it has so many; a tuned regression has so many as well."""

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
        Cells that are trained on, and others that choose: validation cells; or held back where there are none, or where
        these are scored because there is no test cell.
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
    """Return what a streamed regression is fitted to; None where a tuned one is fitted to half as many cells or more.

    Parameters
    ----------
    tuned_rows : array of int
        Cells that the tuned regression is fitted to.
    again : bool
        Whether it is then fitted to training and validation cells together.
    epochs : int
        How often networks are shown the cells.
    """
    train, validation = split.rows("train"), split.rows("validation")
    n_train, n_enough = len(train), WORTH_STREAMING * np.isin(tuned_rows, train).sum()
    if n_train < n_enough:
        return None
    if len(validation) and len(split.rows("test")):
        judged, n_judged = validation, JUDGED_CELLS
    else:  # validation cells are there to be scored, or are not there
        rare = train[stratified_rows(reference.labels[train], 0, RARE_CELLS, seed)]
        judged = np.setdiff1d(train, np.union1d(tuned_rows, rare))
        n_judged = min(JUDGED_CELLS, max(n_train // 10, STRETCH))
    judged = _some_of(reference, judged, n_judged, seed)
    train = _copied(reference, np.setdiff1d(train, judged), seed)
    if len(train) < n_enough:
        return None
    known = np.zeros(0, np.int64)
    if again:
        known = np.unique(np.concatenate([train, judged, _copied(reference, validation, seed)]))
    cut, kept = _without_others(reference, np.unique(np.concatenate([train, judged, known])))
    train, judged, known = (np.searchsorted(kept, rows) for rows in (train, judged, known))
    nameless = replace(cut, cells=_without_names(cut.cells), in_query=np.zeros(0, np.int64))
    n_cells = n_train + (len(validation) if again else 0)
    return StreamedCells(nameless, train, judged, known, n_cells, min(epochs, MOST_PASSES), seed)


def _some_of(reference: Reference, rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return about `most` of some rows, ascending, with `RARE_CELLS` of each class that has so many.

    From memory they are drawn from each class. From files they are stretches of neighbours, which are read faster, and
    cells drawn from the classes that these miss.
    """
    labels = reference.labels[rows]
    if len(rows) <= most or reference.cells.is_in_memory:
        return rows[stratified_rows(labels, most, RARE_CELLS, seed)]
    shown = stretches(len(rows), max(most // STRETCH, 1), STRETCH)
    of_class = np.bincount(labels)
    missed = np.bincount(labels[shown], minlength=len(of_class)) < np.minimum(of_class, RARE_CELLS)
    others = np.flatnonzero(missed[labels])
    share = len(others) * most // len(rows)
    return rows[np.union1d(shown, others[stratified_rows(labels[others], share, RARE_CELLS, seed)])]


def _copied(reference: Reference, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return some rows without those in memory that are too many to be copied."""
    cells = reference.cells
    in_memory = np.repeat([isinstance(part.source, MemorySource) for part in cells.parts], np.diff(cells.starts))[rows]
    within = rows[in_memory]
    if not len(within):
        return rows
    seen = cells.read(within[stretches(len(within), COUNTED_STRETCHES, STRETCH)])
    most = int(MEMORY_VALUES * seen.shape[0] / max(seen.nnz, 1))
    drawn = within[stratified_rows(reference.labels[within], most, RARE_CELLS, seed)]
    return np.union1d(rows[~in_memory], drawn)


def _without_others(reference: Reference, rows: np.ndarray) -> tuple[Reference, np.ndarray]:
    """Return a reference without the cells in memory that are not among some rows, and its rows in the former."""
    cells = reference.cells
    parts, kept = [], []
    for part, start, end in zip(cells.parts, cells.starts[:-1], cells.starts[1:], strict=True):
        own = np.arange(start, end)
        if isinstance(part.source, MemorySource):
            own = rows[(rows >= start) & (rows < end)]
            part = MatrixPart(MemorySource(part.read(own - start)), None)
        if len(own):
            parts.append(part)
            kept.append(own)
    of_former = np.concatenate(kept)
    cut = replace(reference, cells=replace(cells, parts=tuple(parts)), labels=reference.labels[of_former])
    return cut, of_former


def _without_names(cells: CellMatrix) -> CellMatrix:
    n_cells = int(cells.starts[-1])
    obs = pd.DataFrame(index=pd.RangeIndex(n_cells))
    return replace(cells, cell_ids=np.arange(n_cells), obs=obs, var=cells.var.iloc[:, :0], queries=())


def fit_streamed(work: StreamedCells, tuned: LogisticModel) -> StreamedFit | None:
    """Fit a logistic regression to many cells; None if one tuned on fewer has the lower log loss on other cells.

    Log losses are those at the temperature that is best for each. None, too, if there is no training cell of a class
    that the tuned one knows.

    Parameters
    ----------
    tuned : LogisticModel
        Fitted to none of the cells that choose.
    """
    labels, classes = work.reference.labels, work.reference.classes
    if (tuned.bias[np.bincount(labels[work.train_rows], minlength=len(classes)) == 0] != ABSENT_BIAS).any():
        return None
    first = _fitted(work, work.train_rows, STEP_SIZES)
    true = labels[work.judged_rows]
    tuned_logits, *logits = _judged_logits(work, (tuned, *first.models))
    tuned_loss, *losses = (_calibrated_loss(each, true) for each in (tuned_logits, *logits))
    best = int(np.argmin(losses))
    if losses[best] >= tuned_loss:
        return None
    found = score(true, logits[best].argmax(1), classes)
    inner = {
        "inner_accuracy": found.accuracy,
        "inner_macro_f1": found.macro_f1,
        "inner_log_loss": negative_log_likelihood(calibrated_probabilities(logits[best]), true),
    }
    validated = kept = replace(first.models[best], **inner)
    n_cells = first.n_cells
    if len(work.known_rows):
        again = _fitted(work, work.known_rows, (STEP_SIZES[best],))
        kept, n_cells = replace(again.models[0], **inner), again.n_cells
    words = (
        f"fitted to {n_cells:,} of {work.n_cells:,} cells by stochastic gradient descent, shown"
        f" {f'{first.passes} times' if first.passes > 1 else 'once'}: on {len(true):,} other cells its log loss is"
        f" {losses[best]:.3f}, that of one tuned on fewer cells {tuned_loss:.3f}"
    )
    return StreamedFit(validated, kept, n_cells, words)


@dataclass(frozen=True)
class _Fitted:
    """A regression of each step size, and how many cells they were shown how often."""

    models: list[LogisticModel]
    n_cells: int
    passes: int


def _calibrated_loss(logits: np.ndarray, true: np.ndarray) -> float:
    temperature = fit_temperature(logits, true).temperature
    return negative_log_likelihood(calibrated_probabilities(logits, temperature), true)


def _judged_logits(work: StreamedCells, models: Sequence[LogisticModel]) -> list[np.ndarray]:
    """Return the logits (judged cells, classes) of each model; cells are read once for all."""
    logits: list[list[np.ndarray]] = [[] for _ in models]
    for start in range(0, len(work.judged_rows), BATCH_CELLS):
        values = work.reference.values(work.judged_rows[start : start + BATCH_CELLS]).toarray()
        for of_model, model in zip(logits, models, strict=True):
            of_model.append(model.logits(values))
    return [np.concatenate(each).astype(np.float64) for each in logits]


def _fitted(work: StreamedCells, rows: np.ndarray, step_sizes: Sequence[float]) -> _Fitted:
    reference, n_classes = work.reference, len(work.reference.classes)
    genes = _Genes.of(reference, rows, work.seed)
    rows, passes, batch_cells, n_steps = _shown(work, rows, genes)
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
    return _Fitted([genes.model(one, there, len(rows)) for one in tried], len(rows), passes)


def _shown(work: StreamedCells, rows: np.ndarray, genes: _Genes) -> tuple[np.ndarray, int, int, int]:
    """Return which of some cells are shown, how often, how many at once, and in how many steps."""
    most_shown = max(int(MOST_WORK / (genes.stored * len(work.reference.classes))), STRETCH)
    rows = _some_of(work.reference, rows, most_shown, work.seed)
    passes = max(min(work.passes, most_shown // len(rows)), 1)
    batch_cells = min(max(passes * len(rows) // ENOUGH_STEPS, SMALLEST_BATCH), BATCH_CELLS)
    return rows, passes, batch_cells, passes * -(-len(rows) // batch_cells)


def seconds_of(work: StreamedCells) -> float:
    """Return about how many seconds of CPU a fit takes, from one batch that is read and learnt from in this thread."""
    reference, seconds = work.reference, 0.0
    for rows, n_sizes in ((work.train_rows, len(STEP_SIZES)), (work.known_rows, 1)):
        if len(rows):
            genes = _Genes.of(reference, rows[:BATCH_CELLS], work.seed)
            _, _, batch_cells, n_steps = _shown(work, rows, genes)
            few, times = rows[:batch_cells], [time.thread_time()]
            descent = _Descent(1.0, len(genes.columns), len(reference.classes), n_steps)
            values = genes.scaled(reference.values(few))
            times.append(time.thread_time())
            for _ in range(2):  # the first one prepares
                descent.step(values, reference.labels[few], genes.centre)
                times.append(time.thread_time())
            seconds += n_steps * (times[1] - times[0] + n_sizes * (times[3] - times[2]))
    return seconds


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
    def of(cls, reference: Reference, rows: np.ndarray, seed: int) -> _Genes:
        some = _some_of(reference, rows, GENE_CELLS, seed)
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
