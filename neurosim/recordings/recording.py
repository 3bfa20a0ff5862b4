"""Read patch-clamp recordings as sweeps of one current step each, in nA, mV and ms."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.current_step import CurrentStep, NotAStep, find_step
from neurofleet.neurosim.recordings.recording_formats import open_entries
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, SweepFault, of_one_electrode, select_entries

HIGHEST_RATE_HZ = 40_000.0
PLAUSIBLE_VOLTAGE_MV = 500.0
PLAUSIBLE_CURRENT_NA = 100.0


@dataclass(frozen=True, eq=False)
class Sweep:
    """One current-clamp sweep with a single square step.

    Attributes
    ----------
    number : int
        Sweep number in the file.
    stimulus_name : str
        The stimulus as the file names it.
    sampling_rate_Hz : float
        Rate of the kept samples (at most 40 kHz).
    current_nA, voltage_mV : (n,) arrays
        Recorded current (holding included), and voltage with the liquid-junction potential subtracted.
    start_ms, stop_ms : float
        First and last sample of the step.
    amplitude_nA : float
        Height of the step above the holding current.
    holding_nA : float
        Current outside the step; 0 when it is below the channel's noise.
    duration_ms : float
        Time of the last sample of the sweep.
    """

    number: int
    stimulus_name: str
    sampling_rate_Hz: float
    current_nA: np.ndarray
    voltage_mV: np.ndarray
    start_ms: float
    stop_ms: float
    amplitude_nA: float
    holding_nA: float
    duration_ms: float

    @property
    def time_ms(self) -> np.ndarray:
        """Times of the samples; the last one is the sweep's own last sample, kept when the rate is cut."""
        times = np.arange(self.voltage_mV.size) * (1000.0 / self.sampling_rate_Hz)
        times[-1] = self.duration_ms
        return times


@dataclass(frozen=True)
class Recording:
    """The usable sweeps of one file.

    Attributes
    ----------
    path : Path
    sweeps : tuple of Sweep
        In order of sweep number.
    refused : dict of int to str
        Sweeps that were asked for but cannot be used, with the reason.
    """

    path: Path
    sweeps: tuple[Sweep, ...]
    refused: dict[int, str]


@dataclass(frozen=True)
class RecordingSource:
    """Where the recording of a cell is, and how it is read.

    Attributes
    ----------
    path : Path
    junction_potential_mV : float
        Subtracted from the recorded voltage.
    stimuli : tuple of str
        Names or patterns of the stimuli that a fit is allowed to train on.
    exclude : tuple of int
        Sweeps left out.
    electrode : str, optional
        Name or pattern of the electrode, where the file has several.
    """

    path: Path
    junction_potential_mV: float = 14.0
    stimuli: tuple[str, ...] = ("Long Square",)
    exclude: tuple[int, ...] = ()
    electrode: str | None = None

    def read(self) -> Recording:
        """Read the sweeps that a fit is allowed to train on; raises as `read_recording` does."""
        return read_recording(
            self.path,
            junction_potential_mV=self.junction_potential_mV,
            stimuli=self.stimuli,
            exclude=self.exclude,
            electrode=self.electrode,
        )


def read_recording(
    path: Path | str,
    *,
    junction_potential_mV: float = 14.0,
    stimuli: Sequence[str] = ("Long Square",),
    exclude: Collection[int] = (),
    electrode: str | None = None,
) -> Recording:
    """Read the step sweeps of an NWB 2 file or of an Allen NWB 1.x file.

    Parameters
    ----------
    path : path
        The recording.
    junction_potential_mV : float
        Liquid-junction potential, subtracted from the recorded voltage.
    stimuli : sequence of str
        Names or shell patterns (case is ignored) of the stimuli to use.
    exclude : collection of int
        Numbers of sweeps to leave out.
    electrode : str, optional
        Name or shell pattern (case is ignored) of the electrode whose sweeps are used.

    Raises
    ------
    InputError
        When the file cannot be read, a stimulus name matches nothing, sweeps of several electrodes match and none
        was named, or no sweep is usable.
    """
    path = Path(path)
    sweeps: list[Sweep] = []
    refused: dict[int, str] = {}
    steps: dict[int, CurrentStep] = {}
    with open_entries(path) as entries:
        unknown = sorted(set(exclude) - {entry.number for entry in entries})
        if unknown:
            raise InputError(f"{path}: no sweeps numbered {unknown} to leave out. Correct the numbers.")
        selected = of_one_electrode(select_entries(entries, stimuli, path), electrode, exclude, path)
        sharing = Counter(entry.number for entry in selected)
        for entry in selected:
            if entry.number in exclude:
                refused[entry.number] = "left out on request"
                continue
            try:
                if sharing[entry.number] > 1:
                    raise SweepFault(f"{sharing[entry.number]} recordings share this sweep number")
                sweep, step = _read_sweep(entry, junction_potential_mV)
            except (SweepFault, NotAStep) as fault:
                refused[entry.number] = str(fault)
            else:
                sweeps.append(sweep)
                steps[sweep.number] = step
    sweeps = _agree_on_timing(sweeps, steps, refused)
    if not sweeps:
        reasons = Counter(refused.values()).most_common(4)
        listed = "; ".join(f"{reason} ({count} sweeps)" for reason, count in reasons)
        raise InputError(
            f"{path}: no usable sweep among the {len(refused)} that match {_quoted(stimuli)}; expected "
            f"current-clamp sweeps with one square step each, found: {listed}. "
            "Name other stimuli, or repair the file."
        )
    return Recording(path, tuple(sorted(sweeps, key=lambda sweep: sweep.number)), dict(sorted(refused.items())))


