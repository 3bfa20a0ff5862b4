"""What a model does at steps: e-features at the soma, and spikes at the soma and along the axon."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurosim.fit_model import SOMA, FitModel, location, recording_name
from neurosim.perisomatic.features import SAMPLE_MS
from neurosim.perisomatic.initiation import Place, spike_times
from neurosim.protocols import StepProtocol

REACH_UM, PLACES = 120.0, 6
CLOSE_UP_MS = 2.5
AXON_LIST = "axonal"


@dataclass(frozen=True)
class StepResponse:
    """A model's response to one step.

    Attributes
    ----------
    features : dict of str to float
        NaN where there is no such value.
    places : tuple of Place
        The middle of the soma, then the axon outwards.
    spikes_ms : tuple of ndarray
        Times of spikes at each place.
    time_ms : ndarray, shape (t,)
        From the step's start to its end.
    soma_mV : ndarray, shape (t,)
    close_ms : ndarray, shape (c,)
        About the second somatic spike, the first where there is but one; empty without spikes.
    close_mV : ndarray, shape (places, c)
    """

    features: dict[str, float]
    places: tuple[Place, ...]
    spikes_ms: tuple[np.ndarray, ...]
    time_ms: np.ndarray
    soma_mV: np.ndarray
    close_ms: np.ndarray
    close_mV: np.ndarray


@dataclass(frozen=True)
class StepsMeasure:
    """Which steps a cell's models are given, and which e-features are read.

    Attributes
    ----------
    model : FitModel
    steps : tuple of StepProtocol
    features : tuple of str
        Of eFEL, or of perisomatic models.
    max_steps : int or None
        Integration steps that a model may take in all.
    """

    model: FitModel
    steps: tuple[StepProtocol, ...]
    features: tuple[str, ...]
    max_steps: int | None = None

    def build(self) -> Callable[[np.ndarray], dict[str, StepResponse]]:
        """Build the cell in NEURON and return what measures a model on it.

        Returns
        -------
        callable
            Parameter values, shape (P,) -> step -> `StepResponse`. Raises `neurosim.budget.BudgetExceeded`
            and `neurosim.warm.IncompleteRun`.
        """
        from neurosim.targets import FeatureTarget, TargetSet
        from neurosim.warm import WarmEvaluator

        targets = TargetSet(
            protocols={step.name: step for step in self.steps},
            targets=tuple(
                FeatureTarget(step.name, SOMA, name, 0.0, 1.0, 0)
                for step in self.steps
                for name in self.features
            ),
            spike_threshold_mV=self.model.targets.spike_threshold_mV,
        )
        evaluator = replace(self.model, targets=targets).build_evaluator()
        calculate = evaluator.fitness_calculator.calculate_values
        warm = WarmEvaluator(evaluator, self.max_steps)
        warm.build()
        segments = _places(warm.cell)
        protocols = {
            step.name: _recorded_at(evaluator.fitness_protocols[step.name], step, segments)
            for step in self.steps
        }

        def measure(values: np.ndarray) -> dict[str, StepResponse]:
            responses = warm.responses(values, protocols)
            found = calculate(responses)
            return {step.name: self._response(step, segments, responses, found) for step in self.steps}

        return measure

    def _response(
        self,
        step: StepProtocol,
        segments: "list[tuple[Place, Any]]",
        responses: dict[str, Any],
        found: dict[str, float | None],
    ) -> StepResponse:
        values = [found[f"{step.name}.{SOMA}.{name}"] for name in self.features]
        recorded = [responses[recording_name(step.name, place.name)] for place, _ in segments]
        times = np.asarray(recorded[0]["time"])
        volts = [np.asarray(response["voltage"]) for response in recorded]
        spikes = tuple(spike_times(times, voltage) for voltage in volts)
        close = np.zeros(times.size, bool)
        if spikes[0].size:
            middle = spikes[0][min(1, spikes[0].size - 1)]
            close = np.abs(times - middle) <= CLOSE_UP_MS
        return StepResponse(
            {n: float("nan") if v is None else float(v) for n, v in zip(self.features, values, strict=True)},
            tuple(place for place, _ in segments),
            spikes,
            times,
            volts[0],
            times[close],
            np.array([voltage[close] for voltage in volts]),
        )


def _places(cell: Any) -> "list[tuple[Place, Any]]":
    """Return the middle of the soma, then up to `PLACES` segments of the axon, from the soma outwards."""
    import neuron

    h = neuron.h
    soma = cell.soma[0](0.5)
    h.distance(0, 0.5, sec=cell.soma[0])
    axon = [
        (float(h.distance(segment.x, sec=section)), segment) for section in cell.axonal for segment in section
    ]
    axon = sorted((found for found in axon if found[0] <= REACH_UM), key=lambda found: found[0])
    if len(axon) > PLACES:
        axon = [axon[i] for i in np.linspace(0, len(axon) - 1, PLACES).round().astype(int)]
    return [(Place(_name(soma), 0.0), soma), *((Place(_name(s), distance), s) for distance, s in axon)]


def _name(segment: Any) -> str:
    return f"{segment.sec.name().rpartition('.')[2]}({segment.x:g})"


def _recorded_at(protocol: Any, step: StepProtocol, segments: "list[tuple[Place, Any]]") -> Any:
    """Return a protocol with the same stimuli that records the step at all places as well."""
    from bluepyopt import ephys

    recordings = [
        *protocol.recordings,
        *(
            _EvenRecording(recording_name(step.name, place.name), segment, step)
            for place, segment in segments
        ),
    ]
    return ephys.protocols.SweepProtocol(step.name, protocol.stimuli, recordings, cvode_active=True)


class _EvenRecording:
    """Voltage of a segment at even times during a step, as BluePyOpt takes a recording."""

    def __init__(self, name: str, segment: Any, step: StepProtocol) -> None:
        self.name, self.location = name, location(SOMA)
        self._segment = segment
        self._at_ms = np.arange(step.start_ms, step.stop_ms + SAMPLE_MS / 2, SAMPLE_MS)
        self._times: Any = None
        self._voltage: Any = None

    def instantiate(self, sim: Any = None, icell: Any = None) -> None:
        """Begin to record."""
        h = sim.neuron.h
        self._times, self._voltage = h.Vector(self._at_ms), h.Vector()
        self._voltage.record(self._segment._ref_v, self._times)

    @property
    def response(self) -> Any:
        """What was recorded."""
        from bluepyopt.ephys.responses import TimeVoltageResponse

        return TimeVoltageResponse(self.name, np.array(self._times), np.array(self._voltage))

    def destroy(self, sim: Any = None) -> None:
        """Let go of the recording."""
        self._times = self._voltage = None
