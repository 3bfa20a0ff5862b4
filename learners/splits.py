"""Splits of samples into training, validation and test part, made once and stored as Parquet."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.wording import listed

ROLES = ("train", "validation", "test", "excluded")
Groups = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Split:
    """Which part each sample plays.

    Attributes
    ----------
    sample_ids : (n,) str array
        Distinct names of the samples, in the order of the data.
    fold : (n,) int array
        Number of the fold that this split belongs to; 0 where there is only one.
    role : (n,) str array
        ``train``, ``validation``, ``test``, or ``excluded`` (no label).
    notes : tuple of str
        What a reader of the scores must know: classes too rare to be tested, classes never trained on.
    """

    sample_ids: np.ndarray
    fold: np.ndarray
    role: np.ndarray
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.sample_ids) == len(self.fold) == len(self.role):
            raise LearnerError(
                f"A split needs a fold and a role for each sample, found {len(self.sample_ids)} samples,"
                f" {len(self.fold)} folds and {len(self.role)} roles."
            )
        strange = sorted(set(np.unique(self.role)) - set(ROLES))
        if strange:
            raise LearnerError(f"A role is one of {', '.join(ROLES)}; found {', '.join(strange)}.")
        doubled = pd.Index(self.sample_ids).duplicated()
        if doubled.any():
            raise LearnerError(
                f"Each sample needs a name of its own; {int(doubled.sum())} of {len(doubled)} are repeated,"
                f" such as {_shown(self.sample_ids[doubled])}. Make them distinct before splitting."
            )

    def rows(self, role: str) -> np.ndarray:
        """Return the row numbers of all samples of `role`, ascending."""
        if role not in ROLES:
            raise LearnerError(f"A role is one of {', '.join(ROLES)}, found {role!r}{did_you_mean(role, ROLES)}.")
        return np.flatnonzero(self.role == role)

    @property
    def fingerprint(self) -> str:
        """sha256 over the sorted (sample, fold, role); the same whatever the order of the samples."""
        return fingerprint([self])


def fingerprint(splits: Iterable[Split]) -> str:
    """Return the sha256 over the sorted (sample, fold, role) of all `splits`."""
    lines = sorted(
        f"{sample}\t{fold}\t{role}\n"
        for split in splits
        for sample, fold, role in zip(split.sample_ids, split.fold, split.role, strict=True)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def make_split(
    sample_ids: Sequence[str] | np.ndarray,
    labels: Sequence[str] | np.ndarray,
    *,
    test: float | Groups = 0.2,
    validation: float | Groups = 0.15,
    columns: Mapping[str, Sequence[str]] | pd.DataFrame | None = None,
    left_out: np.ndarray | None = None,
    seed: int = 0,
) -> Split:
    """Split by stratified fractions, by groups, or the test part one way and the validation part the other.

    A fraction is taken from each class, of all cells that have a label and are in no group that was named.
    Every class gets at least one cell in each part; a class with fewer cells than there are parts is left
    to the training part as a whole and is listed in the notes. Samples without a label (missing or empty)
    are excluded.

    Parameters
    ----------
    sample_ids, labels : (n,) str
        Names and classes of the samples.
    test, validation : float or mapping
        A fraction in [0, 1), or groups such as ``{"donor": ["5p"]}``: rows that match any of them.
    columns : mapping or data frame
        The columns that groups may name, each of length n.
    left_out : array of int, optional
        Samples that are in no part though they have a label.
    seed : int
        Decides which cells of a class go where.

    Raises
    ------
    LearnerError
        For a fraction outside its range, an unknown column or group (with the nearest name), a part that
        ends up empty, or a cell that two parts ask for.
    """
    sample_ids = np.asarray(sample_ids, dtype=str)
    known, names = _labelled(sample_ids, labels, left_out)
    role = np.where(known, "train", "excluded").astype("<U10")
    fractions: dict[str, float] = {}
    for part, share in (("test", test), ("validation", validation)):
        if isinstance(share, Mapping):
            _assign_groups(role, part, share, columns, len(sample_ids))
        elif not 0 <= share < 1:
            raise LearnerError(f"{part}: expected a fraction from 0 to below 1 or groups, found {share!r}.")
        elif share > 0:
            fractions[part] = float(share)
    if sum(fractions.values()) >= 1:
        raise LearnerError(f"The fractions of {' and '.join(fractions)} leave nothing to train on: {fractions}.")
    notes = _assign_fractions(role, names, fractions, np.random.default_rng(seed))
    return _checked(Split(sample_ids, np.zeros(len(role), dtype=np.int64), role), names, notes)


def make_folds(
    sample_ids: Sequence[str] | np.ndarray,
    labels: Sequence[str] | np.ndarray,
    folds: int,
    *,
    validation: float = 0.15,
    group: str | None = None,
    columns: Mapping[str, Sequence[str]] | pd.DataFrame | None = None,
    left_out: np.ndarray | None = None,
    seed: int = 0,
) -> list[Split]:
    """Return `folds` splits; each labelled sample is tested in one of them.

    Folds are stratified by class. With `group`, a column, all samples of one group are tested together
    (with as many folds as groups: each group alone). Each fold has a validation part of its own, a
    stratified fraction of what is not tested. Classes with fewer samples than folds are trained on in all
    of them and listed in the notes.

    Raises
    ------
    LearnerError
        For fewer than two folds, fewer groups than folds, or an unknown column.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if folds < 2:
        raise LearnerError(f"Cross-validation needs at least 2 folds, found {folds}.")
    if not 0 <= validation < 1:
        raise LearnerError(f"validation: expected a fraction from 0 to below 1, found {validation!r}.")
    sample_ids = np.asarray(sample_ids, dtype=str)
    known, names = _labelled(sample_ids, labels, left_out)
    notes: list[str] = []
    if group is None:
        classes, counts = np.unique(names[known], return_counts=True)
        rare = classes[counts < folds]
        if len(rare):
            notes.append(f"Fewer cells than the {folds} folds, never tested: {_listed(rare, classes, counts)}.")
        tested = np.flatnonzero(known & ~np.isin(names, rare))
        if len(tested) == 0:
            raise LearnerError(f"No class has {folds} cells, as {folds} folds need. Ask for fewer folds.")
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(tested, names[tested])
    else:
        values = _column(group, columns, len(sample_ids))
        tested = np.flatnonzero(known)
        if (unknown := sample_ids[tested][values[tested] == ""]).size:
            raise LearnerError(
                f"{len(unknown)} of {len(tested)} labelled samples have no {group}, such as {_shown(unknown, 3)}. What"
                " is of unknown origin cannot be kept apart: fill the column, or leave these samples out."
            )
        members = np.unique(values[tested])
        if len(members) < folds:
            raise LearnerError(
                f"{folds} folds by {group} need at least {folds} groups, found {len(members)}:"
                f" {_shown(members)}."
                f" Ask for at most {len(members)} folds."
            )
        if len(members) == folds:
            parts = (((), np.flatnonzero(values[tested] == member)) for member in members)
        else:
            splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # rare classes: see notes
                parts = list(splitter.split(tested, names[tested], values[tested]))
    splits = []
    for number, (_, part) in enumerate(parts):
        role = np.where(known, "train", "excluded").astype("<U10")
        role[tested[part]] = "test"
        rng = np.random.default_rng([seed, number])
        more = _assign_fractions(role, names, {"validation": validation} if validation else {}, rng)
        split = Split(sample_ids, np.full(len(role), number), role)
        splits.append(_checked(split, names, notes + more))
    return splits


