"""The sweep that a perisomatic model is fitted to, and what is said of the spike width."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.features.perisomatic_features import FEATURES, MINIMUM_STD
from neurofleet.neurosim.features.step_protocols import BLOCK_CHECK, group_sweeps
from neurofleet.neurosim.features.training_targets import (
    TargetExtraction,
    choose_step,
    fit_note,
    perisomatic_targets,
    sweep_fault,
)
from neurofleet.neurosim.recordings.recording import Recording
from tests.neurosim.features.test_perisomatic_scoring import made
from tests.neurosim.recordings.recording_files import make_sweep

STEADY = [120.0, 160.0, 200.0, 240.0, 280.0]
UNEVEN = [105.0, 125.0, 180.0, 200.0, 255.0, 290.0]


def recording(*sweeps):
    numbered = (replace(sweep, number=number) for number, sweep in enumerate(sweeps))
    return Recording(Path("cell.nwb"), tuple(numbered))


def test_the_weakest_step_39_pA_above_rheobase_is_taken():
    cell = recording(
        make_sweep(amplitude_nA=0.05),
        make_sweep(amplitude_nA=0.1, spikes_ms=[150.0]),
        make_sweep(amplitude_nA=0.13, spikes_ms=STEADY),
        make_sweep(amplitude_nA=0.14, spikes_ms=STEADY),
        make_sweep(amplitude_nA=0.2, spikes_ms=STEADY),
    )
    assert choose_step(cell).protocol.sweeps == (3,)


def test_a_step_with_uneven_intervals_gives_way_to_a_much_more_even_one():
    weak, even = (make_sweep(amplitude_nA=a, spikes_ms=s) for a, s in ((0.1, [150.0]), (0.2, STEADY)))
    uneven = make_sweep(amplitude_nA=0.15, spikes_ms=UNEVEN)
    assert choose_step(recording(weak, uneven, even)).protocol.amplitude_nA == pytest.approx(0.2)
    assert choose_step(recording(weak, uneven)).protocol.amplitude_nA == pytest.approx(0.15)


def test_only_repeats_that_fire_well_are_used():
    cell = recording(
        make_sweep(amplitude_nA=0.1, spikes_ms=[150.0]),
        make_sweep(amplitude_nA=0.15, spikes_ms=STEADY),
        make_sweep(amplitude_nA=0.15, spikes_ms=[110.0, 120.0, 130.0]),
    )
    assert choose_step(cell).protocol.sweeps == (1,)


@pytest.mark.parametrize(
    ("peaks_ms", "stop_ms", "said"),
    [
        ([110.0, 120.0, 130.0, 140.0], 1100.0, "below 5 Hz"),
        ([150.0, 250.0], 300.0, "fewer"),
        ([110.0, 120.0, 130.0], 300.0, "before the end"),
        ([110.0, 120.0, 130.0, 230.0, 240.0, 250.0, 290.0], 300.0, "pause"),
        (STEADY, 300.0, ""),
    ],
)
def test_what_makes_a_sweep_unfit(peaks_ms, stop_ms, said):
    told = sweep_fault(made(np.array(peaks_ms)), 100.0, stop_ms)
    assert said in told
    assert bool(told) == bool(said)


def test_targets_have_the_least_spread_and_the_block_check_is_the_strongest_step():
    cell = recording(
        make_sweep(amplitude_nA=0.1, spikes_ms=[150.0]),
        make_sweep(amplitude_nA=0.15, spikes_ms=STEADY),
        make_sweep(amplitude_nA=0.15, spikes_ms=[time + 14.0 for time in STEADY]),
        make_sweep(amplitude_nA=0.3, spikes_ms=STEADY),
    )
    targets = perisomatic_targets(cell, FEATURES, block_check=True)
    found = {target.feature: target for target in targets.targets}
    assert set(found) <= set(FEATURES)
    assert {"avg_rate", "latency", "width", "mean_isi"} <= set(found)
    assert found["avg_rate"].std == MINIMUM_STD["avg_rate"]
    assert found["latency"].std == pytest.approx(7.0, abs=0.2)
    assert found["latency"].n == 2
    step, check = targets.protocols["LongDC_1"], targets.protocols[BLOCK_CHECK]
    assert check.amplitude_nA == pytest.approx(0.3)
    assert (check.start_ms, check.stop_ms) == (step.start_ms, step.stop_ms)
    assert step.duration_ms >= step.stop_ms + step.start_ms - 1e-6
    assert BLOCK_CHECK not in perisomatic_targets(cell, FEATURES).protocols


def test_a_cell_that_does_not_fire_steadily_is_refused_with_what_was_found():
    with pytest.raises(InputError, match="with spikes, but none"):
        choose_step(recording(make_sweep(amplitude_nA=0.1)))
    weak = [make_sweep(amplitude_nA=a, spikes_ms=[110.0, 120.0, 130.0]) for a in (0.1, 0.2)]
    with pytest.raises(InputError, match="sweep 1 stops firing"):
        choose_step(recording(*weak))


def test_an_unknown_feature_is_refused_with_the_nearest_name():
    cell = recording(make_sweep(amplitude_nA=0.1, spikes_ms=STEADY))
    with pytest.raises(InputError, match="no widht.*width"):
        perisomatic_targets(cell, ["widht"])


def test_the_width_says_whether_both_sets_of_channels_are_to_be_fitted():
    wide = [make_sweep(amplitude_nA=a, spikes_ms=STEADY) for a in (0.1, 0.15)]
    assert fit_note(recording(*wide), "spiny", "perisomatic-f6") == ""
    assert "perisomatic-f6" in fit_note(recording(*wide), "aspiny", "perisomatic-f12")
    slow = [make_sweep(amplitude_nA=a, spikes_ms=STEADY, rate_Hz=5000.0) for a in (0.1, 0.15)]
    assert "5 kHz" in fit_note(recording(*slow), "spiny", "perisomatic-f6")


def test_the_width_is_left_out_of_slow_recordings():
    slow = recording(make_sweep(amplitude_nA=0.1, spikes_ms=STEADY, rate_Hz=5000.0))
    extraction = TargetExtraction(slow)
    extraction.add(*group_sweeps(slow)[0], ["width", "avg_rate"])
    targets = extraction.target_set()
    assert [target.feature for target in targets.targets] == ["avg_rate"]
    assert "10 kHz" in targets.warnings[0]


def test_a_step_that_spikes_are_seen_before_is_not_chosen():
    rheobase = make_sweep(amplitude_nA=0.1, spikes_ms=[150.0])
    active = make_sweep(amplitude_nA=0.15, spikes_ms=[50.0, *STEADY])
    steady = make_sweep(amplitude_nA=0.2, spikes_ms=STEADY)
    assert choose_step(recording(rheobase, active, steady)).protocol.sweeps == (2,)
    with pytest.raises(InputError, match="sweep 1 spikes before the step"):
        choose_step(recording(rheobase, active))


def test_small_spikes_are_features_too():
    steps = [make_sweep(amplitude_nA=a, spikes_ms=s) for a, s in ((0.1, [150.0]), (0.15, STEADY))]
    small = [replace(sweep, voltage_mV=np.minimum(sweep.voltage_mV, -35.0)) for sweep in steps]
    cell = replace(recording(*small), spike_threshold_mV=-45.0)
    found = {target.feature: target.mean for target in perisomatic_targets(cell, ["avg_rate", "peak_v"]).targets}
    assert found == pytest.approx({"avg_rate": 25.0, "peak_v": -35.0}, abs=0.1)
    with pytest.raises(InputError, match="needs a depolarising step with spikes"):
        choose_step(recording(*small))
