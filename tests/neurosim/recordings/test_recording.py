"""Reading recordings: both layouts, units, stimulus names, refused sweeps, unreadable files."""

import h5py
import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.nwb_writer import write_nwb
from neurofleet.neurosim.recordings.recording import RecordingSource, read_recording
from tests.neurosim.recordings.recording_files import (
    make_sweep,
    membrane_voltage,
    step_current,
    write_allen,
    write_series,
)

CURRENT = step_current()
VOLTAGE = membrane_voltage(CURRENT)


def series(label, **changes):
    return {"names": (f"Sweep_{label}", f"Stim_{label}"), "current": CURRENT, "voltage": VOLTAGE, **changes}


def test_written_sweeps_read_back_equal(tmp_path):
    written = [make_sweep(3, 0.1), make_sweep(12, -0.05, stimulus_name="IV")]
    path = write_nwb(tmp_path / "cell.nwb", written, session_description="test", cell_id="c1")
    recording = read_recording(path, junction_potential_mV=0.0, stimuli=["long*", "IV"])
    assert recording.refused == {}
    for sweep, original in zip(recording.sweeps, written, strict=True):
        for name in ("number", "stimulus_name", "sampling_rate_Hz", "start_ms", "stop_ms", "duration_ms"):
            assert getattr(sweep, name) == getattr(original, name)
        assert sweep.amplitude_nA == original.amplitude_nA
        assert sweep.holding_nA == original.holding_nA
        np.testing.assert_array_equal(sweep.current_nA, original.current_nA)
        np.testing.assert_array_equal(sweep.voltage_mV, original.voltage_mV)


def test_junction_potential_is_subtracted_and_written_back(tmp_path):
    path = write_nwb(
        tmp_path / "cell.nwb",
        [make_sweep()],
        session_description="t",
        cell_id="c",
        junction_potential_mV=14.0,
    )
    (sweep,) = read_recording(path, junction_potential_mV=10.0).sweeps
    np.testing.assert_allclose(sweep.voltage_mV, make_sweep().voltage_mV + 4.0, atol=1e-12)


def test_conversion_and_offset_are_honoured_and_gain_is_not(tmp_path):
    stored = series(1, current=CURRENT * 500.0, voltage=VOLTAGE / 2.0 - 10.0, conversions=(2e-12, 2e-3), offset=0.02)
    (sweep,) = read_recording(write_series(tmp_path / "a.nwb", [stored])).sweeps
    np.testing.assert_allclose(sweep.current_nA, CURRENT, atol=1e-12)
    np.testing.assert_allclose(sweep.voltage_mV, VOLTAGE - 14.0, atol=1e-9)


@pytest.mark.parametrize(
    "names",
    [
        [("Sweep_7", "Stim_7"), ("Sweep_12", "Stim_12")],
        [("data_00007_AD0", "data_00007_DA0"), ("data_00012_AD0", "data_00012_DA0")],
    ],
)
def test_series_are_paired_by_the_numbers_in_their_names(tmp_path, names):
    other = step_current(0.3)
    sweeps = [
        series(0, names=names[0]),
        series(0, names=names[1], current=other, voltage=membrane_voltage(other)),
    ]
    found = read_recording(write_series(tmp_path / "a.nwb", sweeps)).sweeps
    assert [(sweep.number, sweep.amplitude_nA) for sweep in found] == [(7, 0.1), (12, 0.3)]


def test_series_are_paired_by_sweep_number_before_names(tmp_path):
    sweeps = [
        series(0, names=("a_1", "b_2"), number=31),
        series(0, names=("a_2", "b_1"), number=32, current=step_current(0.3)),
    ]
    found = read_recording(write_series(tmp_path / "a.nwb", sweeps)).sweeps
    assert [(sweep.number, sweep.amplitude_nA) for sweep in found] == [(31, 0.1), (32, 0.3)]


