"""A few made units of two kinds, narrow and wide spikes, and settings that train in a second."""

from pathlib import Path

import numpy as np

from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.units import Units
from tests.learners.units.made_units import symmetric

QUICK = HippieSettings(width=4, features=8, fusion=16, latent=4, members=2, epochs=12, batch_size=16, pretrain_epochs=2)
KINDS = np.array(["narrow", "wide"])


def write_units(path: Path, n: int = 48, seed: int = 0, technology: str = "made", first: int = 0) -> Path:
    """Write units as npz: spikes narrow or wide, intervals short or long; six animals, both kinds in each."""
    rng = np.random.default_rng([seed, first])
    kind = np.arange(n) % 2
    ms = (np.arange(90) - 30) / 30
    width = (0.12 + 0.1 * kind + 0.02 * rng.random(n))[:, None]
    later = 0.4 * np.exp(-(((ms - 3 * width) / (1.6 * width)) ** 2))
    waveform = -np.exp(-((ms / width) ** 2)) + later + 0.02 * rng.normal(size=(n, len(ms)))
    mean_ms = np.where(kind, 40, 15)[:, None]
    isi = rng.poisson(60 * np.exp(-np.arange(100) / mean_ms)).astype(float)
    np.savez(
        path,
        waveform=waveform,
        waveform_rate_hz=30_000.0,
        isi=isi,
        isi_bin_ms=1.0,
        acg=symmetric(n) + rng.poisson(3, (n, 201)),
        acg_bin_ms=1.0,
        unit_id=np.array([f"u{first + number}" for number in range(n)]),
        cell_type=KINDS[kind],
        animal=np.array([f"m{number // 2 % 6}" for number in range(n)]),
        technology=np.full(n, technology),
    )
    return path


def small_units(folder: Path, **options: object) -> tuple[Units, np.ndarray]:
    """Return units and their class numbers."""
    units = open_units([write_units(folder / "units.npz", **options)])  # type: ignore[arg-type]
    return units, (units.column("cell_type") == "wide").astype(np.int64)
