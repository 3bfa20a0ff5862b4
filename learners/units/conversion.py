"""The units of one file, converted to the common form."""

from __future__ import annotations

import numpy as np
import pandas as pd

from learners.splits import nearest
from learners.units.autocorrelograms import common_acg, without_self_pairs
from learners.units.checks import refuse_row_numbers
from learners.units.hand_features import hand_features
from learners.units.intervals import common_isi
from learners.units.layout import Layout
from learners.units.reading import UnitsFile
from learners.units.spike_times import autocorrelogram_counts, check_spike_times, interval_shares
from learners.units.units import MODALITIES, POINTS, Units, UnitsRefused
from learners.units.waveforms import Waveforms, common_form, read_waveforms

Converted = tuple[np.ndarray, np.ndarray, list[str]]


def convert(file: UnitsFile, unit_ids: np.ndarray, layout: Layout) -> Units:
    """Bring the units of a file to the common form.

    Interval histograms and autocorrelograms are taken as they are where the file has them, and made from
    spike times where it has not.

    Raises
    ------
    UnitsRefused
        If there is no modality, a named one is absent, or one cannot be converted.
    """
    n = len(unit_ids)
    values = {name: np.zeros((n, POINTS[name]), dtype=np.float32) for name in MODALITIES}
    present = np.zeros((n, len(MODALITIES)), dtype=bool)
    tables, notes = _tables(file, layout), []
    times = file.spike_times or []
    made = [name for name in ("isi", "acg") if times and name not in tables and name not in layout.without]
    if made:
        check_spike_times(times, list(unit_ids), file.path.name)
    if not tables and not made:
        raise UnitsRefused(
            f"{file.path}: found no modality of a unit. Expected at least one of waveform, isi, acg (several"
            f" values per unit) or spike_times; there are {_all_names(file)}. Say in the layout what they are"
            " called, such as {waveform: mean_waveform}."
        )
    waveforms: Waveforms | None = None
    converted: dict[str, Converted] = {}
    names = {name: f"{file.path.name}, {getattr(layout, name) or name}" for name in MODALITIES}
    for modality, table in tables.items():
        tested = without_self_pairs(table, layout.acg_one_sided) if modality == "acg" else table
        refuse_row_numbers(tested, names[modality])
    if "waveform" in tables:
        waveforms = read_waveforms(tables["waveform"], *_rate_and_peak(file, layout), names["waveform"])
        converted["waveform"] = common_form(waveforms), waveforms.present, list(waveforms.notes)
    if "isi" in tables:
        _refuse_disguised_log_bins(file, tables["isi"], layout, names["isi"])
        bin_ms = property_of(file, layout, "isi_bin_ms") if layout.isi_scale == "linear" else None
        converted["isi"] = common_isi(tables["isi"], layout, bin_ms, names["isi"])
    elif "isi" in made:
        converted["isi"] = common_isi(interval_shares(times), Layout(isi_values="shares"), 1.0, names["isi"])
    if "acg" in tables:
        bin_ms = property_of(file, layout, "acg_bin_ms")
        converted["acg"] = common_acg(tables["acg"], bin_ms, names["acg"], one_sided=layout.acg_one_sided)
    elif "acg" in made:
        converted["acg"] = common_acg(autocorrelogram_counts(times), 1.0, names["acg"])
    for modality, (rows, has, told) in converted.items():
        values[modality] = rows
        present[:, MODALITIES.index(modality)] = has
        notes += told
        if not has.all():
            notes.append(
                f"{names[modality]}: missing in {int((~has).sum())} of {n} units (not finite, constant or"
                " empty)."
            )
    return Units(
        unit_ids=unit_ids,
        waveform=values["waveform"],
        isi=values["isi"],
        acg=values["acg"],
        present=present,
        hand=hand_features(waveforms, values["isi"], values["acg"], present),
        obs=file.columns.set_index(pd.Index(unit_ids)),
        notes=tuple(notes),
    )


def _tables(file: UnitsFile, layout: Layout) -> dict[str, np.ndarray]:
    """Return the table of each modality that the file has and the layout does not leave out."""
    tables = {}
    for modality in MODALITIES:
        name = getattr(layout, modality)
        if modality in layout.without:
            continue
        if name is not None and name not in file.matrices:
            raise UnitsRefused(
                f"{file.path}: expected an array of several values per unit called {name!r} for the"
                f" {modality}, found none{nearest(name, file.matrices)}. There are {_all_names(file)}."
            )
        if (name or modality) in file.matrices:
            table = file.matrices[name or modality]
            if table.dtype.kind not in "fiub":
                raise UnitsRefused(
                    f"{file.path}: expected numbers in {name or modality}, found {table.dtype}."
                )
            tables[modality] = table.astype(float)
    return tables


def _all_names(file: UnitsFile) -> str:
    several = ", ".join(file.matrices) or "nothing"
    one = ", ".join(map(str, file.columns)) or "nothing"
    return f"{several} (several values per unit) and {one} (one value)"


def property_of(file: UnitsFile, layout: Layout, name: str) -> float | None:
    """Return a property of the arrays: of the layout, else a single value or a column of the file.

    Raises
    ------
    UnitsRefused
        If the units of the file differ in it, or it is no number above 0.
    """
    told = getattr(layout, name)
    if told is not None:
        return told
    found = file.single.get(name)
    if found is None and name in file.columns:
        different = file.columns[name].dropna().unique()
        if len(different) > 1:
            raise UnitsRefused(
                f"{file.path}: expected one {name} for all units, found {len(different)} (such as"
                f" {different[0]} and {different[1]}). Give the units of each as a file of its own."
            )
        found = different[0] if len(different) else None
    if found is None:
        return None
    if not isinstance(found, int | float | np.number) or not found > 0:
        raise UnitsRefused(f"{file.path}: expected a number above 0 as {name}, found {found!r}.")
    return float(found)


def _rate_and_peak(file: UnitsFile, layout: Layout) -> tuple[float, int | None]:
    rate_hz, peak = (property_of(file, layout, f"waveform_{name}") for name in ("rate_hz", "peak_index"))
    if rate_hz is None:
        raise UnitsRefused(
            f"{file.path}: the sampling rate of the waveforms is unknown; expected it in the layout, such as"
            " {waveform_rate_hz: 30000}, or as a single value waveform_rate_hz in the file. A wrong rate"
            " stretches all spikes, so none is guessed. To go without, give {without: [waveform]}."
        )
    return float(rate_hz), None if peak is None else int(peak)


def _refuse_disguised_log_bins(file: UnitsFile, isi: np.ndarray, layout: Layout, name: str) -> None:
    """Refuse linear bins where another array of the file shows that they are the same, logarithmic ones."""
    if layout.isi_scale != "linear":
        return
    own = isi.sum(axis=1, keepdims=True)
    for other, values in file.matrices.items():
        if "log" not in other.lower() or values.shape != isi.shape:
            continue
        total = values.sum(axis=1, keepdims=True)
        usable = (own[:, 0] > 0) & (total[:, 0] > 0)
        if usable.any() and np.allclose((isi / own)[usable], (values / total)[usable], atol=1e-5):
            raise UnitsRefused(
                f"{name}: expected linear bins, found the values of {other!r} divided by their sum, so the"
                " bins are logarithmic. Say so in the layout: isi_scale: log10 with isi_log10_range_s, and"
                " isi_values: density or shares."
            )
