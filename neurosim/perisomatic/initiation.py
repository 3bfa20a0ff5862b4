"""Where spikes begin: when they pass the soma and places along the axon."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL_MV = -20.0
SAME_SPIKE_MS = 3.0
AT_ONCE_MS = 0.005
"""Times that are nearer to each other than this are not told apart."""

SOMA_FIRST, AXON_FIRST, AT_ONCE, ALONE = "soma", "axon", "at once", "soma alone"


@dataclass(frozen=True)
class Place:
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


def spike_times(time_ms: np.ndarray, voltage_mV: np.ndarray, level_mV: float = LEVEL_MV) -> np.ndarray:
    """Return when a voltage rises through a level, between samples by straight lines."""
    under = voltage_mV[:-1] < level_mV
    i = np.flatnonzero(under & (voltage_mV[1:] >= level_mV))
    share = (level_mV - voltage_mV[i]) / (voltage_mV[i + 1] - voltage_mV[i])
    return time_ms[i] + share * (time_ms[i + 1] - time_ms[i])


def passages(soma_ms: np.ndarray, axon_ms: Sequence[np.ndarray]) -> list[SpikePassage]:
    """Follow each somatic spike along the axon.

    Parameters
    ----------
    soma_ms : ndarray
        Times of spikes at the soma.
    axon_ms : sequence of ndarray
        Times of spikes at each place of the axon; a spike within 3 ms of the somatic one is the same.
    """
    found = []
    for soma in soma_ms:
        delays = []
        for times in axon_ms:
            near = times[np.abs(times - soma) <= SAME_SPIKE_MS]
            delays.append(float(near[np.abs(near - soma).argmin()] - soma) if near.size else float("nan"))
        found.append(SpikePassage(float(soma), tuple(delays), *_begin(np.array(delays))))
    return found


def _begin(delays_ms: np.ndarray) -> tuple[str, int]:
    if not np.isfinite(delays_ms).any():
        return ALONE, -1
    first = int(np.nanargmin(delays_ms))
    if abs(delays_ms[first]) <= AT_ONCE_MS:
        return AT_ONCE, first
    return (AXON_FIRST if delays_ms[first] < 0 else SOMA_FIRST), first