def test_sweeps_that_share_a_number_are_refused(tmp_path):
    sweeps = [
        series(1, number=1),
        series(2, number=2),
        series(0, names=("other_cell_2", "other_stimulus_2"), number=2),
    ]
    recording = read_recording(write_series(tmp_path / "a.nwb", sweeps))
    assert [sweep.number for sweep in recording.sweeps] == [1]
    assert "2 recordings share" in recording.refused[2]


def two_electrodes(**changes):
    """Sweeps 1 and 2 of two electrodes: the second cell rests 10 mV lower and gets twice the current."""
    return [
        series(
            f"{number}_{electrode}",
            electrode=electrode,
            current=CURRENT * (1 + of),
            voltage=membrane_voltage(CURRENT * (1 + of), rest_mV=-70.0 - 10.0 * of),
            **{key: value(number) for key, value in changes.items()},
        )
        for number in (1, 2)
        for of, electrode in enumerate(("e0", "e1"))
    ]


@pytest.mark.parametrize("changes", [{}, {"number": lambda number: number}])
def test_sweeps_of_two_electrodes_are_one_cell_s_only_when_it_is_chosen(tmp_path, changes):
    path = write_series(tmp_path / "a.nwb", two_electrodes(**changes))
    with pytest.raises(InputError, match=r'2 electrodes: "e0" \(2 sweeps\), "e1" \(2 sweeps\)\. .*electrode: e0'):
        read_recording(path)
    for electrode, amplitude_nA, rest_mV in (("e0", 0.1, -84.0), ("E1", 0.2, -94.0)):
        sweeps = read_recording(path, electrode=electrode).sweeps
        assert [(sweep.number, sweep.amplitude_nA) for sweep in sweeps] == [(1, amplitude_nA), (2, amplitude_nA)]
        assert sweeps[0].voltage_mV[0] == pytest.approx(rest_mV)
    with pytest.raises(InputError, match=r'no electrode "e2"; .*"e0" \(2 sweeps\)'):
        read_recording(path, electrode="e2")


@pytest.mark.parametrize("numbered", [True, False])
def test_a_response_has_no_current_of_the_other_electrode(tmp_path, numbered):
    """Of a pair of cells, only the first gets a current."""
    number = {"number": 1} if numbered else {}
    path = write_series(
        tmp_path / "a.nwb",
        [
            series(1, names=("one_1", "stim_1"), electrode="e0", **number),
            series(1, names=("two_1", "stim_2"), electrode="e1", **number),
        ],
    )
    with h5py.File(path, "r+") as file:
        del file["stimulus/presentation/stim_2"]
    assert read_recording(path, electrode="e0").sweeps[0].amplitude_nA == 0.1
    with pytest.raises(InputError, match="no current stimulus series belongs to it"):
        read_recording(path, electrode="e1")


def test_an_electrode_that_only_recorded_other_things_needs_no_choice(tmp_path):
    other = {"clamp": "VoltageClampSeries", "electrode": "e1"}
    path = write_series(tmp_path / "a.nwb", [series(1), series(2, **other), series(3, stimulus_name="Ramp", **other)])
    recording = read_recording(path)
    assert [sweep.number for sweep in recording.sweeps] == [1]
    assert list(recording.refused) == [2]


def test_the_table_of_recordings_cuts_one_series_into_sweeps(tmp_path):
    currents = [step_current(amplitude) for amplitude in (-0.1, 0.1, 0.2)]
    whole = series(1, current=np.concatenate(currents), voltage=np.concatenate([membrane_voltage(c) for c in currents]))
    table = [(0, 0, 5000 * row, 5000) for row in range(3)]
    found = read_recording(write_series(tmp_path / "a.nwb", [whole], table)).sweeps
    assert [(sweep.number, sweep.amplitude_nA) for sweep in found] == [(0, -0.1), (1, 0.1), (2, 0.2)]
    np.testing.assert_allclose(found[2].voltage_mV, membrane_voltage(currents[2]) - 14.0, atol=1e-9)
    path = write_series(tmp_path / "b.nwb", [whole], table[:2])
    with h5py.File(path, "r+") as file:
        for rows in ("responses/response", "stimuli/stimulus"):
            rows = file[f"general/intracellular_ephys/intracellular_recordings/{rows}"]
            rows[1] = (12_000, 5000, rows[1]["timeseries"])
    assert "12000 to 16999 of Stim_1, which has 15000" in read_recording(path).refused[1]


