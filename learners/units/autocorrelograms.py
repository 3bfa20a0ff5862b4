"""Autocorrelograms of any bins, brought to 100 bins of 2 ms from -100 to 100 ms."""

from __future__ import annotations

import numpy as np

from learners.units.intervals import redistributed
from learners.units.units import POINTS, UnitsRefused
from learners.units.waveforms import is_told

EDGES_MS = np.linspace(-100, 100, POINTS["acg"] + 1)
ASYMMETRY = 0.5
"""Difference between an autocorrelogram and its mirror image, as a share of its sum, above which it cannot
be one: histograms of rare pairs are cut unevenly at the ends, but never by so much."""


def without_self_pairs(values: np.ndarray, one_sided: bool) -> np.ndarray:
    """Return the table with 0 in the bin of lag 0, which in many files counts each spike with itself."""
    n_bins = values.shape[1]
    if not one_sided and n_bins % 2 == 0:
        return values
    values = values.copy()
    values[:, 0 if one_sided else n_bins // 2] = 0
    return values


def common_acg(
    values: np.ndarray, bin_ms: float | None, name: str, *, one_sided: bool = False
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Resample autocorrelograms to 100 bins of 2 ms, relative to their own mean.

    Parameters
    ----------
    values : (n, bins) array
        Counts, rates or shares, lags in linear bins around 0.
    bin_ms : float
        Width of the bins, of the layout or of the file; 1 ms when neither tells.
    name : str
        File and array, for messages.
    one_sided : bool
        Whether lags start at 0.

    Returns
    -------
    tuple
        (n, 100) float32, zeros where missing; (n,) bool present; notes.

    Raises
    ------
    UnitsRefused
        If values are negative or not symmetric although both sides should be there.
    """
    notes = []
    if bin_ms is None:
        bin_ms = 1.0
        notes.append(f"{name}: the width of the bins is not told; 1 ms was taken.")
    present = is_told(values)
    values = without_self_pairs(values, one_sided)
    filled = np.where(present[:, None], values, 0.0)
    if (filled < 0).any():
        raise UnitsRefused(
            f"{name}: expected counts, rates or shares, found negative values (smallest {filled.min():g})."
            " Give the autocorrelogram before any scaling."
        )
    if one_sided:
        filled = np.hstack([filled[:, :0:-1], filled])
        notes.append(f"{name}: lags from 0 up; mirrored.")
    elif present.any():
        rows = filled[present]
        asymmetry = float(np.median(np.abs(rows - rows[:, ::-1]).sum(axis=1) / rows.sum(axis=1)))
        if asymmetry > ASYMMETRY:
            raise UnitsRefused(
                f"{name}: expected autocorrelograms with negative and positive lags, which are symmetric;"
                f" found {values.shape[1]} bins that differ from their mirror image by {asymmetry:.0%}. Say"
                " acg_one_sided: true in the layout if lags start at 0, or remove columns which are no lag."
            )
    n_bins = filled.shape[1]
    edges_ms = (np.arange(n_bins + 1) - n_bins / 2) * bin_ms
    reach_ms = edges_ms[-1]
    inner = np.clip(EDGES_MS, -reach_ms, reach_ms)
    mass = redistributed(filled, edges_ms, inner, logarithmic=False)
    widths = np.diff(inner)
    rate = np.divide(mass, widths, out=np.zeros_like(mass), where=widths > bin_ms / 1000)
    known = np.flatnonzero(widths > bin_ms / 1000)
    if reach_ms < EDGES_MS[-1]:
        rate[:, : known[0]], rate[:, known[-1] + 1 :] = rate[:, [known[0]]], rate[:, [known[-1]]]
        notes.append(
            f"{name}: {n_bins} bins of {bin_ms:g} ms reach to {reach_ms:g} ms; from there to 100 ms the last"
            " value is held."
        )
    mean = rate.mean(axis=1, keepdims=True)
    present = present & (mean[:, 0] > 0)
    result = np.divide(rate, mean, out=np.zeros_like(rate), where=present[:, None])
    return result.astype(np.float32), present, notes
