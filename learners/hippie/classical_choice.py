"""Which classical candidates to trust: rules that read held-out probabilities of the training units only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from learners.errors import LearnerError
from learners.probes import balanced_accuracy
from learners.splits import nearest

GREEDY_STEPS = 15
MOST_ERRORS = 3.0
LEAST_PROBABILITY = 0.01
MODALITIES = ("waveform", "isi", "acg")


@dataclass(frozen=True)
class Candidate:
    """A way to predict, with its held-out probabilities (n, n_classes); NaN for rows never held out.

    Candidates of one family are one model on one feature set, in different settings.
    """

    name: str
    family: str
    held_out: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes
    ----------
    rule : str
    weights : dict of float
        By candidate; they sum to 1.
    inner_balanced_accuracy : float
        Of the blend on held-out training rows: somewhat optimistic, since the choice saw them.
    tried : dict of float
        Inner balanced accuracy of every candidate.
    """

    rule: str
    weights: dict[str, float]
    inner_balanced_accuracy: float
    tried: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, for JSON."""
        return asdict(self)


def choose(candidates: Sequence[Candidate], y: np.ndarray, rule: str = "best") -> tuple[Choice, np.ndarray]:
    """Weigh the candidates by a rule; return the choice and the blend's held-out probabilities.

    Rules: ``auto``, the one of the best inner balanced accuracy; ``top3``, the mean of the best three
    families;
    ``soft``, all of them, weighing exp(-gap / s.e.), where the gap is how far the class-balanced log loss is
    above the best one and s.e. is the standard error of that one: what cannot be told apart weighs about
    alike, what is 3 s.e. worse has no weight;
    ``greedy``, forward selection with replacement on class-balanced log loss (Caruana et al. 2004);
    ``modalities``, the mean of the SVMs on each modality alone, the hand features and everything;
    ``best``, the rule this product answers with.

    Raises
    ------
    LearnerError
        For an unknown rule, no candidate, or held-out rows that two candidates do not share.
    """
    if rule not in RULES:
        raise LearnerError(f"Expected a rule of {', '.join(RULES)}, found {rule!r}{nearest(rule, RULES)}.")
    if not candidates:
        raise LearnerError("There is no candidate to choose from. Give at least one feature set and model.")
    y = np.asarray(y)
    seen = np.all([np.isfinite(one.held_out).all(axis=1) for one in candidates], axis=0)
    if not seen.any():
        raise LearnerError(
            "No row has held-out probabilities of all candidates: "
            + ", ".join(one.name for one in candidates)
            + ". Hand in out-of-fold probabilities for the same rows, in the same order."
        )
    stacked = np.array([one.held_out for one in candidates])
    tried = np.array([balanced_accuracy(y[seen], one[seen].argmax(axis=1)) for one in stacked])
    families = np.array([one.family for one in candidates])
    weights = RULES[rule](families, stacked[:, seen], y[seen], tried)
    held_out = np.full(stacked.shape[1:], np.nan)
    held_out[seen] = np.einsum("c,cnk->nk", weights, stacked[:, seen])
    choice = Choice(
        rule=rule,
        weights={one.name: float(w) for one, w in zip(candidates, weights, strict=True) if w > 0},
        inner_balanced_accuracy=balanced_accuracy(y[seen], held_out[seen].argmax(axis=1)),
        tried={one.name: float(reached) for one, reached in zip(candidates, tried, strict=True)},
    )
    return choice, held_out


def _auto(families: np.ndarray, held_out: np.ndarray, y: np.ndarray, tried: np.ndarray) -> np.ndarray:
    return np.eye(len(tried))[int(tried.argmax())]


def _top3(families: np.ndarray, held_out: np.ndarray, y: np.ndarray, tried: np.ndarray) -> np.ndarray:
    best = sorted(_best_of_each(families, tried), key=lambda i: -tried[i])[:3]
    return np.isin(np.arange(len(tried)), best) / len(best)


def _soft(families: np.ndarray, held_out: np.ndarray, y: np.ndarray, tried: np.ndarray) -> np.ndarray:
    losses = np.array([balanced_log_loss(y, one) for one in held_out])
    mean, error = losses[:, 0], losses[int(losses[:, 0].argmin()), 1]
    weights = np.exp((mean.min() - mean) / error)
    weights[mean - mean.min() > MOST_ERRORS * error] = 0.0
    return weights / weights.sum()


def _greedy(families: np.ndarray, held_out: np.ndarray, y: np.ndarray, tried: np.ndarray) -> np.ndarray:
    of_class = 1 / np.bincount(y).clip(1)[y]
    of_true = held_out[:, np.arange(len(y)), y]
    pool = np.array(_best_of_each(families, tried))
    total, counts = np.zeros(len(y)), np.zeros(len(tried))
    for step in range(1, GREEDY_STEPS + 1):
        losses = -np.log(np.clip((total + of_true[pool]) / step, LEAST_PROBABILITY, None)) @ of_class
        best = pool[int(losses.argmin())]
        total += of_true[best]
        counts[best] += 1
    return counts / counts.sum()


def _modalities(families: np.ndarray, held_out: np.ndarray, y: np.ndarray, tried: np.ndarray) -> np.ndarray:
    wanted = [f"svm on {features}" for features in (*MODALITIES, "hand", "all+hand")]
    chosen = np.array([i for i in _best_of_each(families, tried) if families[i] in wanted], dtype=int)
    if len(chosen) == 0:
        raise LearnerError(
            f"The rule 'modalities' blends {', '.join(wanted)}; none of them is a candidate. Add the model"
            " svm, or take another rule."
        )
    return np.isin(np.arange(len(tried)), chosen) / len(chosen)


def _best_of_each(families: np.ndarray, tried: np.ndarray) -> list[int]:
    """Return the best candidate of each family, in the order of the families' first candidates."""
    best: dict[str, int] = {}
    for i, family in enumerate(families):
        if family not in best or tried[i] > tried[best[family]]:
            best[family] = i
    return list(best.values())


RULES = {
    "auto": _auto,
    "top3": _top3,
    "soft": _soft,
    "greedy": _greedy,
    "modalities": _modalities,
    "best": _soft,
}


def balanced_log_loss(y: np.ndarray, probabilities: np.ndarray) -> tuple[float, float]:
    """Return the log loss (nats), every class weighing alike, and its standard error.

    A probability counts as at least 0.01, so that one unit which a sure model gets wrong does not decide.
    """
    losses = -np.log(np.clip(probabilities[np.arange(len(y)), y], LEAST_PROBABILITY, None))
    of_class = [losses[y == k] for k in np.unique(y)]
    variance = sum(max(one.var(), LEAST_PROBABILITY**2) / len(one) for one in of_class)
    return float(np.mean([one.mean() for one in of_class])), float(np.sqrt(variance) / len(of_class))
