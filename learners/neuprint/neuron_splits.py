"""Splits of neurons in three modes, what a dynamics may see in each, and means of scores over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.learners.class_names import alike_notes
from neurofleet.learners.neuprint.dynamics_settings import CovariatePart, NeuprintSettings
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.splits import Split, make_folds, make_split
from neurofleet.wording import listed

Mode = Literal["single", "pooled", "cross"]
MODES = ("single", "pooled", "cross")
SEEDS = 5
SHOWN = 10
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
    names, notes = labelled_names(recordings, label, mode, animal=animal, fewest=fewest)
    ids, animals = recordings.neurons.index.to_numpy().astype(str), _animals(recordings)
    if mode == "cross":
        splits = [
            split
            for seed in range(seeds)
            for split in make_folds(
                ids,
                names,
                len(recordings.animals),
                validation=VALIDATION,
                group="animal",
                columns={"animal": animals.tolist()},
                seed=seed,
            )
        ]
    else:
        splits = [make_split(ids, names, test=TEST, validation=VALIDATION, seed=seed) for seed in range(seeds)]
    return [
        replace(split, fold=np.full(len(ids), number), notes=(*notes, *split.notes))
        for number, split in enumerate(splits)
    ]


def labelled_names(
    recordings: Recordings, label: str, mode: Mode, *, animal: str | None, fewest: int
) -> tuple[np.ndarray, list[str]]:
    """Return the label (neurons,) of each neuron that takes part in a split, "" of others, and notes.

    Raises
    ------
    LearnerError
        As `neuron_splits`.
    """
    names = recordings.labels(label).astype(object)
    animals = _animals(recordings)
    known = sorted(set(animals))
    if mode not in MODES:
        raise LearnerError(f"A split is one of {', '.join(MODES)}; found {mode!r}{did_you_mean(mode, MODES)}.")
    notes: list[str] = []
    if mode == "single":
        chosen = _one_animal(known, animal)
        names[animals != chosen] = ""
        notes.append(f"Neurons of animal {chosen} only.")
    elif mode == "cross" and len(known) < 2:
        raise LearnerError(
            "A cross-animal split tests each animal with what was learnt from the others: expected at least 2"
            f" animals, found {len(known)} ({', '.join(known)}). Ask for `split: single-animal`, or"
            " add recordings of another animal."
        )
    classes, counts = np.unique(names[names != ""].astype(str), return_counts=True)
    rare = classes[counts < fewest]
    names[np.isin(names.astype(str), rare)] = ""
    if len(rare):
        notes.append(
            f"Classes with fewer than {fewest} neurons (`least_neurons`) count as unlabelled: {listed(rare, SHOWN)}."
        )
    notes += alike_notes(classes)
    if len(classes) - len(rare) < 2:
        raise LearnerError(
            f"A probe needs at least 2 classes of {fewest} or more neurons; {label!r} has"
            f" {len(classes) - len(rare)}. Choose another label, or lower `least_neurons`."
        )
    return names, notes


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


@dataclass(frozen=True)
class ScoreSummary:
    """A score over independent units.

    Attributes
    ----------
    mean : float
    low, high : float or None
        95 % interval of the mean by Student's t over the units; None for a single unit.
    n : int
        Units.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def summary(values: Sequence[float], units: Sequence[str]) -> ScoreSummary:
    """Return mean and interval of one score per split; the splits of a unit are averaged first.

    Parameters
    ----------
    units : sequence of str
        What each split is a draw of, from `units_of`.
    """
    each, of_unit = np.asarray(values, dtype=np.float64), np.asarray(units)
    means = np.array([each[of_unit == unit].mean() for unit in dict.fromkeys(units)])
    mean, n = float(means.mean()), len(means)
    if n < 2:
        return ScoreSummary(mean, None, None, n)
    from scipy import stats

    half = float(stats.t.ppf(0.975, n - 1) * means.std(ddof=1)) / n**0.5
    return ScoreSummary(mean, mean - half, mean + half, n)


def units_of(recordings: Recordings, splits: Sequence[Split], mode: Mode) -> list[str]:
    """Return what each split is a draw of: with ``cross`` the tested animal, else the split itself.

    Seeds of one tested animal are no further animals. Test neurons of the splits of the other modes overlap,
    so that an interval over these tells how a result depends on the draw, not what other animals would give.
    """
    if mode != "cross":
        return [str(number) for number in range(len(splits))]
    animals = _animals(recordings)
    return [str(animals[split.rows("test")[0]]) for split in splits]


