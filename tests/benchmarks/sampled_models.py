"""Drawing and scoring models of one cell, CPU seconds of one process: ours, and BluePyOpt as it comes.

Part of ``python -m tests.benchmarks.populations``; alone, ``python -m tests.benchmarks.sampled_models N``
prints one JSON line for N draws in the published bounds of mouse 483101699 (4 protocols).

``sampled_per_s``, ``sampled_all_protocols_per_s``
    Draws a CPU second, within 3 standard deviations of every target: those that miss one are given up at
    once, or run at all protocols.
``stock_per_s``
    The same draws by BluePyOpt's own evaluator, the cell built anew for each protocol.
``sampling_speedup``
    The first over the last.
``same_verdicts``
    Whether all three accept the same draws, as far as the third tells: by scores of at most 3.
"""

import json
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "neuron" / "allen_483101699"
WITHIN_Z = 3.0


def sampling(draws: int) -> dict[str, Any]:
    """Return the rates of `draws` draws."""
    context = get_context("spawn")  # NEURON keeps what was built in a process
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        early, accepted = pool.submit(_ours, draws, True).result()
        whole, accepted_too = pool.submit(_ours, draws, False).result()
        stock, within = pool.submit(_stock, draws).result()
    return {
        "draws": draws,
        "sampled_per_s": round(draws / early, 2),
        "sampled_all_protocols_per_s": round(draws / whole, 2),
        "stock_per_s": round(draws / stock, 3),
        "sampling_speedup": round(stock / early, 1),
        "accepted": int(sum(accepted)),
        "same_verdicts": accepted == accepted_too
        and not any(b and not a for a, b in zip(accepted, within, strict=True)),
    }


def _sampling(draws: int) -> Any:
    from neurofleet.jobs.studies.sampling import SampleSpec, read_samplings

    cell = {"id": "483101699", "morphology": "483101699.swc", "targets": "."}
    spec = SampleSpec.model_validate({"name": "benchmark", "cells": [cell], "draws": draws})
    return read_samplings(spec, DATA)[0][0]


def _ours(draws: int, stop_early: bool) -> tuple[float, list[bool]]:
    from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded
    from neurofleet.neurosim.studies.parameter_sampling import SampleMeasure

    sampling = _sampling(draws)
    run = SampleMeasure(sampling.model, WITHIN_Z, stop_early, 1_000_000).build()
    before, accepted = _cpu_s(), []
    for values in sampling.design.rows(0, draws):
        try:
            accepted.append(run(values).rejected_by < 0)
        except BudgetExceeded:
            accepted.append(False)
    return _cpu_s() - before, accepted


def _stock(draws: int) -> tuple[float, list[bool]]:
    sampling = _sampling(draws)
    evaluator = sampling.model.build_evaluator()
    before, within = _cpu_s(), []
    for values in sampling.design.rows(0, draws):
        scores = evaluator.evaluate_with_lists(values.tolist())
        within.append(bool(np.max(scores) <= WITHIN_Z))
    return _cpu_s() - before, within


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(json.dumps(sampling(int(sys.argv[1]) if len(sys.argv) > 1 else 16)))
