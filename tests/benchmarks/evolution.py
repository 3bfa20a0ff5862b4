"""Best total against evaluations: our strategies beside BluePyOpt's own IBEA on a small all-active cell.

Run as ``python -m tests.benchmarks.evolution [--budget N] [--seeds K]``; one JSON line on stdout, progress on
stderr. All methods spend the same budget from the same bounds.

``ours_best``, ``bluepyopt_best``, ``fast_best``
    Median over the seeds of the best total at the end of the budget.
``evaluations_ratio``
    Median over the seeds of (evaluations after which BluePyOpt first had its final best total) / (evaluations
    after which `fast`, with the same seed, was at least as good); 0 for a seed whose `fast` run never was.
``identical_individuals``
    Whether our paper strategy asked for exactly BluePyOpt's individuals. It must; scores are then the same by
    construction, and the two share evaluations (``evaluations_shared``) instead of running them twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np

from neurofleet.neurosim.evolution import FastConfig, PaperConfig, ParameterSpace, make_strategy, total_scores

PENALTY = 250.0
MAX_STEPS = 200_000  # integration steps of one evaluation; the usual runaway model ends here
CURVE_POINTS = 40

_worker: dict[str, Any] = {}


def build_evaluator(source: str) -> Any:
    """BluePyOpt evaluator made by ``module:function``."""
    module, _, function = source.partition(":")
    return getattr(import_module(module), function)()


def start_worker(source: str) -> None:
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    evaluator = WarmEvaluator(build_evaluator(source), max_steps=MAX_STEPS)
    evaluator.build()
    _worker["evaluator"] = evaluator


def score(values: list[float]) -> list[float]:
    from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded, IncompleteRun

    evaluator = _worker["evaluator"]
    try:
        return [float(value) for value in evaluator.evaluate(values)]
    except (BudgetExceeded, IncompleteRun):
        return [PENALTY] * len(evaluator.objective_names)


class Scorer:
    """Scores over several processes; what was scored before is not run again."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._known: dict[bytes, list[float]] = {}
        self.shared = 0

    def __call__(self, individuals: Iterable[Iterable[float]]) -> list[list[float]]:
        rows = [np.array(individual, np.float64) for individual in individuals]
        keys = [row.tobytes() for row in rows]
        self.shared += sum(key in self._known for key in keys)
        new = {key: row.tolist() for key, row in zip(keys, rows, strict=True) if key not in self._known}
        self._known.update(zip(new, self._pool.map(score, new.values()), strict=True))
        return [self._known[key] for key in keys]


def run_bluepyopt(
    evaluator: Any, score_all: Scorer, seed: int, offspring: int, budget: int
) -> tuple[np.ndarray, np.ndarray]:
    """BluePyOpt's optimisation as it is, only its `map` goes to our processes."""
    from bluepyopt.deapext.optimisations import DEAPOptimisation

    asked, totals = [], []

    def evaluate_all(_: Callable[..., Any], population: list[list[float]]) -> list[list[float]]:
        asked.extend(list(individual) for individual in population)
        scores = score_all(population)
        totals.extend(total_scores(np.array(scores)).tolist())
        return scores

    optimisation = DEAPOptimisation(evaluator=evaluator, seed=seed, offspring_size=offspring, map_function=evaluate_all)
    optimisation.run(max_ngen=budget // offspring)
    return np.array(asked), np.minimum.accumulate(totals)


def run_strategy(
    config: PaperConfig | FastConfig, space: ParameterSpace, score_all: Scorer, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """One of our strategies to the end of its budget: individuals in order, best total so far."""
    strategy = make_strategy(config, space, seed)
    asked, totals = [], []
    while not strategy.finished:
        parameters = strategy.ask()
        scores = np.array(score_all(parameters))
        strategy.tell(parameters, scores)
        asked.append(parameters)
        totals.extend(total_scores(scores).tolist())
    return np.concatenate(asked), np.minimum.accumulate(totals)


def evaluations_until(curve: np.ndarray, level: float) -> int | None:
    """Evaluations after which `curve` is at `level` or below."""
    reached = np.flatnonzero(curve <= level)
    return int(reached[0]) + 1 if len(reached) else None


def compare(source: str, budget: int, seeds: list[int], offspring: int, processes: int) -> dict[str, object]:
    evaluator = build_evaluator(source)
    space = ParameterSpace.from_bounds(
        [parameter.name for parameter in evaluator.params],
        np.array([parameter.lower_bound for parameter in evaluator.params]),
        np.array([parameter.upper_bound for parameter in evaluator.params]),
    )
    curves: dict[str, list[np.ndarray]] = {"bluepyopt": [], "ours": [], "fast": []}
    identical, shared, ratios = True, 0, []
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start_worker, (source,)) as pool:
        for seed in seeds:
            score_all = Scorer(pool)
            stock, stock_curve = run_bluepyopt(evaluator, score_all, seed, offspring, budget)
            before = score_all.shared
            ours, ours_curve = run_strategy(PaperConfig(offspring, budget // offspring), space, score_all, seed)
            shared += score_all.shared - before
            identical = identical and np.array_equal(stock, ours)
            _, fast_curve = run_strategy(FastConfig(evaluations=budget), space, score_all, seed)
            for name, curve in (("bluepyopt", stock_curve), ("ours", ours_curve), ("fast", fast_curve)):
                curves[name].append(curve)
            level = float(stock_curve[-1])
            needed, taken = evaluations_until(fast_curve, level), evaluations_until(stock_curve, level)
            ratios.append(0.0 if needed is None else taken / needed)
            print(
                f"seed {seed}: bluepyopt {level:.1f} after {taken}, fast {fast_curve[-1]:.1f}, there after "
                f"{needed} ({time.monotonic() - began:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    points = np.unique(np.geomspace(max(budget // 100, 1), budget, CURVE_POINTS).astype(int))
    return {
        "benchmark": "evolution",
        "ours_best": median_end(curves["ours"]),
        "bluepyopt_best": median_end(curves["bluepyopt"]),
        "fast_best": median_end(curves["fast"]),
        "evaluations_ratio": round(float(np.median(ratios)), 2),
        "evaluations_ratio_per_seed": [round(ratio, 2) for ratio in ratios],
        "identical_individuals": identical,
        "evaluations_shared": shared,
        "budget": budget,
        "offspring": offspring,
        "seeds": seeds,
        "parameters": len(space),
        "objectives": len(evaluator.objectives),
        "wall_s": round(time.monotonic() - began, 1),
        "curves": {
            "evaluations": points.tolist(),
            **{
                name: [np.round(curve[np.minimum(points, len(curve)) - 1], 2).tolist() for curve in runs]
                for name, runs in curves.items()
            },
        },
    }


def median_end(curves: list[np.ndarray]) -> float:
    return round(float(np.median([curve[-1] for curve in curves])), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=int, default=6144, help="evaluations of every run")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, from 1")
    parser.add_argument("--offspring", type=int, default=512, help="of BluePyOpt's IBEA and our paper strategy")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--evaluator",
        default="tests.benchmarks.small_cell:small_active_evaluator",
        help="module:function that returns a BluePyOpt evaluator",
    )
    options = parser.parse_args()
    if options.budget < 2 * options.offspring:
        parser.error(f"--budget {options.budget} is less than two generations of {options.offspring}")
    seeds = list(range(1, options.seeds + 1))
    result = compare(options.evaluator, options.budget, seeds, options.offspring, options.processes)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
