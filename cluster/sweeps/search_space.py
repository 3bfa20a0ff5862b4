"""Search spaces from plain data, as a job file has them, and how the settings to try are drawn from them.

``lr: {log_uniform: [1e-4, 1e-1]}``, ``steps: {integer: [1, 5]}``, ``dropout: {uniform: [0, 0.5]}``,
``width: [64, 128, 256]`` or ``width: {choice: [64, 128, 256]}``; anything else is a fixed value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurofleet.errors import ClusterError

if TYPE_CHECKING:
    import optuna

Parameters = dict[str, Any]


class SearchSpaceRefused(ClusterError):
    """A search space with faults; the message has a line for each."""

    exit_code = 2


@dataclass(frozen=True)
class ChoiceDimension:
    """One of some values."""

    values: tuple[Any, ...]

    def sample(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    def clip(self, value: Any) -> Any:
        return value

    def tested(self) -> tuple[Any, ...]:
        """Values that say whether all can be used."""
        return self.values


@dataclass(frozen=True)
class RangeDimension:
    """A number from low to high, both included; whole, or by its logarithm.

    Attributes
    ----------
    low, high : float
    whole, log : bool
    """

    low: float
    high: float
    whole: bool = False
    log: bool = False

    def sample(self, rng: np.random.Generator) -> Any:
        if self.whole:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if self.log:
            return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return float(rng.uniform(self.low, self.high))

    def tested(self) -> tuple[Any, ...]:
        """Values that say whether all can be used: both ends, and within one, or an odd and an even one."""
        within = self.low + (self.high - self.low) / math.e
        if self.whole:
            neighbours = (int(within), min(int(within) + 1, int(self.high)))
            return tuple(dict.fromkeys((int(self.low), int(self.high), *neighbours)))
        return self.low, self.high, within

    def clip(self, value: Any) -> Any:
        """The nearest value in the range."""
        nearest = min(max(value, self.low), self.high)
        return round(nearest) if self.whole else float(nearest)


Dimension = ChoiceDimension | RangeDimension


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, and what is fixed.

    Attributes
    ----------
    dimensions : dict
    fixed : dict
    """

    dimensions: dict[str, Dimension]
    fixed: Parameters

    def tested_values(self, name: str) -> tuple[Any, ...]:
        """Values of a parameter that say whether all can be used; none if it is not in the space."""
        if name in self.fixed:
            return (self.fixed[name],)
        return self.dimensions[name].tested() if name in self.dimensions else ()

    def tested(self, most: int = 2000) -> Iterator[Parameters]:
        """Yield combinations of values that say whether all can be used: all of them, or `most` at random."""
        values = [d.tested() for d in self.dimensions.values()]
        if math.prod(map(len, values)) <= most:
            combinations: Iterable[tuple] = itertools.product(*values)
        else:
            rng = np.random.default_rng(0)
            combinations = (tuple(each[int(rng.integers(len(each)))] for each in values) for _ in range(most))
        for combination in combinations:
            yield dict(zip(self.dimensions, combination, strict=True)) | self.fixed

    def sample(self, rng: np.random.Generator) -> Parameters:
        """Parameters drawn at random."""
        return {name: d.sample(rng) for name, d in self.dimensions.items()} | self.fixed

    def grid(self) -> list[Parameters]:
        """All combinations, the last name changing fastest.

        Raises
        ------
        SearchSpaceRefused
            If a range is searched.
        """
        if ranges := [name for name, d in self.dimensions.items() if isinstance(d, RangeDimension)]:
            raise SearchSpaceRefused(
                f"A grid needs a list of values for every parameter; {', '.join(ranges)} has a range. List"
                " its values, or use the method random or optuna."
            )
        values = [d.values for d in self.dimensions.values() if isinstance(d, ChoiceDimension)]
        return [
            dict(zip(self.dimensions, combination, strict=True)) | self.fixed
            for combination in itertools.product(*values)
        ]


def parse_space(data: Mapping[str, Any]) -> SearchSpace:
    """Read a search space.

    Raises
    ------
    SearchSpaceRefused
        With a sentence for every fault.
    """
    dimensions: dict[str, Dimension] = {}
    fixed: Parameters = {}
    faults = []
    for name, value in data.items():
        if not isinstance(value, list | tuple | dict):
            fixed[name] = value
            continue
        try:
            dimensions[name] = _dimension(value)
        except ValueError as error:
            faults.append(f"search.{name}: {error}")
    if faults:
        raise SearchSpaceRefused("\n".join(faults))
    return SearchSpace(dimensions, fixed)


