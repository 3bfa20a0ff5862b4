"""Cross-validation folds, stratified by class or kept apart by group, and folds inside a training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from neurofleet.errors import LearnerError


def inner_folds(y: np.ndarray, folds: int = 3, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return stratified (training rows, held-out rows), one pair a fold.

    Cells of classes with fewer members than folds are in every training part and never held out.

    Raises
    ------
    LearnerError
        When no class has a member for each fold.
    """
    from sklearn.model_selection import StratifiedKFold

    check_inner_sizes(y, folds)
    enough = np.bincount(y)[y] >= folds
    common, rare = np.flatnonzero(enough), np.flatnonzero(~enough)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = splitter.split(common, y[common])
    return [(np.concatenate([common[train], rare]), common[held_out]) for train, held_out in parts]


def stratified_rows(y: np.ndarray, limit: int, folds: int = 3, seed: int = 0) -> np.ndarray:
    """Return about `limit` rows, each class in proportion but never below `folds` cells that it has."""
    if len(y) <= limit:
        return np.arange(len(y))
    rng = np.random.default_rng(seed)
    kept = []
    for name, count in zip(*np.unique(y, return_counts=True), strict=True):
        rows = np.flatnonzero(y == name)
        kept.append(rng.permutation(rows)[: max(round(count * limit / len(y)), min(folds, count))])
    return np.sort(np.concatenate(kept))


def check_inner_sizes(y: np.ndarray, folds: int = 3) -> None:
    """Refuse what `inner_folds` cannot divide: no class has a member for each fold."""
    if not len(y) or np.bincount(y).max() < folds:
        raise LearnerError(
            f"No class has {folds} training cells or more, so no setting can be chosen by {folds}-fold"
            " cross-validation. Give a larger reference, or merge classes."
        )


DRAWS = 300


class Fold(NamedTuple):
    """One fold of one repeat; `train` and `test` are row numbers, ascending."""

    repeat: int
    fold: int
    train: np.ndarray
    test: np.ndarray


