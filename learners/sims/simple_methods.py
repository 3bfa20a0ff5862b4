"""Logistic regression and the other simple methods of a split, fitted by another process while networks are trained.

Nothing here needs torch, so that the other process begins soon.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp

from neurofleet.errors import LearnerError
from neurofleet.fresh_process import ProcessFailed, begin
from neurofleet.learners.folds import stratified_rows
from neurofleet.learners.progress import logger
from neurofleet.learners.sims.expression_baselines import CELL_LIMIT, Baseline, run_baselines
from neurofleet.learners.sims.logistic_regression import LogisticModel, fit_logistic
from neurofleet.memory import peak_memory_bytes, remember_other_process
from neurofleet.threads import CHOSEN

if TYPE_CHECKING:
    from neurofleet.learners.sims.labelled_reference import Reference
    from neurofleet.learners.sims.streamed_regression import StreamedCells
    from neurofleet.learners.splits import Split

DENSE_VALUES, LOGISTIC_WORK = 100_000_000, 6_000_000_000
"""With more values (cells x genes) of known cells than the first, or more values x classes than the second, simple
methods are fitted on a subsample: tuning on 5,000 cells of 20,000 genes and 200 classes takes longer than the networks.
"""

WORTH_A_PROCESS = 100_000
"""With fewer values than this, another process would take longer to begin than the methods take."""


@dataclass(frozen=True)
class SimpleWork:
    """What simple methods are fitted to and scored on.

    Attributes
    ----------
    known : csr_matrix, shape (known cells, genes)
        Log-normalised values of training and validation cells.
    known_labels : array of int, shape (known cells,)
    is_training : array of bool, shape (known cells,)
    scored : csr_matrix, shape (scored cells, genes)
    scored_labels : array of int, shape (scored cells,)
    scores_validation : bool
        Whether the scored cells are validation cells: baselines are then fitted on training cells alone.
    classes : tuple of str
    linear, again : bool
        Whether logistic regression is fitted, on training cells; and whether then also on all known cells.
    names : tuple of str or None
        The baselines; None for all.
    seed : int
    notes : tuple of str
        Of subsamples that were drawn.
    streamed : StreamedCells or None
        Many more cells, which logistic regression is fitted to as well.
    """

    known: sp.csr_matrix
    known_labels: np.ndarray
    is_training: np.ndarray
    scored: sp.csr_matrix
    scored_labels: np.ndarray
    scores_validation: bool
    classes: tuple[str, ...]
    linear: bool
    again: bool
    names: tuple[str, ...] | None
    seed: int
    notes: tuple[str, ...]
    streamed: StreamedCells | None = None


@dataclass(frozen=True)
class SimpleFits:
    """What simple methods became.

    Attributes
    ----------
    validated : LogisticModel or None
        Fitted on training cells alone.
    kept : LogisticModel or None
        Fitted on all known cells, with the same C and scaling; the same as `validated` where that is not done.
    baselines : dict of Baseline
    tuned : LogisticModel or None
        Fitted on training cells, with a C and a scaling that were chosen by cross-validation: `validated`, or
        one of fewer cells.
    n_cells : int
        What `kept` was fitted to.
    how : str
        How it was, in words, where it was not tuned.
    """

    validated: LogisticModel | None
    kept: LogisticModel | None
    baselines: dict[str, Baseline]
    tuned: LogisticModel | None = None
    n_cells: int = 0
    how: str = ""


def fit_simple_methods(work: SimpleWork) -> SimpleFits:
    """Fit logistic regression and the baselines."""
    started = time.perf_counter()
    known, labels = work.known.toarray(), work.known_labels
    validated = kept = tuned = None
    n_classes, training = len(work.classes), work.is_training
    if work.linear or work.streamed is not None:
        validated = kept = tuned = fit_logistic(known[training], labels[training], n_classes, seed=work.seed)
        if work.again and not training.all():
            kept = fit_logistic(known, labels, n_classes, seed=work.seed, tuned=validated)
    n_cells = 0 if kept is None else len(kept.held_out_probabilities)
    streamed = None
    if work.streamed is not None and tuned is not None:
        from neurofleet.learners.sims.streamed_regression import fit_streamed  # imports torch

        streamed = fit_streamed(work.streamed, tuned)
    if streamed is not None:
        validated, kept, n_cells = streamed.validated, streamed.kept, streamed.n_cells
    spent = time.perf_counter() - started
    parts = (validated, kept) if work.linear else (None, None)
    how = "" if streamed is None else streamed.in_words
    if work.names == ():
        return SimpleFits(*parts, {}, tuned, n_cells, how)
    linear = kept if work.again or training.all() or streamed is not None else None
    if work.scores_validation:
        known, labels, linear = known[training], labels[training], validated
    baselines = run_baselines(
        known,
        labels,
        work.scored.toarray(),
        work.scored_labels,
        work.classes,
        names=work.names,
        seed=work.seed,
        linear=linear,
    )
    if linear is not None and "logistic" in baselines:
        baselines["logistic"] = replace(baselines["logistic"], seconds=baselines["logistic"].seconds + spent)
    baselines = {name: replace(found, notes=(*found.notes, *work.notes)) for name, found in baselines.items()}
    if streamed is not None and "logistic" in baselines:
        notes = (f"F{how[1:]}.", f"Scored on {len(work.scored_labels):,} cells.")
        baselines["logistic"] = replace(baselines["logistic"], notes=notes)
    return SimpleFits(*parts, baselines, tuned, n_cells, how)


def work_of(
    reference: Reference,
    split: Split,
    *,
    linear: bool,
    again: bool,
    names: Sequence[str] | None,
    seed: int,
    epochs: int = 1,
) -> SimpleWork:
    """Return what simple methods of a split are fitted to: known cells, or a stratified subsample of many.

    Parameters
    ----------
    linear, again, names, seed
        See `SimpleWork`.
    epochs : int
        How often networks are shown the training cells: logistic regression is not shown many cells more often.
    """
    n_genes = len(reference.cells.genes)
    known = np.sort(np.concatenate([split.rows("train"), split.rows("validation")]))
    scores_validation = not len(split.rows("test"))
    scored = np.sort(split.rows("validation" if scores_validation else "test"))
    scored = scored[:0] if names is not None and not len(names) else scored
    most, most_fitted = (max(n // n_genes, 2) for n in (DENSE_VALUES, LOGISTIC_WORK // len(reference.classes)))
    few = min(most, most_fitted)
    if not linear and names is not None and not len(names):
        known = known[:0]
    shown = known[stratified_rows(reference.labels[known], few if linear else min(few, CELL_LIMIT), seed=seed)]
    tested = scored[stratified_rows(reference.labels[scored], min(most, CELL_LIMIT), seed=seed)]
    notes = ()
    if len(shown) < len(known) or len(tested) < len(scored):
        notes = (f"Fitted on {len(shown)} and scored on {len(tested)} cells drawn at random.",)
    streamed = None
    if linear or names is None or "logistic" in names:
        from neurofleet.learners.sims.streamed_regression import streamed_cells  # imports torch

        streamed = streamed_cells(reference, split, shown, again=again, epochs=epochs, seed=seed)

    def values(rows: np.ndarray) -> sp.csr_matrix:
        return reference.values(rows) if len(rows) else sp.csr_matrix((0, n_genes), dtype=np.float32)

    return SimpleWork(
        known=values(shown),
        known_labels=reference.labels[shown],
        is_training=np.isin(shown, split.rows("train")),
        scored=values(tested),
        scored_labels=reference.labels[tested],
        scores_validation=scores_validation,
        classes=reference.classes,
        linear=linear,
        again=again,
        names=None if names is None else tuple(names),
        seed=seed,
        notes=notes,
        streamed=streamed,
    )


class SimpleMethods:
    """Fits simple methods in another process, for a ``with`` block; few or none here, when they are asked for.

    The numbers are the same in either. An error of theirs is raised where the result is asked for; that the other
    process cannot begin, at once.

    Parameters
    ----------
    work : SimpleWork
    after : callable, optional
        What the other process does then, before there is a result; without another process nobody does it. An error of
        it is passed over: it is to be found where its result is asked for.
    """

    def __init__(self, work: SimpleWork, after: Callable[[], object] | None = None) -> None:
        self._work: SimpleWork | None = work
        self._after, self._is_streamed = after, work.streamed is not None
        self._results: Generator[Any, None, None] | None = None
        self._fits: SimpleFits | None = None

    def __enter__(self) -> Self:
        assert self._work is not None
        if np.prod(self._work.known.shape) >= WORTH_A_PROCESS:
            self._results = begin(_fitted, self._work, self._after, environment=one_thread_environment())
            self._next()  # it has begun
            self._work = None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._results is not None:
            self._results.close()

    @property
    def fits(self) -> SimpleFits:
        """What the methods became; waits for it.

        Raises
        ------
        LearnerError
            If they cannot be fitted, or the other process has ended early.
        """
        if self._fits is None:
            if self._results is not None:
                if self._is_streamed:
                    logger.info("waiting until logistic regression and the baselines are fitted to many cells")
                self._fits, peak_bytes = self._next()
                remember_other_process(peak_bytes)
            else:
                assert self._work is not None
                self._fits = fit_simple_methods(self._work)
        return self._fits

    def _next(self) -> Any:
        assert self._results is not None
        try:
            return next(self._results)
        except ProcessFailed as error:
            control = "" if self._after is None else " and trains the control of shuffled labels"
            raise LearnerError(
                f"The process that fits logistic regression and the baselines{control} has failed: {error.reason}."
                " Where memory was short, give the job more of it, or `baselines: []` and `linear_share: 0`, with which"
                " there is no such process; the same command goes on."
            ) from error


def one_thread_environment() -> dict[str, str | None]:
    """Return variables by which numerical libraries of another process work with one thread, or as the user said."""
    threads = os.environ.get(CHOSEN) or "1"
    return {CHOSEN: threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def _fitted(work: SimpleWork, after: Callable[[], object] | None) -> tuple[SimpleFits, int]:
    fits = fit_simple_methods(work)
    if after is not None:
        with suppress(Exception):
            after()
    return fits, peak_memory_bytes()
