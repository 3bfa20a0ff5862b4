"""Files of units: what is read is what was written, whatever the format, and what cannot be read is said."""

from datetime import UTC, datetime

import h5py
import numpy as np
import pandas as pd
import pytest
from hdmf.common import ElementIdentifiers, VectorData, VectorIndex
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.misc import Units

from neurofleet.errors import UsageError
from neurofleet.learners.units.spike_timing import interval_shares
from neurofleet.learners.units.unit_files import as_units, open_units
from neurofleet.learners.units.units import MODALITIES, UnitsRefused, joined
from tests.learners.units.made_units import made, npz, refused
from tests.learners.units.test_spike_times import trains

LAYOUT = {"waveform_rate_hz": 30_000, "isi_bin_ms": 1, "acg_bin_ms": 1}


def table(numbered):
    arrays = {name: value for name, value in made().items() if isinstance(value, np.ndarray)}
    columns = {name: arrays[name] for name in ("unit_id", "cell_type")}
    for name in MODALITIES:
        if numbered:
            columns |= {f"{name}_{place}": arrays[name][:, place] for place in range(arrays[name].shape[1])}
        else:
            columns[name] = list(arrays[name])
    return pd.DataFrame(columns)


@pytest.fixture(params=["lists.parquet", "numbered.parquet", "numbered.csv"])
def file(request, tmp_path):
    path = tmp_path / request.param
    rows = table(request.param.startswith("numbered"))
    rows.to_csv(path, index=False) if path.suffix == ".csv" else rows.to_parquet(path)
    return path


def test_tables_hold_what_npz_holds(file, tmp_path):
    truth = open_units([npz(tmp_path / "a.npz")])
    units = open_units([file], LAYOUT)
    assert list(units.unit_ids) == list(truth.unit_ids) == [f"u{number}" for number in range(30)]
    for name in MODALITIES:
        np.testing.assert_allclose(getattr(units, name), getattr(truth, name), rtol=1e-5, atol=1e-6)
    assert units.present.all()
    assert list(units.column("cell_type")[:3]) == ["PV", "SST", "PV"]
    assert units.column("file")[0] == file.name


def nwb(path, *, channels=None, units=True, spoil=lambda times: times):
    content = NWBFile("made", "id7", datetime(2026, 1, 1, tzinfo=UTC), session_id="day1")
    content.subject = Subject(subject_id="mouse3", species="Mus musculus")
    if units:
        for name in ("presence_ratio", "isi_violations", "amplitude_cutoff"):
            content.add_unit_column(name, "quality")
        shapes = made()["waveform"]
        for number, times in enumerate(trains()):
            shape = shapes[number]
            if channels == "cube":
                shape = np.stack([0.3 * shape, shape, np.zeros_like(shape)], axis=1)
            if channels == "first":
                shape = np.outer(np.exp(-np.abs(np.arange(32) - 5) / 3), shape)
            content.add_unit(
                spike_times=spoil(times),
                waveform_mean=shape,
                presence_ratio=[0.95, 0.99, 0.5, 0.97][number],
                isi_violations=0.1,
                amplitude_cutoff=[0.01, 0.3, 0.01, 0.01][number],
            )
        content.units.waveform_rate = 30_000.0
    with NWBHDF5IO(str(path), "w") as io:
        io.write(content)
    return path


@pytest.mark.parametrize("channels", [None, "cube"])
def test_nwb_units(tmp_path, channels):
    units = open_units([nwb(tmp_path / "a.nwb", channels=channels)], LAYOUT)
    truth = open_units([npz(tmp_path / "a.npz")])
    assert units.present.all()
    np.testing.assert_allclose(units.waveform, truth.waveform[:4], atol=1e-6)
    assert list(units.column("session_id")) == ["day1"] * 4
    assert list(units.column("subject")) == ["mouse3"] * 4
    assert list(units.column("presence_ratio")) == ["0.95", "0.99", "0.5", "0.97"]


def test_nwb_with_channels_before_samples_is_turned_and_told(tmp_path):
    units = open_units([nwb(tmp_path / "a.nwb", channels="first")], LAYOUT)
    truth = open_units([npz(tmp_path / "a.npz")])
    np.testing.assert_allclose(units.waveform, truth.waveform[:4], atol=1e-6)
    assert any("found channels x samples" in note and "a.nwb" in note for note in units.notes)
    as_said = open_units([tmp_path / "a.nwb"], LAYOUT | {"waveform_axes": "channels, samples"})
    np.testing.assert_array_equal(as_said.waveform, units.waveform)


