"""Read units from what spike sorters leave: folders of Kilosort, phy, ALF and SpikeInterface, files of CellExplorer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
from scipy.io.matlab import MatReadError

from neurofleet.learners.array_files import DAMAGED, UnreadableArray, as_text, h5_values, npy_array
from neurofleet.learners.text_dialect import text_dialect
from neurofleet.learners.units.unit_layout import UnitLayout
from neurofleet.learners.units.units import UnitsFile, UnitsRefused
from neurofleet.learners.units.waveforms import largest_channels

SORTED = "spike_times.npy"
ALF_SORTED = "spikes.times*.npy"
ANALYZER = "spikeinterface_info.json"
CELL_METRICS = ".cell_metrics.cellinfo.mat"
CELLEXPLORER = ".cellinfo.mat"
FOLDERS = (
    f"a Kilosort or phy folder ({SORTED}), an ALF folder ({ALF_SORTED}), a SortingAnalyzer of SpikeInterface"
    f" ({ANALYZER}, or zarr) or a CellExplorer session (*{CELL_METRICS})"
)


_DAMAGED = (*DAMAGED, MatReadError)


def read_sorter_folder(path: Path, layout: UnitLayout) -> UnitsFile:
    """Read a folder by what is in it, or in its only subfolder of such a kind.

    Raises
    ------
    UnitsRefused
        If it is no such folder, or its files cannot be used.
    """
    for folder in (path, path / "sorter_output", path / "phy"):
        if (folder / SORTED).is_file():
            return _read_phy(folder, layout)
    if any(path.glob(ALF_SORTED)):
        return _read_alf(path, layout)
    if _is_analyzer(path):
        return _read_analyzer(path, layout)
    metrics = sorted(path.glob(f"*{CELL_METRICS}"))
    if len(metrics) == 1:
        return read_cellinfo(metrics[0])
    names = [f"{depth}/{name}" for name in (SORTED, ALF_SORTED) for depth in ("*", "*/*")]
    below = list(dict.fromkeys(file.parent for name in (*names, f"*/{ANALYZER}") for file in sorted(path.glob(name))))
    if len(below) == 1:
        return read_sorter_folder(below[0], layout)
    there = ", ".join(str(folder.relative_to(path)) for folder in below[:10])
    found = (
        f"several: {there}. Give one of them" if below else "none of these. Give another folder, or npz, NWB or Parquet"
    )
    raise UnitsRefused(f"{path}: expected {FOLDERS}; found {found}.")


def _array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UnitsRefused(f"{path}: there is no such file, which the folder needs. Copy the folder again, as a whole.")
    try:
        return npy_array(path)
    except (OSError, UnreadableArray) as error:
        raise UnitsRefused(f"{path}: expected an array, found a file that cannot be read: {error}.") from None


def _read_phy(path: Path, layout: UnitLayout) -> UnitsFile:
    """Read the output of Kilosort, as it is or curated in phy: spikes in samples, templates, tables of clusters."""
    samples = _array(path / SORTED).ravel()
    curated = path / "spike_clusters.npy"
    clusters = _array(curated if curated.is_file() else path / "spike_templates.npy").ravel()
    if len(samples) != len(clusters) or samples.dtype.kind not in "fiu" or clusters.dtype.kind not in "fiu":
        raise UnitsRefused(
            f"{path}: expected one cluster for each spike, found {len(samples)} spikes ({samples.dtype}) and"
            f" {len(clusters)} clusters ({clusters.dtype}). The files are of two sortings; copy the folder again."
        )
    rate_hz, notes = _sampling_rate(path, layout), []
    whole = bool((clusters == np.rint(clusters)).all()) and bool((samples == np.rint(samples)).all())
    if not whole and layout.spike_times_per_s is None:
        raise UnitsRefused(
            f"{path / SORTED}: expected samples and cluster numbers, found numbers that are not whole. If the times are"
            " in seconds, say spike_times_per_s: 1 in the layout."
        )
    times_s = samples.astype(np.float64) / (layout.spike_times_per_s or rate_hz)
    ids, spike_times = _by_cluster(times_s, clusters)
    file = UnitsFile(path, {}, _cluster_tables(path, ids, notes), {"waveform_rate_hz": rate_hz}, spike_times, notes)
    if "n_spikes" not in file.columns:
        file.columns["n_spikes"] = [len(times) for times in spike_times]
    if "waveform" not in layout.without:
        _add_waveforms(path, ids, clusters, layout, file)
    return file


def _by_cluster(times_s: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the clusters that have spikes, ascending, and the times of each."""
    ids, unit = np.unique(clusters.astype(np.int64), return_inverse=True)
    ordered = times_s[np.argsort(unit, kind="stable")]
    return ids, np.split(ordered, np.cumsum(np.bincount(unit, minlength=len(ids)))[:-1]) if len(ids) else []


