"""NEURON with a stated accuracy: CVODE's tolerance, and how densely a response is recorded."""

from dataclasses import dataclass
from typing import Any

from bluepyopt.ephys.recordings import CompRecording
from bluepyopt.ephys.simulators import NrnSimulator


@dataclass(frozen=True)
class Accuracy:
    """How exactly an evaluation is integrated.

    Parameters
    ----------
    atol : float
        CVODE's absolute tolerance (NEURON's default is 1e-3).
    record_dt_ms : float or None
        Interval of the recorded samples in ms; None records each step that CVODE takes.
    """

    atol: float = 1e-3
    record_dt_ms: float | None = None


class AccurateSimulator(NrnSimulator):
    """BluePyOpt's NEURON simulator with a tolerance of its own."""

    def __init__(self, accuracy: Accuracy, **options: Any) -> None:
        super().__init__(**options)
        self.accuracy = accuracy

    def run(self, *args: Any, **options: Any) -> None:
        self.cvode.atol(self.accuracy.atol)
        super().run(*args, **options)


class DenseRecording(CompRecording):
    """A recording sampled at a fixed interval.

    CVODE crosses a passive decay in a handful of steps; e-features read between them are off by more than
    their standard deviation unless the decay is sampled from the integrator's own polynomial.
    """

    def __init__(self, name: str, location: Any, record_dt_ms: float) -> None:
        super().__init__(name=name, location=location, variable="v")
        self.record_dt_ms = record_dt_ms

    def instantiate(self, sim: Any = None, icell: Any = None) -> None:
        segment = self.location.instantiate(sim=sim, icell=icell)
        self.varvector = sim.neuron.h.Vector()
        self.varvector.record(segment._ref_v, self.record_dt_ms)
        self.tvector = sim.neuron.h.Vector()
        self.tvector.record(sim.neuron.h._ref_t, self.record_dt_ms)
        self.instantiated = True
