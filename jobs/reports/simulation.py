"""Run the best models again, each in a process of its own: NEURON may hang or crash, the report goes on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurofleet import fresh_process
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.model_responses import FeatureValue, feature_values, firing_rate, voltage_traces
from neurofleet.neurosim.cells.user_model import UserModel
from neurofleet.neurosim.cells.warm_evaluator import BudgetExceeded, IncompleteRun, WarmEvaluator
from neurofleet.neurosim.features.step_protocols import StepProtocol

LIMIT_S = 300.0


@dataclass(frozen=True)
class Request:
    """What to simulate of one stage.

    Parameters
    ----------
    model : FitModel or UserModel
    individuals : tuple of (P,) tuples
        In the order of the model's free parameters, best first.
    steps : tuple of StepProtocol
        Count the spikes of each individual at these steps. Without steps, run the model's own protocols with
        the first individual and keep traces and e-features.
    max_steps : int or None
        Integration steps that one run may take.
    """

    model: FitModel | UserModel
    individuals: tuple[tuple[float, ...], ...]
    steps: tuple[StepProtocol, ...] = ()
    max_steps: int | None = None


@dataclass(frozen=True)
class ModelRate:
    """Spikes per second of an individual during a step."""

    individual: int
    amplitude_nA: float
    rate_Hz: float


@dataclass(frozen=True)
class Traces:
    """Recording name -> time in ms and voltage in mV, (n,) arrays."""

    by_recording: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Features:
    """Objective -> its e-feature."""

    by_objective: dict[str, FeatureValue]


@dataclass
class Simulation:
    """What a simulation gave.

    Attributes
    ----------
    traces : dict
        Recording name (`<protocol>.soma.v`) -> time in ms and voltage in mV, (n,) arrays.
    features : dict of str to FeatureValue
        By objective.
    rates : list of ModelRate
    fault : str
        Why it is not complete, else empty.
    """

    traces: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    features: dict[str, FeatureValue] = field(default_factory=dict)
    rates: list[ModelRate] = field(default_factory=list)
    fault: str = ""

    def add(self, part: Traces | Features | ModelRate) -> None:
        """Keep a part of it."""
        if isinstance(part, Traces):
            self.traces |= part.by_recording
        elif isinstance(part, Features):
            self.features |= part.by_objective
        else:
            self.rates.append(part)


def simulate(request: Request, limit_s: float = LIMIT_S) -> Simulation:
    """Simulate in a process of its own; what it sent before it failed or ran out of time is kept."""
    done = Simulation()
    try:
        for part in fresh_process.stream(simulate_here, request, limit_s=limit_s):
            done.add(part)
    except fresh_process.ProcessFailed as error:
        done.fault = error.reason
    except Exception as error:  # noqa: BLE001 - of NEURON or of a user's own evaluator; the report prints it
        done.fault = f"{type(error).__name__}: {error}"
    return done


def simulate_here(request: Request) -> Iterator[Traces | Features | ModelRate]:
    """Simulate in this process, and yield what there is as soon as it is there."""
    evaluator = request.model.build_evaluator()
    warm = WarmEvaluator(evaluator, request.max_steps)
    if not request.steps:
        responses = warm.responses(request.individuals[0])
        yield Traces(dict(voltage_traces(responses)))
        yield Features(feature_values(evaluator.fitness_calculator, responses))
        return
    model: Any = request.model
    for step in request.steps:  # step by step, so that an early end leaves all models with the same part
        for i, individual in enumerate(request.individuals):
            try:
                responses = warm.responses(individual, {step.name: model.protocol(step)})
            except (BudgetExceeded, IncompleteRun):
                continue
            for _, trace in voltage_traces(responses):
                rate_Hz = firing_rate(trace, step, model.targets.spike_threshold_mV)
                yield ModelRate(i, step.amplitude_nA, rate_Hz)
                break