def shifted(**changes):
    """Responses 1 to 3 beside stimuli 0 to 2, each a neighbour's number off."""
    return [
        series(
            0,
            names=(f"resp_{row + 1}", f"stim_{row}"),
            current=step_current(0.1 * (row + 1)),
            **{key: value(row) for key, value in changes.items()},
        )
        for row in range(3)
    ]


def test_numbers_that_leave_a_response_and_a_stimulus_alone_pair_nothing(tmp_path):
    with pytest.raises(InputError, match="resp_3 found no stimulus and stim_0 no response"):
        read_recording(write_series(tmp_path / "a.nwb", shifted()))


def test_shifted_numbers_are_paired_by_the_table_or_by_time(tmp_path):
    by_table = write_series(tmp_path / "a.nwb", shifted(), [(row, row, 0, 5000) for row in range(3)])
    by_time = write_series(tmp_path / "b.nwb", shifted(starts=lambda row: (2.0 * row, 2.0 * row + 1e-5)))
    for path in (by_table, by_time):
        found = read_recording(path).sweeps
        assert [sweep.number for sweep in found] == [1, 2, 3]
        np.testing.assert_allclose([sweep.amplitude_nA for sweep in found], [0.1, 0.2, 0.3])


def _with_gap(values):
    gapped = values.copy()
    gapped[50] = np.nan
    return gapped


def _zero_padded():
    padded = VOLTAGE.copy()
    padded[3500:] = 0.0
    return padded


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"voltage": _with_gap(VOLTAGE)}, "NaN"),
        ({"current": _with_gap(CURRENT)}, "NaN"),
        ({"voltage": VOLTAGE[:-10]}, "differ in length"),
        ({"current": CURRENT[:2000], "voltage": VOLTAGE[:2000]}, "cut off"),
        ({"voltage": _zero_padded()}, "truncated"),
        ({"voltage": np.full(5000, -70.0)}, "nothing was recorded"),
        ({"conversions": (1e-9, 1.0)}, "conversion"),
        ({"conversions": (1.0, 1e-3)}, "conversion"),
        ({"current": np.zeros(5000)}, "no current step found"),
        ({"clamp": "VoltageClampSeries"}, "not current clamp"),
    ],
)
def test_a_refused_sweep_says_why_and_the_others_are_used(tmp_path, changes, reason):
    recording = read_recording(write_series(tmp_path / "a.nwb", [series(1), series(2, **changes)]))
    assert [sweep.number for sweep in recording.sweeps] == [1]
    assert list(recording.refused) == [2]
    assert reason in recording.refused[2]


def test_missing_values_after_the_end_are_trimmed(tmp_path):
    padded = np.append(VOLTAGE[:4000], np.full(1000, np.nan))
    (sweep,) = read_recording(write_series(tmp_path / "a.nwb", [series(1, voltage=padded)])).sweeps
    assert sweep.voltage_mV.size == 4000


def test_a_sweep_with_nothing_but_its_test_pulse_is_refused(tmp_path):
    pulse = step_current(-0.1, 10.0, 10.0)
    sweeps = [series(1, current=CURRENT + pulse), series(2), series(3, current=pulse)]
    recording = read_recording(write_series(tmp_path / "a.nwb", sweeps))
    assert [(sweep.number, sweep.start_ms) for sweep in recording.sweeps] == [(1, 100.0), (2, 100.0)]
    assert "only a pulse of 9.9 ms" in recording.refused[3]


