"""What methods take the test neurons of one split for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from learners.neuprint.recordings import Recordings
    from learners.splits import Split

PROBES = ("knn", "linear", "mlp")
FOREST = "trees"
CONTROL_PROBE = "linear"
WITH_HAND = "+ hand statistics"


@dataclass(frozen=True)
class Case:
    """One split.

    Attributes
    ----------
    recordings : Recordings
    classes : array of str, shape (neurons,)
        Read for training, validation and test neurons.
    split : Split
    grouped : bool
        Whether animals are kept apart, inside the training neurons as well.
    seed : int
    """

    recordings: "Recordings"
    classes: "np.ndarray"
    split: "Split"
    grouped: bool
    seed: int


def answers_of_phi(case: Case, name: str, phi: "np.ndarray", methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return what probes of Phi, and trees on Phi with hand statistics, take the test neurons for.

    Parameters
    ----------
    name : str
        Of the settings.
    phi : array, shape (neurons, phi)
    methods : sequence of str
        ``phi`` and ``phi_and_hand`` count.
    """
    import numpy as np

    from learners.neuprint.hand_statistics import hand_statistics

    found = []
    if "phi" in methods:
        found += [_probed(case, name, probe, phi) for probe in PROBES]
    if "phi_and_hand" in methods:
        both = np.concatenate([phi, hand_statistics(case.recordings).values], axis=1)
        found.append(_forest(case, f"{name} {WITH_HAND}", both))
    return found


def answer_to_shuffled(case: Case, phi: "np.ndarray") -> dict[str, Any]:
    """Return what a linear probe of shuffled labels takes the test neurons for, and their shuffled labels."""
    from dataclasses import replace

    from learners.shuffle_control import shuffled_labels

    shuffled = shuffled_labels(case.classes, case.split, case.seed)
    found = _probed(replace(case, classes=shuffled), "shuffled labels", CONTROL_PROBE, phi)
    return {"true": shuffled[case.split.rows("test")].tolist(), "guess": found["guess"]}


def answer_of_baseline(case: Case, name: str) -> dict[str, Any]:
    """Return what a method of `learners.neuprint.baselines` takes the test neurons for."""
    import numpy as np

    from learners.neuprint.baselines import BASELINES

    split, classes = case.split, case.classes
    train, validation = split.rows("train"), split.rows("validation")
    trained = np.unique(classes[train])
    validation = validation[np.isin(classes[validation], trained)]
    labels = np.full(len(classes), -1)
    seen = np.concatenate([train, validation])
    labels[seen] = np.searchsorted(trained, classes[seen])
    found = BASELINES[name](case.recordings, train, validation, labels, len(trained), case.seed)
    return _answer(name, "", trained, found[split.rows("test")])


def _probed(case: Case, method: str, probe: str, vectors: "np.ndarray") -> dict[str, Any]:
    import numpy as np

    from learners.probes import fit_probe

    train, test = case.split.rows("train"), case.split.rows("test")
    trained, codes = np.unique(case.classes[train], return_inverse=True)
    groups = _groups(case, train, codes) if case.grouped else None
    fitted = fit_probe(probe, vectors[train], codes, len(trained), groups=groups, seed=case.seed)
    return _answer(method, probe, trained, fitted.probabilities(vectors[test]))


def _forest(case: Case, method: str, vectors: "np.ndarray") -> dict[str, Any]:
    import numpy as np

    from learners.probe_kinds import KINDS
    from learners.probes import fitted, raw_answer

    train, test = case.split.rows("train"), case.split.rows("test")
    trained, codes = np.unique(case.classes[train], return_inverse=True)
    (setting,) = KINDS[FOREST].grid
    values = fitted(FOREST, vectors[train], codes, len(trained), setting, case.seed)
    return _answer(method, FOREST, trained, raw_answer(FOREST, values, vectors[test], len(trained)))


def _groups(case: Case, train: "np.ndarray", codes: "np.ndarray") -> "np.ndarray | None":
    """Return the animals, or None where holding out animals would leave fewer than two to choose between."""
    import numpy as np

    animals = case.recordings.labels("animal")[train]
    homes = [np.unique(animals[codes == code]) for code in np.unique(codes)]
    lonely = [str(own[0]) for own in homes if len(own) == 1]
    free = ~np.isin(animals, lonely)
    enough = len(np.unique(animals[free])) >= 2 and len(np.unique(codes[free])) >= 2
    return animals if enough else None


def _answer(method: str, probe: str, trained: "np.ndarray", probabilities: "np.ndarray") -> dict[str, Any]:
    best = probabilities.argmax(1)
    return {
        "method": method,
        "probe": probe,
        "guess": trained[best].tolist(),
        "probability": probabilities.max(1).round(6).tolist(),
    }
