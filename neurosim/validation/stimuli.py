"""Stimuli that a recording holds besides the trained steps, as currents to be played into a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from neurosim.population import RecordingSource
from neurosim.recordings import open_entries
from neurosim.simulator import FIXED_STEP_MS
from neurosim.sweep_entries import SweepEntry, SweepFault
from neurosim.validation.explained_variance import spike_times
from neurosim.validation.played_current import played_current

NOISE = ("*noise*",)
NO_STIMULI = ("*test*", "*search*", "*blowout*", "*bath*", "*seal*", "*breakin*", "*extp*")
SETTLING_MS, BEFORE_MS, AFTER_MS = 300.0, 100.0, 200.0
ALIKE = 0.99
"""Correlation from which on two currents are trials of one stimulus."""


@dataclass(frozen=True, eq=False)
class PlayedStimulus:
    """A recorded current, and what the cell did at each of its trials.

    Attributes
    ----------
    name : str
        Stimulus and first sweep.
    stimulus_name : str
    sweeps : tuple of int
        The trials.
    is_noise : bool
    current_nA : ndarray, shape (t,)
        Means over steps of `FIXED_STEP_MS`; the first of them lasts `settling_ms` more before time 0.
    settling_ms : float
        For which a model is given the first current before the recorded part begins.
    voltage_mV : ndarray, shape (t,)
        Of the first trial, at the same times.
    spikes_ms : tuple of ndarray
        Of each trial, from the beginning of the recorded part.
    """

    name: str
    stimulus_name: str
    sweeps: tuple[int, ...]
    is_noise: bool
    current_nA: np.ndarray
    settling_ms: float
    voltage_mV: np.ndarray
    spikes_ms: tuple[np.ndarray, ...]

    @property
    def duration_ms(self) -> float:
        """Of the recorded part."""
        return self.current_nA.size * FIXED_STEP_MS

    @property
    def time_ms(self) -> np.ndarray:
        """Of the recorded part, in steps."""
        return np.arange(self.current_nA.size) * FIXED_STEP_MS


@dataclass(frozen=True)
class _Trial:
    number: int
    current_nA: np.ndarray
    voltage_mV: np.ndarray
    spikes_ms: np.ndarray


def played_stimuli(
    source: RecordingSource,
    *,
    noise: Sequence[str] = NOISE,
    others: Sequence[str] | None = None,
    sweeps_each: int = 3,
    threshold_mV: float = -20.0,
) -> tuple[list[PlayedStimulus], list[str]]:
    """Read the stimuli of a recording that its fit was not allowed to train on.

    Parameters
    ----------
    source : RecordingSource
    noise : sequence of str
        Names or patterns of stimuli whose sweeps are trials of the same current; all of them are read.
    others : sequence of str, optional
        Names or patterns of further stimuli; by default whatever else there is but test pulses.
    sweeps_each : int
        Sweeps of each further stimulus, spread over their number.
    threshold_mV : float
        Of a spike.

    Returns
    -------
    list of PlayedStimulus
    list of str
        What was left out, and why.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    found: list[PlayedStimulus] = []
    notes: list[str] = []
    with open_entries(source.path) as entries:
        asked = [e for e in sorted(entries, key=lambda e: e.number) if e.number not in source.exclude]
        asked = [e for e in asked if not any(e.matches(pattern) for pattern in source.stimuli)]
        for name in dict.fromkeys(entry.stimulus_name for entry in asked):
            family = [entry for entry in asked if entry.stimulus_name == name]
            is_noise = _fits(name, noise)
            if not is_noise and not (_fits(name, others) if others else not _fits(name, NO_STIMULI)):
                continue
            chosen = family if is_noise else _spread(family, sweeps_each)
            trials = _trials(chosen, source, threshold_mV, is_noise, notes)
            groups = [[trial] for trial in trials] if not is_noise else _alike(trials, name, notes)
            found += [_stimulus(name, group, is_noise) for group in groups if group]
    return found, notes


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in patterns)


def _spread(entries: list[SweepEntry], number: int) -> list[SweepEntry]:
    if len(entries) <= number:
        return entries
    return [entries[i] for i in np.unique(np.linspace(0, len(entries) - 1, number).round().astype(int))]


