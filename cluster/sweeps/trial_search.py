"""Which trials a sweep consists of, and which comes next.

Everything is computed from the sweep's description and from what its trials have left in their folders, so
that a sweep whose driver died goes on as if it had not: trials that have ended are not run again, those that
were running go on with their parameters, and a searcher knows again what it had learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurofleet.cluster.cluster_errors import ClusterError
from neurofleet.cluster.sweeps.search_space import ChoiceDimension, Dimension, Parameters, SearchSpace
from neurofleet.cluster.sweeps.trial_records import TrialFolder, TrialRow

if TYPE_CHECKING:
    import optuna


class SettingProposer(Protocol):
    """Where the parameters of a sweep come from: its settings are counted from 0."""

    def propose(self, setting: int) -> Parameters:
        """The parameters of the next setting."""

    def known(self, setting: int, parameters: Parameters) -> None:
        """Take note of a setting that was proposed in an earlier run of the sweep."""

    def learn(self, setting: int, score: float | None) -> None:
        """Take note of a setting's score, None when it failed."""


class ListedSettings:
    """The settings of a grid."""

    def __init__(self, settings: Sequence[Parameters]) -> None:
        self._settings = settings

    def propose(self, setting: int) -> Parameters:
        return self._settings[setting]

    def known(self, setting: int, parameters: Parameters) -> None:
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
    """Settings proposed by OptunaSettings's tree-structured Parzen estimator from the scores so far.

    Raises
    ------
    ClusterError
        If OptunaSettings is not installed.
    """

    def __init__(self, space: SearchSpace, seed: int, mode: str) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise ClusterError("The method optuna needs the package optuna: pip install optuna.") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._seed = seed
        self._distributions = {name: _distribution(d) for name, d in space.dimensions.items()}
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

    def known(self, setting: int, parameters: Parameters) -> None:
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


def _distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(dimension, ChoiceDimension):
        return CategoricalDistribution(range(len(dimension.values)))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class SweepTrials:
    """The trials of a sweep, each setting repeated with several seeds.

    Trial ``i`` is repeat ``i % repeats`` of setting ``i // repeats``, and its seed is the sweep's plus the
    repeat.

    Parameters
    ----------
    folder : Path
        The sweep's.
    proposer : SettingProposer
    settings, repeats, seed : int
    metric : str
    """

    def __init__(
        self, folder: Path, proposer: SettingProposer, settings: int, repeats: int, seed: int, metric: str
    ) -> None:
        self._folder = folder
        self._proposer = proposer
        self._repeats = repeats
        self._seed = seed
        self._metric = metric
        self.number = settings * repeats
        self.rows: dict[int, TrialRow] = {}
        self._parameters: dict[int, Parameters] = {}
        for index in range(self.number):
            if row := self.folder(index).row():
                self.rows[index] = row
        for setting in range(settings):
            self._recall(setting)
        self._waiting = [index for index in range(self.number) if index not in self.rows]
        self.running: set[int] = set()

    @property
    def unfinished(self) -> int:
        """How many trials have not begun in this process, and not ended in another."""
        return len(self._waiting)

    def folder(self, index: int) -> TrialFolder:
        """The folder of a trial."""
        return TrialFolder(self._folder, index)

    def next(self) -> dict[str, Any] | None:
        """Begin a trial: its ``index``, ``parameters`` and ``seed``. None when all have begun."""
        if not self._waiting:
            return None
        index = self._waiting.pop(0)
        self.running.add(index)
        setting, repeat = divmod(index, self._repeats)
        if setting not in self._parameters:
            self._parameters[setting] = self._proposer.propose(setting)
        folder, seed = self.folder(index), self._seed + repeat
        parameters = folder.parameters() or self._parameters[setting]  # a population's have changed since
        folder.set(parameters, seed)
        return {"index": index, "parameters": parameters, "seed": seed}

    def ended(self, index: int) -> TrialRow | None:
        """Take note of a trial that has ended; None if its folder does not say so."""
        row = self.folder(index).row()
        if row is not None:
            self.rows[index] = row
            self.running.discard(index)
            self._learn(index // self._repeats)
        return row

    def of_setting(self, setting: int) -> list[TrialRow]:
        """The trials of a setting that have ended."""
        first = setting * self._repeats
        return [self.rows[i] for i in range(first, first + self._repeats) if i in self.rows]

    def _recall(self, setting: int) -> None:
        """Take up a setting of which an earlier run has begun a trial."""
        for index in range(setting * self._repeats, (setting + 1) * self._repeats):
            if (parameters := self.folder(index).parameters()) is not None:
                self._parameters[setting] = parameters
                self._proposer.known(setting, parameters)
                self._learn(setting)
                return

    def _learn(self, setting: int) -> None:
        rows = self.of_setting(setting)
        if len(rows) == self._repeats:
            scores = [row.scores[self._metric] for row in rows if self._metric in row.scores]
            self._proposer.learn(setting, float(np.mean(scores)) if scores else None)
