"""What is found odd about recordings, and what is done about it; the table of a recording."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recorded_spikes import SpikeShapes, choose_threshold, find_spike_shapes
from neurofleet.neurosim.recordings.recording import RecordingSource, read_recording
from neurofleet.neurosim.recordings.recording_checks import odd_about, rate_fault
from tests.neurosim.recordings.recording_files import (
    RATE_HZ,
    add_spikes,
    make_sweep,
    membrane_voltage,
    step_current,
    write_allen,
    write_series,
)

SPIKES_MS = (130.0, 180.0, 240.0)


def series(number, amplitude_nA=0.1, spikes_ms=(), peak_mV=30.0, rest_mV=-70.0, **changes):
    """A sweep with a step from 100 to 300 ms into 100 MOhm."""
    current = step_current(amplitude_nA)
    voltage = membrane_voltage(current, rest_mV=rest_mV)
    spiking = add_spikes(voltage, spikes_ms)
    voltage = np.minimum(spiking, peak_mV) if len(spikes_ms) else voltage
    return {
        "names": (f"Sweep_{number}", f"Stim_{number}"),
        "number": number,
        "current": current,
        "voltage": voltage,
        **changes,
    }


def look(path: Path, sweeps, **how):
    return RecordingSource(write_series(path / "cell.nwb", sweeps), **how).look()


@pytest.mark.parametrize("rate_Hz", [20.0, 0.02, 999.0, 2e7, float("nan"), 0.0, -20_000.0])
def test_rates_that_cannot_be_are_faults(rate_Hz):
    assert "expected 1 kHz to 1 MHz" in rate_fault(rate_Hz)
    assert rate_fault(4000.0) == rate_fault(200_000.0) == ""
    assert "20 kHz if the times were stored in milliseconds" in rate_fault(20.0)
    assert "20 kHz if the times were stored in microseconds" in rate_fault(0.02)


def test_time_stamps_in_milliseconds_are_refused(tmp_path):
    in_ms = series(1, timestamps=np.arange(5000) * 0.1)
    with pytest.raises(InputError, match=r"cell\.nwb.*sampling rate of 10 Hz.*10 kHz if.*milliseconds"):
        read_recording(write_series(tmp_path / "cell.nwb", [in_ms]))
    allen = write_allen(
        tmp_path / "allen.nwb", step_current() * 1e-9, membrane_voltage(step_current()) * 1e-3, rate_Hz=10
    )
    with pytest.raises(InputError, match="sampling rate of 10 Hz"):
        read_recording(allen)


def test_voltages_in_volts_and_currents_in_pA_are_refused(tmp_path):
    in_volts = series(1, conversions=(1e-9, 1e-6))
    assert "-0.07" in look(tmp_path, [in_volts]).refused[1]
    path = write_series(tmp_path / "pA.nwb", [series(n, 0.02 * n, conversions=(1e-6, 1e-3)) for n in (1, 2, 3)])
    with pytest.raises(InputError, match=r"input resistance of 0\.1 MΩ"):
        read_recording(path)


def bias(amperes):
    return {"response": {"bias_current": amperes}}


def test_the_bias_current_of_the_amplifier_is_part_of_the_holding_current(tmp_path):
    recording = look(tmp_path, [series(1, **bias(-30e-12)), series(2, 0.2, **bias(-30e-12)), series(3, 0.3)])
    assert [sweep.holding_nA for sweep in recording.sweeps] == pytest.approx([-0.03, -0.03, 0.0])
    assert recording.sweeps[0].amplitude_nA == 0.1
    np.testing.assert_allclose(recording.sweeps[0].current_nA, step_current() - 0.03)
    np.testing.assert_array_equal(recording.sweeps[2].current_nA, step_current(0.3))
    assert recording.notes == ("bias current of the amplifier, -30 pA: added to the holding current (sweeps 1, 2)",)
    assert [row.holding_pA for row in recording.table.rows] == pytest.approx([-30.0, -30.0, 0.0])


def test_a_bias_current_that_the_recorded_current_has_already_is_not_added(tmp_path):
    held = series(1, current=step_current() - 0.03, **bias(-30e-12))
    recording = look(tmp_path, [held])
    assert recording.sweeps[0].holding_nA == pytest.approx(-0.03)
    assert "has it already" in recording.notes[0]
    assert look(tmp_path, [held], bias_current="add").sweeps[0].holding_nA == pytest.approx(-0.06)
    ignored = look(tmp_path, [series(1, **bias(-30e-12))], bias_current="ignore")
    assert (ignored.sweeps[0].holding_nA, "ignored" in ignored.notes[0]) == (0.0, True)
    assert "another unit" in look(tmp_path, [series(1, **bias(-30.0))]).refused[1]


@pytest.mark.parametrize("stored", [-30e-12, -30.0])
def test_allen_files_have_the_bias_current_in_amperes_or_pA(tmp_path, stored):
    current = step_current()
    path = write_allen(
        tmp_path / "a.nwb", current * 1e-9, membrane_voltage(current) * 1e-3, properties={"bias_current": stored}
    )
    (sweep,) = read_recording(path).sweeps
    assert (sweep.holding_nA, sweep.amplitude_nA) == pytest.approx((-0.03, 0.1))


def test_currents_that_begin_after_their_voltages_are_refused(tmp_path):
    late = [series(number, starts=(2.0 * number, 2.0 * number + 0.1)) for number in (1, 2)]
    assert "begins 100 ms after its voltage" in look(tmp_path, late).refused[1]
    at_once = [series(number, starts=(2.0 * number, 0.0)) for number in (1, 2)]  # only the responses tell their times
    assert len(look(tmp_path, at_once).sweeps) == 2


def test_spikes_are_found_by_their_shape_at_any_height():
    current = step_current()
    voltage = membrane_voltage(current)
    for peak_mV in (30.0, -35.0):
        found = find_spike_shapes(np.minimum(add_spikes(voltage, SPIKES_MS), peak_mV), RATE_HZ)
        np.testing.assert_allclose(found.peak / 10.0, SPIKES_MS, atol=1.5)
        np.testing.assert_allclose(found.peak_mV, peak_mV, atol=0.1)
    assert len(find_spike_shapes(voltage, RATE_HZ)) == 0
    noisy = voltage + np.random.default_rng(1).normal(0.0, 1.0, voltage.size)
    assert len(find_spike_shapes(noisy, RATE_HZ)) == 0


def test_the_threshold_follows_spikes_that_stay_small(tmp_path):
    sweeps = [series(1, -0.1), series(2, 0.05), series(3, 0.1, SPIKES_MS, peak_mV=-16.0)]
    recording = look(tmp_path, sweeps)  # -30 mV after the junction potential
    assert -60.0 < recording.spike_threshold_mV < -31.0
    assert [row.spikes for row in recording.table.rows] == [0, 0, 3]
    assert "3 of 3 spikes stay below -20 mV (the highest reaches -30 mV" in recording.warnings[0]
    chosen = look(tmp_path, sweeps, spike_threshold_mV=-35.0)
    assert (chosen.spike_threshold_mV, chosen.table.rows[2].spikes) == (-35.0, 3)
    close = look(tmp_path, [*sweeps[:2], series(3, 0.1, SPIKES_MS, peak_mV=-1.0)])  # -15 mV
    assert -60.0 < close.spike_threshold_mV < -25.0
    assert "3 of 3 spikes peak close to -20 mV or below it (below -10 mV" in close.warnings[0]
    tall = look(tmp_path, [*sweeps[:2], series(3, 0.1, SPIKES_MS)])
    assert (tall.spike_threshold_mV, tall.warnings) == (-20.0, ())


def shapes(*peaks):
    """Number of spikes and where they peak -> spikes that rise from -55 mV."""
    peak_mV = np.concatenate([np.full(number, mV) for number, mV in peaks])
    return SpikeShapes(np.arange(peak_mV.size), peak_mV, np.full(peak_mV.size, -55.0), np.ones(peak_mV.size))


@pytest.mark.parametrize(
    ("low", "spikes", "low_mV", "threshold_mV"),
    [(low, spikes, -35.0, -45.0) for low, spikes in ((1, 3), (2, 9), (1, 5), (20, 100), (7, 35))]
    + [(low, spikes, -35.0, -20.0) for low, spikes in ((3, 18), (19, 100), (1, 6))]
    + [(2, 9, -15.0, -35.0), (1, 5, -10.5, -33.0), (1, 5, -9.5, -20.0), (1, 6, -15.0, -20.0)],
)
def test_a_fifth_of_small_spikes_lowers_the_threshold_below_them(low, spikes, low_mV, threshold_mV):
    found = choose_threshold([shapes((spikes - low, 20.0)), shapes((low, low_mV))])
    assert (found.threshold_mV, found.spikes) == (threshold_mV, spikes)
    assert (found.near, found.small) == (low * (low_mV < -10.0), low * (low_mV < -20.0))
    assert found.many_small == (found.lowered and low_mV < -20.0)


@pytest.mark.parametrize(
    ("low", "told"),
    [
        ([(3, -25.0)], "3 of 100 spikes stay below -20 mV (the highest reaches -25 mV after"),
        ([(3, -25.0), (17, -15.0)], "20 of 100 spikes peak close to -20 mV or below it (below -10 mV after"),
        ([(20, -25.0)], "20 of 100 spikes stay below -20 mV (the highest reaches -25 mV after"),
        ([(19, -15.0)], ""),
    ],
)
def test_why_spikes_are_counted_from_lower_on_is_told(tmp_path, low, told):
    (sweep,) = look(tmp_path, [series(1)]).sweeps
    spikes = shapes(*low, (100 - sum(number for number, _ in low), 20.0))
    warnings = list(odd_about([sweep], {1: spikes}, choose_threshold([spikes]), threshold_mV=-30.0))
    counted = [warning for warning in warnings if "spikes are counted from -30 mV on" in warning]
    assert [warning.startswith(told) for warning in counted] == [True] * bool(told)


def test_spikes_outside_of_the_step_are_told(tmp_path):
    recording = look(
        tmp_path, [series(1), series(2, 0.2, (40.0, 60.0, *SPIKES_MS)), series(3, 0.2, (*SPIKES_MS, 400.0))]
    )
    assert [(row.spikes, row.spikes_outside) for row in recording.table.rows] == [(0, 0), (3, 2), (3, 1)]
    assert any("before the step in sweep 2: e-features" in warning for warning in recording.warnings)
    assert any("after the step in sweep 3" in warning for warning in recording.warnings)


def test_a_voltage_about_the_threshold_is_no_spiking(tmp_path):
    noise = np.random.default_rng(2).normal(0.0, 1.0, 5000)
    depolarised = series(1, rest_mV=-6.0, voltage=membrane_voltage(step_current(0.01), rest_mV=-6.0) + noise)
    assert any(
        "only 0 times with the shape of a spike" in warning for warning in look(tmp_path, [depolarised]).warnings
    )


def test_currents_of_the_wrong_sign_are_refused(tmp_path):
    sweeps = [
        series(n, amplitude, voltage=membrane_voltage(step_current(-amplitude)))
        for n, amplitude in enumerate((-0.1, 0.1, 0.2))
    ]
    with pytest.raises(InputError, match="against the current in 3 of 3 silent sweeps"):
        read_recording(write_series(tmp_path / "cell.nwb", sweeps))


def test_currents_of_neighbours_are_told(tmp_path):
    amplitudes = (-0.1, -0.05, 0.0, 0.05, 0.1)
    sweeps = [
        series(n, amplitude, voltage=membrane_voltage(step_current(amplitude + 0.05)))
        for n, amplitude in enumerate(amplitudes)
    ]
    assert any("+5 mV without a current" in warning for warning in look(tmp_path, sweeps).warnings)


def test_rests_that_differ_are_told(tmp_path):
    warnings = look(tmp_path, [series(1), series(2, rest_mV=-85.0), series(3, 0.2)]).warnings
    assert any("between -99 mV (sweep 2) and -84 mV (sweep 1)" in warning for warning in warnings)
    assert any("rests at -24 mV" in w for w in look(tmp_path, [series(1, rest_mV=-10.0)]).warnings)


def test_repeats_that_disagree_are_told(tmp_path):
    warnings = look(tmp_path, [series(1, 0.2, SPIKES_MS), series(2, 0.2)]).warnings
    assert any("200 pA step disagree: 3 in sweep 1, 0 in sweep 2" in warning for warning in warnings)
    (warning,) = look(tmp_path, [series(1), series(2, **bias(-50e-12))]).warnings
    assert "100 pA step were held at -50 to 0 pA (sweeps 1, 2)" in warning


def test_series_resistance_that_was_not_balanced_is_told(tmp_path):
    sweeps = [
        series(n, amplitude, voltage=membrane_voltage(step_current(amplitude)) + 100.0 * step_current(amplitude))
        for n, amplitude in enumerate((-0.2, -0.1, 0.1))
    ]
    assert any("the series resistance was not balanced" in warning for warning in look(tmp_path, sweeps).warnings)
    stored = {"electrode_fields": {"initial_access_resistance": "45 MOhm"}, "response": {"bridge_balance": 0.0}}
    recording = look(tmp_path, [series(1, **stored)])
    assert (recording.sweeps[0].access_resistance_MOhm, recording.sweeps[0].bridge_balance_MOhm) == (45.0, 0.0)
    assert any("access resistance is up to 45 MΩ" in warning for warning in recording.warnings)
    assert any("bridge was not balanced in sweep 1" in warning for warning in recording.warnings)


def test_the_table_says_what_each_sweep_is_used_for_or_why_not(tmp_path):
    gap = series(3, 0.2)
    gap["voltage"] = np.where(np.arange(5000) == 50, np.nan, gap["voltage"])
    recording = look(
        tmp_path, [series(1), series(2, 0.3, SPIKES_MS), gap, series(4, stimulus_name="Ramp")], exclude=(1,)
    )
    table = recording.table
    assert table.summary == (
        "cell.nwb: 1 of 3 sweeps used (electrode el, 10 kHz); left out: sweep 1: left out on request; "
        "sweep 3: 1 sample is NaN or infinite"
    )
    assert [row.used_for for row in table.rows] == [(), ("spiking",), ()]
    assert recording.notes == ('not asked for: "Ramp" (1)',)
    assert any("1 of 2 sweeps cannot be used" in warning for warning in recording.warnings)
    assert table.facts()["left_out"] == {"1": "left out on request", "3": "1 sample is NaN or infinite"}
    used = table.used_for({2: ["active"]})
    assert used.rows[1].cells()[-1] == "active"
    assert table.used_for({}).rows[1].cells()[-1] == "not used"
    assert "NaN" in used.rows[2].cells()[-1]
    assert list(used.to_pandas()["used_for"]) == ["", "active", ""]
    page = replace(used, file="a<b>.nwb")._repr_html_()
    assert "a&lt;b&gt;.nwb: 1 of 3" in page
    assert page.count("<tr>") == 4
    assert str(used).splitlines()[-2].split()[:3] == ["2", "Long", "Square"]


def test_a_recording_without_a_usable_sweep_can_be_looked_at(tmp_path):
    recording = look(tmp_path, [series(1, current=np.zeros(5000))])
    assert (recording.sweeps, list(recording.refused)) == ((), [1])
    assert "0 of 1 sweeps used" in recording.table.summary


def test_measures_of_a_sweep():
    sweep = make_sweep(1, 0.1)
    assert sweep.rest_mV == -70.0
    assert sweep.deflection_mV == pytest.approx(10.0, abs=0.01)
