"""Interval histograms and autocorrelograms: from spike times or from any bins, brought to 100 bins each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurofleet.learners.units.unit_layout import UnitLayout
from neurofleet.learners.units.units import POINTS, UnitsRefused
from neurofleet.learners.units.waveforms import is_measured

LAGS_MS = 100
SHORTEST_S = 0.5e-3
"""No neuron has half of its intervals shorter than this."""

MOST_IMPOSSIBLE = 0.1
"""If more of the units have such intervals, the unit of time is wrong, else these units are."""

COARSEST_S = 0.5e-3
FEWEST_SPIKES = 10
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 0.05, 200.0
RARELY_BELOW = 0.005
MOST_VIOLATIONS = 0.05
PER_S_IN_LAYOUT = (
    "as spike_times_per_s in the layout (1000 for ms, 1e6 for microseconds, the sampling rate for samples)"
)


def check_spike_times(spike_times: Sequence[np.ndarray], unit_ids: Sequence[str], name: str) -> list[str]:
    """Refuse spike times which are not seconds in ascending order, and return notes.

    Raises
    ------
    UnitsRefused
        Naming the first unit with NaN, negative, unsorted, coarse or whole-number times (a count of samples); or for
        the intervals and rates of a tenth of the units or of all, which no neurons have in seconds.
    """
    at_once, impossible = 0, {}
    for times, unit in zip(spike_times, unit_ids, strict=True):
        expected = f"{name}, unit {unit}: expected spike times in seconds, ascending, from 0 on; found"
        if not np.isfinite(times).all():
            raise UnitsRefused(
                f"{expected} {int((~np.isfinite(times)).sum())} of {len(times)} that are NaN or infinite."
                " Remove them before giving the file."
            )
        intervals = np.diff(times.astype(float))
        falls = np.flatnonzero(intervals < 0)
        if len(falls):
            place = falls[0]
            raise UnitsRefused(
                f"{expected} {times[place + 1]:g} after {times[place]:g} (spike {place + 1}). Sort each"
                " unit's spikes, and do not join recordings whose clocks start anew."
            )
        if len(times) and times[0] < 0:
            raise UnitsRefused(f"{expected} {times[0]:g}. Shift the clock so that the recording starts at 0.")
        is_float = len(times) and times.dtype.kind == "f"
        if is_float and (step := float(np.spacing(np.abs(times).max()))) > COARSEST_S:
            raise UnitsRefused(
                f"{expected} {times[-1]:.15g} as {times.dtype}, which tells times apart only in steps of {step:.2g} s"
                " there. Store spike times as float64, or from the start of the recording."
            )
        if len(times) > 2 and (times == np.rint(times)).all():
            raise UnitsRefused(
                f"{expected} whole numbers only (up to {times[-1]:.15g}): these are samples or milliseconds."
                f" Divide by the sampling rate, or give it {PER_S_IN_LAYOUT}."
            )
        same = int((intervals == 0).sum())
        if same > len(intervals) / 3:
            impossible[unit] = (
                f"{expected} {same} of {len(times)} at the same time as the spike before. Give each once."
            )
        elif len(times) > 2 and np.median(intervals) < SHORTEST_S:
            impossible[unit] = (
                f"{expected} intervals of {1e6 * np.median(intervals):.3g} microseconds (median), which"
                " no neuron can do: the times are in another unit. Give them in seconds, or say how many of their steps"
                f" make a second {PER_S_IN_LAYOUT}."
            )
        at_once += same
    if len(impossible) > MOST_IMPOSSIBLE * len(spike_times):
        raise UnitsRefused(next(iter(impossible.values())))
    notes = [
        f"{name}: unit {unit} has half of its intervals below {1000 * SHORTEST_S:g} ms, which no neuron can do: it is"
        " noise, or its spikes were found twice. Leave it out with drop in the layout."
        for unit in impossible
    ]
    notes += _check_rates([times.astype(float) for times in spike_times], name)
    if at_once:
        n_spikes = sum(map(len, spike_times))
        notes.append(
            f"{name}: {at_once} of {n_spikes} spikes are at the same time as the spike before of their unit and count"
            " as intervals of 0 ms: the sorting has found them twice. Remove the copies."
        )
    return notes


def _check_rates(spike_times: Sequence[np.ndarray], name: str) -> list[str]:
    """Refuse intervals and rates that neurons cannot have in seconds, and return notes on unusual ones."""
    intervals = np.concatenate([np.diff(times) for times in spike_times if len(times) > 1] or [np.zeros(0)])
    several = [times for times in spike_times if len(times) >= FEWEST_SPIKES and times[-1] > times[0]]
    rates_Hz = np.array([(len(times) - 1) / (times[-1] - times[0]) for times in several])
    if len(intervals) < FEWEST_SPIKES:
        return []
    rate_Hz = float(np.median(rates_Hz)) if len(rates_Hz) else float(1 / max(intervals.mean(), 1e-12))
    below = float((intervals < LAGS_MS / 1000).mean())
    found = (
        f"{name}: expected spike times in seconds; found {below:.2g} of the intervals below {LAGS_MS} ms, intervals"
        f" of {np.median(intervals):.3g} s and {rate_Hz:.3g} spikes per second (medians of {len(spike_times)} units)"
    )
    # What has more than 0.5 spikes per second would fire above 500 Hz if its times were ms.
    if (below == 0 and rate_Hz < 0.5) or (below < RARELY_BELOW and rate_Hz < LOWEST_RATE_HZ):
        raise UnitsRefused(
            f"{found}: the times are in another unit, such as milliseconds. Give them in seconds, or say how many of"
            f" their steps make a second {PER_S_IN_LAYOUT}. If they are right, nothing can be told from them:"
            " give without: [isi, acg]."
        )
    if rate_Hz > HIGHEST_RATE_HZ:
        raise UnitsRefused(
            f"{found}, more than neurons fire: the times are in another unit, such as minutes. Give them in seconds, or"
            f" say how many of their steps make a second {PER_S_IN_LAYOUT}."
        )
    notes = []
    if rate_Hz < LOWEST_RATE_HZ:
        notes.append(
            f"{name}: half of the units fire less than {rate_Hz:.2g} spikes per second; check that times are in s."
        )
    violating = float((intervals < 0.001).mean())
    if violating > MOST_VIOLATIONS:
        notes.append(
            f"{name}: {violating:.0%} of the intervals are shorter than 1 ms: units are badly isolated, spikes were"
            " found twice, or times are not in s."
        )
    return notes


def interval_shares(spike_times: Sequence[np.ndarray]) -> np.ndarray:
    """Return the share of all intervals in bins of 1 ms from 0 to 100 ms, NaN for units of one spike or none.

    Returns
    -------
    (n, 100) float64 array
    """
    result = np.full((len(spike_times), POINTS["isi"]), np.nan)
    edges_s = np.arange(POINTS["isi"] + 1) / 1000
    for row, times in enumerate(spike_times):
        if len(times) > 1:
            intervals = np.diff(times)
            result[row] = np.histogram(intervals[intervals < edges_s[-1]], edges_s)[0] / len(intervals)
    return result


def autocorrelogram_counts(spike_times: Sequence[np.ndarray]) -> np.ndarray:
    """Return the number of pairs of spikes at each lag in bins of 1 ms around -100, -99, ... 100 ms.

    A spike is no pair with itself, and lags that round to 0 are left out.

    Returns
    -------
    (n, 201) float64 array
    """
    result = np.zeros((len(spike_times), 2 * LAGS_MS + 1))
    for row, times in enumerate(spike_times):
        for step in range(1, len(times)):
            lags = np.floor((times[step:] - times[:-step]) * 1000 + 0.5)
            lags = lags[lags <= LAGS_MS].astype(int)
            if len(lags) == 0:
                break
            counts = np.bincount(lags, minlength=LAGS_MS + 1)
            counts[0] = 0
            result[row, LAGS_MS:] += counts
            result[row, : LAGS_MS + 1] += counts[::-1]
    return result


ISI_EDGES_MS = np.arange(POINTS["isi"] + 1, dtype=float)
"""Edges of the common bins."""

SHARE_TOLERANCE = 1e-3


def common_isi(
    values: np.ndarray,
    layout: UnitLayout,
    bin_ms: float | None,
    name: str,
    unit_ids: Sequence[str] | np.ndarray = (),
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Convert histograms of any bins to the share of intervals in bins of 1 ms from 0 to 100 ms.

    Mass moves between bins under the assumption that it lies evenly within each bin of the file: evenly in
    time within linear bins, evenly in the logarithm of time within logarithmic bins. Intervals of 100 ms and
    more count in the total, as far as the file has them, but have no bin.

    Parameters
    ----------
    values : (n, bins) array
    layout : UnitLayout
        Scale, range and kind of the values.
    bin_ms : float
        Width of linear bins, of the layout or of the file.
    name : str
        File and array, for messages.
    unit_ids : sequence of str, optional
        For messages.

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
    present = is_measured(values)
    filled = np.where(present[:, None], values, 0.0)
    if (filled < 0).any():
        raise UnitsRefused(
            f"{name}: expected counts or shares of intervals, found negative values (smallest"
            f" {filled.min():g}). Give the histogram before any scaling or logarithm."
        )
    shares, more = _shares(filled[present], edges_ms, layout, name)
    notes += more
    result = np.zeros((len(values), POINTS["isi"]), dtype=np.float32)
    result[present] = redistributed(shares, edges_ms, ISI_EDGES_MS, layout.isi_scale == "log10")
    if layout.isi_scale == "log10":
        notes.append(
            f"{name}: {n_bins} logarithmic bins from {edges_ms[0]:g} to {edges_ms[-1]:g} ms became linear"
            " ones of 1 ms, as if intervals were even in log time within each bin."
        )
    elif edges_ms[1] != 1:
        notes.append(f"{name}: bins of {edges_ms[1]:g} ms became bins of 1 ms, as if intervals were even within each.")
    if edges_ms[-1] < ISI_EDGES_MS[-1]:
        notes.append(
            f"{name}: the intervals are only known up to {edges_ms[-1]:g} ms; bins from there to 100 ms are empty."
        )
    impossible = result[:, 0] > 0.5
    if impossible.sum() > max(2, present.sum() / 2):
        raise UnitsRefused(
            f"{name}: in {int(impossible.sum())} of {int(present.sum())} units most intervals are shorter than 1 ms,"
            " which no neuron can do: the bins have another width, or the spike times behind them were in another unit."
            " Give the width of the bins in ms as isi_bin_ms in the layout."
        )
    if impossible.any():
        notes.append(
            f"{name}: in {int(impossible.sum())} units most intervals are shorter than 1 ms, which no neuron"
            f" can do{_such_as(unit_ids, impossible)}: the spike times behind them were most likely in another unit"
            " than seconds. Find the recording that they are of, and leave it out (drop)."
        )
    outside = present & (result.sum(axis=1) == 0)
    if outside.any():
        notes.append(f"{name}: {int(outside.sum())} units have no interval below 100 ms; their ISI is missing.")
    return result, present & ~outside, notes


def _such_as(unit_ids: Sequence[str] | np.ndarray, chosen: np.ndarray) -> str:
    """Return the first of the chosen units in brackets; nothing where they have no ids."""
    names = [str(unit_ids[row]) for row in np.flatnonzero(chosen)[:3]] if len(unit_ids) else []
    return f" (such as {', '.join(names)})" if names else ""


def _edges_ms(n_bins: int, layout: UnitLayout, bin_ms: float | None, name: str) -> tuple[np.ndarray, list[str]]:
    if layout.isi_log10_range_s is not None:
        low, high = layout.isi_log10_range_s
        return 1000 * np.logspace(low, high, n_bins + 1), []
    if bin_ms is not None:
        return np.arange(n_bins + 1) * bin_ms, []
    if n_bins == POINTS["isi"]:
        return ISI_EDGES_MS, [f"{name}: the width of the 100 bins is not given; 1 ms was assumed."]
    raise UnitsRefused(
        f"{name}: found {n_bins} bins of unknown width, expected 100 bins of 1 ms or a width. Give"
        " isi_bin_ms, or isi_scale log10 with isi_log10_range_s, in the layout."
    )


def _shares(values: np.ndarray, edges_ms: np.ndarray, layout: UnitLayout, name: str) -> tuple[np.ndarray, list[str]]:
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
                f"{name}: found logarithmic bins whose values are not whole numbers. The layout must say"
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
        inside = np.allclose(totals, 1, atol=SHARE_TOLERANCE) and edges_ms[-1] <= ISI_EDGES_MS[-1]
        return values, [f"{name}: shares are of the intervals within the bins, not of all."] if inside else []
    mass = values * np.diff(edges_ms) if kind == "density" else values
    what = "densities" if kind == "density" else "counts"
    note = f"{name}: {what} became shares of the intervals within {edges_ms[0]:g} to {edges_ms[-1]:g} ms."
    return mass / mass.sum(axis=1, keepdims=True), [note]


def redistributed(mass: np.ndarray, edges: np.ndarray, new_edges: np.ndarray, logarithmic: bool) -> np.ndarray:
    """Move mass from bins to other bins, even within each bin in x, or in log x."""
    if len(mass) == 0 or np.array_equal(edges, new_edges):
        return mass
    place, target = edges, new_edges
    if logarithmic:
        place, target = np.log(edges), np.log(np.maximum(new_edges, edges[0]))
    below = np.hstack([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)])
    bin_of = np.clip(np.searchsorted(place, target, side="right") - 1, 0, len(place) - 2)
    part = np.clip((target - place[bin_of]) / np.diff(place)[bin_of], 0, 1)
    return np.diff(below[:, bin_of] * (1 - part) + below[:, bin_of + 1] * part, axis=1)


ACG_EDGES_MS = np.linspace(-100, 100, POINTS["acg"] + 1)
LARGEST_ACG_ASYMMETRY = 0.5
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
        notes.append(f"{name}: the width of the bins is not given; 1 ms was assumed.")
    present = is_measured(values)
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
        if asymmetry > LARGEST_ACG_ASYMMETRY:
            raise UnitsRefused(
                f"{name}: expected autocorrelograms with negative and positive lags, which are symmetric;"
                f" found {values.shape[1]} bins that differ from their mirror image by {asymmetry:.0%}. Say"
                " acg_one_sided: true in the layout if lags start at 0, or remove columns which are no lag."
            )
    n_bins = filled.shape[1]
    edges_ms = (np.arange(n_bins + 1) - n_bins / 2) * bin_ms
    reach_ms = edges_ms[-1]
    inner = np.clip(ACG_EDGES_MS, -reach_ms, reach_ms)
    mass = redistributed(filled, edges_ms, inner, logarithmic=False)
    widths = np.diff(inner)
    rate = np.divide(mass, widths, out=np.zeros_like(mass), where=widths > bin_ms / 1000)
    known = np.flatnonzero(widths > bin_ms / 1000)
    if reach_ms < ACG_EDGES_MS[-1]:
        rate[:, : known[0]], rate[:, known[-1] + 1 :] = rate[:, [known[0]]], rate[:, [known[-1]]]
        notes.append(
            f"{name}: {n_bins} bins of {bin_ms:g} ms reach to {reach_ms:g} ms; from there to 100 ms the last"
            " value is held."
        )
    mean = rate.mean(axis=1, keepdims=True)
    present = present & (mean[:, 0] > 0)
    result = np.divide(rate, mean, out=np.zeros_like(rate), where=present[:, None])
    return result.astype(np.float32), present, notes
