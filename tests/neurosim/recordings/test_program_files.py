"""Recordings in the formats of acquisition programs: channels, units, commands, sweeps, and what is refused."""

import re

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recorded_channels import scale_of
from neurofleet.neurosim.recordings.recording import RecordingSource
from neurofleet.neurosim.recordings.recording_formats import open_entries
from tests.neurosim.recordings.program_files import (
    Output,
    write_abf1,
    write_abf2,
    write_axograph,
    write_ibw,
    write_smr,
    write_wcp,
)
from tests.neurosim.recordings.recording_files import membrane_voltage, step_current

STEPS_NA = (-0.1, 0.05, 0.2)
CURRENTS = [step_current(amplitude) for amplitude in STEPS_NA]
VOLTAGES = [membrane_voltage(current) for current in CURRENTS]
BOTH = np.stack([np.stack([voltage, current * 1e3]) for voltage, current in zip(VOLTAGES, CURRENTS, strict=True)])
TABLE = [(1, 0.0, 0.0, 1000 - 78), (1, -100.0, 150.0, 2000)]  # a 64th of the 5,000 samples comes before
COMMAND = Output(epochs=TABLE)


def read(path, stimuli=("*",), **options):
    return RecordingSource(path, 0.0, tuple(stimuli), **options).read()


def refused(path, **options):
    """The reasons why no sweep of a file is usable."""
    with pytest.raises(InputError, match="no usable sweep") as raised:
        read(path, **options)
    return str(raised.value)


def assert_steps(recording, amplitudes_nA=STEPS_NA, numbers=(1, 2, 3), within_nA=0.0005):
    assert [sweep.number for sweep in recording.sweeps] == list(numbers)
    assert [sweep.amplitude_nA for sweep in recording.sweeps] == pytest.approx(list(amplitudes_nA), abs=within_nA)
    for sweep, amplitude in zip(recording.sweeps, amplitudes_nA, strict=True):
        assert (sweep.start_ms, sweep.stop_ms) == pytest.approx((100.0, 299.9), abs=1e-3)
        np.testing.assert_allclose(sweep.voltage_mV, membrane_voltage(step_current(amplitude)), atol=0.02)


@pytest.mark.parametrize(
    ("unit", "scale"),
    [
        ("mV", ("voltage", 1.0)),
        ("V", ("voltage", 1e3)),
        ("uV", ("voltage", 1e-3)),
        ("\u00b5V", ("voltage", 1e-3)),
        ("Volts", ("voltage", 1e3)),
        ("millivolts", ("voltage", 1.0)),
        ("pA", ("current", 1e-3)),
        ("nA", ("current", 1.0)),
        ("A", ("current", 1e9)),
        ("pa", ("current", 1e-3)),
        ("amperes", ("current", 1e9)),
        ("mmHg", None),
        ("", None),
        ("deg C", None),
    ],
)
def test_units_of_channels(unit, scale):
    assert scale_of(unit) == (None if scale is None else (scale[0], pytest.approx(scale[1])))


@pytest.mark.parametrize("write", [write_abf1, write_abf2])
def test_the_command_of_the_protocol_is_the_current(tmp_path, write):
    path = write(tmp_path / "20101.abf", BOTH[:, :1], [("IN 0", "mV")], [COMMAND])
    recording = read(path, ["iv steps"])
    assert_steps(recording)
    assert recording.sweeps[0].stimulus_name == "IV steps"
    assert recording.sweeps[0].holding_nA == 0.0


@pytest.mark.parametrize("write", [write_abf1, write_abf2])
def test_the_holding_level_is_that_of_the_output_and_not_of_its_first_epoch(tmp_path, write):
    step = Output(holding=-20.0, epochs=[(1, 80.0, 0.0, 2000)])
    held = membrane_voltage(step_current(0.1, start_ms=7.8) - 0.02)
    path = write(tmp_path / "a.abf", held[None, None], [("IN 0", "mV")], [step])
    (sweep,) = read(path).sweeps
    assert (sweep.amplitude_nA, sweep.holding_nA) == pytest.approx((0.1, -0.02))
    assert (sweep.start_ms, sweep.stop_ms) == pytest.approx((7.8, 207.7))