@pytest.mark.parametrize(
    ("start_ms", "length_ms", "step_start_ms", "step_length_ms"),
    [(20.0, 150.0, 350.0, 200.0), (400.0, 300.0, 50.0, 100.0)],  # before the step, and after it and longer
)
def test_a_pulse_that_all_sweeps_share_is_told_and_not_played(
    tmp_path, start_ms, length_ms, step_start_ms, step_length_ms
):
    steps = (0.0, 0.1, 0.2, 0.3)
    pulse = step_current(-0.1, start_ms, length_ms, 800.0)
    currents = [pulse + step_current(step, step_start_ms, step_length_ms, 800.0) for step in steps]
    sweeps = [series(n, current=c, voltage=membrane_voltage(c)) for n, c in enumerate(currents)]
    recording = read_recording(write_series(tmp_path / "a.nwb", sweeps))
    found = [(sweep.number, sweep.start_ms, sweep.amplitude_nA) for sweep in recording.sweeps]
    assert found == [(n, step_start_ms, pytest.approx(steps[n])) for n in (1, 2, 3)]
    told = f"test pulse of -100 pA at {start_ms:.0f} to {start_ms + length_ms:.0f} ms"
    assert recording.refused == {0: f"no current step found: only a {told}"}
    assert f"{told}: models do not get it (sweeps 1, 2, 3)" in recording.notes


def test_of_two_steps_a_window_chooses(tmp_path):
    """Two steps that both vary, of which the second follows a prepulse."""
    steps = (-0.05, 0.05, 0.1)
    currents = [
        step_current(step, 50.0, 150.0, 800.0)
        + step_current(-0.1, 300.0, 150.0, 800.0)
        + step_current(step, 450.0, 150.0, 800.0)
        for step in steps
    ]
    sweeps = [series(n, current=c, voltage=membrane_voltage(c)) for n, c in enumerate(currents, 1)]
    path = write_series(tmp_path / "a.nwb", sweeps)
    with pytest.raises(InputError, match="window_ms"):
        read_recording(path)
    recording = RecordingSource(path, window_ms=(0.0, 290.0)).read()
    assert [(sweep.start_ms, sweep.stop_ms) for sweep in recording.sweeps] == [(50.0, 199.9)] * 3
    np.testing.assert_allclose([sweep.amplitude_nA for sweep in recording.sweeps], steps, atol=1e-9)
    assert recording.sweeps[0].duration_ms == 289.9
    assert "read from 0 to 290 ms of each sweep; times count from there" in recording.notes
    with pytest.raises(InputError, match="lasts 800 ms, and `window_ms:` ends at 900 ms"):
        RecordingSource(path, window_ms=(0.0, 900.0)).read()


def test_one_series_without_gaps_is_cut_between_its_steps(tmp_path):
    steps = (-0.1, 0.05, 0.2)
    current = np.concatenate([step_current(step) for step in steps])
    sweep = series(7, current=current, voltage=membrane_voltage(current))
    sweeps = read_recording(write_series(tmp_path / "a.nwb", [sweep])).sweeps
    assert [sweep.number for sweep in sweeps] == [0, 1, 2]
    assert [sweep.start_ms for sweep in sweeps] == [100.0, 150.0, 150.0]
    np.testing.assert_allclose([sweep.amplitude_nA for sweep in sweeps], steps, atol=1e-9)
    np.testing.assert_allclose(sweeps[1].voltage_mV, membrane_voltage(current)[4500:9500] - 14.0, atol=1e-9)


def test_voltage_clamp_says_that_another_mode_is_needed(tmp_path):
    with pytest.raises(InputError, match="not current clamp.*A fit needs recordings in current clamp"):
        read_recording(write_series(tmp_path / "a.nwb", [series(1, clamp="VoltageClampSeries")]))


