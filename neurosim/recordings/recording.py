"""Read patch-clamp recordings as sweeps of one current step each, in nA, mV and ms."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.current_step import (
    CurrentStep,
    NotAStep,
    Pulse,
    SeveralSteps,
    find_step,
    repeated_pulses,
)
from neurofleet.neurosim.recordings.recorded_channels import CurrentSource
from neurofleet.neurosim.recordings.recorded_spikes import SPIKE_THRESHOLD_MV, choose_threshold
from neurofleet.neurosim.recordings.recording_checks import (
    impossible,
    inner_shapes,
    left_out_warning,
    odd_about,
    rate_fault,
    step_spikes,
)
from neurofleet.neurosim.recordings.recording_formats import open_entries
from neurofleet.neurosim.recordings.recording_table import RecordingTable, SweepRow, listed_sweeps
from neurofleet.neurosim.recordings.sweep import Sweep
from neurofleet.neurosim.recordings.sweep_entries import (
    NOT_CURRENT_CLAMP,
    SweepEntry,
    SweepFault,
    of_one_electrode,
    select_entries,
)

HIGHEST_RATE_HZ = 40_000.0
PLAUSIBLE_VOLTAGE_MV = 500.0
SMALLEST_VOLTAGE_MV = 5.0  # no sweep of a cell stays so near 0
PLAUSIBLE_CURRENT_NA = 100.0
PLAUSIBLE_BIAS_NA = 10.0
SAME_BIAS_NA, SAME_BIAS = 0.001, 0.05  # differences up to which the recorded current holds the bias current
TOGETHER_S = 0.001
SHOWN_STIMULI = 8


@dataclass(frozen=True)
class LeftOut:
    """A sweep that was asked for and cannot be used."""

    number: int
    stimulus_name: str
    electrode: str
    reason: str


@dataclass(frozen=True)
class Recording:
    """The usable sweeps of one file, and what was found about all that were asked for.

    Attributes
    ----------
    path : Path
    sweeps : tuple of Sweep
        In order of sweep number.
    left_out : tuple of LeftOut
        Sweeps that were asked for but cannot be used, in order of sweep number.
    spike_threshold_mV : float
        Voltage that a spike rises above.
    notes, warnings : tuple of str
        What was done, and what looks odd.
    """

    path: Path
    sweeps: tuple[Sweep, ...]
    left_out: tuple[LeftOut, ...] = ()
    spike_threshold_mV: float = SPIKE_THRESHOLD_MV
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def refused(self) -> dict[int, str]:
        """Sweep number -> why it cannot be used."""
        return {sweep.number: sweep.reason for sweep in self.left_out}

    @property
    def table(self) -> RecordingTable:
        """Each sweep that was asked for: its step, spikes and rest, and whether it can be used."""
        rows = [self._row(sweep) for sweep in self.sweeps]
        rows += [SweepRow(s.number, s.stimulus_name, s.electrode, left_out=s.reason) for s in self.left_out]
        rates = sorted({sweep.sampling_rate_Hz for sweep in self.sweeps})
        electrodes = sorted({sweep.electrode for sweep in self.sweeps} - {""})
        about = [f"electrode {', '.join(electrodes)}"] if electrodes else []
        about += [" and ".join(f"{rate / 1000:g}" for rate in rates) + " kHz"] if rates else []
        rows.sort(key=lambda row: row.sweep)
        return RecordingTable(self.path.name, tuple(rows), ", ".join(about), self.notes, self.warnings)

    def _row(self, sweep: Sweep) -> SweepRow:
        spikes = step_spikes(sweep, self.spike_threshold_mV)
        kind = "spiking" if spikes.during.size else "active outside of the step" if spikes.outside else "silent"
        return SweepRow(
            sweep.number,
            sweep.stimulus_name,
            sweep.electrode,
            amplitude_pA=1000.0 * sweep.amplitude_nA,
            start_ms=sweep.start_ms,
            stop_ms=sweep.stop_ms,
            holding_pA=1000.0 * sweep.holding_nA,
            rest_mV=sweep.rest_mV,
            spikes=spikes.during.size,
            spikes_outside=spikes.outside,
            used_for=(kind,),
        )

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


BiasCurrent = Literal["add", "ignore"]


@dataclass(frozen=True)
class RecordingSource:
    """Where the recording of a cell is, and how it is read.

    Attributes
    ----------
    path : Path
    junction_potential_mV : float
        Liquid-junction potential, subtracted from the recorded voltage.
    stimuli : tuple of str
        Names or shell patterns (case is ignored) of the stimuli that are used.
    exclude : tuple of int
        Numbers of sweeps to leave out.
    electrode : str, optional
        Name or pattern of the electrode, where the file has several.
    bias_current : "add" or "ignore", optional
        What is done about a bias current that the file has; by default it is added, unless the recorded current has
        the same value outside of the step and so holds it already.
    spike_threshold_mV : float, optional
        Voltage that a spike rises above; by default -20 mV, or lower for a cell whose spikes are small.
    current : "command" or "recorded", optional
        Which current is used of a file that has both, such as ABF; by default the command, with which the recorded
        one has to agree.
    window_ms : (float, float), optional
        The part of each sweep that is read, where a sweep has several steps; times count from its beginning.
    """

    path: Path
    junction_potential_mV: float = 14.0
    stimuli: tuple[str, ...] = ("Long Square",)
    exclude: tuple[int, ...] = ()
    electrode: str | None = None
    bias_current: BiasCurrent | None = None
    spike_threshold_mV: float | None = None
    current: CurrentSource | None = None
    window_ms: tuple[float, float] | None = None

    def read(self) -> Recording:
        """Read the sweeps.

        Raises
        ------
        InputError
            When the file cannot be read, a stimulus name matches nothing, sweeps of several electrodes match and none
            was named, no sweep is usable, or the sweeps together are impossible.
        """
        recording, fault = self._look()
        if not recording.sweeps:
            reasons = Counter(recording.refused.values()).most_common(4)
            listed = "; ".join(f"{reason} ({count} sweeps)" for reason, count in reasons)
            others = all(reason.startswith(NOT_CURRENT_CLAMP) for reason in recording.refused.values())
            raise InputError(
                f"{self.path}: no usable sweep among the {len(recording.left_out)} that match "
                f"{_quoted(self.stimuli)}; expected current-clamp sweeps with one square step each, found: {listed}. "
                + ("A fit needs recordings in current clamp: name other stimuli or another file." if others else "")
                + ("" if others else "Name other stimuli, or repair the file.")
            )
        if fault:
            raise InputError(f"{self.path}: {fault}. Correct the file, or leave sweeps out with `exclude_sweeps:`.")
        return recording

    def look(self) -> Recording:
        """Read the sweeps as `read` does, whatever they are: what `read` refuses is a warning here."""
        recording, fault = self._look()
        return replace(recording, warnings=(fault, *recording.warnings)) if fault else recording

    def _look(self) -> tuple[Recording, str]:
        """Return the recording, and why its sweeps together are impossible."""
        with open_entries(self.path, self.current) as entries:
            if unknown := sorted(set(self.exclude) - {entry.number for entry in entries}):
                raise InputError(f"{self.path}: no sweeps numbered {unknown} to leave out. Correct the numbers.")
            matching = select_entries(entries, self.stimuli, self.path)
            selected = of_one_electrode(matching, self.electrode, self.exclude, self.path)
            faults = _faults(selected, self.exclude)
            outcomes = [self._read_sweep(entry, faults.get(entry.number, "")) for entry in selected]
            test_pulses = _test_pulses(selected, outcomes)
            for n, (entry, outcome) in enumerate(zip(selected, outcomes, strict=True)):
                if _needs(test_pulses.get(entry.stimulus_name, ()), outcome):
                    outcomes[n] = self._read_sweep(entry, "", test_pulses[entry.stimulus_name])
            asked = set(map(id, matching))
            others = Counter(e.stimulus_name for e in entries if id(e) not in asked and not e.fault)
        found = {outcome.sweep.number: outcome for outcome in outcomes if isinstance(outcome, _Found)}
        left_out = [
            LeftOut(entry.number, entry.stimulus_name, entry.electrode, str(outcome))
            for entry, outcome in zip(selected, outcomes, strict=True)
            if not isinstance(outcome, _Found)
        ]
        steps = {number: one.step for number, one in found.items()}
        sweeps = _agree_on_timing([one.sweep for one in found.values()], steps, left_out)
        sweeps.sort(key=lambda sweep: sweep.number)
        left_out.sort(key=lambda sweep: sweep.number)
        shapes = {sweep.number: inner_shapes(sweep) for sweep in sweeps}
        heights = choose_threshold(shapes.values())
        threshold_mV = heights.threshold_mV if self.spike_threshold_mV is None else self.spike_threshold_mV
        lost = [sweep.reason for sweep in left_out if sweep.number not in self.exclude]
        warnings = [left_out_warning(lost, len(lost) + len(sweeps))] if sweeps else []
        warnings += odd_about(sweeps, shapes, heights, threshold_mV) if sweeps else []
        told_of_sweeps = {number: (one.bias, *map(_told, one.step.test_pulses)) for number, one in found.items()}
        notes = tuple(_notes(told_of_sweeps, others, self.window_ms))
        told = tuple(filter(None, warnings))
        recording = Recording(self.path, tuple(sweeps), tuple(left_out), threshold_mV, notes, told)
        return recording, impossible(sweeps, shapes)

    def _read_sweep(
        self, entry: SweepEntry, fault: str, test_pulses: Sequence[Pulse] = ()
    ) -> "_Found | SweepFault | NotAStep":
        """Read, check and trim one sweep, or return why it cannot be used."""
        try:
            if fault:
                raise SweepFault(fault)
            current, voltage, rate = _window(*read_traces(entry), self.window_ms)
            step = find_step(current, rate, test_pulses)
            current, voltage = current[: step.stop], voltage[: step.stop]
            _check_voltage(voltage, step, rate)
            bias_nA, note = bias_current(entry, step.rest_nA, self.bias_current)
        except (SweepFault, NotAStep) as reason:
            return reason
        sweep = _sweep(entry, current, voltage - self.junction_potential_mV, rate, step)
        if bias_nA:
            sweep = replace(
                sweep,
                current_nA=sweep.current_nA + bias_nA,
                holding_nA=sweep.holding_nA + bias_nA,
                bias_current_nA=bias_nA,
            )
        return _Found(sweep, step, note)


@dataclass(frozen=True)
class _Found:
    """A usable sweep, its step, and a note on its bias current."""

    sweep: Sweep
    step: CurrentStep
    bias: str

    @property
    def pulse(self) -> Pulse:
        return Pulse(self.sweep.start_ms, self.sweep.stop_ms, self.sweep.amplitude_nA)


_Outcome = _Found | SweepFault | NotAStep


def _test_pulses(entries: Sequence[SweepEntry], outcomes: Sequence[_Outcome]) -> dict[str, list[Pulse]]:
    """Stimulus name -> the pulses that its sweeps share, where some of them have several."""
    pulses: dict[str, list[Sequence[Pulse]]] = {}
    for entry, outcome in zip(entries, outcomes, strict=True):
        if isinstance(outcome, SeveralSteps):
            pulses.setdefault(entry.stimulus_name, []).append(outcome.pulses)
        elif isinstance(outcome, _Found):
            pulses.setdefault(entry.stimulus_name, []).append((*outcome.step.test_pulses, outcome.pulse))
    several = {name: found for name, found in pulses.items() if max(map(len, found)) > 1}
    return {name: shared for name, found in several.items() if (shared := repeated_pulses(found))}


def _needs(test_pulses: Sequence[Pulse], outcome: _Outcome) -> bool:
    """Whether a sweep is to be read again, now that its test pulses are known."""
    if isinstance(outcome, _Found):
        return any(outcome.pulse.is_repeat_of(pulse) for pulse in test_pulses)
    return bool(test_pulses) and isinstance(outcome, SeveralSteps)


def _told(pulse: Pulse) -> str:
    return f"test pulse of {pulse}: models do not get it"


def _window(
    current_nA: np.ndarray, voltage_mV: np.ndarray, rate_Hz: float, window_ms: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Cut a sweep to the part that was asked for."""
    if window_ms is not None:
        first, stop = (round(ms * rate_Hz / 1000.0) for ms in window_ms)
        if stop > current_nA.size:
            lasts_ms = 1000.0 * current_nA.size / rate_Hz
            raise SweepFault(f"it lasts {lasts_ms:.4g} ms, and `window_ms:` ends at {window_ms[1]:.4g} ms")
        current_nA, voltage_mV = current_nA[first:stop], voltage_mV[first:stop]
    return current_nA, voltage_mV, rate_Hz


