"""From Phi to labels: splits of neurons in three modes, and probes that are scored on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from learners.errors import LearnerError
from learners.neuprint.recordings import Recordings
from learners.neuprint.settings import Part, Settings
from learners.probes import fit_probe
from learners.scores import Scores, score
from learners.splits import Split, make_folds, make_split, nearest

Mode = Literal["single", "pooled", "cross"]
MODES = ("single", "pooled", "cross")
PROBE_KINDS = ("knn", "linear", "mlp")
SEEDS = 5
TEST = VALIDATION = 0.1


def neuron_splits(
    recordings: Recordings,
    label: str,
    mode: Mode,
    *,
    animal: str | None = None,
    seeds: int = SEEDS,
    fewest: int = 3,
) -> list[Split]:
    """Split the labelled neurons into training, validation and test neurons, once for all methods.

    ``single``: those of one animal, and ``pooled``: those of all, 80 / 10 / 10 % of each class, drawn once
    for each seed. ``cross``: each animal is tested in turn, with all its neurons, once for each seed; a
    tenth of the other animals' validates. Unlabelled neurons have the role ``excluded``.

    Parameters
    ----------
    label : str
        A column of ``recordings.neurons``.
    animal : str, optional
        For ``single``; may be left out where there is only one.
    fewest : int
        Classes with fewer neurons count as unlabelled.

    Raises
    ------
    LearnerError
        For an unknown mode, label or animal; for ``cross`` with one animal only; for fewer than two classes.
    """
    names = recordings.labels(label).astype(object)
    ids, animals = recordings.neurons.index.to_numpy().astype(str), _animals(recordings)
    known = sorted(set(animals))
    if mode not in MODES:
        raise LearnerError(f"A split is one of {', '.join(MODES)}; found {mode!r}{nearest(mode, MODES)}.")
    notes: list[str] = []
    if mode == "single":
        chosen = _one_animal(known, animal)
        names[animals != chosen] = ""
        notes.append(f"Neurons of animal {chosen} only.")
    elif mode == "cross" and len(known) < 2:
        raise LearnerError(
            "A cross-animal split tests each animal with what was learnt from the others: expected at least 2"
            f" animals, found {len(known)} ({', '.join(known)}). Ask for mode single, or add recordings of"
            " another animal."
        )
    classes, counts = np.unique(names[names != ""].astype(str), return_counts=True)
    rare = classes[counts < fewest]
    names[np.isin(names.astype(str), rare)] = ""
    if len(rare):
        notes.append(f"Classes with fewer than {fewest} neurons count as unlabelled: {', '.join(rare[:10])}.")
    if len(classes) - len(rare) < 2:
        raise LearnerError(
            f"A probe needs at least 2 classes of {fewest} or more neurons; {label!r} has"
            f" {len(classes) - len(rare)}. Choose another label, or lower fewest."
        )
    if mode == "cross":
        found = [
            split
            for seed in range(seeds)
            for split in make_folds(
                ids,
                names,
                len(known),
                validation=VALIDATION,
                group="animal",
                columns={"animal": animals.tolist()},
                seed=seed,
            )
        ]
    else:
        found = [make_split(ids, names, test=TEST, validation=VALIDATION, seed=seed) for seed in range(seeds)]
    return [
        replace(split, fold=np.full(len(ids), number), notes=(*notes, *split.notes))
        for number, split in enumerate(found)
    ]


def class_split(recordings: Recordings, label: str, subclass: Split, subclass_label: str, seed: int) -> Split:
    """Return the split of the class task that belongs to a split of the subclass task.

    Classes that hold neurons with a subclass keep the subclass task's validation and test neurons, and all
    their others are trained on; of the other classes 80 / 10 / 10 % are drawn (NeuPRINT, section 4.2).

    Parameters
    ----------
    label, subclass_label : str
        Columns of ``recordings.neurons``, such as ``class`` and ``subclass``.
    """
    names, inner = recordings.labels(label), recordings.labels(subclass_label)
    with_subclass = np.isin(names, np.unique(names[(inner != "") & (names != "")])) & (names != "")
    role = np.where(names == "", "excluded", "train").astype("<U10")
    held_out = with_subclass & np.isin(subclass.role, ("validation", "test"))
    role[held_out] = subclass.role[held_out]
    others = np.where(with_subclass, "", names)
    if (others != "").any():
        drawn = make_split(subclass.sample_ids, others, test=TEST, validation=VALIDATION, seed=seed)
        role[others != ""] = drawn.role[others != ""]
    return Split(subclass.sample_ids, subclass.fold, role, subclass.notes)


def trained_neurons(recordings: Recordings, split: Split, mode: Mode) -> np.ndarray:
    """Return which neurons the dynamics may be fitted to: all but those that validate or test.

    Unlabelled neurons as well, but none of an animal that is tested as a whole, and for ``single`` none of
    another animal.
    """
    animals = _animals(recordings)
    held_out = np.isin(split.role, ("validation", "test"))
    if mode == "cross":
        held_out |= np.isin(animals, animals[split.role == "test"])
    elif mode == "single":
        held_out |= ~np.isin(animals, animals[split.role == "train"])
    return np.flatnonzero(~held_out)


def probe_scores(
    vectors: np.ndarray,
    names: np.ndarray,
    split: Split,
    kinds: Sequence[str] = PROBE_KINDS,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Scores]:
    """Fit probes on the training neurons' vectors and score them on the test neurons.

    What a probe chooses is chosen by cross-validation inside the training neurons, grouped where `groups`
    are given and at least two of them can be held out. Test neurons of classes that no training neuron has
    count as wrong.

    Parameters
    ----------
    vectors : (n, n_features) array
    names : (n,) str
        Labels; read for training and test neurons only.
    """
    train, test = split.rows("train"), split.rows("test")
    classes = np.unique(names[np.concatenate([train, test])])
    trained = np.unique(names[train])
    codes = np.searchsorted(trained, names[train])
    inner = None if groups is None else _groups_to_hold_out(codes, groups[train])
    found = {}
    for kind in kinds:
        probe = fit_probe(kind, vectors[train], codes, len(trained), groups=inner, seed=seed)
        guess = trained[probe.probabilities(vectors[test]).argmax(1)]
        found[kind] = score(names[test], guess, classes.tolist())
    return found


@dataclass(frozen=True)
class Summary:
    """A score over splits.

    Attributes
    ----------
    mean, sd : float
    low, high : float
        95 % interval of the mean by Student's t over the splits. Test neurons of different seeds overlap, so
        that it tells how a result depends on the draw, not what other animals would give.
    n : int
        Splits.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


