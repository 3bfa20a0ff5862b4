"""What a fitted model does at steps and at played stimuli that it was not fitted to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import FIXED_STEP_MS
from neurofleet.neurosim.cells.fit_model import SOMA, FitModel, location
from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
from neurofleet.neurosim.features.step_protocols import (
    AIS_FEATURE,
    TargetSet,
    group_sweeps,
    is_trained,
)
from neurofleet.neurosim.features.training_targets import TargetExtraction
from neurofleet.neurosim.recordings.current_step import NotAStep, find_step
from neurofleet.neurosim.recordings.recording import RecordingSource, bias_current, read_traces
from neurofleet.neurosim.recordings.recording_formats import open_entries
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, SweepFault, of_one_electrode
from neurofleet.neurosim.studies.cell_models import CellModels
from neurofleet.neurosim.studies.explained_variance import spike_times

AROUND_MS = 2.0
FEWEST_SPIKES = 3
RARE_PERCENT = 99.0


def played_current(current_nA: np.ndarray, spikes_ms: np.ndarray, rate_Hz: float) -> np.ndarray:
    """Return the current to play to a model for a recorded current.

    A square step is replaced by the step itself: its level, and the resting current outside of it. Any other
    current is played as it was recorded, if it moves at spikes no more than elsewhere.

    Parameters
    ----------
    current_nA : ndarray, shape (n,)
    spikes_ms : ndarray, shape (s,)
    rate_Hz : float

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    SweepFault
        The channel carries the cell's own spikes, and the current is no step.
    """
    try:
        step = find_step(current_nA, rate_Hz)
    except NotAStep:
        if _has_spikes_in_current(current_nA, spikes_ms, rate_Hz):
            raise SweepFault(
                "its current channel carries the cell's own spikes, which would show a model when to spike"
            ) from None
        return current_nA
    ideal = np.full(current_nA.size, step.rest_nA)
    ideal[step.start : step.last + 1] = step.level_nA
    return ideal


def _has_spikes_in_current(current_nA: np.ndarray, spikes_ms: np.ndarray, rate_Hz: float) -> bool:
    """Whether the current moves more around a typical spike than it does nearly anywhere else."""
    if len(spikes_ms) < FEWEST_SPIKES:
        return False
    half = max(1, round(AROUND_MS * rate_Hz / 1000.0))
    windows = np.lib.stride_tricks.sliding_window_view(current_nA, 2 * half + 1)[:: max(1, half // 2)]
    middles = np.arange(len(windows)) * max(1, half // 2) + half
    moves = np.ptp(windows, axis=1)
    at = np.round(spikes_ms * rate_Hz / 1000.0).astype(int)
    distance = np.abs(middles[:, None] - at).min(axis=1)
    elsewhere = moves[distance > 4 * half]
    near = [moves[np.abs(middles - spike).argmin()] for spike in at]
    return bool(elsewhere.size and np.median(near) > np.percentile(elsewhere, RARE_PERCENT))


NOISE = ("*noise*",)
NOT_STIMULI = ("*test*", "*search*", "*blowout*", "*bath*", "*seal*", "*breakin*", "*extp*")
SETTLING_MS, BEFORE_MS, AFTER_MS = 300.0, 100.0, 200.0
ALIKE = 0.99
"""Correlation from which on two currents are trials of one stimulus."""


@dataclass(frozen=True, eq=False)
class PlayedStimulus:
    """A recorded current, and the cell's responses at each of its trials.

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
        Time for which a model gets the first current before the recorded part begins.
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
    stimuli: list[PlayedStimulus] = []
    notes: list[str] = []
    with open_entries(source.path, source.current) as entries:
        entries = sorted(entries, key=lambda e: e.number)
        fitted = [e for e in entries if any(e.matches(pattern) for pattern in source.stimuli)]
        asked = set(map(id, fitted))
        used = of_one_electrode(fitted or entries, source.electrode, source.exclude, source.path)
        electrodes = {e.electrode for e in used}
        remaining = [
            e for e in entries if e.number not in source.exclude and e.electrode in electrodes and id(e) not in asked
        ]
        for name in dict.fromkeys(entry.stimulus_name for entry in remaining):
            family = [entry for entry in remaining if entry.stimulus_name == name]
            is_noise = _fits(name, noise)
            if not is_noise and not (_fits(name, others) if others else not _fits(name, NOT_STIMULI)):
                continue
            chosen = family if is_noise else _spread(family, sweeps_each)
            trials = _trials(chosen, source, threshold_mV, is_noise, notes)
            groups = [[trial] for trial in trials] if not is_noise else _alike(trials, name, notes)
            stimuli += [_stimulus(name, group, is_noise) for group in groups if group]
    return stimuli, notes


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
            current, voltage, rate_Hz = _read(entry, source, threshold_mV)
            part = _part_with_current(current, rate_Hz)
        except SweepFault as fault:
            notes.append(f"sweep {entry.number} ({entry.stimulus_name}) is left out: {fault}")
        else:
            read.append((entry.number, current, voltage, rate_Hz, part))
    if together and read:
        first, last = min(part[0] for *_, part in read), max(part[1] for *_, part in read)
        read = [(number, current, voltage, rate_Hz, (first, last)) for number, current, voltage, rate_Hz, _ in read]
    return [_trial(*of, threshold_mV) for of in read]


