"""The vector engine against NEURON with CVODE on the training protocols of mouse 483101699, CPU seconds.

Run as ``python -m tests.benchmarks.vector [--individuals N] [--cvode-sets N]``; one JSON line on stdout. One
core; the cell is read from the folder of real data beside the checkout. Only the simulation is timed: no
features, and NEURON on a warm cell.

``ns_per_compartment_step``
    Of one individual, at 0.05 ms and second order, without a tail.
``s_per_individual``, ``speedup_vs_cvode``
    All protocols of the fit, a strong one that must not block the spikes among them: CVODE at the accuracy of
    the search, the vector engine at 0.05 ms and second order until 30 ms after the step and `tail_dt_ms` from
    there on. The parameter sets lie about the published model. ``speedup_vs_cvode_whole`` is without the
    coarse tail.
``spikes``
    Of the published model, by protocol and engine.
``compile_s``, ``compile_cached_s``
    The kernel's C++ compiled (wall time, both precisions), and found in the cache.
``build_s``
    Wall time of a `VectorCell` whose kernel is compiled: NEURON builds the cell, NMODL is read.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.evaluation import mouse_problem, sets_around

TAIL_DT_MS = 5.0
SPIKE_MV = -20.0
DTYPES = ("float32", "float64")


def n_spikes(voltage_mV: np.ndarray) -> int:
    above = voltage_mV >= SPIKE_MV
    return int(np.sum(~above[:-1] & above[1:]))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return CPU seconds and what `work` returns."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def compile_times(model: Any) -> tuple[float, float]:
    """Return wall seconds of a kernel's compilation into an empty cache, and of finding it there."""
    from neurosim.vector.compiling import compile_kernel
    from neurosim.vector.density import make_density
    from neurosim.vector.source import KernelPlan, kernel_source
    from neurosim.vector.syntax import read_syntax

    names = sorted({name for names in model.mechanisms.values() for name in names})
    syntax = read_syntax(names)
    densities = [make_density(syntax[name], model.conditions.celsius) for name in names]
    source = kernel_source(KernelPlan.of(densities))
    before, seconds = os.environ.get("NEUROFLEET_CACHE"), []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEUROFLEET_CACHE"] = folder
        for _ in range(2):
            started = time.perf_counter()
            compile_kernel(source)
            seconds.append(time.perf_counter() - started)
    if before is None:
        del os.environ["NEUROFLEET_CACHE"]
    else:
        os.environ["NEUROFLEET_CACHE"] = before
    return seconds[0], seconds[1]


def main(write: Callable[[str], Any] = print) -> None:
    from neurosim.vector.cell import DT_MS, VectorCell
    from neurosim.warm import WarmEvaluator

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--individuals", type=int, default=64)
    options.add_argument("--cvode-sets", type=int, default=6)
    given = options.parse_args()
    problem, known = mouse_problem()
    model = problem.model
    protocols = model.targets.protocols
    published = [known[name] for name in problem.names]
    sets = np.array([published, *sets_around(problem, known, given.individuals - 1)])

    compile_s, cached_s = compile_times(model)
    VectorCell(model)
    started = time.perf_counter()
    cell = VectorCell(model)
    build_s = time.perf_counter() - started

    tail, whole, ns, spikes = {}, {}, {}, {}
    steps = sum(round(p.duration_ms / DT_MS) for p in protocols.values()) * len(sets) * cell.n_compartments
    for dtype in DTYPES:
        seconds, runs = timed(
            lambda dtype=dtype: [
                cell.run(sets, p, dtype=dtype, tail_dt_ms=TAIL_DT_MS) for p in protocols.values()
            ]
        )
        tail[dtype] = seconds / len(sets)
        spikes[dtype] = [n_spikes(run.soma_mV[0]) for run in runs]
        runaway = int(sum((~run.ok).sum() for run in runs))
        seconds, _ = timed(
            lambda dtype=dtype: [
                cell.run(sets, p, dtype=dtype, record_every=20).ok for p in protocols.values()
            ]
        )
        whole[dtype], ns[dtype] = seconds / len(sets), seconds / steps * 1e9

    evaluator = model.build_evaluator()
    evaluator.isolate_protocols = False
    warm = WarmEvaluator(evaluator)
    warm.build()
    seconds = [
        timed(lambda values=values: warm.responses(values))[0] for values in sets[1 : given.cvode_sets + 1]
    ]
    responses = warm.responses(published)
    spikes["cvode"] = [n_spikes(np.asarray(responses[f"{name}.soma.v"]["voltage"])) for name in protocols]
    cvode = float(np.mean(seconds))
    found = {
        "benchmark": "vector",
        **vars(given),
        "measures": "simulation only",
        "protocols": len(protocols),
        "compartments": cell.n_compartments,
        "cvode_atol": model.accuracy.atol,
        "tail_dt_ms": TAIL_DT_MS,
        "ns_per_compartment_step": ns,
        "s_per_individual": {"cvode": cvode, **tail},
        "speedup_vs_cvode": {dtype: cvode / tail[dtype] for dtype in DTYPES},
        "speedup_vs_cvode_whole": {dtype: cvode / whole[dtype] for dtype in DTYPES},
        "spikes": spikes,
        "runaway": runaway,
        "compile_s": compile_s,
        "compile_cached_s": cached_s,
        "build_s": build_s,
    }
    write(json.dumps(found))


if __name__ == "__main__":
    main()