def _read_sweep(entry: SweepEntry, junction_potential_mV: float) -> tuple[Sweep, CurrentStep]:
    """Read, check and trim one sweep; raise `SweepFault` or `NotAStep` when it cannot be used."""
    if entry.fault:
        raise SweepFault(entry.fault)
    current, voltage, rate = entry.read()
    if current.size != voltage.size:
        raise SweepFault(f"current and voltage differ in length ({current.size} and {voltage.size} samples)")
    current, voltage = _without_tail_gap(current, voltage)
    step = find_step(current, rate)
    _check_voltage(voltage, step, rate)
    holding = _holding(current, step, rate)
    stride = int(np.ceil(rate / HIGHEST_RATE_HZ - 1e-9))
    kept = np.arange(0, voltage.size, stride)
    if kept[-1] != voltage.size - 1:
        kept = np.append(kept, voltage.size - 1)
    sweep = Sweep(
        number=entry.number,
        stimulus_name=entry.stimulus_name,
        sampling_rate_Hz=rate / stride,
        current_nA=current[kept],
        voltage_mV=voltage[kept] - junction_potential_mV,
        start_ms=step.start * 1000.0 / rate,
        stop_ms=step.last * 1000.0 / rate,
        amplitude_nA=step.amplitude_nA,
        holding_nA=holding,
        duration_ms=(voltage.size - 1) * 1000.0 / rate,
    )
    return sweep, step


def _without_tail_gap(current_nA: np.ndarray, voltage_mV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop the missing values that some acquisition programs append; refuse gaps elsewhere."""
    finite = np.isfinite(current_nA) & np.isfinite(voltage_mV)
    if not finite.any():
        raise SweepFault("no finite samples")
    end = int(np.flatnonzero(finite)[-1]) + 1
    if not finite[:end].all():
        raise SweepFault(f"{int((~finite[:end]).sum())} samples are NaN or infinite")
    return current_nA[:end], voltage_mV[:end]


def _check_voltage(voltage_mV: np.ndarray, step: CurrentStep, rate_Hz: float) -> None:
    """Refuse voltages that no cell has; units, dead channels and sweeps that stop early show here."""
    lowest, highest = float(voltage_mV.min()), float(voltage_mV.max())
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


def _agree_on_timing(sweeps: list[Sweep], steps: dict[int, CurrentStep], refused: dict[int, str]) -> list[Sweep]:
    """Correct edges that a noisy current channel blurs, and drop sweeps in which only a test pulse was found.

    An edge moves to the commonest time among the sweeps with no more noise, within its error. A pulse shorter
    than a tenth of the usual length of its stimulus is a test pulse before a step of 0 pA.
    """
    steady = []
    for sweep in sweeps:
        family = [other for other in sweeps if other.stimulus_name == sweep.stimulus_name]
        usual_ms = float(np.median([other.stop_ms - other.start_ms for other in family]))
        length_ms = sweep.stop_ms - sweep.start_ms
        if length_ms < 0.1 * usual_ms:
            refused[sweep.number] = (
                f"no step found: only a pulse of {length_ms:.4g} ms, where the others last {usual_ms:.4g} ms"
            )
        else:
            steady.append(sweep)
    return [_settled(sweep, steady, steps) for sweep in steady]


def _settled(sweep: Sweep, others: list[Sweep], steps: dict[int, CurrentStep]) -> Sweep:
    """The sweep with its edges at the commonest nearby times of the sweeps that are at least as clear."""
    step = steps[sweep.number]
    if step.edge_error == 0:
        return sweep
    within_ms = (step.edge_error + 0.5) * sweep.start_ms / step.start
    clear = [other for other in others if steps[other.number].edge_error <= step.edge_error]
    times = {}
    for edge in ("start_ms", "stop_ms"):
        near = [t for t in (getattr(other, edge) for other in clear) if abs(t - getattr(sweep, edge)) <= within_ms]
        times[edge] = Counter(near).most_common(1)[0][0]
    return replace(sweep, **times)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
