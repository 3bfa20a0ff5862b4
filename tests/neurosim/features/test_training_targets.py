"""Targets of the stages, from made-up sweeps of known features and from real recordings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.features.bluepyopt_efeatures import AISInitiation
from neurofleet.neurosim.features.published_targets import read_targets
from neurofleet.neurosim.features.step_protocols import TargetSet
from neurofleet.neurosim.features.training_targets import (
    feature_statistics,
    firing_rates,
    passive_targets,
    training_targets,
)
from neurofleet.neurosim.recordings.recording import Recording, read_recording
from tests.neurosim.recordings.recording_files import add_spikes, make_sweep, membrane_voltage, step_current

PASSIVE = ["voltage_base", "voltage_deflection_vb_ssse", "decay_time_constant_after_stim", "sag_amplitude"]
ACTIVE = ["voltage_base", "mean_frequency", "AP_width", "depol_block", "check_AISInitiation", "Spikecount"]


def recording(*sweeps):
    return Recording(Path("cell.nwb"), tuple(sweeps))


def spiking_cell(rate_Hz=10_000.0):
    """Six steps: two silent, then 1, 2, 3 and 4 spikes."""
    return recording(
        *(
            make_sweep(n, 0.02 * n + 0.01, np.linspace(150.0, 280.0, spikes), rate_Hz)
            for n, spikes in enumerate([0, 0, 1, 2, 3, 4])
        ),
        make_sweep(9, -0.1, (), rate_Hz),
    )


def by_objective(targets):
    return {target.objective: target for target in targets.targets}


def test_statistics_pool_all_values_of_all_repeats():
    mean, std, n = feature_statistics([np.array([1.0, 2.0]), np.array([6.0])])
    assert (mean, n) == (3.0, 3)
    assert std == pytest.approx(np.sqrt(14.0 / 3.0))


@pytest.mark.parametrize(
    ("values", "std"),
    [([-80.0], 4.0), ([-80.0, -80.0], 4.0), ([0.0], 0.05), ([0.0, 0.0], 0.05)],
)
def test_a_spread_of_nothing_becomes_five_percent(values, std):
    assert feature_statistics([np.array(values)])[1] == pytest.approx(std)


def test_passive_features_are_those_of_the_membrane():
    targets = passive_targets(spiking_cell(), PASSIVE)
    found = by_objective(targets)
    assert set(targets.protocols) == {"LongDC_9", "LongDC_0", "LongDC_1"}
    assert found["LongDC_9.soma.voltage_base"].mean == pytest.approx(-70.0, abs=0.01)
    assert found["LongDC_9.soma.voltage_deflection_vb_ssse"].mean == pytest.approx(-10.0, rel=0.01)
    assert found["LongDC_9.soma.decay_time_constant_after_stim"].mean == pytest.approx(15.0, rel=0.02)
    assert found["LongDC_9.soma.sag_amplitude"].mean == pytest.approx(0.0, abs=0.01)
    assert "LongDC_1.soma.sag_amplitude" not in found  # sag is for hyperpolarising steps
    assert not any("sag" in warning for warning in targets.warnings)


def test_training_protocols_are_the_strongest_two_rheobase_and_the_strongest_silent_one():
    targets = training_targets(spiking_cell(), ACTIVE)
    found = by_objective(targets)
    assert {p: [t.feature for t in targets.targets if t.protocol == p] for p in targets.protocols} == {
        "LongDC_1": ["Spikecount"],
        "LongDC_2": ["Spikecount"],
        "LongDC_4": ["voltage_base", "mean_frequency", "AP_width", "depol_block", "check_AISInitiation"],
        "LongDC_5": ["voltage_base", "mean_frequency", "AP_width", "depol_block", "check_AISInitiation"],
        "DB_check_DC": ["depol_block"],
    }
    assert (found["LongDC_1.soma.Spikecount"].mean, found["LongDC_1.soma.Spikecount"].std) == (0.0, 0.05)
    assert (found["LongDC_2.soma.Spikecount"].mean, found["LongDC_2.soma.Spikecount"].std) == (1.0, 0.05)
    for objective in ("LongDC_5.soma.check_AISInitiation", "DB_check_DC.soma.depol_block"):
        assert (found[objective].mean, found[objective].std, found[objective].n) == (1.0, 0.05, 0)
    check, top = targets.protocols["DB_check_DC"], targets.protocols["LongDC_5"]
    assert check.amplitude_nA == pytest.approx(top.amplitude_nA + 0.01)
    assert (check.start_ms, check.stop_ms, check.duration_ms) == (top.start_ms, top.stop_ms, top.duration_ms)
    assert found["LongDC_5.soma.AP_width"].n == 4
    assert found["LongDC_5.soma.AP_width"].mean == pytest.approx(2.5 * 50.0 / 95.0, rel=0.2)  # wide at -20 mV


def test_no_axon_target_for_aspiny_cells():
    assert not any(
        t.feature == "check_AISInitiation" for t in training_targets(spiking_cell(), ACTIVE, ais=False).targets
    )


def test_spiking_steps_below_the_strongest_silent_one_are_dropped():
    sweeps = list(spiking_cell().sweeps)
    sweeps[3] = make_sweep(3, 0.07)  # silent above sweep 2, which spikes
    targets = training_targets(recording(*sweeps), ["Spikecount", "mean_frequency"])
    assert set(targets.protocols) == {"LongDC_3", "LongDC_4", "LongDC_5"}
    assert by_objective(targets)["LongDC_3.soma.Spikecount"].mean == 0.0


def test_a_protocol_of_which_one_repeat_spikes_is_not_silent():
    cell = recording(*spiking_cell().sweeps, make_sweep(7, 0.05, ()), make_sweep(8, 0.01, [200.0]))
    assert set(passive_targets(cell, ["voltage_base"]).protocols) == {"LongDC_9", "LongDC_1"}


def test_rebound_spikes_are_no_rheobase():
    rebound = make_sweep(7, -0.2, [310.0])
    cell = recording(rebound, make_sweep(1, 0.2, [150.0, 200.0]))
    assert set(training_targets(cell, ["Spikecount", "mean_frequency"]).protocols) == {"LongDC_1"}
    with pytest.raises(InputError, match="passive stages"):
        passive_targets(cell, PASSIVE)


def test_features_beyond_the_sampling_rate_are_left_out_with_a_warning():
    targets = training_targets(spiking_cell(rate_Hz=4_000.0), ACTIVE)
    assert not any(target.feature == "AP_width" for target in targets.targets)
    (warning,) = [warning for warning in targets.warnings if "AP_width" in warning]
    assert "10 kHz" in warning
    assert "4 kHz" in warning
    assert targets.sampling_rate_Hz == 4_000.0


def test_features_without_a_value_are_left_out_with_a_warning():
    targets = training_targets(spiking_cell(), ["mean_frequency", "adaptation_index2"])
    assert "LongDC_5.soma.adaptation_index2" in by_objective(targets)
    assert "LongDC_4.soma.adaptation_index2" not in by_objective(targets)  # wants four spikes
    assert any("adaptation_index2" in warning and "LongDC_4" in warning for warning in targets.warnings)


def test_a_blocked_recording_is_not_checked_for_block():
    sweeps = list(spiking_cell().sweeps)
    plateau = sweeps[5].voltage_mV.copy()
    plateau[2000:3000] = -10.0
    sweeps[5] = make_sweep(5, 0.11, voltage_mV=add_spikes(plateau, [150.0, 160.0, 170.0]))
    targets = training_targets(recording(*sweeps), ACTIVE)
    assert "DB_check_DC" not in targets.protocols
    assert any("DB_check_DC" in warning and "LongDC_5" in warning for warning in targets.warnings)


@pytest.mark.parametrize(
    ("cell", "extract", "said"),
    [
        (recording(make_sweep(1), make_sweep(2, 0.05)), training_targets, r"2 sweeps \(up to 100 pA\)"),
        (
            recording(make_sweep(1, 0.1, [200.0]), make_sweep(2, 0.2)),
            training_targets,
            "weaker than LongDC_2",
        ),
        (recording(make_sweep(1, 0.1, [200.0])), passive_targets, "without a spike"),
    ],
)
def test_data_that_cannot_score_a_stage_are_refused(cell, extract, said):
    with pytest.raises(InputError, match=f"cell.nwb.*{said}"):
        extract(cell, ["voltage_base"])


def test_unknown_features_are_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="AP_widht.*AP_width"):
        training_targets(spiking_cell(), ["AP_widht"])


def test_firing_rates_count_spikes_during_the_step():
    rates = firing_rates(recording(make_sweep(1, 0.1, [50.0, 150.0, 250.0, 400.0]), make_sweep(2, -0.1)))
    assert [(rate.sweep, rate.spikes) for rate in rates] == [(2, 0), (1, 2)]
    assert rates[1].rate_Hz == pytest.approx(10.0, rel=0.01)


def test_targets_survive_json():
    targets = training_targets(spiking_cell(4_000.0), ACTIVE)
    assert TargetSet.from_json(targets.to_json()) == targets


def response(spikes_ms):
    voltage = add_spikes(membrane_voltage(step_current()), spikes_ms)
    return {"time": np.arange(voltage.size) * 0.1, "voltage": voltage}


@pytest.mark.parametrize(
    ("axon_ms", "value"),
    [
        ([149.5, 199.0], 1.0),
        ([150.0, 200.0], 1.0),
        ([149.5, 201.0], None),  # the second spike begins at the soma
        ([149.5], None),
        ([149.5, 199.0, 250.0], None),
        ([], None),
        (None, None),
    ],
)
def test_spikes_must_begin_in_the_axon(axon_ms, value):
    feature = AISInitiation(
        "p.soma.check_AISInitiation",
        soma_recording="soma",
        axon_recording="axon",
        stim_start=100.0,
        stim_end=300.0,
    )
    responses = {"soma": response([150.0, 200.0]), "axon": None if axon_ms is None else response(axon_ms)}
    assert feature.calculate_feature(responses) == value
    assert feature.calculate_score(responses) == (250.0 if value is None else 0.0)


def test_a_silent_model_does_not_initiate_in_the_axon():
    feature = AISInitiation("f", soma_recording="soma", axon_recording="axon", stim_start=100.0, stim_end=300.0)
    assert feature.calculate_score({"soma": response([]), "axon": response([])}) == 250.0


def write_targets(folder, features, protocols):
    folder.mkdir(exist_ok=True)
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "protocols.json").write_text(json.dumps(protocols))
    return folder


STEP = {"type": "SquarePulse", "amp": 0.2, "delay": 270.0, "duration": 1000.0, "totduration": 2000.0}
HOLDING = {"type": "SquarePulse", "amp": -0.05, "delay": 0.0, "duration": 2000.0, "totduration": 2000.0}


def test_published_targets_are_read(tmp_path):
    folder = write_targets(
        tmp_path / "cell",
        {"LongDC_50": {"soma": {"mean_frequency": [7.5, 1.3]}}},
        {
            "LongDC_50": {"stimuli": [{**STEP, "sweep_filenames": ["LongDC_50.txt", "LongDC_74.txt"]}, HOLDING]},
            "LongDC_60": {"stimuli": [STEP]},
        },
    )
    targets = read_targets(folder)
    assert list(targets.protocols) == ["LongDC_50"]
    protocol = targets.protocols["LongDC_50"]
    assert (protocol.amplitude_nA, protocol.holding_nA, protocol.sweeps) == (0.2, -0.05, (50, 74))
    assert (protocol.start_ms, protocol.stop_ms, protocol.duration_ms) == (270.0, 1270.0, 2000.0)
    (target,) = targets.targets
    assert (target.objective, target.mean, target.std) == ("LongDC_50.soma.mean_frequency", 7.5, 1.3)
    assert TargetSet.from_json(targets.to_json()) == targets


@pytest.mark.parametrize(
    ("features", "protocols", "said"),
    [
        ({"A": {"soma": {"mean_frequency": [7.5, 1.3]}}}, {"B": {"stimuli": [STEP]}}, "no protocol 'A'"),
        ({"A": {"dend": {"mean_frequency": [7.5, 1.3]}}}, {"A": {"stimuli": [STEP]}}, "found dend"),
        ({"A": {"soma": {"mean_freqency": [7.5, 1.3]}}}, {"A": {"stimuli": [STEP]}}, "mean_frequency"),
        ({"A": {"soma": {"mean_frequency": [7.5, 0.0]}}}, {"A": {"stimuli": [STEP]}}, "positive std"),
        ({"A": {"soma": {"mean_frequency": 7.5}}}, {"A": {"stimuli": [STEP]}}, r"\[mean, std\]"),
        ({"A": {"soma": {"mean_frequency": [7.5, 1.3]}}}, {"A": {"stimuli": [STEP, STEP]}}, "2 steps"),
        ({"A": {"soma": {"mean_frequency": [7.5, 1.3]}}}, {"A": {"stimuli": [{"amp": 1}]}}, "duration"),
        ({}, {}, "found none"),
        ([1], {}, "found a list"),
    ],
)
def test_faulty_published_targets_are_refused(tmp_path, features, protocols, said):
    folder = write_targets(tmp_path / "cell", features, protocols)
    with pytest.raises(InputError, match=said) as raised:
        read_targets(folder)
    assert str(folder) in str(raised.value)


def test_a_folder_without_targets_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"features\.json: no such file"):
        read_targets(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_targets(tmp_path / "nowhere")


def test_rat_cell_targets(shared_data):
    path = shared_data / "neuron" / "rat_L5PC_C060114A7" / "C060114A7-SR-C1.nwb"
    cell = read_recording(path, stimuli=["IDrest", "IV"])
    passive = by_objective(passive_targets(cell, PASSIVE))
    assert len(passive) == 9 * 3 + 6
    assert 15.0 < passive["IV_274.soma.decay_time_constant_after_stim"].mean < 25.0
    assert passive["IV_274.soma.voltage_deflection_vb_ssse"].mean == pytest.approx(-16.2, abs=0.5)
    training = training_targets(cell, ACTIVE)
    assert list(training.protocols) == ["IV_283", "IDrest_353", "IDrest_367", "IDrest_368", "DB_check_DC"]
    assert by_objective(training)["IDrest_368.soma.mean_frequency"].mean == pytest.approx(16.0, abs=0.3)
    assert any("AP_width" in warning for warning in training.warnings)


def test_published_mouse_targets(shared_data):
    targets = read_targets(shared_data / "neuron" / "allen_483101699")
    assert len(targets.targets) == 27
    assert list(targets.protocols) == ["DB_check_DC", "LongDC_50", "LongDC_55", "LongDC_56", "LongDC_73"]
    assert by_objective(targets)["LongDC_73.soma.Spikecount"].mean == 0.0


def test_spikes_before_the_step_are_not_in_the_targets():
    spikes = (130.0, 180.0, 240.0)
    cell = recording(
        make_sweep(1, -0.1), make_sweep(2, 0.1), make_sweep(3, 0.2, spikes), make_sweep(4, 0.3, (40.0, 60.0, *spikes))
    )
    features = ["time_to_first_spike", "mean_frequency", "Spikecount", "AP_width"]
    targets = training_targets(cell, features)
    found = by_objective(targets)
    assert found["LongDC_4.soma.time_to_first_spike"].mean == pytest.approx(30.0, abs=0.2)
    assert found["LongDC_4.soma.AP_width"].n == 3
    assert {name: step.inside_only for name, step in targets.protocols.items()} == {
        "LongDC_2": False,
        "LongDC_3": False,
        "LongDC_4": True,
    }
    assert TargetSet.from_json(targets.to_json()) == targets
    assert "LongDC_4" not in passive_targets(cell, PASSIVE).protocols
    with pytest.raises(InputError, match="each of the 1 protocol found has one .1 of them also outside of the step"):
        passive_targets(recording(make_sweep(4, 0.1, (40.0, 60.0))), PASSIVE)


def test_small_spikes_are_counted_by_the_threshold_of_the_recording():
    sweeps = spiking_cell().sweeps
    small = [replace(sweep, voltage_mV=np.minimum(sweep.voltage_mV, -35.0)) for sweep in sweeps]
    cell = replace(recording(*small), spike_threshold_mV=-45.0)
    targets = training_targets(cell, ["mean_frequency", "Spikecount"])
    assert targets.spike_threshold_mV == -45.0
    assert [rate.spikes for rate in firing_rates(cell) if rate.amplitude_nA > 0] == [0, 0, 1, 2, 3, 4]
    assert sorted(passive_targets(cell, PASSIVE).protocols) == ["LongDC_0", "LongDC_1", "LongDC_9"]
    tall = training_targets(spiking_cell(), ["mean_frequency", "Spikecount"])
    assert by_objective(targets).keys() == by_objective(tall).keys()
    with pytest.raises(InputError, match="depolarising steps with spikes"):
        training_targets(recording(*small), ["mean_frequency"])
