"""Which engine searches a stage: the vector engine where it can be built, else NEURON.

Decided once for each cell, before its evaluations, and kept in the run. Building the vector engine takes over
NEURON, compiles, and may crash: it is tried in a process of its own.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from neurofleet import fresh_process
from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.fit.campaign_state import EngineChoice, RecordedChoices
from neurofleet.jobs.fit.fit_problem import Subject
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
        CPU time for each of the individuals, all evaluated together; None if there was none to evaluate.
    """

    fault: str = ""
    seconds_each: float | None = None


def try_vector(model: FitModel, individuals: np.ndarray | None = None) -> VectorTrial:
    """Build the engine in a process of its own, and evaluate `individuals`, shape (n, P), if there are some."""
    try:
        return fresh_process.call(try_here, model, individuals, limit_s=LIMIT_S)
    except fresh_process.ProcessFailed as error:
        if error.timed_out:
            return VectorTrial(f"The vector engine could not be built within {LIMIT_S:g} s.")
        return VectorTrial(f"The vector engine could not be built: {error.reason}.")
    except Exception as error:  # noqa: BLE001 - whatever it is, the fit goes on with NEURON
        reason = f"{type(error).__name__}: {error}".splitlines()[-1].rstrip(".")
        return VectorTrial(f"The vector engine could not be built: {reason}.")


def faults(models: Sequence[FitModel]) -> list[str]:
    """Return why the engine of each model cannot be built, empty of one that can be.

    All are built in one process; only if they end it, each in its own.
    """
    if len(models) > 1:
        try:
            return fresh_process.call(faults_here, models, limit_s=LIMIT_S)
        except Exception:  # noqa: BLE001 - whichever model it was, it is found alone
            pass
    return [try_vector(model).fault for model in models]


def faults_here(models: Sequence[FitModel]) -> list[str]:
    """Build the engines in this process, which can build nothing else with NEURON afterwards."""
    return [try_here(model, None).fault for model in models]


def try_here(model: FitModel, individuals: np.ndarray | None) -> VectorTrial:
    """Build the engine in this process, which can build nothing else with NEURON afterwards."""
    try:
        evaluator = VectorEvaluator(model)
    except InputError as error:
        return VectorTrial(str(error).splitlines()[0].rstrip(":"))
    if individuals is None:
        return VectorTrial()
    evaluator.evaluate(individuals[:1])  # what only the first one waits for is no part of a search
    started = time.process_time()
    evaluator.evaluate(individuals)
    return VectorTrial(seconds_each=(time.process_time() - started) / len(individuals))


Wanted = Literal["auto", "neuron", "vector"]
BY_KERNEL = f"{LANES} individuals at a time, by a kernel compiled for this machine"
AS_REQUESTED = "as the job asks"
USER_EVALUATOR = "an evaluator of your own runs as it is"


def with_engines(subject: Subject, requested: Wanted, recorded: RecordedChoices) -> Subject:
    """Return the subject with the engine of each stage.

    Raises
    ------
    UsageError
        The job, or what is stored of the cell, asks for the vector engine, and it cannot be used here.
    """
    choices: dict[str, EngineChoice] = {}
    to_try: dict[str, FitModel] = {}
    for number, stage in enumerate(subject.stages):
        model, before = subject.problem(number, None).model, recorded.get(stage.name)
        if not isinstance(model, FitModel):
            choices[stage.name] = EngineChoice("neuron", USER_EVALUATOR)
        elif before is not None and before.engine == "neuron":
            choices[stage.name] = before
        elif requested == "neuron":
            choices[stage.name] = chosen(requested, "", subject.id, stage.name)
        else:
            to_try[stage.name] = model
    for name, fault in zip(to_try, faults(list(to_try.values())), strict=True):
        if fault and name in recorded:
            raise UsageError(
                f"cell {subject.id}, stage {name}: begun with the vector engine, which cannot go on here. "
                f"{fault} Scores of two engines are never mixed: go on where it can, or start in a new folder."
            )
        choices[name] = chosen(requested, fault, subject.id, name)
    return subject.with_stages(
        tuple(
            replace(stage.for_engine(choices[stage.name].engine), choice=choices[stage.name])
            for stage in subject.stages
        )
    )


def all_with_engines(
    subjects: Sequence[Subject], requested: Wanted, recorded: Mapping[str, RecordedChoices]
) -> list[Subject]:
    """Do the same for several subjects, some at a time.

    Raises
    ------
    UsageError
        The faults of all of them.
    """

    def choose(subject: Subject) -> Subject | UsageError:
        try:
            return with_engines(subject, requested, recorded.get(subject.id, {}))
        except UsageError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            results = list(threads.map(choose, subjects))
        except BaseException:  # Ctrl-C: those that have not begun are not waited for
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    if faults := [str(each) for each in results if isinstance(each, UsageError)]:
        raise UsageError("\n".join(dict.fromkeys(faults)))
    return [each for each in results if not isinstance(each, UsageError)]


def chosen(requested: Wanted, fault: str, cell: str, stage: str) -> EngineChoice:
    """Return the engine of a stage, when `fault` is why the vector engine cannot do it, if it cannot.

    Raises
    ------
    UsageError
        The job wants the vector engine all the same.
    """
    if requested == "neuron":
        return EngineChoice("neuron", AS_REQUESTED)
    if not fault:
        return EngineChoice("vector", BY_KERNEL)
    if requested == "vector":
        raise UsageError(f"cell {cell}, stage {stage}: {fault}")
    return EngineChoice("neuron", fault)


def choices_of(subjects: Iterable[Subject]) -> list[tuple[str, str, EngineChoice]]:
    """Return what `engine_lines` tells."""
    return [(each.id, stage.name, stage.choice) for each in subjects for stage in each.stages if stage.choice]
