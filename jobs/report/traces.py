"""Choose the traces that the report shows of a stage's best model, and the recorded ones beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.report.contents import CellContents, StageContents

if TYPE_CHECKING:
    from neurosim.protocols import StepProtocol

SPIKING_STEPS, SILENT_STEPS, REPEATS = 4, 5, 2
SPIKE_MV = -20.0
BEFORE, AFTER = 0.15, 0.35  # of the step's length, shown around it

Trace = tuple[np.ndarray, np.ndarray]
"""Time in ms and voltage in mV, (n,) arrays."""


@dataclass(frozen=True)
class ShownTrace:
    """What is shown of one protocol.

    Attributes
    ----------
    name : str
    amplitude_pA : float or None
        Of its step; None for a protocol of a user's own model.
    model : Trace
    recorded : tuple of Trace
        Repeats; empty where nothing was recorded.
    window_ms : tuple of float
        The step and a little around it.
    """

    name: str
    amplitude_pA: float | None
    model: Trace
    recorded: tuple[Trace, ...]
    window_ms: tuple[float, float]

    @property
    def spikes(self) -> bool:
        """Whether the cell or the model spikes."""
        return any(voltage.size and voltage.max() > SPIKE_MV for _, voltage in (self.model, *self.recorded))

    @property
    def title(self) -> str:
        return self.name if self.amplitude_pA is None else f"{self.name}: {self.amplitude_pA:.4g} pA"


def shown_traces(contents: CellContents, stage: StageContents) -> list[list[ShownTrace]]:
    """Return groups of traces, one group for each panel.

    Silent steps are shown over each other where no step spikes; else the strongest silent one and the
    strongest spiking ones, each by itself. Of a user's own model the first protocols are shown.
    """
    if stage.simulation is None or stage.problem is None:
        return []
    targets = getattr(stage.problem.model, "targets", None)
    if targets is None:
        return [[trace] for trace in _of_user_model(stage.simulation.traces)[:SPIKING_STEPS]]
    steps = sorted(targets.protocols.values(), key=lambda step: step.amplitude_nA)
    found = [trace for step in steps if (trace := _of_step(contents, stage, step)) is not None]
    silent = [trace for trace in found if not trace.spikes]
    spiking = [trace for trace in found if trace.spikes][-SPIKING_STEPS:]
    if not spiking:
        return [_spread(silent)] if silent else []
    return [[trace] for trace in (*silent[-1:], *spiking)]


def _of_user_model(traces: dict[str, Trace]) -> list[ShownTrace]:
    somatic = {name: trace for name, trace in traces.items() if "soma" in name.lower()} or traces
    return [
        ShownTrace(name, None, (time, voltage), (), (float(time[0]), float(time[-1])))
        for name, (time, voltage) in somatic.items()
        if time.size
    ]


def _of_step(contents: CellContents, stage: StageContents, step: "StepProtocol") -> ShownTrace | None:
    from neurosim.fit_model import recording_name

    assert stage.simulation is not None
    trace = stage.simulation.traces.get(recording_name(step.name))
    if trace is None or not step.sweeps:  # a step that was not recorded, such as the check for a block
        return None
    sweeps = {sweep.number: sweep for sweep in contents.recording.sweeps} if contents.recording else {}
    recorded = tuple(step.align(sweeps[number]) for number in step.sweeps[:REPEATS] if number in sweeps)
    length = step.stop_ms - step.start_ms
    window = (
        max(0.0, step.start_ms - BEFORE * length),
        min(step.duration_ms, step.stop_ms + AFTER * length),
    )
    return ShownTrace(step.name, step.amplitude_nA * 1000, trace, recorded, window)


def _spread(traces: Sequence[ShownTrace]) -> list[ShownTrace]:
    """Return a few of the steps, from the weakest to the strongest."""
    count = min(len(traces), SILENT_STEPS)
    return [traces[round(i)] for i in np.linspace(0, len(traces) - 1, count)]


def first_peak_ms(time_ms: np.ndarray, voltage_mV: np.ndarray) -> float | None:
    """Return the time of the first spike's peak, None without a spike."""
    above = voltage_mV > SPIKE_MV
    if not above.any():
        return None
    first = int(above.argmax())
    below = np.flatnonzero(~above[first:])
    last = first + int(below[0]) if below.size else voltage_mV.size
    return float(time_ms[first + int(voltage_mV[first:last].argmax())])
