"""Step protocols: the distinct stimuli of a recording, each with its repeats; and the targets at them."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.current_step import amplitude_tolerance_nA
from neurofleet.neurosim.recordings.recorded_spikes import SPIKE_THRESHOLD_MV
from neurofleet.neurosim.recordings.recording import Recording
from neurofleet.neurosim.recordings.recording_checks import step_spikes
from neurofleet.neurosim.recordings.sweep import Sweep

TIMING_TOLERANCE_MS = 0.1
SAME_STOP_MS = 5.0  # stops that are closer than this count as the same
SETTLING_MS = 250.0  # a model needs this long before the step to forget its initial state
COARSE_MS, CLOSE_MS, NEAR_EDGE_MS = 1.0, 0.1, 15.0  # `dense_times_ms`


@dataclass(frozen=True)
class StepProtocol:
    """One square step as it is given to a model.

    Attributes
    ----------
    name : str
        Stimulus and first sweep, such as `LongDC_46`.
    amplitude_nA : float
        Height of the step above the holding current.
    start_ms, stop_ms, duration_ms : float
        Step and end of the protocol; time 0 is `settling_ms` before the recorded sweep begins.
    holding_nA : float
        Current that flows throughout, below the step.
    stimulus_name : str
        The stimulus as the recording names it.
    sweeps : tuple of int
        Numbers of the recorded sweeps; empty for a protocol that was not recorded.
    settling_ms : float
        Time put before sweeps whose step comes so early that a model could not settle.
    inside_only : bool
        Whether e-features are read from the spikes inside the step only, of the recording and of models: the
        recorded cell spikes outside of it.
    """

    name: str
    amplitude_nA: float
    start_ms: float
    stop_ms: float
    duration_ms: float
    holding_nA: float = 0.0
    stimulus_name: str = "Long Square"
    sweeps: tuple[int, ...] = ()
    settling_ms: float = 0.0
    inside_only: bool = False

    def align(self, sweep: Sweep) -> tuple[np.ndarray, np.ndarray]:
        """Return a recorded sweep on the time axis of the protocol, cut where the protocol ends.

        Returns
        -------
        time_ms, voltage_mV : (n,) arrays
            `time_ms` begins at `settling_ms`.
        """
        time_ms = sweep.time_ms + self.settling_ms
        kept = time_ms <= self.duration_ms + 1e-6
        return time_ms[kept], sweep.voltage_mV[kept]

    def dense_times_ms(self) -> np.ndarray:
        """Return times to record at: 0.1 ms apart for 15 ms after each edge of the step, a millisecond apart elsewhere.

        An engine crosses a passive decay in a handful of steps. E-features that are read between them are off by more
        than their standard deviation, so the decay has to be sampled densely.

        Returns
        -------
        ndarray, shape (t,)
        """
        coarse = np.append(np.arange(0.0, self.duration_ms, COARSE_MS), self.duration_ms)
        near = [edge + np.arange(-CLOSE_MS, NEAR_EDGE_MS, CLOSE_MS) for edge in (self.start_ms, self.stop_ms)]
        times = np.unique(np.round(np.concatenate([coarse, *near]), 6))
        return times[(times >= 0) & (times <= self.duration_ms)]


def group_sweeps(recording: Recording, *, tail_ms: float | None = None) -> list[tuple[StepProtocol, list[Sweep]]]:
    """Group the sweeps of one stimulus, amplitude and stop time into protocols, weakest first.

    Amplitudes are equal within :func:`amplitude_tolerance_nA`. A protocol ends with its shortest sweep.

    Parameters
    ----------
    recording : Recording
    tail_ms : float, optional
        Cut protocols this long after the step (1000 in the variant for newer data). `voltage_after_stim` is
        taken from the middle of the tail, so the cut changes it.

    Raises
    ------
    InputError
        When sweeps of equal amplitude and stop disagree by more than 0.1 ms about start or stop.
    """
    groups = []
    for name in dict.fromkeys(sweep.stimulus_name for sweep in recording.sweeps):
        family = [sweep for sweep in recording.sweeps if sweep.stimulus_name == name]
        for alike in _runs(family, lambda sweep: sweep.amplitude_nA, amplitude_tolerance_nA):
            for repeats in _runs(alike, lambda sweep: sweep.stop_ms, lambda first: SAME_STOP_MS):
                repeats.sort(key=lambda sweep: sweep.number)
                _check_timing(repeats, recording)
                groups.append((_protocol(repeats, tail_ms, recording.spike_threshold_mV), repeats))
    return sorted(groups, key=lambda group: (group[0].amplitude_nA, group[0].sweeps))


def is_trained(protocol: StepProtocol, trained: Iterable[StepProtocol]) -> bool:
    """Return whether a step has the stimulus and the amplitude of one that a stage was scored at."""
    return any(
        abs(protocol.amplitude_nA - step.amplitude_nA) <= amplitude_tolerance_nA(step.amplitude_nA)
        and protocol.stimulus_name == step.stimulus_name
        for step in trained
    )


def _runs(
    sweeps: Sequence[Sweep], value: Callable[[Sweep], float], tolerance: Callable[[float], float]
) -> list[list[Sweep]]:
    """Split sweeps into runs whose values lie within a tolerance of the run's first (lowest)."""
    runs: list[list[Sweep]] = []
    for sweep in sorted(sweeps, key=value):
        if runs and value(sweep) - value(runs[-1][0]) <= tolerance(value(runs[-1][0])):
            runs[-1].append(sweep)
        else:
            runs.append([sweep])
    return runs