def summary(values: Sequence[float]) -> Summary:
    """Return mean and interval of one score per split."""
    array = np.asarray(values, dtype=np.float64)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Summary(mean, 0.0, mean, mean, n)
    sd = float(array.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / n**0.5
    return Summary(mean, sd, mean - half, mean + half, n)


def ablations(settings: Settings, has_positions: bool = False) -> dict[str, Settings]:
    """Return settings that differ in what the dynamics sees beside the neuron's own past.

    ``none``, ``behaviour``, ``population`` (with centre and surround where there are positions), ``all``.
    """
    around: tuple[Part, ...] = ("population",)
    if has_positions and settings.delta_um is not None:
        around = ("population", "centre", "surround")
    inputs: Mapping[str, tuple[Part, ...]] = {
        "none": (),
        "behaviour": ("behaviour",),
        "population": around,
        "all": ("behaviour", *around),
    }
    return {name: _seeing(settings, parts, None) for name, parts in inputs.items()}


def growing_inputs(
    settings: Settings, channels: Sequence[str], has_positions: bool = False
) -> dict[str, Settings]:
    """Return settings with one input more each, as in the paper's table 5.

    ``none``, then ``+name`` for each behaviour channel in turn, ``+population``, and ``+centre-surround``
    where there are positions and a radius.

    Parameters
    ----------
    channels : sequence of str
        Behaviour, in the order in which it is added: running, pupil and state in the paper.
    """
    found = {"none": _seeing(settings, (), None)}
    behaviour: tuple[Part, ...] = ("behaviour",) if channels else ()
    for number, name in enumerate(channels):
        found[f"+{name}"] = _seeing(settings, ("behaviour",), tuple(channels[: number + 1]))
    chosen = tuple(channels) or None
    found["+population"] = _seeing(settings, (*behaviour, "population"), chosen)
    if has_positions and settings.delta_um is not None:
        parts: tuple[Part, ...] = (*behaviour, "population", "centre", "surround")
        found["+centre-surround"] = _seeing(settings, parts, chosen)
    return found


def _seeing(settings: Settings, parts: tuple[Part, ...], behaviour: tuple[str, ...] | None) -> Settings:
    kept = behaviour if behaviour is not None or "behaviour" not in parts else settings.behaviour
    return Settings(**(settings.model_dump() | {"parts": parts, "behaviour": kept}))


def _groups_to_hold_out(codes: np.ndarray, groups: np.ndarray) -> np.ndarray | None:
    """Return the groups, or None where holding out groups would leave fewer than two to choose between."""
    homes = [np.unique(groups[codes == code]) for code in np.unique(codes)]
    lonely = {str(own[0]) for own in homes if len(own) == 1}
    free = ~np.isin(groups, list(lonely))
    return groups if len(np.unique(groups[free])) >= 2 and len(np.unique(codes[free])) >= 2 else None


def _animals(recordings: Recordings) -> np.ndarray:
    return recordings.neurons["animal"].to_numpy().astype(str)


def _one_animal(known: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted is None or wanted not in known:
        raise LearnerError(
            f"Mode single needs one animal of {', '.join(known)}; found {wanted!r}"
            f"{nearest(str(wanted), known)}. Name it."
        )
    return wanted
