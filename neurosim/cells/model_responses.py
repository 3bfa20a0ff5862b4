"""What a model responded with: its voltages, e-features beside their targets, and firing rates."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofleet.neurosim.features.step_protocols import StepProtocol

Trace = tuple[np.ndarray, np.ndarray]
"""Time in ms and voltage in mV, (n,) arrays."""


@dataclass(frozen=True)
class FeatureValue:
    """An e-feature of a model and what it is compared with; None where there is no value, or are several."""

    value: float | None
    mean: float | None
    std: float | None


def voltage_traces(responses: Mapping[str, Any]) -> Iterator[tuple[str, Trace]]:
    """Yield the name of each recorded voltage, such as ``LongDC_46.soma.v``, with its trace."""
    for name, response in responses.items():
        try:
            time_ms, voltage_mV = response["time"], response["voltage"]
        except (TypeError, KeyError):
            continue  # missing, or no voltage
        yield name, (np.asarray(time_ms, float), np.asarray(voltage_mV, float))


def feature_values(calculator: Any, responses: Mapping[str, Any]) -> dict[str, FeatureValue]:
    """Return objective -> its e-feature, by the fitness calculator of a BluePyOpt evaluator."""
    features_found = {}
    for objective in calculator.objectives:
        value = of = None
        if hasattr(objective, "calculate_value"):  # those of several e-features have none
            value, of = objective.calculate_value(responses), next(iter(getattr(objective, "features", ())), None)
        features_found[objective.name] = FeatureValue(
            None if value is None else float(np.mean(value)),
            getattr(of, "exp_mean", None),
            getattr(of, "exp_std", None),
        )
    return features_found


def firing_rate(trace: Trace, step: StepProtocol, spike_threshold_mV: float) -> float:
    """Spikes per second as `neurofleet.neurosim.features.training_targets.firing_rates` counts them in a recording."""
    import efel

    time_ms, voltage_mV = trace
    efel.reset()
    efel.set_setting("Threshold", spike_threshold_mV)
    trace_of_efel = {"T": time_ms, "V": voltage_mV, "stim_start": [step.start_ms], "stim_end": [step.stop_ms]}
    peaks = efel.get_feature_values([trace_of_efel], ["peak_time"], raise_warnings=False)[0]["peak_time"]
    times = np.empty(0) if peaks is None else np.asarray(peaks)
    spikes = np.sum((times >= step.start_ms) & (times <= step.stop_ms))
    return float(spikes / ((step.stop_ms - step.start_ms) / 1000.0))
