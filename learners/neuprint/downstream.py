"""Splits of neurons in three modes, what a dynamics may see in each, and means of scores over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from learners.errors import LearnerError
from learners.neuprint.recordings import Recordings
from learners.neuprint.settings import Part, Settings
from learners.splits import Split, make_folds, make_split, nearest

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
        found = [
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
        found = [make_split(ids, names, test=TEST, validation=VALIDATION, seed=seed) for seed in range(seeds)]
    return [
        replace(split, fold=np.full(len(ids), number), notes=(*notes, *split.notes))
        for number, split in enumerate(found)
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
        raise LearnerError(f"A split is one of {', '.join(MODES)}; found {mode!r}{nearest(mode, MODES)}.")
    notes: list[str] = []
    if mode == "single":
        chosen = _one_animal(known, animal)
        names[animals != chosen] = ""
        notes.append(f"Neurons of animal {chosen} only.")
    elif mode == "cross" and len(known) < 2:
        raise LearnerError(
            "A cross-animal split tests each animal with what was learnt from the others: expected at least 2"
            f" animals, found {len(known)} ({', '.join(known)}). Ask for a single-animal split (mode"
            " 'single'), or add recordings of another animal."
        )
    classes, counts = np.unique(names[names != ""].astype(str), return_counts=True)
    rare = classes[counts < fewest]
    names[np.isin(names.astype(str), rare)] = ""
    if len(rare):
        named = ", ".join(rare[:SHOWN]) + (f" and {len(rare) - SHOWN} more" if len(rare) > SHOWN else "")
        notes.append(f"Classes with fewer than {fewest} neurons count as unlabelled: {named}.")
    if len(classes) - len(rare) < 2:
        raise LearnerError(
            f"A probe needs at least 2 classes of {fewest} or more neurons; {label!r} has"
            f" {len(classes) - len(rare)}. Choose another label, or lower fewest."
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
class Summary:
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


def summary(values: Sequence[float], units: Sequence[str]) -> Summary:
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
        return Summary(mean, None, None, n)
    half = float(stats.t.ppf(0.975, n - 1) * means.std(ddof=1)) / n**0.5
    return Summary(mean, mean - half, mean + half, n)


def units_of(recordings: Recordings, splits: Sequence[Split], mode: Mode) -> list[str]:
    """Return what each split is a draw of: with ``cross`` the tested animal, else the split itself.

    Seeds of one tested animal are no further animals. Test neurons of the splits of the other modes overlap,
    so that an interval over these tells how a result depends on the draw, not what other animals would give.
    """
    if mode != "cross":
        return [str(number) for number in range(len(splits))]
    animals = _animals(recordings)
    return [str(animals[split.rows("test")[0]]) for split in splits]


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


def _animals(recordings: Recordings) -> np.ndarray:
    return recordings.neurons["animal"].to_numpy().astype(str)


def _one_animal(known: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted is None or wanted not in known:
        raise LearnerError(
            f"A single-animal split (mode 'single') needs one animal of {', '.join(known)}; found {wanted!r}"
            f"{nearest(str(wanted), known)}. Name it with `animal`."
        )
    return wanted
