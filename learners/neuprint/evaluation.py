"""NeuPRINT, its ablations, and baselines on the same stored splits of neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from learners.neuprint.baselines import BASELINES
from learners.neuprint.downstream import PROBE_KINDS, Mode, Summary, probe_scores, summary, trained_neurons
from learners.neuprint.fit import Train, fit
from learners.neuprint.hand_statistics import hand_statistics
from learners.neuprint.recordings import Recordings
from learners.neuprint.settings import Settings
from learners.scores import Scores, score
from learners.shuffle_control import ShuffleControl, shuffle_control, shuffled_labels
from learners.splits import Split

WITH_HAND = "+ hand statistics"


@dataclass(frozen=True)
class Row:
    """One method on one split.

    Attributes
    ----------
    method, probe : str
        `probe` is empty for methods that classify by themselves.
    split : int
        The split's number.
    scores : Scores
        On its test neurons.
    """

    method: str
    probe: str
    split: int
    scores: Scores


@dataclass(frozen=True)
class Evaluation:
    """All methods on all splits.

    Attributes
    ----------
    label, mode : str
    rows : tuple of Row
    control : ShuffleControl
        Of the first settings with a linear probe, on shuffled labels; one shuffle for each split.
    """

    label: str
    mode: str
    rows: tuple[Row, ...]
    control: ShuffleControl

    def table(self) -> list[dict[str, Any]]:
        """Return one line per method and probe: mean over splits of each score, with intervals."""
        lines = []
        for method, probe in dict.fromkeys((row.method, row.probe) for row in self.rows):
            own = [row.scores for row in self.rows if (row.method, row.probe) == (method, probe)]
            line: dict[str, Any] = {"method": method, "probe": probe, "mode": self.mode}
            line |= {"label": self.label, "n": sum(one.n for one in own), "splits": len(own)}
            line["n_classes"] = max(one.n_classes for one in own)
            for name in ("majority_rate", "accuracy", "balanced_accuracy", "macro_f1"):
                found: Summary = summary([getattr(one, name) for one in own])
                line |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
            lines.append(line)
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, numbers and strings, for JSON."""
        return asdict(self) | {"table": self.table()}


def evaluate(
    recordings: Recordings,
    label: str,
    mode: Mode,
    splits: Sequence[Split],
    settings: Mapping[str, Settings],
    train: Train,
    *,
    probes: Sequence[str] = PROBE_KINDS,
    baselines: Sequence[str] = tuple(BASELINES),
    progress: Callable[[Row], None] = lambda row: None,
) -> Evaluation:
    """Fit each of the settings on each split, probe its Phi, and run the baselines beside it.

    The dynamics is fitted without the validation and test neurons; then the Phi of all neurons is inferred
    with the dynamics frozen. Every settings' Phi is also probed together with hand statistics.

    Parameters
    ----------
    splits : sequence of Split
        From `learners.neuprint.downstream.neuron_splits` with the same mode.
    settings : mapping
        By name, such as `learners.neuprint.downstream.ablations` returns them. The number of a split is the
        seed of what is fitted on it.
    baselines : sequence of str
        Of `learners.neuprint.baselines.BASELINES`.

    Raises
    ------
    LearnerError
        If the recordings cannot be used.
    """
    names, animals = recordings.labels(label), recordings.neurons["animal"].to_numpy().astype(str)
    hand = hand_statistics(recordings).values
    groups = animals if mode == "cross" else None
    rows, shuffles = [], []

    def add(method: str, probe: str, split: int, scores: Scores) -> None:
        rows.append(Row(method, probe, split, scores))
        progress(rows[-1])

    for split in splits:
        number = int(split.fold[0])
        neurons = trained_neurons(recordings, split, mode)
        for method, chosen in settings.items():
            phi = fit(recordings, neurons, chosen, train, number, f"{method}-{number}").phi
            vectors = {method: phi, f"{method} {WITH_HAND}": np.concatenate([phi, hand], axis=1)}
            for name, values in vectors.items():
                found = probe_scores(values, names, split, probes, groups=groups, seed=number)
                for probe, scores in found.items():
                    add(name, probe, number, scores)
            if method == next(iter(settings)):
                shuffled = shuffled_labels(names, split, number)
                drawn = probe_scores(phi, shuffled, split, ["linear"], groups=groups, seed=number)
                shuffles.append(drawn["linear"])
        for method in baselines:
            add(method, "", number, _baseline(method, recordings, names, split, number))
    return Evaluation(label, mode, tuple(rows), shuffle_control(shuffles))


def _baseline(method: str, recordings: Recordings, names: np.ndarray, split: Split, seed: int) -> Scores:
    train, validation, test = (split.rows(role) for role in ("train", "validation", "test"))
    trained = np.unique(names[train])
    labels = np.full(len(names), -1)
    seen = np.concatenate([train, validation[np.isin(names[validation], trained)]])
    labels[seen] = np.searchsorted(trained, names[seen])
    validation = validation[labels[validation] >= 0]
    found = BASELINES[method](recordings, train, validation, labels, len(trained), seed)
    classes = np.unique(names[np.concatenate([train, test])])
    return score(names[test], trained[found[test].argmax(1)], classes.tolist())
