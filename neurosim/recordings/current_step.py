"""Find the current step in a recorded stimulus channel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK_MS = 1.0  # the step is first looked for in medians of this length, in which spikes that leak in vanish
NOISE_WINDOW_MS = 10.0
SMALLEST_STEP_NA = 0.0005  # below it a "step" is rounding of the file format
FLAT_FRACTION = 0.8  # of the step must sit at its level; the rest may be artefacts of spikes
ARTEFACT_BLOCKS, LONG_ARTEFACT_BLOCKS = 2, 5  # of a noisy channel, in which spikes leak in; long ones if they are low
FLICKER_BLOCKS = 5  # of a channel without noise, whose last digit may change
LOW_PULSE = 0.1  # of the step
LATER_PULSE = 0.2  # of the step: a pulse after it that is shorter may be a test pulse
LATER_PAUSE_MS = 100.0  # between the step and a test pulse after it
SAME_TIME_MS = 1.5
SHOWN_PULSES = 4
FEWEST_SWEEPS = 3  # that tell a pulse that stays from one that varies
ONE_OF_SEVERAL = "`window_ms: [FROM, TO]` of the cell reads the part of each sweep with the step that is meant"

AMPLITUDE_TOLERANCE_NA = 0.002
AMPLITUDE_TOLERANCE = 0.01  # of the amplitude: noisy channels repeat a large step less exactly


class NotAStep(ValueError):
    """The current is not one square step from a flat baseline; the message says what it is instead."""


@dataclass(frozen=True)
class Pulse:
    """A departure of the current from its resting level; times to the millisecond.

    Attributes
    ----------
    start_ms, stop_ms : float
    amplitude_nA : float
        Above the resting (holding) current.
    """

    start_ms: float
    stop_ms: float
    amplitude_nA: float

    @property
    def length_ms(self) -> float:
        return self.stop_ms - self.start_ms

    def is_repeat_of(self, other: "Pulse") -> bool:
        """Whether it has the times and the amplitude of a pulse in another sweep."""
        apart_ms = max(abs(self.start_ms - other.start_ms), abs(self.stop_ms - other.stop_ms))
        apart_nA = abs(self.amplitude_nA - other.amplitude_nA)
        return apart_ms <= SAME_TIME_MS and apart_nA <= amplitude_tolerance_nA(other.amplitude_nA)

    def __str__(self) -> str:
        amplitude_pA = f"{1000.0 * self.amplitude_nA:.1f}".removesuffix(".0")
        return f"{amplitude_pA} pA at {self.start_ms:.0f} to {self.stop_ms:.0f} ms"


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
    test_pulses : tuple of Pulse
        Short pulses apart from the step.
    stop : int or None
        Samples up to a test pulse after the step; None without one.
    """

    start: int
    last: int
    level_nA: float
    rest_nA: float
    noise_nA: float
    test_pulses: tuple[Pulse, ...] = ()
    stop: int | None = None

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


class SeveralSteps(NotAStep):
    """The current has several pulses, of which none is told to be the step.

    Attributes
    ----------
    pulses : tuple of Pulse
    longest : CurrentStep
    """

    def __init__(self, pulses: Sequence[Pulse], longest: CurrentStep) -> None:
        shown = ", ".join(map(str, pulses[:SHOWN_PULSES])) + (", …" if len(pulses) > SHOWN_PULSES else "")
        super().__init__(f"not a single step: {len(pulses)} pulses ({shown}); {ONE_OF_SEVERAL}")
        self.pulses, self.longest = tuple(pulses), longest


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


