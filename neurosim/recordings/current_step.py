"""Find the current step in a recorded stimulus channel."""

from dataclasses import dataclass

import numpy as np

BLOCK_MS = 1.0  # the step is first looked for in medians of this length, in which spikes that leak in vanish
NOISE_WINDOW_MS = 10.0
SMALLEST_STEP_NA = 0.0005  # below it a "step" is rounding of the file format
FLAT_FRACTION = 0.8  # of the step must sit at its level; the rest may be artefacts of spikes


AMPLITUDE_TOLERANCE_NA = 0.002
AMPLITUDE_TOLERANCE = 0.01  # of the amplitude: noisy channels repeat a large step less exactly


class NotAStep(ValueError):
    """The current is not one square step from a flat baseline; the message says what it is instead."""


@dataclass(frozen=True)
class CurrentStep:
    """One square current step.

    Attributes
    ----------
    start, last : int
        First and last sample of the step.
    level_nA, rest_nA : float
        Current during the step and outside of it (medians).
    noise_nA : float
        Standard deviation of the channel's noise, 0 for a noiseless (commanded) channel.
    """

    start: int
    last: int
    level_nA: float
    rest_nA: float
    noise_nA: float

    @property
    def amplitude_nA(self) -> float:
        """Height of the step above the resting (holding) current."""
        return self.level_nA - self.rest_nA

    @property
    def edge_error(self) -> int:
        """Samples by which noise may have moved an edge: grows with (noise/amplitude) squared, 0 without."""
        if self.noise_nA == 0:
            return 0
        return 1 + int(np.ceil(16.0 * (self.noise_nA / self.amplitude_nA) ** 2))


def amplitude_tolerance_nA(amplitude_nA: float) -> float:
    """Difference up to which two step amplitudes count as equal: 2 pA or 1 %, whichever is more."""
    return max(AMPLITUDE_TOLERANCE_NA, AMPLITUDE_TOLERANCE * abs(amplitude_nA))


def channel_noise(current_nA: np.ndarray, rate_Hz: float) -> float:
    """Estimate the noise (nA, one standard deviation) from the quietest fifth of 10 ms windows.

    Windows are judged one by one so that a stimulus that itself fluctuates is not taken for noise.
    """
    length = max(4, round(NOISE_WINDOW_MS * rate_Hz / 1000.0))
    windows = _rows(current_nA, length)
    centre = np.median(windows, axis=1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(windows - centre), axis=1)
    return float(np.percentile(spread, 20))


