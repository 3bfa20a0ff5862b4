"""Individuals do not touch each other; input that cannot be used is refused."""

from dataclasses import replace

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import Accuracy
from neurofleet.neurosim.features.step_protocols import BLOCK_CHECK, FeatureTarget, StepProtocol, TargetSet
from neurofleet.neurosim.vector import kernel_build
from neurofleet.neurosim.vector.kernel_setup import search_steps
from neurofleet.neurosim.vector.vector_evaluator import asked_for_block
from tests.fresh_process import in_fresh_process
from tests.neurosim.vector.reference import SPINY, SPINY_VALUES, fixed_steps, made_up_cell, spike_times, spiny_sets

STEP = StepProtocol("step", 0.3, 20.0, 60.0, 140.0)
WEAK = StepProtocol("weak", 0.05, 20.0, 60.0, 150.0, holding_nA=0.01)
LONG = StepProtocol("long", 0.3, 60.0, 80.0, 400.0)
BY_NEURON = fixed_steps(0.05, order=2)
STEPS = search_steps(chains=0.0)


def runs():
    """Return what one cell gives for all questions of this file, and what it says to wrong input."""
    from neurofleet.neurosim.vector.vector_evaluator import VectorCell

    cell = VectorCell(made_up_cell(SPINY, SPINY_VALUES))
    values = spiny_sets(19)  # two vectors of float64 and a part of a third
    wild = values.copy()
    wild[4, list(SPINY_VALUES).index("cm.soma")] = -2.0
    wild[11, list(SPINY_VALUES).index("Ra.all")] = 0.0
    restless = np.repeat(values[:1], 2, axis=0)
    restless[1, list(SPINY_VALUES).index("e_pas.all")] = -30.0
    restless[1, list(SPINY_VALUES).index("g_pas.all")] *= 4.0
    stiff = values[:1].copy()
    stiff[0, list(SPINY_VALUES).index("g_pas.all")] = 1.0
    stiff[0, list(SPINY_VALUES).index("e_pas.all")] = -60.0
    asked = {
        "all": (values, STEP, BY_NEURON),
        "wild": (wild, STEP, BY_NEURON),
        "wild alone": (wild[4:5], STEP, BY_NEURON),
        "sparse": (values[:2], STEP, fixed_steps(0.05, order=2, record_every=4)),
        "damped": (values[:3], STEP, fixed_steps(0.05, order=3)),
        "exact": (values[:3], STEP, fixed_steps(0.005, order=3)),
        "chosen": (values[:3], STEP, STEPS),
        "stiff": (stiff, STEP, BY_NEURON),
        "stiff damped": (stiff, STEP, fixed_steps(0.05, order=3)),
        "own spikes": (restless, LONG, STEPS),
        "own spikes exact": (restless, LONG, fixed_steps(0.01, order=3)),
    }
    found = {what: cell.run(v, [protocol], steps)[0] for what, (v, protocol, steps) in asked.items()}
    found["of two"] = cell.run(values, [STEP, WEAK], STEPS, "float32")
    found["alone"] = [cell.run(values[7:8], [protocol], STEPS, "float32")[0] for protocol in (STEP, WEAK)]
    found["wild of two"] = cell.run(wild, [STEP, WEAK], STEPS, "float32")
    said = []
    for wrong in (values[:, :3], values[0], values[:0], np.full_like(values, np.nan)):
        with pytest.raises(InputError) as error:
            cell.run(wrong, [STEP], BY_NEURON)
        said.append(str(error.value))
    return found, said


@pytest.fixture(scope="module")
def found():
    return in_fresh_process(runs)


