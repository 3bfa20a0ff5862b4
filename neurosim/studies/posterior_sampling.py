"""Draws from the density of models given a recording: particles that are asked for models and told their scores.

With scores \\|z\\| in standard deviations of the recording, the density of a model is proportional to
``exp(-sum(z**2) / 2)`` within the bounds, flat on the search's axes. The particles begin as draws from the bounds
alone; the power of the density rises from 0 to 1 in stages (sequential Monte Carlo, Del Moral et al. 2006). At the
beginning of a stage, particles are resampled in proportion to the rise, so that each basin keeps its share. Then they
move: a network that was fitted to the scores so far stands in for the model in many small steps, and where these end up
is accepted or not by the model's own scores (surrogate transitions, Liu 2001). That is exact whatever the network
predicts; a bad one costs acceptance. Where it predicts far too low a density, a particle would not get away for
hundreds of such moves: at the density itself, every other move is one short step by differential evolution
(ter Braak 2006), which the network has no part in.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

SWEEPS = 20
"""Moves of all particles in a stage at most; fewer where they have come far enough before."""


def sweeps_before_draws(sweeps: int) -> int:
    """Return how many moves there are at the density itself before the last stage, with so many in other stages."""
    return _FULL_STAGES * _LONGER * sweeps


DISCARDED = 0.25
"""Share of the sweeps of the last stage that is no part of the draws."""

_LEFT = 0.6  # of the particles, in effect, when they are weighted for the next stage
_FAR_ENOUGH = 0.4  # correlation with where the stage began, over particles, the mean of all parameters
_FULL_STAGES, _LONGER = 3, 6  # at the density itself before the last; their sweeps, of those of others
_INNER, _FULL_INNER, _LAST_INNER = (10, 2), (30, 0), (100, 0)  # steps on the network in one sweep and the next, each
# for every parameter; 0: a step without it
_SHORTEST = 0.2  # of steps without the network, as a share of those on it
_TOGETHER = 64  # particles that one thread moves
_TUNING = 100
_WANTED = 0.25  # acceptance of these steps
_SUBSETS = np.array([1.0, 0.3, 0.1])  # shares of the parameters that a step changes
_WINDOW = 5.0  # autocorrelation times
_GROUPS = 8

_RATE = 3e-3
_FAR, _NEAR, _FAR_WEIGHT = 300.0, 60.0, 0.2
_LINEAR = 3.0  # scores above are compressed to their logarithm
_HIGHEST = 20.0


@dataclass(frozen=True, eq=False)
class Step:
    """The particles after a sweep, and what was evaluated for it; a chain of steps is all that the next one depends on.

    Models and scores have 32 bits, as they are stored; what is calculated of them has 64.

    Attributes
    ----------
    number : int
        0 for the particles drawn from the bounds.
    stage : int
    power : float
        Of the density that the particles are draws of: 0 for the bounds alone, 1 for the density itself.
    last : bool
        Whether the step belongs to the last stage, whose particles are draws.
    parents : ndarray of int, shape (N,)
        Which particle of the step before each one comes from.
    proposed, proposed_scores : ndarray, shapes (N, P), (N, M)
        The models that were evaluated.
    accepted : ndarray of bool, shape (N,)
        Whether the particle moved to the proposed model.
    unit, scores : ndarray, shapes (N, P), (N, M)
        The particles, in the unit cube of the search's axes. Scores may have signs, which matter to the network only:
        what changes its sign is not as smooth without it.
    """

    number: int
    stage: int
    power: float
    last: bool
    parents: np.ndarray
    proposed: np.ndarray
    proposed_scores: np.ndarray
    accepted: np.ndarray
    unit: np.ndarray
    scores: np.ndarray

    @classmethod
    def after(
        cls,
        before: Step | None,
        *,
        stage: int,
        power: float,
        last: bool,
        parents: np.ndarray,
        proposed: np.ndarray,
        proposed_scores: np.ndarray,
        accepted: np.ndarray,
    ) -> Step:
        """Return the step that follows another; the first follows None, all of its models being accepted."""
        proposed, proposed_scores = np.asarray(proposed, np.float32), np.asarray(proposed_scores, np.float32)
        unit, scores = proposed, proposed_scores
        if before is not None:
            moved = accepted[:, None]
            unit = np.where(moved, proposed, before.unit[parents])
            scores = np.where(moved, proposed_scores, before.scores[parents])
        number = 0 if before is None else before.number + 1
        return cls(number, stage, power, last, parents, proposed, proposed_scores, accepted, unit, scores)


def log_density(scores: np.ndarray) -> np.ndarray:
    """Return the logarithm of the density, but for a constant, of scores (n, M), shape (n,)."""
    return -0.5 * (np.asarray(scores, np.float64) ** 2).sum(axis=1)


@dataclass(frozen=True)
class _Network:
    """Layers, models learned from at most, models in a batch, and passes."""

    layers: tuple[int, ...]
    rows: int
    batch: int
    epochs: int


_SMALL, _LARGE = _Network((128, 128), 30_000, 200, 30), _Network((256, 256, 256), 100_000, 512, 60)


class Surrogate:
    """A network that predicts the scores of models, with the signs that they come with.

    At the density itself it is a large one, if there are enough models for it: there, acceptance is all that counts.

    Parameters
    ----------
    unit, scores : ndarray, shapes (n, P), (n, M)
        Models that were scored. Of those that are far from the best, it learns from a tenth.
    power : float
        Of the density that it is to predict.
    seed : int
    """

    def __init__(self, unit: np.ndarray, scores: np.ndarray, power: float, seed: int) -> None:
        density = power * log_density(scores)
        below = density.max() - density
        used = np.flatnonzero((below < _FAR) | (np.arange(len(unit)) % 10 == 0))
        size = _LARGE if power == 1.0 and len(used) > _SMALL.rows else _SMALL
        used = used[-size.rows :]
        inputs, outputs = _inputs(unit[used]), _compressed(scores[used].astype(np.float64)).astype(np.float32)
        weights = np.where(below[used] < _NEAR, 1.0, _FAR_WEIGHT)
        network = MLPRegressor(
            hidden_layer_sizes=size.layers,
            batch_size=min(size.batch, len(inputs)),
            alpha=0.0,
            max_iter=1,
            warm_start=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that more epochs would be better
            warnings.filterwarnings("error", "Training interrupted")  # in place of KeyboardInterrupt, which it catches
            for epoch in range(size.epochs):
                rate = _RATE * 0.5 * (1.0 + np.cos(np.pi * epoch / size.epochs))
                network.set_params(learning_rate_init=rate, random_state=(seed + epoch) % 2**32)  # which shuffles anew
                try:
                    network.fit(inputs, outputs, weights)
                except UserWarning as warning:
                    raise KeyboardInterrupt from warning
        self._layers = list(zip(network.coefs_, network.intercepts_, strict=True))

    def log_density(self, unit: np.ndarray) -> np.ndarray:
        """Return the logarithm of the density of models (n, P) as it is predicted, shape (n,)."""
        values = _inputs(unit)
        for weights, offsets in self._layers[:-1]:
            values = np.maximum(values @ weights + offsets, 0.0)
        weights, offsets = self._layers[-1]
        return log_density(_expanded(values @ weights + offsets))


def _inputs(unit: np.ndarray) -> np.ndarray:
    return (np.sqrt(12.0) * (np.asarray(unit, np.float64) - 0.5)).astype(np.float32)


def _compressed(scores: np.ndarray) -> np.ndarray:
    size = np.abs(scores)
    return np.sign(scores) * np.where(
        size < _LINEAR, size, _LINEAR * (1.0 + np.log(np.maximum(size, _LINEAR) / _LINEAR))
    )


def _expanded(compressed: np.ndarray) -> np.ndarray:
    size = np.minimum(np.abs(compressed.astype(np.float64)), _HIGHEST)
    return np.where(size < _LINEAR, size, _LINEAR * np.exp(size / _LINEAR - 1.0))


class _Stage:
    """What does not change during a stage: the power, the network, and how long the steps on it are.

    Parameters
    ----------
    steps : sequence of Step
        All before the stage.
    seed : int
    """

    def __init__(self, steps: Sequence[Step], seed: int) -> None:
        before = steps[-1]
        density = log_density(before.scores)
        random = np.random.default_rng([seed, before.number, 1])
        self.number = before.stage + 1
        self.power = next_power(before.power, density)
        full = {step.stage for step in steps if step.power == 1.0}
        self.last = len(full) == _FULL_STAGES
        self.parents = np.arange(len(density))
        if self.power > before.power:
            self.parents = resampled((self.power - before.power) * density, random)
        self.start = before.unit[self.parents].astype(np.float64)
        evaluated = np.concatenate([step.proposed for step in steps])
        scores = np.concatenate([step.proposed_scores for step in steps])
        self._surrogate = Surrogate(evaluated, scores, self.power, seed)
        self._scales = np.ones(len(_SUBSETS))
        unit, density = self.start, self._surrogate.log_density(self.start)
        for _ in range(_TUNING):
            unit, density, moved, subsets = self._inner_step(unit, density, random)
            for i in range(len(_SUBSETS)):
                if (subsets == i).any():
                    faster = np.exp(0.3 * (moved[subsets == i].mean() - _WANTED))
                    self._scales[i] = np.clip(self._scales[i] * faster, 0.01, 3.0)

    def propose(self, unit: np.ndarray, steps: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return where steps on the network lead, (N, P), and by how much its log density is higher there (N,).

        Of 0 steps: where one step leads that knows no density.
        """

        if steps == 0:
            shares = _SHORTEST ** random.random(len(unit))
            return _rounded(self._stepped(unit, random, shares)[0]), np.zeros(len(unit))

        def moved(part: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            first = density = self._surrogate.log_density(part)
            for _ in range(steps):
                part, density, *_ = self._inner_step(part, density, random)
            part = _rounded(part)
            return part, self._surrogate.log_density(part) - first

        # Particles that move together are always the same ones, however many threads there are.
        parts = [unit[at : at + _TOGETHER] for at in range(0, len(unit), _TOGETHER)]
        with ThreadPoolExecutor(_usable_cpus()) as threads:
            ends = list(threads.map(moved, parts, random.spawn(len(parts))))
        return np.concatenate([end for end, _ in ends]), np.concatenate([gain for _, gain in ends])

    def _inner_step(
        self, unit: np.ndarray, density: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return particles, their log densities, which have moved, and how many parameters each was to change."""
        proposed, subsets = self._stepped(unit, random, 1.0)
        then = self._surrogate.log_density(proposed)
        moved = np.log(random.random(len(unit))) < self.power * (then - density)
        return np.where(moved[:, None], proposed, unit), np.where(moved, then, density), moved, subsets

    def _stepped(
        self, unit: np.ndarray, random: np.random.Generator, shares: np.ndarray | float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return particles after a step, of which the usual length is multiplied, and which subsets have changed."""
        n, parameters = unit.shape
        others = len(self.start)
        first = random.integers(others, size=n)
        second = (first + random.integers(1, others, size=n)) % others
        subsets = random.integers(len(_SUBSETS), size=n)
        changed = random.random((n, parameters)) < _SUBSETS[subsets][:, None]
        changed[np.arange(n), random.integers(parameters, size=n)] = True
        scale = shares * self._scales[subsets] * np.exp(0.5 * random.standard_normal(n)) * 2.38
        scale /= np.sqrt(2.0 * changed.sum(axis=1))
        stepped = _reflected(unit + changed * scale[:, None] * (self.start[first] - self.start[second]))
        return stepped, subsets


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS


def _reflected(unit: np.ndarray) -> np.ndarray:
    folded = np.abs(unit) % 2.0
    return np.where(folded > 1.0, 2.0 - folded, folded)


def next_power(power: float, density: np.ndarray) -> float:
    """Return the largest power, up to 1, at which enough of the particles are left in effect.

    Parameters
    ----------
    power : float
        That the particles are draws of.
    density : ndarray, shape (N,)
        Logarithms of their densities.
    """
    if effective_share((1.0 - power) * density) >= _LEFT:
        return 1.0
    low, high = -40.0, float(np.log(1.0 - power))
    for _ in range(60):
        middle = 0.5 * (low + high)
        if effective_share(np.exp(middle) * density) >= _LEFT:
            low = middle
        else:
            high = middle
    return float(power + np.exp(low))


def resampled(log_weights: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return indices of particles in proportion to their weights, evenly spread (systematic resampling), shape (N,)."""
    n = len(log_weights)
    total = np.cumsum(np.exp(log_weights - log_weights.max()))
    return np.minimum(np.searchsorted(total / total[-1], (random.random() + np.arange(n)) / n), n - 1)


class PosteriorSampler:
    """Particles that are asked for models and told their scores, sweep by sweep.

    Parameters
    ----------
    particles, parameters : int
    seed : int
        Of all random numbers: the same seed and scores give the same steps.
    steps : sequence of Step
        Those to go on from, all from the first on.
    sweeps : int
        Moves in a stage at most; six times as many in each of the three at the density itself that come before the
        last one, which has no end.
    """

    def __init__(
        self, particles: int, parameters: int, seed: int, steps: Sequence[Step] = (), sweeps: int = SWEEPS
    ) -> None:
        self._seed, self._sweeps = seed, sweeps
        self._steps = list(steps)
        self._stage: _Stage | None = None
        self._stage_begins = 0
        self._gain = np.zeros(particles)
        if steps:
            begins = next(step.number for step in steps if step.stage == steps[-1].stage)
            if begins:
                with threadpool_limits(1):  # the sums of several threads depend on their number
                    self._begin_stage(begins)
            self._propose()
        else:
            self._proposed = _rounded(np.random.default_rng([seed, 0]).random((particles, parameters)))

    def ask(self) -> np.ndarray:
        """Return the points of the unit cube that are to be scored next, shape (N, P); the same until they are told."""
        return self._proposed

    def tell(self, scores: np.ndarray) -> Step:
        """Take in the scores, shape (N, M), with signs or without, of what `ask` returned; return the complete step."""
        scores = _rounded(np.asarray(scores, np.float64))
        if not self._steps:
            everything = np.arange(len(scores))
            step = Step.after(
                None,
                stage=0,
                power=0.0,
                last=False,
                parents=everything,
                proposed=self._proposed,
                proposed_scores=scores,
                accepted=np.ones(len(scores), bool),
            )
        else:
            stage, before = self._stage, self._steps[-1]
            assert stage is not None
            parents = self._parents()
            gain = log_density(scores) - log_density(before.scores[parents]) - self._gain
            random = np.random.default_rng([self._seed, before.number, 3])
            step = Step.after(
                before,
                stage=stage.number,
                power=stage.power,
                last=stage.last,
                parents=parents,
                proposed=self._proposed,
                proposed_scores=scores,
                accepted=np.log(random.random(len(scores))) < stage.power * gain,
            )
        self._steps.append(step)
        self._propose()
        return step

    def _parents(self) -> np.ndarray:
        stage = self._stage
        assert stage is not None
        begins = len(self._steps) == self._stage_begins
        return stage.parents if begins else np.arange(len(stage.parents))

    def _propose(self) -> None:
        with threadpool_limits(1):
            if self._stage is None or self._is_over(self._stage):
                self._begin_stage(len(self._steps))
            stage, before = self._stage, self._steps[-1]
            assert stage is not None
            sweep = len(self._steps) - self._stage_begins
            random = np.random.default_rng([self._seed, before.number, 2])
            unit = before.unit[self._parents()].astype(np.float64)
            inner = _LAST_INNER if stage.last else _FULL_INNER if stage.power == 1.0 else _INNER
            steps = inner[sweep % len(inner)] * unit.shape[1]
            self._proposed, self._gain = stage.propose(unit, steps, random)

    def _begin_stage(self, begins: int) -> None:
        self._stage, self._stage_begins = _Stage(self._steps[:begins], self._seed), begins

    def _is_over(self, stage: _Stage) -> bool:
        sweeps = len(self._steps) - self._stage_begins
        if stage.last or not sweeps:
            return False
        if stage.power == 1.0:
            return sweeps >= _LONGER * self._sweeps
        now = self._steps[-1].unit.astype(np.float64)
        return sweeps >= self._sweeps or sweeps > 1 and _correlation(stage.start, now) < _FAR_ENOUGH


def _rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def _correlation(start: np.ndarray, now: np.ndarray) -> float:
    """Return the correlation over particles (N, P) of where they were and are, the mean of all parameters."""
    first, then = start - start.mean(axis=0), now - now.mean(axis=0)
    spread = np.maximum(start.std(axis=0) * now.std(axis=0), 1e-12)
    return float(((first * then).mean(axis=0) / spread).mean())


def drawn_steps(steps: Sequence[Step]) -> list[Step]:
    """Return the steps that are draws: those of the last stage, but for the first quarter."""
    last = [step for step in steps if step.last]
    return last[int(np.ceil(DISCARDED * len(last))) :]


def nested_rhat(chains: np.ndarray) -> float:
    """Return the R-hat of groups of chains (n, W), as of Margossian et al. 2024 for many short chains.

    The chains are divided by where they were, on average, in the first half, and compared in the second: it is near 1
    when they have forgotten. Groups of both halves in no order are compared as well, as they differ where there is a
    drift. In other respects as of Vehtari et al. 2021: rank-normalised, the larger of bulk and tails. Infinite for
    fewer than four steps, and where no chain moves.
    """
    return max(_nested(chains), _nested(np.abs(chains - np.median(chains))))


def _nested(chains: np.ndarray) -> float:
    n, number = chains.shape
    half, groups = n // 2, min(_GROUPS, number // 2)
    if half < 2:
        return np.inf
    each = number // groups
    first, second = chains[:half, : each * groups], chains[-half:, : each * groups]

    def pooled(part: np.ndarray) -> np.ndarray:
        return part.reshape(half, groups, each).swapaxes(1, 2).reshape(-1, groups)

    ordered = second[:, np.argsort(first.mean(axis=0), kind="stable")]
    return max(_rhat(pooled(ordered)), _rhat(np.concatenate([pooled(first), pooled(second)], axis=1)))


def _rhat(chains: np.ndarray) -> float:
    n = len(chains)
    z = ndtri((rankdata(chains).reshape(chains.shape) - 0.375) / (chains.size + 0.25))
    within = z.var(axis=0, ddof=1).mean()
    if within <= 0.0:
        return np.inf
    return float(np.sqrt((n - 1) / n + z.mean(axis=0).var(ddof=1) / within))


def autocorrelation_time(chains: np.ndarray) -> float:
    """Return the integrated autocorrelation time of chains (n, W), in steps.

    In Sokal's window, about the mean of all chains, so that chains that stay in different places have a long one; over
    all lags where no window is long enough.
    """
    n = len(chains)
    centred = chains - chains.mean()
    power = np.abs(np.fft.rfft(centred, 2 * n, axis=0)) ** 2
    covariance = np.fft.irfft(power, axis=0)[:n].sum(axis=1)
    if covariance[0] <= 0.0:
        return float(n)
    times = 2.0 * np.cumsum(covariance / covariance[0]) - 1.0
    enough = np.flatnonzero(np.arange(n) >= _WINDOW * times)
    return float(max(1.0, times[enough[0] if len(enough) else -1]))


@dataclass(frozen=True, eq=False)
class Convergence:
    """How well chains have mixed, by parameter.

    Attributes
    ----------
    rhat : ndarray, shape (P,)
    autocorrelation : ndarray, shape (P,)
        Integrated autocorrelation time in steps.
    effective : ndarray, shape (P,)
        Effective number of draws, if particles are independent.
    shift : ndarray, shape (P,)
        As of `half_shift`.
    """

    rhat: np.ndarray
    autocorrelation: np.ndarray
    effective: np.ndarray
    shift: np.ndarray


def convergence(chains: np.ndarray) -> Convergence:
    """Return how well chains (n, W, P), those of particles, have mixed."""
    n, number, _ = chains.shape
    effective = effective_draws(chains)
    rhat = np.array([nested_rhat(chain) for chain in _by_parameter(chains)])
    times = n * number / effective if n >= 4 else np.full(len(rhat), np.inf)
    return Convergence(rhat, times, effective, half_shift(chains))


def _by_parameter(chains: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the chains (n, W) of each parameter."""
    for i in range(chains.shape[2]):
        yield chains[:, :, i].astype(np.float64)


def half_shift(chains: np.ndarray) -> np.ndarray:
    """Return how far apart the means of the first and second half of chains (n, W, P) are, shape (P,).

    In standard deviations of the draws. `nested_rhat` compares particles with each other, and hardly sees what all of
    them do together. Infinite for fewer than four steps.
    """
    half = len(chains) // 2
    if half < 2:
        return np.full(chains.shape[2], np.inf)
    return np.array(
        [abs(c[:half].mean() - c[-half:].mean()) / max(float(c.std()), 1e-12) for c in _by_parameter(chains)]
    )


def effective_draws(chains: np.ndarray) -> np.ndarray:
    """Return the effective number of draws of chains (n, W, P) by parameter, shape (P,)."""
    n, number, parameters = chains.shape
    if n < 4:
        return np.zeros(parameters)
    return n * number / np.array([autocorrelation_time(chain) for chain in _by_parameter(chains)])


def largest_rhat(chains: np.ndarray) -> float:
    """Return the largest R-hat of the parameters of chains (n, W, P)."""
    return max(nested_rhat(chain) for chain in _by_parameter(chains))


def spread_draws(steps: int, particles: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and particles of draws that lie evenly in a chain, in random order, shapes (min(n, all),)."""
    places = np.unique(np.linspace(0, steps * particles - 1, min(number, steps * particles)).round().astype(int))
    np.random.default_rng(seed).shuffle(places)
    return places // particles, places % particles


def effective_share(log_weights: np.ndarray) -> float:
    """Return which share of draws is left, in effect, when they are weighted to be draws of another density."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