def leave_type_out(split: Split, labels: Sequence[str] | np.ndarray, name: str) -> Split:
    """Return the split in which class `name` is unknown: all its cells are tested, none trained on."""
    labels = np.asarray(labels, dtype=str)
    if name not in labels:
        raise LearnerError(f"No cell is labelled {name!r}{did_you_mean(name, np.unique(labels))}.")
    role = split.role.copy()
    role[(labels == name) & (role != "excluded")] = "test"
    return Split(split.sample_ids, split.fold, role, (*split.notes, f"{name} is left out of training."))


def _labelled(
    sample_ids: np.ndarray, labels: Sequence[str] | np.ndarray, left_out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples have a label and are not left out, and all labels as text."""
    series = pd.Series(np.asarray(labels, dtype=object))
    if len(series) != len(sample_ids):
        raise LearnerError(f"Expected a label for each of the {len(sample_ids)} samples, found {len(series)}.")
    known = (series.notna() & (series != "")).to_numpy(copy=True)
    if not known.any():
        raise LearnerError("No sample has a label. Name the column that holds the classes.")
    names = series.where(known, "").to_numpy().astype(str)
    if left_out is not None:
        known[left_out] = False
    return known, names


def refuse_missing_columns(names: Iterable[str], columns: Iterable[str]) -> None:
    """Raise LearnerError for the first name that no column has, with the nearest name and all there are."""
    known = [str(column) for column in columns]
    for name in names:
        if name not in known:
            raise LearnerError(
                f"No column is called {name!r}{did_you_mean(name, known)}. There are: {', '.join(known) or 'none'}."
            )


def _column(name: str, columns: Mapping[str, Sequence[str]] | pd.DataFrame | None, n: int) -> np.ndarray:
    columns = {} if columns is None else columns
    refuse_missing_columns([name], columns)
    series = pd.Series(np.asarray(columns[name], dtype=object))
    values = series.astype(str).where(series.notna(), "").to_numpy(dtype=str)
    if len(values) != n:
        raise LearnerError(f"Column {name} has {len(values)} values for {n} samples.")
    return values


def _assign_groups(
    role: np.ndarray,
    part: str,
    groups: Groups,
    columns: Mapping[str, Sequence[str]] | pd.DataFrame | None,
    n: int,
) -> None:
    chosen = np.zeros(n, dtype=bool)
    for name, named in groups.items():
        values = _column(name, columns, n)
        members = np.unique(values[values != ""])
        for member in [named] if isinstance(named, str) else named:
            chosen |= values == _member(str(member), members, f"{part}: {name}")
    twice = chosen & ~np.isin(role, ("train", "excluded"))
    if twice.any():
        raise LearnerError(
            f"{int(twice.sum())} samples are in groups of both the test and the validation part. Name each group once."
        )
    role[chosen & (role == "train")] = part


def _member(name: str, members: np.ndarray, place: str) -> str:
    """Return the group of this name, or the only one that is the same number: a column may hold 1 as 1.0."""
    if name in members:
        return name
    number = _number(name)
    same = [member for member in members if number is not None and _number(member) == number]
    if len(same) != 1:
        raise LearnerError(f"{place} has no group {name!r}{did_you_mean(name, members)}. There are: {_shown(members)}.")
    return str(same[0])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _assign_fractions(
    role: np.ndarray, names: np.ndarray, fractions: dict[str, float], rng: np.random.Generator
) -> list[str]:
    """Move a fraction of the training cells of each class to each part, in place; return notes."""
    if not fractions:
        return []
    free = np.flatnonzero(role == "train")
    classes, code, counts = np.unique(names[free], return_inverse=True, return_counts=True)
    needed = len(fractions) + 1
    rare = counts < needed
    sizes = np.where(rare, 0, counts)
    taken = np.zeros(len(classes), dtype=int)
    order = rng.permutation(len(free))
    by_class = [free[order[code[order] == number]] for number in range(len(classes))]
    for position, (part, fraction) in enumerate(fractions.items()):
        edges = np.floor(np.concatenate([[0.0], np.cumsum(sizes * fraction)]) + 0.5)
        left = sizes - taken - (len(fractions) - position)  # one cell for each part still to come, and training
        for number, quota in enumerate(np.diff(edges).astype(int)):
            if rare[number]:
                continue
            quota = min(max(quota, 1), left[number] + 1)
            role[by_class[number][taken[number] : taken[number] + quota]] = part
            taken[number] += quota
    if not rare.any():
        return []
    parts = " and ".join(fractions)
    return [
        f"Fewer than {needed} cells, so in training only (not in {parts}): {_listed(classes[rare], classes, counts)}."
    ]


def _checked(split: Split, names: np.ndarray, notes: list[str]) -> Split:
    """Return the split with its notes, once it is sure that there is something to train on."""
    trained = set(names[split.rows("train")])
    if not trained:
        raise LearnerError("No sample is left to train on. Ask for smaller or fewer test and validation parts.")
    tested = names[split.rows("test")]
    unseen, counts = np.unique(tested[~np.isin(tested, list(trained))], return_counts=True)
    notes = list(notes)
    if len(unseen):
        notes.append(f"Tested but never trained on: {_listed(unseen, unseen, counts)}.")
    excluded = int((names[split.rows("excluded")] == "").sum())
    if excluded:
        notes.append(f"{excluded} samples have no label and are excluded.")
    return Split(split.sample_ids, split.fold, split.role, tuple(notes))


def _listed(chosen: np.ndarray, classes: np.ndarray, counts: np.ndarray) -> str:
    size = dict(zip(classes, counts, strict=True))
    return listed((f"{name} ({size[name]})" for name in chosen), 10)


def _shown(names: Sequence[str] | np.ndarray, limit: int = 10) -> str:
    shown = ", ".join(str(name) for name in names[:limit])
    return shown + (", …" if len(names) > limit else "")


COLUMNS = ("sample_id", "fold", "role")


def split_table(splits: Sequence[Split]) -> pa.Table:
    """Return the table of one split, or of all folds one after the other; its metadata holds the notes."""
    table = pa.table(
        {
            "sample_id": pa.array(np.concatenate([split.sample_ids for split in splits]), pa.string()),
            "fold": pa.array(np.concatenate([split.fold for split in splits]), pa.int64()),
            "role": pa.array(np.concatenate([split.role for split in splits]), pa.string()),
        }
    )
    notes = {str(int(split.fold[0])): list(split.notes) for split in splits}
    return table.replace_schema_metadata({"notes": json.dumps(notes), "fingerprint": fingerprint(splits)})


def splits_from_table(table: pa.Table, source: str = "the table") -> list[Split]:
    """Return the splits of a table, by fold.

    Raises
    ------
    LearnerError
        When a column is missing, or the content is not what was fingerprinted.
    """
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise LearnerError(
            f"{source} is not a split: expected the columns {', '.join(COLUMNS)}, found"
            f" {', '.join(table.column_names) or 'none'}."
        )
    metadata = table.schema.metadata or {}
    notes = json.loads(metadata.get(b"notes", b"{}"))
    sample_ids, fold, role = (np.asarray(table[name].to_pylist()) for name in COLUMNS)
    splits = []
    for number in np.unique(fold):
        rows = fold == number
        splits.append(Split(sample_ids[rows], fold[rows], role[rows], tuple(notes.get(str(number), ()))))
    stored = metadata.get(b"fingerprint", b"").decode()
    if stored and stored != fingerprint(splits):
        raise LearnerError(f"{source} was changed after it was written. Put back a good copy, or split again.")
    return splits


def write_splits(path: Path, splits: Sequence[Split]) -> None:
    """Write one split or all folds to a Parquet file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    pq.write_table(split_table(splits), partial, compression="zstd")
    os.replace(partial, path)


def read_splits(path: Path) -> list[Split]:
    """Read the splits of a file that `write_splits` wrote (one split: a list of one).

    Raises
    ------
    LearnerError
        When the file is missing, no Parquet, or no split.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise LearnerError(f"{path}: cannot be read as a split ({error}).") from error
    return splits_from_table(table, str(path))


FEW = 20


def some_of_each_class(codes: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return places of about `most` samples, ascending: of each class its share, of rare ones up to `FEW`.

    Parameters
    ----------
    codes : (n,) array
        The class of each sample.
    """
    rng, kept = np.random.default_rng(seed), []
    for code in np.unique(codes):
        places = rng.permutation(np.flatnonzero(codes == code))
        kept.append(places[: max(round(len(places) * most / len(codes)), FEW)])
    return np.sort(np.concatenate(kept))
