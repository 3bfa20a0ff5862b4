"""NEURON with a stated accuracy: CVODE's tolerance, and the times at which a response is recorded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bluepyopt.ephys.recordings import CompRecording
from bluepyopt.ephys.simulators import NrnSimulator

from neurofleet.neurosim.cells.cell_model import FIXED_STEP_MS, Accuracy

COARSE_MS, CLOSE_MS, NEAR_EDGE_MS = 1.0, 0.1, 15.0


class AccurateSimulator(NrnSimulator):
    """BluePyOpt's NEURON simulator with a tolerance of its own."""

    def __init__(self, accuracy: Accuracy, **options: Any) -> None:
        super().__init__(**options)
        self.accuracy = accuracy

    def run(
        self,
        tstop: float | None = None,
        dt: float | None = None,
        cvode_active: bool | None = None,
        **options: Any,
    ) -> None:
        """Run with CVODE, or in fixed steps of second order for a protocol that turns CVODE off."""
        self.cvode.atol(self.accuracy.atol)
        fixed = cvode_active is False
        self.neuron.h.secondorder = 2 if fixed else 0
        super().run(tstop, FIXED_STEP_MS if fixed and dt is None else dt, cvode_active, **options)


class SampledRecording(CompRecording):
    """A voltage recorded at given times, whatever steps CVODE takes: from the integrator's own polynomial.

    Parameters
    ----------
    name : str
    location : bluepyopt location
    times_ms : ndarray, shape (t,)
        Ascending.
    """

    def __init__(self, name: str, location: Any, times_ms: np.ndarray) -> None:
        super().__init__(name=name, location=location, variable="v")
        self.times_ms = times_ms

    def instantiate(self, sim: Any = None, icell: Any = None) -> None:
        """Begin to record."""
        segment = self.location.instantiate(sim=sim, icell=icell)
        h = sim.neuron.h
        self.tvector = h.Vector(self.times_ms)
        self.varvector = h.Vector()
        self.varvector.record(segment._ref_v, self.tvector)
        self.instantiated = True


def dense_times(edges_ms: Sequence[float], duration_ms: float) -> np.ndarray:
    """Return times to record at: 0.1 ms apart for 15 ms after each edge of a step, a millisecond apart elsewhere.

    CVODE crosses a passive decay in a handful of steps. E-features that are read between them are off by more
    than their standard deviation, so the decay has to be sampled densely.

    Parameters
    ----------
    edges_ms : sequence of float
        Start and stop of the step.
    duration_ms : float
        End of the protocol.

    Returns
    -------
    ndarray, shape (t,)
    """
    coarse = np.append(np.arange(0.0, duration_ms, COARSE_MS), duration_ms)
    near = [edge + np.arange(-CLOSE_MS, NEAR_EDGE_MS, CLOSE_MS) for edge in edges_ms]
    times = np.unique(np.round(np.concatenate([coarse, *near]), 6))
    return times[(times >= 0) & (times <= duration_ms)]
