"""Job files for labelled cells, units and population recordings."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurofleet.errors import LearnerError, UsageError
from neurofleet.jobs.drafts.draft import Draft
from neurofleet.learners.array_files import as_text, npz_arrays
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_matrix import SOURCE_COLUMN
from neurofleet.learners.folds import repeated_folds
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.unit_labels import labelled_units
from neurofleet.learners.units.units import FILE_COLUMN, MODALITIES, Units
from neurofleet.wording import listed

MOST_CLASSES, MOST_GROUPS = 200, 100
LEAST_NEURONS = 8
FOLDS = 5
NOTES = 3
JUDGED = {"good", "mua", "noise", "unsorted", "True", "False"}
"""Values of columns that say how good a unit is, or whether it belongs to some set: no classes."""
_LABELS = (
    r"cell[\s_.-]*types?$",
    r"cell[\s_.-]*type",
    "type",
    "class",
    "label",
    "annotation",
    "subclass",
    "cluster",
    "identity",
)
_GROUPS = (
    "donor",
    "animal",
    "subject",
    "mouse",
    "patient",
    "individual",
    "batch",
    "sample",
    "session",
    "technology",
    "condition",
    "stim",
)


def sims_draft(files: Sequence[Path], folder: Path) -> Draft:
    """Return a training of SIMS on cells; files that lack the classes of the others are the query.

    Raises
    ------
    UsageError, LearnerError
        The files cannot be used, or no column looks like classes.
    """
    queries = _without_classes(files)
    reference = [file for file in files if file not in queries]
    cells = open_cells(reference, query=queries)
    draft = _draft("sims", folder, "reference", reference)
    if queries:
        draft.put("query", [draft.path(file) for file in queries], "no classes: the genes that it has are trained on")
    draft.say(f"{len(cells):,} cells × {len(cells.genes):,} genes", *cells.notes)
    columns = cells.obs.drop(columns=SOURCE_COLUMN)
    label = _put_label(draft, columns, "`labels: FILE.csv` adds columns of another file")
    missing = int((as_text(columns[label]) == "").sum())
    if missing:
        draft.put("drop_unlabelled", True, f"{missing:,} cells have no {label}")
    groups = _groups(columns, label)
    if not groups:
        draft.put("split", {"test": 0.2, "validation": 0.15}, "no column looks like donors or batches: cells at random")
        return draft
    name, counts = next(iter(groups.items()))
    held_out = min(counts.index, key=lambda group: abs(counts[group] / counts.sum() - 0.2))
    draft.say(*(f"{column}: {_counted(of)}" for column, of in groups.items()))
    draft.put(
        "split",
        {"test": {name: [held_out]}, "validation": 0.15},
        f"a guess: {name} {held_out} is held out whole. Cross-validation: {{folds: {len(counts)}, by: {name}}}",
    )
    return draft


def _without_classes(files: Sequence[Path]) -> list[Path]:
    """Return the files without a column that is called like one of classes, where others have one."""
    if len(files) == 1:
        return []
    columns = [open_cells(file).obs.columns.drop(SOURCE_COLUMN) for file in files]
    has = [any(_place(str(name), _LABELS) < len(_LABELS) for name in names) for names in columns]
    return [file for file, named in zip(files, has, strict=True) if not named] if any(has) else []


def hippie_draft(files: Sequence[Path], folder: Path, layout: Mapping[str, Any] | None = None) -> Draft:
    """Return a training of HIPPIE on units; raises as `sims_draft` does.

    Parameters
    ----------
    layout : mapping, optional
        See `neurofleet.learners.units.unit_layout.UnitLayout`.
    """
    draft = _draft("hippie", folder, "units", files)
    given = dict(layout or {})
    units, without, told = _open_units(files, given)
    there = ", ".join(f"{int(has.sum())} with {name}" for name, has in zip(MODALITIES, units.present.T, strict=True))
    draft.say(f"{len(units):,} units: {there}", *units.notes)
    if without:
        draft.say(f"Not all of it can be read as it is: {told}")
        given["without"] = without
    if given:
        draft.put("layout", given, "to use all of it, give what is missing in place of `without`" if without else "")
    columns = units.obs.drop(columns=FILE_COLUMN, errors="ignore")
    label = _put_label(draft, columns, "training needs a class of each unit, in a column of the files")
    _say_quality(draft, columns)
    groups = _groups(units.obs, label)
    draft.say(*(f"{column}: {_counted(of)}" for column, of in groups.items()))
    for number, column in enumerate(groups):
        folds = _most_folds(units, label, column)
        if folds:
            if number:
                draft.say(
                    f"not kept apart: {listed(list(groups)[:number])}, as a class of {label} is in one of them alone."
                    f" Merge or leave out such classes (`classes:`), and give `group: {next(iter(groups))}`"
                )
            draft.put("group", column, "a guess: never split between training and test")
            if folds < FOLDS:
                draft.put("folds", folds, f"as many as {column} allows")
            return draft
    draft.say("No `group:`: no column keeps animals or recordings apart so that each class is in two of them.")
    if not (folds := _most_folds(units, label, None)):
        raise UsageError(
            f"{label}: expected at least two units of each class, found {_counted(_counts(units.obs, label))}."
        )
    if folds < FOLDS:
        draft.put("folds", folds, "the smallest class has no more units")
    return draft


def neuprint_draft(files: Sequence[Path], folder: Path, layout: Mapping[str, Any] | None = None) -> Draft:
    """Return a training of NeuPRINT on population recordings; raises as `sims_draft` does.

    Parameters
    ----------
    layout : mapping, optional
        Goes before what is guessed: see `neurofleet.learners.neuprint.recording_layout.RecordingLayout`.
    """
    draft = _draft("neuprint", folder, "recordings", files)
    guessed, unused = _layout(files, layout or {})
    layout = guessed | dict(layout or {})
    recordings = open_recordings(list(files), layout)
    neurons, animals = recordings.neurons, recordings.animals
    first = recordings.recordings[0]
    draft.say(
        f"{len(recordings.recordings)} recordings of {len(animals)} animals, {len(neurons):,} neurons; the first has "
        f"{first.n_frames:,} frames at {first.rate_hz:.3g} Hz, behaviour: {listed(first.behaviour_names) or 'none'}",
        *[note for note in recordings.notes if ": not used: " not in note][:NOTES],
    )
    if unused:
        draft.say(f"not used: {listed(unused)}")
    if layout:
        draft.put("layout", layout, "a guess by the lengths of the arrays" if guessed else "")
    labels = neurons.drop(columns="animal")
    advice = "name the array of classes, one for each neuron, in the layout: {labels: {class: ARRAY}}"
    if unused:
        advice += f". Arrays that are not used: {listed(unused)}"
    label = _put_label(draft, labels.where(labels != "", None), advice)
    counts = _counts(neurons, label)
    least = LEAST_NEURONS
    if (counts >= least).sum() < 2:
        least = max(2, int(counts.iloc[1]))
        draft.put("least_neurons", least, "smaller classes count as without a label")
    split = "cross-animal" if len(animals) > 1 else "single-animal"
    draft.put("split", split, "a guess: every animal is tested once" if len(animals) > 1 else "there is one animal")
    return draft


def _draft(learner: str, folder: Path, key: str, files: Sequence[Path]) -> Draft:
    draft = Draft("train", folder)
    draft.put("learner", learner)
    draft.put(key, [draft.path(file) for file in files])
    return draft


def _put_label(draft: Draft, columns: pd.DataFrame, advice: str) -> str:
    """Write the key `label`, with all columns that look like classes, and return the column."""
    found = {str(name): counts for name in columns if _may_be_classes(columns, name, counts := _counts(columns, name))}
    likely = sorted(found, key=lambda name: (_place(name, _LABELS), len(name), name))
    if not likely or (_place(likely[0], _LABELS) == len(_LABELS) and set(likely) <= set(_groups(columns, ""))):
        there = listed(map(str, columns))
        found_there = f"none among {there}" if there else "no columns"
        raise UsageError(f"Expected a column with classes, found {found_there}{_why_not(columns)}: {advice}.")
    others = [
        name for name in likely[1:] if _place(name, _GROUPS) == len(_GROUPS) and not set(found[name].index) <= JUDGED
    ]
    draft.say(f"{likely[0]}: {_counted(found[likely[0]])}")
    draft.put("label", likely[0], f"a guess; other columns with classes: {listed(others)}" if others else "a guess")
    return likely[0]


def _may_be_classes(columns: pd.DataFrame, name: Any, counts: pd.Series) -> bool:
    """Whether a column may hold classes; not where each value is there once, nor numbers that nobody calls classes."""
    is_number = pd.api.types.is_numeric_dtype(columns[name]) and not pd.api.types.is_bool_dtype(columns[name])
    if is_number and _place(str(name), _LABELS) == len(_LABELS):
        return False
    return 2 <= len(counts) <= min(MOST_CLASSES, max(2, len(columns) // 2)) and counts.iloc[0] > 1


def _why_not(columns: pd.DataFrame) -> str:
    """Say why the column that is called most like one of classes is none."""
    name = min(map(str, columns), key=lambda name: _place(name, _LABELS), default="")
    counts = _counts(columns, name) if name and _place(name, _LABELS) < len(_LABELS) else pd.Series(dtype=int)
    if not len(counts):
        return ""
    return f" ({name} has {len(counts)} value{'s' if len(counts) > 1 else ''} in {len(columns)} rows)"


def _groups(columns: pd.DataFrame, label: str) -> dict[str, pd.Series]:
    """Return the columns that look like animals or batches, the likeliest first, with their counts."""
    names = sorted(
        (str(name) for name in columns if name != label), key=lambda name: (_place(name, _GROUPS), len(name), name)
    )
    found = {name: _counts(columns, name) for name in names if _place(name, _GROUPS) < len(_GROUPS)}
    return {name: counts for name, counts in found.items() if 2 <= len(counts) <= MOST_GROUPS}


def _place(name: str, patterns: Sequence[str]) -> int:
    return next((i for i, pattern in enumerate(patterns) if re.search(pattern, name, re.IGNORECASE)), len(patterns))


def _counts(columns: pd.DataFrame, name: Any) -> pd.Series:
    """Return how often each value of a column is there, the most frequent first; nothing for measurements."""
    column = columns[name]
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 != 0).any():
        return pd.Series(dtype=int)
    texts = pd.Series(as_text(column)).str.strip()
    return texts[texts != ""].value_counts()


def _counted(counts: pd.Series) -> str:
    return f"{len(counts)} ({listed(f'{name} {count:,}' for name, count in counts.items())})"


def _say_quality(draft: Draft, columns: pd.DataFrame) -> None:
    """Say which units a person has judged to be noise or several neurons, and how they are left out."""
    for name in columns:
        counts = _counts(columns, name)
        if "good" in counts and len(counts) > 1 and set(counts.index) <= JUDGED:
            advice = f"`layout: {{keep: {{{name}: [good]}}}}` leaves the others out"
            draft.say(f"{name}: {_counted(counts)}; all of them are used. {advice}")


def _open_units(files: Sequence[Path], layout: dict[str, Any]) -> tuple[Units, list[str], str]:
    """Return units with as many of the modalities as can be read, those that cannot, and why not."""
    told: list[str] = []
    for number in range(len(MODALITIES)):
        for without in map(list, combinations(MODALITIES, number)):
            try:
                chosen = layout | ({"without": sorted({*layout.get("without", []), *without})} if without else {})
                return open_units(list(files), chosen), without, " ".join(told[:1])
            except LearnerError as error:
                told += [str(error)] if not without or len(without) == 1 else []
    raise UsageError(" ".join(dict.fromkeys(told)))


def _most_folds(units: Units, label: str, group: str | None) -> int:
    """Return in how many folds units can be divided, at most `FOLDS`; 0 where they cannot."""
    try:
        labelled = labelled_units(units, label, group=group)
    except LearnerError:
        return 0
    rows = labelled.rows
    groups = None if labelled.groups is None else labelled.groups[rows]
    for folds in range(FOLDS, 1, -1):
        try:
            repeated_folds(labelled.labels[rows], groups, folds, repeats=1)
            return folds
        except LearnerError:
            continue
    return 0


def _layout(files: Sequence[Path], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a layout for npz files by the lengths of the first one's arrays, and the arrays that it does not use."""
    if files[0].suffix.lower() != ".npz":
        return {}, []
    arrays = npz_arrays(files[0])
    activity = arrays.get(given.get("activity") or "activity")
    if activity is None or activity.ndim != 2:
        return {}, []
    frames, neurons = reversed(activity.shape) if given.get("neurons_first") else activity.shape
    labels = {name: name for name, array in _of_length(arrays, neurons) if array.dtype.kind in "US"}
    times = [name for name, _ in _of_length(arrays, frames) if "time" in name.lower()]
    behaviour = [name for name, array in _of_length(arrays, frames) if array.dtype.kind in "fiu" and name not in times]
    unmeasured = [name for name in behaviour if not np.isfinite(arrays[name]).any()]
    behaviour = [name for name in behaviour if name not in unmeasured]
    layout: dict[str, Any] = {"labels": labels} if labels else {}
    layout |= {"behaviour": behaviour} if behaviour else {}
    used = {
        "activity",
        "rate_hz",
        "frame_times",
        "animal",
        "session",
        "neuron_ids",
        "positions_um",
        *labels,
        *behaviour,
        *(name for name in given.values() if isinstance(name, str)),
    }
    return layout, [
        f"{name} ({_why_unused(name, array, name in unmeasured, frames, neurons)})"
        for name, array in sorted(arrays.items())
        if name not in used
    ]


def _why_unused(name: str, array: np.ndarray, unmeasured: bool, frames: int, neurons: int) -> str:
    if unmeasured:
        return "never measured"
    if array.shape == (neurons,) and "confidence" in name.lower():
        return f"layout: {{confidence: {name}, least_confidence: 3}} leaves out labels that are less sure"
    if array.ndim == 1 and len(array) not in (frames, neurons):
        return f"{len(array):,} values, for {neurons:,} neurons and {frames:,} frames"
    return " × ".join(f"{length:,}" for length in array.shape) or "one value"


def _of_length(arrays: Mapping[str, np.ndarray], length: int) -> Iterator[tuple[str, np.ndarray]]:
    return ((name, array) for name, array in arrays.items() if array.shape == (length,))
