"""One evaluation, stock BluePyOpt against the warm evaluator: same model, same parameter sets, CPU seconds.

Run as ``python -m tests.benchmarks.evaluation [--active small|mouse] [--passive small|rat] [--sets N]``; one
JSON line on stdout. The mouse and rat cells are read from the folder of real data beside the checkout.

``passive_speedup``, ``active_speedup_exact``
    Stock (as BluePyOpt comes: each protocol in a process of its own) over warm, median over the parameter
    sets. ``*_without_isolation`` is against stock with ``isolate_protocols=False``. All scores
    must be equal to the last bit, or the benchmark fails. The passive stage is compared at NEURON's default
    accuracy, as BluePyOpt runs it; ``passive_speedup_accurate`` is what is left of it at our tighter one.
``active_speedup_tuned``, ``objective_shift_p95_std``
    Stock over warm at the tolerance that the search uses, and the 95th percentile of how far that moves an
    objective, in standard deviations, from CVODE at 1e-5. ``tolerances`` is the whole trade-off.
"""

import argparse
import json
import resource
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCES = (1e-4, 1e-3, 5e-3, 1e-2, 3e-2)
DEFAULT_ATOL, TRUTH_ATOL = 1e-3, 1e-5

_state: dict[str, Any] = {}


def cpu_s() -> float:
    """CPU seconds of this process and of its finished children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def build(model: Any, warm: bool, isolated: bool) -> None:
    """Put the evaluator into this worker process."""
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    evaluator = model.build_evaluator()
    evaluator.isolate_protocols = isolated
    if warm:
        evaluator = WarmEvaluator(evaluator)
        evaluator.build()
    _state["evaluate"] = evaluator.evaluate if warm else evaluator.evaluate_with_lists


def evaluate(values: list[float]) -> tuple[float, list[float]]:
    """Return CPU seconds and scores."""
    started = cpu_s()
    scores = _state["evaluate"](values)
    return cpu_s() - started, [float(score) for score in scores]


class Variant:
    """One way to evaluate, in a process of its own: NEURON simulates all cells of a process together."""

    def __init__(self, model: Any, *, warm: bool = True, isolated: bool = False) -> None:
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=build, initargs=(model, warm, isolated)
        )
        self.cpu: list[float] = []
        self.scores: list[list[float]] = []

    def run(self, values: list[float]) -> None:
        seconds, scores = self._pool.submit(evaluate, values).result()
        self.cpu.append(seconds)
        self.scores.append(scores)

    def close(self) -> None:
        self._pool.shutdown()


def measure(variants: dict[str, Variant], sets: list[list[float]]) -> None:
    """Evaluate each set with every variant in turn, so that a busy moment of the machine meets all alike."""
    for variant in variants.values():
        variant.run(sets[0])
        variant.cpu.clear()
        variant.scores.clear()
    for i, values in enumerate(sets):
        for variant in variants.values():
            variant.run(values)
        print(f"{i + 1} of {len(sets)} sets", file=sys.stderr)
    for variant in variants.values():
        variant.close()


def speedup(stock: Variant, other: Variant) -> float:
    return float(np.median(np.array(stock.cpu) / np.array(other.cpu)))


def passive(problem: Any, count: int) -> dict[str, float]:
    """Compare on a subthreshold stage."""
    from neurofleet.neurosim.cells.cell_model import Accuracy

    sets = random_sets(problem, count)
    default = replace(problem.model, accuracy=Accuracy(DEFAULT_ATOL))
    stock = Variant(default, warm=False, isolated=True)
    plain = Variant(default, warm=False)
    warm = Variant(default)
    accurate = Variant(problem.model)
    measure({"stock": stock, "plain": plain, "warm": warm, "accurate": accurate}, sets)
    equal(stock, warm)
    equal(plain, warm)
    return {
        "passive_speedup": speedup(stock, warm),
        "passive_speedup_without_isolation": speedup(plain, warm),
        "passive_speedup_accurate": speedup(stock, accurate),
        "passive_cpu_s": float(np.median(warm.cpu)),
    }


def active(problem: Any, sets: list[list[float]]) -> dict[str, Any]:
    """Compare on an all-active stage, and over CVODE's tolerances."""

    def at(atol: float) -> Any:
        return replace(problem.model, accuracy=replace(problem.model.accuracy, atol=atol))

    stock = Variant(at(DEFAULT_ATOL), warm=False, isolated=True)
    plain = Variant(at(DEFAULT_ATOL), warm=False)
    warm = {atol: Variant(at(atol)) for atol in (*TOLERANCES, TRUTH_ATOL)}
    measure({"stock": stock, "plain": plain, **{str(atol): v for atol, v in warm.items()}}, sets)
    equal(stock, warm[DEFAULT_ATOL])
    equal(plain, warm[DEFAULT_ATOL])
    truth = np.array(warm[TRUTH_ATOL].scores)
    table = []
    for atol in TOLERANCES:
        shift = np.abs(np.array(warm[atol].scores) - truth)
        table.append(
            {
                "atol": atol,
                "speedup": round(speedup(stock, warm[atol]), 3),
                "shift_median_std": float(np.median(shift)),
                "shift_p95_std": float(np.percentile(shift, 95)),
                "shift_max_std": float(shift.max()),
            }
        )
    tuned = next(row for row in table if row["atol"] == problem.model.accuracy.atol)
    return {
        "active_speedup_exact": speedup(stock, warm[DEFAULT_ATOL]),
        "active_speedup_exact_without_isolation": speedup(plain, warm[DEFAULT_ATOL]),
        "active_speedup_tuned": tuned["speedup"],
        "objective_shift_p95_std": tuned["shift_p95_std"],
        "active_cpu_s": float(np.median(warm[DEFAULT_ATOL].cpu)),
        "tolerances": table,
    }


