"""Which units are well enough isolated: the rules of two large surveys, or own limits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from neurofleet.errors import did_you_mean
from neurofleet.learners.units.unit_layout import QualityLimits
from neurofleet.learners.units.units import UnitsRefused, as_text

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
    told = f"{name}: quality ({which}) kept {int(kept.sum())} of {len(kept)} units: {', '.join(dropped)}."
    if not kept.any():
        raise UnitsRefused(f"{told} Expected at least one to stay; loosen the limits.")
    return kept, [told]


def _within(values: pd.Series, limits: QualityLimits, name: str) -> np.ndarray:
    kept = values.notna().to_numpy().copy()
    if limits.equals is not None:
        wanted = as_text(pd.Series([limits.equals]))[0]
        texts = np.char.lower(as_text(values))
        same = texts == wanted.lower()
        if wanted == "1":
            same |= (texts == "good") | (texts == "true")
        kept &= same
    bounds = [limits.at_least, limits.above, limits.below]
    if any(bound is not None for bound in bounds):
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
        if (np.isnan(numbers) & kept).any():
            found = as_text(values)[np.isnan(numbers) & kept][0]
            raise UnitsRefused(
                f"{name}: expected numbers to compare with a limit, found {found!r}. Use equals for text."
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
