"""Voltages of all kinds, for comparing features with eFEL's: spikes of any shape, plateaus, blocks, noise."""

import numpy as np

START_MS, STOP_MS = 30.0, 129.995


def times(draw: np.random.Generator, kind: int) -> np.ndarray:
    """Return recorded times: even, fine, coarse before or after the step, or at random."""
    end = STOP_MS + draw.choice([15.005, 60.0, 205.3])
    close = np.arange(round((STOP_MS + 10) / 0.1)) * 0.1
    if kind == 0:
        return 0.1 * np.arange(round(end / 0.1) + 1)
    if kind == 1:
        return np.concatenate([close, np.arange(close[-1] + 5.0, end + 5.0, 5.0)])
    if kind == 2:
        return np.concatenate([[0.0, 5.0, 10.0, 15.0, 20.0, 21.0, 23.0], np.arange(25.0, end, 0.1)])
    if kind == 3:
        return np.arange(0.0, end, 0.025)
    return np.unique(np.concatenate([[0.0, end], draw.uniform(0.0, end, int(12 * end))]))


def trace(draw: np.random.Generator, time_ms: np.ndarray) -> np.ndarray:
    """Return the voltage of one response, mV."""
    end = time_ms[-1]
    charge = 1 - np.exp(-np.maximum(time_ms - START_MS, 0) / 8)
    decay = np.exp(-np.maximum(time_ms - STOP_MS, 0) / 15)
    voltage = draw.uniform(-95, -55) + draw.choice([0.0, draw.normal(0, 5), 30.0]) * charge * decay
    height, width, after = draw.uniform(30, 130), draw.uniform(0.1, 2), draw.uniform(0, 25)
    for peak in _spike_times(draw, end):
        gone = np.maximum(time_ms - peak, 0)
        voltage += height * draw.uniform(0.6, 1.1) * np.exp(-(np.abs(time_ms - peak) ** draw.choice([1, 2])) / width)
        voltage -= after * (np.exp(-gone / 12) - np.exp(-gone / 4))
    return _disturbed(draw, time_ms, voltage)


def _spike_times(draw: np.random.Generator, end_ms: float) -> np.ndarray:
    edges = [
        START_MS - 0.2,
        START_MS,
        START_MS + 0.3,
        STOP_MS - 0.3,
        STOP_MS,
        end_ms - 0.3,
        end_ms - 0.1,
        0.2,
    ]
    kind = draw.integers(6)
    if kind == 0:
        return np.empty(0)
    if kind == 1:
        return draw.choice(edges, 1)
    if kind == 2:
        return draw.uniform(START_MS, STOP_MS, 2)
    if kind == 3:
        return np.arange(START_MS + 2, STOP_MS + 5, draw.choice([4.0, 7.3]))
    if kind == 4:
        return START_MS + np.cumsum(draw.uniform(2, 20) * np.exp(0.3 * draw.standard_normal(12)))
    return np.concatenate([draw.choice(edges, 3), draw.uniform(0, end_ms, 5)])


def _disturbed(draw: np.random.Generator, time_ms: np.ndarray, voltage: np.ndarray) -> np.ndarray:
    begin = draw.uniform(START_MS, STOP_MS)
    inside = (time_ms > begin) & (time_ms < begin + draw.choice([20.0, 49.9, 50.0, 50.1, 80.0]))
    if draw.random() < 0.25:
        voltage = np.where(inside, np.maximum(voltage, draw.uniform(-55, 0)), voltage)
    elif draw.random() < 0.2:
        voltage = np.where(inside, draw.uniform(-90, -74), voltage)
    if draw.random() < 0.2:
        voltage = np.where(time_ms > STOP_MS, np.maximum(voltage, draw.uniform(-60, 0)), voltage)
    if draw.random() < 0.1:
        voltage = np.where(time_ms < START_MS * draw.uniform(0.2, 1.2), draw.uniform(-30, 10), voltage)
    if draw.random() < 0.3:
        voltage = voltage + draw.choice([0.01, 0.5, 3.0, 12.0]) * draw.standard_normal(time_ms.size)
    if draw.random() < 0.2:
        voltage = np.round(voltage + 0.05, 1) + 0.003  # ties, none of them at a threshold
    return voltage.astype(np.float32) if draw.random() < 0.3 else voltage
