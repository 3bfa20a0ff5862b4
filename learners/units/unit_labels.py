"""The class of each unit, from a column of `obs`; classes may be chosen and merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.learners.class_names import alike_notes
from neurofleet.learners.splits import some_of_each_class
from neurofleet.learners.units.unit_checks import check_labels
from neurofleet.learners.units.units import FILE_COLUMN, Units

CLASS = "class"
"""The column of the units' table that has their classes, after merging."""


@dataclass(frozen=True)
class LabelledUnits:
    """Units with their classes.

    Attributes
    ----------
    units : Units
    names : array of str, shape (units,)
        Class names; "" where there is none.
    classes : tuple of str
    labels : array of int, shape (units,)
        Class numbers; -1 where there is none.
    groups : array of str or None
        Animal or recording of each unit.
    notes : tuple of str
        What a reader should know.
    """

    units: Units
    names: np.ndarray
    classes: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray | None
    notes: tuple[str, ...]

    @property
    def rows(self) -> np.ndarray:
        """The rows of the units that have a class."""
        return np.flatnonzero(self.labels >= 0)

    def some(self, most: int, seed: int) -> LabelledUnits:
        """Return about `most` of the labelled units, see `neurofleet.learners.splits.some_of_each_class`."""
        rows = self.rows
        if len(rows) <= most:
            return self
        chosen = rows[some_of_each_class(self.labels[rows], most, seed)]
        groups = None if self.groups is None else self.groups[chosen]
        note = f"{len(chosen):,} of {len(rows):,} labelled units are used."
        return LabelledUnits(
            *(self.units.take(chosen), self.names[chosen], self.classes, self.labels[chosen], groups),
            (*self.notes, note),
        )


def labelled_units(
    units: Units,
    label: str,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    group: str | None = None,
) -> LabelledUnits:
    """Read the classes of units from a column.

    Parameters
    ----------
    label : str
        The column of ``units.obs``.
    classes : sequence of str, or mapping of str to sequence of str, optional
        The labels to use, or new names for several labels each; all labels by default.
    group : str, optional
        The column that tells animals or recordings apart.

    Raises
    ------
    LearnerError
        A column or class is not there, fewer than two classes are, a class's units are all missing, a labelled
        unit has no group, or all have one.
    """
    given = units.column(label)
    groups = units.column(group) if group else None
    names = merged_classes(given, classes, label)
    files = _files_without(units, label, given)
    units = replace(units, obs=units.obs.assign(**{CLASS: names}))
    known = tuple(sorted(set(names) - {""}))
    notes = [*units.notes, *files, *check_labels(units, CLASS), *alike_notes(known)]
    if len(known) < 2:
        raise LearnerError(
            f"Column {label} has {len(known)} class{'es' if known else ''} of units; expected two or"
            " more. Name another column under `label:`, or other `classes:`."
        )
    number = {name: i for i, name in enumerate(known)}
    labels = np.array([number.get(name, -1) for name in names], dtype=np.int64)
    if groups is not None and (nameless := (groups == "") & (labels >= 0)).any():
        raise LearnerError(
            f"{int(nameless.sum())} labelled units have no {group}, such as"
            f" {units.unit_ids[nameless][0]}. Units of unknown origin cannot be kept apart: leave them out"
            " with the layout's `drop:`."
        )
    if groups is not None and len(found := set(groups[labels >= 0])) < 2:
        raise LearnerError(
            f"All labelled units have {group} {next(iter(found))}: a split by {group} needs two or more of them. Add"
            " units of others, or leave out `group:`; the split is then random, and flatters every method."
        )
    return LabelledUnits(units, names, known, labels, groups, tuple(notes))


def _files_without(units: Units, label: str, given: np.ndarray) -> list[str]:
    """Return a note for each file none of whose units has a label, with the nearest of the columns that it has."""
    if FILE_COLUMN not in units.obs or label == FILE_COLUMN:
        return []
    notes, files = [], units.column(FILE_COLUMN)
    for name in dict.fromkeys(files):
        of_file = files == name
        if not (given[of_file] != "").any():
            filled = units.obs[of_file].notna().any()
            columns = [str(column) for column in filled.index[filled] if column != FILE_COLUMN]
            notes.append(
                f"{name}: has no {label!r}{did_you_mean(label, columns)}, which other files have, so its"
                f" {int(of_file.sum())} units have no class; its columns are {', '.join(columns) or 'none'}."
            )
    return notes


def merged_classes(
    labels: np.ndarray, classes: Sequence[str] | Mapping[str, Sequence[str]] | None, column: str
) -> np.ndarray:
    """Return the class name of each unit, "" where its label is not used.

    Raises
    ------
    LearnerError
        A class is not there, with the nearest name; or a label is used under two names.
    """
    if classes is None:
        return labels
    merged: Mapping[str, Sequence[str]] = (
        classes if isinstance(classes, Mapping) else {name: [name] for name in classes}
    )
    known = sorted(set(labels) - {""})
    for members in merged.values():
        for name in members:
            if name not in known:
                raise LearnerError(
                    f"Column {column} has no class {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}."
                )
    used = [name for members in merged.values() for name in members]
    twice = sorted({name for name in used if used.count(name) > 1})
    if twice:
        raise LearnerError(f"classes: {', '.join(twice)} stands under more than one name.")
    class_of = {name: whole for whole, members in merged.items() for name in members}
    return np.array([class_of.get(name, "") for name in labels])