@pytest.mark.parametrize("per_s", [1e3, 1e6])
def test_nwb_with_times_in_another_unit_is_refused(tmp_path, per_s):
    path = nwb(tmp_path / "a.nwb", spoil=lambda times: per_s * times + 0.5)
    refused([path], "a.nwb", "spike times in seconds", "spike_times_per_s", **LAYOUT)
    np.testing.assert_allclose(
        open_units([path], LAYOUT | {"spike_times_per_s": per_s}).isi, interval_shares(trains()), atol=0.01
    )


def nwb_of_single_spikes(path, units):
    """Write waveforms of units, of their spikes, of the channels of these."""
    content = NWBFile("made", "id8", datetime(2026, 1, 1, tzinfo=UTC))
    for spikes in units:
        content.add_unit(waveforms=[list(channels) for channels in spikes])
    content.units.waveform_rate = 30_000.0
    with NWBHDF5IO(str(path), "w") as io:
        io.write(content)
    return path


def test_nwb_with_waveforms_of_single_spikes_takes_their_mean(tmp_path):
    shape = made()["waveform"][0]
    truth = open_units([npz(tmp_path / "a.npz")]).waveform[0]
    odd = 9 * np.cos(np.arange(len(shape)))  # cancelled by the mean, and larger than it in each spike
    units = [
        [[low * shape + sign * odd, high * shape + sign * odd] for sign in (1, -1)]
        for low, high in ((0.5, 1.0), (0.5, 3.0))
    ]
    path = nwb_of_single_spikes(tmp_path / "a.nwb", units)
    read = open_units([path], {"waveform": "waveforms"})
    np.testing.assert_allclose(read.waveform, [truth, 3 * truth], rtol=1e-4, atol=1e-5)
    assert any("single spikes were averaged" in note for note in read.notes)
    refused([path], "no modality")
    units[1][0] = units[1][0][:1]
    refused([nwb_of_single_spikes(tmp_path / "b.nwb", units)], "all spikes", "1 to 2 channels", waveform="waveforms")
    with h5py.File(path, "r+") as file:
        file["units/waveforms_index_index"][1] = 5
    refused([path], "waveforms", "must ascend and end at 4", waveform="waveforms")


def test_nwb_with_waveforms_of_single_spikes_on_one_channel_takes_their_mean(tmp_path):
    shape = made()["waveform"][0]
    truth = open_units([npz(tmp_path / "a.npz")]).waveform[0]
    spikes = [[[0.5 * shape], [1.5 * shape]], [[2 * shape], [3 * shape], [4 * shape]]]
    path = nwb_of_single_spikes(tmp_path / "a.nwb", spikes)
    with h5py.File(path, "r+") as file:
        attributes = dict(file["units/waveforms_index"].attrs)
        del file["units/waveforms_index_index"], file["units/waveforms_index"]
        file["units/waveforms_index"] = [2, 5]
        file["units/waveforms_index"].attrs.update(attributes)
    read = open_units([path], {"waveform": "waveforms"})
    np.testing.assert_allclose(read.waveform, [truth, 3 * truth], rtol=1e-4, atol=1e-5)


def nwb_of_columns(path, columns, names):
    content = NWBFile("made", "id8", datetime(2026, 1, 1, tzinfo=UTC))
    content.units = Units(
        name="units",
        description="sorted",
        id=ElementIdentifiers(name="id", data=[4, 9]),
        columns=columns,
        colnames=names,
        waveform_rate=30_000.0,
    )
    with NWBHDF5IO(str(path), "w") as io:
        io.write(content)
    return path


def test_nwb_with_channels_in_lists_takes_the_largest(tmp_path):
    shape = made()["waveform"][0]
    rows = VectorData(name="waveform_mean", description="channels", data=np.outer([0.2, 1, 3, 0.5, 2], shape))
    ends = VectorIndex(name="waveform_mean_index", target=rows, data=[2, 5])
    nwb_of_columns(tmp_path / "a.nwb", [rows, ends], ["waveform_mean"])
    units = open_units([tmp_path / "a.nwb"])
    truth = open_units([npz(tmp_path / "a.npz")]).waveform[0]
    assert list(units.unit_ids) == ["4", "9"]
    np.testing.assert_allclose(units.waveform, [truth, 3 * truth], rtol=1e-5)
    assert list(units.column("session_id")) == ["id8", "id8"]
    refused([tmp_path / "a.nwb"], "quality filter", quality="allen")