def test_noisy_repeats_agree_on_the_timing(tmp_path):
    random = np.random.default_rng(5)
    sweeps = [series(n, current=CURRENT * 0.4 - 0.05 + random.normal(0.0, 0.01, 5000)) for n in range(1, 7)]
    recording = read_recording(write_series(tmp_path / "a.nwb", sweeps))
    assert len(recording.sweeps) == 6
    assert len({(sweep.start_ms, sweep.stop_ms) for sweep in recording.sweeps}) == 1
    assert recording.sweeps[0].start_ms == pytest.approx(100.0, abs=0.2)
    assert all(sweep.holding_nA == pytest.approx(-0.05, abs=0.002) for sweep in recording.sweeps)


def test_a_holding_current_below_the_noise_is_none(tmp_path):
    noisy = CURRENT + 0.002 + np.random.default_rng(6).normal(0.0, 0.005, 5000)
    (sweep,) = read_recording(write_series(tmp_path / "a.nwb", [series(1, current=noisy)])).sweeps
    assert sweep.holding_nA == 0.0


def test_holding_current_is_taken_well_after_a_long_sweep(tmp_path):
    current = step_current(total_ms=1000.0)
    current[:1000] -= 0.0001
    current[3100:] = 0.0004  # 25 ms to 500 ms after the step, while the baseline before differs
    stored = series(1, current=current, voltage=membrane_voltage(current))
    (sweep,) = read_recording(write_series(tmp_path / "a.nwb", [stored])).sweeps
    assert sweep.holding_nA == pytest.approx(0.0004)


def test_a_high_rate_is_cut_and_the_last_sample_kept(tmp_path):
    current = step_current(rate_Hz=200_000.0)[:-2]
    stored = series(1, current=current, voltage=membrane_voltage(current, 200_000.0), rate=200_000.0)
    (sweep,) = read_recording(write_series(tmp_path / "a.nwb", [stored])).sweeps
    assert sweep.sampling_rate_Hz == 40_000.0
    assert sweep.voltage_mV[-1] == pytest.approx(stored["voltage"][-1] - 14.0)
    assert sweep.time_ms[1] == pytest.approx(0.025)
    assert sweep.time_ms[-1] == sweep.duration_ms == pytest.approx(500.0 - 3 * 0.005)
    assert (sweep.start_ms, sweep.stop_ms) == pytest.approx((100.0, 299.995))


def test_unknown_stimulus_names_list_what_the_file_holds(tmp_path):
    path = write_series(tmp_path / "a.nwb", [series(1, stimulus_name="IV"), series(2, stimulus_name="IV"), series(3)])
    with pytest.raises(InputError, match=r'a\.nwb.*"IDrest".*"IV" \(2\), "Long Square" \(1\)'):
        read_recording(path, stimuli=["iv", "IDrest"])
    assert [sweep.number for sweep in read_recording(path, stimuli=["i?"]).sweeps] == [1, 2]


def test_no_usable_sweep_is_an_error_with_the_reasons(tmp_path):
    path = write_series(tmp_path / "a.nwb", [series(n, current=np.zeros(5000)) for n in (1, 2)])
    with pytest.raises(InputError, match=r"no usable sweep among the 2.*no current step found.*\(2 sweeps\)"):
        read_recording(path)


def test_excluded_sweeps_are_left_out(tmp_path):
    path = write_series(tmp_path / "a.nwb", [series(1), series(2)])
    recording = read_recording(path, exclude=[2])
    assert [sweep.number for sweep in recording.sweeps] == [1]
    assert list(recording.refused) == [2]
    with pytest.raises(InputError, match=r"\[9\]"):
        read_recording(path, exclude=[9])


def test_allen_layout_trims_the_test_pulse_by_its_index_range(tmp_path):
    current = CURRENT + step_current(-0.2, 5.0, 10.0)
    for stop_key in ("count", "idx_stop"):
        path = write_allen(
            tmp_path / f"{stop_key}.nwb",
            current * 1e-9,
            VOLTAGE * 1e-3,
            experiment=(400, 4000),
            stop_key=stop_key,
        )
        (sweep,) = read_recording(path).sweeps
        assert sweep.number == 5
        assert (sweep.start_ms, sweep.stop_ms) == (60.0, pytest.approx(259.9))
        assert sweep.duration_ms == pytest.approx(399.9)
        np.testing.assert_allclose(sweep.voltage_mV, VOLTAGE[400:4400] - 14.0)


