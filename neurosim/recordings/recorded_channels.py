"""Make sweeps of the channels of an acquisition program: which is the voltage, and which current belongs to it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from neurofleet.neurosim.recordings.current_step import CurrentStep, NotAStep, SeveralSteps, channel_noise, find_step
from neurofleet.neurosim.recordings.sweep_entries import NOT_CURRENT_CLAMP, SweepEntry, SweepFault

_PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}
_NO_POTENTIAL = re.compile(r"stim|trig|ttl|sync|laser|light|opto|piezo|press|temp|command|cmd|\bAO\b|\bLED\b", re.I)
_UNIT_WORDS = {"volt": "V", "volts": "V", "ampere": "A", "amperes": "A", "amp": "A", "amps": "A"}
LEAST_RESPONSE_MV = 0.1  # to a step of 50 pA: 2 MOhm, less than any cell has
LEAST_TESTED_STEP_NA = 0.05
NEAR_COMMAND_MV = 3.0
SHORTEST_STEP_MS, SHORTEST_PAUSE_MS = 20, 100  # between which a continuous recording is cut


CurrentSource = Literal["command", "recorded"]


@dataclass(frozen=True, eq=False)
class RecordedChannel:
    """One channel of one sweep.

    Attributes
    ----------
    name, unit : str
        As the file gives them.
    rate_Hz : float
        Sampling rate.
    read : callable
        Returns the values, (n,), in `unit`; raises SweepFault.
    commanded : bool
        Calculated from the protocol, not recorded.
    """

    name: str
    unit: str
    rate_Hz: float
    read: Callable[[], np.ndarray]
    commanded: bool = False


@dataclass(frozen=True, eq=False)
class ChannelSweep:
    """All channels of one sweep.

    Attributes
    ----------
    number : int
    stimulus_names : tuple of str
        The stimulus first by its own name, then by others under which it may be asked for.
    channels : tuple of RecordedChannel
    cell : str
        The cell, where the file names it.
    fault : str
        Why the sweep cannot be used, where that is known without its data.
    no_current : str
        Why there is no command current, where the file says so.
    start_s : float or None
        When it begins, on the clock of the file.
    continuous : bool
        Recorded without gaps: each current step in it is a sweep of its own.
    """

    number: int
    stimulus_names: tuple[str, ...]
    channels: tuple[RecordedChannel, ...]
    cell: str = ""
    fault: str = ""
    no_current: str = ""
    start_s: float | None = None
    continuous: bool = False


def scale_of(unit: str) -> tuple[str, float] | None:
    """Return what a unit measures ("voltage" or "current") and its size in mV or nA; None for other units."""
    text = unit.strip().replace("\u00b5", "u").replace("\u03bc", "u")
    word = re.fullmatch(r"(milli|micro|nano|pico)?-?\s?(volts?|amperes?|amps?)", text.casefold())
    if word is not None:
        prefix = {"milli": "m", "micro": "u", "nano": "n", "pico": "p"}.get(word[1] or "", "")
        text = prefix + _UNIT_WORDS[word[2]]
    match = re.fullmatch(r"([munp]?)([VA])", text) or re.fullmatch(r"([munp])([va])", text)
    if match is None:
        return None
    prefix, letter = match[1], match[2].upper()
    return ("voltage", _PREFIXES[prefix] * 1e3) if letter == "V" else ("current", _PREFIXES[prefix] * 1e9)


def channel_entries(sweeps: Sequence[ChannelSweep], source: CurrentSource | None = None) -> list[SweepEntry]:
    """List the sweeps of a file, one entry for each voltage channel of each sweep.

    Parameters
    ----------
    sweeps : sequence of ChannelSweep
    source : "command" or "recorded", optional
        Which current is used; by default the command, with which a recorded current has to agree.
    """
    if source is not None:
        sweeps = [replace(sweep, channels=_of_source(sweep.channels, source)) for sweep in sweeps]
    return [entry for sweep in sweeps for part in _parts(sweep) for entry in _entries(part)]


def _of_source(channels: Sequence[RecordedChannel], source: CurrentSource) -> tuple[RecordedChannel, ...]:
    currents = {id(channel) for channel in _of_kind(channels, "current") if channel.commanded == (source == "recorded")}
    return tuple(channel for channel in channels if id(channel) not in currents)


def _parts(sweep: ChannelSweep) -> list[ChannelSweep]:
    """Cut a continuous recording midway between its current steps; its parts are numbered from 1."""
    currents = _of_kind(sweep.channels, "current") if sweep.continuous and not sweep.fault else []
    if len(currents) != 1:
        return [sweep]
    try:
        current = _values(currents[0], "current")
    except SweepFault:
        return [sweep]  # which says so when it is read
    ends = ends_of_parts(current, currents[0].rate_Hz)
    return [
        replace(
            sweep,
            number=number,
            channels=tuple(_part_of(channel, first, stop) for channel in sweep.channels),
            start_s=(sweep.start_s or 0.0) + first / currents[0].rate_Hz,
        )
        for number, (first, stop) in enumerate(pairwise([0, *ends]), start=1)
    ] or [sweep]


def _part_of(channel: RecordedChannel, first: int, stop: int) -> RecordedChannel:
    return replace(channel, read=lambda: channel.read()[first:stop])


def ends_of_parts(current_nA: np.ndarray, rate_Hz: float, rest_nA: float | None = None) -> list[int]:
    """Return one past the last sample of each part of a continuous recording that holds one current step.

    Parameters
    ----------
    current_nA : ndarray, shape (n,)
    rate_Hz : float
    rest_nA : float, optional
        The current between the steps; by default the median.
    """
    block = max(1, round(rate_Hz / 1000.0))
    usable = np.nan_to_num(current_nA[: current_nA.size // block * block])
    if not usable.size:
        return []
    medians = np.median(usable.reshape(-1, block), axis=1)
    away = np.abs(medians - (np.median(medians) if rest_nA is None else rest_nA))
    threshold = max(0.005, 4.0 * channel_noise(usable, rate_Hz), 0.05 * float(away.max()))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], away > threshold, [False]]).astype(int)))
    steps: list[list[int]] = []  # in blocks of a millisecond
    for first, stop in edges.reshape(-1, 2).tolist():
        if steps and first - steps[-1][1] < SHORTEST_PAUSE_MS:
            steps[-1][1] = stop
        else:
            steps.append([first, stop])
    steps = [step for step in steps if step[1] - step[0] >= SHORTEST_STEP_MS]
    return [(one[1] + other[0]) // 2 * block for one, other in pairwise(steps)] + [current_nA.size] * bool(steps)


def _entries(sweep: ChannelSweep) -> list[SweepEntry]:
    voltages = _potentials(sweep.channels)
    currents = _of_kind(sweep.channels, "current")
    if sweep.fault or not voltages:
        fault = sweep.fault or _no_voltage(sweep.channels, currents)
        return [_entry(sweep, "", _refusing(fault), fault)]
    several = len(voltages) > 1
    return [_entry(sweep, voltage.name if several else "", _reader(sweep, voltage, currents)) for voltage in voltages]


def _entry(sweep: ChannelSweep, electrode: str, read: Callable, fault: str = "") -> SweepEntry:
    names = list(dict.fromkeys(name for name in sweep.stimulus_names if name))
    return SweepEntry(
        number=sweep.number,
        stimulus_name=names[0],
        aliases=tuple(names[1:]),
        read=read,
        electrode=electrode,
        cell=sweep.cell,
        fault=fault,
        response_start_s=sweep.start_s,
        stimulus_start_s=sweep.start_s,
    )


def _refusing(fault: str) -> Callable:
    def read() -> tuple[np.ndarray, np.ndarray, float]:
        raise SweepFault(fault)

    return read


def _of_kind(channels: Sequence[RecordedChannel], kind: str) -> list[RecordedChannel]:
    scales = [scale_of(channel.unit) for channel in channels]
    return [channel for channel, scale in zip(channels, scales, strict=True) if scale is not None and scale[0] == kind]


def _potentials(channels: Sequence[RecordedChannel]) -> list[RecordedChannel]:
    """Recorded voltages, without triggers and the like where others are left."""
    recorded = [channel for channel in _of_kind(channels, "voltage") if not channel.commanded]
    return [channel for channel in recorded if not _NO_POTENTIAL.search(channel.name)] or recorded


def _no_voltage(channels: Sequence[RecordedChannel], currents: Sequence[RecordedChannel]) -> str:
    recorded = ", ".join(f"{c.name} in {c.unit or 'no unit'}" for c in channels if not c.commanded) or "no channel"
    text = f"{NOT_CURRENT_CLAMP}: no recorded channel is a voltage ({recorded})"
    if any(channel.commanded for channel in currents):
        text += ", although the command is a current: correct the channel's unit in the acquisition program"
    return text


def _reader(sweep: ChannelSweep, voltage: RecordedChannel, currents: Sequence[RecordedChannel]) -> Callable:
    """Return the function that reads one voltage channel and the current that belongs to it."""
    voltages = _potentials(sweep.channels)
    clamps = [channel for channel in _of_kind(sweep.channels, "voltage") if channel.commanded]
    commands, command_is_sure = _partners(voltage, voltages, [c for c in currents if c.commanded])
    recorded, recorded_is_sure = _partners(voltage, voltages, [c for c in currents if not c.commanded])

    def read() -> tuple[np.ndarray, np.ndarray, float]:
        if not commands and not recorded:
            reason = sweep.no_current
            if currents:
                reason = f"by its name, {_names(currents)} belongs to another channel than {voltage.name}, or to none"
            raise SweepFault(f"no current belongs to it{': ' + reason if reason else ''}")
        values = _values(voltage, "voltage")
        channel, current, step = _chosen_current([*commands, *recorded], voltage)
        for clamp in () if channel.commanded else clamps:
            command = _values(clamp, "voltage")
            if command.size == values.size and np.median(np.abs(command - values)) < NEAR_COMMAND_MV:
                raise SweepFault(f"{NOT_CURRENT_CLAMP}: {voltage.name} is what {clamp.name} commanded")
        if step is not None and not channel.commanded and _is_clamped(values, step, voltage.rate_Hz):
            raise SweepFault(f"{NOT_CURRENT_CLAMP}: {voltage.name} jumps within a millisecond, as in voltage clamp")
        sure = command_is_sure if channel.commanded else recorded_is_sure
        if step is not None and not sure:
            _check_partner(channel, step, voltage, values, [other for other in voltages if other is not voltage])
        return current, values, voltage.rate_Hz

    return read


def _partners(
    voltage: RecordedChannel, voltages: Sequence[RecordedChannel], currents: Sequence[RecordedChannel]
) -> tuple[list[RecordedChannel], bool]:
    """Return the currents that may belong to a voltage channel, and whether that is certain.

    Channels belong together by the numbers in their names, else by their order.
    """
    if len(voltages) == 1:
        return list(currents), True
    numbers = [_numbers(other.name) for other in voltages]
    unique = {number for number in numbers if numbers.count(number) == 1}
    own = [current for current in currents if _numbers(current.name) == _numbers(voltage.name)]
    if len(own) == 1 and _numbers(voltage.name) in unique:
        return own, True
    left = [current for current in currents if _numbers(current.name) not in unique]
    unnumbered = [
        other for other in voltages if not any(_numbers(current.name) == _numbers(other.name) for current in currents)
    ]
    if len(left) == len(unnumbered) and voltage in unnumbered:
        return [left[unnumbered.index(voltage)]], False
    if len(left) == 1 and len(currents) == 1:
        return left, False
    return [], False


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", name))


def _names(channels: Sequence[RecordedChannel]) -> str:
    return ", ".join(channel.name for channel in channels)


def _values(channel: RecordedChannel, kind: str) -> np.ndarray:
    """Return the values of a channel in mV or nA."""
    scale = scale_of(channel.unit)
    assert scale is not None
    assert scale[0] == kind
    return np.asarray(channel.read(), dtype=float) * scale[1]


def _chosen_current(
    candidates: Sequence[RecordedChannel], voltage: RecordedChannel
) -> tuple[RecordedChannel, np.ndarray, CurrentStep | None]:
    """Return the current to be believed: the first with a step; two steps that disagree are refused.

    The command comes before the recorded current, which has noise and, often, is connected to something else.
    """
    read: list[tuple[RecordedChannel, np.ndarray, CurrentStep | None]] = []
    faults = []
    for channel in candidates:
        if not np.isclose(channel.rate_Hz, voltage.rate_Hz, rtol=1e-6):
            faults.append(
                f"current ({channel.rate_Hz:g} Hz) and voltage ({voltage.rate_Hz:g} Hz) differ in sampling rate"
            )
            continue
        try:
            current = _values(channel, "current")
        except SweepFault as fault:
            faults.append(str(fault))
            continue
        finite = current[np.isfinite(current)]
        try:
            step = find_step(finite, channel.rate_Hz)
        except SeveralSteps as several:
            step = several.longest
        except NotAStep:
            step = None
        read.append((channel, current, step))
    if not read:
        raise SweepFault("; ".join(faults))
    with_step = [(channel, current, step) for channel, current, step in read if step is not None]
    if not with_step:
        return read[0]
    channel, current, step = with_step[0]
    for other, values, _ in read:
        level = _step_in(values, step)
        apart = abs(level - step.amplitude_nA)
        connected = abs(level) > 0.1 * abs(step.amplitude_nA)  # else it recorded something else
        if other is not channel and connected and apart > 0.1 * abs(step.amplitude_nA) + 0.005:
            raise SweepFault(
                f"{channel.name} {_verb(channel)} {step.amplitude_nA * 1e3:.4g} pA, but {other.name} {_verb(other)} "
                f"{level * 1e3:.4g} pA: a scale factor of the file is wrong; choose "
                "one with `current: command` or `current: recorded`"
            )
    return channel, current, step


def _step_in(current_nA: np.ndarray, step: CurrentStep) -> float:
    """What a current does during the step of another."""
    during = current_nA[step.start : step.last + 1]
    around = np.concatenate([current_nA[: step.start], current_nA[step.last + 1 :]])
    return float(np.nanmedian(during) - np.nanmedian(around)) if during.size and around.size else 0.0


def _verb(channel: RecordedChannel) -> str:
    return "commands" if channel.commanded else "recorded"


def _is_clamped(voltage_mV: np.ndarray, step: CurrentStep, rate_Hz: float) -> bool:
    """Return whether the voltage is a square step: at its level a millisecond after the edge, which no membrane is."""
    after = step.start + max(1, round(0.001 * rate_Hz))
    before = float(np.median(voltage_mV[max(0, step.start - round(0.005 * rate_Hz)) : step.start]))
    level = float(np.median(voltage_mV[step.start : step.last + 1]))
    inner = voltage_mV[after : step.last]
    if inner.size < 4 or abs(level - before) < 1.0:
        return False
    tenth = max(2, min(inner.size // 10, round(0.005 * rate_Hz)))
    return bool(np.all(np.abs(inner[:tenth] - level) < 0.05 * abs(level - before)))


def _check_partner(
    channel: RecordedChannel,
    step: CurrentStep,
    voltage: RecordedChannel,
    voltage_mV: np.ndarray,
    others: Sequence[RecordedChannel],
) -> None:
    """Refuse a current that does not move this voltage, or moves another channel's more.

    Raises
    ------
    SweepFault
    """
    if abs(step.amplitude_nA) < LEAST_TESTED_STEP_NA:
        return
    own = _response_mV(voltage_mV, step)
    if own < LEAST_RESPONSE_MV:
        raise SweepFault(
            f"{channel.name} steps by {step.amplitude_nA * 1e3:.4g} pA and {voltage.name} does not answer "
            f"({own:.2g} mV): the current belongs to another electrode"
        )
    for other in others:
        answer = _response_mV(_values(other, "voltage"), step)
        if answer > 2.0 * own:
            raise SweepFault(
                f"{channel.name} moves {other.name} by {answer:.3g} mV and {voltage.name} by {own:.3g} mV: "
                f"the current belongs to {other.name}"
            )


def _response_mV(voltage_mV: np.ndarray, step: CurrentStep) -> float:
    during = voltage_mV[step.start + (step.last - step.start) // 2 : step.last + 1]
    before = voltage_mV[max(0, step.start - during.size) : step.start]
    if not during.size or not before.size:
        return 0.0
    return abs(float(np.median(during) - np.median(before)))
