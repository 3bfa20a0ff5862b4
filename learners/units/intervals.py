"""Histograms of the intervals between spikes, brought to shares in 100 bins of 1 ms."""

from __future__ import annotations

import numpy as np

from learners.units.layout import Layout
from learners.units.units import POINTS, UnitsRefused
from learners.units.waveforms import is_told

EDGES_MS = np.arange(POINTS["isi"] + 1, dtype=float)
"""Edges of the common bins."""

SHARE_TOLERANCE = 1e-3


def common_isi(
    values: np.ndarray, layout: Layout, bin_ms: float | None, name: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Convert histograms of any bins to the share of intervals in bins of 1 ms from 0 to 100 ms.

    Mass moves between bins under the assumption that it lies evenly within each bin of the file: evenly in
    time within linear bins, evenly in the logarithm of time within logarithmic bins. Intervals of 100 ms and
    more count in the total, as far as the file has them, but have no bin.

    Parameters
    ----------
    values : (n, bins) array
    layout : Layout
        Scale, range and kind of the values.
    bin_ms : float
        Width of linear bins, of the layout or of the file.
    name : str
        File and array, for messages.

    Returns
    -------
    tuple
        (n, 100) float32 shares, zeros where missing; (n,) bool present; notes.

    Raises
    ------
    UnitsRefused
        If the table has the width of a histogram with an index column in front, the width of the bins is
        unknown, or the values are negative or neither counts nor shares.
    """
    n_bins = values.shape[1]
    if n_bins in (51, 101):
        raise UnitsRefused(
            f"{name}: found {n_bins} columns, one more than the {n_bins - 1} bins of such a histogram. One of"
            " them is most likely a row number, which tells the class when rows are sorted by class. Remove"
            " that column, or the bin that is too many."
        )
    edges_ms, notes = _edges_ms(n_bins, layout, bin_ms, name)
    present = is_told(values)
    filled = np.where(present[:, None], values, 0.0)
    if (filled < 0).any():
        raise UnitsRefused(
            f"{name}: expected counts or shares of intervals, found negative values (smallest"
            f" {filled.min():g}). Give the histogram before any scaling or logarithm."
        )
    shares, more = _shares(filled[present], edges_ms, layout, name)
    notes += more
    result = np.zeros((len(values), POINTS["isi"]), dtype=np.float32)
    result[present] = redistributed(shares, edges_ms, EDGES_MS, layout.isi_scale == "log10")
    if layout.isi_scale == "log10":
        notes.append(
            f"{name}: {n_bins} logarithmic bins from {edges_ms[0]:g} to {edges_ms[-1]:g} ms became linear"
            " ones of 1 ms, as if intervals were even in log time within each bin."
        )
    elif edges_ms[1] != 1:
        notes.append(
            f"{name}: bins of {edges_ms[1]:g} ms became bins of 1 ms, as if intervals were even within each."
        )
    if edges_ms[-1] < EDGES_MS[-1]:
        notes.append(
            f"{name}: the intervals are only known up to {edges_ms[-1]:g} ms; bins from there to 100 ms are"
            " empty."
        )
    impossible = result[:, 0] > 0.5
    if impossible.any():
        notes.append(
            f"{name}: in {int(impossible.sum())} units most intervals are shorter than 1 ms, which no neuron"
            " can do: the spike times behind them were most likely in another unit than seconds. Find the"
            " recording that they are of, and leave it out (drop)."
        )
    outside = present & (result.sum(axis=1) == 0)
    if outside.any():
        notes.append(
            f"{name}: {int(outside.sum())} units have no interval below 100 ms; their ISI is missing."
        )
    return result, present & ~outside, notes


def _edges_ms(n_bins: int, layout: Layout, bin_ms: float | None, name: str) -> tuple[np.ndarray, list[str]]:
    if layout.isi_log10_range_s is not None:
        low, high = layout.isi_log10_range_s
        return 1000 * np.logspace(low, high, n_bins + 1), []
    if bin_ms is not None:
        return np.arange(n_bins + 1) * bin_ms, []
    if n_bins == POINTS["isi"]:
        return EDGES_MS, [f"{name}: the width of the 100 bins is not told; 1 ms was taken."]
    raise UnitsRefused(
        f"{name}: found {n_bins} bins of unknown width, expected 100 bins of 1 ms or a width. Give"
        " isi_bin_ms, or isi_scale log10 with isi_log10_range_s, in the layout."
    )


def _shares(
    values: np.ndarray, edges_ms: np.ndarray, layout: Layout, name: str
) -> tuple[np.ndarray, list[str]]:
    """Return the share of each bin, rows present only."""
    if len(values) == 0:
        return values, []
    totals = values.sum(axis=1)
    kind = layout.isi_values
    if kind is None:
        if np.allclose(values, np.rint(values)):
            kind = "counts"
        elif layout.isi_scale == "log10":
            raise UnitsRefused(
                f"{name}: found logarithmic bins whose values are no whole numbers. Expected to be told"
                " whether they are shares of the intervals or a density (per second, also when each row was"
                " divided by its sum): the two differ by the width of the bins, a factor of thousands from"
                " end to end. Give isi_values: shares or density."
            )
        elif totals.max() <= 1 + SHARE_TOLERANCE:
            kind = "shares"
        else:
            raise UnitsRefused(
                f"{name}: expected counts (whole numbers) or shares (rows that add up to at most 1), found"
                f" rows that add up to {totals.min():.4g} to {totals.max():.4g}. Say what stands in the bins"
                " with isi_values: counts, shares or density."
            )
    if kind == "shares":
        if totals.max() > 1 + SHARE_TOLERANCE:
            raise UnitsRefused(
                f"{name}: shares add up to at most 1, found a row that adds up to {totals.max():.4g}."
                " Say isi_values: counts or density if that is what they are."
            )
        inside = np.allclose(totals, 1, atol=SHARE_TOLERANCE) and edges_ms[-1] <= EDGES_MS[-1]
        return values, [f"{name}: shares are of the intervals within the bins, not of all."] if inside else []
    mass = values * np.diff(edges_ms) if kind == "density" else values
    what = "densities" if kind == "density" else "counts"
    note = f"{name}: {what} became shares of the intervals within {edges_ms[0]:g} to {edges_ms[-1]:g} ms."
    return mass / mass.sum(axis=1, keepdims=True), [note]


def redistributed(mass: np.ndarray, edges: np.ndarray, wanted: np.ndarray, logarithmic: bool) -> np.ndarray:
    """Move mass from bins to other bins, even within each bin in x, or in log x."""
    if len(mass) == 0 or np.array_equal(edges, wanted):
        return mass
    place, target = edges, wanted
    if logarithmic:
        place, target = np.log(edges), np.log(np.maximum(wanted, edges[0]))
    below = np.hstack([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)])
    bin_of = np.clip(np.searchsorted(place, target, side="right") - 1, 0, len(place) - 2)
    part = np.clip((target - place[bin_of]) / np.diff(place)[bin_of], 0, 1)
    return np.diff(below[:, bin_of] * (1 - part) + below[:, bin_of + 1] * part, axis=1)
