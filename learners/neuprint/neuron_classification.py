"""What methods take the tested neurons of one split for: probes of Phi, forests, baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from neurofleet.learners.label_controls import shuffled_labels
from neurofleet.learners.neuprint.activity_statistics import hand_statistics
from neurofleet.learners.neuprint.neuprint_model import animals_to_hold_out
from neurofleet.learners.neuprint.neuron_baselines import BASELINES
from neurofleet.learners.neuprint.neuron_splits import Mode
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.probes import KINDS, fit_probe, fitted, raw_answer
from neurofleet.learners.splits import Split

FOREST = "trees"


@dataclass(frozen=True)
class NeuronSplitCase:
    """One split of labelled neurons, and one seed.

    Attributes
    ----------
    recordings : Recordings
    names : (neurons,) str
        Labels; read for training, validation and test neurons only.
    split : Split
        From `neurofleet.learners.neuprint.neuron_splits.neuron_splits`.
    mode : {"single", "pooled", "cross"}
        That of the split. With ``cross``, animals are kept apart inside the training neurons as well.
    seed : int
    """

    recordings: Recordings
    names: np.ndarray
    split: Split
    mode: Mode
    seed: int

    @property
    def true(self) -> np.ndarray:
        """The labels of the test neurons."""
        return self.names[self.split.rows("test")]

    def shuffled(self) -> NeuronSplitCase:
        """Return the control's case: labels permuted at random within each part of the split."""
        return replace(self, names=shuffled_labels(self.names, self.split, self.seed))


@dataclass(frozen=True)
class NeuronAnswer:
    """What a method takes the test neurons of a split for.

    Attributes
    ----------
    classes : (n_classes,) str
        Those that it was trained on.
    probabilities : (n_tested, n_classes) float64
        Rows as ``split.rows("test")``.
    """

    classes: np.ndarray
    probabilities: np.ndarray

    @property
    def guess(self) -> np.ndarray:
        """The most probable class of each neuron; (n_tested,) str."""
        return self.classes[self.probabilities.argmax(1)]


def probe_answer(case: NeuronSplitCase, kind: str, vectors: np.ndarray) -> NeuronAnswer:
    """Fit a probe on the training neurons' vectors, and ask it for the test neurons.

    What a probe chooses is chosen by cross-validation inside the training neurons. With ``cross`` it keeps
    animals whole, where at least two can be held out.

    Parameters
    ----------
    kind : str
        Of `neurofleet.learners.neuprint.neuprint_model.PROBES`, or another of `neurofleet.learners.probes.KINDS`.
    vectors : (neurons, n_features) array
        Such as Phi.
    """
    train, test = case.split.rows("train"), case.split.rows("test")
    trained, codes = np.unique(case.names[train], return_inverse=True)
    if len(KINDS[kind].grid) == 1:  # nothing to choose
        (setting,) = KINDS[kind].grid
        values = fitted(kind, vectors[train], codes, len(trained), setting, case.seed)
        return NeuronAnswer(trained, raw_answer(kind, values, vectors[test], len(trained)))
    animals = case.recordings.labels("animal")[train]
    groups = animals_to_hold_out(animals, codes) if case.mode == "cross" else None
    probe = fit_probe(kind, vectors[train], codes, len(trained), groups=groups, seed=case.seed)
    return NeuronAnswer(trained, probe.probabilities(vectors[test]))


def with_hand_answer(case: NeuronSplitCase, phi: np.ndarray) -> NeuronAnswer:
    """Grow a forest on Phi (neurons, n_phi) and hand statistics of the training neurons, and ask it."""
    both = np.concatenate([phi, hand_statistics(case.recordings).values], axis=1)
    return probe_answer(case, FOREST, both)


def baseline_answer(case: NeuronSplitCase, name: str) -> NeuronAnswer:
    """Train a method of `neurofleet.learners.neuprint.neuron_baselines.BASELINES` on the same split, and ask it."""
    train, validation = case.split.rows("train"), case.split.rows("validation")
    trained = np.unique(case.names[train])
    validation = validation[np.isin(case.names[validation], trained)]
    labels = np.full(len(case.names), -1)
    seen = np.concatenate([train, validation])
    labels[seen] = np.searchsorted(trained, case.names[seen])
    probabilities = BASELINES[name](case.recordings, train, validation, labels, len(trained), case.seed)
    return NeuronAnswer(trained, probabilities[case.split.rows("test")])


def classes_of(names: np.ndarray, split: Split) -> list[str]:
    """Return the classes that a split trains or tests; a test neuron of one not trained counts as wrong."""
    return np.unique(names[np.concatenate([split.rows("train"), split.rows("test")])]).tolist()
