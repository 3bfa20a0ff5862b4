"""Read recordings that were saved as Igor binary waves, one file for each channel (of each sweep)."""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recorded_channels import (
    ChannelSweep,
    CurrentSource,
    RecordedChannel,
    channel_entries,
    scale_of,
)
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, last_distinct_numbers

_HEADER_BYTES = {1: 8, 2: 16, 3: 20, 5: 64}  # of the versions of the format, before the wave's own header
_TYPES = {2: "f4", 4: "f8", 8: "i1", 16: "i2", 32: "i4", 72: "u1", 80: "u2", 96: "u4"}
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
        data = _read(self.path, self.path.read_bytes())[0]
        return data if data.ndim == 1 else data[:, sweep]


@contextmanager
def open_igor_waves(path: Path, current: CurrentSource | None = None) -> Iterator[list[SweepEntry]]:
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
    yield channel_entries(_sweeps(pairs), current)


def _kind(wave: _Wave) -> str:
    scale = scale_of(wave.unit)
    return scale[0] if scale is not None else ""


def _read(path: Path, content: bytes) -> tuple[np.ndarray, float, str, str]:
    """Return values, step, its unit and the unit of the values, after WaveMetrics' technical note 003.

    igor2 reads these files too, but believes any length that a damaged header claims.

    Raises
    ------
    InputError
        The file is damaged or no wave of real numbers.
    """
    try:
        order = "<" if content[:1] != b"\0" else ">"
        (version,) = struct.unpack_from(order + "h", content)
        start = _HEADER_BYTES[version]
        if version == 5:
            samples, kind = struct.unpack_from(order + "ih", content, start + 12)
            shape = [size for size in struct.unpack_from(order + "4i", content, start + 68) if size]
            (step,) = struct.unpack_from(order + "d", content, start + 84)
            unit, time_unit = (_text(content[start + place : start + place + 4]) for place in (148, 152))
            first = start + 320
        else:
            (kind,) = struct.unpack_from(order + "h", content, start)
            unit, time_unit = (_text(content[start + place : start + place + 4]) for place in (34, 38))
            (samples,) = struct.unpack_from(order + "i", content, start + 42)
            (step,) = struct.unpack_from(order + "d", content, start + 48)
            shape, first = [samples], start + 110
        dtype = np.dtype(order + _TYPES[kind])
        if samples < 0 or np.prod(shape, dtype=float) != samples or first + samples * dtype.itemsize > len(content):
            raise ValueError(f"{samples} numbers of shape {tuple(shape)} in {len(content):,} bytes")
        values = np.frombuffer(content, dtype, samples, first)
        if version == 5:  # units of more than three letters stand behind the data, the formula and the note
            formula, note, long_unit, long_time_unit = struct.unpack_from(order + "4i", content, 8)
            behind = first + values.nbytes + formula + note
            unit = _text(content[behind : behind + long_unit]) or unit
            behind += long_unit
            time_unit = _text(content[behind : behind + long_time_unit]) or time_unit
    except (KeyError, ValueError, struct.error) as error:
        raise InputError(
            f"{path}: expected an Igor binary wave of real numbers, but it cannot be read ({error}). Save it again "
            "from Igor Pro (Data > Save Waves > Save Igor Binary)."
        ) from error
    return values.reshape(shape, order="F"), step, time_unit, unit


def _text(value: bytes) -> str:
    return value.replace(b"\0", b"").decode("latin-1").strip()


def _wave(path: Path) -> _Wave:
    data, step, time_unit, unit = _read(path, path.read_bytes())
    seconds = _SECONDS.get(time_unit.casefold())
    if data.ndim not in (1, 2) or seconds is None or not 0 < step < np.inf or not data.size:
        raise InputError(
            f"{path}: expected samples over time, found {data.ndim} dimensions of shape {data.shape} with a step of "
            f'{step:g} {time_unit or "without unit"}. Set the scale of the wave in Igor Pro: SetScale/P x 0, dt, "s".'
        )
    return _Wave(path, unit, 1.0 / (step * seconds), data.shape[0], 1 if data.ndim == 1 else data.shape[1])


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
