"""What the driver costs: real fits (search, store, log) whose evaluations take a millisecond."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from neurofleet.cluster.pool.outcome import Budget, EngineSpec, Outcome
from neurofleet.jobs.fit.campaign import Campaign

HOSTS = 2
SEEDS = 4
PARAMETERS, OBJECTIVES = 36, 25


@dataclass(frozen=True)
class WaitingSubject:
    """A cell in name only: one stage, and an engine that waits."""

    id: str
    stages: tuple
    kind: str = "waiting"
    warnings: tuple[str, ...] = ()
    recording_table: None = None

    def problem(self, stage: int, winner: Any) -> Any:
        from neurofleet.jobs.fit.fit_problem import Problem

        return Problem(
            names=tuple(f"p{i}.soma" for i in range(PARAMETERS)),
            lower=(0.0,) * PARAMETERS,
            upper=(1.0,) * PARAMETERS,
            fixed={},
            objectives=tuple(f"o{i}" for i in range(OBJECTIVES)),
            model=None,  # type: ignore[arg-type]
            final_model=None,
        )


class MillisecondEngine:
    """Waits a millisecond and returns scores that follow from the parameters."""

    isolation = "batch"

    def evaluate(self, batch: Sequence[np.ndarray], budget: Budget) -> Iterator[np.ndarray]:
        for individual in batch:
            time.sleep(0.001)
            yield np.resize(individual, OBJECTIVES) ** 2


def build_millisecond(payload: None) -> MillisecondEngine:
    return MillisecondEngine()


def driver_cost(fits: int, evaluations_each: int = 48, lanes: int = 1) -> dict[str, float]:
    """Run so many fits, 4 a cell, in this process; it should be a fresh one.

    Parameters
    ----------
    evaluations_each : int
        Of a fit.
    lanes : int
        Of the engine: the least evaluations in a batch.
    """
    import psutil

    from neurofleet.cluster.pool.pool import Pool
    from neurofleet.cluster.ray.session import connect
    from neurofleet.cluster.store.run_store import RunStore
    from neurofleet.jobs.fit.campaign import Fits
    from neurofleet.jobs.fit.fit_job import CellSpec, EvolutionSpec, FitSpec
    from neurofleet.jobs.fit.fit_problem import StagePlan
    from neurofleet.jobs.fit.input_process import Preparation
    from neurofleet.neurosim.evolution import FastConfig

    search = FastConfig(evaluations=evaluations_each, offspring=16, initial=16)
    ids = [f"cell-{number}" for number in range(max(fits // SEEDS, 1))]
    seeds = tuple(range(1, SEEDS + 1)) if fits >= SEEDS else (1,)
    ready = {id: WaitingSubject(id, (StagePlan("active", seeds, search),)) for id in ids}
    spec = FitSpec(
        name="driver",
        cells=[CellSpec(id=id, morphology=Path("none"), targets=Path("none")) for id in ids],
        evolution=EvolutionSpec(seeds=list(seeds)),
    )

    def spec_of_engine(name: str, model: Any, max_steps: int | None) -> EngineSpec:
        return EngineSpec("tests.benchmarks.driver_cost:build_millisecond", None, name, lanes)

    process, count, evaluations = psutil.Process(), itertools.count(1), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("neurofleet.jobs.fit.stage_search.engine_spec", spec_of_engine),
        connect(cpus=HOSTS),
        Pool(hosts=HOSTS) as pool,
    ):
        store = RunStore(folder)
        with store.locked(), Preparation(spec, Path(folder), ready, []) as preparation:  # type: ignore[arg-type]
            opener = Fits(spec, Path(folder), store, preparation)
            begun, cpu_s = time.monotonic(), time.process_time()

            def took(outcome: Outcome) -> None:
                nonlocal evaluations
                evaluations = next(count)
                assert outcome.ok, outcome

            Campaign(ids, opener, pool, on_outcome=took).run()
            wall_s, cpu_s = time.monotonic() - begun, time.process_time() - cpu_s
            assert len(opener.finished) == len(ids)
    return {
        "fits": len(ids) * len(seeds),
        "evaluations": evaluations,
        "driver_ms_per_evaluation": 1000 * cpu_s / evaluations,
        "driver_rss_mb": process.memory_info().rss / 2**20,
        "evaluations_per_s": evaluations / wall_s,
    }
