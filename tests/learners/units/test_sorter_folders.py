"""Folders of spike sorters hold what an npz file of the same units holds."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import zarr

from neurofleet.learners.units.spike_timing import interval_shares
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.units import UnitsRefused
from tests.learners.units.made_units import made, npz, refused
from tests.learners.units.test_spike_times import trains

RATE_HZ = 30_000
IDS = [2, 5, 9, 12]
PARAMS = "dat_path = r'x.dat'\nsample_rate = 30000.  # Hz\nimport os; os.mkdir('ran')\n"
SAMPLES = [np.rint(RATE_HZ * times).astype(np.int64) for times in trains()]
SHAPES = made()["waveform"][:4]
AMPLITUDES = np.array([0.2, 1.0, -0.1, 0.4, 0.0, 0.3, 0.1, 0.05])


def on_channels(shapes, *, channels_first=False):
    """Return units x samples x 8 channels, channel 1 the largest."""
    values = shapes[:, :, None] * AMPLITUDES
    return values.swapaxes(1, 2) if channels_first else values


def by_time(values):
    """Return one value for each spike of all units, in the order of time."""
    order = np.argsort(np.concatenate(SAMPLES), kind="stable")
    return np.repeat(values, [len(samples) for samples in SAMPLES])[order]


def phy(path, **changes):
    path.mkdir(exist_ok=True)
    arrays = {
        "spike_times": np.sort(np.concatenate(SAMPLES)).astype(np.uint64)[:, None],
        "spike_clusters": by_time(IDS).astype(np.int32),
        "spike_templates": by_time([3, 0, 1, 2]).astype(np.int32),
        "templates": on_channels(SHAPES)[[1, 2, 3, 0]].astype(np.float32),
    }
    for name, array in (arrays | changes).items():
        if array is not None:
            np.save(path / f"{name}.npy", array)
    (path / "params.py").write_text(PARAMS)
    (path / "cluster_group.tsv").write_text("cluster_id\tgroup\n12\tnoise\n2\tgood\n5\tmua\n77\tgood\n")
    (path / "cluster_cell_type.tsv").write_text("cluster_id\tcell_type\n2\tPV\n5\tSST\n9\tPV\n12\tSST\n")
    return path


def check(units, tmp_path, rtol=1e-5, isi_atol=1e-6):
    truth = open_units([npz(tmp_path / "truth.npz")])
    np.testing.assert_allclose(units.waveform, truth.waveform[:4], rtol=rtol, atol=1e-5)
    np.testing.assert_allclose(units.isi, interval_shares([samples / RATE_HZ for samples in SAMPLES]), atol=isi_atol)
    assert units.present.all()


def test_a_phy_folder_is_read_by_cluster_and_its_params_are_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    units = open_units(phy(tmp_path / "phy"))
    check(units, tmp_path)
    assert list(units.unit_ids) == ["2", "5", "9", "12"]
    assert list(units.column("cell_type")) == ["PV", "SST", "PV", "SST"]
    assert list(units.column("group")) == ["good", "mua", "", "noise"]
    assert list(units.column("n_spikes")) == [str(len(samples)) for samples in SAMPLES]
    assert any("1 of 4 clusters are noise" in note for note in units.notes)
    assert any("templates of the sorter, as they are (no whitening_mat_inv.npy)" in note for note in units.notes)
    assert not (tmp_path / "ran").exists()
    within = tmp_path / "session"
    within.mkdir()
    phy(tmp_path / "phy").rename(within / "kilosort4")
    assert list(open_units(within, {"drop": {"group": ["noise"]}}).unit_ids) == ["2", "5", "9"]


def test_templates_are_unwhitened(tmp_path):
    whitening = np.eye(8) + 0.3 * np.random.default_rng(1).standard_normal((8, 8))
    whitened = (on_channels(SHAPES) @ whitening)[[1, 2, 3, 0]].astype(np.float32)
    inverse = np.linalg.inv(whitening)
    folder = phy(tmp_path / "phy", templates=whitened, whitening_mat_inv=inverse)
    units = open_units(folder)
    check(units, tmp_path, rtol=1e-3)
    assert any("templates of the sorter, unwhitened" in note for note in units.notes)
    few = phy(
        tmp_path / "few",
        templates=np.concatenate([whitened, np.zeros((4, 91, 1), np.float32)], axis=2),
        templates_ind=np.array([[*range(8), -1]] * 4),
        whitening_mat_inv=inverse,
    )
    check(open_units(few), tmp_path, rtol=1e-3)


def test_mean_waveforms_go_before_templates(tmp_path):
    table = np.zeros((13, 8, 91))
    table[IDS] = on_channels(SHAPES, channels_first=True)
    folder = phy(tmp_path / "phy", mean_waveforms=table, templates=np.zeros((4, 91, 8)))
    check(open_units(folder), tmp_path)
    check(open_units(phy(folder, mean_waveforms=table[IDS], templates=np.zeros((4, 91, 8)))), tmp_path)
    assert not open_units(folder, {"waveform": "templates"}).present[:, 0].any()


def test_clusters_without_curation_are_the_templates(tmp_path):
    folder = phy(tmp_path / "phy", spike_clusters=None)
    for file in folder.glob("*.tsv"):
        file.unlink()
    units = open_units(folder)
    assert list(units.unit_ids) == ["0", "1", "2", "3"]
    np.testing.assert_allclose(units.isi[3], interval_shares([SAMPLES[0] / RATE_HZ])[0], atol=1e-6)


def test_what_does_not_belong_together_is_refused(tmp_path):
    folder = phy(tmp_path / "phy", spike_clusters=by_time(IDS)[:-1])
    refused(folder, "phy: expected one cluster for each spike", "1500 spikes", "1499 clusters")
    refused(phy(folder, spike_clusters=by_time(IDS) + 0.5), "samples and cluster numbers", "spike_times_per_s: 1")
    refused(phy(folder, templates=np.zeros((3, 91, 8))), "waveform for each of 4 clusters", "found 3")
    (phy(folder) / "cluster_group.tsv").write_text("cluster_id\tgroup\n3\tgood\n4\tmua\n")
    refused(folder, "cluster_group.tsv", "clusters of the spikes (2, 5, 9 ...), found others (3, 4 ...)")
    (phy(folder) / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n2\tmua\n")
    refused(folder, "each cluster once, found 2 twice")
    (phy(folder) / "cluster_group.tsv").write_text("group\tn\ngood\t2\n")
    refused(folder, "expected a column cluster_id, found group, n")
    np.save(phy(folder) / "spike_times.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(folder, "spike_times.npy", "pickle")
    (folder / "spike_times.npy").unlink()
    refused(folder, "expected a Kilosort or phy folder", "found none of these")


def test_the_rate_of_a_folder_without_params_is_that_of_the_layout(tmp_path):
    folder = phy(tmp_path / "phy")
    (folder / "params.py").unlink()
    refused(folder, "found no params.py", "waveform_rate_hz: 30000")
    check(open_units(folder, {"waveform_rate_hz": RATE_HZ}), tmp_path)
    (folder / "params.py").write_text("sample_rate = float(open('rate').read())")
    refused(folder, "no number there")
    seconds = phy(tmp_path / "seconds", spike_times=np.sort(np.concatenate(trains())))
    check(open_units(seconds, {"spike_times_per_s": 1}), tmp_path, isi_atol=0.01)


def alf(path, **changes):
    """Write a probe as the International Brain Laboratory does: row N of clusters is cluster N."""
    path.mkdir(parents=True, exist_ok=True)
    samples, waveforms = np.sort(np.concatenate(SAMPLES)), np.zeros((13, 91, 8), dtype=np.float32)
    waveforms[IDS] = on_channels(SHAPES)
    depths = np.full(13, np.nan)
    depths[IDS] = [20.0, 50.0, 90.0, 120.0]
    arrays = {
        "spikes.times": samples / RATE_HZ + 5,
        "spikes.clusters.0f1c": by_time(IDS).astype(np.int32)[:, None],
        "spikes.samples": samples,
        "clusters.waveforms": waveforms,
        "clusters.depths": depths[:, None],
    }
    for name, array in (arrays | changes).items():
        np.save(path / f"{name}.npy", array)
    metrics = pd.DataFrame({"cluster_id": [12, 2, 5], "label": [1.0, 1.0, 0.5], "presence_ratio": [0.9, 0.8, 0.7]})
    metrics.to_parquet(path / "clusters.metrics.pqt", index=False)
    (path / "clusters.cell_type.csv").write_text("cell_type\n" + "\n".join(["none"] * 2 + ["PV"] * 11) + "\n")
    return path


def test_alf(tmp_path):
    folder = alf(tmp_path / "alf" / "probe00")
    units = open_units(tmp_path)
    check(units, tmp_path, isi_atol=0.01)
    assert list(units.unit_ids) == ["2", "5", "9", "12"]
    assert units.column("depths").tolist() == ["20", "50", "90", "120"]
    assert units.column("label").tolist() == ["1", "0.5", "", "1"]
    assert units.column("cell_type").tolist() == ["PV"] * 4
    assert units.column("n_spikes").tolist() == [str(len(samples)) for samples in SAMPLES]
    assert len(open_units(folder, {"quality": "ibl"})) == 2
    in_samples = alf(folder, **{"spikes.times": np.sort(np.concatenate(SAMPLES))})
    refused(in_samples, "spike_times_per_s")
    (folder / "spikes.samples.npy").unlink()
    layout = {"spike_times_per_s": RATE_HZ, "waveform_rate_hz": RATE_HZ}
    check(open_units(folder, layout), tmp_path)
    refused(folder, "sampling rate of the waveforms is unknown", spike_times_per_s=RATE_HZ)
    refused(alf(folder, **{"clusters.depths": np.zeros(9)}), "clusters.depths.npy: expected a row for each", "found 9")
    refused(alf(folder, **{"spikes.clusters.0f1c": by_time(IDS)[1:]}), "one cluster for each spike", "1499")
    refused(alf(folder, **{"spikes.clusters.b": by_time(IDS)}), "one spikes.clusters", "spikes.clusters.b.npy")


def analyzer(path, *, segments=1):
    """Write a SortingAnalyzer as a folder of files."""
    (path / "sorting" / "properties").mkdir(parents=True)
    for name in ("templates", "quality_metrics"):
        (path / "extensions" / name).mkdir(parents=True)
    (path / "spikeinterface_info.json").write_text('{"object": "SortingAnalyzer"}')
    info = {"sampling_frequency": RATE_HZ, "unit_ids": ["a", "b", "c", "d"], "num_segments": segments}
    (path / "sorting" / "numpysorting_info.json").write_text(json.dumps(info))
    spikes = np.zeros(1500, [("sample_index", "<i8"), ("unit_index", "<i8"), ("segment_index", "<i8")])
    spikes["sample_index"], spikes["unit_index"] = np.sort(np.concatenate(SAMPLES)), by_time(range(4))
    if segments == 2:
        late = spikes["sample_index"] > 90_000
        spikes["sample_index"][late] -= 90_000
        spikes["segment_index"][late] = 1
    np.save(path / "sorting" / "spikes.npy", spikes)
    np.save(path / "sorting" / "properties" / "cell_type.npy", np.array(["PV", "SST", "PV", "SST"]))
    np.save(path / "extensions" / "templates" / "average.npy", on_channels(SHAPES))
    metrics = path / "extensions" / "quality_metrics" / "metrics.csv"
    metrics.write_text(",snr,presence_ratio\nd,4,0.9\na,1,0.9\nb,2,0.1\nc,3,0.9\n")
    return path


def test_an_analyzer_is_read_with_metrics_by_unit_id(tmp_path):
    units = open_units(analyzer(tmp_path / "analyzer"))
    check(units, tmp_path)
    assert list(units.unit_ids) == ["a", "b", "c", "d"]
    assert list(units.column("cell_type")) == ["PV", "SST", "PV", "SST"]
    assert list(units.column("snr")) == ["1", "2", "3", "4"]
    metrics = tmp_path / "analyzer" / "extensions" / "quality_metrics" / "metrics.csv"
    metrics.write_text(",snr\nq,4\n")
    refused(tmp_path / "analyzer", "quality metrics of the units of its sorting")
    metrics.unlink()
    (tmp_path / "analyzer" / "extensions" / "templates" / "average.npy").unlink()
    units = open_units(tmp_path / "analyzer")
    assert units.present.sum(axis=0).tolist() == [0, 4, 4]
    assert any("no average templates are there" in note for note in units.notes)


@pytest.mark.parametrize(("number", "refused"), [(-3, True), (2**40, False)])
def test_a_damaged_segment_number_neither_hangs_nor_is_taken_for_the_last(tmp_path, number, refused):
    path = analyzer(tmp_path / "analyzer")
    file = next(path.rglob("spikes.npy"))
    spikes = np.load(file)
    spikes["segment_index"][5] = number
    np.save(file, spikes)
    if refused:
        with pytest.raises(UnitsRefused, match="segments counted from 0, found -3"):
            open_units(path)
    else:
        assert any("2 segments are joined" in note for note in open_units(path).notes)


def test_segments_are_joined_with_a_pause(tmp_path):
    units = open_units(analyzer(tmp_path / "analyzer", segments=2))
    assert units.present.all()
    parts = [[samples[(samples > 90_000) == late] / RATE_HZ for late in (False, True)] for samples in SAMPLES]
    joined = [np.concatenate([first, second + 100]) for first, second in parts]
    # Intervals of whole ms are on the edge of two bins, so that rounding decides.
    np.testing.assert_allclose(units.isi, interval_shares(joined), atol=0.01)
    assert any("2 segments are joined" in note for note in units.notes)


def test_an_analyzer_in_zarr_is_the_same(tmp_path):
    folder = analyzer(tmp_path / "analyzer")
    spikes = np.load(folder / "sorting" / "spikes.npy")
    root = zarr.open_group(str(tmp_path / "analyzer.zarr"), mode="w", zarr_format=2)
    sorting = root.create_group("sorting")
    sorting.attrs["sampling_frequency"] = RATE_HZ
    arrays = {
        "sorting/unit_ids": np.array(["a", "b", "c", "d"]),
        "sorting/spikes/sample_index": spikes["sample_index"],
        "sorting/spikes/unit_index": spikes["unit_index"],
        "sorting/spikes/segment_slices": np.array([[0, 1500]]),
        "sorting/properties/cell_type": np.array(["PV", "SST", "PV", "SST"]),
        "extensions/templates/average": on_channels(SHAPES),
        "extensions/quality_metrics/metrics/index": np.array(["d", "a", "b", "c"]),
        "extensions/quality_metrics/metrics/snr": np.array([4.0, 1.0, 2.0, 3.0]),
    }
    for name, values in arrays.items():
        root.create_array(name, data=values)
    units = open_units(tmp_path / "analyzer.zarr")
    check(units, tmp_path)
    assert list(units.column("cell_type")) == ["PV", "SST", "PV", "SST"]
    assert list(units.column("snr")) == ["1", "2", "3", "4"]
    description = tmp_path / "analyzer.zarr" / "sorting" / "unit_ids" / ".zarray"
    stored = json.loads(description.read_text())
    description.write_text(json.dumps(stored | {"filters": [{"id": "pickle", "protocol": 5}]}))
    refused(tmp_path / "analyzer.zarr", "analyzer.zarr: expected a SortingAnalyzer")


def cells(values):
    """Return a cell array, 1 x n."""
    row = np.empty((1, len(values)), dtype=object)
    row[0, :] = list(values)
    return row


def cell_metrics():
    return {
        "UID": np.array(IDS, dtype=float)[None],
        "putativeCellType": cells(["PV", "SST", "PV", "SST"]),
        "troughToPeak": np.array([[0.3, 0.5, 0.4, 0.6]]),
        "waveforms": {
            "filt": cells([shape[None] for shape in SHAPES]),
            "time": cells([np.arange(91)[None] / 30 - 1.2] * 4),
        },
        "acg": {"narrow": np.random.default_rng(3).poisson(30, (201, 4)).astype(float)},
        "spikes": {"times": cells([samples[:, None] / RATE_HZ for samples in SAMPLES])},
    }


def matlab_7_3(path, content):
    """Write structs as MATLAB 7.3 does: groups, arrays turned, cells as references."""

    def write(group, name, value):
        if isinstance(value, dict):
            inner = group.create_group(name)
            for key, item in value.items():
                write(inner, key, item)
        elif isinstance(value, str):
            group[name] = np.array([[ord(letter)] for letter in value], dtype=np.uint16)
            group[name].attrs["MATLAB_class"] = np.bytes_("char")
        elif value.dtype == object:
            hidden = file.require_group("#refs#")
            places = []
            for item in value.ravel():
                write(hidden, str(len(hidden)), item)
                places.append(hidden[str(len(hidden) - 1)].ref)
            group.create_dataset(name, data=np.array(places, dtype=h5py.ref_dtype)[:, None], dtype=h5py.ref_dtype)
        else:
            group[name] = value.T

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            write(file, name, value)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_cell_metrics_of_cellexplorer_are_read(tmp_path, version):
    path = tmp_path / "session1.cell_metrics.cellinfo.mat"
    metrics = cell_metrics()
    save = scipy.io.savemat if version == "5" else matlab_7_3
    save(path, {"cell_metrics": metrics})
    for place in (path, tmp_path):
        units = open_units(place)
        check(units, tmp_path)
        assert list(units.unit_ids) == ["2", "5", "9", "12"]
        assert list(units.column("putativeCellType")) == ["PV", "SST", "PV", "SST"]
        assert list(units.column("troughToPeak")) == ["0.3", "0.5", "0.4", "0.6"]
    spikes = metrics.pop("spikes") | {"UID": metrics["UID"][:, ::-1], "sessionName": "session1"}
    spikes["times"] = spikes["times"][:, ::-1]
    save(path, {"cell_metrics": metrics})
    units = open_units(path)
    truth = open_units([npz(tmp_path / "truth.npz", acg=np.tile(metrics["acg"]["narrow"].T, (8, 1))[:30])])
    assert units.present.sum(axis=0).tolist() == [4, 0, 4]
    assert np.corrcoef(units.acg[0, 40:60], np.repeat(truth.acg[0, 45:55], 2))[0, 1] < 1
    beside = tmp_path / "session1.spikes.cellinfo.mat"
    save(beside, {"spikes": spikes})
    units = open_units(path)
    check(units, tmp_path)
    assert any("spike times are those of session1.spikes.cellinfo.mat" in note for note in units.notes)
    assert open_units(beside).present.sum(axis=0).tolist() == [0, 4, 4]
    save(beside, {"spikes": spikes | {"UID": np.array([[1.0, 2.0, 3.0, 4.0]])}})
    refused(path, "session1.spikes.cellinfo.mat", "found none of 3, such as 5")


def test_damaged_files_of_cellexplorer_are_refused(tmp_path):
    path = tmp_path / "a.cell_metrics.cellinfo.mat"
    path.write_bytes(b"MATLAB" * 50)
    refused(path, "a.cell_metrics.cellinfo.mat: expected a MATLAB file")
    scipy.io.savemat(path, {"other": 1})
    refused(path, "expected cell_metrics or spikes of CellExplorer")
    metrics = cell_metrics()
    metrics["waveforms"]["filt"] = metrics["waveforms"]["filt"][:, :3]
    scipy.io.savemat(path, {"cell_metrics": metrics})
    refused(path, "waveforms.filt of 4 units (UID), found 3")