def test_an_individual_is_the_same_alone_and_among_others(found):
    for together, alone in zip(found[0]["of two"], found[0]["alone"], strict=True):
        n = len(together.times_ms)
        assert together.soma_mV.shape == together.axon_mV.shape == (19, n)
        assert together.soma_mV.dtype == np.float32
        assert together.ok.shape == (19,)
        assert together.ok.all()
        np.testing.assert_array_equal(alone.soma_mV[0], together.soma_mV[7])
        np.testing.assert_array_equal(alone.axon_mV[0], together.axon_mV[7])
        assert np.unique(together.soma_mV[:, n // 2]).size == 19


def test_one_that_runs_away_is_flagged_and_leaves_the_others_alone(found):
    others = ~np.isin(np.arange(19), (4, 11))
    pairs = [(found[0]["all"], found[0]["wild"])]
    pairs += zip(found[0]["of two"], found[0]["wild of two"], strict=True)
    for calm, wild in pairs:
        assert np.flatnonzero(~wild.ok).tolist() == [4, 11]
        np.testing.assert_array_equal(wild.soma_mV[others], calm.soma_mV[others])
    assert not found[0]["wild alone"].ok[0]
    assert np.isnan(found[0]["wild alone"].soma_mV[0, -1])  # the run ended early


def test_fewer_records_are_some_of_all(found):
    every, sparse = found[0]["all"], found[0]["sparse"]
    assert every.soma_mV.shape == (19, 2801)
    np.testing.assert_array_equal(sparse.soma_mV, every.soma_mV[:2, ::4])
    np.testing.assert_allclose(sparse.times_ms, every.times_ms[::4])


def test_steps_of_different_lengths_have_the_spikes_of_short_ones(found):
    ours, fine = found[0]["chosen"], found[0]["exact"]
    for voltage, expected in zip(ours.soma_mV, fine.soma_mV, strict=True):
        spikes = spike_times(fine.times_ms, expected)
        assert spikes.size > 0
        np.testing.assert_allclose(spike_times(ours.times_ms, voltage), spikes, rtol=0.005)
        at_rest = ours.times_ms < spikes[0] - 1.0
        known = np.interp(ours.times_ms[at_rest], fine.times_ms, expected)
        np.testing.assert_allclose(voltage[at_rest], known, atol=0.02)
        assert voltage[-1] == pytest.approx(expected[-1], abs=0.05)


def test_spikes_long_after_the_stimulus_are_not_stepped_over(found):
    run = found[0]["own spikes"]
    assert spike_times(run.times_ms, run.soma_mV[0]).max() < LONG.stop_ms + 20
    assert spike_times(run.times_ms, run.soma_mV[1]).max() > LONG.stop_ms + 100
    fine = found[0]["own spikes exact"]
    for voltage, expected in zip(run.soma_mV, fine.soma_mV, strict=True):
        spikes = spike_times(fine.times_ms, expected)
        np.testing.assert_allclose(spike_times(run.times_ms, voltage), spikes, rtol=0.02, atol=0.5)


def test_more_is_kept_near_the_stimulus_than_away_from_it():
    times_ms = STEPS.recorded(LONG) * STEPS.tick_ms
    assert times_ms[0] == 0.0
    assert times_ms[-1] == pytest.approx(LONG.duration_ms)
    near = (times_ms >= LONG.start_ms - 0.01) & (times_ms < LONG.stop_ms + 99.99)
    np.testing.assert_allclose(np.diff(times_ms[near]), 0.1)
    np.testing.assert_allclose(np.diff(times_ms[times_ms < LONG.start_ms - 1]), 0.5)
    np.testing.assert_allclose(np.diff(times_ms[times_ms > LONG.stop_ms + 101]), 0.5)
    at_once = STEPS.recorded(StepProtocol("step", 0.3, 0.0, 50.0, 50.03))
    assert at_once[0] == 0
    assert at_once[-1] == STEPS.ticks(50.03)
    assert (np.diff(at_once) > 0).all()


def test_a_damped_step_has_the_same_spikes_and_does_not_ring(found):
    plain, damped = found[0]["all"], found[0]["damped"]
    for i in range(3):
        expected = spike_times(plain.times_ms, plain.soma_mV[i])
        assert expected.size > 0
        np.testing.assert_allclose(spike_times(damped.times_ms, damped.soma_mV[i]), expected, atol=0.2)
    start = slice(1, 12)  # the membrane settles within 0.002 ms, a step is 0.05 ms
    rings = np.abs(np.diff(found[0]["stiff"].soma_mV[0, start]))
    settles = np.abs(np.diff(found[0]["stiff damped"].soma_mV[0, start]))
    assert rings.max() > 1.0
    assert settles.max() < 0.1 * rings.max()


def test_wrong_values_are_refused(found):
    shape, flat, none, not_finite = found[1]
    assert "one row of 27 parameters" in shape
    assert "(19, 3)" in shape
    assert "(27,)" in flat
    assert "(0, 27)" in none
    assert "finite" in not_finite


@pytest.mark.parametrize(
    ("check_nA", "duration_ms", "features", "asked"),
    [
        (0.31, 140.0, ["depol_block"], {BLOCK_CHECK: "step"}),
        (0.40, 140.0, ["depol_block"], {}),
        (0.31, 400.0, ["depol_block"], {}),
        (0.31, 140.0, ["depol_block", "Spikecount"], {}),
        (0.31, 140.0, [], {}),
    ],
)
def test_the_strongest_step_is_asked_for_a_block_where_it_is_nearly_the_block_check(
    check_nA, duration_ms, features, asked
):
    check = StepProtocol(BLOCK_CHECK, check_nA, 20.0, 60.0, duration_ms)
    targets = [FeatureTarget(BLOCK_CHECK, "soma", feature, 1.0, 0.05, 0) for feature in features]
    targets.append(FeatureTarget("step", "soma", "depol_block", 1.0, 0.05, 3))
    protocols = {step.name: step for step in (WEAK, STEP, check)}
    assert asked_for_block(TargetSet(protocols, tuple(targets))) == asked


SUBTHRESHOLD = {"g_pas.all": 5e-5, "e_pas.all": -80.0, "cm.all": 1.2, "gbar_Ih.dend": 1e-4}
MEAN_STD = {
    "voltage_base": (-80.0, 0.2),
    "voltage_after_stim": (-80.0, 0.2),
    "voltage_deflection_vb_ssse": (0.0, 0.3),
    "decay_time_constant_after_stim": (10.0, 0.3),
    "sag_amplitude": (0.0, 0.1),
}


def subthreshold_scores():
    """Return the scores of a subthreshold stage by the engine and by NEURON, and which individuals ended."""
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator
    from neurofleet.neurosim.vector.vector_evaluator import VectorEvaluator

    steps = [StepProtocol(f"{pA}", pA / 1000.0, 200.0, 450.0, 600.0) for pA in (-10, 5)]
    targets = [FeatureTarget(step.name, "soma", name, *known, 5) for step in steps for name, known in MEAN_STD.items()]
    model = replace(
        made_up_cell({"all": ("pas",), "dend": ("Ih",)}, SUBTHRESHOLD, fixed={"Ra.all": 120.0}),
        targets=TargetSet({step.name: step for step in steps}, tuple(targets)),
        accuracy=Accuracy(1e-5, dense=True),
    )
    sets = np.array(list(SUBTHRESHOLD.values())) * np.exp(0.3 * np.random.default_rng(4).standard_normal((5, 4)))
    sets[:, 1] = np.linspace(-95.0, -65.0, 5)
    sets[4, [0, 3]] = 1e-8, 0.0  # hardly a leak: a step goes on for hundreds of mV
    ours = VectorEvaluator(model).evaluate(sets)
    warm = WarmEvaluator(model.build_evaluator())
    return ours.scores, np.array([warm.evaluate(row) for row in sets]), ours.ok


def test_subthreshold_scores_are_those_of_cvode():
    ours, neuron, ok = in_fresh_process(subthreshold_scores)
    assert ok.all()
    assert np.ptp(neuron[:4, :-1], axis=0).min() > 0.1  # all but the sag of a step up, which has none
    np.testing.assert_allclose(ours, neuron, rtol=1e-3, atol=0.02)


def on_older_processor():
    from neurofleet.neurosim.vector.vector_evaluator import VectorCell

    model = made_up_cell(SPINY, SPINY_VALUES)
    (own,) = VectorCell(model).run(spiny_sets(2), [STEP], BY_NEURON)
    older = {"-march=native": "-march=x86-64", "-O3": "-O1"}  # -O1 compiles faster
    kernel_build.FLAGS = [older.get(flag, flag) for flag in kernel_build.FLAGS]
    return own, *VectorCell(model).run(spiny_sets(2), [STEP], BY_NEURON)


def test_a_processor_without_wide_vectors_gives_the_same():
    own, older = in_fresh_process(on_older_processor)
    times = own.times_ms
    for a, b in zip(own.soma_mV, older.soma_mV, strict=True):
        assert spike_times(times, a).size > 0
        np.testing.assert_allclose(spike_times(times, b), spike_times(times, a), atol=1e-3)
    np.testing.assert_allclose(older.soma_mV[:, :400], own.soma_mV[:, :400], atol=1e-9)


def test_without_a_compiler_the_way_out_is_said(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="no C\\+\\+ compiler .*apt-get install g\\+\\+"):
        kernel_build.compile_kernel("")


def test_what_a_compiler_says_is_passed_on(monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="did not compile(?s:.*)nonsense"):
        kernel_build.compile_kernel("nonsense;")
    assert not list((tmp_path / "kernels").glob("*.so"))


def test_a_compiled_kernel_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path))
    text = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }'
    assert kernel_build.compile_kernel(text).answer() == 42
    (kept,) = (tmp_path / "kernels").glob("*.so")
    made = kept.stat().st_ino  # another if it was compiled again
    assert kernel_build.compile_kernel(text).answer() == 42
    assert kept.stat().st_ino == made
