"""Draws from the density of models given a recording: an ensemble of walkers, asked for models and told their scores.

With scores \\|z\\| in standard deviations of the recording, the density of a model is proportional to
``exp(-sum(z**2) / 2)`` within the bounds, flat on the search's axes. The walkers move by differential evolution (Ter
Braak & Vrugt 2008), as emcee does it: half of them are proposed at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from emcee import State
from emcee.model import Model
from emcee.moves import DEMove, RedBlueMove
from scipy.special import ndtri
from scipy.stats import rankdata

from neurofleet.neurosim.evolution.diverse_selection import DEFAULT_TOLERANCE, distances, select_over_seeds

WARMEST = 1e4
DISCARDED = 0.25
"""Share of the steps after the tempered beginning that is no part of the draws."""

_JITTER = 0.1  # of the spread of the models that are known, where there are fewer than walkers
_SAME = 1e-9
_WINDOW = 5.0  # autocorrelation times


class SnookerMove(RedBlueMove):
    """A step along the line through another walker, of the length that two more have along it.

    In place of emcee's `DESnookerMove`: that of emcee 3.1.6 scales the step with the distance of the walkers, and so
    draws from another density (variances of a normal density come out 0.7 times what they are).
    """

    def get_proposal(
        self, sample: np.ndarray, complement: Sequence[np.ndarray], random: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return proposals (n, P), and the logarithms of what their acceptance is multiplied with (n,)."""
        others = np.concatenate(complement)
        n, parameters = sample.shape
        anchor, first, second = others[np.argsort(random.rand(n, len(others)), axis=1)[:, :3].T]
        away = sample - anchor
        length = np.maximum(np.linalg.norm(away, axis=1), _SAME)
        direction = away / length[:, None]
        gamma = random.uniform(1.2, 2.2, n)
        along = gamma * ((first - second) * direction).sum(axis=1)
        proposed = sample + along[:, None] * direction
        then = np.maximum(np.linalg.norm(proposed - anchor, axis=1), _SAME)
        return proposed, (parameters - 1.0) * np.log(then / length)