def electrode_names(path: Path) -> tuple[str, ...]:
    """Return the electrodes that recorded in current clamp; raises as `open_entries` does."""
    with open_entries(path) as entries:
        return tuple(sorted({entry.electrode for entry in entries if not entry.fault}))


def read_recording(
    path: Path | str,
    *,
    junction_potential_mV: float = 14.0,
    stimuli: Sequence[str] = ("Long Square",),
    exclude: Collection[int] = (),
    electrode: str | None = None,
) -> Recording:
    """Read the step sweeps of a recording, as `RecordingSource.read` does."""
    return RecordingSource(Path(path), junction_potential_mV, tuple(stimuli), tuple(exclude), electrode).read()


def _faults(entries: Sequence[SweepEntry], exclude: Collection[int]) -> dict[int, str]:
    """Sweep number -> why it cannot be used, where that is seen without its data."""
    faults = {}
    sharing = Counter(entry.number for entry in entries)
    clocks = [entry for entry in entries if not entry.fault]
    told = all(
        len({getattr(entry, side) for entry in clocks} - {None}) == len(clocks) > 1
        for side in ("response_start_s", "stimulus_start_s")
    )
    for entry in entries:
        late_s = (entry.stimulus_start_s or 0.0) - (entry.response_start_s or 0.0)
        if entry.number in exclude:
            faults[entry.number] = "left out on request"
        elif entry.fault:
            faults[entry.number] = entry.fault
        elif sharing[entry.number] > 1:
            faults[entry.number] = f"{sharing[entry.number]} recordings share this sweep number"
        elif told and abs(late_s) > TOGETHER_S:
            faults[entry.number] = (
                f"its current begins {abs(late_s) * 1000:.4g} ms {'after' if late_s > 0 else 'before'} its voltage by "
                "their start times, expected both at once"
            )
    return faults


