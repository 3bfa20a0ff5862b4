"""Splits of a coarse task, such as class, on the neurons that a finer task, such as subclass, holds out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from learners.errors import LearnerError
from learners.neuprint.downstream import SEEDS, TEST, VALIDATION, Mode, labelled_names, neuron_splits
from learners.neuprint.recordings import Recordings
from learners.splits import Split, make_split


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
        As `learners.neuprint.downstream.neuron_splits`, for both labels.

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
    told = [f"Neurons are held out as in the split of {finer}.", *notes]
    return [
        replace(_followed(names, split, seed), notes=tuple(dict.fromkeys([*told, *split.notes])))
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