def equal(stock: Variant, warm: Variant) -> None:
    if stock.scores != warm.scores:
        worst = np.abs(np.array(stock.scores) - np.array(warm.scores)).max()
        raise SystemExit(f"the warm scores are not BluePyOpt's own: they differ by up to {worst:g}")


def random_sets(problem: Any, count: int) -> list[list[float]]:
    lower, upper = np.array(problem.lower), np.array(problem.upper)
    draw = np.random.default_rng(1)
    return [(lower + (upper - lower) * draw.random(lower.size)).tolist() for _ in range(count)]


def sets_around(problem: Any, known: dict[str, float], count: int) -> list[list[float]]:
    """Return models as a search has them late: each parameter within 10 % of a good model's."""
    draw = np.random.default_rng(2)
    good = np.array([known[name] for name in problem.names])
    spread = np.exp(0.1 * draw.standard_normal((count, good.size)))
    return np.clip(good * spread, problem.lower, problem.upper).tolist()


def data_folder(name: str) -> Path:
    return Path(__file__).resolve().parents[3] / "shared" / "data" / "neuron" / name


def rat_cell() -> Any:
    """Return the rat cell C060114A7 as a job names it."""
    from neurofleet.jobs.fit.fit_job import CellSpec

    name, folder = "C060114A7", data_folder("rat_L5PC_C060114A7")
    files = {"morphology": folder / f"{name}.asc", "recordings": folder / f"{name}-SR-C1.nwb"}
    return CellSpec(id=name, stimuli=["IDrest", "IV"], **files)


def mouse_cell() -> Any:
    """Return mouse cell 483101699 as a job names it: fitted to published targets."""
    from neurofleet.jobs.fit.fit_job import CellSpec

    folder = data_folder("allen_483101699")
    return CellSpec(id="483101699", morphology=folder / "483101699.swc", targets=folder)


def prepared(cell: Any) -> Any:
    """Return a cell of a job as its fit would search it."""
    from neurofleet.jobs.fit.fit_inputs import prepare
    from neurofleet.jobs.fit.fit_job import FitSpec

    return prepare(FitSpec(name=cell.id, cells=[cell]), Path())[0]


def rat_problem(stage: int = 0) -> Any:
    """Return a stage of the rat cell C060114A7, the passive one by default."""
    return prepared(rat_cell()).problem(stage, None)


def mouse_fit() -> dict[str, float]:
    """Return the published best model of mouse cell 483101699."""
    from neurofleet.neurosim.exchange.allen_fit import read_fit

    return dict(read_fit(data_folder("allen_483101699") / "483101699_fit.json").parameters)


def published_value(published: Mapping[str, float], name: str) -> float | None:
    """Return what a published model has for a parameter of a recipe, which may name the whole cell; None without."""
    base, _, section = name.rpartition(".")
    names = [name, base] + [other for other in published if section == "all" and other.startswith(f"{base}.")]
    return next((published[other] for other in names if other in published), None)


def mouse_problem() -> tuple[Any, dict[str, float]]:
    """Return the active stage of mouse cell 483101699 and its published best model."""
    problem, published = prepared(mouse_cell()).problem(0, None), mouse_fit()
    known = {name: value for name in problem.names if (value := published_value(published, name)) is not None}
    return problem, published | known


def main(write: Callable[[str], Any] = print) -> None:
    from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS
    from tests.benchmarks.small_cell import small_problem

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--active", choices=["small", "mouse"], default="small")
    options.add_argument("--passive", choices=["small", "rat"], default="small")
    options.add_argument("--sets", type=int, default=16)
    given = options.parse_args()
    if given.active == "mouse":
        problem, known = mouse_problem()
    else:
        problem, known = small_problem(2), KNOWN_PARAMETERS
    half = given.sets // 2
    sets = random_sets(problem, half) + sets_around(problem, known, given.sets - half)
    found: dict[str, Any] = {"benchmark": "evaluation", **vars(given)}
    found |= passive(rat_problem() if given.passive == "rat" else small_problem(0), given.sets)
    found |= active(problem, sets)
    write(json.dumps(found))


if __name__ == "__main__":
    main()
