"""What a parameter sweep is: its trials' function, search space, scheduler, resources, result.

What a trial does is named by a factory, ``package.module:function``. The function is called in a process of its own as
``function(payload, parameters, seed, folder, report)`` and returns its scores, a dict of numbers. After each epoch it
calls ``report(metrics)``; `neurofleet.cluster.training.trainer.train` does so with ``progress=report``. A trial that
the scheduler stops does not return from that call.

The state of a sweep is in its folder, in files that its trials write as they go: ``trial-00000/trial.json``
(parameters, seed), ``reports.jsonl`` and ``result.json``, and ``trials.parquet`` (there or elsewhere) with a row for
each trial that has ended. Running the sweep again goes on from there. When a trial's process died, its function is
called again in the same folder; with `train` in that folder it goes on from its last epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from neurofleet.cluster.sweeps.search_space import SearchSpace, parse_space
from neurofleet.cluster.sweeps.trial_records import TrialRow
from neurofleet.errors import ClusterError

TABLE = "trials.parquet"


class SweepFailed(ClusterError):
    """No trial of a sweep has a score."""


class SweepRefused(ClusterError):
    """A sweep that cannot be run as it is asked for."""

    exit_code = 2


@dataclass(frozen=True)
class SweepScheduler:
    """When a trial ends early, or takes over another's state.

    Attributes
    ----------
    kind : {'none', 'asha', 'pbt'}
        Asynchronous successive halving (Li et al., 2020, MLSys) stops the trials that are behind at certain
        epochs. Population-based training (Jaderberg et al., 2017) lets them go on from the checkpoint of a
        better one with its parameters changed; the trial then trains with `train` in its own folder, and
        gives the searched parameters as `Training.changeable`.
    max_epochs : int
        Of a trial.
    grace_epochs : int
        No trial is stopped before so many.
    reduction : float
        At each of the epochs ``grace_epochs * reduction ** k`` one in so many goes on.
    perturb_epochs : int
        How often a population is compared.
    """

    kind: Literal["none", "asha", "pbt"] = "none"
    max_epochs: int = 100
    grace_epochs: int = 1
    reduction: float = 3.0
    perturb_epochs: int = 4


@dataclass(frozen=True)
class ParameterSweep:
    """What is swept.

    Attributes
    ----------
    factory : str
        ``package.module:function``, see above.
    payload : mapping
        What all trials are called with: plain JSON.
    search : mapping
        The parameters, see `neurofleet.cluster.sweeps.search_space`.
    metric : str
        The score that counts, in every report and in what a trial returns.
    mode : {'min', 'max'}
    method : {'grid', 'random', 'optuna'}
    settings : int, optional
        How many parameter settings random and optuna try; a grid has its own number.
    repeats : int
        Each setting is tried with so many seeds: `seed`, `seed` + 1, …
    seed : int
    scheduler : SweepScheduler
    time_limit_s : float, optional
        Of a trial; looked at when it reports.
    """

    factory: str
    metric: str
    mode: Literal["min", "max"]
    payload: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    method: Literal["grid", "random", "optuna"] = "random"
    settings: int | None = None
    repeats: int = 1
    seed: int = 1
    scheduler: SweepScheduler = field(default_factory=SweepScheduler)
    time_limit_s: float | None = None

    def space(self) -> SearchSpace:
        """The search space, checked."""
        return parse_space(self.search)

    def number_of_settings(self) -> int:
        """How many parameter settings are tried.

        Raises
        ------
        SweepRefused
            If random or optuna is used without a number of settings.
        """
        space = self.space()
        if not space.dimensions:
            return 1
        if self.method == "grid":
            return len(space.grid())
        if self.settings is None:
            raise SweepRefused(f"The method {self.method} needs a number of settings to try.")
        return self.settings

    @property
    def fingerprint(self) -> str:
        """What may not change when a sweep goes on, as text; the factory is there to be read only."""
        fixed = [self.factory, dict(self.payload), dict(self.search), self.metric, self.mode]
        return json.dumps([*fixed, self.method, self.repeats, self.seed, self.scheduler.kind], sort_keys=True)

    def changes_since(self, fingerprint: str) -> list[str]:
        """Return what differs from the sweep with this fingerprint; nothing if it is the same one.

        The factory does not count: it names a function of the program, which another version may have elsewhere.
        """
        names = ("payload", "search", "metric", "mode", "method", "repeats", "seed", "scheduler")
        stored, present = json.loads(fingerprint)[1:], json.loads(self.fingerprint)[1:]
        return [name or "entries" for name, before, now in zip_longest(names, stored, present) if before != now]


@dataclass(frozen=True)
class TrialResources:
    """What a trial gets.

    Attributes
    ----------
    cpus, gpus : float
        Of a trial that works in its own process; a part of a GPU is one that it shares.
    workers : int
        Of a trial that trains on workers of its own; 0 for one that does not. `cpus` and `gpus` are then a
        worker's.
    at_once : int, optional
        The most trials that run together; as many as there is room for by default.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 0
    at_once: int | None = None


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep.

    Attributes
    ----------
    parameters : dict
        The best setting's.
    score : float
        Its metric, the mean of its repeats.
    trial : str
        The name of the best of its trials; ``folder / trial`` is that one's folder.
    rows : list of TrialRow
        All trials.
    """

    parameters: dict[str, Any]
    score: float
    trial: str
    rows: list[TrialRow]


def check_sweep(plan: ParameterSweep) -> None:
    """Refuse what cannot be run, before anything is.

    Raises
    ------
    SweepRefused, SearchSpaceRefused
    """
    plan.number_of_settings()
    how = plan.scheduler
    if how.kind == "asha" and not 1 <= how.grace_epochs < how.max_epochs:
        raise SweepRefused(
            f"asha needs grace_epochs from 1 to below the epochs of a trial; they are {how.grace_epochs} and"
            f" {how.max_epochs}. Give other grace_epochs or epochs, or leave the scheduler out."
        )
    if how.kind == "pbt":
        if plan.method == "optuna" or plan.repeats > 1:
            raise SweepRefused(
                "pbt changes the parameters of its trials while they run: it goes with the methods random and"
                " grid, and with one repeat. Use one of these, or asha."
            )
        if not plan.space().dimensions:
            raise SweepRefused("pbt needs parameters to change; the search space is empty.")
        if how.perturb_epochs >= how.max_epochs:
            raise SweepRefused(
                f"pbt compares its trials every perturb_epochs, {how.perturb_epochs}, and a trial has {how.max_epochs}"
                " epochs: they would never be compared. Give fewer perturb_epochs, or more epochs."
            )