def ablations(settings: NeuprintSettings, has_positions: bool = False) -> dict[str, NeuprintSettings]:
    """Return settings that differ in what the dynamics sees beside the neuron's own past.

    ``none``, ``behaviour``, ``population`` (with centre and surround where there are positions), ``all``.
    """
    around: tuple[CovariatePart, ...] = ("population",)
    if has_positions and settings.delta_um is not None:
        around = ("population", "centre", "surround")
    inputs: Mapping[str, tuple[CovariatePart, ...]] = {
        "none": (),
        "behaviour": ("behaviour",),
        "population": around,
        "all": ("behaviour", *around),
    }
    return {name: _seeing(settings, parts, None) for name, parts in inputs.items()}


def growing_inputs(
    settings: NeuprintSettings, channels: Sequence[str], has_positions: bool = False
) -> dict[str, NeuprintSettings]:
    """Return settings with one input more each, as in the paper's table 5.

    ``none``, then ``+name`` for each behaviour channel in turn, ``+population``, and ``+centre-surround``
    where there are positions and a radius.

    Parameters
    ----------
    channels : sequence of str
        Behaviour, in the order in which it is added: running, pupil and state in the paper.
    """
    variants = {"none": _seeing(settings, (), None)}
    behaviour: tuple[CovariatePart, ...] = ("behaviour",) if channels else ()
    for number, name in enumerate(channels):
        variants[f"+{name}"] = _seeing(settings, ("behaviour",), tuple(channels[: number + 1]))
    chosen = tuple(channels) or None
    variants["+population"] = _seeing(settings, (*behaviour, "population"), chosen)
    if has_positions and settings.delta_um is not None:
        parts: tuple[CovariatePart, ...] = (*behaviour, "population", "centre", "surround")
        variants["+centre-surround"] = _seeing(settings, parts, chosen)
    return variants


def _seeing(
    settings: NeuprintSettings, parts: tuple[CovariatePart, ...], behaviour: tuple[str, ...] | None
) -> NeuprintSettings:
    kept = behaviour if behaviour is not None or "behaviour" not in parts else settings.behaviour
    return NeuprintSettings(**(settings.model_dump() | {"parts": parts, "behaviour": kept}))


def _animals(recordings: Recordings) -> np.ndarray:
    return recordings.neurons["animal"].to_numpy().astype(str)


def _one_animal(known: Sequence[str], requested: str | None) -> str:
    if requested is None and len(known) == 1:
        return known[0]
    if requested is None or requested not in known:
        found = "none" if requested is None else f"{requested!r}{did_you_mean(requested, known)}"
        raise LearnerError(
            f"A single-animal split needs one animal of {', '.join(known)}; found {found}. Name it by `animal:`."
        )
    return requested


def class_splits(
    recordings: Recordings,
    label: str,
    finer: str,
    mode: Mode,
    *,
    animal: str | None = None,
    seeds: int = SEEDS,
    fewest: int = 3,
) -> list[Split]:
    """Return splits of the task `label`, each on the neurons of the split of the task `finer`.

    Classes that hold neurons of the finer split keep its validation and test neurons, and all their others
    are trained on; of the other classes 80 / 10 / 10 % are drawn (NeuPRINT, section 4.2).

    Parameters
    ----------
    label, finer : str
        Columns of ``recordings.neurons``, such as ``class`` and ``subclass``.
    mode : {"pooled", "single"}
        With ``cross`` an animal is tested with all its neurons, whatever the label.
    animal, seeds, fewest
        As `neurofleet.learners.neuprint.neuron_splits.neuron_splits`, for both labels.

    Raises
    ------
    LearnerError
        As `neuron_splits`, of either label; and for ``cross``.
    """
    if mode == "cross":
        raise LearnerError(
            "A cross-animal split tests all neurons of an animal, whatever the label: there is no split of"
            f" {finer!r} for {label!r} to follow. Ask for a pooled or single-animal split."
        )
    inner = neuron_splits(recordings, finer, mode, animal=animal, seeds=seeds, fewest=fewest)
    names, notes = labelled_names(recordings, label, mode, animal=animal, fewest=fewest)
    all_notes = [f"Neurons are held out as in the split of {finer}.", *notes]
    return [
        replace(_followed(names, split, seed), notes=tuple(dict.fromkeys([*all_notes, *split.notes])))
        for seed, split in enumerate(inner)
    ]


def _followed(names: np.ndarray, finer: Split, seed: int) -> Split:
    named = names != ""
    follows = named & np.isin(names.astype(str), names[named & (finer.role != "excluded")].astype(str))
    role = np.where(named, "train", "excluded").astype("<U10")
    held_out = follows & np.isin(finer.role, ("validation", "test"))
    role[held_out] = finer.role[held_out]
    others = np.where(follows, "", names)
    if (others != "").any():
        drawn = make_split(finer.sample_ids, others, test=TEST, validation=VALIDATION, seed=seed)
        role[others != ""] = drawn.role[others != ""]
    return replace(finer, role=role)
