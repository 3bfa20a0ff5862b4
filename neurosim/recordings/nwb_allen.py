"""Read sweeps of the Allen Institute's NWB 1.x layout."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.sweep_entries import NOT_CURRENT_CLAMP, SweepEntry, SweepFault, megaohms

PLAUSIBLE_PEAK_V = (0.005, 0.5)  # largest |voltage| of a sweep of a living cell
SMALLEST_PA = 1e-4  # no bias current is that many amperes, none that few pA is told from none
SMALLEST_PF = 1e-6


@contextmanager
def open_nwb_allen(path: Path) -> Iterator[list[SweepEntry]]:
    """Open a file of the Allen NWB 1.x layout and list its sweeps (`/epochs/Sweep_N`).

    Raises
    ------
    InputError
        When the file is damaged or holds no epochs.
    """
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("epochs"), h5py.Group):
                raise InputError(f"{path}: expected sweeps under /epochs (Allen NWB 1.x layout), found none.")
            version = _pipeline_version(file)
            yield [
                _entry(file, int(match[1]), version)
                for match in (re.fullmatch(r"Sweep_(\d+)", name) for name in file["epochs"])
                if match
            ]
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: the file cannot be read to its end ({error}); it is damaged. Copy it again from its source."
        ) from error


def _entry(file: Any, number: int, version: tuple[int, int] | None) -> SweepEntry:
    names = _stimulus_names(file, number)
    return SweepEntry(
        number=number,
        stimulus_name=names[0] if names else "unnamed",
        aliases=tuple(names[1:]),
        read=lambda: _read(file, number, version),
        electrode=_text(_stored(file, number, "electrode_name", "")),
        fault=f"{NOT_CURRENT_CLAMP}: the response is a current" if _is_a_current(file, number) else "",
        bias_current_nA=_bias_current_nA(_number(file, number, "bias_current")),
        bridge_balance_MOhm=megaohms(_number(file, number, "bridge_balance")),
        access_resistance_MOhm=megaohms(_text(_stored(file, number, "initial_access_resistance", ""))),
        capacitance_compensation_pF=_capacitance_pF(_number(file, number, "capacitance_compensation")),
        response_start_s=_number(file, number, "starting_time"),
        stimulus_start_s=_number(file, number, "starting_time", "stimulus"),
    )


def _places(number: int) -> tuple[str, str, str]:
    """Where the properties of a sweep stand; files differ in which of the places they use."""
    return (
        f"epochs/Sweep_{number}/response/timeseries",
        f"acquisition/timeseries/Sweep_{number}",
        f"stimulus/presentation/Sweep_{number}",
    )


def _stored(file: Any, number: int, key: str, default: Any) -> Any:
    for place in _places(number):
        if isinstance(dataset := file.get(f"{place}/{key}"), h5py.Dataset):
            return dataset[()]
    return default


def _number(file: Any, number: int, key: str, part: str = "response") -> float | None:
    if part == "stimulus":
        dataset = file.get(f"epochs/Sweep_{number}/stimulus/timeseries/{key}")
        value = dataset[()] if isinstance(dataset, h5py.Dataset) else None
    else:
        value = _stored(file, number, key, None)
    try:
        found = float(_text(value)) if value is not None else float("nan")
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def _is_a_current(file: Any, number: int) -> bool:
    data = file.get(f"epochs/Sweep_{number}/response/timeseries/data")
    return data is not None and _text(data.attrs.get("unit", "V"))[:1].upper() == "A"


def _bias_current_nA(value: float | None) -> float | None:
    """The bias current, which some files hold in amperes, as the format has it, and others in pA."""
    if value is None:
        return None
    return value * 1e9 if abs(value) < SMALLEST_PA else value * 1e-3


def _capacitance_pF(value: float | None) -> float | None:
    if value is None:
        return None
    return value * 1e12 if abs(value) < SMALLEST_PF else value


def _stimulus_names(file: Any, number: int) -> list[str]:
    """Names of the stimulus, the plain one first; older files hold only a description code."""
    names = []
    for key in ("aibs_stimulus_name", "aibs_stimulus_description"):
        for place in (f"acquisition/timeseries/Sweep_{number}", f"epochs/Sweep_{number}/stimulus/timeseries"):
            if f"{place}/{key}" in file:
                text = _text(file[f"{place}/{key}"][()])
                if text and text not in names:
                    names.append(text)
    return names


def _read(file: Any, number: int, version: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray, float]:
    sweep = file[f"epochs/Sweep_{number}"]
    for part in ("stimulus", "response"):
        if f"{part}/timeseries/data" not in sweep:
            raise SweepFault(f"no {part} data")
    stimulus, response = (sweep[f"{part}/timeseries/data"] for part in ("stimulus", "response"))
    rate = _rate(sweep["response/timeseries"])
    if _rate(sweep["stimulus/timeseries"]) != rate:
        raise SweepFault("current and voltage differ in sampling rate")

    first, stop = _index_range(file, number, response.shape[0])
    if stimulus.shape != response.shape and stop > min(stimulus.shape[0], response.shape[0]):
        raise SweepFault(f"current and voltage differ in length ({stimulus.shape[0]} and {response.shape[0]} samples)")
    try:
        current, voltage = (data[first:stop].astype(float) for data in (stimulus, response))
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise SweepFault(f"the data cannot be read ({error})") from error
    if _conversion_counts(version, voltage, response):
        current *= float(stimulus.attrs.get("conversion", 1.0))
        voltage *= float(response.attrs.get("conversion", 1.0))
    return current * 1e9, voltage * 1e3, rate


def _index_range(file: Any, number: int, length: int) -> tuple[int, int]:
    """First and one past the last sample of the experiment (after the test pulse), else of the sweep."""
    for epoch in (f"epochs/Experiment_{number}/stimulus", f"epochs/Sweep_{number}/stimulus"):
        if f"{epoch}/idx_start" not in file:
            continue
        first = int(file[f"{epoch}/idx_start"][()])
        if f"{epoch}/count" in file:
            stop = first + int(file[f"{epoch}/count"][()])
        elif f"{epoch}/idx_stop" in file:
            stop = int(file[f"{epoch}/idx_stop"][()]) + 1
        else:
            continue
        if not 0 <= first < stop:
            raise SweepFault(f"the index range {first} to {stop} is empty")
        return first, min(stop, length)
    return 0, length


def _conversion_counts(version: tuple[int, int] | None, voltage: np.ndarray, response: Any) -> bool:
    """True when `conversion` is to be applied.

    Early pipelines (before 1.0) stored SI values and a conversion that does not belong to them; from 1.1 on
    it is right. In between, and where no version is given, the reading that yields a cell's voltage is taken.
    """
    if version is not None and (version < (1, 0) or version >= (1, 1)):
        return version >= (1, 1)
    peak = float(np.nanmax(np.abs(voltage), initial=0.0))
    low, high = PLAUSIBLE_PEAK_V
    return not low <= peak <= high or low <= peak * float(response.attrs.get("conversion", 1.0)) <= high


def _pipeline_version(file: Any) -> tuple[int, int] | None:
    """Version of the pipeline that wrote the file, from the key and value pairs of /general/generated_by."""
    if "general/generated_by" not in file:
        return None
    words = [_text(word) for word in np.ravel(file["general/generated_by"][()])]
    for key, value in zip(words, words[1:], strict=False):
        match = re.match(r"(\d+)\.(\d+)", value)
        if key == "version" and match:
            return int(match[1]), int(match[2])
    return None


def _rate(timeseries: Any) -> float:
    """Sampling rate in Hz; older files keep it as a dataset of its own."""
    if "starting_time" in timeseries and "rate" in timeseries["starting_time"].attrs:
        rate = float(timeseries["starting_time"].attrs["rate"])
    elif "sampling_rate" in timeseries:
        rate = float(timeseries["sampling_rate"][()])
    else:
        raise SweepFault("no sampling rate")
    if not rate > 0:
        raise SweepFault(f"sampling rate of {rate} Hz")
    return rate


def _text(value: Any) -> str:
    """Text of an HDF5 string, which may be bytes or an array of one."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return value.decode("utf-8", "replace").strip() if isinstance(value, bytes) else str(value).strip()
