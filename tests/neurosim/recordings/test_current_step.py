"""Finding the step in clean, noisy and unsuitable current channels."""

from dataclasses import replace

import numpy as np
import pytest

from neurofleet.neurosim.recordings.current_step import NotAStep, Pulse, SeveralSteps, find_step, repeated_pulses
from tests.neurosim.recordings.recording_files import RATE_HZ, step_current


def test_clean_step_is_found_to_the_sample():
    step = find_step(step_current(-0.05, 20.0, 400.0, 500.0), RATE_HZ)
    assert (step.start, step.last) == (200, 4199)
    assert step.amplitude_nA == -0.05
    assert step.noise_nA == 0.0


@pytest.mark.parametrize(
    ("at_ms", "length_ms", "stop"),
    [
        (10.0, 10.0, None),
        (10.0, 40.0, None),
        (420.0, 20.0, 4190),
    ],  # before the step, and after it: the sweep ends there
)
def test_a_short_test_pulse_is_told_from_the_step(at_ms, length_ms, stop):
    step = find_step(step_current(0.1) + step_current(-0.2, at_ms, length_ms), RATE_HZ)
    assert (step.start, step.last, step.amplitude_nA, step.stop) == (1000, 2999, 0.1, stop)
    assert step.test_pulses == (Pulse(at_ms, at_ms + length_ms, -0.2),)


@pytest.mark.parametrize(
    "other",
    [
        step_current(-0.2, 50.0, 39.0),  # the cell is not at rest when the step comes
        step_current(-0.05, 310.0, 20.0),
        step_current(-0.1, 400.0, 90.0),  # half as long as the step
        step_current(1.0, 400.0, 2.0) + step_current(1.0, 420.0, 2.0),
        step_current(0.006, 340.0, 150.0),  # low, but long
    ],
)
def test_of_several_steps_none_is_chosen(other):
    with pytest.raises(SeveralSteps, match="100 to 300 ms.*window_ms") as raised:
        find_step(step_current(0.1) + other, RATE_HZ)
    assert raised.value.longest.amplitude_nA == pytest.approx(0.1, abs=0.01)


def test_flicker_and_leaking_spikes_are_no_pulses():
    current = step_current(0.1)
    current[3500:3510] += 0.003
    current += np.random.default_rng(4).normal(0.0, 0.0005, 5000)
    current[400:415] += 0.2
    current[4000:4045] -= 0.04
    assert find_step(current, RATE_HZ).test_pulses == ()


STEPS = [(Pulse(20, 120, -0.1), Pulse(250, 400, amplitude_nA)) for amplitude_nA in (0.1, 0.2, 0.3)]


@pytest.mark.parametrize(
    ("sweeps", "found"),
    [
        (STEPS, 1),
        ([STEPS[0][:1], *STEPS], 1),  # a sweep with a step of 0 pA
        (STEPS[:2], 0),  # too few to tell
        ([(first, replace(last, amplitude_nA=0.1)) for first, last in STEPS], 0),  # nothing varies
        ([(replace(first, amplitude_nA=last.amplitude_nA), last) for first, last in STEPS], 0),  # both do
        ([(first, last, Pulse(420, 440, last.amplitude_nA)) for first, last in STEPS], 0),
        ([(replace(first, start_ms=100, stop_ms=240), last) for first, last in STEPS], 0),  # not apart
        ([(), *STEPS], 0),
    ],
)
def test_a_pulse_that_all_sweeps_share_is_a_test_pulse(sweeps, found):
    assert repeated_pulses(sweeps) == [STEPS[0][0]] * found


@pytest.mark.parametrize("amplitude_nA", [0.03, -0.2, 1.0])
def test_noise_and_holding_current_do_not_hide_the_step(amplitude_nA):
    noise = np.random.default_rng(3).normal(0.0, 0.008, 5000)
    step = find_step(step_current(amplitude_nA) - 0.075 + noise, RATE_HZ)
    assert abs(step.start - 1000) <= step.edge_error
    assert abs(step.last - 2999) <= step.edge_error
    assert step.amplitude_nA == pytest.approx(amplitude_nA, abs=0.001)
    assert step.rest_nA == pytest.approx(-0.075, abs=0.001)
    assert step.noise_nA == pytest.approx(0.008, rel=0.3)


def test_spikes_that_leak_into_the_channel_do_not_move_the_edges():
    current = step_current(0.1) + np.random.default_rng(4).normal(0.0, 0.003, 5000)
    for at in (1010, 1500, 2000, 3003):  # the last one just after the step
        current[at : at + 5] -= 0.7
        current[at + 5 : at + 12] += 0.4
    step = find_step(current, RATE_HZ)
    assert abs(step.start - 1000) <= 2
    assert abs(step.last - 2999) <= 2


def _ramp():
    current = np.zeros(5000)
    current[1000:3000] = np.linspace(0.0, 0.5, 2000)
    return current


def _fluctuating():
    current = step_current(0.1)
    current[1000:3000] += np.repeat(np.random.default_rng(1).normal(0.0, 0.04, 400), 5)
    return current


def _staircase():
    current = step_current(0.1)
    current[2000:3000] = 0.2
    return current


def _triple():
    return sum(step_current(1.0, start, 3.0) for start in (100.0, 110.0, 120.0))


@pytest.mark.parametrize(
    ("current", "reason"),
    [
        (np.zeros(5000), "no current step found"),
        (np.random.default_rng(0).normal(0.0, 0.01, 5000), "no current step found"),
        (step_current(1e-9), "no current step found"),
        (_ramp(), "not a square step"),
        (_fluctuating(), "not a square step"),
        (_staircase(), "not a square step"),
        (_triple(), "3 pulses"),
        (step_current()[:2000], "cut off"),
        (step_current()[1000:], "cut off"),
        (np.zeros(3), "only 3 samples"),
    ],
)
def test_other_stimuli_are_refused_with_the_reason(current, reason):
    with pytest.raises(NotAStep, match=reason):
        find_step(current, RATE_HZ)
