"""Where spikes begin: responses of a model to steps, at the soma and along the axon."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurofleet.neurosim.cells.fit_model import SOMA, FitModel, recording_name
from neurofleet.neurosim.cells.simulator import SampledRecording
from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
from neurofleet.neurosim.features.perisomatic_features import SAMPLE_MS
from neurofleet.neurosim.features.step_protocols import FeatureTarget, StepProtocol, TargetSet
from neurofleet.neurosim.studies.explained_variance import spike_times

LEVEL_MV = -20.0
SAME_SPIKE_MS = 3.0
AT_ONCE_MS = 0.005
"""Times that are closer than this count as equal."""

SOMA_FIRST, AXON_FIRST, AT_ONCE, ALONE = "soma", "axon", "at once", "soma alone"


@dataclass(frozen=True)
class RecordingSite:
    """Where a voltage is recorded.

    Attributes
    ----------
    name : str
        As NEURON writes it, such as ``axon[0](0.5)``.
    distance_um : float
        Path distance from the middle of the soma.
    """

    name: str
    distance_um: float


@dataclass(frozen=True)
class SpikePassage:
    """One somatic spike on its way.

    Attributes
    ----------
    soma_ms : float
    delays_ms : tuple of float
        Time at each place after the time at the soma, negative where the spike came first; NaN where it
        did not come.
    begins : str
        ``axon``, ``soma``, ``at once``, or ``soma alone`` where it is seen nowhere in the axon.
    place : int
        Position of the place in the axon that it passes first, -1 where it is seen at none.
    """

    soma_ms: float
    delays_ms: tuple[float, ...]
    begins: str
    place: int


def passages(soma_ms: np.ndarray, axon_ms: Sequence[np.ndarray]) -> list[SpikePassage]:
    """Follow each somatic spike along the axon.

    Parameters
    ----------
    soma_ms : ndarray
        Times of spikes at the soma.
    axon_ms : sequence of ndarray
        Times of spikes at each place of the axon; a spike within 3 ms of the somatic one is the same.
    """
    spikes = []
    for soma in soma_ms:
        delays = []
        for times in axon_ms:
            near = times[np.abs(times - soma) <= SAME_SPIKE_MS]
            delays.append(float(near[np.abs(near - soma).argmin()] - soma) if near.size else float("nan"))
        spikes.append(SpikePassage(float(soma), tuple(delays), *_begin(np.array(delays))))
    return spikes


def _begin(delays_ms: np.ndarray) -> tuple[str, int]:
    if not np.isfinite(delays_ms).any():
        return ALONE, -1
    first = int(np.nanargmin(delays_ms))
    if abs(delays_ms[first]) <= AT_ONCE_MS:
        return AT_ONCE, first
    return (AXON_FIRST if delays_ms[first] < 0 else SOMA_FIRST), first


REACH_UM, PLACES = 120.0, 6
CLOSE_UP_MS = 2.5


@dataclass(frozen=True)
class StepResponse:
    """A model's response to one step.

    Attributes
    ----------
    features : dict of str to float
        NaN where there is no such value.
    places : tuple of RecordingSite
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
    places: tuple[RecordingSite, ...]
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
            Parameter values, shape (P,) -> step -> `StepResponse`. Raises `BudgetExceeded` and
            `IncompleteRun` of `cells.warm_evaluator`.
        """
        targets = TargetSet(
            protocols={step.name: step for step in self.steps},
            targets=tuple(
                FeatureTarget(step.name, SOMA, name, 0.0, 1.0, 0) for step in self.steps for name in self.features
            ),
            spike_threshold_mV=self.model.targets.spike_threshold_mV,
        )
        evaluator = replace(self.model, targets=targets).build_evaluator()
        calculate = evaluator.fitness_calculator.calculate_values
        warm = WarmEvaluator(evaluator, self.max_steps)
        warm.build()
        segments = _recording_sites(warm.cell)
        protocols = {
            step.name: _recorded_at(evaluator.fitness_protocols[step.name], step, segments) for step in self.steps
        }

        def measure(values: np.ndarray) -> dict[str, StepResponse]:
            responses = warm.responses(values, protocols)
            feature_values = calculate(responses)
            return {step.name: self._response(step, segments, responses, feature_values) for step in self.steps}

        return measure

    def _response(
        self,
        step: StepProtocol,
        segments: "list[tuple[RecordingSite, Any]]",
        responses: dict[str, Any],
        feature_values: dict[str, float | None],
    ) -> StepResponse:
        values = [feature_values[f"{step.name}.{SOMA}.{name}"] for name in self.features]
        recorded = [responses[recording_name(step.name, place.name)] for place, _ in segments]
        times = np.asarray(recorded[0]["time"])
        volts = [np.asarray(response["voltage"]) for response in recorded]
        spikes = tuple(spike_times(times, voltage, LEVEL_MV) for voltage in volts)
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


def _recording_sites(cell: Any) -> "list[tuple[RecordingSite, Any]]":
    """Return the middle of the soma, then up to `PLACES` segments of the axon, from the soma outwards."""
    import neuron

    h = neuron.h
    soma = cell.soma[0](0.5)
    h.distance(0, 0.5, sec=cell.soma[0])
    axon = [(float(h.distance(segment.x, sec=section)), segment) for section in cell.axonal for segment in section]
    axon = sorted((site for site in axon if site[0] <= REACH_UM), key=lambda site: site[0])
    if len(axon) > PLACES:
        axon = [axon[i] for i in np.linspace(0, len(axon) - 1, PLACES).round().astype(int)]
    return [(RecordingSite(_name(soma), 0.0), soma), *((RecordingSite(_name(s), distance), s) for distance, s in axon)]


def _name(segment: Any) -> str:
    return f"{segment.sec.name().rpartition('.')[2]}({segment.x:g})"


def _recorded_at(protocol: Any, step: StepProtocol, segments: "list[tuple[RecordingSite, Any]]") -> Any:
    """Return a protocol with the same stimuli that records the step at all places as well."""
    from bluepyopt import ephys

    times_ms = np.arange(step.start_ms, step.stop_ms + SAMPLE_MS / 2, SAMPLE_MS)
    recordings = [
        *protocol.recordings,
        *(
            SampledRecording(recording_name(step.name, site.name), _Segment(segment), times_ms)
            for site, segment in segments
        ),
    ]
    return ephys.protocols.SweepProtocol(step.name, protocol.stimuli, recordings, cvode_active=True)


@dataclass(frozen=True)
class _Segment:
    """A segment of the built cell, as a location of BluePyOpt."""

    segment: Any

    def instantiate(self, sim: Any = None, icell: Any = None) -> Any:
        """Return the segment."""
        return self.segment
