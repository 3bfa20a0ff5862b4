"""Build the vector engine of a model in a process of its own: whether it can be, and how fast it is.

Building it takes over NEURON, compiles, and may crash; here that costs nothing but the process.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from cluster.orphans import die_with

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel

LIMIT_S = 900.0


@dataclass(frozen=True)
class VectorTrial:
    """What came of it.

    Attributes
    ----------
    fault : str
        Why the engine cannot be built, in one line; empty if it can.
    seconds_each : float or None
        Time for each of the individuals, all evaluated together; None if there was none to evaluate.
    """

    fault: str = ""
    seconds_each: float | None = None


def try_vector(model: "FitModel", individuals: np.ndarray | None = None) -> VectorTrial:
    """Build the engine, and evaluate `individuals`, shape (n, P), if there are some."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "jobs.fit.vector_trial", str(os.getpid())],
            input=pickle.dumps((model, individuals)),
            capture_output=True,
            check=False,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return VectorTrial(f"The vector engine could not be built within {LIMIT_S:g} s.")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        return VectorTrial(
            f"The vector engine could not be built: its process ended with {ended} ({said[0]})."
        )
    return VectorTrial(**json.loads(done.stdout.splitlines()[-1]))


def _try() -> None:
    """Try the model on standard input (ours, from above), and print what came of it as the last line."""
    from neurosim.errors import InputError
    from neurosim.vector.evaluator import VectorEvaluator

    die_with(int(sys.argv[1]))
    model, individuals = pickle.load(sys.stdin.buffer)
    trial = VectorTrial()
    try:
        evaluator = VectorEvaluator(model)
    except InputError as error:
        trial = VectorTrial(str(error).splitlines()[0].rstrip(":"))
    else:
        if individuals is not None:
            evaluator.evaluate(individuals[:1])  # what only the first one waits for is no part of a search
            started = time.perf_counter()
            evaluator.evaluate(individuals)
            trial = VectorTrial(seconds_each=(time.perf_counter() - started) / len(individuals))
    print("\n" + json.dumps(asdict(trial)))


if __name__ == "__main__":
    _try()