def _trials(
    entries: Sequence[SweepEntry],
    source: RecordingSource,
    threshold_mV: float,
    together: bool,
    notes: list[str],
) -> list[_Trial]:
    """Read sweeps, cut to the part in which there is a current; `together` cuts all of them alike."""
    read = []
    for entry in entries:
        try:
            current, voltage, rate_Hz = _read(entry, source.junction_potential_mV, threshold_mV)
            part = _part_with_current(current, rate_Hz)
        except SweepFault as fault:
            notes.append(f"sweep {entry.number} ({entry.stimulus_name}) is left out: {fault}")
        else:
            read.append((entry.number, current, voltage, rate_Hz, part))
    if together and read:
        first, last = min(part[0] for *_, part in read), max(part[1] for *_, part in read)
        read = [(*of, (first, last)) for *of, _ in read]
    return [_trial(*of, threshold_mV) for of in read]


def _read(
    entry: SweepEntry, junction_potential_mV: float, threshold_mV: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return what is to be played of a sweep (nA), its voltage (mV) and their rate (Hz)."""
    current, voltage, rate_Hz = entry.read()
    finite = np.isfinite(current) & np.isfinite(voltage)
    end = int(finite.argmin()) if not finite.all() else finite.size
    if not end:
        raise SweepFault("no finite samples")
    current, voltage = current[:end], voltage[:end] - junction_potential_mV
    spikes = spike_times(np.arange(end) * (1000.0 / rate_Hz), voltage, threshold_mV)
    return played_current(current, spikes, rate_Hz), voltage, rate_Hz


def _trial(
    number: int,
    current_nA: np.ndarray,
    voltage_mV: np.ndarray,
    rate_Hz: float,
    part_ms: tuple[float, float],
    threshold_mV: float,
) -> _Trial:
    kept = slice(*(round(ms * rate_Hz / 1000.0) for ms in part_ms))
    current, voltage = current_nA[kept], voltage_mV[kept]
    spikes = spike_times(np.arange(voltage.size) * (1000.0 / rate_Hz), voltage, threshold_mV)
    return _Trial(number, _binned(current, rate_Hz), _binned(voltage, rate_Hz), spikes)


def _part_with_current(current_nA: np.ndarray, rate_Hz: float) -> tuple[float, float]:
    """Return from when to when, in ms, the current is not what it is at first, with margins."""
    away = np.abs(current_nA - np.median(current_nA[: max(1, current_nA.size // 50)]))
    moving = np.flatnonzero(away > max(0.05 * away.max(), 1e-6))
    if not moving.size:
        raise SweepFault("no current in it")
    start_ms, stop_ms = (1000.0 / rate_Hz * index for index in (moving[0], moving[-1]))
    return max(0.0, start_ms - BEFORE_MS), min(current_nA.size * 1000.0 / rate_Hz, stop_ms + AFTER_MS)


def _binned(values: np.ndarray, rate_Hz: float) -> np.ndarray:
    """Return means over steps of the simulation; values between samples where those are farther apart."""
    step = FIXED_STEP_MS * rate_Hz / 1000.0
    steps = int(values.size / step)
    if step <= 1:
        return np.interp(np.arange(steps) * step, np.arange(values.size), values)
    edges = np.minimum(np.round(np.arange(steps + 1) * step).astype(int), values.size)
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((total[edges[1:]] - total[edges[:-1]]) / np.diff(edges))


def _alike(trials: list[_Trial], name: str, notes: list[str]) -> list[list[_Trial]]:
    """Return the trials whose current is that of the first, as one group."""
    if not trials:
        return []
    first, group = trials[0], [trials[0]]
    for trial in trials[1:]:
        size = min(first.current_nA.size, trial.current_nA.size)
        r = np.corrcoef(first.current_nA[:size], trial.current_nA[:size])[0, 1]
        if r >= ALIKE and abs(size - first.current_nA.size) <= 0.01 * first.current_nA.size:
            group.append(trial)
        else:
            notes.append(
                f"sweep {trial.number} ({name}) is left out: its current is not that of sweep {first.number} "
                f"(correlation {r:.3f})"
            )
    return [group]


def _stimulus(name: str, group: Sequence[_Trial], is_noise: bool) -> PlayedStimulus:
    first = group[0]
    return PlayedStimulus(
        name=f"{name}_{first.number}",
        stimulus_name=name,
        sweeps=tuple(trial.number for trial in group),
        is_noise=is_noise,
        current_nA=first.current_nA,
        settling_ms=SETTLING_MS,
        voltage_mV=first.voltage_mV,
        spikes_ms=tuple(trial.spikes_ms for trial in group),
    )