def test_nwb_with_the_allen_filter(tmp_path):
    units = open_units([nwb(tmp_path / "a.nwb")], LAYOUT | {"quality": "allen"})
    assert list(units.unit_ids) == ["0", "3"]
    assert any(
        "kept 2 of 4" in note
        and "isi_violations < 0.5 dropped 0" in note
        and "amplitude_cutoff < 0.1 dropped 1" in note
        and "presence_ratio > 0.9 dropped 1" in note
        for note in units.notes
    )
    refused([tmp_path / "a.nwb"], "'label'", "presence_ratio, isi_violations", **LAYOUT, quality="ibl")


def test_nwb_without_units_is_refused(tmp_path):
    refused([nwb(tmp_path / "a.nwb", units=False)], "units table", "found none")
    (tmp_path / "b.nwb").write_bytes(b"no hdf5")
    refused([tmp_path / "b.nwb"], "pynwb cannot read")


def test_ibl_filter_and_own_limits(tmp_path):
    n = np.arange(30)
    path = npz(tmp_path / "a.npz", label=(n % 2).astype(float), presence_ratio=n / 30, n_spikes=10 * n, snr=n * 1.0)
    ibl = open_units([path], {"quality": "ibl"})
    assert list(ibl.unit_ids) == [f"u{number}" for number in range(15, 30, 2)]
    words = npz(tmp_path / "b.npz", label=np.array(["good", "mua"] * 15), presence_ratio=n / 30, n_spikes=10 * n)
    assert list(open_units([words], {"quality": "ibl"}).unit_ids) == [f"u{k}" for k in range(16, 30, 2)]
    own = open_units([path], {"quality": {"snr": {"at_least": 25}, "cell_type": {"equals": "PV"}}})
    assert list(own.unit_ids) == ["u26", "u28"]
    gaps = npz(tmp_path / "c.npz", snr=np.where(n == 27, np.nan, n))
    for limit in ({"at_least": 26}, {"above": 25}):
        assert list(open_units([gaps], {"quality": {"snr": limit}}).unit_ids) == ["u26", "u28", "u29"]
    refused([path], "kept 0 of 30", quality={"snr": {"above": 99}})
    refused([path], "expected numbers", "'PV'", quality={"cell_type": {"above": 99}})


def test_units_can_be_kept_and_dropped_by_column(tmp_path):
    path = npz(tmp_path / "a.npz")
    units = open_units([path], {"keep": {"cell_type": ["PV"]}})
    assert len(units) == 15
    assert set(units.column("cell_type")) == {"PV"}
    assert len(open_units([path], {"drop": {"cell_type": ["PV"]}})) == 15
    refused([path], "'PVV'", "did you mean 'PV'", keep={"cell_type": ["PVV"]})
    refused([path], "'cell_typ'", "did you mean 'cell_type'", drop={"cell_typ": ["PV"]})
    refused([path], "no unit is left", drop={"cell_type": ["PV", "SST"]})


def test_files_are_joined_with_distinct_ids_and_all_columns(tmp_path):
    first = npz(tmp_path / "a.npz", depth=np.arange(30))
    second = npz(tmp_path / "b.npz", waveform=None, acg=None, technology="probe")
    units = open_units([first, second])
    assert len(units) == 60
    assert units.unit_ids[0] == "a:u0"
    assert units.unit_ids[30] == "b:u0"
    assert list(units.column("depth")[[0, 29, 30]]) == ["0", "29", ""]
    assert list(units.column("technology")[[0, 30]]) == ["", "probe"]
    assert units.present[30:].tolist() == [[False, True, False]] * 30
    assert any("share unit ids" in note for note in units.notes)
    apart = open_units([second])
    with pytest.raises(UnitsRefused, match="in more than one set"):
        joined([apart, apart])


def test_a_file_given_twice_under_two_names_is_refused(tmp_path):
    first = npz(tmp_path / "a.npz")
    order = np.arange(30)[::-1]
    arrays = {name: value[order] for name, value in made().items() if isinstance(value, np.ndarray)}
    second = npz(tmp_path / "b.npz", **(arrays | {"waveform": 1e-6 * arrays["waveform"]}))
    refused([first, second], "b.npz: 30 of its 30 units are those of", "a.npz", "Give it once")
    arrays["isi"][2:] = np.random.default_rng(3).poisson(9, (28, 100))
    assert any("2 units are the same as others" in note for note in open_units([first, npz(second, **arrays)]).notes)


def test_a_file_without_anything_usable_is_refused(tmp_path):
    path = npz(tmp_path / "a.npz", waveform=np.full((30, 91), np.nan), isi=None, acg=None)
    refused([path], "a.npz: nothing of the 30 units can be used", "waveform: missing in 30 of 30 units")