def test_a_command_agrees_with_the_recorded_current_or_the_sweep_is_refused(tmp_path):
    channels = [("Vm", "mV"), ("Im", "pA")]
    noisy = BOTH.copy()
    noisy[:, 1] += np.random.default_rng(3).normal(0.0, 4.0, noisy[:, 1].shape)
    assert_steps(read(write_abf2(tmp_path / "a.abf", noisy, channels, [COMMAND])))
    flat = noisy.copy()
    flat[:, 1] = -37.0 + np.random.default_rng(4).normal(0.0, 1.0, noisy[:, 1].shape)  # connected to something else
    assert_steps(read(write_abf2(tmp_path / "c.abf", flat, channels, [COMMAND])))
    noisy[:, 1] *= 2.0
    said = refused(write_abf2(tmp_path / "b.abf", noisy, channels, [COMMAND]))
    assert re.search(r"Cmd 0 commands 200 pA, but Im recorded (399|400)", said)
    assert_steps(read(tmp_path / "b.abf", current="command"))
    recorded = read(tmp_path / "b.abf", current="recorded").sweeps
    assert [sweep.amplitude_nA for sweep in recorded] == pytest.approx([-0.2, 0.1, 0.4], abs=0.001)


def test_the_recorded_current_is_used_where_no_command_is_known(tmp_path):
    channels = [("Vm", "mV"), ("Im", "nA")]
    stored = BOTH.copy()
    stored[:, 1] *= 1e-3
    for name, outputs, options in (
        ("none", [], {}),
        ("mV", [Output(unit="mV", epochs=TABLE)], {}),  # a unit that nobody set
        ("list", [COMMAND], {"user_list": True}),
        ("alternating", [COMMAND], {"alternating": True}),
        ("file", [Output(source=2)], {}),
        ("subtracted", [Output(epochs=TABLE, leak_subtraction=1)], {}),
    ):
        assert_steps(read(write_abf2(tmp_path / f"{name}.abf", stored, channels, outputs, **options)), within_nA=0.001)


@pytest.mark.parametrize(
    ("channels", "outputs", "options", "said"),
    [
        ([("IN 0", "pA")], [Output(unit="mV", epochs=TABLE)], {}, r"no recorded channel is a voltage \(IN 0 in pA\)"),
        ([("IN 0", "pA")], [COMMAND], {}, "although the command is a current: correct the channel's unit"),
        ([("IN 0", "mV")], [Output(source=2)], {}, "the command of Cmd 0 came from a stimulus file"),
        ([("IN 0", "mV")], [COMMAND], {"user_list": True}, "a user list changes it from sweep to sweep"),
        ([("IN 0", "mV")], [], {}, "the protocol has no command in pA or nA"),
        ([("IN 0", "mV")], [COMMAND], {"mode": 3}, "no command is played in gap-free mode"),
        ([("IN 0", "mV")], [COMMAND], {"mode": 1}, "event-driven mode"),
        ([("IN 0", "mV")], [Output(epochs=[(1, 10.0, 0.0, 9000)])], {}, "longer than the sweep"),
        ([("IN 0", "mV")], [Output(epochs=[(6, 10.0, 0.0, 900)])], {}, "unknown kind"),
    ],
)
def test_an_abf_file_without_a_voltage_or_a_current_says_what_it_has(tmp_path, channels, outputs, options, said):
    path = write_abf2(tmp_path / "a.abf", BOTH[:, :1], channels, outputs, **options)
    with pytest.raises(InputError, match=said):
        read(path)


def test_the_period_of_a_train_is_not_in_abf1(tmp_path):
    path = write_abf1(
        tmp_path / "a.abf", BOTH[:, :1], [("IN 0", "mV")], [Output(epochs=[*TABLE, (3, 900.0, 0.0, 900)])]
    )
    assert "Cmd 0 plays a train (Pulse), whose period ABF 1 does not store" in refused(path)