def _notes(
    told: Mapping[int, Sequence[str]], others: Mapping[str, int], window_ms: tuple[float, float] | None
) -> Iterator[str]:
    if window_ms is not None:
        yield f"read from {window_ms[0]:.4g} to {window_ms[1]:.4g} ms of each sweep; times count from there"
    for text in dict.fromkeys(text for texts in told.values() for text in texts if text):
        yield f"{text} ({listed_sweeps(sorted(number for number, texts in told.items() if text in texts))})"
    if others:
        listed = ", ".join(f'"{name}" ({count})' for name, count in list(others.items())[:SHOWN_STIMULI])
        more = f" and {len(others) - SHOWN_STIMULI} more" if len(others) > SHOWN_STIMULI else ""
        yield f"not asked for: {listed}{more}"


def read_traces(entry: SweepEntry) -> tuple[np.ndarray, np.ndarray, float]:
    """Read and check current (nA), voltage (mV) and rate (Hz) of one sweep; the bias current is not added.

    Raises
    ------
    SweepFault
        They cannot be used.
    """
    if entry.fault:
        raise SweepFault(entry.fault)
    current, voltage, rate = entry.read()
    if fault := rate_fault(rate):
        raise SweepFault(fault)
    if current.size != voltage.size:
        raise SweepFault(f"current and voltage differ in length ({current.size} and {voltage.size} samples)")
    return *_without_tail_gap(current, voltage), rate