def test_technology_is_a_column_or_one_word(tmp_path):
    path = npz(tmp_path / "a.npz")
    assert set(open_units([path], {"technology": "juxta"}).column("technology")) == {"juxta"}
    assert set(open_units([path], {"technology": "cell_type"}).column("technology")) == {"PV", "SST"}


def test_arrays_under_other_names(tmp_path):
    arrays = made()
    path = npz(tmp_path / "a.npz", waveform=None, unit_id=None, mean_wave=arrays["waveform"], who=arrays["unit_id"])
    units = open_units([path], {"waveform": "mean_wave", "unit_id": "who"})
    np.testing.assert_array_equal(units.waveform, open_units([npz(tmp_path / "b.npz")]).waveform)
    refused([path], "'mean_wav'", "did you mean 'mean_wave'", waveform="mean_wav")
    refused([path], "'whom'", "did you mean 'who'", unit_id="whom")


def test_rows_can_be_taken(tmp_path):
    units = open_units([npz(tmp_path / "a.npz")])
    part = units.take([5, 2])
    assert list(part.unit_ids) == list(part.obs.index) == ["u5", "u2"]
    np.testing.assert_array_equal(part.hand, units.hand[[5, 2]])
    mask = units.column("cell_type") == "SST"
    assert list(units.take(mask).unit_ids[:2]) == ["u1", "u3"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"waveform": None, "isi": None, "acg": None}, ["no modality", "cell_type"]),
        ({"unit_id": np.array(["same"] * 2 + [f"u{k}" for k in range(28)])}, ["1 repeated", "same"]),
        ({"unit_id": np.array([""] + [f"u{k}" for k in range(29)])}, ["1 unit has no id"]),
        ({"waveform": made()["waveform"][:20]}, ["different numbers of rows", "waveform 20", "isi 30"]),
        ({"waveform": made()["waveform"].T}, ["different numbers of rows", "np.moveaxis(waveform, -1, 0)"]),
        ({"spikes": np.arange(500.0)}, ["different numbers of rows", "spikes 500", "spike_times_index"]),
        ({"notes": np.array([{"a": 1}] * 30, dtype=object)}, ["'notes'", "pickle", "plain numbers"]),
        ({"psth": np.zeros((30, 91, 4))}, ["psth has 3 dimensions"]),
        (
            {name: made()[name][:0] for name in ("waveform", "isi", "acg", "unit_id", "cell_type")},
            ["no unit"],
        ),
        ({"isi": made()["isi"].astype(str)}, ["expected numbers in isi"]),
    ],
)
def test_bad_npz_is_refused(tmp_path, changes, words):
    refused([npz(tmp_path / "a.npz", **changes)], "a.npz", *words)


def test_the_largest_channel_of_waveforms_in_an_npz_is_taken(tmp_path):
    one = made()["waveform"]
    channels = npz(tmp_path / "a.npz", waveform=one[:, :, None] * [0.1, 0.5, 1.0, 0.2])
    np.testing.assert_array_equal(open_units(channels).waveform, open_units(npz(tmp_path / "b.npz")).waveform)


