"""Read recordings of pCLAMP (ABF 1 and ABF 2), through pyabf."""

import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recorded_channels import (
    ChannelSweep,
    CurrentSource,
    RecordedChannel,
    channel_entries,
    scale_of,
)
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, SweepFault

BLOCK_BYTES = 512
MOST_SWEEPS = 10_000
_ABF1_HEADER_BYTES = 6144  # with the extension of version 1.6, in which the commands are described
_EVENT_DRIVEN, _GAP_FREE, _EPISODIC = 1, 3, 5  # nOperationMode
_STEPS_AND_RAMPS = {"Off", "Step", "Ramp"}  # kinds of epochs that have no pulses in them
_EPOCHS, _STIMULUS_FILE = 1, 2  # nWaveformSource


@contextmanager
def open_abf(path: Path, current: CurrentSource | None = None) -> Iterator[list[SweepEntry]]:
    """Open an ABF file and list its sweeps.

    The current is the command that the protocol describes, in pA or nA, else a recorded channel in these units;
    `current` chooses one of the two.

    Raises
    ------
    InputError
        When the file is damaged, or of a kind that pyabf cannot read.
    """
    import pyabf
    import pyabf.waveform  # loads matplotlib

    _check_header(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about stimulus files that are elsewhere, which is told below
        try:
            abf = pyabf.ABF(str(path), loadData=False)
            sweeps = _sweeps(path, abf)
        except InputError:
            raise
        except Exception as error:  # whatever pyabf stumbles over in a damaged file
            raise _damaged(path, str(error) or type(error).__name__) from error
        yield channel_entries(sweeps, current)


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path}: expected a whole ABF file, but it cannot be read ({reason[:200]}). Copy it again from its source, "
        "or open it in Clampfit and save it anew."
    )