class CrossoverMove(RedBlueMove):
    """A step of differential evolution in some of the parameters, as in DREAM (Vrugt et al. 2009).

    Walkers in narrow basins that are far from each other accept it where they reject a step in all parameters.
    """

    def get_proposal(
        self, sample: np.ndarray, complement: Sequence[np.ndarray], random: np.random.RandomState
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return proposals (n, P), and zeros (n,): the steps are as likely forth as back."""
        others = np.concatenate(complement)
        n, parameters = sample.shape
        first, second = others[np.argsort(random.rand(n, len(others)), axis=1)[:, :2].T]
        moved = random.rand(n, parameters) < random.choice(_CROSSOVER, n)[:, None]
        moved[np.arange(n), random.randint(parameters, size=n)] = True
        gamma = 2.38 / np.sqrt(2.0 * moved.sum(axis=1)) * random.choice(_SCALES, n)
        return sample + moved * gamma[:, None] * (first - second), np.zeros(n)


_CROSSOVER = (0.1, 0.3)  # shares of the parameters
_SCALES = (1.0, 0.3)

_MOVES = ((CrossoverMove(), 0.4), (DEMove(), 0.4), (DEMove(gamma0=1.0, sigma=0.01), 0.05), (SnookerMove(), 0.15))
"""The third jumps between basins by their whole distance, not exactly: walkers would come to lie on each other."""


class _Unscored(Exception):
    """Raised out of a move for points that are not scored yet."""

    def __init__(self, points: np.ndarray) -> None:
        super().__init__("points are to be scored first")
        self.points = points


@dataclass(frozen=True, eq=False)
class Step:
    """The walkers after a step; all that the next one depends on.

    Attributes
    ----------
    number : int
        0 for the walkers where they start.
    unit : ndarray, shape (W, P)
        In the unit cube of the search's axes.
    scores : ndarray, shape (W, M)
    accepted : ndarray of bool, shape (W,)
        Whether the walker moved.
    evaluations : int
        Models that were scored for this step.
    warmest : float
        The temperature at which the beginning starts.
    random : mapping
        State of the random numbers after the step.
    """

    number: int
    unit: np.ndarray
    scores: np.ndarray
    accepted: np.ndarray
    evaluations: int
    warmest: float
    random: Mapping[str, Any]

    def state(self) -> dict[str, Any]:
        """Return what `resumed` needs besides arrays: numbers and lists that JSON can hold."""
        words = self.random["state"]
        return {
            "number": self.number,
            "warmest": self.warmest,
            "key": words["key"].tolist(),
            "position": int(words["pos"]),
            "has_gauss": int(self.random["has_gauss"]),
            "gauss": float(self.random["gauss"]),
        }

    @classmethod
    def resumed(cls, state: Mapping[str, Any], unit: np.ndarray, scores: np.ndarray) -> Step:
        """Return the step of which `state` and arrays were stored."""
        random = {
            "bit_generator": "MT19937",
            "state": {"key": np.array(state["key"], np.uint32), "pos": state["position"]},
            "has_gauss": state["has_gauss"],
            "gauss": state["gauss"],
        }
        moved = np.zeros(len(unit), bool)
        return cls(state["number"], np.array(unit), np.array(scores), moved, 0, state["warmest"], random)


def log_density(scores: np.ndarray) -> np.ndarray:
    """Return the logarithm of the density, but for a constant, of scores (n, M), shape (n,)."""
    return -0.5 * (np.asarray(scores, np.float64) ** 2).sum(axis=1)


class PosteriorSampler:
    """Walkers that are asked for models and told their scores, step by step.

    The first steps are tempered: the density to the power of 1 / T, with T falling to 1. They are no draws.

    Parameters
    ----------
    start : ndarray, shape (W, P), or Step
        Different points of the unit cube, W even and at least 2 P; or the step to go on from.
    seed : int
        Of the random numbers; no matter when going on.
    beginning : int
        Tempered steps.
    """

    def __init__(self, start: np.ndarray | Step, seed: int, beginning: int) -> None:
        self._beginning = beginning
        self._random = np.random.RandomState(seed)
        self._told: list[np.ndarray] = []
        self._last = start if isinstance(start, Step) else None
        self._unasked: list[Step] = []
        if isinstance(start, Step):
            self._pending, self._unasked = self._advance()
        else:
            self._pending = np.array(start, np.float64)

    def ask(self) -> np.ndarray:
        """Return the points of the unit cube that are to be scored next, shape (n, P); the same until they are told."""
        return self._pending

    def tell(self, scores: np.ndarray) -> list[Step]:
        """Take in the scores, shape (n, M), of what `ask` returned.

        Returns
        -------
        list of Step
            Those that are now complete, mostly none or one.
        """
        scores = np.array(scores, np.float64)
        if self._last is None:
            energy = -log_density(scores)
            warmest = 2.0 * (np.median(energy) - energy.min()) / self._pending.shape[1]
            self._last = Step(
                0,
                self._pending,
                scores,
                np.ones(len(scores), bool),
                len(scores),
                float(np.clip(warmest, 1.0, WARMEST)),
                self._random.get_state(legacy=False),
            )
            first = [self._last]
        else:
            self._told.append(scores)
            first, self._unasked = self._unasked, []
        self._pending, steps = self._advance()
        return first + steps

    def temperature(self, step: int) -> float:
        """Return the temperature of a step, which must not be before the first is complete."""
        assert self._last is not None
        return float(self._last.warmest ** max(0.0, 1.0 - step / (self._beginning + 1)))

    def _advance(self) -> tuple[np.ndarray, list[Step]]:
        """Move the walkers until points are to be scored; return these, and the steps that were completed."""
        steps: list[Step] = []
        while True:
            try:
                self._last = self._step()
            except _Unscored as unscored:
                return unscored.points, steps
            self._told = []
            steps.append(self._last)

    def _step(self) -> Step:
        """Do the next step from its beginning with the scores that were told, in the order in which it needs them."""
        last = self._last
        assert last is not None
        self._random.set_state(last.random)
        temperature = self.temperature(last.number + 1)
        told = iter(self._told)
        evaluations = 0

        def densities(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal evaluations
            inside = ((points >= 0.0) & (points <= 1.0)).all(axis=1)
            found = np.full(len(points), -np.inf)
            scores = np.full((len(points), last.scores.shape[1]), np.nan)
            if inside.any():
                own = next(told, None)
                if own is None:
                    raise _Unscored(points[inside])
                evaluations += len(own)
                scores[inside] = own
                found[inside] = log_density(own) / temperature
            return found, scores

        state = State(last.unit.copy(), log_density(last.scores) / temperature, last.scores.copy())
        moves, weights = zip(*_MOVES, strict=True)
        move = moves[self._random.choice(len(moves), p=weights)]
        state, accepted = move.propose(Model(None, densities, map, self._random), state)
        random = self._random.get_state(legacy=False)
        return Step(last.number + 1, state.coords, state.blobs, accepted, evaluations, last.warmest, random)


def start_points(
    kept: np.ndarray, unit: np.ndarray, totals: np.ndarray, seeds: np.ndarray, walkers: int, objectives: int, seed: int
) -> np.ndarray:
    """Return where the walkers start: models of a hall of fame, then others of the fit, good and different.

    Parameters
    ----------
    kept : ndarray, shape (k, P)
        The hall of fame, best first.
    unit, totals, seeds : ndarray, shapes (n, P), (n,), (n,)
        Other models, and which seed of the fit found each.
    walkers : int
    objectives : int
    seed : int
        Of the points that are drawn around these models, where they are fewer than walkers.

    Returns
    -------
    ndarray, shape (walkers, P)
        Points of the unit cube, no two of them equal.
    """
    points = _distinct(kept)[:walkers]
    if len(points) < walkers and len(unit):
        chosen = select_over_seeds(unit, totals, seeds, walkers, objectives, DEFAULT_TOLERANCE)
        points = _distinct(np.concatenate([points, unit[chosen]]))[:walkers]
    missing = walkers - len(points)
    random = np.random.default_rng(seed)
    spread = np.maximum(points.std(axis=0), 0.01)
    around = points[random.integers(len(points), size=missing)]
    jittered = around + _JITTER * spread * random.standard_normal((missing, points.shape[1]))
    return np.concatenate([points, 1.0 - np.abs(1.0 - np.abs(jittered))])  # reflected at the bounds


def _distinct(points: np.ndarray) -> np.ndarray:
    """Return the points without those that an earlier one equals."""
    if not len(points):
        return points
    equal = distances(points, points) < _SAME
    return points[~np.tril(equal, -1).any(axis=1)]


def kept_steps(steps: int, beginning: int) -> slice:
    """Return which of the steps 0 to `steps` - 1 are draws: those after the beginning, but for the first quarter."""
    after = max(0, steps - 1 - beginning)
    return slice(min(steps, beginning + 1 + int(np.ceil(DISCARDED * after))), steps)


def split_rhat(chains: np.ndarray) -> float:
    """Return the R-hat of chains (n, W): split in halves, rank-normalised, the larger of bulk and tails.

    See Vehtari et al. 2021. Infinite for fewer than four steps, and where no chain moves.
    """
    half = len(chains) // 2
    if half < 2:
        return np.inf
    halves = np.concatenate([chains[:half], chains[-half:]], axis=1)
    return max(_rhat(halves), _rhat(np.abs(halves - np.median(halves))))


def _rhat(chains: np.ndarray) -> float:
    n = len(chains)
    z = ndtri((rankdata(chains).reshape(chains.shape) - 0.375) / (chains.size + 0.25))
    within = z.var(axis=0, ddof=1).mean()
    if within <= 0.0:
        return np.inf
    return float(np.sqrt((n - 1) / n + z.mean(axis=0).var(ddof=1) / within))


def autocorrelation_time(chains: np.ndarray) -> float:
    """Return the integrated autocorrelation time of chains (n, W), in steps.

    In Sokal's window as emcee's `integrated_time`, but about the mean of all chains, so that chains that stay in
    different places have a long one; and over all lags where no window is long enough, for which emcee 3.1.6 returns 1.
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
        Effective number of draws.
    """

    rhat: np.ndarray
    autocorrelation: np.ndarray
    effective: np.ndarray


def convergence(chains: np.ndarray) -> Convergence:
    """Return how well walkers (n, W, P) have mixed."""
    n, walkers, _ = chains.shape
    effective = effective_draws(chains)
    rhat = np.array([split_rhat(chain) for chain in np.moveaxis(chains, 2, 0)])
    return Convergence(rhat, n * walkers / effective if n >= 4 else np.full(len(rhat), np.inf), effective)


def effective_draws(chains: np.ndarray) -> np.ndarray:
    """Return the effective number of draws of walkers (n, W, P) by parameter, shape (P,)."""
    n, walkers, parameters = chains.shape
    if n < 4:
        return np.zeros(parameters)
    return n * walkers / np.array([autocorrelation_time(chain) for chain in np.moveaxis(chains, 2, 0)])


def largest_rhat(chains: np.ndarray) -> float:
    """Return the largest R-hat of the parameters of walkers (n, W, P)."""
    return max(split_rhat(chain) for chain in np.moveaxis(chains, 2, 0))


def spread_draws(steps: int, walkers: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and walkers of draws that lie evenly in a chain, in random order, shapes (min(n, all),)."""
    places = np.unique(np.linspace(0, steps * walkers - 1, min(number, steps * walkers)).round().astype(int))
    np.random.default_rng(seed).shuffle(places)
    return places // walkers, places % walkers


def effective_share(log_weights: np.ndarray) -> float:
    """Return which share of draws is left, in effect, when they are weighted to be draws of another density."""
    weights = np.exp(log_weights - log_weights.max())
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
