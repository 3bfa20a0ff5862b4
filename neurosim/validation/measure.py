"""A model at the stimuli that it was trained on, and at those that it was not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosim.fit_model import SOMA, FitModel
from neurosim.simulator import FIXED_STEP_MS
from neurosim.validation.explained_variance import spike_times
from neurosim.validation.stimuli import PlayedStimulus

if TYPE_CHECKING:
    from neurosim.targets import TargetSet


@dataclass(frozen=True)
class Validated:
    """What one model did.

    Attributes
    ----------
    training, generalisation : ndarray, shape (M,) and (G,)
        Scores: distances from the targets in standard deviations, 250 at most and without a feature.
    spikes_ms : dict of str to ndarray
        Played stimulus -> spikes from the beginning of its recorded part.
    voltage_mV : dict of str to ndarray
        Played stimulus -> voltage at the soma in steps of `FIXED_STEP_MS`.
    """

    training: np.ndarray
    generalisation: np.ndarray
    spikes_ms: dict[str, np.ndarray]
    voltage_mV: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ValidationMeasure:
    """What the models of a cell are run at.

    Attributes
    ----------
    model : FitModel
        With the targets that it was trained on, maybe none.
    generalisation : TargetSet or None
    stimuli : tuple of PlayedStimulus
    max_steps : int or None
        Integration steps that a model may take in all.
    """

    model: FitModel
    generalisation: "TargetSet | None"
    stimuli: tuple[PlayedStimulus, ...] = ()
    max_steps: int | None = None

    def build(self) -> Callable[[np.ndarray], Validated]:
        """Build the cell in NEURON and return what runs a model on it.

        Returns
        -------
        callable
            Parameter values, shape (P,) -> `Validated`. Raises `neurosim.budget.BudgetExceeded` and
            `neurosim.warm.IncompleteRun`.
        """
        from neurosim.warm import WarmEvaluator

        trained = self.model.targets
        scored = with_steps(self.model, self.generalisation) if self.generalisation else self.model
        warm = WarmEvaluator(scored.build_evaluator(), self.max_steps)
        warm.build()
        names = [target.objective for target in trained.targets]
        position = {name: i for i, name in enumerate(warm.objective_names)}
        train = [position[name] for name in names]
        rest = [i for name, i in position.items() if name not in names]
        played = {stimulus.name: _protocol(stimulus) for stimulus in self.stimuli}
        threshold_mV = self.model.targets.spike_threshold_mV

        def run(values: np.ndarray) -> Validated:
            scores = warm.evaluate(values) if position else np.empty(0)
            spikes, voltages = {}, {}
            for stimulus in self.stimuli:
                responses: Mapping[str, Any] = warm.responses(values, {stimulus.name: played[stimulus.name]})
                response = responses[f"{stimulus.name}.{SOMA}.v"]
                time_ms = np.asarray(response["time"], float) - stimulus.settling_ms
                voltage_mV = np.asarray(response["voltage"], float)
                found = spike_times(time_ms, voltage_mV, threshold_mV)
                spikes[stimulus.name] = found[found >= 0]
                voltages[stimulus.name] = np.interp(stimulus.time_ms, time_ms, voltage_mV).astype(np.float32)
            return Validated(scores[train], scores[rest], spikes, voltages)

        return run


def with_steps(model: FitModel, more: "TargetSet") -> FitModel:
    """Return a model with the targets at more steps behind its own."""
    own = model.targets
    targets = replace(
        own, protocols={**own.protocols, **more.protocols}, targets=(*own.targets, *more.targets)
    )
    return replace(model, targets=targets)


def _protocol(stimulus: PlayedStimulus) -> Any:
    """Return a BluePyOpt protocol in fixed steps that plays the current into the soma."""
    from bluepyopt import ephys

    from neurosim.fit_model import location

    soma = location(SOMA)
    middles = stimulus.settling_ms + stimulus.time_ms + FIXED_STEP_MS / 2
    times = np.concatenate([[0.0], middles])
    currents = np.concatenate([stimulus.current_nA[:1], stimulus.current_nA])
    played = ephys.stimuli.NrnCurrentPlayStimulus(times, currents, soma)
    played.total_duration = stimulus.settling_ms + stimulus.duration_ms - FIXED_STEP_MS
    recording = ephys.recordings.CompRecording(name=f"{stimulus.name}.{SOMA}.v", location=soma, variable="v")
    return ephys.protocols.SweepProtocol(stimulus.name, [played], [recording], cvode_active=False)