def find_step(current_nA: np.ndarray, rate_Hz: float, test_pulses: Sequence[Pulse] = ()) -> CurrentStep:
    """Find the square step in a current channel that may be noisy, offset or carry test pulses.

    The sweep must begin and end at one resting level. The longest departure from that level is the step. Pulses before
    it are test pulses if together they are shorter than half of it and each is followed by a pause of its own length
    or more; a single one after it if it is shorter than a fifth of it and begins 100 ms later or more. On a noiseless
    channel the result is the first and the last sample that differ from rest.

    Parameters
    ----------
    current_nA : (n,) array
        Current in nA, finite.
    rate_Hz : float
        Sampling rate.
    test_pulses : sequence of Pulse
        Pulses that are known to be test pulses, however long they are.

    Raises
    ------
    SeveralSteps
        For pulses of which none is told to be the step.
    NotAStep
        For an empty, cut-off, ramp or noise stimulus.
    """
    block = max(1, round(BLOCK_MS * rate_Hz / 1000.0))
    if current_nA.size < 10 * block:
        raise NotAStep(f"only {current_nA.size} samples long")
    noise = channel_noise(current_nA, rate_Hz)
    medians = np.median(_rows(current_nA, block), axis=1)
    threshold = max(SMALLEST_STEP_NA, 2.0 * noise)

    before, after = float(np.median(medians[:2])), float(np.median(medians[-2:]))
    if not np.any(np.abs(medians - before) > threshold):
        raise NotAStep(f"no current step found: the current stays at {before * 1000:.4g} pA")
    if abs(after - before) > threshold:
        raise NotAStep(
            f"the current ends at {after * 1000:.4g} pA but began at {before * 1000:.4g} pA: "
            "cut off during the step, or not a single step"
        )
    runs = _runs(np.abs(medians - 0.5 * (before + after)) > threshold)
    pulses = [_pulse(medians, *run, 0.5 * (before + after), 1000.0 * block / rate_Hz) for run in runs]
    known = [any(pulse.is_repeat_of(other) for other in test_pulses) for pulse in pulses]
    if all(known):
        raise NotAStep(f"no current step found: only a test pulse of {pulses[0]}")
    main = max((n for n, is_known in enumerate(known) if not is_known), key=lambda n: runs[n][1] - runs[n][0])
    first, stop = runs[main]

    # Now that the step is known roughly, take both levels from all of their samples.
    resting = np.ones(current_nA.size, dtype=bool)
    resting[max(0, first - 1) * block : (stop + 1) * block] = False
    rest = float(np.median(current_nA[resting]))
    inner = current_nA[first * block : stop * block]
    level = float(np.median(inner))
    amplitude = level - rest
    # An empty sweep of a noisy channel leaves a stray block or two: these must stand far above the noise.
    if abs(amplitude) < max(SMALLEST_STEP_NA, (5.0 if stop - first <= 2 else 2.0) * noise):
        raise NotAStep(f"no current step found (noise of the channel: {noise * 1000:.2g} pA)")
    others = [
        n
        for n, (pulse, run) in enumerate(zip(pulses, runs, strict=True))
        if n != main
        and (known[n] or _is_pulse(run[1] - run[0], abs(pulse.amplitude_nA / amplitude), noise / abs(amplitude)))
    ]
    listed = [pulses[n] for n in sorted([*others, main])]
    if not _are_test_pulses(pulses, main, [n for n in others if not known[n]]):
        raise SeveralSteps(listed, CurrentStep(first * block, stop * block - 1, level, rest, noise))
    _check_flat(medians[first:stop], level, max(3.0 * noise, 0.1 * abs(amplitude)))

    clipped = np.clip((current_nA - rest) / amplitude, 0.0, 1.0)
    reach = min(10 * block, (stop - first) * block // 2)  # wide enough to see past a spike at the edge
    start = _edge(clipped, first * block, reach)
    end = _edge(1.0 - clipped, stop * block, reach)
    if start == 0:
        raise NotAStep("the step is on from the first sample: no baseline before it")
    if end <= start:
        raise NotAStep(f"no current step found (noise of the channel: {noise * 1000:.2g} pA)")
    later = [runs[n][0] for n in others if n > main]
    cut = (min(later) - 1) * block if later else None
    return CurrentStep(start, end - 1, level, rest, noise, tuple(pulses[n] for n in others), cut)


def _is_pulse(blocks: int, height: float, noise: float) -> bool:
    """Whether a departure from rest was commanded, and is no spike that leaks in, flicker or drift.

    Parameters
    ----------
    blocks : int
        Its length.
    height, noise : float
        As parts of the height of the step.
    """
    if noise == 0:
        return height > LOW_PULSE or blocks > FLICKER_BLOCKS
    shortest = ARTEFACT_BLOCKS if height > 2.0 else LONG_ARTEFACT_BLOCKS
    return height > max(3.0 * noise, LOW_PULSE) and blocks > shortest


def repeated_pulses(sweeps: Sequence[Sequence[Pulse]]) -> list[Pulse]:
    """Return the pulses that are the same in all sweeps of a stimulus, where one other pulse varies between them.

    Parameters
    ----------
    sweeps : sequence of sequences of Pulse
        The pulses of each sweep.

    Returns
    -------
    list of Pulse
        Empty where nothing tells test pulses from steps.
    """
    common = [
        pulse
        for pulse in min(sweeps, key=len, default=())
        if all(any(other.is_repeat_of(pulse) for other in sweep) for sweep in sweeps)
    ]
    left = [[pulse for pulse in sweep if not any(pulse.is_repeat_of(one) for one in common)] for sweep in sweeps]
    varying = [pulses[0] for pulses in left if pulses]
    if not common or len(varying) < FEWEST_SWEEPS or any(len(pulses) > 1 for pulses in left):
        return []
    amplitudes = [pulse.amplitude_nA for pulse in varying]
    at_once = max(pulse.start_ms for pulse in varying) - min(pulse.start_ms for pulse in varying) <= SAME_TIME_MS
    differ = max(amplitudes) - min(amplitudes) > amplitude_tolerance_nA(max(amplitudes, key=abs))
    settled = all(_is_apart(one, step) for one in common for step in varying)
    return common if at_once and differ and settled else []


def _is_apart(pulse: Pulse, step: Pulse) -> bool:
    """Whether the cell has time to come back to rest between a test pulse and the step."""
    if pulse.start_ms > step.start_ms:
        return pulse.start_ms - step.stop_ms >= LATER_PAUSE_MS
    return step.start_ms - pulse.stop_ms >= pulse.length_ms


def _are_test_pulses(pulses: Sequence[Pulse], main: int, others: Sequence[int]) -> bool:
    step = pulses[main]
    earlier, later = ([pulses[n] for n in others if (n > main) == is_later] for is_later in (False, True))
    return (
        sum(pulse.length_ms for pulse in earlier) < 0.5 * step.length_ms
        and len(later) <= 1
        and all(pulse.length_ms < LATER_PULSE * step.length_ms for pulse in later)
        and all(_is_apart(pulse, step) for pulse in (*earlier, *later))
    )


def _pulse(medians: np.ndarray, first: int, stop: int, rest_nA: float, block_ms: float) -> Pulse:
    return Pulse(first * block_ms, stop * block_ms, float(np.median(medians[first:stop])) - rest_nA)


def _runs(departed: np.ndarray) -> list[tuple[int, int]]:
    """Runs of True blocks (first, one past the last), with gaps of up to 5 blocks closed."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], departed, [False]]).astype(int)))
    runs: list[tuple[int, int]] = []
    for first, stop in edges.reshape(-1, 2).tolist():
        if runs and first - runs[-1][1] <= min(5, runs[-1][1] - runs[-1][0]):
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((first, stop))
    return runs


def _check_flat(medians: np.ndarray, level: float, tolerance: float) -> None:
    """Refuse ramps, staircases, sines and noise: most of a step is at its level, and so are both ends."""
    at_level = np.abs(medians - level) <= tolerance
    tenth = max(1, medians.size // 10)
    ends = [np.median(medians[:tenth]), np.median(medians[-tenth:])]
    if at_level.mean() < FLAT_FRACTION or np.any(np.abs(np.array(ends) - level) > tolerance):
        raise NotAStep(
            f"not a square step: the current changes between {medians.min() * 1000:.4g} and "
            f"{medians.max() * 1000:.4g} pA while on (ramp, noise or several levels); {ONE_OF_SEVERAL}"
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
