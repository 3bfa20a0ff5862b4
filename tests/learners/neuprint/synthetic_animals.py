"""Synthetic animals whose neurons have known types that differ only in their dynamics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from neurofleet.learners.neuprint.population_recordings import Recording, Recordings, gathered

RATE_HZ = 4.3
SUBSTEPS = 6
STEP_S = 1 / (RATE_HZ * SUBSTEPS)
ADAPTATION_S = 1.5
CALCIUM_S = 0.7
DRIVE_S, RUNNING_S = 2.0, 6.0
OWN_SD = 0.9
BASE_RATE_HZ = 2.0
LABEL = "type"


@dataclass(frozen=True)
class NeuronType:
    """What the neurons of one type share.

    Attributes
    ----------
    share : float
        Of all neurons.
    tau_s : float
        Time constant of the neuron's own fluctuations.
    adaptation, coupling, running : float
        Weights of its adaptation, of the drive that all neurons share, and of running, in the log rate.
    """

    share: float
    tau_s: float
    adaptation: float
    coupling: float
    running: float


TYPES = {
    "A": NeuronType(0.34, 0.6, 0.0, 1.2, 0.0),
    "B": NeuronType(0.14, 0.6, 0.0, -1.2, 0.0),
    "C": NeuronType(0.18, 0.25, 0.0, 0.3, 0.0),
    "D": NeuronType(0.18, 3.0, 0.0, 0.3, 0.0),
    "E": NeuronType(0.16, 0.6, 4.0, 0.3, 0.8),
}
ADAPTING_TYPES = {
    **TYPES,
    "D": NeuronType(0.18, 3.0, 0.0, 0.3, 0.8),
    "E": NeuronType(0.16, 0.6, 1.0, 0.3, 0.0),
}


def synthetic_animal(
    name: str,
    *,
    n_neurons: int = 200,
    n_frames: int = 3000,
    jitter: float = 0.15,
    snr: float = 3.0,
    real_adaptation: bool = False,
    same_parameters: bool = False,
    seed: int = 0,
) -> tuple[Recording, np.ndarray]:
    """Simulate one animal: Poisson spikes from shared and own fluctuations, seen through calcium.

    Types A and B differ only in the sign of their coupling to the shared drive, so only the population tells
    them apart; C and D differ in their own time constant; E follows running. With `real_adaptation`, E
    adapts (1 in the log rate per Hz of its recent rate) and running moves D instead.

    Parameters
    ----------
    name : str
        Of the animal, and of its one session.
    n_neurons, n_frames : int
        Frames are at 4.3 Hz.
    jitter : float
        s.d. of the log of each neuron's parameters around its type's.
    snr : float
        s.d. of calcium over s.d. of the noise.
    real_adaptation : bool
    same_parameters : bool
        All types have the parameters of A: nothing can be learned.
    seed : int

    Returns
    -------
    recording : Recording
        Behaviour: running, and a channel of noise. No positions.
    types : (n_neurons,) str
        "A" to "E".
    """
    rng = np.random.default_rng(seed)
    kinds = ADAPTING_TYPES if real_adaptation else TYPES
    names = np.array(list(kinds))
    types = rng.choice(names, size=n_neurons, p=[kind.share for kind in kinds.values()])
    source = np.full(n_neurons, "A") if same_parameters else types
    tau, adaptation, coupling, running = (
        np.array([getattr(kinds[kind], field) for kind in source]) * np.exp(jitter * rng.standard_normal(n_neurons))
        for field in ("tau_s", "adaptation", "coupling", "running")
    )
    base = np.log(BASE_RATE_HZ) + 0.3 * rng.standard_normal(n_neurons)
    steps = n_frames * SUBSTEPS
    drive = _fluctuation(rng, np.array([DRIVE_S]), steps)
    run = np.maximum(_fluctuation(rng, np.array([RUNNING_S]), steps), 0.0)
    log_rate = OWN_SD * _fluctuation(rng, tau, steps) + drive * coupling + run * running
    jump = 1 / ADAPTATION_S if real_adaptation else (1 - np.exp(-STEP_S / ADAPTATION_S)) / 3
    spikes = _spikes(rng, log_rate, base - 0.4, adaptation, jump)
    calcium = lfilter([1.0], [1.0, -np.exp(-STEP_S / CALCIUM_S)], spikes, axis=0)
    frames = calcium.reshape(n_frames, SUBSTEPS, n_neurons).mean(axis=1)
    frames /= np.maximum(frames.std(axis=0), 1e-9)
    frames += rng.standard_normal(frames.shape) / snr
    running_seen = run.reshape(n_frames, SUBSTEPS).mean(axis=1)
    behaviour = np.column_stack([running_seen, rng.standard_normal(n_frames)])
    recording = Recording(
        animal=name,
        session=name,
        activity=_standardised(frames),
        valid=np.ones(frames.shape, dtype=bool),
        behaviour=_standardised(behaviour),
        behaviour_names=("running", "noise"),
        rate_hz=RATE_HZ,
        neuron_ids=np.array([f"{name}/{number}" for number in range(n_neurons)]),
    )
    return recording, types


def synthetic_recordings(n_animals: int = 3, *, seed: int = 0, **settings: float | bool) -> Recordings:
    """Simulate several animals, named s0, s1, …, with their label ``type``; see `synthetic_animal`."""
    animals = [
        synthetic_animal(f"s{number}", seed=seed * 1000 + number, **settings)  # type: ignore[arg-type]
        for number in range(n_animals)
    ]
    labels = [pd.DataFrame({LABEL: types}) for _, types in animals]
    return gathered([recording for recording, _ in animals], labels)


def _fluctuation(rng: np.random.Generator, tau_s: np.ndarray, steps: int) -> np.ndarray:
    """Return Ornstein-Uhlenbeck processes of unit variance, (steps, len(tau_s)), in equilibrium."""
    keep = np.exp(-STEP_S / tau_s)
    noise = rng.standard_normal((steps, len(tau_s))) * np.sqrt(1 - keep**2)
    noise[0] = rng.standard_normal(len(tau_s))
    for column, factor in enumerate(keep):
        noise[:, column] = lfilter([1.0], [1.0, -factor], noise[:, column])
    return noise


def _spikes(
    rng: np.random.Generator, log_rate: np.ndarray, base: np.ndarray, adaptation: np.ndarray, jump: float
) -> np.ndarray:
    """Return Poisson counts per step; the log rate less adaptation stays within [-4, 2.2] of `base`."""
    adapting = adaptation > 0
    rate = np.exp(base + np.clip(log_rate, -4.0, 2.2)) * STEP_S
    counts = rng.poisson(rate).astype(np.float64)
    if not adapting.any():
        return counts
    decay = np.exp(-STEP_S / ADAPTATION_S)
    level = np.zeros(int(adapting.sum()))
    target, weight, start = log_rate[:, adapting], adaptation[adapting], base[adapting]
    for step in range(len(target)):
        now = rng.poisson(np.exp(start + np.clip(target[step] - weight * level, -4.0, 2.2)) * STEP_S)
        counts[step, adapting] = now
        level = level * decay + now * jump
    return counts


def _standardised(values: np.ndarray) -> np.ndarray:
    return ((values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)).astype(np.float32)
