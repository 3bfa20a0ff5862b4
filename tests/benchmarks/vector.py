"""The vector engine against NEURON with CVODE: whole evaluations, CPU seconds on one core.

Run as ``python -m tests.benchmarks.vector [--cells …] [--individuals N] [--cvode-sets N] [--march ARCH]
[--coreneuron]``; one JSON line on stdout. ``--march x86-64-v3`` compiles kernels for AVX2 without AVX-512. The
cells are read from the folder of real data beside the checkout. An evaluation is all protocols of a fit and the
scores of all objectives, on a cell that stands; CVODE has the tolerance of the search. For 483101699 and the rat
cell these are the objectives of the fit; the other cells have no published targets, and are scored on those of
483101699 with its steps made as much stronger as they need. 485184849 is a perisomatic model, with NaV in its soma
alone; 485184849-all-active has a chain of NaV in each dendritic compartment.

``instructions``
    The widest vectors that kernels are compiled for.

For each cell
``s_per_evaluation``, ``speedup_vs_cvode``, ``evaluations_per_s``
    Parameter sets within 10 % of the published model (of the rat, drawn in its bounds): the sets that CVODE
    is given are the first of those that the vector engine is given.
``speedup_vs_cvode_at_random``
    Parameter sets drawn in the bounds, as in a first generation (483101699).
``ns_per_compartment_step``
    Of one individual in fixed steps of 0.05 ms, the arithmetic alone: no objectives.
``within_0.1_std``
    Part of all scores that differ by less from CVODE's at a tolerance of 1e-4, of the vector engine and of
    CVODE at the tolerance of the search; and of the vector engine's scores from those that it has in float64.

With 483101699 among the cells, of that cell
``compile_s``, ``compile_cached_s``, ``build_s``
    Wall time: the kernel compiled, found in the cache, and a whole `VectorEvaluator` with it.
``features_per_s``
    Individuals scored on their responses per second.
``selection_ms``
    Parents of a generation drawn by IBEA from 1,024 individuals with 40 objectives.
``us_per_step``
    With ``--coreneuron``: a step of 0.05 ms of one individual of 483101699 by the vector engine, by NEURON,
    and by the CoreNEURON of the wheel with its mechanisms compiled for this machine
    (`tests.benchmarks.core_neuron`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from neurofleet.neurosim.features.step_protocols import BLOCK_CHECK
from neurofleet.neurosim.features.training_targets import BLOCK_CHECK_ABOVE_NA
from tests.benchmarks.evaluation import data_folder, mouse_problem, random_sets, rat_problem, sets_around
from tests.benchmarks.search_cells import Known, published_model
from tests.neurosim.vector.reference import fixed_steps

DTYPES = ("float32", "float64")
ASPINY, OF_ASPINY = "485184849-all-active", "485184849"
CELLS = ("483101699", ASPINY, "485184849", "491766131", "C060114A7")
FITS = {
    "485184849": ("bmtk_morphologies", "485184849"),
    "491766131": ("allen_allactive_491766131", ""),
}
STRONGER = {ASPINY: 1.6, "485184849": 1.6, "491766131": 1.0}
TIGHT_ATOL = 1e-4
NEAR_STD = 0.1


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and what `work` returns."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def instructions() -> str:
    """Return the widest vectors that kernels are compiled for."""
    from neurofleet.neurosim.vector import kernel_build

    command = [kernel_build._compiler(), *kernel_build.FLAGS, "-dM", "-E", "-xc++", os.devnull]
    defined = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    known = {"__AVX512F__": "AVX-512", "__AVX2__": "AVX2"}
    return next((name for macro, name in known.items() if macro in defined), "neither AVX-512 nor AVX2")


def compiling(model: Any) -> dict[str, float]:
    """Return wall seconds of building an evaluator with an empty cache, and with a filled one."""
    from neurofleet.neurosim.mechanisms import load_mechanisms
    from neurofleet.neurosim.vector import kernel_build
    from neurofleet.neurosim.vector.vector_evaluator import VectorEvaluator

    load_mechanisms()  # out of the cache that is left alone
    sources: list[str] = []
    compile_kernel = kernel_build.compile_kernel
    before, seconds = os.environ.get("NEUROFLEET_CACHE"), []
    import neurofleet.neurosim.vector.vector_evaluator as cell_module

    def watched(source: str) -> Any:
        sources.append(source)
        return compile_kernel(source)

    cell_module.compile_kernel = watched
    with tempfile.TemporaryDirectory() as folder:
        VectorEvaluator(model)
        cell_module.compile_kernel = compile_kernel
        os.environ["NEUROFLEET_CACHE"] = folder
        for _ in range(2):
            started = time.perf_counter()
            compile_kernel(sources[0])
            seconds.append(time.perf_counter() - started)
    if before is None:
        del os.environ["NEUROFLEET_CACHE"]
    else:
        os.environ["NEUROFLEET_CACHE"] = before
    started = time.perf_counter()
    VectorEvaluator(model)
    build_s = time.perf_counter() - started
    return {"compile_s": seconds[0], "compile_cached_s": seconds[1], "build_s": build_s}


def cvode(model: Any, sets: np.ndarray, atol: float | None = None) -> tuple[float, np.ndarray]:
    """Return CPU seconds of an evaluation and the scores, by NEURON on a warm cell."""
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    if atol is not None:
        model = replace(model, accuracy=replace(model.accuracy, atol=atol))
    warm = WarmEvaluator(model.build_evaluator())
    warm.build()
    warm.evaluate(sets[0])
    seconds, scores = timed(lambda: np.array([warm.evaluate(values) for values in sets]))
    warm.close()
    return seconds / len(sets), scores


def measure(model: Any, sets: np.ndarray, given: argparse.Namespace, at_random: np.ndarray | None) -> dict:
    from neurofleet.neurosim.vector.vector_evaluator import LANES, VectorEvaluator

    evaluator = VectorEvaluator(model)
    cell = evaluator._cell
    evaluator.evaluate(sets[:LANES])
    seconds, found = timed(lambda: evaluator.evaluate(sets))
    few = sets[: given.cvode_sets]
    double = evaluator.evaluate(few, "float64")
    cvode_s, loose = cvode(model, few)
    _, tight = cvode(model, few, TIGHT_ATOL)
    each = seconds / len(sets)
    step = max(model.targets.protocols.values(), key=lambda p: p.amplitude_nA)
    short = replace(step, duration_ms=step.start_ms + 300.0)
    steps = round(short.duration_ms / 0.05) * 2 * LANES * cell.n_compartments
    fixed, some = fixed_steps(0.05, order=2, record_every=2), sets[: 2 * LANES]
    ns = {dtype: timed(lambda dtype=dtype: cell.run(some, [short], fixed, dtype))[0] / steps * 1e9 for dtype in DTYPES}
    result = {
        "compartments": cell.n_compartments,
        "protocols": len(model.targets.protocols),
        "objectives": len(evaluator.objective_names),
        "s_per_evaluation": {"vector": each, "cvode": cvode_s},
        "speedup_vs_cvode": cvode_s / each,
        "evaluations_per_s": 1.0 / each,
        "not_ok": int((~found.ok).sum()),
        "ns_per_compartment_step": ns,
        "within_0.1_std": {
            "vector": float((np.abs(found.scores[: len(few)] - tight) < NEAR_STD).mean()),
            "cvode": float((np.abs(loose - tight) < NEAR_STD).mean()),
            "vector_float64": float((np.abs(found.scores[: len(few)] - double.scores) < NEAR_STD).mean()),
        },
    }
    if at_random is not None:
        seconds, _ = timed(lambda: evaluator.evaluate(at_random))
        cvode_s, _ = cvode(model, at_random[: given.cvode_sets])
        result["speedup_vs_cvode_at_random"] = cvode_s * len(at_random) / seconds
    return result


def around(values: np.ndarray, count: int) -> np.ndarray:
    spread = np.exp(0.1 * np.random.default_rng(2).standard_normal((count, values.size)))
    spread[0] = 1.0
    return values * spread


def all_active_aspiny(targets: Any) -> tuple[Any, np.ndarray]:
    """Return the model of the aspiny recipe and its published values, to be scored on the targets of another cell."""
    from neurofleet.jobs.fit.fit_problem import SEARCH_ATOL
    from neurofleet.neurosim.cells.cell_model import Accuracy

    morphology = data_folder("bmtk_morphologies") / f"{OF_ASPINY}_reconstruction.swc"
    model, known = published_model(Known(OF_ASPINY, OF_ASPINY, morphology, "aspiny"), morphology)
    model = replace(model, targets=targets, accuracy=Accuracy(SEARCH_ATOL))
    return model, np.array([known[parameter.full_name] for parameter in model.free])


def published(cell: str, targets: Any) -> tuple[Any, np.ndarray]:
    """Return a published model and its values, to be scored on the targets of another cell."""
    from neurofleet.jobs.fit.fit_problem import SEARCH_ATOL
    from neurofleet.neurosim.cells.cell_model import Accuracy
    from neurofleet.neurosim.cells.morphology import MorphologyFile
    from neurofleet.neurosim.exchange.allen_fit import read_fit
    from neurofleet.neurosim.studies.cell_models import published_cell_models

    folder, prefix = data_folder(FITS[cell][0]), FITS[cell][1]
    fit_file = next(folder.glob(f"{prefix}*fit*.json"))
    morphology = next(path for path in folder.glob(f"{prefix}*.swc") if "marker" not in path.name)
    axon = "legacy-stub" if cell == "491766131" else "stub"
    fit, file = read_fit(fit_file), MorphologyFile.read(morphology)
    found = published_cell_models(cell, fit, file, axon, targets)
    return replace(found.model, accuracy=Accuracy(SEARCH_ATOL)), found.values[0]


def stronger(targets: Any, times: float) -> Any:
    """Return targets whose steps are so many times as strong, but the block check 0.01 nA above the strongest."""
    amplitudes = {name: times * step.amplitude_nA for name, step in targets.protocols.items() if name != BLOCK_CHECK}
    amplitudes[BLOCK_CHECK] = max(amplitudes.values()) + BLOCK_CHECK_ABOVE_NA
    steps = {name: replace(step, amplitude_nA=amplitudes[name]) for name, step in targets.protocols.items()}
    return replace(targets, protocols=steps)


def problem_of(cell: str, count: int) -> tuple[Any, np.ndarray, np.ndarray | None]:
    """Return model, parameter sets, and sets of a first generation."""
    mouse, known = mouse_problem()
    if cell == "483101699":
        good = np.array([known[name] for name in mouse.names])
        sets = np.array([good, *sets_around(mouse, known, count - 1)])
        return mouse.model, sets, np.array(random_sets(mouse, count))
    if cell == "C060114A7":
        problem = rat_problem(stage=2)
        return problem.model, np.array(random_sets(problem, count)), None
    targets = stronger(mouse.model.targets, STRONGER[cell])
    if cell == ASPINY:
        model, values = all_active_aspiny(targets)
        lower, upper = np.array([(parameter.lower, parameter.upper) for parameter in model.free]).T
        return model, np.clip(around(values, count), lower, upper), None
    model, values = published(cell, targets)
    return model, around(values, count), None


def batch_costs(model: Any, sets: np.ndarray) -> dict[str, float]:
    """Return what scoring and selection cost."""
    import random

    from neurofleet.neurosim.evolution.ibea_selection import select_parents
    from neurofleet.neurosim.vector.vector_evaluator import VectorEvaluator

    evaluator = VectorEvaluator(model)
    scoring, spent = evaluator._scoring.scores, []

    def watched(*given: Any) -> Any:
        seconds, result = timed(lambda: scoring(*given))
        spent.append(seconds)
        return result

    evaluator._scoring.scores = watched
    evaluator.evaluate(sets)
    scores = np.random.default_rng(5).gamma(1.0, 3.0, (1024, 40))
    select_parents(scores, 512, random.Random(1))
    selection_s, _ = timed(lambda: [select_parents(scores, 512, random.Random(1)) for _ in range(5)])
    return {"features_per_s": len(sets) / sum(spent), "selection_ms": selection_s / 5 * 1e3}


def main(write: Callable[[str], Any] = print) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    options.add_argument("--individuals", type=int, default=64)
    options.add_argument("--cvode-sets", type=int, default=8)
    options.add_argument("--march", default="native", help="x86-64-v3: AVX2 and no AVX-512")
    options.add_argument("--coreneuron", action="store_true")
    given = options.parse_args()
    from neurofleet.neurosim.vector import kernel_build

    kernel_build.FLAGS = [f"-march={given.march}" if flag == "-march=native" else flag for flag in kernel_build.FLAGS]
    found: dict[str, Any] = {"benchmark": "vector", **vars(given), "instructions": instructions()}
    for cell in given.cells:
        model, sets, at_random = problem_of(cell, given.individuals)
        if at_random is not None:
            found |= compiling(model) | batch_costs(model, sets)
        found[cell] = measure(model, sets, given, at_random)
        print(cell, json.dumps(found[cell]), file=sys.stderr, flush=True)
    if given.coreneuron and "483101699" in found:
        command = [sys.executable, "-m", "tests.benchmarks.core_neuron"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        vector = found["483101699"]
        ns = vector["ns_per_compartment_step"]["float32"]
        found["us_per_step"] = {
            "vector": ns * vector["compartments"] / 1e3,
            **json.loads(printed.splitlines()[-1])["us_per_step"],
        }
    write(json.dumps(found))


if __name__ == "__main__":
    main()
