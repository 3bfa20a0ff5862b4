"""Steps of current at which the finalists of a search fire otherwise when NEURON scores them again, more accurately."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.neurosim.features.step_protocols import FeatureTarget, TargetSet

COUNTS = ("Spikecount", "spike_count_stimint", "spike_count")
RATE = "mean_frequency"
FEWEST_SPIKES, LEAST_SHARE = 2, 0.2
"""Firing differs where it does by so many spikes, and by this share of the higher rate."""

LARGE_SHARE = 0.25
"""Of the finalists: from this share on a step counts as uncertain."""

UNCERTAIN = "firing depends on the accuracy of integration at"

WHOLE = 0.05  # how far a number of spikes, calculated from its score, is from a whole number


@dataclass(frozen=True)
class UncertainStep:
    """A step at which the firing of many finalists depends on how accurately they are integrated.

    Attributes
    ----------
    step : str
    amplitude_pA : float
    finalists, of : int
        How many finalists fire otherwise than in the search, and of how many.
    search_Hz, neuron_Hz : float
        Median rates of these in the search, and by NEURON.
    search_or_more, neuron_or_more : bool
        Whether that rate is the largest that a score tells.
    """

    step: str
    amplitude_pA: float
    finalists: int
    of: int
    search_Hz: float
    neuron_Hz: float
    search_or_more: bool = False
    neuron_or_more: bool = False

    def __str__(self) -> str:
        search, neuron = (
            f"{rate_Hz:.3g} Hz{' or more' if more else ''}"
            for rate_Hz, more in ((self.search_Hz, self.search_or_more), (self.neuron_Hz, self.neuron_or_more))
        )
        return (
            f"{self.step} ({self.amplitude_pA:.4g} pA): {self.finalists} of {self.of} finalists fire at {search} in the"
            f" search and at {neuron} when NEURON scores them again (medians)"
        )


def uncertain_steps(
    targets: TargetSet | None, models_of: Sequence[HallOfFameRows], largest_score: float
) -> list[UncertainStep]:
    """Return the steps at which at least a quarter of the finalists fire otherwise by NEURON than in the search.

    Rates are calculated from the scores of spike counts and rates. A score does not tell whether a model has more
    spikes than the recording or fewer: where both are possible, the pair of rates that differs least is meant.

    Parameters
    ----------
    targets : TargetSet or None
        None of a user's own model: nothing is known of its steps.
    models_of : sequence of HallOfFameRows
        All finalists of each seed, with both scores.
    largest_score : float
        Of an objective; that of a missing feature.
    """
    if targets is None or not models_of or models_of[0].search_scores is None:
        return []
    neuron, search = (
        np.concatenate([getattr(models, name) for models in models_of]) for name in ("scores", "search_scores")
    )
    usable = (neuron < largest_score).any(axis=1) & (search < largest_score).any(axis=1)
    neuron, search, names = neuron[usable], search[usable], list(models_of[0].objective_names)
    found = []
    for step in targets.protocols.values():
        target = _spikes_target(targets, step.name)
        step_s = (step.stop_ms - step.start_ms) / 1000.0
        if target is None or not len(neuron):
            continue
        column = names.index(target.objective)
        both = search[:, column], neuron[:, column]
        rates = _nearest(*(_rates(z, target, step_s, largest_score) for z in both))
        apart = np.abs(rates[0] - rates[1])
        differ = (apart * step_s >= FEWEST_SPIKES - 2 * WHOLE) & (apart >= LEAST_SHARE * rates.max(axis=0))
        if differ.mean() >= LARGE_SHARE:
            medians = np.median(rates[:, differ], axis=1).tolist()
            or_more = [target.feature != RATE and bool(np.median(z[differ]) >= largest_score) for z in both]
            shown = (step.name, 1000.0 * step.amplitude_nA, int(differ.sum()), len(differ))
            found.append(UncertainStep(*shown, *medians, *or_more))
    return found


def uncertain_steps_of(event: Mapping[str, Any]) -> tuple[UncertainStep, ...]:
    """Return what the event "stage finished" tells; nothing of runs from versions that did not look."""
    return tuple(UncertainStep(**step) for step in event.get("uncertain_steps", ()))


def _spikes_target(targets: TargetSet, step: str) -> FeatureTarget | None:
    of_step = {target.feature: target for target in targets.targets if target.protocol == step}
    return next((of_step[name] for name in (*COUNTS, RATE) if name in of_step), None)


def _rates(z: np.ndarray, target: FeatureTarget, step_s: float, largest_score: float) -> np.ndarray:
    """Return the two rates in Hz that scores (n,) leave possible, shape (2, n); NaN for one that is not."""
    values = target.mean + np.array([[-1.0], [1.0]]) * target.std * z
    at_limit = z >= largest_score
    if target.feature == RATE:
        values[:, at_limit] = 0.0  # no spikes, no mean frequency
        return np.where(values < 0.0, np.nan, values)
    whole = np.abs(values - np.round(values)) <= WHOLE
    return np.where((values > -WHOLE) & (whole | at_limit), values.clip(0.0), np.nan) / step_s


def _nearest(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return of rates (2, n) and (2, n) the pairs that differ least, shape (2, n); equal ones where there are none."""
    apart = np.abs(one[:, None] - other[None]).reshape(4, -1)
    pair = np.where(np.isnan(apart), np.inf, apart).argmin(axis=0)
    at = np.arange(one.shape[1])
    pairs = np.stack([one[pair // 2, at], other[pair % 2, at]])
    return np.where(np.isnan(pairs).any(axis=0), 0.0, pairs)