@pytest.mark.parametrize(
    ("version", "stored_in_SI"),
    [("0.9.2", True), ("1.1.0", False), ("1.0.3", True), ("1.0.3", False), (None, True), (None, False)],
)
def test_allen_conversion_is_ignored_by_early_pipelines(tmp_path, version, stored_in_SI):
    scale = (1e-9, 1e-3) if stored_in_SI else (1e3, 1.0)
    path = write_allen(
        tmp_path / "a.nwb",
        CURRENT * scale[0],
        VOLTAGE * scale[1],
        version=version,
        conversions=(1e-12, 1e-3),
    )
    (sweep,) = read_recording(path).sweeps
    np.testing.assert_allclose(sweep.voltage_mV, VOLTAGE - 14.0)
    assert sweep.amplitude_nA == pytest.approx(0.1)


def _hdf5_of_something_else(path):
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)


def _half_a_file(path):
    write_series(path, [series(1)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _nwb_without_content(path):
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no such"),
        (lambda path: path.mkdir(), "expected a folder with recordings of one format"),
        (lambda path: path.touch(), "empty"),
        (lambda path: path.write_text("sweep,voltage"), "not a recording that can be read: found text"),
        (_half_a_file, "cannot be"),
        (_hdf5_of_something_else, "weights"),
        (_nwb_without_content, "cannot be read"),
        (lambda path: write_series(path, []), "found none"),
    ],
)
def test_unusable_files_are_one_paragraph_that_names_the_file(tmp_path, make, said):
    path = tmp_path / "cell.nwb"
    make(path)
    with pytest.raises(InputError, match=said) as raised:
        read_recording(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_both_layouts_of_the_rat_cell_give_the_same_sweeps(shared_data):
    folder = shared_data / "neuron" / "rat_L5PC_C060114A7"
    nwb2 = read_recording(folder / "C060114A7-SR-C1.nwb", stimuli=["ID*", "IV"])
    allen = read_recording(folder / "C060114A7-SR-C1_allen_nwb1_layout.nwb")
    assert len(nwb2.sweeps) == 77  # of 80; the three of 0 pA have no step
    assert list(nwb2.refused) == [280, 290, 300]
    assert nwb2.refused == allen.refused
    for sweep, other in zip(nwb2.sweeps, allen.sweeps, strict=True):
        for name in ("number", "start_ms", "stop_ms", "amplitude_nA", "holding_nA", "sampling_rate_Hz"):
            assert getattr(sweep, name) == getattr(other, name)
        np.testing.assert_array_equal(sweep.voltage_mV, other.voltage_mV)
        length_ms = 1000.0 if sweep.stimulus_name == "IV" else 2000.0
        assert sweep.stop_ms - sweep.start_ms == length_ms


def test_real_files_with_conversion_and_with_a_noisy_current(shared_data):
    steps = read_recording(shared_data / "neuron" / "99111002.nwb", stimuli=["Step"])
    assert len(steps.sweeps) == 15
    assert list(steps.refused) == [11]
    assert (steps.sweeps[0].start_ms, steps.sweeps[0].stop_ms) == (31.2, 431.1)
    assert steps.sweeps[0].amplitude_nA == pytest.approx(-2.0)
    noisy = read_recording(shared_data / "neuron" / "FergusonEtAl2015_PYR2.nwb", stimuli=["*cc25pA1s*"])
    assert len(noisy.sweeps) == 13
    assert {(sweep.start_ms, sweep.stop_ms) for sweep in noisy.sweeps} == {(81.5, 1081.4)}
    np.testing.assert_allclose(np.diff([sweep.amplitude_nA for sweep in noisy.sweeps]), 0.025, atol=0.001)