def _check_timing(repeats: Sequence[Sweep], recording: Recording) -> None:
    for edge in ("start_ms", "stop_ms"):
        times = {sweep.number: getattr(sweep, edge) for sweep in repeats}
        if max(times.values()) - min(times.values()) > TIMING_TOLERANCE_MS:
            listed = ", ".join(f"sweep {number} at {time:.6g} ms" for number, time in times.items())
            verb = edge.removesuffix("_ms")
            step = f'{repeats[0].amplitude_nA * 1000:.4g} pA step of "{repeats[0].stimulus_name}"'
            raise InputError(
                f"{recording.path}: repeats of the {step} must {verb} within {TIMING_TOLERANCE_MS} ms of "
                f"each other, found {listed}. Leave out the sweeps that differ, or name their stimulus "
                "differently in the file."
            )


def _protocol(repeats: Sequence[Sweep], tail_ms: float | None, threshold_mV: float) -> StepProtocol:
    first = repeats[0]
    settling_ms = max(0.0, SETTLING_MS - first.start_ms)
    duration_ms = min(sweep.duration_ms for sweep in repeats)
    if tail_ms is not None:
        duration_ms = min(duration_ms, first.stop_ms + tail_ms)
    return StepProtocol(
        name=protocol_name(first.stimulus_name, first.number),
        amplitude_nA=float(np.mean([sweep.amplitude_nA for sweep in repeats])),
        start_ms=first.start_ms + settling_ms,
        stop_ms=first.stop_ms + settling_ms,
        duration_ms=duration_ms + settling_ms,
        holding_nA=float(np.mean([sweep.holding_nA for sweep in repeats])),
        stimulus_name=first.stimulus_name,
        sweeps=tuple(sweep.number for sweep in repeats),
        settling_ms=settling_ms,
        inside_only=any(step_spikes(sweep, threshold_mV).outside for sweep in repeats),
    )


def protocol_name(stimulus_name: str, first_sweep: int) -> str:
    """Name a protocol after stimulus and first sweep: `LongDC_46` for a Long Square, else `IDrest_353`."""
    if stimulus_name.casefold().replace("_", " ") == "long square":
        return f"LongDC_{first_sweep}"
    last_part = re.split(r"[\\/]", stimulus_name.rstrip("\\/"))[-1]  # some programs store the path of a file
    word = re.sub(r"[^A-Za-z0-9_]", "", last_part)
    return f"{word if word[:1].isalpha() else 'Step' + word}_{first_sweep}"


AIS_FEATURE = "check_AISInitiation"
BLOCK_CHECK = "DB_check_DC"


@dataclass(frozen=True)
class FeatureTarget:
    """Mean and standard deviation that a model's e-feature is compared with.

    Attributes
    ----------
    protocol, location, feature : str
        `feature` is eFEL's name, or `check_AISInitiation`.
    mean, std : float
    n : int
        Number of values behind the mean; 0 for a target that is set, not measured.
    """

    protocol: str
    location: str
    feature: str
    mean: float
    std: float
    n: int

    @property
    def objective(self) -> str:
        """Name of the objective, such as `LongDC_46.soma.mean_frequency`."""
        return f"{self.protocol}.{self.location}.{self.feature}"


@dataclass(frozen=True)
class TargetSet:
    """What a stage is scored on: protocols, and targets at them, extracted from sweeps or published.

    Attributes
    ----------
    protocols : dict of str to StepProtocol
        Those that have targets, by name.
    targets : tuple of FeatureTarget
    spike_threshold_mV : float
        eFEL's spike threshold at the soma; all other settings of eFEL are its defaults.
    warnings : tuple of str
        What was left out, and why.
    sampling_rate_Hz : float or None
        Lowest rate of the sweeps behind the targets; None where it is not known.
    """

    protocols: dict[str, StepProtocol]
    targets: tuple[FeatureTarget, ...]
    spike_threshold_mV: float = SPIKE_THRESHOLD_MV
    warnings: tuple[str, ...] = field(default=())
    sampling_rate_Hz: float | None = None

    def to_json(self) -> str:
        """Write as JSON; `from_json` gives back an equal object."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TargetSet":
        """Read what `to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        return cls(
            protocols={
                name: StepProtocol(**{**protocol, "sweeps": tuple(protocol["sweeps"])})
                for name, protocol in content["protocols"].items()
            },
            targets=tuple(FeatureTarget(**target) for target in content["targets"]),
            spike_threshold_mV=content["spike_threshold_mV"],
            warnings=tuple(content["warnings"]),
            sampling_rate_Hz=content["sampling_rate_Hz"],
        )
