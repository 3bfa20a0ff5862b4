"""What HIPPIE's jobs read: units, their classes, and the pool for pretraining."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.hippie.spec import Classes, LabelledSpec, UnitsSpec

if TYPE_CHECKING:
    import numpy as np

    from learners.units.units import Units


CLASS = "class"
"""The column of the units' table that has their classes, after merging."""


@dataclass(frozen=True)
class Labelled:
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
    """

    units: "Units"
    names: "np.ndarray"
    classes: tuple[str, ...]
    labels: "np.ndarray"
    groups: "np.ndarray | None"
    notes: tuple[str, ...]


def read_units(spec: UnitsSpec, folder: Path) -> "Units":
    """Open the files of units that a job names.

    Raises
    ------
    LearnerError
        What is in them cannot be used.
    """
    from learners.units.opening import open_units

    return open_units([str((folder / path).resolve()) for path in spec.units], spec.layout)


def read_labelled(spec: LabelledSpec, folder: Path) -> Labelled:
    """Open units and their classes.

    Raises
    ------
    LearnerError
        A column or class is not there, fewer than two classes are, or a class's units are all missing.
    """
    import numpy as np

    from learners.errors import LearnerError
    from learners.units.checks import check_labels

    units = read_units(spec, folder)
    names = classes_named(units.column(spec.label), spec.classes, spec.label)
    units = replace(units, obs=units.obs.assign(**{CLASS: names}))
    notes = [*units.notes, *check_labels(units, CLASS)]
    classes = tuple(sorted(set(names) - {""}))
    if len(classes) < 2:
        raise LearnerError(
            f"Column {spec.label} has {len(classes)} class{'es' if classes else ''} of units; expected two or"
            " more. Name another column under `label:`, or other `classes:`."
        )
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number.get(name, -1) for name in names], dtype=np.int64)
    groups = units.column(spec.group) if spec.group else None
    if groups is not None and (nameless := (groups == "") & (labels >= 0)).any():
        raise LearnerError(
            f"{int(nameless.sum())} labelled units have no {spec.group}, such as"
            f" {units.unit_ids[nameless][0]}. Units of unknown origin cannot be kept apart: leave them out"
            " with the layout's `drop:`."
        )
    return Labelled(units, names, classes, labels, groups, tuple(notes))


def classes_named(found: "np.ndarray", wanted: Classes | None, label: str) -> "np.ndarray":
    """Return each unit's class name, "" where it has none of those wanted.

    Raises
    ------
    LearnerError
        A wanted class is not there; with the nearest name.
    """
    import numpy as np

    from learners.errors import LearnerError
    from learners.splits import nearest

    if wanted is None:
        return found
    merged: Mapping[str, Sequence[str]] = (
        wanted if isinstance(wanted, dict) else {name: [name] for name in wanted}
    )
    there = sorted(set(found) - {""})
    for members in merged.values():
        for name in members:
            if name not in there:
                raise LearnerError(
                    f"Column {label} has no class {name!r}{nearest(name, there)}; there are"
                    f" {', '.join(there)}."
                )
    taken = [name for members in merged.values() for name in members]
    twice = sorted({name for name in taken if taken.count(name) > 1})
    if twice:
        raise LearnerError(f"classes: {', '.join(twice)} stands under more than one name.")
    into = {name: whole for whole, members in merged.items() for name in members}
    return np.array([into.get(name, "") for name in found])


def read_pool(specs: Sequence[UnitsSpec], folder: Path) -> "Units | None":
    """Return the units for pretraining; None where there are none."""
    from learners.units.units import joined

    return joined([read_units(spec, folder) for spec in specs]) if specs else None