def test_voltage_clamp_is_recognised_by_its_command_and_by_its_edges(tmp_path):
    clamped = np.stack([CURRENTS[2] * 400.0 - 80.0, CURRENTS[2] * 900.0])[None]
    channels = [("V", "mV"), ("I", "pA")]
    command = Output(name="Vcmd", unit="mV", holding=-80.0, epochs=[(1, -80.0, 0.0, 922), (1, 0.0, 0.0, 2000)])
    assert "not current clamp: V is what Vcmd commanded" in refused(
        write_abf2(tmp_path / "a.abf", clamped, channels, [command])
    )
    assert "V jumps within a millisecond" in refused(write_abf2(tmp_path / "b.abf", clamped, channels))


def test_headstages_are_chosen_by_their_channel_and_have_their_own_currents(tmp_path):
    later = step_current(0.3, 350.0, 100.0)
    other = membrane_voltage(later)
    sweep = np.stack([VOLTAGES[2], CURRENTS[2] * 1e3, other, later * 1e3])[None]
    channels = [("Vm1", "mV"), ("Im1", "pA"), ("Vm2", "mV"), ("Im2", "pA")]
    path = write_abf2(tmp_path / "pair.abf", sweep, channels)
    with pytest.raises(InputError, match=r'2 electrodes: "Vm1" .*, "Vm2"'):
        read(path)
    (first,) = read(path, electrode="Vm1").sweeps
    (second,) = read(path, electrode="vm2").sweeps
    assert (first.amplitude_nA, second.amplitude_nA) == pytest.approx((0.2, 0.3), abs=1e-4)
    # Names without numbers in common: by their order, as long as the voltages answer their currents.
    renamed = [("IN 0", "mV"), ("IN 4", "pA"), ("IN 2", "mV"), ("IN 6", "pA")]
    (second,) = read(write_abf2(tmp_path / "b.abf", sweep, renamed), electrode="IN 2").sweeps
    assert second.amplitude_nA == pytest.approx(0.3, abs=1e-4)
    swapped = sweep[:, [2, 1, 0, 3]]
    said = refused(write_abf2(tmp_path / "c.abf", swapped, renamed), electrode="IN 2")
    assert "IN 6 moves IN 0 by 29.8 mV" in said
    swapped[:, 2] = -65.0
    said = refused(write_abf2(tmp_path / "d.abf", swapped, renamed), electrode="IN 2")
    assert "IN 6 steps by 300 pA and IN 2 does not answer" in said


def test_a_trigger_in_volts_is_no_potential(tmp_path):
    trigger = np.where(CURRENTS[2] > 0, 5.0, 0.0)
    sweep = np.stack([trigger, VOLTAGES[2]])[None]
    path = write_abf2(
        tmp_path / "a.abf", sweep, [("stim", "V"), ("Vm", "mV")], [Output(epochs=[*TABLE[:1], (1, 200.0, 0.0, 2000)])]
    )
    (sweep,) = read(path).sweeps
    assert sweep.voltage_mV[0] == pytest.approx(-70.0, abs=0.01)


def test_a_gap_free_recording_is_cut_between_its_steps(tmp_path):
    whole = np.stack([np.concatenate(VOLTAGES), np.concatenate(CURRENTS) * 1e3])[None]
    abf = write_abf2(tmp_path / "a.abf", whole, [("Vm", "mV"), ("Im", "pA")], mode=3)
    spike2 = write_smr(tmp_path / "a.smr", [("Vm", "mV", whole[0, 0]), ("Im", "nA", whole[0, 1] / 1e3)])
    for path in (abf, spike2):
        sweeps = read(path).sweeps
        assert [sweep.number for sweep in sweeps] == [1, 2, 3]
        assert [sweep.amplitude_nA for sweep in sweeps] == pytest.approx(STEPS_NA, abs=0.001)
        assert [sweep.start_ms for sweep in sweeps] == pytest.approx([100.0, 150.0, 150.0])  # cut midway
        assert [sweep.duration_ms for sweep in sweeps] == pytest.approx([449.9, 499.9, 549.9])
        np.testing.assert_allclose(sweeps[1].voltage_mV[500:4500], VOLTAGES[1][:4000], atol=0.02)


