"""Checks of units: isolated well enough, and nothing among their values that gives the class away."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from neurofleet.errors import did_you_mean
from neurofleet.learners.array_files import as_text
from neurofleet.learners.units.unit_layout import QualityLimits
from neurofleet.learners.units.units import MODALITIES, Units, UnitsRefused

TELLING_CORRELATION = 0.9
FEWEST_ROWS = 20
"""With fewer rows a real column may well ascend by chance."""

TELLING_P = 1e-3


def refuse_row_numbers(values: np.ndarray, name: str) -> None:
    """Refuse a table in which a single column follows the order of the rows.

    The rank correlation with the row number is looked at as the table is, and, where rows were divided by
    their total, after undoing that: the smallest value of a row of counts is mostly one count. A column
    counts as a row number when its neighbours do not follow the order too, as they would in a table sorted by
    firing rate.

    Raises
    ------
    UnitsRefused
        Naming the column.
    """
    rows = np.isfinite(values).all(axis=1)
    values = values[rows]
    if len(values) < FEWEST_ROWS or values.shape[1] < 3:
        return
    positive = np.where(values > 0, values, np.inf).min(axis=1, keepdims=True)
    counts = np.divide(values, positive, out=np.zeros_like(values), where=np.isfinite(positive))
    for view in (values, counts):
        correlation = np.abs(_with_row_order(view))
        padded = np.concatenate([[0.0], correlation, [0.0]])
        neighbours = np.maximum(padded[:-2], padded[2:])
        index_like = (correlation > TELLING_CORRELATION) & (correlation - neighbours > 0.2)
        if index_like.any():
            column = int(index_like.argmax())
            raise UnitsRefused(
                f"{name}: expected measurements, found that column {column} of {values.shape[1]} follows the"
                f" order of the rows (rank correlation {correlation[column]:.2f}): it is a row number, which"
                " tells the class when rows are sorted by class. Remove that column."
            )


def _with_row_order(values: np.ndarray) -> np.ndarray:
    """Return the rank correlation of each column with the row number; 0 for constant columns."""
    ranks = pd.DataFrame(values).rank().to_numpy()
    ranks -= ranks.mean(axis=0)
    order = np.arange(len(values)) - (len(values) - 1) / 2
    spread = np.sqrt((ranks**2).sum(axis=0) * (order**2).sum())
    return np.divide(order @ ranks, spread, out=np.zeros(values.shape[1]), where=spread > 0)


def check_labels(units: Units, label: str) -> tuple[str, ...]:
    """Check that a class can be learned from what was measured, not from what is missing.

    Parameters
    ----------
    units : Units
    label : str
        Column of the classes; units without a label do not count.

    Returns
    -------
    tuple of str
        One note for each modality whose absence goes with the class (chi-square test, p < 0.001), and for
        each class that misses a modality altogether.

    Raises
    ------
    UnitsRefused
        If the column is unknown or empty, or all units of a class miss every modality.
    """
    from scipy.stats import chi2_contingency

    labels = units.column(label)
    known = labels != ""
    if not known.any():
        raise UnitsRefused(f"No unit has a value in column {label!r}; expected the classes there.")
    classes, code = np.unique(labels[known], return_inverse=True)
    present = units.present[known]
    empty = [name for number, name in enumerate(classes) if not present[code == number].any()]
    if empty:
        raise UnitsRefused(
            f"All units of {_listed(empty)} ({label}) miss {', '.join(MODALITIES)}: there is nothing to learn"
            f" them from. Leave them out (drop: {{{label}: [{', '.join(empty)}]}}) or give their data."
        )
    notes = []
    for number, modality in enumerate(MODALITIES):
        missing = ~present[:, number]
        if not missing.any() or missing.all():
            continue
        table = np.array([[(missing & (code == k)).sum(), (~missing & (code == k)).sum()] for k in range(len(classes))])
        share = table[:, 0] / table.sum(axis=1)
        without = classes[share == 1]
        if len(without):
            notes.append(f"No unit of {_listed(without)} ({label}) has a {modality}.")
        if len(classes) > 1 and chi2_contingency(table).pvalue < TELLING_P:
            worst, best = int(share.argmax()), int(share.argmin())
            notes.append(
                f"The absence of the {modality} predicts {label}: it is missing in {share[worst]:.0%} of"
                f" {classes[worst]} and {share[best]:.0%} of {classes[best]}. A model can read the class off"
                " the gap; leave this modality out, or the units without it."
            )
    return tuple(notes)


def _listed(names: np.ndarray | list[str]) -> str:
    return ", ".join(map(str, names))


RULES: dict[str, dict[str, QualityLimits]] = {
    "allen": {
        "isi_violations": QualityLimits(below=0.5),
        "amplitude_cutoff": QualityLimits(below=0.1),
        "presence_ratio": QualityLimits(above=0.9),
    },
    "ibl": {
        "label": QualityLimits(equals=1),
        "presence_ratio": QualityLimits(at_least=0.5),
        "n_spikes": QualityLimits(at_least=100),
    },
}
"""Allen Institute, Visual Coding Neuropixels; International Brain Laboratory, brain-wide map."""

OTHER_NAMES = {
    "n_spikes": ("spike_count", "num_spikes", "spike_counts"),
    "label": ("ibl_label", "ibl_quality_score"),
}


def good_units(
    columns: pd.DataFrame, quality: str | Mapping[str, QualityLimits], name: str
) -> tuple[np.ndarray, list[str]]:
    """Return which units keep all rules, as (n,) bool, and how many each rule dropped.

    Parameters
    ----------
    columns : DataFrame
        One row per unit.
    quality : str or mapping
        Name of rules ("allen", "ibl"), or own limits by column.
    name : str
        File, for messages.

    Raises
    ------
    UnitsRefused
        If a column is absent, holds text where a number is needed, or no unit is left.
    """
    rules = RULES[quality] if isinstance(quality, str) else quality
    kept = np.ones(len(columns), dtype=bool)
    dropped = []
    for rule, limits in rules.items():
        column = next((c for c in (rule, *OTHER_NAMES.get(rule, ())) if c in columns), None)
        if column is None:
            raise UnitsRefused(
                f"{name}: the quality filter needs a column {rule!r}, which is not"
                f" there{did_you_mean(rule, columns.columns)}. There are:"
                f" {', '.join(map(str, columns.columns)) or 'none'}. Give own limits by column"
                " (quality: {column: {below: 0.5}}) or no filter."
            )
        kept_here = _within(columns[column], limits, f"{name}, {column}")
        dropped.append(f"{column} {_limits_in_words(limits)} dropped {int((~kept_here).sum())}")
        kept &= kept_here
    which = quality if isinstance(quality, str) else "own limits"
    note = f"{name}: quality ({which}) kept {int(kept.sum())} of {len(kept)} units: {', '.join(dropped)}."
    if not kept.any():
        raise UnitsRefused(f"{note} Expected at least one to stay; loosen the limits.")
    return kept, [note]


def _within(values: pd.Series, limits: QualityLimits, name: str) -> np.ndarray:
    kept = values.notna().to_numpy().copy()
    if limits.equals is not None:
        expected = as_text(pd.Series([limits.equals]))[0]
        texts = np.char.lower(as_text(values))
        same = texts == expected.lower()
        if expected == "1":
            same |= (texts == "good") | (texts == "true")
        kept &= same
    bounds = [limits.at_least, limits.above, limits.below]
    if any(bound is not None for bound in bounds):
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
        if (np.isnan(numbers) & kept).any():
            example = as_text(values)[np.isnan(numbers) & kept][0]
            raise UnitsRefused(
                f"{name}: expected numbers to compare with a limit, found {example!r}. Use equals for text."
            )
        for bound, holds in zip(bounds, (np.greater_equal, np.greater, np.less), strict=True):
            if bound is not None:
                kept &= holds(numbers, bound)
    return kept


def _limits_in_words(limits: QualityLimits) -> str:
    signs = {"at_least": ">=", "above": ">", "below": "<", "equals": "="}
    return " and ".join(
        f"{sign} {getattr(limits, key):g}"
        if isinstance(getattr(limits, key), float)
        else f"{sign} {getattr(limits, key)}"
        for key, sign in signs.items()
        if getattr(limits, key) is not None
    )
