"""An evaluation in pieces that any process can do: one fold, or one control, kept as JSON when done."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.hippie.inputs import Labelled, read_labelled
from jobs.hippie.spec import LabelledSpec
from jobs.train.pieces import keep

if TYPE_CHECKING:
    import numpy as np

    from learners.comparison_folds import Fold
    from learners.hippie.methods import Case

FOLD, SHUFFLED, PERMUTED = "fold", "shuffled", "permuted"
CONTROLLED = ("classical", "head")
"""The methods of which the rest are made; labels are shuffled for these."""


def do_piece(payload: Mapping[str, Any]) -> float:
    """Do one piece and keep what it has found in its file; return how many seconds it took.

    Parameters
    ----------
    payload : mapping
        ``place`` (the file), ``labelled`` (a LabelledSpec), ``folder`` (of the job file), ``settings``,
        ``seed``, ``folds``, ``repeats``, ``methods``, ``shuffles``, ``pretrained`` (a folder or None), and
        ``piece``: what is to be done, with ``kind`` and, by kind, ``repeat`` and ``fold`` or ``method``.
    """
    started = time.monotonic()
    keep(Path(payload["place"]), _done(payload))
    return time.monotonic() - started


def _done(payload: Mapping[str, Any]) -> dict[str, Any]:
    piece = payload["piece"]
    found = read_labelled(LabelledSpec(**payload["labelled"]), Path(payload["folder"]))
    rows = labelled_rows(found)
    folds = folds_of(found, payload["folds"], payload["repeats"], payload["seed"])
    if piece["kind"] == FOLD:
        (fold,) = [f for f in folds if (f.repeat, f.fold) == (piece["repeat"], piece["fold"])]
        return _fold(found, rows, fold, payload)
    if piece["kind"] == SHUFFLED:
        return _shuffled(found, rows, folds, payload)
    return _permuted(found, rows, folds[0], payload)


def labelled_rows(found: Labelled) -> "np.ndarray":
    """Return the rows of the units that have a class."""
    import numpy as np

    return np.flatnonzero(found.labels >= 0)


def folds_of(found: Labelled, folds: int, repeats: int, seed: int) -> "list[Fold]":
    """Return the folds of a data set, over its labelled units."""
    from learners.comparison_folds import repeated_folds

    rows = labelled_rows(found)
    groups = None if found.groups is None else found.groups[rows]
    return repeated_folds(found.labels[rows], groups, folds, repeats, seed)


def _case(
    found: Labelled, rows: "np.ndarray", train: "np.ndarray", test: "np.ndarray", payload: Mapping[str, Any]
) -> "Case":
    from learners.hippie.methods import Case
    from learners.hippie.pretraining import Pretrained
    from learners.hippie.settings import Settings
    from learners.training import train_here

    place = payload["pretrained"]
    return Case(
        units=found.units.take(rows),
        labels=found.labels[rows],
        n_classes=len(found.classes),
        groups=None if found.groups is None else found.groups[rows],
        train=train,
        test=test,
        settings=Settings(**payload["settings"]),
        pretrained=Pretrained.read(Path(place)) if place else None,
        train_task=train_here,
        seed=payload["seed"],
    )


def _fold(found: Labelled, rows: "np.ndarray", fold: "Fold", payload: Mapping[str, Any]) -> dict[str, Any]:
    from learners.hippie.methods import answers

    case = _case(found, rows, fold.train, fold.test, payload)
    given = answers(case, payload["methods"])
    return {
        "test": fold.test.tolist(),
        "probabilities": {name: probabilities.tolist() for name, (probabilities, _) in given.items()},
        "chosen": {name: chosen for name, (_, chosen) in given.items() if chosen},
    }


def _shuffled(
    found: Labelled, rows: "np.ndarray", folds: "list[Fold]", payload: Mapping[str, Any]
) -> dict[str, Any]:
    from dataclasses import replace

    from learners.comparison_controls import shuffled_labels_control
    from learners.hippie.methods import METHODS

    short = {**payload, "settings": payload["settings"] | {"members": 1}}
    method = METHODS[payload["piece"]["method"]]
    whole = _case(found, rows, folds[0].train, folds[0].test, short)

    def answer(train: "np.ndarray", test: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
        return method(replace(whole, train=train, test=test, labels=labels))[0]

    return shuffled_labels_control(
        answer, whole.labels, folds, permutations=payload["shuffles"], seed=payload["seed"]
    ).to_dict()


def _permuted(
    found: Labelled, rows: "np.ndarray", fold: "Fold", payload: Mapping[str, Any]
) -> dict[str, Any]:
    from dataclasses import replace

    from learners.comparison_controls import permuted_test_labels_check
    from learners.hippie.methods import answers

    whole = _case(found, rows, fold.train, fold.test, payload)

    def answer(train: "np.ndarray", test: "np.ndarray", labels: "np.ndarray") -> "dict[str, np.ndarray]":
        case = replace(whole, train=train, test=test, labels=labels)
        given = {name: found for name, (found, _) in answers(case, payload["methods"]).items()}
        fusion, mean = case.networks.embed(case.units.take(test))
        return given | {"fusion": fusion, "mean": mean}

    return permuted_test_labels_check(answer, fold.train, fold.test, whole.labels, payload["seed"]).to_dict()