def _check_header(path: Path) -> None:
    """Refuse counts that the file has no room for, before pyabf makes lists of that length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_ABF1_HEADER_BYTES)
    if len(header) < BLOCK_BYTES:
        raise _damaged(path, f"{size} bytes, shorter than a header")
    if header[:4] == b"ABF2":
        (episodes,) = struct.unpack_from("<I", header, 12)
        for position in range(76, 76 + 18 * 16, 16):
            block, item_bytes, items = struct.unpack_from("<IIq", header, position)
            is_data = position == 76 + 10 * 16
            if items < 0 or (not is_data and block * BLOCK_BYTES + item_bytes * items > size + BLOCK_BYTES):
                raise _damaged(path, "it ends before its header does")
    else:
        (episodes,) = struct.unpack_from("<i", header, 16)
        tags, channels = struct.unpack_from("<i", header, 48)[0], struct.unpack_from("<h", header, 120)[0]
        if not 0 <= tags * 64 <= size or not 1 <= channels <= 16:
            raise _damaged(path, f"{tags} tags and {channels} channels")
    if not 0 <= episodes <= MOST_SWEEPS:
        raise _damaged(path, f"{episodes} sweeps, {MOST_SWEEPS} at most")


def _sweeps(path: Path, abf: Any) -> list[ChannelSweep]:
    rate = _rate(path, abf)
    points, channels = abf.sweepPointCount, abf.channelCount
    if points * channels <= 0 or abf.dataByteStart >= path.stat().st_size:
        raise ValueError("it ends before its data begin")
    commands, no_current = _commands(path, abf, rate)
    protocol = PureWindowsPath(_protocol(abf)).stem
    names = (protocol if protocol != "(untitled)" else "", path.stem)
    fault = ""
    if abf.nOperationMode == _EVENT_DRIVEN:
        fault = "recorded in event-driven mode with sweeps of different lengths, without a command"
    return [
        ChannelSweep(
            number=number + 1,  # as Clampfit counts
            stimulus_names=names,
            channels=(
                *(_recorded(path, abf, number, channel, rate) for channel in range(channels)),
                *(command(number) for command in commands),
            ),
            fault=fault,
            no_current=no_current,
            start_s=number * float(abf.sweepIntervalSec),
            continuous=abf.nOperationMode == _GAP_FREE,
        )
        for number in range(abf.sweepCount)
    ]


def _protocol(abf: Any) -> str:
    """Path of the protocol, of which pyabf knows only those that end in .pro."""
    if abf.abfVersion["major"] == 1:
        return _text(abf._headerV1.sProtocolPath) if abf.dataByteStart >= _ABF1_HEADER_BYTES else ""
    return _text(abf._stringsSection._indexedStrings[abf._headerV2.uProtocolPathIndex])


def _rate(path: Path, abf: Any) -> float:
    """Sampling rate of each channel in Hz, which pyabf rounds to a whole number."""
    if abf.abfVersion["major"] == 2:
        interval_us = abf._protocolSection.fADCSequenceInterval
    else:
        with path.open("rb") as file:
            second_interval = struct.unpack_from("<f", file.read(130), 126)[0]
        if second_interval not in (0.0, abf._headerV1.fADCSampleInterval):
            raise ValueError("it was sampled with two clocks")
        interval_us = abf._headerV1.fADCSampleInterval * abf.channelCount
    if not interval_us > 0:
        raise ValueError(f"a sampling interval of {interval_us} us")
    return 1e6 / float(f"{interval_us:.7g}")  # what a 32-bit number was meant to be


def _recorded(path: Path, abf: Any, sweep: int, channel: int, rate_Hz: float) -> RecordedChannel:
    def read() -> np.ndarray:
        item_bytes = np.dtype(abf._dtype).itemsize
        count = abf.sweepPointCount * abf.channelCount
        first = abf.dataByteStart + sweep * count * item_bytes
        if not 0 <= first <= path.stat().st_size - count * item_bytes:
            raise SweepFault("the file ends before this sweep does")
        stored = np.fromfile(path, dtype=abf._dtype, count=count, offset=first)
        values = stored[channel :: abf.channelCount].astype(float)
        if stored.dtype == np.int16:
            values = values * float(abf._dataGain[channel]) + float(abf._dataOffset[channel])
        return values

    name = _text(abf.adcNames[channel]).strip("?") or f"channel {channel + 1}"
    return RecordedChannel(name, _text(abf.adcUnits[channel]), rate_Hz, read)


def _text(value: str) -> str:
    return value.replace("\x00", "").strip()


def _commands(path: Path, abf: Any, rate_Hz: float) -> tuple[list[Callable[[int], RecordedChannel]], str]:
    """Return a function for each output with a command, which makes its channel of a sweep.

    Also returns why there is no command of a current, where the file says so.
    """
    outputs = _outputs(path, abf)
    reasons = []
    if abf.nOperationMode != _EPISODIC:
        kind = "gap-free" if abf.nOperationMode == _GAP_FREE else "oscilloscope"
        return [], f"no command is played in {kind} mode, and no channel recorded the current"
    commands = []
    for number, name, unit, source in outputs:
        if _is_voltage(unit) and source != _EPOCHS:
            continue
        if source == _STIMULUS_FILE:
            reasons.append(f"the command of {name} came from a stimulus file, whose scaling is not stored")
        elif source == _EPOCHS:
            reason = _unlike_epochs(path, abf, number)
            if reason:
                reasons.append(f"the command of {name} is not known: {reason}")
            else:
                commands.append(_command(abf, number, name, unit, rate_Hz))
    return commands, "; ".join(reasons) or "the protocol has no command in pA or nA, and no channel recorded a current"


def _is_voltage(unit: str) -> bool:
    scale = scale_of(unit)
    return scale is not None and scale[0] == "voltage"


def _outputs(path: Path, abf: Any) -> list[tuple[int, str, str, int]]:
    """Number, name, unit and source of the waveform of the outputs that play one, a current or a voltage."""
    if abf.abfVersion["major"] == 2:
        section, strings = abf._dacSection, abf._stringsSection._indexedStrings
        rows = [
            (number, strings[name], strings[unit], enabled, source)
            for number, (name, unit, enabled, source) in enumerate(
                zip(
                    section.lDACChannelNameIndex,
                    section.lDACChannelUnitsIndex,
                    section.nWaveformEnable,
                    section.nWaveformSource,
                    strict=True,
                )
            )
        ]
    else:
        header = abf._headerV1
        if abf.dataByteStart < _ABF1_HEADER_BYTES:  # an early or a reduced header, without commands
            return []
        abf.holdingCommand = _abf1_holding(path)
        rows = [
            (number, header.sDACChannelName[number], header.sDACChannelUnit[number], enabled, source)
            for number, (enabled, source) in enumerate(zip(header.nWaveformEnable, header.nWaveformSource, strict=True))
        ]
    outputs = []
    for number, name, unit, enabled, source in rows:
        if enabled and scale_of(_text(unit)) is not None:
            outputs.append((number, _text(name), _text(unit), source))
    return outputs


def _abf1_holding(path: Path) -> list[float]:
    """Holding levels of an ABF 1 file (fDACHoldingLevel), for which pyabf takes the levels of the first epochs."""
    with path.open("rb") as file:
        file.seek(1394)
        return list(struct.unpack("<4f", file.read(16)))


def _unlike_epochs(path: Path, abf: Any, output: int) -> str:
    """Return why the current was not what the table of epochs says, or nothing."""
    if abf.abfVersion["major"] == 2:
        listed = any(abf.userListEnable)
        alternating = abf._protocolSection.nAlternateDACOutputState
        subtracted = abf._dacSection.nLeakSubtractType[output]
    else:
        with path.open("rb") as file:
            file.seek(3360)
            listed = any(struct.unpack("<4h", file.read(8)))
        alternating = subtracted = 0
    if listed:
        return "a user list changes it from sweep to sweep"
    if alternating:
        return "the outputs alternate from sweep to sweep"
    if subtracted:
        return "P/N leak subtraction was on"
    return ""


def _command(abf: Any, output: int, name: str, unit: str, rate_Hz: float) -> Callable[[int], RecordedChannel]:
    from pyabf.waveform import EpochTable

    @cache
    def waveforms() -> list[Any]:
        return EpochTable(abf, output).epochWaveformsBySweep

    def of_sweep(sweep: int) -> RecordedChannel:
        def read() -> np.ndarray:
            try:
                waveform = waveforms()[sweep]
            except Exception as error:
                raise SweepFault(f"the epochs of {name} cannot be read ({error})") from error
            ends = waveform.p2s
            if any(stop < start for start, stop in zip(waveform.p1s, ends, strict=True)) or ends[-1] < max(ends):
                raise SweepFault(f"the epochs of {name} are longer than the sweep")
            if "Unknown" in waveform.types:
                raise SweepFault(f"an epoch of {name} is of an unknown kind")
            if trains := sorted({*waveform.types} - _STEPS_AND_RAMPS) if abf.abfVersion["major"] == 1 else ():
                raise SweepFault(f"{name} plays a train ({', '.join(trains)}), whose period ABF 1 does not store")
            current = waveform.getWaveform()
            if not np.isfinite(current).all():
                raise SweepFault(f"the command of {name} is not known throughout the sweep")
            return current

        return RecordedChannel(name, unit, rate_Hz, read, commanded=True)

    return of_sweep