def find_step(current_nA: np.ndarray, rate_Hz: float) -> CurrentStep:
    """Find the main square step in a current channel that may be noisy, offset or carry a test pulse.

    The sweep must begin and end at one resting level. The longest departure from that level is the
    step; shorter pulses (under half its length) before it are test pulses and are ignored. On a noiseless
    channel the result is the first and the last sample that differ from rest.

    Parameters
    ----------
    current_nA : (n,) array
        Current in nA, finite.
    rate_Hz : float
        Sampling rate.

    Raises
    ------
    NotAStep
        For an empty, cut-off, ramp, noise or many-pulse stimulus.
    """
    block = max(1, round(BLOCK_MS * rate_Hz / 1000.0))
    if current_nA.size < 10 * block:
        raise NotAStep(f"only {current_nA.size} samples long")
    noise = channel_noise(current_nA, rate_Hz)
    medians = np.median(_rows(current_nA, block), axis=1)
    threshold = max(SMALLEST_STEP_NA, 2.0 * noise)

    before, after = float(np.median(medians[:2])), float(np.median(medians[-2:]))
    if not np.any(np.abs(medians - before) > threshold):
        raise NotAStep(f"no step found: the current stays at {before * 1000:.4g} pA")
    if abs(after - before) > threshold:
        raise NotAStep(
            f"the current ends at {after * 1000:.4g} pA but began at {before * 1000:.4g} pA: "
            "cut off during the step, or not a single step"
        )
    first, stop = _main_run(np.abs(medians - 0.5 * (before + after)) > threshold)

    # Now that the step is known roughly, take both levels from all of their samples.
    resting = np.ones(current_nA.size, dtype=bool)
    resting[max(0, first - 1) * block : (stop + 1) * block] = False
    rest = float(np.median(current_nA[resting]))
    inner = current_nA[first * block : stop * block]
    level = float(np.median(inner))
    amplitude = level - rest
    # An empty sweep of a noisy channel leaves a stray block or two: these must stand far above the noise.
    if abs(amplitude) < max(SMALLEST_STEP_NA, (5.0 if stop - first <= 2 else 2.0) * noise):
        raise NotAStep(f"no step found above the channel's noise of {noise * 1000:.2g} pA")
    _check_flat(medians[first:stop], level, max(3.0 * noise, 0.1 * abs(amplitude)))

    clipped = np.clip((current_nA - rest) / amplitude, 0.0, 1.0)
    reach = min(10 * block, (stop - first) * block // 2)  # wide enough to see past a spike at the edge
    start = _edge(clipped, first * block, reach)
    end = _edge(1.0 - clipped, stop * block, reach)
    if start == 0:
        raise NotAStep("the step is on from the first sample: no baseline before it")
    if end <= start:
        raise NotAStep(f"no step found above the channel's noise of {noise * 1000:.2g} pA")
    return CurrentStep(start, end - 1, level, rest, noise)


def _main_run(departed: np.ndarray) -> tuple[int, int]:
    """Longest run of True blocks (first, one past the last), with gaps of up to 5 blocks closed."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], departed, [False]]).astype(int)))
    runs: list[list[int]] = []
    for first, stop in edges.reshape(-1, 2).tolist():
        if runs and first - runs[-1][1] <= min(5, runs[-1][1] - runs[-1][0]):
            runs[-1][1] = stop
        else:
            runs.append([first, stop])
    lengths = np.array([stop - first for first, stop in runs])
    main = int(np.argmax(lengths))
    # A stray artefact is a block or two long; anything longer than that is a pulse of its own.
    rivals = lengths > np.maximum(2, np.where(np.arange(len(runs)) < main, 0.5, 0.2) * lengths[main])
    rivals[main] = False
    if rivals.any():
        raise NotAStep(f"not a single step: {int(rivals.sum()) + 1} pulses of comparable length")
    return runs[main][0], runs[main][1]


def _check_flat(medians: np.ndarray, level: float, tolerance: float) -> None:
    """Refuse ramps, staircases, sines and noise: most of a step is at its level, and so are both ends."""
    at_level = np.abs(medians - level) <= tolerance
    tenth = max(1, medians.size // 10)
    ends = [np.median(medians[:tenth]), np.median(medians[-tenth:])]
    if at_level.mean() < FLAT_FRACTION or np.any(np.abs(np.array(ends) - level) > tolerance):
        raise NotAStep(
            f"not a square step: the current changes between {medians.min() * 1000:.4g} and "
            f"{medians.max() * 1000:.4g} pA while on (ramp, noise or several levels)"
        )


def _edge(rising: np.ndarray, near: int, reach: int) -> int:
    """First sample of the upper level of a 0-to-1 edge near an index, by least squares."""
    low, high = max(0, near - reach), min(rising.size, near + reach)
    window = rising[low:high]
    # cost of the edge at k, up to a constant: squares before k against 0, from k on against 1
    gain = np.concatenate([[0.0], np.cumsum(window**2 - (window - 1.0) ** 2)])
    return low + int(np.argmin(gain))


def _rows(values: np.ndarray, length: int) -> np.ndarray:
    """Cut into rows of `length` samples; a last incomplete row is left out."""
    rows = max(1, values.size // length)
    return values[: rows * length].reshape(rows, -1)