def repeated_folds(
    y: np.ndarray,
    groups: np.ndarray | None = None,
    folds: int = 5,
    repeats: int = 3,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> list[Fold]:
    """Return `repeats` cross-validations of `folds` folds each; each row is tested once a repeat.

    Without groups the folds are stratified by class. With groups, all rows of a group are tested together:
    of 300 random assignments of groups to folds the one with the best class balance is taken, among those
    in which every class is in the training part of every fold.

    Parameters
    ----------
    y : (n,) array
        Classes, names or numbers.
    groups : (n,) array
        Animal or recording of each row; None for a split by units.
    names : sequence of str
        What classes that are numbers are called, for messages.

    Raises
    ------
    LearnerError
        For fewer than two folds, a class with fewer rows than folds, one group only, fewer groups than folds,
        or a class that is found in one group only.
    """
    y = np.asarray(y)
    if folds < 2 or repeats < 1:
        raise LearnerError(f"Expected at least 2 folds and 1 repeat, found {folds} and {repeats}.")
    called = y if names is None else np.asarray(names, dtype=str)[y]
    if groups is None:
        check_sizes(called, folds)
    else:
        groups = np.asarray(groups).astype(str)
        check_groups(called, groups, folds)
    result = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        number = stratified_numbers(y, folds, rng) if groups is None else group_numbers(y, groups, folds, rng)
        for fold in range(folds):
            result.append(Fold(repeat, fold, np.flatnonzero(number != fold), np.flatnonzero(number == fold)))
    return result


def inner_repeated_folds(
    y: np.ndarray, groups: np.ndarray | None, folds: int, seed: int, repeats: int = 1
) -> list[Fold]:
    """Return folds inside a training part, where nothing is refused that can be done in a lesser way.

    Classes with fewer rows than folds (without groups) stay in all training parts and are never held out.
    With groups, so do all rows of the groups that hold a class found nowhere else; with fewer groups than
    folds there are as many folds as groups.

    Raises
    ------
    LearnerError
        When nothing can be held out.
    """
    y = np.asarray(y)
    groups = None if groups is None else np.asarray(groups).astype(str)
    free, folds = check_inner_folds(y, groups, folds)
    result = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        number = np.full(len(y), -1)
        if groups is None:
            number[free] = stratified_numbers(y[free], folds, rng)
        else:
            number[free] = group_numbers(y[free], groups[free], folds, rng)
        for fold in range(folds):
            result.append(Fold(repeat, fold, np.flatnonzero(number != fold), np.flatnonzero(number == fold)))
    return result


def check_inner_folds(
    y: np.ndarray, groups: np.ndarray | None, folds: int, names: Sequence[str] | None = None
) -> tuple[np.ndarray, int]:
    """Return which rows `inner_repeated_folds` can hold out, and in how many folds.

    Parameters
    ----------
    names : sequence of str
        What classes that are numbers are called, for messages.

    Raises
    ------
    LearnerError
        When nothing can be held out.
    """
    y = np.asarray(y)
    if groups is None:
        counts = dict(zip(*np.unique(y, return_counts=True), strict=True))
        kept = np.array([counts[name] < folds for name in y])
    else:
        groups = np.asarray(groups).astype(str)
        lonely = {groups[y == name][0] for name in np.unique(y) if len(np.unique(groups[y == name])) == 1}
        kept = np.isin(groups, list(lonely))
        folds = min(folds, len(np.unique(groups[~kept])))
    free = np.flatnonzero(~kept)
    if folds < 2 or len(np.unique(y[free])) < 2:
        called = y if names is None else np.asarray(names, dtype=str)[y]
        what, found, more = f"{folds} rows each", _counted(called), "training units"
        if groups is not None:
            of_class = {name: len(np.unique(groups[called == name])) for name in np.unique(called)}
            what, more = "rows in two groups (animals) or more", "animals of each class"
            found = ", ".join(f"{name} in {n} group{'s' if n > 1 else ''}" for name, n in of_class.items())
        raise LearnerError(
            f"Nothing can be chosen by inner cross-validation: expected at least two classes with {what},"
            f" found {found}. Give more {more}, or merge classes."
        )
    return free, folds


def stratified_numbers(y: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold (n,) of each row, every class spread evenly."""
    from sklearn.model_selection import StratifiedKFold

    number = np.empty(len(y), dtype=np.int64)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=int(rng.integers(2**31)))
    for fold, (_, test) in enumerate(splitter.split(y, y)):
        number[test] = fold
    return number


def group_numbers(y: np.ndarray, groups: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold (n,) of each row, groups kept whole: the best balanced of 300 random assignments.

    Balance is the sum over classes and folds of the squared distance of a class's share from 1 / folds; an
    assignment that tests all rows of a class in one fold is taken only when no other was drawn.
    """
    members, member = np.unique(groups, return_inverse=True)
    classes, code = np.unique(y, return_inverse=True)
    table = np.zeros((len(members), len(classes)))
    np.add.at(table, (member, code), 1.0)
    share = table / table.sum(axis=0)
    best: tuple[float, np.ndarray] | None = None
    for _ in range(DRAWS):
        drawn = rng.permutation(np.arange(len(members)) % folds)
        parts = np.eye(folds)[drawn].T @ share
        cost = ((parts - 1 / folds) ** 2).sum() + 1000.0 * (parts > 1 - 1e-9).sum()
        if best is None or cost < best[0]:
            best = (float(cost), drawn)
    assert best is not None
    return best[1][member]


def check_sizes(y: np.ndarray, folds: int) -> None:
    """Refuse fewer than two classes, or a class with fewer rows than folds."""
    classes, counts = np.unique(y, return_counts=True)
    if len(classes) < 2:
        raise LearnerError(f"Expected at least two classes to tell apart, found {_counted(y) or 'no unit'}.")
    rare = classes[counts < folds]
    if len(rare):
        raise LearnerError(
            f"{folds} folds need at least {folds} units of each class, found {_counted(y[np.isin(y, rare)])}."
            " Leave these classes out, merge them, or ask for fewer folds."
        )


def check_groups(y: np.ndarray, groups: np.ndarray, folds: int) -> None:
    """Refuse groups which do not allow a split by group: expected, found, what to do."""
    if len(groups) != len(y):
        raise LearnerError(f"Expected a group for each of {len(y)} units, found {len(groups)}.")
    if (groups == "").any():
        raise LearnerError(
            f"{int((groups == '').sum())} of {len(y)} units have no group. Leave them out of a split by"
            " group, or name a column which is filled for all units."
        )
    classes = np.unique(y)
    if len(classes) < 2:
        raise LearnerError(f"Expected at least two classes to tell apart, found {_counted(y) or 'no unit'}.")
    members = np.unique(groups)
    if len(members) < 2:
        raise LearnerError(
            f"A split by group needs at least two groups, found one only: {str(members[0])!r}."
            " What is tested would come from the group that was trained on. Add units of another animal or"
            " recording, or ask for a split by units (and call it so)."
        )
    lonely = [(name, groups[y == name][0]) for name in classes if len(np.unique(groups[y == name])) == 1]
    if lonely:
        named = ", ".join(f"{name!s} (only in {group})" for name, group in lonely)
        raise LearnerError(
            "A split by group needs every class in at least two groups, or it cannot be both trained on and"
            f" tested; found in one group only: {named}. Leave these classes out, merge them with others, or"
            " add units of other groups."
        )
    if len(members) < folds:
        raise LearnerError(
            f"{folds} folds by group need at least {folds} groups, found {len(members)}. Ask for at most"
            f" {len(members)} folds."
        )


def _counted(y: np.ndarray) -> str:
    return ", ".join(f"{name!s} ({count})" for name, count in zip(*np.unique(y, return_counts=True), strict=True))