def _sampling_rate(path: Path, layout: UnitLayout) -> float:
    """Return the rate that params.py states, which is read as text and never run, else that of the layout."""
    params = path / "params.py"
    stated = None
    if params.is_file() and params.stat().st_size < 1 << 20:
        stated = re.search(
            r"^\s*sample_rate\s*=\s*([-+0-9._eE]+)\s*(?:#.*)?$", params.read_text("utf-8", "replace"), re.M
        )
    try:
        rate_hz = float(stated[1]) if stated else layout.waveform_rate_hz or layout.spike_times_per_s
    except ValueError:
        rate_hz = layout.waveform_rate_hz or layout.spike_times_per_s
    if not rate_hz or not 0 < rate_hz < 1e9:
        raise UnitsRefused(
            f"{path}: expected the sampling rate as `sample_rate = 30000` in params.py, found"
            f" {'no number there' if params.is_file() else 'no params.py'}. Give it in the layout, such as"
            " {waveform_rate_hz: 30000}: spike times are samples."
        )
    return rate_hz


def _cluster_tables(path: Path, ids: np.ndarray, notes: list[str]) -> pd.DataFrame:
    """Return a row for each cluster that has spikes: the columns of phy's cluster_*.tsv, joined by cluster id."""
    files = sorted(path.glob("cluster_*.tsv"), key=lambda file: (file.stem != "cluster_info", file.name))
    columns = pd.DataFrame(index=pd.Index(as_text(ids)))
    for file in files:
        try:
            table = pd.read_csv(file, sep="\t", encoding="utf-8-sig")
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise UnitsRefused(
                f"{file}: expected a table with tabs, found one that cannot be read ({error})."
            ) from None
        key = next((name for name in ("cluster_id", "id") if name in table), None)
        if key is None:
            raise UnitsRefused(f"{file}: expected a column cluster_id, found {', '.join(map(str, table.columns))}.")
        table = _of_clusters(file, table, key, columns.index)
        columns = columns.join(table[[name for name in table if name not in columns]])
    if "group" in columns and (n_noise := int((as_text(columns["group"]) == "noise").sum())):
        notes.append(
            f"{path.name}: {n_noise} of {len(columns)} clusters are noise by their group; to leave them out, say drop:"
            " {group: [noise]} in the layout."
        )
    columns.insert(0, "unit_id", columns.index.to_numpy())
    return columns.reset_index(drop=True)


def _of_clusters(file: Path, table: pd.DataFrame, key: str, clusters: pd.Index) -> pd.DataFrame:
    """Return the rows of the clusters, in their order, by the column of cluster ids."""
    names = as_text(table.pop(key))
    twice = pd.Index(names).duplicated()
    if twice.any():
        raise UnitsRefused(f"{file}: expected each cluster once, found {names[twice][0]} twice.")
    if len(clusters) and not clusters.isin(names).any():
        raise UnitsRefused(
            f"{file}: expected the clusters of the spikes ({', '.join(clusters[:3])} ...), found others"
            f" ({', '.join(names[:3])} ...). The table is of another sorting."
        )
    return table.set_axis(pd.Index(names), axis=0).reindex(clusters)


