"""A sweep: one current step and the voltage meanwhile."""

from dataclasses import dataclass

import numpy as np

REST_MS = 100.0


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
    electrode : str
        Empty where the file does not tell.
    bias_current_nA : float
        The part of `holding_nA` that the amplifier added to the recorded current.
    bridge_balance_MOhm, access_resistance_MOhm : float or None
        As the file has them.
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
    electrode: str = ""
    bias_current_nA: float = 0.0
    bridge_balance_MOhm: float | None = None
    access_resistance_MOhm: float | None = None

    @property
    def time_ms(self) -> np.ndarray:
        """Times of the samples; the last one is the sweep's own last sample, kept when the rate is cut."""
        times = np.arange(self.voltage_mV.size) * (1000.0 / self.sampling_rate_Hz)
        times[-1] = self.duration_ms
        return times

    @property
    def rest_mV(self) -> float:
        """Median voltage of the last 100 ms before the step."""
        return float(np.median(self.voltage_between(self.start_ms - REST_MS, self.start_ms)))

    @property
    def deflection_mV(self) -> float:
        """Median voltage of the last fifth of the step above that before it."""
        last_fifth_ms = self.stop_ms - 0.2 * (self.stop_ms - self.start_ms)
        return float(np.median(self.voltage_between(last_fifth_ms, self.stop_ms))) - self.rest_mV

    def voltage_between(self, start_ms: float, stop_ms: float) -> np.ndarray:
        """Return the samples from a time to before another, at least one."""
        first, stop = (round(ms * self.sampling_rate_Hz / 1000.0) for ms in (start_ms, stop_ms))
        first = min(max(first, 0), self.voltage_mV.size - 1)
        return self.voltage_mV[first : max(stop, first + 1)]
