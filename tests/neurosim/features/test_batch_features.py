"""Features of many individuals at once against eFEL's of each."""

import warnings

import efel
import numpy as np
import pytest

from neurofleet.neurosim.features.batch_features import (
    FEATURES,
    Ragged,
    StepResponses,
    TimeGrid,
    Voltages,
    spikes_begin_in_axon,
)
from neurofleet.neurosim.features.bluepyopt_efeatures import AISInitiation
from tests.neurosim.features.made_up_traces import START_MS, STOP_MS, times, trace

N = 16


def efel_values(time_ms, voltage_mV, feature, threshold_mV, inside_only=False):
    trace = {"T": time_ms, "V": voltage_mV.astype(float), "stim_start": [START_MS], "stim_end": [STOP_MS]}
    efel.set_setting("Threshold", threshold_mV)
    efel.set_setting("strict_stiminterval", inside_only)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = efel.get_feature_values([trace], [feature], raise_warnings=False)[0][feature]
    return np.empty(0) if found is None else found


def rows(found: Ragged) -> list[np.ndarray]:
    return [found.value[found.row == i] for i in range(found.n_rows)]


@pytest.fixture(params=range(10))
def recorded(request):
    draw = np.random.default_rng(request.param)
    time_ms = times(draw, request.param % 5)
    threshold_mV = float(draw.choice([-30.0, -20.0, 0.0]))
    soma = np.array([trace(draw, time_ms) for _ in range(N)])
    yield time_ms, soma, threshold_mV, draw
    efel.reset()


@pytest.mark.parametrize("inside_only", [False, True])
def test_each_feature_has_efels_values(recorded, inside_only):
    time_ms, soma, threshold_mV, _ = recorded
    grid = TimeGrid(time_ms)
    assert grid.regular
    assert grid.covers(START_MS, STOP_MS)
    step = StepResponses(Voltages(grid, soma), START_MS, STOP_MS, threshold_mV, inside_only)
    decided = np.flatnonzero(~step.undecided)
    assert len(decided) > N / 2
    for name, feature in FEATURES.items():
        found = rows(feature(step))
        for i in decided:
            expected = efel_values(time_ms, soma[i], name, threshold_mV, inside_only)
            np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-11, err_msg=f"{name} of {i}")


def test_spikes_begin_when_efels_do(recorded):
    time_ms, soma, threshold_mV, _ = recorded
    step = StepResponses(Voltages(TimeGrid(time_ms), soma), START_MS, STOP_MS, threshold_mV)
    found = rows(step.times_ms(step.onsets))
    for i in np.flatnonzero(~step.undecided):
        np.testing.assert_array_equal(found[i], efel_values(time_ms, soma[i], "AP_begin_time", threshold_mV))


@pytest.mark.parametrize(("voltage_mV", "duration_ms", "free"), [(-75.5, 49.5, 1), (-75.5, 50.5, 0), (-74.5, 60.0, 1)])
def test_a_cell_that_stays_hyperpolarised_in_the_step_is_blocked(voltage_mV, duration_ms, free):
    time_ms = np.arange(0.0, 180.0, 0.1)
    soma = np.maximum(30.0 - 60.0 * np.abs(time_ms - 40.0), -70.0)  # one spike
    soma[(time_ms > 60.0) & (time_ms < 60.0 + duration_ms)] = voltage_mV
    step = StepResponses(Voltages(TimeGrid(time_ms), soma[None]), START_MS, STOP_MS, -20.0)
    assert FEATURES["depol_block"](step).count.tolist() == [free]
    assert efel_values(time_ms, soma, "depol_block", -20.0).size == free


def test_spikes_begin_in_the_axon_for_the_same_individuals(recorded):
    time_ms, soma, threshold_mV, draw = recorded
    shifts = draw.choice([-0.15, 0.0, 0.1, 0.2], N)
    axon = np.array([np.interp(time_ms + s, time_ms, v) for s, v in zip(shifts, soma, strict=True)])
    grid = TimeGrid(time_ms)
    steps = [StepResponses(Voltages(grid, v), START_MS, STOP_MS, threshold_mV) for v in (soma, axon)]
    check = AISInitiation(
        "check",
        soma_recording="soma",
        axon_recording="axon",
        stim_start=START_MS,
        stim_end=STOP_MS,
        threshold=threshold_mV,
        axon_threshold=threshold_mV,
    )
    found = spikes_begin_in_axon(*steps)
    expected = [
        check.calculate_feature(
            {
                "soma": {"time": time_ms, "voltage": soma[i]},
                "axon": {"time": time_ms, "voltage": axon[i]},
            }
        )
        for i in range(N)
    ]
    assert found.row.tolist() == [i for i in range(N) if expected[i] is not None]
    assert (found.value == 1.0).all()


def test_the_made_up_traces_have_and_lack_every_feature():
    """Else the comparisons above would say little."""
    counts = {name: np.zeros(2, int) for name in FEATURES}
    for seed in range(10):
        draw = np.random.default_rng(seed)
        time_ms = times(draw, seed % 5)
        voltages = Voltages(TimeGrid(time_ms), np.array([trace(draw, time_ms) for _ in range(N)]))
        step = StepResponses(voltages, START_MS, STOP_MS, -20.0)
        for name, feature in FEATURES.items():
            has = feature(step).count > 0
            counts[name] += [has.sum(), (~has).sum()]
    for name in ("AP_width", "AHP_depth", "ISI_CV", "adaptation_index2", "depol_block", "sag_amplitude"):
        assert counts[name].min() > 10, name


def test_samples_are_efels():
    for kind in range(5):
        draw = np.random.default_rng(kind)
        time_ms = times(draw, kind)
        voltage = trace(draw, time_ms)
        grid = TimeGrid(time_ms)
        np.testing.assert_array_equal(grid.times_ms, efel_values(time_ms, voltage, "time", -20.0))
        np.testing.assert_array_equal(
            Voltages(grid, voltage[None]).window(0, len(grid))[0],
            efel_values(time_ms, voltage, "voltage", -20.0),
        )


def test_times_that_do_not_ascend_are_not_regular():
    assert not TimeGrid(np.array([0.0, 0.1, 0.1, 0.2])).regular
    assert not TimeGrid(np.array([0.0, 0.1])).regular
    assert not TimeGrid(np.array([0.0, 0.1, np.nan, 0.3])).regular
