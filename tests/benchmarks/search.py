"""Best total against evaluations: search strategies on the active stage of several cells, by the vector engine.

Run as ``python -m tests.benchmarks.search --out FOLDER [--cells …] [--strategies …] [--seeds 1 2 …] [--budget N]``; one
JSON line on stdout, progress on stderr. A piece is one cell, strategy, budget and seed; each leaves a file in FOLDER,
and what is there is not done again: stop it at any time and give the same command, or one with more pieces.
``--seconds`` begins no further piece after so long. One process, no Ray. Cells and their targets:
`tests.benchmarks.search_cells`. `unsigned` is `fast` that is not told the signs of deviations: IBEA, then CMA-ES.

``table``
    Cell -> strategy -> evaluations -> median and worst best total so far, and of how many seeds, at this budget.
``known``
    Cell -> total of its published or true parameters, by the vector engine; null where there are none.
``ms_per_evaluation``
    Cell -> strategy -> CPU time of the engine, and of the strategy, in ms; median over the seeds.
``neuron``
    With ``--neuron N``: cell -> strategy -> lowest total of the N finalists of each seed by NEURON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.neurosim.evolution import (
    FastConfig,
    MultiObjectiveCMAESConfig,
    ParameterSpace,
    ParetoConfig,
    make_strategy,
    total_scores,
)
from tests.benchmarks.search_cells import CELLS, SearchCell, neuron_totals

PENALTY = 250.0
UNSIGNED = "unsigned"
STRATEGIES: dict[str, Callable[..., FastConfig]] = {
    "fast": FastConfig,
    UNSIGNED: FastConfig,
    "nsga2": partial(ParetoConfig, selector="nsga2"),
    "spea2": partial(ParetoConfig, selector="spea2"),
    "nsga3": partial(ParetoConfig, selector="nsga3"),
    "mo-cma-es": MultiObjectiveCMAESConfig,
}
MARKS = (250, 500, 768, 1000, 1500, 2000, 3000, 4500, 6000)


class Scorer:
    """The vector engine of one cell, with the CPU time that it took."""

    def __init__(self, cell: SearchCell) -> None:
        from neurofleet.neurosim.vector.vector_evaluator import VectorEvaluator

        self._evaluator = VectorEvaluator(cell.problem.model)
        self.cpu_s = 0.0

    def __call__(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        started = time.process_time()
        found = self._evaluator.evaluate(parameters)
        self.cpu_s += time.process_time() - started
        lost = ~found.ok[:, None]
        residuals = np.where(lost, np.nan, found.residuals).astype(np.float32).astype(np.float64)
        return np.where(lost, PENALTY, found.scores), residuals


def run_piece(cell: SearchCell, scorer: Scorer, name: str, seed: int, budget: int) -> dict:
    """Search to the end of the budget; return the best totals so far and the candidates."""
    problem = cell.problem
    space = ParameterSpace.from_bounds(problem.names, np.array(problem.lower), np.array(problem.upper))
    strategy = make_strategy(STRATEGIES[name](evaluations=budget), space, seed)
    totals: list[float] = []
    phases: dict[str, int] = {}
    started, scorer.cpu_s = time.process_time(), 0.0
    while not strategy.finished:
        parameters = strategy.ask()
        phases[strategy.phase] = phases.get(strategy.phase, 0) + len(parameters)
        scores, residuals = scorer(parameters)
        strategy.tell(parameters, scores, None if name == UNSIGNED else residuals)
        totals += total_scores(scores).tolist()
    cpu_s = time.process_time() - started
    improved = np.minimum.accumulate(totals)
    steps = np.flatnonzero(np.diff(improved, prepend=np.inf))
    return {
        "evaluations": len(totals),
        "phases": phases,
        "objectives": len(problem.objectives),
        "improved_at": (steps + 1).tolist(),
        "best_total": improved[steps].tolist(),
        "engine_ms": 1e3 * scorer.cpu_s / len(totals),
        "strategy_ms": 1e3 * (cpu_s - scorer.cpu_s) / len(totals),
        "candidates": strategy.candidates(32).tolist(),
    }


def best_after(piece: dict, evaluations: int) -> float:
    """Return the best total after so many evaluations."""
    return piece["best_total"][int(np.searchsorted(piece["improved_at"], evaluations, side="right")) - 1]


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_text(json.dumps(content))
    written.replace(path)


def run(options: argparse.Namespace) -> None:
    """Do the pieces that are not there yet."""
    until = time.monotonic() + options.seconds
    for name in options.cells:
        done = options.out / name
        pieces = {
            done / f"{strategy}-{options.budget}-seed{seed}.json": (strategy, seed)
            for seed in options.seeds
            for strategy in options.strategies
        }
        left = {path: piece for path, piece in pieces.items() if not path.is_file()}
        again = [path for path in pieces if options.neuron and not path.with_suffix(".neuron").is_file()]
        if (not left and not again and (done / "known.json").is_file()) or time.monotonic() > until:
            continue
        cell = CELLS[name](options.out)
        scorer = Scorer(cell)
        if not (done / "known.json").is_file():
            known = cell.known
            values = None if known is None else np.array([[known[name] for name in cell.problem.names]])
            _write(done / "known.json", None if values is None else float(scorer(values)[0].sum()))
        for path, (strategy, seed) in left.items():
            if time.monotonic() > until:
                break
            piece = run_piece(cell, scorer, strategy, seed, options.budget)
            _write(path, piece)
            shown = ", ".join(f"{best_after(piece, mark):.1f} at {mark}" for mark in MARKS if mark <= options.budget)
            print(f"{name} {strategy} seed {seed}: {shown}", file=sys.stderr, flush=True)
        for path in again:
            if path.is_file() and time.monotonic() < until:
                models = np.array(json.loads(path.read_text())["candidates"][: options.neuron])
                _write(path.with_suffix(".neuron"), neuron_totals(cell, models))


def gather(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the folder holds of the cells, strategies and seeds that are asked for, at this budget."""
    found: dict[str, Any] = {"table": {}, "known": {}, "ms_per_evaluation": {}, "neuron": {}}
    for name in options.cells:
        folder = options.out / name
        known = folder / "known.json"
        found["known"][name] = json.loads(known.read_text()) if known.is_file() else None
        for strategy in options.strategies:
            paths = [folder / f"{strategy}-{options.budget}-seed{seed}.json" for seed in options.seeds]
            pieces = [json.loads(path.read_text()) for path in paths if path.is_file()]
            if not pieces:
                continue
            for mark in (mark for mark in MARKS if mark <= options.budget):
                totals = [best_after(piece, mark) for piece in pieces]
                row = [round(float(np.median(totals)), 1), round(max(totals), 1), len(totals)]
                found["table"].setdefault(name, {}).setdefault(strategy, {})[mark] = row
            spent = [round(float(np.median([p[key] for p in pieces])), 2) for key in ("engine_ms", "strategy_ms")]
            found["ms_per_evaluation"].setdefault(name, {})[strategy] = spent
            scored = [path.with_suffix(".neuron") for path in paths if path.with_suffix(".neuron").is_file()]
            if scored:
                lowest = [round(min(json.loads(path.read_text())), 1) for path in scored]
                found["neuron"].setdefault(name, {})[strategy] = lowest
    return found


def main(write: Callable[[str], Any] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the pieces")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--budget", type=int, default=1500, help="evaluations of each piece")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no piece after so long")
    parser.add_argument("--neuron", type=int, default=0, help="finalists of each piece to be scored by NEURON")
    options = parser.parse_args()
    options.out = options.out.absolute()
    run(options)
    asked = {"cells": options.cells, "seeds": options.seeds, "budget": options.budget}
    write(json.dumps({"benchmark": "search", **asked, **gather(options)}))


if __name__ == "__main__":
    main()