def _add_waveforms(path: Path, ids: np.ndarray, clusters: np.ndarray, layout: UnitLayout, file: UnitsFile) -> None:
    """Add the mean waveforms, else the templates of the folder, on the channel of largest amplitude."""
    names = [layout.waveform] if layout.waveform else ["mean_waveforms", "templates"]
    name = next((name for name in names if name and (path / f"{name}.npy").is_file()), None)
    if name is None:
        return
    values = _array(path / f"{name}.npy")
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise UnitsRefused(
            f"{path / name}.npy: expected waveforms of clusters x samples x channels, found {values.dtype} of shape"
            f" {values.shape}. Name another array in the layout (waveform), or go without (without: [waveform])."
        )
    rows = ids
    if name == "templates":
        rows = _template_of_cluster(path, ids, clusters)
    elif len(values) == len(ids):
        rows = np.arange(len(ids))
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(values):
        raise UnitsRefused(
            f"{path / name}.npy: expected a waveform for each of {len(ids)} clusters (up to number {ids.max()}), found"
            f" {len(values)}. The file is of another sorting; copy the folder again, or go without (without:"
            " [waveform])."
        )
    chosen = values[rows].astype(np.float64)
    usual = "samples, channels" if name == "templates" else "channels, samples"
    if name == "templates":
        chosen, note = _unwhitened(path, chosen, rows)
        file.notes.append(f"{path.name}: waveforms are the templates of the sorter{note}.")
    largest, notes = largest_channels(chosen, layout.waveform_axes, None, usual, f"{path.name}, {name}")
    file.matrices[layout.waveform or "waveform"] = largest
    file.notes += notes


