"""What all search strategies have in common: asking for individuals, telling their scores, keeping the best."""

from __future__ import annotations

import abc
import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofleet.neurosim.evolution.diverse_selection import select_diverse, tolerated_total
from neurofleet.neurosim.evolution.parameter_space import ParameterSpace


def total_scores(scores: np.ndarray) -> np.ndarray:
    """Sum the objectives (n, M) of each individual from left to right, as BluePyOpt does.

    Returns
    -------
    ndarray, shape (n,)
        Equal to BluePyOpt's summed fitness to the last bit, which numpy's own (pairwise) sum is not.
    """
    return np.array([sum(row) for row in np.asarray(scores, np.float64).tolist()], np.float64)


@dataclass(frozen=True, eq=False)
class HallOfFameEntry:
    """One evaluated model: where it came from (`generation`, `individual`) and what it scored."""

    total: float
    generation: int
    individual: int
    parameters: np.ndarray
    scores: np.ndarray

    @property
    def rank_key(self) -> tuple[float, int, int]:
        return self.total, self.generation, self.individual


class HallOfFame:
    """The `size` best distinct parameter vectors by the plain sum of their objectives.

    Equal totals are ordered by (generation, individual), so the entries do not depend on the order in which
    generations are added. Without such ties its entries are those of DEAP's `HallOfFame` under
    BluePyOpt's weighted sum (which orders ties newest first).

    Parameters
    ----------
    size : int
    tolerance : float
        Above 0, all models that the recording cannot tell from the best are kept beside the `size` best, for
        `most_different` to choose from; see `neurofleet.neurosim.evolution.diverse_selection.tolerated_total`.
    """

    def __init__(self, size: int, tolerance: float = 0.0) -> None:
        if size < 1:
            raise ValueError(f"a hall of fame holds at least one model, not {size}")
        self.size = size
        self.tolerance = tolerance
        self._entries: list[HallOfFameEntry] = []
        self._held: dict[bytes, HallOfFameEntry] = {}

    @property
    def entries(self) -> tuple[HallOfFameEntry, ...]:
        """Best first."""
        return tuple(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def most_different(self, size: int, space: ParameterSpace) -> list[int]:
        """Return the positions of entries that are as good as the best within the tolerance and differ most.

        Best first. Without a tolerance, of the best.
        """
        if not self.tolerance or not self._entries:
            return list(range(min(size, len(self))))
        unit = space.to_unit(np.array([entry.parameters for entry in self._entries]))
        totals = np.array([entry.total for entry in self._entries])
        return select_diverse(unit, totals, size, self._limit).tolist()

    @property
    def _limit(self) -> float:
        """The largest total of a model that is as good as the best."""
        best = self._entries[0]
        return tolerated_total(best.total, len(best.scores), self.tolerance) if self.tolerance else -np.inf

    def update(self, parameters: np.ndarray, scores: np.ndarray, generation: int) -> None:
        """Add a generation: parameters (n, P) and scores (n, M), one individual a row."""
        parameters, scores = np.asarray(parameters, np.float64), np.asarray(scores, np.float64)
        for individual, total in enumerate(total_scores(scores).tolist()):
            if len(self) >= self.size and total > max(self._limit, self._entries[self.size - 1].total):
                continue
            self._insert(
                HallOfFameEntry(total, generation, individual, parameters[individual].copy(), scores[individual].copy())
            )

    def _insert(self, entry: HallOfFameEntry) -> None:
        key = _key(entry)
        held = self._held.get(key)
        if held is not None:
            if held.rank_key <= entry.rank_key:
                return
            self._entries.remove(held)
        self._held[key] = entry
        bisect.insort(self._entries, entry, key=lambda item: item.rank_key)
        as_good = bisect.bisect_right(self._entries, self._limit, key=lambda item: item.total)
        kept = max(self.size, as_good)
        for worst in self._entries[kept:]:
            del self._held[_key(worst)]
        del self._entries[kept:]


def _key(entry: HallOfFameEntry) -> bytes:
    """Return a key that is the same for equal parameters, 0.0 and -0.0 included."""
    return (entry.parameters + 0.0).tobytes()


ARCHIVE_SIZE = 256


class AskTell(abc.ABC):
    """What strategies with and without generations have in common.

    Attributes
    ----------
    space : ParameterSpace
    evaluations : int
        Individuals told so far.
    planned_evaluations : int
        The most that the whole search takes.
    archive : HallOfFame
        The best 256 distinct models so far; with a tolerance, all that are as good as the best too.
    learns_from_residuals : bool
        Whether `tell` takes the signed residuals beside the scores.
    """

    learns_from_residuals = False

    def __init__(self, space: ParameterSpace, planned_evaluations: int, tolerance: float = 0.0) -> None:
        self.space = space
        self.planned_evaluations = planned_evaluations
        self.evaluations = 0
        self.archive = HallOfFame(ARCHIVE_SIZE, tolerance)

    @property
    @abc.abstractmethod
    def phase(self) -> str:
        """The phase that the next individuals belong to, in one word for display."""

    @property
    @abc.abstractmethod
    def finished(self) -> bool:
        """Whether the search is over; `ask` then raises."""

    @property
    def judged_from(self) -> int:
        """Evaluations that say nothing of whether the search gets on: those before what it does now, if that is new."""
        return 0

    def candidates(self, n: int) -> np.ndarray:
        """Return models to be scored again more tightly, best first.

        The best distinct ones so far; of a search with a tolerance, those among the ones as good as the best that
        differ most.

        Returns
        -------
        ndarray, shape (at most n, P)
        """
        return self._parameters([self.archive.entries[i] for i in self.archive.most_different(n, self.space)])

    def _best_models(self) -> np.ndarray:
        """Return the best distinct models so far, best first, shape (at most 256, P)."""
        return self._parameters(self.archive.entries[: self.archive.size])

    def _parameters(self, entries: Sequence[HallOfFameEntry]) -> np.ndarray:
        rows = [entry.parameters for entry in entries]
        return np.array(rows, np.float64).reshape(len(rows), len(self.space))

    def _check_results(self, parameters: np.ndarray, scores: np.ndarray) -> None:
        """Raise `ValueError` for scores (n, M) that are not those of parameters (n, P) inside the bounds."""
        if scores.ndim != 2 or len(scores) != len(parameters) or scores.shape[1] == 0:
            raise ValueError(f"told scores of shape {scores.shape}, expected ({len(parameters)}, objectives)")
        if not np.isfinite(scores).all():
            raise ValueError("told scores that are not finite; give failed evaluations their penalty first")
        if (parameters < self.space.lower).any() or (parameters > self.space.upper).any():
            raise ValueError("told parameters that lie outside the bounds of the space")


class Strategy(AskTell):
    """A search over a parameter space, one generation at a time.

    The search depends on its seed and on what it was told, and on nothing else: a new strategy that is led
    through the same generations (`ask`, then `tell` with the stored parameters and scores) continues exactly
    as the first one would have. What was *told* counts, not what was asked: when a run continues on a
    machine whose linear algebra rounds differently, the search goes on from the stored individuals.

    Attributes
    ----------
    generation : int
        Generations told so far.
    space, evaluations, planned_evaluations, archive
        See `AskTell`.
    """

    def __init__(self, space: ParameterSpace, planned_evaluations: int, tolerance: float = 0.0) -> None:
        super().__init__(space, planned_evaluations, tolerance)
        self.generation = 0
        self._pending: np.ndarray | None = None

    @abc.abstractmethod
    def _propose(self) -> np.ndarray:
        """Draw the next generation, (n, P) raw values."""

    @abc.abstractmethod
    def _learn(self, parameters: np.ndarray, scores: np.ndarray, residuals: np.ndarray) -> None:
        """Process an evaluated generation."""

    def ask(self, n: int | None = None) -> np.ndarray:
        """Return the next generation to evaluate.

        The same generation comes back until it is told.

        Parameters
        ----------
        n : int, optional
            The number that the caller expects. A generation cannot be cut: any number but its size raises.

        Returns
        -------
        ndarray, shape (n, P)
            Raw parameter values in the order of `space.names`, a copy.

        Raises
        ------
        RuntimeError
            The search is finished.
        ValueError
            `n` is not the size of this generation.
        """
        if self._pending is None:
            if self.finished:
                raise RuntimeError("the search is finished: there is nothing more to ask for")
            self._pending = self._propose()
        if n is not None and n != len(self._pending):
            raise ValueError(f"this generation has {len(self._pending)} individuals, {n} were asked for")
        return self._pending.copy()

    def tell(self, parameters: np.ndarray, scores: np.ndarray, residuals: np.ndarray | None = None) -> None:
        """Tell the scores of the generation that was asked for.

        Parameters
        ----------
        parameters : ndarray, shape (n, P)
            The individuals, in the order asked.
        scores : ndarray, shape (n, M)
            Their objectives, lower is better; failed evaluations already carry their penalty.
        residuals : ndarray, shape (n, M), optional
            Distances of the features from their targets with the sign, NaN where there is none: a missing feature, a
            failed evaluation, an objective without a sign. Strategies that do not learn from them ignore them.

        Raises
        ------
        RuntimeError
            Nothing was asked for.
        ValueError
            Wrong shapes, scores that are not finite, or parameters outside the bounds.
        """
        if self._pending is None:
            raise RuntimeError("tell without ask: ask for a generation first")
        parameters, scores = np.array(parameters, np.float64), np.array(scores, np.float64)
        if parameters.shape != self._pending.shape:
            raise ValueError(f"told parameters of shape {parameters.shape}, asked {self._pending.shape}")
        self._check_results(parameters, scores)
        signed = self._checked_residuals(scores, residuals)
        self._pending = None
        self.archive.update(parameters, scores, self.generation)
        self.generation += 1
        self.evaluations += len(parameters)
        self._learn(parameters, scores, signed)

    def _checked_residuals(self, scores: np.ndarray, residuals: np.ndarray | None) -> np.ndarray:
        """Return the residuals (n, M), all NaN where none were told."""
        signed = np.full(scores.shape, np.nan) if residuals is None else np.array(residuals, np.float64)
        if signed.shape != scores.shape or np.isinf(signed).any():
            raise ValueError(f"told residuals of shape {signed.shape}, expected finite ones or NaN, {scores.shape}")
        return signed
