"""A small cell of known parameters and simulated recordings of it: input for a fit whose true answer is known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from neurofleet.neurosim.cells.cell_model import Accuracy, CellParameter
from neurofleet.neurosim.cells.fit_model import SOMA, FitModel, location, recording_name
from neurofleet.neurosim.cells.morphology import MorphologyFile
from neurofleet.neurosim.cells.recipe import load_recipe
from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
from neurofleet.neurosim.features.step_protocols import TargetSet
from neurofleet.neurosim.recordings.nwb_writer import write_nwb
from neurofleet.neurosim.recordings.recording import Sweep

SWC = """\
# A small spiny cell: soma, two basal dendrites, an apical trunk, an axon.
1 1 0 0 0 9 -1
2 1 0 -9 0 9 1
3 1 0 9 0 9 1
4 3 -9 0 0 0.9 1
5 3 -75 -25 0 0.6 4
6 3 9 0 0 0.9 1
7 3 75 -25 0 0.6 6
8 4 0 9 0 1.4 1
9 4 0 125 0 0.7 8
10 2 0 -9 0 0.6 1
11 2 0 -80 0 0.4 10
"""

KNOWN_PARAMETERS = {
    "cm.all": 2.2,
    "g_pas.all": 1.5e-4,
    "e_pas.all": -84.0,
    "gbar_Ih.soma": 3.0e-6,
    "gbar_Ih.dend": 3.0e-6,
    "gbar_Ih.apic": 5.0e-6,
    "gbar_NaTs2_t.soma": 0.45,
    "gbar_NaTs2_t.apic": 0.01,
    "gbar_NaTa_t.axon": 5.0,
    "gbar_Nap_Et2.axon": 1.0e-3,
    "gbar_Im.dend": 5.0e-4,
    "gbar_Im.apic": 1.0e-3,
    "gbar_Kv3_1.soma": 0.15,
    "gbar_Kv3_1.axon": 0.8,
    "gbar_K_Tst.axon": 0.2,
    "gbar_K_Tst.soma": 0.05,
    "gbar_K_Pst.soma": 0.01,
    "gbar_SK.soma": 1.0e-3,
    "gbar_Ca_HVA.soma": 3.0e-4,
    "decay_CaDynamics.soma": 100.0,
}

RECORDING, KNOWN_FILE = "cell.nwb", "known-parameters.json"

# The silent steps stay where the membrane is passive, so that the passive stage has a true answer.
AMPLITUDES_NA = (-0.1, -0.06, -0.03, 0.03, 0.13, 0.16, 0.2)
STEP_START_MS, STEP_STOP_MS, DURATION_MS = 250.0, 500.0, 600.0
SAMPLING_RATE_HZ = 20_000.0
# In place of channel noise, which grows with depolarisation and makes each repeat spike slightly differently.
STEP_NOISE, STEP_NOISE_MS, STEP_NOISE_EVERY_MS = 0.12, 5.0, 0.5  # share of the step, correlation time, grid
NOISE_MV = 0.05  # of each sample
DRIFT_MV, DRIFT_MS = 0.15, 150.0  # slow drift of the resting potential: standard deviation, correlation time
JUNCTION_POTENTIAL_MV = 14.0
REPEATS = 5
ATOL = 1e-5


def write_demo_cell(folder: Path, seed: int = 1, spread: float = 0.0) -> tuple[Path, Path]:
    """Write ``cell.swc``, ``cell.nwb`` and the known parameters into `folder`, and return the paths of the first two.

    Builds a cell in this process's NEURON and leaves it there.

    Parameters
    ----------
    folder : Path
    seed : int
        Seed of the noise in the recordings, and of the spread.
    spread : float
        Standard deviation of the logarithm of each conductance about its known value: for several cells that
        are similar but not equal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    morphology = folder / "cell.swc"
    morphology.write_text(SWC)
    noise = np.random.default_rng(seed)
    parameters = dict(KNOWN_PARAMETERS)
    if spread:
        other = np.random.default_rng([seed, 1])
        for name in parameters:
            if name.startswith("gbar_"):
                parameters[name] *= float(other.lognormal(0.0, spread))
    time_ms = np.arange(0.0, DURATION_MS + 1e-9, 1000.0 / SAMPLING_RATE_HZ)
    current = np.where((time_ms >= STEP_START_MS) & (time_ms < STEP_STOP_MS), 1.0, 0.0)
    amplitudes_nA = np.repeat(AMPLITUDES_NA, REPEATS)
    sweeps = [
        Sweep(
            number=number,
            stimulus_name="Long Square",
            sampling_rate_Hz=SAMPLING_RATE_HZ,
            current_nA=amplitude_nA * current,
            voltage_mV=voltage_mV + _recording_noise(noise, time_ms),
            start_ms=STEP_START_MS,
            stop_ms=STEP_STOP_MS,
            amplitude_nA=float(amplitude_nA),
            holding_nA=0.0,
            duration_ms=DURATION_MS,
        )
        for number, (amplitude_nA, voltage_mV) in enumerate(
            zip(
                amplitudes_nA,
                simulate_demo_cell(morphology, amplitudes_nA, time_ms, noise, parameters),
                strict=True,
            )
        )
    ]
    (folder / KNOWN_FILE).write_text(json.dumps(parameters, indent=1))
    recording = write_nwb(
        folder / RECORDING,
        sweeps,
        session_description="Simulated current-clamp steps of a cell of known parameters",
        cell_id="demo",
        junction_potential_mV=JUNCTION_POTENTIAL_MV,
    )
    return morphology, recording