def test_rates_that_are_no_whole_number(tmp_path):
    path = write_abf2(tmp_path / "a.abf", BOTH[:, :1], [("IN 0", "mV")], [COMMAND], interval_us=48.0)
    assert read(path).sweeps[0].sampling_rate_Hz == pytest.approx(1e6 / 48.0, rel=1e-9)


def test_sweeps_behind_the_end_of_a_cut_abf_file_are_refused(tmp_path):
    path = write_abf2(tmp_path / "a.abf", BOTH[:, :1], [("IN 0", "mV")], [COMMAND])
    path.write_bytes(path.read_bytes()[:-2000])
    recording = read(path)
    assert [sweep.number for sweep in recording.sweeps] == [1, 2]
    assert recording.refused == {3: "the file ends before this sweep does"}


@pytest.mark.parametrize("keep", [3, 100, 700, 3000])
def test_a_cut_abf_file_is_refused(tmp_path, keep):
    path = write_abf2(tmp_path / "a.abf", BOTH[:, :1], [("IN 0", "mV")], [COMMAND])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_absurd_counts_in_an_abf_header_are_refused_at_once(tmp_path):
    path = write_abf2(tmp_path / "a.abf", BOTH[:, :1], [("IN 0", "mV")], [COMMAND])
    for place, value in ((12, 2**31), (116, 2**31 - 1), (164, 2**30), (228, 2**30), (332, 2**31 - 1)):
        damaged = bytearray(path.read_bytes())
        damaged[place : place + 4] = value.to_bytes(4, "little")
        (tmp_path / "b.abf").write_bytes(damaged)
        with pytest.raises(InputError, match="expected a whole ABF file"):
            read(tmp_path / "b.abf")


def test_an_abf1_file_with_two_clocks_is_refused(tmp_path):
    path = write_abf1(tmp_path / "a.abf", BOTH[:, :1], [("IN 0", "mV")], [COMMAND], second_interval_us=400.0)
    with pytest.raises(InputError, match="two clocks"):
        read(path)


def test_igor_waves_are_paired_by_the_names_of_their_channels(tmp_path):
    for number, (voltage, current) in enumerate(zip(VOLTAGES, CURRENTS, strict=True), start=181):
        write_ibw(tmp_path / f"B6_Ch3_IDRest_{number}.ibw", voltage, "mV", 1e-4)
        write_ibw(tmp_path / f"B6_Ch0_IDRest_{number}.ibw", current * 1e3, "pA", 0.1, "ms")
    recording = read(tmp_path, ["IDRest"])
    assert_steps(recording, numbers=(181, 182, 183))


def test_igor_waves_of_several_sweeps_in_volts_and_amperes(tmp_path):
    write_ibw(tmp_path / "voltage_IV.ibw", np.stack(VOLTAGES, axis=1) * 1e-3, "V", 1e-4)
    write_ibw(tmp_path / "current_IV.ibw", np.stack(CURRENTS, axis=1) * 1e-9, "A", 1e-4)
    recording = read(tmp_path, ["IV"])
    assert_steps(recording, numbers=(0, 1, 2))


def test_igor_waves_that_cannot_be_paired_or_scaled_are_refused(tmp_path):
    for folder in ("one", "two", "three"):
        (tmp_path / folder).mkdir()
    alone = write_ibw(tmp_path / "one" / "v_1.ibw", VOLTAGES[0], "mV", 1e-4)
    with pytest.raises(InputError, match="found 1 with mV. Each wave holds one channel"):
        read(alone)
    write_ibw(tmp_path / "two" / "v_1.ibw", VOLTAGES[0], "mV", 1e-4)
    write_ibw(tmp_path / "two" / "stimulus_of_7_9.ibw", CURRENTS[0], "nA", 1e-4)
    with pytest.raises(InputError, match=r"no partners by their names \(v_1.ibw, stimulus_of_7_9.ibw"):
        read(tmp_path / "two")
    write_ibw(tmp_path / "three" / "v_1.ibw", VOLTAGES[0], "mV", 1e-4, "Hz")
    with pytest.raises(InputError, match="SetScale"):
        read(tmp_path / "three")
    whole = alone.read_bytes()
    for damaged in (
        b"\x05\x00 not a wave",
        whole[:-9],
        whole[:76] + b"\xff\xff\xff\x7f" + whole[80:],
        b"\x09" + whole[1:],
    ):
        (tmp_path / "three" / "v_1.ibw").write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "three")