def bias_current(entry: SweepEntry, rest_nA: float, wanted: BiasCurrent | None) -> tuple[float, str]:
    """Return what is to be added to the recorded current (nA), and a note on it.

    Parameters
    ----------
    entry : SweepEntry
    rest_nA : float
        Recorded current outside of the step.
    wanted : "add" or "ignore", optional
        By default the bias current is added unless the recorded current holds it already.

    Raises
    ------
    SweepFault
        The bias current is in another unit.
    """
    bias_nA = entry.bias_current_nA or 0.0
    if bias_nA == 0.0:
        return 0.0, ""
    if abs(bias_nA) > PLAUSIBLE_BIAS_NA:
        raise SweepFault(f"a bias current of {bias_nA:.4g} nA: the file has it in another unit than amperes")
    told = f"bias current of the amplifier, {1000 * bias_nA:.4g} pA"
    if wanted == "ignore":
        return 0.0, f"{told}: ignored, as the job asks"
    if wanted is None and abs(rest_nA - bias_nA) <= max(SAME_BIAS_NA, SAME_BIAS * abs(bias_nA)):
        return 0.0, f"{told}: the recorded current has it already outside of the step, so it is not added again"
    return bias_nA, f"{told}: added to the holding current"


def _sweep(
    entry: SweepEntry, current_nA: np.ndarray, voltage_mV: np.ndarray, rate_Hz: float, step: CurrentStep
) -> Sweep:
    """Return a sweep, at a rate of 40 kHz or less."""
    stride = int(np.ceil(rate_Hz / HIGHEST_RATE_HZ - 1e-9))
    kept = np.arange(0, voltage_mV.size, stride)
    if kept[-1] != voltage_mV.size - 1:
        kept = np.append(kept, voltage_mV.size - 1)
    return Sweep(
        number=entry.number,
        stimulus_name=entry.stimulus_name,
        sampling_rate_Hz=rate_Hz / stride,
        current_nA=current_nA[kept],
        voltage_mV=voltage_mV[kept],
        start_ms=step.start * 1000.0 / rate_Hz,
        stop_ms=step.last * 1000.0 / rate_Hz,
        amplitude_nA=step.amplitude_nA,
        holding_nA=_holding(current_nA, step, rate_Hz),
        duration_ms=(voltage_mV.size - 1) * 1000.0 / rate_Hz,
        electrode=entry.electrode,
        bridge_balance_MOhm=entry.bridge_balance_MOhm,
        access_resistance_MOhm=entry.access_resistance_MOhm,
    )