def _read(entry: SweepEntry, source: RecordingSource, threshold_mV: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return what is to be played of a sweep (nA), its voltage (mV) and their rate (Hz)."""
    current, voltage, rate_Hz = read_traces(entry)
    voltage = voltage - source.junction_potential_mV
    spikes = spike_times(np.arange(voltage.size) * (1000.0 / rate_Hz), voltage, threshold_mV)
    bias_nA, _ = bias_current(entry, float(np.median(current[: max(1, current.size // 50)])), source.bias_current)
    played = played_current(current, spikes, rate_Hz)
    return played + bias_nA if bias_nA else played, voltage, rate_Hz


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


NOT_OF_ALL_STEPS = (AIS_FEATURE, "depol_block")


def generalisation_targets(population: CellModels) -> TargetSet | None:
    """Return the targets at all steps of the trained stimuli that no stage was scored at.

    The e-features are those that the last stage was scored on, each where the recorded cell has it.

    Returns
    -------
    TargetSet or None
        None where there is no recording, or no such step.

    Raises
    ------
    InputError
        The recording cannot be read, or the models' targets are not known.
    """
    source = population.recording
    if source is None:
        return None
    recording = source.read()
    features = [
        name
        for name in dict.fromkeys(target.feature for target in population.model.targets.targets)
        if name not in NOT_OF_ALL_STEPS
    ]
    if not features:
        raise InputError(
            f"cell {population.cell}: which e-features its models were fitted to is not known. Give its "
            "targets (`targets:`, a folder with features.json and protocols.json)."
        )
    extraction, any_step = TargetExtraction(recording), False
    for protocol, sweeps in group_sweeps(recording):
        if not is_trained(protocol, population.trained):
            extraction.add(protocol, sweeps, features)
            any_step = True
    return extraction.target_set() if any_step else None


@dataclass(frozen=True)
class Validated:
    """The scores and responses of one model.

    Attributes
    ----------
    training, generalisation : ndarray, shape (M,) and (G,)
        Scores: distances from the targets in standard deviations, 250 at most and without a feature.
    spikes_ms : dict of str to ndarray
        Played stimulus -> spikes from the beginning of its recorded part.
    voltage_mV : dict of str to ndarray
        Played stimulus -> voltage at the soma in steps of `FIXED_STEP_MS`.
    """

    training: np.ndarray
    generalisation: np.ndarray
    spikes_ms: dict[str, np.ndarray]
    voltage_mV: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ValidationMeasure:
    """What the models of a cell are validated at.

    Attributes
    ----------
    model : FitModel
        With the targets that it was trained on, maybe none.
    generalisation : TargetSet or None
    stimuli : tuple of PlayedStimulus
    max_steps : int or None
        Integration steps that a model may take in all.
    """

    model: FitModel
    generalisation: "TargetSet | None"
    stimuli: tuple[PlayedStimulus, ...] = ()
    max_steps: int | None = None

    def build(self) -> Callable[[np.ndarray], Validated]:
        """Build the cell in NEURON and return what runs a model on it.

        Returns
        -------
        callable
            Parameter values, shape (P,) -> `Validated`. Raises `BudgetExceeded` and
            `IncompleteRun` of `cells.warm_evaluator`.
        """
        trained = self.model.targets
        scored = with_steps(self.model, self.generalisation) if self.generalisation else self.model
        warm = WarmEvaluator(scored.build_evaluator(), self.max_steps)
        warm.build()
        names = [target.objective for target in trained.targets]
        position = {name: i for i, name in enumerate(warm.objective_names)}
        train = [position[name] for name in names]
        rest = [i for name, i in position.items() if name not in names]
        played = {stimulus.name: _protocol(stimulus) for stimulus in self.stimuli}
        threshold_mV = self.model.targets.spike_threshold_mV

        def run(values: np.ndarray) -> Validated:
            scores = warm.evaluate(values) if position else np.empty(0)
            spikes, voltages = {}, {}
            for stimulus in self.stimuli:
                responses: Mapping[str, Any] = warm.responses(values, {stimulus.name: played[stimulus.name]})
                response = responses[f"{stimulus.name}.{SOMA}.v"]
                time_ms = np.asarray(response["time"], float) - stimulus.settling_ms
                voltage_mV = np.asarray(response["voltage"], float)
                spikes_ms = spike_times(time_ms, voltage_mV, threshold_mV)
                spikes[stimulus.name] = spikes_ms[spikes_ms >= 0]
                voltages[stimulus.name] = np.interp(stimulus.time_ms, time_ms, voltage_mV).astype(np.float32)
            return Validated(scores[train], scores[rest], spikes, voltages)

        return run


def with_steps(model: FitModel, more: "TargetSet") -> FitModel:
    """Return a model with the targets at more steps behind its own."""
    targets_before = model.targets
    targets = replace(
        targets_before,
        protocols={**targets_before.protocols, **more.protocols},
        targets=(*targets_before.targets, *more.targets),
    )
    return replace(model, targets=targets)


def _protocol(stimulus: PlayedStimulus) -> Any:
    """Return a BluePyOpt protocol in fixed steps that plays the current into the soma."""
    from bluepyopt import ephys

    soma = location(SOMA)
    middles = stimulus.settling_ms + stimulus.time_ms + FIXED_STEP_MS / 2
    times = np.concatenate([[0.0], middles])
    currents = np.concatenate([stimulus.current_nA[:1], stimulus.current_nA])
    played = ephys.stimuli.NrnCurrentPlayStimulus(times, currents, soma)
    played.total_duration = stimulus.settling_ms + stimulus.duration_ms - FIXED_STEP_MS
    recording = ephys.recordings.CompRecording(name=f"{stimulus.name}.{SOMA}.v", location=soma, variable="v")
    return ephys.protocols.SweepProtocol(stimulus.name, [played], [recording], cvode_active=False)