def _dimension(value: Any) -> Dimension:
    if not isinstance(value, dict):
        return _choice(value)
    if len(value) != 1 or (kind := next(iter(value))) not in _KINDS:
        raise ValueError(
            f"one of {', '.join(_KINDS)} was expected, with its values, as in {{uniform: [0, 1]}}; it has"
            f" {', '.join(map(str, value)) or 'nothing'}"
        )
    content = value[kind]
    return _choice(content) if kind == "choice" else _range(kind, content)


_KINDS = ("uniform", "log_uniform", "integer", "choice")


def _choice(values: Any) -> ChoiceDimension:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ValueError(f"a list of values was expected, it has {values!r}")
    return ChoiceDimension(tuple(values))


def _range(kind: str, content: Any) -> RangeDimension:
    is_whole = kind == "integer"
    ends = [_number(end, is_whole) for end in content] if isinstance(content, list | tuple) else []
    if len(ends) != 2 or None in ends:
        what = "whole numbers" if is_whole else "numbers"
        raise ValueError(f"{kind} takes two {what}, the lowest and the highest; it has {content!r}")
    low, high = ends
    if not low < high or not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"{kind} goes from the lower number to the higher; it has {low} and {high}")
    if kind == "log_uniform" and low <= 0:
        raise ValueError(f"log_uniform takes numbers above 0; its lowest is {low}")
    return RangeDimension(low, high, whole=is_whole, log=kind == "log_uniform")


def _number(given: Any, is_whole: bool) -> Any:
    """Return a number, also of a text such as 1e-4, which YAML takes for a word; None if it is none."""
    if isinstance(given, str):
        try:
            return int(given) if is_whole else float(given)
        except ValueError:
            return None
    kinds = int if is_whole else (int, float)
    return given if isinstance(given, kinds) and not isinstance(given, bool) else None


class SettingProposer(Protocol):
    """Proposes the parameters of a sweep's settings, which are counted from 0."""

    def propose(self, setting: int) -> Parameters:
        """The parameters of the next setting."""

    def restore(self, setting: int, parameters: Parameters) -> None:
        """Restore a setting that was proposed in an earlier run of the sweep."""

    def learn(self, setting: int, score: float | None) -> None:
        """Learn a setting's score, None when it failed."""


class ListedSettings:
    """The settings of a grid."""

    def __init__(self, settings: Sequence[Parameters]) -> None:
        self._settings = settings

    def propose(self, setting: int) -> Parameters:
        return self._settings[setting]

    def restore(self, setting: int, parameters: Parameters) -> None:
        """Nothing to note: a list does not change."""

    def learn(self, setting: int, score: float | None) -> None:
        """Nothing to learn."""


class RandomSettings(ListedSettings):
    """Settings drawn at random, each from its own seed."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed

    def propose(self, setting: int) -> Parameters:
        return self._space.sample(np.random.default_rng([self._seed, setting]))


class OptunaSettings:
    """Settings proposed by Optuna's tree-structured Parzen estimator from the scores so far.

    Raises
    ------
    ClusterError
        If Optuna is not installed.
    """

    def __init__(self, space: SearchSpace, seed: int, mode: str) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ClusterError("The method optuna needs the package optuna: pip install optuna.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._seed = seed
        self._distributions = {name: optuna_distribution(d) for name, d in space.dimensions.items()}
        self._study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
        self._trials: dict[int, optuna.Trial] = {}

    def propose(self, setting: int) -> Parameters:
        self._reseed(setting)
        trial = self._trials[setting] = self._study.ask(self._distributions)
        searched = {
            name: d.values[trial.params[name]] if isinstance(d, ChoiceDimension) else trial.params[name]
            for name, d in self._space.dimensions.items()
        }
        return searched | self._space.fixed

    def restore(self, setting: int, parameters: Parameters) -> None:
        self._study.enqueue_trial(
            {
                name: d.values.index(parameters[name]) if isinstance(d, ChoiceDimension) else parameters[name]
                for name, d in self._space.dimensions.items()
            }
        )
        self._trials[setting] = self._study.ask(self._distributions)

    def learn(self, setting: int, score: float | None) -> None:
        import optuna

        trial = self._trials.pop(setting)
        if score is None or math.isnan(score):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(trial, score)

    def _reseed(self, setting: int) -> None:
        # By the setting, not once: the proposals are then the same whether or not the driver died before.
        import optuna

        self._study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence([self._seed, setting]).generate_state(1)[0]), constant_liar=True
        )


def optuna_distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    """Return a dimension as Optuna knows it; a choice is the number of its value."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, ChoiceDimension):
        return CategoricalDistribution(range(len(dimension.values)))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
