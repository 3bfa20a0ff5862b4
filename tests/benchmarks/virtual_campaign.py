"""Campaigns on hosts that do not exist: how busy thousands of them would be kept."""

from __future__ import annotations

import zlib

import numpy as np

from neurofleet.cluster.pool.outcome import EngineSpec, EvaluationTask
from neurofleet.jobs.fit.campaign import Campaign
from tests.benchmarks.stand_in_fits import StandInFit, StandInOpener, StandInStage, StandInSteadyFit
from tests.benchmarks.virtual_pool import VirtualPool

MEAN_S = 3.0
BUILD_S = 3.0
CELL_SPREAD = 0.4
OFFSPRING = 512
CELLS = 230
DEADLINE_S = 300.0

# 11,968 evaluations of the active stage of the demo cell, in units of their mean.
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
SECONDS = (0.27, 0.38, 0.51, 0.55, 0.64, 0.9, 1.22, 1.52, 1.77, 2.95, 5.29, 7.68)

# Of the published 50, 50 and 200 generations, as many as keep the hosts busy for half an hour or more.
GENERATIONS = {256: (1, 1, 2), 2048: (2, 2, 8), 10000: (3, 3, 12)}
SINGLE_GENERATIONS = 10


def durations(seed: int = 1) -> np.ndarray:
    """Durations with the measured distribution and a mean of `MEAN_S`."""
    drawn = np.interp(np.random.default_rng(seed).random(2**16), QUANTILES, SECONDS)
    return MEAN_S * drawn / drawn.mean()


def engine(cell: str, stage: int = 0) -> EngineSpec:
    return EngineSpec("none:none", None, f"{cell}-{stage}")


def make_pool(hosts: int) -> VirtualPool:
    """A pool whose cells differ in speed, and whose evaluations have the same length in every run."""
    drawn = durations().tolist()
    speeds: dict[str, float] = {}
    random = np.random.default_rng(2)

    def seconds(task: EvaluationTask) -> float:
        key, individual = task.id
        if key[0] not in speeds:
            speeds[key[0]] = float(random.lognormal(0.0, CELL_SPREAD))
        where = zlib.crc32(repr(key).encode()) + 7919 * individual
        return speeds[key[0]] * drawn[where % len(drawn)]

    return VirtualPool(hosts, seconds, BUILD_S)


def published_campaign(hosts: int) -> dict[str, float]:
    """230 cells x 4 seeds: one seed in the first two stages, four in the last."""
    first, second, last = GENERATIONS[hosts]
    stages = [
        StandInStage(1, first, OFFSPRING),
        StandInStage(1, second, OFFSPRING),
        StandInStage(4, last, OFFSPRING),
    ]
    ids = [f"cell-{number:03d}" for number in range(CELLS)]

    def make(id: str) -> StandInFit:
        return StandInFit(id, ids.index(id), stages, lambda n: engine(id, n), lambda task: None, DEADLINE_S)

    pool, opener = make_pool(hosts), StandInOpener(make)
    half: list[float] = []

    def watch() -> None:
        if not half and len(opener.closed) >= CELLS // 2:
            half.append(pool.now)

    Campaign(ids, opener, pool).run(watch)
    return {
        "utilisation": pool.utilisation,
        "builds": pool.build_s / (hosts * pool.now),
        "hours": pool.now / 3600,
        "most_cells_open": opener.most_open,
        "half_of_the_cells_after": half[0] / pool.now,
    }


def few_fits(hosts: int, fits: int) -> dict[str, float]:
    """One stage of `fits` fits of one cell each, with the barrier after each generation."""
    stages = [StandInStage(1, SINGLE_GENERATIONS, OFFSPRING)]
    ids = [f"cell-{number}" for number in range(fits)]
    opener = StandInOpener(
        lambda id: StandInFit(id, ids.index(id), stages, lambda n: engine(id), lambda task: None, DEADLINE_S)
    )
    pool = make_pool(hosts)
    Campaign(ids, opener, pool).run()
    return {"utilisation": pool.utilisation}


def single_steady(hosts: int) -> dict[str, float]:
    """One fit without a barrier: two evaluations under way for each host."""
    evaluations = max(SINGLE_GENERATIONS * OFFSPRING, 100 * hosts)
    pool = make_pool(hosts)
    opener = StandInOpener(lambda id: StandInSteadyFit(id, evaluations, 2 * hosts, engine(id), DEADLINE_S))
    Campaign(["cell"], opener, pool).run()
    return {"utilisation": pool.utilisation}


def measure(hosts: int) -> dict[str, dict[str, float]]:
    """All campaigns on so many hosts."""
    return {
        "1_fit": few_fits(hosts, 1),
        "1_fit_steady": single_steady(hosts),
        "4_fits": few_fits(hosts, 4),
        "920_fits": published_campaign(hosts),
    }
