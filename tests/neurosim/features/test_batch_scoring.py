"""Scores of many individuals at once against BluePyOpt's own."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from neurofleet.neurosim.cells.fit_model import AIS, SOMA, recording_name
from neurofleet.neurosim.features.batch_features import FEATURES
from neurofleet.neurosim.features.batch_scoring import BatchScoring
from neurofleet.neurosim.features.step_protocols import AIS_FEATURE, FeatureTarget, StepProtocol, TargetSet
from tests.fresh_process import in_fresh_process
from tests.neurosim.features.made_up_traces import START_MS, STOP_MS, times, trace
from tests.neurosim.vector.reference import SPINY, SPINY_VALUES, made_up_cell, spiny_sets

STEPS = (
    StepProtocol("strong", 0.35, 20.0, 119.995, 219.995),
    StepProtocol("silent", -0.05, 20.0, 119.995, 219.995),
)
LEFT_TO_EFEL = "AP_height"
SOME = ("voltage_base", "Spikecount", "AP_width", "depol_block", AIS_FEATURE)


def model_of(*steps, features=(*FEATURES, AIS_FEATURE, LEFT_TO_EFEL), silent=()):
    targets = [
        FeatureTarget(step.name, SOMA, feature, 1.0, 0.5, 1)
        for step in steps
        for feature in (silent if step.name == "silent" else features)
    ]
    model = made_up_cell(SPINY, SPINY_VALUES)
    return replace(model, targets=TargetSet({step.name: step for step in steps}, tuple(targets)))


def bluepyopt_scores_and_values(model, runs, i):
    from bluepyopt.ephys.objectivescalculators import ObjectivesCalculator
    from bluepyopt.ephys.responses import TimeVoltageResponse

    responses = {}
    for protocol, run in runs.items():
        for place, voltage in ((SOMA, run.soma_mV), (AIS, run.axon_mV)):
            if voltage is not None:
                name = recording_name(protocol, place)
                responses[name] = TimeVoltageResponse(name, run.times_ms, voltage[i])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calculator = ObjectivesCalculator(model.objectives())
        return list(calculator.calculate_scores(responses).values()), list(
            calculator.calculate_values(responses).values()
        )


def assert_bluepyopts(model, runs, ok=None):
    n = len(next(iter(runs.values())).soma_mV)
    ok = np.ones(n, bool) if ok is None else ok
    found, residuals = BatchScoring(model).scores(runs, ok)
    assert found.shape == residuals.shape == (n, len(model.targets.targets))
    for i in range(n):
        expected, values = bluepyopt_scores_and_values(model, runs, i)
        deviations = [np.nan if value is None else (value - 1.0) / 0.5 for value in values]
        if not ok[i]:
            expected, deviations = np.zeros(found.shape[1]), np.full(found.shape[1], np.nan)
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(residuals[i], deviations, rtol=1e-9, atol=1e-11)
    return found


def run_of(time_ms, soma, axon=None):
    return SimpleNamespace(times_ms=time_ms, soma_mV=soma, axon_mV=axon)


@pytest.fixture(scope="module")
def step():
    return StepProtocol("step", 0.3, START_MS, STOP_MS, 200.0)


@pytest.fixture
def made_up():
    draw = np.random.default_rng(5)
    time_ms = times(draw, 1)
    soma = np.array([trace(draw, time_ms) for _ in range(5)])
    return time_ms, soma, np.array([np.interp(time_ms + 0.2, time_ms, v) for v in soma])


def simulated():
    from neurofleet.neurosim.vector.kernel_setup import search_steps
    from neurofleet.neurosim.vector.vector_evaluator import VectorCell

    values = spiny_sets(3) * np.random.default_rng(1).uniform(0.5, 1.5, (3, len(SPINY_VALUES)))
    values[0] = list(SPINY_VALUES.values())
    cell = VectorCell(made_up_cell(SPINY, SPINY_VALUES))
    runs = cell.run(values, STEPS, search_steps(chains=0.0), "float32")
    return {s.name: run_of(r.times_ms, r.soma_mV, r.axon_mV) for s, r in zip(STEPS, runs, strict=True)}


def test_simulated_individuals_have_bluepyopts_scores():
    runs = in_fresh_process(simulated)
    model = model_of(*STEPS, silent=("voltage_base", "sag_amplitude", "decay_time_constant_after_stim"))
    scores = assert_bluepyopts(model, runs)
    missing = {t.feature for t, score in zip(model.targets.targets, scores[0], strict=True) if score == 250}
    assert missing <= {"sag_amplitude"}, missing


def test_one_that_is_not_ok_does_not_disturb_the_others(step, made_up):
    time_ms, soma, axon = made_up
    soma[2] = np.nan
    axon[2] = 1e9
    model = model_of(step, features=(*SOME, LEFT_TO_EFEL))
    assert_bluepyopts(model, {"step": run_of(time_ms, soma, axon)}, np.arange(5) != 2)


def test_without_an_axon_no_spike_begins_there(step, made_up):
    time_ms, soma, _ = made_up
    scores = assert_bluepyopts(model_of(step, features=(AIS_FEATURE,)), {"step": run_of(time_ms, soma)})
    assert (scores == 250.0).all()


def test_what_only_efel_can_score_is_left_to_it(step, made_up):
    time_ms, soma, axon = made_up
    twice = np.insert(np.arange(len(time_ms)), 700, 700)  # eFEL refuses to interpolate there
    runs = {"step": run_of(time_ms[twice], soma[:, twice], axon[:, twice])}
    assert_bluepyopts(model_of(step, features=SOME), runs)


def test_a_voltage_that_is_the_threshold_is_left_to_efel(step, made_up):
    time_ms, soma, axon = made_up
    runs = {"step": run_of(time_ms, np.round(soma / 20) * 20, axon)}
    assert (runs["step"].soma_mV == -20.0).any()
    assert_bluepyopts(model_of(step, features=SOME), runs)


def test_many_individuals_are_scored_in_parts_that_do_not_matter(step, made_up, monkeypatch):
    time_ms, soma, axon = made_up
    model, runs = model_of(step), {"step": run_of(time_ms, soma, axon)}
    whole = np.concatenate(BatchScoring(model).scores(runs, np.ones(5, bool)))
    monkeypatch.setattr("neurofleet.neurosim.features.batch_scoring.POINTS_AT_ONCE", 2 * len(time_ms))
    parts = np.concatenate(BatchScoring(model).scores(runs, np.ones(5, bool)))
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_made_up_responses_have_bluepyopts_scores_inside_of_the_step(step, made_up):
    time_ms, soma, axon = made_up
    assert_bluepyopts(model_of(replace(step, inside_only=True)), {"step": run_of(time_ms, soma, axon)})


def test_spikes_outside_of_the_step_do_not_count_where_the_recorded_ones_do_not(step):
    time_ms = np.arange(2000) * 0.1
    peaks = [10.0, 50.0, 90.0, 160.0]  # before, twice inside, after
    soma = -70.0 + sum(100.0 * np.exp(-(((time_ms - peak) / 0.5) ** 2)) for peak in peaks)[None]
    runs = {"step": run_of(time_ms, soma, soma)}
    features = ("Spikecount", "time_to_first_spike", "AP_width", AIS_FEATURE)
    counts, _, *_ = assert_bluepyopts(model_of(step, features=features), runs)[0]
    inside, first, *_ = assert_bluepyopts(model_of(replace(step, inside_only=True), features=features), runs)[0]
    assert (counts, inside) == pytest.approx((6.0, 2.0))  # |4 - 1| / 0.5 and |2 - 1| / 0.5
    assert first == pytest.approx((20.0 - 1.0) / 0.5, abs=0.1)