def test_what_is_no_file_of_units_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Expected files of units, or Units in memory, found DataFrame"):
        as_units(pd.DataFrame({"a": [1]}))
    refused([], "No file of units")
    refused([tmp_path / "none.npz"], "no such file")
    (tmp_path / "empty.npz").touch()
    refused([tmp_path / "empty.npz"], "the file is empty")
    for ending in ("npz", "parquet"):
        (tmp_path / f"x.{ending}").write_bytes(b"something else")
        refused([tmp_path / f"x.{ending}"], "cannot be read")
    np.save(tmp_path / "one.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    refused([tmp_path / "one.npz"], "expected an npz file")
    (tmp_path / "a.mat").write_bytes(b"MATLAB")
    refused([tmp_path / "a.mat"], ".npz, .parquet, .nwb, .cellinfo.mat, or of text .csv, .tsv or .txt", "'.mat'")
    path = npz(tmp_path / "a.npz")
    refused([path, path], "given twice")


def test_bad_tables_are_refused(tmp_path):
    rows = table(numbered=True)
    rows.to_csv(tmp_path / "index.csv")
    refused([tmp_path / "index.csv"], "none for column 0", "row numbers", **LAYOUT)
    rows.drop(columns="isi_7").to_csv(tmp_path / "gap.csv", index=False)
    refused([tmp_path / "gap.csv"], "without a gap", **LAYOUT)
    rows.drop(columns=["isi_0", "isi_1"]).to_csv(tmp_path / "late.csv", index=False)
    refused([tmp_path / "late.csv"], "from isi_2 to isi_99", **LAYOUT)
    rows.assign(isi_3="many").to_csv(tmp_path / "text.csv", index=False)
    refused([tmp_path / "text.csv"], "expected numbers in isi", **LAYOUT)
    rows.iloc[:0].to_csv(tmp_path / "header.csv", index=False)
    refused([tmp_path / "header.csv"], "no unit", **LAYOUT)
    (tmp_path / "twice.csv").write_text("unit_id,isi_0,isi_0\na,1,2\n")
    refused([tmp_path / "twice.csv"], "several columns are called isi_0")
    (tmp_path / "blank.csv").write_text("\n\n")
    refused([tmp_path / "blank.csv"], "it is empty")
    (tmp_path / "long.csv").write_text("unit_id,isi_0,isi_1\na,1,2\nb,1,2,3,4\n")
    refused([tmp_path / "long.csv"], "below 3 names there are lines of 5 values")
    lists = table(numbered=False)
    lists.at[4, "waveform"] = lists.at[4, "waveform"][:40]
    lists.to_parquet(tmp_path / "unlike.parquet")
    refused([tmp_path / "unlike.parquet"], "waveform of one length", "from 40 to 91", **LAYOUT)
    lists = table(numbered=False).assign(waveform_rate_hz=[30_000.0] * 10 + [20_000.0] * 20)
    lists.to_parquet(tmp_path / "rates.parquet")
    refused([tmp_path / "rates.parquet"], "one waveform_rate_hz for all units", "30000")


@pytest.mark.parametrize(
    ("ending", "mark", "decimal", "encoding"),
    [
        ("tsv.gz", "\t", ".", "utf-8"),
        ("csv", ";", ",", "utf-16"),
        ("CSV", ";", ".", "utf-8"),
        ("txt", ",", ".", "utf-8"),
    ],
)
def test_tables_of_text_are_read_however_they_are_written(tmp_path, ending, mark, decimal, encoding):
    rows = table(numbered=True).assign(remark="depth; 1,5 mm, L2/3")
    rows.to_csv(tmp_path / f"a.{ending}", index=False, sep=mark, decimal=decimal, encoding=encoding)
    units = open_units([tmp_path / f"a.{ending}"], LAYOUT)
    assert set(units.column("remark")) == {"depth; 1,5 mm, L2/3"}
    truth = open_units([npz(tmp_path / "a.npz")])
    assert list(units.unit_ids) == list(truth.unit_ids)
    np.testing.assert_allclose(units.waveform, truth.waveform, rtol=1e-5, atol=1e-6)


def test_ids_and_labels_keep_their_text(tmp_path):
    rows = table(numbered=True)
    rows["unit_id"] = [f"{number:03}" for number in range(30)]
    rows["depth"] = [np.nan, *range(29)]
    rows.to_csv(tmp_path / "a.csv", index=False)
    units = open_units([tmp_path / "a.csv"], LAYOUT | {"drop": {"depth": [4.0]}})
    assert list(units.unit_ids[:6]) == ["000", "001", "002", "003", "004", "006"]
    assert list(units.column("depth")[:3]) == ["", "0", "1"]


def test_a_null_list_is_a_missing_modality(tmp_path):
    lists = table(numbered=False)
    lists.at[4, "waveform"] = None
    lists.to_parquet(tmp_path / "a.parquet")
    units = open_units([tmp_path / "a.parquet"], LAYOUT)
    assert not units.present[4, 0]
    assert units.present.sum() == 89


def test_ids_kept_as_a_pandas_index_are_found(tmp_path):
    table(numbered=False).set_index("unit_id").to_parquet(tmp_path / "named.parquet")
    assert open_units([tmp_path / "named.parquet"], LAYOUT).unit_ids[3] == "u3"
    table(numbered=False).set_index("unit_id").rename_axis(None).to_parquet(tmp_path / "unnamed.parquet")
    assert open_units([tmp_path / "unnamed.parquet"], LAYOUT).unit_ids[3] == "u3"


def test_wrong_layouts_name_what_was_meant(tmp_path):
    path = npz(tmp_path / "a.npz")
    refused([path], "waveform_rate: unknown key", "did you mean 'waveform_rate_hz'", waveform_rate=3e4)
    refused([path], "waveform_rate_hz", "'fast'", waveform_rate_hz="fast")
    refused([path], "isi_scale", "'log'", isi_scale="log")
    refused([path], "did you mean 'below'", quality={"snr": {"belo": 3}})
    refused([path], "quality", quality="alen")
