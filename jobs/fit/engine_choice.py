"""Which engine searches a stage: the vector engine where it can be built, else NEURON.

Decided once for each cell, before its evaluations, and kept in the run. Building the vector engine takes over
NEURON, compiles, and may crash: it is tried in a process of its own.
"""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from neurofleet.errors import InputError, UsageError
from neurofleet.fresh_process import end_with
from neurofleet.jobs.fit.fit_problem import EngineChoice, Problem, StagePlan, Subject
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.vector.vector_evaluator import LANES, VectorEvaluator

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
            [sys.executable, "-m", "neurofleet.jobs.fit.engine_choice", str(os.getpid())],
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
        return VectorTrial(f"The vector engine could not be built: its process ended with {ended} ({said[0]}).")
    return VectorTrial(**json.loads(done.stdout.splitlines()[-1]))


def _try() -> None:
    """Try the model on standard input (ours, from above), and print what came of it as the last line."""
    end_with(int(sys.argv[1]))
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


Wanted = Literal["auto", "neuron", "vector"]
Recorded = Mapping[str, EngineChoice]
"""Stage -> the engine that it was begun with."""

STAGE_STARTED = "stage started"
SHOWN_CELLS = 6

BY_KERNEL = f"{LANES} individuals at a time, by a kernel compiled for this machine"
BY_WISH = "as the job asks"
AS_BEGUN = "as it was begun"
OF_ONES_OWN = "an evaluator of your own runs as it is"


def recorded_choices(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, EngineChoice]]:
    """Return cell -> stage -> engine, of all stages that a run has begun."""
    found: dict[str, dict[str, EngineChoice]] = {}
    for event in events:
        if event["event"] == STAGE_STARTED:
            choice = EngineChoice(event.get("engine", "neuron"), event.get("engine_reason", AS_BEGUN))
            found.setdefault(event["cell"], {})[event["stage"]] = choice
    return found


def with_engines(subject: Subject, wanted: Wanted, recorded: Recorded) -> Subject:
    """Return the subject with the engine of each stage that may have another than NEURON.

    Raises
    ------
    UsageError
        The job, or what is stored of the cell, asks for the vector engine, and it cannot be used here.
    """
    return subject.with_stages(
        tuple(
            replace(stage, choice=_choice(subject, number, stage, wanted, recorded.get(stage.name)))
            for number, stage in enumerate(subject.stages)
        )
    )


def all_with_engines(subjects: Sequence[Subject], wanted: Wanted, recorded: Mapping[str, Recorded]) -> list[Subject]:
    """Do the same for several subjects, some at a time.

    Raises
    ------
    UsageError
        The faults of all of them.
    """

    def one(subject: Subject) -> Subject | UsageError:
        try:
            return with_engines(subject, wanted, recorded.get(subject.id, {}))
        except UsageError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            found = list(threads.map(one, subjects))
        except BaseException:  # Ctrl-C: those that have not begun are not waited for
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    if faults := [str(each) for each in found if isinstance(each, UsageError)]:
        raise UsageError("\n".join(dict.fromkeys(faults)))
    return [each for each in found if not isinstance(each, UsageError)]


def _choice(
    subject: Subject, number: int, stage: StagePlan, wanted: Wanted, before: EngineChoice | None
) -> EngineChoice | None:
    model = open_model(problem := subject.problem(number, None))
    if model is None:
        return one_engine(problem)
    if before is not None and before.engine == "neuron":
        return before
    if wanted == "neuron":
        return chosen(wanted, "", subject.id, stage.name)
    fault = try_vector(model).fault
    if fault and before is not None:
        raise UsageError(
            f"cell {subject.id}, stage {stage.name}: begun with the vector engine, which cannot go on here. "
            f"{fault} Scores of two engines are never mixed: go on where it can, or start in a new folder."
        )
    return chosen(wanted, fault, subject.id, stage.name)


def chosen(wanted: Wanted, fault: str, cell: str, stage: str) -> EngineChoice:
    """Return the engine of a stage, when `fault` is why the vector engine cannot do it, if it cannot.

    Raises
    ------
    UsageError
        The job wants the vector engine all the same.
    """
    if wanted == "neuron":
        return EngineChoice("neuron", BY_WISH)
    if not fault:
        return EngineChoice("vector", BY_KERNEL)
    if wanted == "vector":
        raise UsageError(f"cell {cell}, stage {stage}: {fault}")
    return EngineChoice("neuron", fault)


def one_engine(problem: Problem) -> EngineChoice | None:
    """Return the engine of a stage that is not open: NEURON, and it is said of a user's own evaluator."""
    return None if isinstance(problem.model, FitModel) else EngineChoice("neuron", OF_ONES_OWN)


def open_model(problem: Problem) -> FitModel | None:
    """Return the model of a stage whose engine is open; None of subthreshold stages and users' evaluators."""
    return problem.model if problem.final_model and isinstance(problem.model, FitModel) else None


def engine_lines(stages: Iterable[tuple[str, str, EngineChoice]]) -> list[str]:
    """Say which engine stages have and why, all cells alike in one line.

    Parameters
    ----------
    stages : iterable of (cell, stage, EngineChoice)
    """
    alike: dict[tuple[str, EngineChoice], list[str]] = {}
    for cell, stage, choice in stages:
        cells = alike.setdefault((stage, choice), [])
        if cell not in cells:
            cells.append(cell)
    return [f"{_listed(cells)}, stage {stage}: {choice}" for (stage, choice), cells in alike.items()]


def _listed(cells: Sequence[str]) -> str:
    if len(cells) > SHOWN_CELLS:
        return f"{len(cells)} cells"
    return f"cell{'s' if len(cells) > 1 else ''} {', '.join(cells)}"


def choices_of(subjects: Iterable[Subject]) -> list[tuple[str, str, EngineChoice]]:
    """Return what `engine_lines` tells."""
    return [(each.id, stage.name, stage.choice) for each in subjects for stage in each.stages if stage.choice]
