"""Read recordings that were saved as Igor binary waves, one file for each channel (of each sweep)."""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recorded_channels import ChannelSweep, RecordedChannel, channel_entries, scale_of
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, last_distinct_numbers

_SECONDS = {"": 1.0, "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6}


@dataclass(frozen=True, eq=False)
class _Wave:
    """One file: a channel, of one sweep or, in two dimensions, of several."""

    path: Path
    unit: str
    rate_Hz: float
    samples: int
    sweeps: int

    def values(self, sweep: int) -> np.ndarray:
        data = _load(self.path)["wData"]
        return data if data.ndim == 1 else data[:, sweep]


@contextmanager
def open_igor_waves(path: Path) -> Iterator[list[SweepEntry]]:
    """Open a folder of Igor binary waves and list its sweeps.

    A wave in units of voltage and one in units of current belong together when their names differ in one number
    (or word) only: the channel's. The last other number that differs is the sweep's.

    Raises
    ------
    InputError
        No folder, a wave that cannot be read, or waves that have no partner by their names.
    """
    files = sorted(file for file in path.iterdir() if file.suffix.casefold() == ".ibw") if path.is_dir() else [path]
    waves = [_wave(file) for file in files]
    kinds = {kind: [wave for wave in waves if _kind(wave) == kind] for kind in ("voltage", "current")}
    if not kinds["voltage"] or not kinds["current"]:
        units = ", ".join(sorted({wave.unit or "no unit" for wave in waves}))
        raise InputError(
            f"{path}: expected Igor waves in units of voltage and of current, found {len(waves)} with {units}. "
            "Each wave holds one channel: put the waves of voltage and of current into a folder and name the folder; "
            "set missing units with SetScale in Igor Pro."
        )
    pairs = _pairs(kinds["voltage"], kinds["current"])
    if not pairs:
        raise InputError(
            f"{path}: {len(kinds['voltage'])} waves of voltage and {len(kinds['current'])} of current have no partners "
            f"by their names ({kinds['voltage'][0].path.name}, {kinds['current'][0].path.name}, ...). Expected names "
            "that differ in one number or word only, such as cell_Ch0_step_12.ibw and cell_Ch3_step_12.ibw."
        )
    yield channel_entries(_sweeps(pairs))


def _kind(wave: _Wave) -> str:
    scale = scale_of(wave.unit)
    return scale[0] if scale is not None else ""


def _load(path: Path) -> Any:
    """Return the wave of a file, as igor2 describes it.

    Raises
    ------
    InputError
        The file is damaged or no wave of numbers.
    """
    from igor2 import binarywave

    try:
        wave = binarywave.load(str(path))["wave"]
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        NotImplementedError,
        struct.error,
    ) as error:
        raise InputError(
            f"{path}: expected an Igor binary wave, but it cannot be read ({str(error)[:200]}). Save it again from "
            "Igor Pro (Data > Save Waves > Save Igor Binary)."
        ) from error
    if not np.issubdtype(wave["wData"].dtype, np.number) or np.iscomplexobj(wave["wData"]):
        raise InputError(f"{path}: expected a wave of real numbers, found one of {wave['wData'].dtype}.")
    return wave


def _wave(path: Path) -> _Wave:
    wave = _load(path)
    header, data = wave["wave_header"], wave["wData"]
    if "sfA" in header:
        step, time_unit = float(header["sfA"][0]), _text(wave["dimension_units"]) or _text(header["dimUnits"][0])
        unit = _text(wave["data_units"]) or _text(header["dataUnits"])
    else:
        step, time_unit, unit = float(header["hsA"]), _text(header["xUnits"]), _text(header["dataUnits"])
    seconds = _SECONDS.get(time_unit.casefold())
    if data.ndim not in (1, 2) or seconds is None or not step > 0 or not data.size:
        raise InputError(
            f"{path}: expected samples over time, found {data.ndim} dimensions of shape {data.shape} with a step of "
            f'{step:g} {time_unit or "without unit"}. Set the scale of the wave in Igor Pro: SetScale/P x 0, dt, "s".'
        )
    return _Wave(path, unit, 1.0 / (step * seconds), data.shape[0], 1 if data.ndim == 1 else data.shape[1])


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = b"".join(value.ravel().tolist())
    return value.decode("latin-1").replace("\x00", "").strip() if isinstance(value, bytes) else str(value or "")


def _pairs(voltages: Sequence[_Wave], currents: Sequence[_Wave]) -> list[tuple[_Wave, _Wave]]:
    """Pair waves whose names differ in one part; the part that pairs most waves is the channel's."""
    best: list[tuple[_Wave, _Wave]] = []
    longest = max(len(_parts(wave)) for wave in voltages)
    for position in range(longest):
        others: dict[tuple[str, ...], list[_Wave]] = {}
        for wave in currents:
            others.setdefault(_without(wave, position), []).append(wave)
        mine: dict[tuple[str, ...], list[_Wave]] = {}
        for wave in voltages:
            mine.setdefault(_without(wave, position), []).append(wave)
        pairs = [
            (waves[0], others[key][0]) for key, waves in mine.items() if len(waves) == 1 == len(others.get(key, []))
        ]
        if len(pairs) > len(best):
            best = pairs
    return best


def _parts(wave: _Wave) -> list[str]:
    return re.findall(r"\d+|[^\W\d_]+", wave.path.stem.casefold())


def _without(wave: _Wave, position: int) -> tuple[str, ...]:
    parts = _parts(wave)
    return tuple(part for index, part in enumerate(parts) if index != position)


def _sweeps(pairs: Sequence[tuple[_Wave, _Wave]]) -> list[ChannelSweep]:
    names = [voltage.path.stem for voltage, _ in pairs]
    numbers = last_distinct_numbers(names)
    sweeps = []
    for index, (voltage, current) in enumerate(pairs):
        first = index if numbers is None else numbers[voltage.path.stem]
        words = re.findall(r"[^\W\d_]{2,}", voltage.path.stem)
        shared = [word for word in words if word.casefold() in _parts(current)]
        several = voltage.sweeps > 1
        fault = "" if voltage.sweeps == current.sweeps else "voltage and current have different numbers of sweeps"
        for sweep in range(voltage.sweeps):
            channels = tuple(_channel(wave, sweep) for wave in (voltage, current))
            sweeps.append(
                ChannelSweep(
                    number=1000 * first + sweep if several and len(pairs) > 1 else first + sweep,
                    stimulus_names=(shared[-1] if shared else voltage.path.stem, voltage.path.stem, current.path.stem),
                    channels=channels,
                    fault=fault,
                )
            )
    return sweeps


def _channel(wave: _Wave, sweep: int) -> RecordedChannel:
    return RecordedChannel(wave.path.stem, wave.unit, wave.rate_Hz, lambda: wave.values(sweep))