def known_parameters(recording: Path) -> dict[str, float]:
    """Return the parameters of the demo cell that was simulated for a recording; none for any other recording."""
    file = recording.with_name(KNOWN_FILE)
    return dict(json.loads(file.read_text())) if recording.name == RECORDING and file.is_file() else {}


def _recording_noise(random: np.random.Generator, time_ms: np.ndarray) -> np.ndarray:
    """Return white noise and a slow drift, in mV, shape (n,)."""
    drift = _ornstein_uhlenbeck(random, time_ms, DRIFT_MS)
    return DRIFT_MV * drift + NOISE_MV * random.standard_normal(time_ms.size)


def _ornstein_uhlenbeck(random: np.random.Generator, time_ms: np.ndarray, correlation_ms: float) -> np.ndarray:
    """Return a stationary process of standard deviation 1 at evenly spaced times, shape (n,)."""
    keep = np.exp(-(time_ms[1] - time_ms[0]) / correlation_ms)
    kicks = random.standard_normal(time_ms.size)
    kicks[1:] *= np.sqrt(1.0 - keep**2)
    return lfilter([1.0], [1.0, -keep], kicks)


def simulate_demo_cell(
    morphology: Path,
    amplitudes_nA: Sequence[float] | np.ndarray,
    time_ms: np.ndarray,
    noise: np.random.Generator,
    parameters: Mapping[str, float],
) -> list[np.ndarray]:
    """Return the somatic voltage (mV) at `time_ms` of a cell of these parameters, for each (noisy) step."""
    steps = [_noisy_step(noise, amplitude_nA) for amplitude_nA in amplitudes_nA]
    return simulate_currents(morphology, steps, time_ms, parameters)


def simulate_currents(
    morphology: Path,
    currents: Sequence[tuple[np.ndarray, np.ndarray]],
    time_ms: np.ndarray,
    parameters: Mapping[str, float],
) -> list[np.ndarray]:
    """Return the somatic voltage (mV) at `time_ms` of a demo cell of these parameters, for each current.

    Parameters
    ----------
    morphology : Path
    currents : sequence of (ndarray, ndarray)
        Times (ms) and currents (nA), with straight lines between them.
    time_ms : ndarray, shape (t,)
    parameters : mapping
    """
    from bluepyopt.ephys.protocols import SweepProtocol
    from bluepyopt.ephys.recordings import CompRecording
    from bluepyopt.ephys.stimuli import NrnCurrentPlayStimulus

    soma = location(SOMA)
    protocols = {}
    for number, (times_ms, current_nA) in enumerate(currents):
        name = f"current{number}"
        recording = CompRecording(name=recording_name(name), location=soma, variable="v")
        played = NrnCurrentPlayStimulus(times_ms, current_nA, location=soma)
        played.total_duration = float(time_ms[-1])
        protocols[name] = SweepProtocol(name, [played], [recording], cvode_active=True)
    warm = WarmEvaluator(demo_model(morphology).build_evaluator())
    responses = warm.responses([parameters[name] for name in warm.parameter_names], protocols)
    warm.close()
    recorded = [responses[recording_name(name)] for name in protocols]
    return [np.interp(time_ms, response["time"], response["voltage"]) for response in recorded]


def demo_model(morphology: Path) -> "FitModel":
    """Return the demo cell with all parameters of its recipe free, and nothing to be scored on."""
    recipe = load_recipe("demo", "spiny", morphology.parent)
    last = len(recipe.stages) - 1
    bounds = recipe.bounds_until(last, has_apical=True)
    return FitModel(
        cell="demo",
        morphology=MorphologyFile.read(morphology),
        axon=recipe.axon,
        conditions=recipe.conditions.conditions(),
        mechanisms={s: tuple(names) for s, names in recipe.mechanisms_until(last, True).items()},
        free=tuple(
            CellParameter(parameter, section, *limits)
            for (parameter, _, section), limits in ((name.rpartition("."), limits) for name, limits in bounds.items())
        ),
        fixed=recipe.fixed_until(last, has_apical=True),
        distributions={},
        targets=TargetSet(protocols={}, targets=()),
        accuracy=Accuracy(ATOL),
    )


def _noisy_step(random: np.random.Generator, amplitude_nA: float) -> tuple[np.ndarray, np.ndarray]:
    """Return times (ms) and current (nA) of a step with jumps at its ends and noise on top."""
    inside_ms = np.arange(STEP_START_MS, STEP_STOP_MS + 1e-9, STEP_NOISE_EVERY_MS)
    noise = 1.0 + STEP_NOISE * _ornstein_uhlenbeck(random, inside_ms, STEP_NOISE_MS)
    times_ms = np.concatenate([[0.0, STEP_START_MS], inside_ms, [STEP_STOP_MS, DURATION_MS]])
    return times_ms, amplitude_nA * np.pad(noise, 2)