def _without_tail_gap(current_nA: np.ndarray, voltage_mV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop the missing values that some acquisition programs append; refuse gaps elsewhere."""
    finite = np.isfinite(current_nA) & np.isfinite(voltage_mV)
    if not finite.any():
        raise SweepFault("no finite samples")
    end = int(np.flatnonzero(finite)[-1]) + 1
    if not finite[:end].all():
        missing = int((~finite[:end]).sum())
        raise SweepFault(f"{missing} sample{'s are' if missing > 1 else ' is'} NaN or infinite")
    return current_nA[:end], voltage_mV[:end]


def _check_voltage(voltage_mV: np.ndarray, step: CurrentStep, rate_Hz: float) -> None:
    """Refuse voltages that no cell has; units, dead channels and sweeps that stop early show here."""
    lowest, highest = float(voltage_mV.min()), float(voltage_mV.max())
    if max(-lowest, highest) < SMALLEST_VOLTAGE_MV:
        raise SweepFault(f"voltage between {lowest:.4g} and {highest:.4g} mV: the file's unit or `conversion` is wrong")
    if max(-lowest, highest) > PLAUSIBLE_VOLTAGE_MV:
        raise SweepFault(f"voltage between {lowest:.4g} and {highest:.4g} mV: the file's unit or `conversion` is wrong")
    if max(abs(step.level_nA), abs(step.rest_nA)) > PLAUSIBLE_CURRENT_NA:
        raise SweepFault(f"current of {step.level_nA:.4g} nA: the file's unit or `conversion` is wrong")
    if lowest == highest:
        raise SweepFault(f"the voltage is {lowest:.4g} mV throughout: nothing was recorded")
    nonzero = np.flatnonzero(voltage_mV)
    padding = voltage_mV.size - 1 - int(nonzero[-1])
    if padding > 0.005 * rate_Hz:
        raise SweepFault(f"truncated: the last {padding * 1000.0 / rate_Hz:.4g} ms of the voltage are zeros")


def _holding(current_nA: np.ndarray, step: CurrentStep, rate_Hz: float) -> float:
    """Holding current: mean 25 to 500 ms after the step where the sweep is that long, else the resting level.

    The window is the samples 1,000 to 20,000 after the step at 40 kHz.
    """
    low, high = (step.last + round(seconds * rate_Hz) for seconds in (0.025, 0.5))
    holding = float(np.mean(current_nA[low:high])) if high <= current_nA.size else step.rest_nA
    return holding if abs(holding) > step.noise_nA else 0.0


def _agree_on_timing(sweeps: list[Sweep], steps: dict[int, CurrentStep], left_out: list[LeftOut]) -> list[Sweep]:
    """Correct edges that a noisy current channel blurs, and drop sweeps in which only a test pulse was found.

    An edge moves to the commonest time among the sweeps with no more noise, within its error. A pulse shorter
    than a tenth of the usual length of its stimulus is a test pulse before a step of 0 pA.
    """
    steady = []
    lengths_ms: dict[str, list[float]] = {}
    for sweep in sweeps:
        lengths_ms.setdefault(sweep.stimulus_name, []).append(sweep.stop_ms - sweep.start_ms)
    usual = {name: float(np.median(lengths)) for name, lengths in lengths_ms.items()}
    for sweep in sweeps:
        usual_ms = usual[sweep.stimulus_name]
        length_ms = sweep.stop_ms - sweep.start_ms
        if length_ms < 0.1 * usual_ms:
            reason = f"no step found: only a pulse of {length_ms:.4g} ms, where the others last {usual_ms:.4g} ms"
            left_out.append(LeftOut(sweep.number, sweep.stimulus_name, sweep.electrode, reason))
        else:
            steady.append(sweep)
    errors = np.array([steps[sweep.number].edge_error for sweep in steady])
    edges = {edge: np.array([getattr(sweep, edge) for sweep in steady]) for edge in ("start_ms", "stop_ms")}
    return [_settled(sweep, steps[sweep.number], errors, edges) for sweep in steady]


def _settled(sweep: Sweep, step: CurrentStep, errors: np.ndarray, edges_ms: Mapping[str, np.ndarray]) -> Sweep:
    """The sweep with its edges at the commonest nearby times of the sweeps that are at least as clear."""
    if step.edge_error == 0:
        return sweep
    within_ms = (step.edge_error + 0.5) * sweep.start_ms / step.start
    times = {}
    for edge, all_ms in edges_ms.items():
        near_ms = all_ms[(errors <= step.edge_error) & (np.abs(all_ms - getattr(sweep, edge)) <= within_ms)]
        times[edge] = Counter(near_ms.tolist()).most_common(1)[0][0]
    return replace(sweep, **times)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
