"""Scores of made-up responses: distances, and the penalties of responses that are none."""

import numpy as np
import pytest

from neurofleet.neurosim.features.bluepyopt_efeatures import (
    BLOCKED_PENALTY,
    MISSING_PENALTY,
    PerisomaticFeature,
    StepScoring,
    has_two_kinds,
    is_blocked,
)
from neurofleet.neurosim.features.perisomatic_features import Spikes, step_features
from tests.neurosim.features.test_perisomatic_features import START, STOP, TIMES, spiking

PEAKS = [150.0, 170.0, 200.0, 240.0, 290.0]


def made(peaks_ms) -> Spikes:
    missing = np.full(len(peaks_ms), np.nan)
    return Spikes(peaks_ms, peaks_ms, missing, missing, missing, missing, missing, missing)


def scored(voltage, names=("avg_rate", "latency", "adapt"), block=None, **targets):
    """Return the scores of a voltage against those of the train of `PEAKS`."""
    known = step_features(TIMES, spiking(PEAKS), START, STOP)
    wanted = {name: (known[name], 1.0) for name in names} | targets
    responses = {"soma": {"time": TIMES, "voltage": voltage}}
    if block is not None:
        responses["strong"] = {"time": TIMES, "voltage": block}
    about = ("strong", START, STOP) if block is not None else ()
    scoring = StepScoring("soma", START, STOP, wanted, *about)
    return [PerisomaticFeature(n, feature=n, scoring=scoring).calculate_score(responses) for n in wanted]


def test_the_known_response_scores_nothing_and_another_its_distance():
    assert scored(spiking(PEAKS)) == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    rate, latency, _ = scored(spiking([time + 5.0 for time in PEAKS]), latency=(49.0, 2.0))
    assert rate == 0.0
    assert latency == pytest.approx(2.5, abs=0.2)


def test_a_feature_that_is_missing_costs_twenty():
    assert scored(spiking([150.0, 200.0]))[2] == MISSING_PENALTY  # adaptation takes two intervals


def test_a_failed_response_costs_less_the_more_it_moves():
    silent = scored(spiking([]))
    assert silent == [250.0] * 3
    moving = spiking([]) + np.where((TIMES >= START) & (TIMES < STOP), 40.0, 0.0)
    less = scored(moving)
    window = (TIMES >= 0.0) & (TIMES < 200.0)
    assert less == pytest.approx([250.0 - 0.1 * moving[window].var()] * 3)
    wild = spiking([]) + np.where((TIMES >= START) & (TIMES < STOP), 200.0, 0.0)
    assert scored(wild) == [75.0] * 3


@pytest.mark.parametrize(
    "voltage",
    [
        spiking([50.0, *PEAKS]),  # spikes before the step
        spiking(PEAKS) + np.where(TIMES > 350.0, 3.0, 0.0),  # does not come back to rest
        spiking([150.0]),  # a single spike
    ],
)
def test_what_makes_a_response_a_failed_one(voltage):
    scores = scored(voltage)
    assert len(set(scores)) == 1
    assert 75.0 <= scores[0] <= 250.0


def test_peaks_of_two_kinds_about_the_target_fail():
    assert has_two_kinds(np.array([50.0, -10.0, 50.0, -10.0]), 20.0, 2.0)
    assert not has_two_kinds(np.array([20.1, 19.9]), 20.0, 2.0)
    assert not has_two_kinds(np.array([30.0, 30.0]), 20.0, 2.0)


def test_a_model_that_is_blocked_at_a_stronger_step_costs_75_a_feature():
    held = spiking([]) + np.where((TIMES >= 150.0) & (TIMES < STOP), 40.0, 0.0)
    assert scored(spiking(PEAKS), block=held) == [BLOCKED_PENALTY] * 3
    assert scored(spiking(PEAKS), block=spiking(PEAKS)) == pytest.approx([0.0] * 3, abs=1e-9)
    assert scored(spiking([]), block=held) == [250.0] * 3


@pytest.mark.parametrize(
    ("voltage", "blocked"),
    [
        (spiking(PEAKS), False),
        (spiking([]), True),  # never above -50 mV
        (spiking(PEAKS, rest=-90.0), False),  # below -75 mV between spikes of a short interval only
        (spiking([110.0, 290.0], rest=-90.0), True),
    ],
)
def test_block_is_a_long_stay_above_or_below(voltage, blocked):
    if blocked is False and voltage[0] < -80.0:
        voltage = voltage + np.where((TIMES >= START) & (TIMES < STOP), 20.0, 0.0)
    assert is_blocked(TIMES, voltage, START, STOP) is blocked


def test_a_response_that_is_not_there_costs_the_most():
    scoring = StepScoring("soma", START, STOP, {"avg_rate": (1.0, 1.0)})
    feature = PerisomaticFeature("rate", feature="avg_rate", scoring=scoring)
    assert feature.calculate_score({}) == 250.0
    assert feature.calculate_feature({}) is None


def test_silence_is_no_failure_where_the_recorded_cell_is_silent():
    rate, base = scored(spiking([]), ("avg_rate", "v_baseline"), avg_rate=(0.0, 0.5))
    assert (rate, base) == (0.0, pytest.approx(0.0, abs=1e-9))


def test_a_response_that_ends_soon_after_the_step_need_not_be_back_at_rest():
    voltage = spiking(PEAKS) + np.where(TIMES > 350.0, 3.0, 0.0)
    wanted = {"avg_rate": (25.0, 1.0)}
    scoring = StepScoring("soma", START, STOP, wanted, comes_to_rest=False)
    assert scoring.score({"soma": {"time": TIMES, "voltage": voltage}}, "avg_rate", 250.0) == pytest.approx(0.0)
