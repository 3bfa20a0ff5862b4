"""NEURON with a stated accuracy: CVODE's tolerance, and the times at which a response is recorded."""

from typing import Any

import numpy as np
from bluepyopt.ephys.recordings import CompRecording
from bluepyopt.ephys.simulators import NrnSimulator

from neurofleet.neurosim.cells.cell_model import FIXED_STEP_MS, Accuracy


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
