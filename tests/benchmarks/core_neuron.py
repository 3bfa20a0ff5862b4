"""CoreNEURON of the wheel, its mechanisms compiled for this machine: CPU seconds of a step of one individual.

Run as ``python -m tests.benchmarks.core_neuron [--individuals N] [--ms T]``; one JSON line on stdout, with
``us_per_step`` of NEURON in fixed steps of 0.05 ms and of CoreNEURON. Takes two to four minutes, most of it
to compile. `tests.benchmarks.vector` runs it with ``--coreneuron``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = "-O3 -march=native -mprefer-vector-width=512 -ffast-math"
DT_MS = 0.05


def compile_for_this_machine(folder: Path) -> None:
    """Compile what the spiny recipe needs for NEURON and CoreNEURON, with `FLAGS` after the wheel's own."""
    from neurofleet.neurosim.mechanisms.catalogue import PROJECT_SOURCES

    (folder / "mod").mkdir()
    for source in PROJECT_SOURCES:
        if "VERBATIM" not in source.read_text():
            shutil.copy(source, folder / "mod")
    compiler = folder / "compiler"
    compiler.write_text(f'#!/bin/sh\nexec g++ "$@" {FLAGS}\n')
    compiler.chmod(0o755)
    command = [str(Path(sys.executable).with_name("nrnivmodl")), "-coreneuron", "mod"]
    environment = {**os.environ, "CXX": str(compiler)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def measure(folder: Path, individuals: int, duration_ms: float) -> dict[str, Any]:
    """Return microseconds of a step of one individual, all simulated together."""
    libraries = next(folder.glob("*/libcorenrnmech.so")).parent
    os.environ["CORENEURONLIB"] = str(libraries / "libcorenrnmech.so")
    from neuron import coreneuron, h

    h.nrn_load_dll(str(libraries / "libnrnmech.so"))
    from bluepyopt.ephys.simulators import NrnSimulator

    from tests.benchmarks.evaluation import mouse_problem, sets_around

    problem, known = mouse_problem()
    simulator = NrnSimulator(cvode_active=False, dt=DT_MS)
    kept = []
    for values in sets_around(problem, known, individuals):
        cell = problem.model.build_cell()
        cell.freeze(dict(zip(problem.names, values, strict=True)))
        cell.instantiate(sim=simulator)
        clamp = h.IClamp(cell.icell.soma[0](0.5))
        clamp.amp, clamp.delay, clamp.dur = 0.29, 50.0, duration_ms
        kept.append((cell, clamp))
    parallel = h.ParallelContext(1)
    h.cvode.cache_efficient(True)
    h.cvode_active(False)
    h.dt = DT_MS
    found = {}
    for name, enabled in (("neuron", False), ("coreneuron", True), ("coreneuron", True)):
        coreneuron.enable = enabled
        parallel.set_maxstep(10)
        h.finitialize(problem.model.conditions.v_init_mV)
        started = time.process_time()
        parallel.psolve(duration_ms)
        found[name] = (time.process_time() - started) / (individuals * duration_ms / DT_MS) * 1e6
    return {"us_per_step": found}


def main(write: Callable[[str], Any] = print) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--individuals", type=int, default=32)
    options.add_argument("--ms", type=float, default=300.0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compile_for_this_machine(Path(name))
        found = measure(Path(name), given.individuals, given.ms)
    write("\n" + json.dumps({"benchmark": "core_neuron", **vars(given), **found}))


if __name__ == "__main__":
    main()
