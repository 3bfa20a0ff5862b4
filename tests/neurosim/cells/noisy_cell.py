"""Write the demo cell with noise, a ramp and a step more: ``python -m tests.neurosim.cells.noisy_cell DIR``."""

import sys
from pathlib import Path

import numpy as np

from neurofleet.neurosim.cells.demo_cell import (
    DURATION_MS,
    JUNCTION_POTENTIAL_MV,
    KNOWN_PARAMETERS,
    SAMPLING_RATE_HZ,
    STEP_START_MS,
    STEP_STOP_MS,
    SWC,
    simulate_currents,
)
from neurofleet.neurosim.recordings.nwb_writer import write_nwb
from neurofleet.neurosim.recordings.recording import Sweep

STEPS_NA = (-0.1, -0.05, 0.13, 0.16, 0.18, 0.2)
NOISE_TRIALS, NOISE_START_MS, NOISE_STOP_MS, NOISE_NA, KNOT_MS = 3, 200.0, 1000.0, 0.09, 4.0
LONG_MS = 1200.0


def write_noisy_cell(folder: Path) -> None:
    """Write ``cell.swc`` and ``cell.nwb``; trials of the noise differ by a little current of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cell.swc").write_text(SWC)
    random = np.random.default_rng(5)
    stimuli = [("Long Square", DURATION_MS, amplitude, _step(amplitude)) for amplitude in STEPS_NA]
    knots = np.arange(NOISE_START_MS, NOISE_STOP_MS, KNOT_MS)
    common = NOISE_NA * (1.0 + random.standard_normal(knots.size))
    for _ in range(NOISE_TRIALS):
        own = common + 0.004 * random.standard_normal(knots.size)
        stimuli.append(("Noise 1", LONG_MS, 0.0, _framed(knots, own, LONG_MS)))
    ramp = _framed(np.array([200.0, 1000.0]), np.array([0.0, 0.2]), LONG_MS)
    stimuli += [("Ramp", LONG_MS, 0.2, ramp), ("Test", DURATION_MS, 0.01, _step(0.01))]
    sweeps = [_sweep(folder, number, *stimulus) for number, stimulus in enumerate(stimuli)]
    write_nwb(
        folder / "cell.nwb",
        sweeps,
        session_description="Simulated steps, noise and a ramp",
        cell_id="noisy",
        junction_potential_mV=JUNCTION_POTENTIAL_MV,
    )


def _step(amplitude_nA: float) -> tuple[np.ndarray, np.ndarray]:
    return _framed(np.array([STEP_START_MS, STEP_STOP_MS]), np.full(2, amplitude_nA), DURATION_MS)


def _framed(knots_ms: np.ndarray, current_nA: np.ndarray, total_ms: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a current with nothing before its first and after its last knot."""
    times = np.concatenate([[0.0, knots_ms[0] - 0.05], knots_ms, [knots_ms[-1] + 0.05, total_ms]])
    return times, np.pad(current_nA, 2)


def _sweep(
    folder: Path,
    number: int,
    name: str,
    total_ms: float,
    amplitude_nA: float,
    current: tuple[np.ndarray, np.ndarray],
) -> Sweep:
    times = np.arange(0.0, total_ms + 1e-9, 1000.0 / SAMPLING_RATE_HZ)
    (voltage,) = simulate_currents(folder / "cell.swc", [current], times, KNOWN_PARAMETERS)
    return Sweep(
        number=number,
        stimulus_name=name,
        sampling_rate_Hz=SAMPLING_RATE_HZ,
        current_nA=np.interp(times, *current),
        voltage_mV=voltage,
        start_ms=STEP_START_MS,
        stop_ms=STEP_STOP_MS,
        amplitude_nA=amplitude_nA,
        holding_nA=0.0,
        duration_ms=total_ms,
    )


if __name__ == "__main__":
    write_noisy_cell(Path(sys.argv[1]))
