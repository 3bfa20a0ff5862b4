"""Small sets of units made for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.units import UnitsRefused


def spike_shape(times_s: np.ndarray, width: float = 1.0) -> np.ndarray:
    """A trough at 0 of 0.15 ms and a later, lower peak; known at any time."""
    ms = np.asarray(times_s) * 1000 / width
    return -np.exp(-((ms / 0.15) ** 2)) + 0.4 * np.exp(-(((ms - 0.5) / 0.25) ** 2))


def waveforms(rate_hz: float, before_ms: float = 1.2, after_ms: float = 1.8, n: int = 30) -> np.ndarray:
    samples = np.arange(-round(before_ms * rate_hz / 1000), round(after_ms * rate_hz / 1000) + 1)
    widths = 0.8 + 0.4 * np.random.default_rng(5).random(n)
    return np.array([spike_shape(samples / rate_hz, width) for width in widths])


def counts(n: int = 30, bins: int = 100) -> np.ndarray:
    return np.random.default_rng(6).poisson(40 * np.exp(-np.arange(bins) / 20), (n, bins)).astype(float)


def symmetric(n: int = 30, bins: int = 201) -> np.ndarray:
    half = np.random.default_rng(7).poisson(30, (n, bins // 2 + 1)).astype(float)
    half[:, 0] = 0
    return np.hstack([half[:, :0:-1], half])


def made(n: int = 30) -> dict[str, Any]:
    """All three modalities, with what must be known of them."""
    return {
        "waveform": waveforms(30_000, n=n),
        "waveform_rate_hz": 30_000.0,
        "isi": counts(n),
        "isi_bin_ms": 1.0,
        "acg": symmetric(n),
        "acg_bin_ms": 1.0,
        "unit_id": np.array([f"u{number}" for number in range(n)]),
        "cell_type": np.array(["PV", "SST"] * (n // 2) + ["PV"] * (n % 2)),
    }


def npz(path: Path, **changes: Any) -> Path:
    """Write the made units with some arrays changed, or left out (None)."""
    arrays = made() | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def refused(paths: Any, *words: str, **layout: Any) -> str:
    with pytest.raises(UnitsRefused) as error:
        open_units(paths, layout)
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text