def _template_of_cluster(path: Path, ids: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Return the template by which most spikes of each cluster were found; merged clusters have new numbers."""
    if not (path / "spike_templates.npy").is_file():
        return ids
    templates = _array(path / "spike_templates.npy").ravel()
    if len(templates) != len(clusters):
        raise UnitsRefused(
            f"{path}: expected one template for each of {len(clusters)} spikes, found {len(templates)}. The files are"
            " of two sortings; copy the folder again."
        )
    counts = pd.DataFrame({"cluster": clusters, "template": templates}).value_counts(sort=False).reset_index()
    best = counts.sort_values(["cluster", "count"]).drop_duplicates("cluster", keep="last")
    return best["template"].to_numpy().astype(np.int64)


def _unwhitened(path: Path, templates: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, str]:
    """Return templates (n, samples, channels) before whitening, where the folder has the inverse, and a remark."""
    inverse_file, place_file = path / "whitening_mat_inv.npy", path / "templates_ind.npy"
    if not inverse_file.is_file():
        return templates, ", as they are (no whitening_mat_inv.npy)"
    inverse = _array(inverse_file).astype(np.float64)
    n_channels = templates.shape[2]
    if inverse.shape == (n_channels, n_channels):
        return templates @ inverse, ", unwhitened"
    places = _array(place_file)[rows] if place_file.is_file() else np.zeros((0, 0))
    if inverse.ndim != 2 or places.shape != (len(rows), n_channels) or places.max(initial=0) > len(inverse):
        return templates, ", as they are (whitening_mat_inv.npy has other channels)"
    padded = np.pad(inverse, (0, 1))  # a channel that is none has number -1 or one past the last
    places = np.where(places < 0, len(inverse), places).astype(int)
    return templates @ padded[places[:, :, None], places[:, None, :]], ", unwhitened"


# --- ALF, of the International Brain Laboratory and others


def _read_alf(path: Path, layout: UnitLayout) -> UnitsFile:
    """Read spikes.* and clusters.* of a probe; row N of what is stored of clusters is cluster N."""
    times, clusters = (_alf_array(path, "spikes", name) for name in ("times", "clusters"))
    if times is None or clusters is None or len(times) != len(clusters) or clusters.dtype.kind not in "fiu":
        found = ["none" if part is None else f"{len(part)} ({part.dtype})" for part in (times, clusters)]
        raise UnitsRefused(
            f"{path}: expected one cluster for each spike, found spikes.times of {found[0]} and spikes.clusters of"
            f" {found[1]}. Copy the folder again, as a whole."
        )
    if times.dtype.kind not in "fiu":
        raise UnitsRefused(f"{path}: expected numbers in spikes.times, found {times.dtype}.")
    times_s = times.astype(np.float64) / (layout.spike_times_per_s or 1)
    if len(clusters) and (clusters != np.rint(clusters)).any():
        raise UnitsRefused(f"{path}: expected numbers of clusters in spikes.clusters, found such that are not whole.")
    ids, spike_times = _by_cluster(times_s, clusters)
    file = UnitsFile(path, {}, pd.DataFrame({"unit_id": as_text(ids)}), {}, spike_times)
    samples = _alf_array(path, "spikes", "samples")
    if samples is not None and len(samples) == len(times_s) > 1 and times_s[-1] > times_s[0]:
        file.single["waveform_rate_hz"] = float((samples[-1] - float(samples[0])) / (times_s[-1] - times_s[0]))
    columns: dict[str, Any] = {}
    for stored in sorted(path.glob("clusters.*")):
        if stored.name.endswith((".npy", ".csv", ".tsv", ".pqt", ".parquet")):
            columns |= _alf_clusters(stored, ids, layout, file)
    columns.setdefault("n_spikes", [len(train) for train in spike_times])
    columns.pop("unit_id", None)
    file.columns = file.columns.join(pd.DataFrame(columns, index=file.columns.index))
    return file


def _alf_array(path: Path, kind: str, name: str) -> np.ndarray | None:
    """Return `kind.name.npy`, whose name may hold more parts before the ending."""
    files = sorted(path.glob(f"{kind}.{name}.npy")) or sorted(path.glob(f"{kind}.{name}.*.npy"))
    if len(files) > 1:
        raise UnitsRefused(f"{path}: expected one {kind}.{name}, found {', '.join(file.name for file in files)}.")
    return _array(files[0]).ravel() if files else None


def _alf_clusters(stored: Path, ids: np.ndarray, layout: UnitLayout, file: UnitsFile) -> dict[str, Any]:
    """Return columns of one file of clusters, for those in `ids`; waveforms go to the file's matrices."""
    name = stored.name.split(".")[1]
    if stored.suffix != ".npy":
        table = _alf_table(stored)
        if "cluster_id" in table:
            table = _of_clusters(stored, table, "cluster_id", pd.Index(as_text(ids)))
        else:
            table = table.iloc[_alf_rows(stored, ids, len(table))]
        return {column: table[column].to_numpy() for column in map(str, table) if not column.startswith("__index")}
    try:
        values = npy_array(stored)
    except (OSError, UnreadableArray) as error:
        file.notes.append(f"{file.path.name}: {stored.name} is not used: {error}.")
        return {}
    values = values[_alf_rows(stored, ids, len(values) if values.ndim else 0)]
    if values.ndim == 3 and values.dtype.kind in "fiu":
        wanted = name == layout.waveform or (layout.waveform is None and name in ("waveforms", "templateWaveforms"))
        if wanted and "waveform" not in layout.without and "waveform" not in file.matrices:
            where = f"{file.path.name}, {stored.name}"
            largest, notes = largest_channels(values, layout.waveform_axes, None, "samples, channels", where)
            file.matrices[layout.waveform or "waveform"] = largest
            file.notes += notes
        return {}
    return {name: values.reshape(len(ids))} if values.size == len(ids) else {}


def _alf_table(stored: Path) -> pd.DataFrame:
    try:
        if stored.suffix in (".pqt", ".parquet"):
            return pq.read_table(stored).to_pandas(ignore_metadata=True)
        dialect = text_dialect(stored)
        return pd.read_csv(stored, **dialect.pandas, names=list(dialect.header))
    except (OSError, EOFError, ValueError, pa.ArrowException) as error:
        raise UnitsRefused(f"{stored}: expected a table of clusters, found one that cannot be read: {error}.") from None


def _alf_rows(stored: Path, ids: np.ndarray, length: int) -> np.ndarray:
    if len(ids) and not 0 <= ids[0] <= ids[-1] < length:
        raise UnitsRefused(
            f"{stored}: expected a row for each cluster (numbers {ids[0]} to {ids[-1]} have spikes), found {length}"
            " rows. The file is of another sorting; copy the folder again."
        )
    return ids


# --- SpikeInterface


def _is_analyzer(path: Path) -> bool:
    if (path / ANALYZER).is_file():
        return True
    return any((path / name).is_file() for name in (".zgroup", "zarr.json")) and (path / "sorting").is_dir()


def _read_analyzer(path: Path, layout: UnitLayout) -> UnitsFile:
    """Read a SortingAnalyzer: its sorting, properties of units, quality metrics and average templates."""
    stored: _Stored = _BinaryFolder(path) if (path / ANALYZER).is_file() else _Zarr(path)
    rate_hz, unit_ids, sample, unit, segment = stored.sorting()
    if not (len(sample) == len(unit) == len(segment)) or (
        len(unit) and not 0 <= unit.min() <= unit.max() < len(unit_ids)
    ):
        raise UnitsRefused(f"{path}: expected a unit of {len(unit_ids)} for each spike. The sorting is damaged.")
    if len(segment) and segment.min() < 0:
        raise UnitsRefused(f"{path}: expected segments counted from 0, found {segment.min()}. The sorting is damaged.")
    file = UnitsFile(path, {}, pd.DataFrame({"unit_id": as_text(unit_ids)}), {"waveform_rate_hz": rate_hz})
    order = np.lexsort((sample, segment, unit))
    starts_s = np.zeros(1)
    if len(segment) and segment.max() > 0:
        numbers, segment = np.unique(segment, return_inverse=True)
        last = [sample[segment == number].max() / rate_hz for number in range(len(numbers))]
        starts_s = np.concatenate([[0.0], np.cumsum(np.array(last) + 1.0)])
        file.notes.append(f"{path.name}: its {len(last)} segments are joined with a pause of 1 s or more between them.")
    times_s = sample[order] / rate_hz + starts_s[segment[order]]
    file.spike_times = np.split(times_s, np.cumsum(np.bincount(unit, minlength=len(unit_ids)))[:-1])
    for name, values in stored.properties().items():
        if values.shape == (len(unit_ids),) and name not in file.columns:
            file.columns[name] = values
    metrics = stored.metrics()
    if metrics is not None:
        ids = pd.Index(as_text(metrics.index.to_numpy()))
        if not ids.is_unique or not ids.isin(file.columns["unit_id"]).all():
            raise UnitsRefused(
                f"{path}: expected quality metrics of the units of its sorting, found other ids or the same twice."
                " Compute the metrics again."
            )
        metrics = metrics.set_axis(ids, axis=0).reindex(file.columns["unit_id"]).reset_index(drop=True)
        file.columns = file.columns.join(metrics[[name for name in metrics if name not in file.columns]])
    templates = None if "waveform" in layout.without else stored.templates()
    if templates is None:
        file.notes.append(
            f"{path.name}: no average templates are there, so waveforms are not used. SpikeInterface makes them by"
            ' analyzer.compute(["random_spikes", "templates"]).'
        )
    elif templates.ndim != 3 or len(templates) != len(unit_ids):
        raise UnitsRefused(
            f"{path}: expected templates of {len(unit_ids)} units x samples x channels, found {templates.shape}."
            " Compute the templates again."
        )
    else:
        usual, name = "samples, channels", f"{path.name}, templates"
        largest, notes = largest_channels(templates, layout.waveform_axes or usual, None, usual, name)
        file.matrices[layout.waveform or "waveform"] = largest
        file.notes += notes
    return file


Sorting = tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class _Stored:
    """What an analyzer holds, whatever its format."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sorting(self) -> Sorting:
        """Return the sampling rate, unit ids, and each spike's sample, unit and segment."""
        raise NotImplementedError

    def properties(self) -> Mapping[str, np.ndarray]:
        """Return what the sorting says of its units, in their order."""
        raise NotImplementedError

    def metrics(self) -> pd.DataFrame | None:
        """Return the quality metrics, by unit id."""
        raise NotImplementedError

    def templates(self) -> np.ndarray | None:
        """Return the average templates, (units, samples, channels)."""
        raise NotImplementedError


class _BinaryFolder(_Stored):
    def sorting(self) -> Sorting:
        info_file, spikes = (
            self.path / "sorting" / "numpysorting_info.json",
            _array(self.path / "sorting" / "spikes.npy"),
        )
        try:
            info = json.loads(info_file.read_text("utf-8"))
            rate_hz, unit_ids = float(info["sampling_frequency"]), np.array(info["unit_ids"])
            sample, unit, segment = (spikes[f"{name}_index"] for name in ("sample", "unit", "segment"))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UnitsRefused(
                f"{info_file}: expected a sorting of SpikeInterface, found another file ({error})."
            ) from None
        return rate_hz, unit_ids, sample, unit, segment

    def properties(self) -> Mapping[str, np.ndarray]:
        found = {}
        for file in sorted((self.path / "sorting" / "properties").glob("*.npy")):
            try:
                found[file.stem] = npy_array(file)
            except (OSError, UnreadableArray):  # properties of mixed types are pickles
                continue
        return found

    def metrics(self) -> pd.DataFrame | None:
        file = self.path / "extensions" / "quality_metrics" / "metrics.csv"
        try:
            return pd.read_csv(file, index_col=0) if file.is_file() else None
        except (ValueError, pd.errors.ParserError) as error:
            raise UnitsRefused(f"{file}: expected a table of quality metrics, found another file ({error}).") from None

    def templates(self) -> np.ndarray | None:
        file = self.path / "extensions" / "templates" / "average.npy"
        return _array(file) if file.is_file() else None


class _Zarr(_Stored):
    def _values(self, name: str) -> np.ndarray | None:
        """Return an array; codecs that unpickle are never run."""
        import zarr

        try:
            array = zarr.open_group(str(self.path), mode="r", use_consolidated=False)[name]
            described = json.dumps(array.metadata.to_dict(), default=str).lower()
            if not isinstance(array, zarr.Array) or "pickle" in described:
                return None
            return np.asarray(array[...])
        except KeyError:
            return None
        except _DAMAGED as error:
            if "data type" in str(error):  # a type that zarr does not read, such as objects
                return None
            raise UnitsRefused(f"{self.path / name}: expected an array of zarr, found one that is damaged.") from error

    def sorting(self) -> Sorting:
        import zarr

        try:
            group = zarr.open_group(str(self.path), mode="r", use_consolidated=False)["sorting"]
            rate_hz = float(str(group.attrs["sampling_frequency"]))
            names = ("unit_ids", "spikes/sample_index", "spikes/unit_index", "spikes/segment_slices")
            unit_ids, sample, unit, slices = (self._values(f"sorting/{name}") for name in names)
            if unit_ids is None or sample is None or unit is None or slices is None:
                raise KeyError("an array of the sorting")
            segment = np.repeat(np.arange(len(slices)), np.diff(slices, axis=1).ravel())
        except DAMAGED as error:
            raise UnitsRefused(
                f"{self.path}: expected a SortingAnalyzer of SpikeInterface, found another zarr folder, or one that"
                f" cannot be read ({error!r})."
            ) from None
        return rate_hz, unit_ids, sample, unit, segment

    def properties(self) -> Mapping[str, np.ndarray]:
        return self._arrays("sorting/properties")

    def metrics(self) -> pd.DataFrame | None:
        columns = self._arrays("extensions/quality_metrics/metrics")
        ids = columns.pop("index", None)
        if ids is None:
            return None
        return pd.DataFrame({name: values for name, values in columns.items() if values.shape == ids.shape}, index=ids)

    def _arrays(self, folder: str) -> dict[str, np.ndarray]:
        places = sorted(place.name for place in (self.path / folder).glob("*") if place.is_dir())
        found = {name: self._values(f"{folder}/{name}") for name in places}
        return {name: values for name, values in found.items() if values is not None}

    def templates(self) -> np.ndarray | None:
        return self._values("extensions/templates/average")


# --- CellExplorer


def read_cellinfo(path: Path) -> UnitsFile:
    """Read a file of CellExplorer: *.cell_metrics.cellinfo.mat, or *.spikes.cellinfo.mat.

    Spike times that the metrics do not have are taken from the file of spikes beside them, by UID.

    Raises
    ------
    UnitsRefused
        If the file is no such file, or is damaged.
    """
    content = _matlab(path, ("cell_metrics", "spikes"))
    metrics, spikes = content.get("cell_metrics"), content.get("spikes")
    if isinstance(metrics, Mapping):
        file = _read_cell_metrics(path, metrics)
        beside = path.with_name(path.name.removesuffix(CELL_METRICS) + ".spikes.cellinfo.mat")
        if file.spike_times is None and beside != path and beside.is_file():
            _add_spikes_beside(file, beside)
        return file
    if isinstance(spikes, Mapping):
        return _read_cell_metrics(path, {"spikes": spikes, **_waveforms_of_spikes(spikes)})
    raise UnitsRefused(f"{path}: expected cell_metrics or spikes of CellExplorer, found neither.")


def _waveforms_of_spikes(spikes: Mapping[str, Any]) -> dict[str, Any]:
    name = next((name for name in ("filtWaveform", "rawWaveform") if name in spikes), None)
    waveforms = {} if name is None else {"waveforms": {"filt": spikes[name], "time": spikes.get("timeWaveform")}}
    return waveforms | {key: spikes[key] for key in ("UID", "cluID", "shankID", "sessionName") if key in spikes}


def _read_cell_metrics(path: Path, metrics: Mapping[str, Any]) -> UnitsFile:
    def inside(*names: str) -> Any:
        found: Any = metrics
        for name in names:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found

    uids = np.atleast_1d(np.asarray(metrics["UID"] if "UID" in metrics else np.zeros(0)).squeeze())
    n_units = len(uids)
    if not n_units or uids.dtype.kind not in "fiu":
        raise UnitsRefused(f"{path}: expected the numbers of the units (UID), found none.")
    columns = {}
    for name, value in metrics.items():
        values = np.atleast_1d(np.asarray(value, dtype=object if isinstance(value, list) else None).squeeze())
        if values.shape != (n_units,) or name == "UID":
            continue
        if values.dtype.kind in "fiubU" or all(isinstance(item, str | int | float) for item in values):
            columns[name] = values
    ids = as_text(uids)
    session = columns.get("sessionName")
    if session is not None and len(set(map(str, session))) > 1:
        ids = np.array([f"{name}:{number}" for name, number in zip(session, ids, strict=True)])
    file = UnitsFile(path, {}, pd.DataFrame({"unit_id": ids} | columns))
    times = inside("spikes", "times")
    if times is not None:
        file.spike_times = [np.atleast_1d(train.squeeze()) for train in _per_unit(path, "spikes.times", times, n_units)]
    if (shapes := inside("waveforms", "filt")) is not None:
        rows = [np.atleast_1d(row.squeeze()) for row in _per_unit(path, "waveforms.filt", shapes, n_units)]
        lengths = sorted({len(row) for row in rows if len(row) > 1})
        if len(lengths) > 1 or any(row.ndim > 1 for row in rows):
            raise UnitsRefused(f"{path}: expected waveforms.filt of one length for all units, found {lengths}.")
        width = lengths[0] if lengths else 0
        file.matrices["waveform"] = np.array([row if len(row) == width else np.full(width, np.nan) for row in rows])
        if (rate_hz := _rate_of(inside("waveforms", "time"))) is not None:
            file.single["waveform_rate_hz"] = rate_hz
    for name, place in (
        ("acg_narrow", ("acg", "narrow")),
        ("acg_wide", ("acg", "wide")),
        ("isi_log10", ("isi", "log10")),
    ):
        table = inside(*place)
        if (
            isinstance(table, np.ndarray)
            and table.ndim == 2
            and table.shape[1] == n_units
            and table.dtype.kind in "fiu"
        ):
            file.matrices[name] = table.T.astype(float)
    if file.spike_times is None and "acg_narrow" in file.matrices:
        file.matrices["acg"] = file.matrices.pop("acg_narrow")
        file.single["acg_bin_ms"] = 0.5
    if file.spike_times is None and "isi_log10" in file.matrices:
        file.notes.append(
            f"{path.name}: without spike times, intervals are only in isi_log10, which is used if the layout says isi:"
            " isi_log10, isi_scale: log10, isi_log10_range_s: [-3, 1], isi_values: density."
        )
    return file


def _per_unit(path: Path, name: str, values: Any, n_units: int) -> list[np.ndarray]:
    """Return one array for each unit, from a cell array or a matrix."""
    rows = [values] if n_units == 1 and not isinstance(values, list) else list(values)
    if len(rows) != n_units:
        raise UnitsRefused(f"{path}: expected {name} of {n_units} units (UID), found {len(rows)}. The file is damaged.")
    try:
        return [np.asarray(row, dtype=float) for row in rows]
    except (TypeError, ValueError):
        raise UnitsRefused(f"{path}: expected numbers in {name}, found something else.") from None


def _rate_of(times: Any) -> float | None:
    """Return samples per second from the times of a waveform, in ms, or in s where these are too short for ms."""
    if isinstance(times, list) or (isinstance(times, np.ndarray) and times.dtype == object):
        times = next((row for row in times if np.size(row) > 1), None)
    steps = np.zeros(0) if times is None else np.diff(np.asarray(times, dtype=float).ravel())
    if not len(steps) or not np.median(steps) > 0:
        return None
    step = float(np.median(steps))
    return 1000 / step if step > 1e-3 else 1 / step


def _add_spikes_beside(file: UnitsFile, beside: Path) -> None:
    """Take spike times from the file of spikes, by UID."""
    other = read_cellinfo(beside)
    times = dict(zip(other.columns["unit_id"], other.spike_times or [], strict=False))
    absent = [unit for unit in file.columns["unit_id"] if unit not in times]
    if absent:
        raise UnitsRefused(
            f"{beside}: expected the spike times of the {len(file.columns)} units of {file.path.name}, found none of"
            f" {len(absent)}, such as {absent[0]}. The two files are of different sortings; put files of one together."
        )
    file.spike_times = [times[unit] for unit in file.columns["unit_id"]]
    file.notes.append(f"{file.path.name}: spike times are those of {beside.name}.")


def _matlab(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return variables of a MATLAB file: structs as dicts, cell arrays as lists, anything else as arrays."""
    try:
        if not h5py.is_hdf5(path):
            return scipy.io.loadmat(path, variable_names=list(names), simplify_cells=True)
        with h5py.File(path, "r") as file:
            return {name: _of_matlab_7_3(file, name, file[name]) for name in names if name in file}
    except _DAMAGED as error:
        raise UnitsRefused(f"{path}: expected a MATLAB file, found one that cannot be read ({error}).") from None


DEEPEST = 6


def _of_matlab_7_3(file: h5py.File, name: str, node: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        return None
    if isinstance(node, h5py.Group):
        inner = (key for key in node if not isinstance(node.get(key, getlink=True), h5py.ExternalLink))
        return {key: _of_matlab_7_3(file, key, node[key], depth + 1) for key in inner}
    if "MATLAB_empty" in node.attrs:
        return np.zeros(0)
    values = h5_values(node)
    if values.dtype == h5py.ref_dtype:
        return [_of_matlab_7_3(file, name, file[reference], depth + 1) for reference in values.ravel()]
    if node.attrs.get("MATLAB_class") == b"char":
        return "".join(chr(number) for number in values.ravel())
    return values.T
