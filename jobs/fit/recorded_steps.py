"""The little of a recording that is stored beside the models that were fitted to it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from neurofleet.neurosim.features.step_protocols import StepProtocol
from neurofleet.neurosim.features.training_targets import FiringRate, firing_rates
from neurofleet.neurosim.recordings.recording import Recording

REPEATS = 3
"""Recorded sweeps that are kept of a step, at most."""

STEP_MS = 0.1
"""Recorded voltages are kept at such distances, or their own where that is larger."""


@dataclass(frozen=True, eq=False)
class RecordedSweep:
    """One repeat of a step: (n,) arrays of time in ms and voltage in mV, on the time axis of its protocol."""

    protocol: StepProtocol
    sweep: int
    time_ms: np.ndarray
    voltage_mV: np.ndarray


@dataclass(frozen=True, eq=False)
class RecordedSteps:
    """Repeats of the steps that a cell is fitted to, and the firing rates of all its sweeps."""

    sweeps: tuple[RecordedSweep, ...]
    rates: tuple[FiringRate, ...]


def recorded_steps(recording: Recording, steps: Iterable[StepProtocol]) -> RecordedSteps:
    """Return what is kept of a recording."""
    by_number = {sweep.number: sweep for sweep in recording.sweeps}
    sweeps = []
    for step in steps:
        for number in [n for n in step.sweeps if n in by_number][:REPEATS]:
            time_ms, voltage_mV = step.align(by_number[number])
            every = max(1, round(STEP_MS / float(time_ms[1] - time_ms[0]))) if len(time_ms) > 1 else 1
            kept = (np.asarray(values[::every], np.float32) for values in (time_ms, voltage_mV))
            sweeps.append(RecordedSweep(step, number, *kept))
    return RecordedSteps(tuple(sweeps), tuple(firing_rates(recording)))