def test_records_of_winwcp_have_their_own_range_place_and_verdict(tmp_path):
    records = [np.stack([current * 1e3, voltage]) for voltage, current in zip(VOLTAGES, CURRENTS, strict=True)]
    path = write_wcp(
        tmp_path / "a.wcp",
        records,
        [("Im", "pA"), ("Vm", "mV")],
        ranges_V=(10.0, 5.0, 2.5),
        places=(1, 0),
        marker="steps",
    )
    recording = read(path, ["steps"])
    assert_steps(recording, within_nA=0.001)
    path = write_wcp(
        tmp_path / "b.wcp", records, [("Im", "pA"), ("Vm", "mV")], verdicts=("ACCEPTED", "REJECTED", "ACCEPTED")
    )
    recording = read(path)
    assert [sweep.number for sweep in recording.sweeps] == [1, 3]
    assert recording.refused == {2: "rejected in WinWCP"}
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="it is cut off"):
        read(path)


def test_episodes_of_axograph_are_sweeps(tmp_path):
    columns = []
    for voltage, current in zip(VOLTAGES, CURRENTS, strict=True):
        columns += [("Current (pA)", current * 1e3), ("Voltage (mV)", voltage)]
    assert_steps(read(write_axograph(tmp_path / "a.axgx", columns)))
    path = tmp_path / "b.axgx"
    path.write_bytes((tmp_path / "a.axgx").read_bytes()[:900])
    with pytest.raises(InputError, match="expected a whole AxoGraph file"):
        read(path)


def test_files_of_a_folder_are_one_recording(tmp_path):
    for name, sweep in (("a", BOTH[:1]), ("b", BOTH[1:])):
        write_abf2(tmp_path / f"{name}.abf", sweep, [("Vm", "mV"), ("Im", "pA")], protocol=rf"C:\{name}.pro")
    with open_entries(tmp_path) as entries:
        assert [(entry.number, entry.stimulus_name) for entry in entries] == [(1, "a"), (1001, "b"), (1002, "b")]
    (sweep,) = read(tmp_path, ["a"]).sweeps
    assert sweep.amplitude_nA == pytest.approx(-0.1, abs=1e-4)
    write_wcp(tmp_path / "c.wcp", [BOTH[0]], [("Vm", "mV"), ("Im", "pA")])
    with pytest.raises(InputError, match=r"recordings of one format .*found .abf, .wcp"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.dat", b"DAT2" + bytes(600), "HEKA PatchMaster"),
        ("a.nwb", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.nwb", b"<!DOCTYPE html><html>", "a web page"),
        ("a.abf", b"ATF\t1.0\r\n", "Axon text file"),
        ("a.cfs", b"CEDFILE\x22", "CED Signal"),
        ("a.smrx", b"S64\0", "64-bit Spike2"),
        ("a.pxp", b"\x00\x00", "packed Igor experiment"),
        ("a.edr", b"VER=6\r\nNC=2\r\n", "WinEDR"),
        ("a.nwb.gz", b"\x1f\x8b\x08", "Unpack it first"),
        ("a.mat", b"MATLAB 5.0 MAT-file", "MATLAB"),
        ("a.csv", b"time,voltage\n", "found text"),
        ("a.swc", b"1 1 0 0 0 5 -1\n", "found a morphology .* swapped"),
        ("a.xyz", b"\x93\x00\x01", "begins with"),
    ],
)
def test_an_unknown_format_is_named_with_those_that_are_read(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as raised:
        read(path)
    assert "ABF 1 and 2 (pCLAMP)" in str(raised.value)


def test_nwb_in_zarr_says_how_to_export_it(tmp_path):
    (tmp_path / "a.nwb.zarr").mkdir()
    (tmp_path / "a.nwb.zarr" / ".zgroup").write_text("{}")
    with pytest.raises(InputError, match="NWBZarrIO"):
        read(tmp_path / "a.nwb.zarr")
