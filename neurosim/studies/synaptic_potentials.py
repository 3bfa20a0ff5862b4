"""Postsynaptic potentials at the soma from one synapse at a time, on the apical dendrite or the soma."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.fit_model import SOMA, FitModel, location
from neurofleet.neurosim.cells.simulator import SampledRecording
from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

SETTLE_MS = 1000.0
BEFORE_MS, AFTER_MS = 20.0, 200.0  # recorded before and after the event
SAMPLE_MS = 0.05
TRACE_TIMES_MS = np.linspace(-10.0, 120.0, 521)
"""When the potentials that are drawn are read, after the event."""

DRIFT_MV = 0.02
"""A potential that moves by more in the 20 ms before the event, or a spike, makes a PSP unreadable."""


@dataclass(frozen=True)
class Synapse:
    """An excitatory synapse of two exponentials (science notes, section 10).

    Attributes
    ----------
    rise_ms, decay_ms : float
    reversal_mV : float
    weight_uS : float
    """

    rise_ms: float = 1.0
    decay_ms: float = 3.0
    reversal_mV: float = 0.0
    weight_uS: float = 1e-4


@dataclass(frozen=True)
class Site:
    """Where a synapse is.

    Attributes
    ----------
    section : str
        ``soma`` or ``apic``.
    requested_um, distance_um : float
        Path distance from the middle of the soma that was asked for, and that of the nearest segment.
    """

    section: str
    requested_um: float
    distance_um: float


@dataclass(frozen=True)
class PSP:
    """The potential at the soma of one synapse.

    Attributes
    ----------
    site : Site
    amplitude_mV, half_width_ms, latency_ms : float
        Peak above the potential before the event, width at half of it, and time of the peak after the event.
        NaN where they cannot be read.
    baseline_mV : float
    trace_mV : ndarray, shape (t,)
        The potential above the baseline at `TRACE_TIMES_MS` after the event.
    fault : str
        Why they cannot be read, else empty.
    """

    site: Site
    amplitude_mV: float
    half_width_ms: float
    latency_ms: float
    baseline_mV: float
    trace_mV: np.ndarray
    fault: str = ""


@dataclass(frozen=True)
class PSPMeasure:
    """The synapses that the models of a cell get, one after the other.

    Attributes
    ----------
    model : FitModel
    distances_um : tuple of float
        Along the apical dendrite; those beyond its end are left out.
    sites_each : int
        Branches at each distance, those that lie nearest to it; their PSPs are all returned.
    synapse : Synapse
    max_steps : int or None
        Integration steps that a model may take in all.
    """

    model: FitModel
    distances_um: tuple[float, ...]
    sites_each: int = 1
    synapse: Synapse = Synapse()
    max_steps: int | None = None

    def build(self) -> Callable[[np.ndarray], list[PSP]]:
        """Build the cell in NEURON and return what measures a model on it, the soma's own PSP first.

        Returns
        -------
        callable
            Parameter values, shape (P,) -> list of `PSP`. Raises `BudgetExceeded` and
            `IncompleteRun` of `cells.warm_evaluator`.

        Raises
        ------
        InputError
            The cell has no apical dendrite.
        """
        from bluepyopt import ephys

        warm = WarmEvaluator(self.model.build_evaluator(), self.max_steps)
        warm.build()
        soma = location(SOMA)
        where = [_Segment(Site(SOMA, 0.0, 0.0), None), *self._apical(warm.cell)]
        n_samples = round((AFTER_MS + BEFORE_MS) / SAMPLE_MS)
        times_ms = np.arange(n_samples) * SAMPLE_MS + SETTLE_MS - BEFORE_MS
        protocols = []
        for i, segment in enumerate(where):
            name = f"psp_{i}"
            recording = SampledRecording(f"{name}.{SOMA}.v", soma, times_ms)
            stimulus = _Event(segment, soma, self.synapse)
            protocols.append(ephys.protocols.SweepProtocol(name, [stimulus], [recording], cvode_active=True))
        threshold_mV = self.model.targets.spike_threshold_mV

        def measure(values: np.ndarray) -> list[PSP]:
            psps = []
            for segment, protocol in zip(where, protocols, strict=True):
                response: Any = warm.responses(values, {protocol.name: protocol})[f"{protocol.name}.{SOMA}.v"]
                times, voltage = np.asarray(response["time"]), np.asarray(response["voltage"])
                psps.append(read_psp(segment.site, times, voltage, threshold_mV))
            return psps

        return measure

    def _apical(self, cell: Any) -> list["_Segment"]:
        import neuron

        h = neuron.h
        h.distance(0, 0.5, sec=cell.soma[0])
        segments = [(float(h.distance(s.x, sec=s.sec)), s) for section in cell.apical for s in section]
        if not segments:
            raise InputError(f"cell {self.model.cell}: its morphology has no apical dendrite to put synapses on.")
        farthest = max(distance for distance, _ in segments)
        chosen = []
        for requested_um in (distance for distance in self.distances_um if distance <= farthest):
            nearest = sorted(segments, key=lambda pair: abs(pair[0] - requested_um))[: self.sites_each]
            chosen += [_Segment(Site("apic", requested_um, distance), segment) for distance, segment in nearest]
        return chosen


@dataclass(frozen=True)
class _Segment:
    site: Site
    segment: Any
    """None for the middle of the soma."""


class _Event:
    """A synapse with one event, as BluePyOpt takes a stimulus."""

    total_duration = SETTLE_MS + AFTER_MS

    def __init__(self, where: _Segment, soma: Any, synapse: Synapse) -> None:
        self._where = where
        self._soma = soma
        self._synapse = synapse
        self._held: list[Any] = []

    def instantiate(self, sim: Any = None, icell: Any = None) -> None:
        """Put the synapse into the built cell."""
        h = sim.neuron.h
        segment = self._where.segment
        if segment is None:
            segment = self._soma.instantiate(sim=sim, icell=icell)
        point = h.Exp2Syn(segment)
        point.tau1, point.tau2 = self._synapse.rise_ms, self._synapse.decay_ms
        point.e = self._synapse.reversal_mV
        source = h.NetStim()
        source.number, source.start, source.noise = 1, SETTLE_MS, 0
        connection = h.NetCon(source, point, 0.0, 0.0, self._synapse.weight_uS)
        self._held = [connection, source, point]

    def destroy(self, sim: Any = None) -> None:
        """Remove it."""
        self._held = []


def read_psp(site: Site, time_ms: np.ndarray, voltage_mV: np.ndarray, threshold_mV: float) -> PSP:
    """Read amplitude, half-width and latency of the peak of a PSP whose event comes at `SETTLE_MS`."""
    before = time_ms < SETTLE_MS
    baseline = float(voltage_mV[before][-1])
    trace = np.interp(TRACE_TIMES_MS, time_ms - SETTLE_MS, voltage_mV - baseline)
    missing = float("nan")

    def unreadable(why: str) -> PSP:
        return PSP(site, missing, missing, missing, baseline, trace, why)

    if voltage_mV.max() >= threshold_mV:
        return unreadable("the model spikes")
    if np.ptp(voltage_mV[before]) > DRIFT_MV:
        return unreadable("the potential is not at rest before the event")
    times, rise = time_ms[~before] - SETTLE_MS, voltage_mV[~before] - baseline
    peak = int(rise.argmax())
    amplitude = float(rise[peak])
    if amplitude <= 0:
        return unreadable("the event does not depolarise the soma")
    above = rise >= amplitude / 2
    first, last = int(above.argmax()), int(above.size - 1 - above[::-1].argmax())
    if last == above.size - 1:
        return unreadable(f"the potential has not fallen to half {AFTER_MS:g} ms after the event")
    return PSP(
        site,
        amplitude,
        _crossing(times, rise, last, amplitude / 2) - _crossing(times, rise, first - 1, amplitude / 2),
        float(times[peak]),
        baseline,
        trace,
    )


def _crossing(times: np.ndarray, values: np.ndarray, i: int, level: float) -> float:
    """Return when the values cross a level between samples i and i + 1."""
    low, high = values[i], values[i + 1]
    return float(times[i] + (level - low) / (high - low) * (times[i + 1] - times[i]))


def relative_change(psps: Sequence[PSP], name: str) -> list[float]:
    """Return a property of each PSP as the change in percent from the first, the soma's own."""
    somatic = getattr(psps[0], name)
    return [100.0 * (getattr(psp, name) - somatic) / somatic for psp in psps]
