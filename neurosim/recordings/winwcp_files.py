"""Read recordings of WinWCP, whose records carry their own scale, interval and verdict."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recorded_channels import (
    ChannelSweep,
    CurrentSource,
    RecordedChannel,
    channel_entries,
)
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, SweepFault

SECTOR_BYTES = 512
_NOT_SWEEPS = {"LEAK": "leak pulses of P/N subtraction", "FAIL": "marked as a failure", "BAD": "marked as bad"}


@contextmanager
def open_winwcp(path: Path, current: CurrentSource | None = None) -> Iterator[list[SweepEntry]]:
    """Open a WinWCP file (.wcp) and list its records.

    neo reads these files too, but takes the scale of the last record for all of them, and no record's verdict.

    Raises
    ------
    InputError
        The header lacks a number, or announces more than there is.
    """
    try:
        sweeps = _sweeps(path)
    except (KeyError, ValueError, ZeroDivisionError, struct.error) as error:
        raise InputError(
            f"{path}: expected a WinWCP file, but its header cannot be read ({type(error).__name__}: {error}). Copy it "
            "again from its source, or export the records from WinWCP as ABF."
        ) from error
    yield channel_entries(sweeps, current)


def _sweeps(path: Path) -> list[ChannelSweep]:
    size = path.stat().st_size
    with path.open("rb") as file:
        text = file.read(64 * 1024)
    header = _header(text[:1024])
    channels = int(header["NC"])
    if not 1 <= channels <= 128:
        raise ValueError(f"{channels} channels")
    # The header grows with the number of channels; the analysis block of each record does too.
    header_bytes = 1024 * ((channels - 1) // 8 + 1)
    header = _header(text[:header_bytes])
    analysis_bytes, data_bytes = (int(header[key]) * SECTOR_BYTES for key in ("NBA", "NBD"))
    records = int(header["NR"])
    if records < 0 or header_bytes + records * (analysis_bytes + data_bytes) > size:
        raise ValueError(f"{records} records, of which the file holds fewer: it is cut off")
    if data_bytes < 2 * channels or analysis_bytes < 28 + 4 * channels:
        raise ValueError("records without room for their channels")
    sweeps = []
    for record in range(records):
        start = header_bytes + record * (analysis_bytes + data_bytes)
        with path.open("rb") as file:
            file.seek(start)
            analysis = file.read(analysis_bytes)
        status, kind = (_word(part) for part in (analysis[:8], analysis[8:12]))
        begins_s, interval_s = struct.unpack_from("<ff", analysis, 16)
        ranges_V = struct.unpack_from(f"<{channels}f", analysis, 24)
        interval_s = float(f"{interval_s:.7g}")  # what a 32-bit number was meant to be
        if not interval_s > 0:
            raise ValueError(f"a sampling interval of {interval_s} s in record {record + 1}")
        fault = _NOT_SWEEPS.get(kind, "")
        if status.startswith("REJ"):
            fault = "rejected in WinWCP"
        marker = analysis[24 + 4 * channels :][:16].decode("latin-1").partition("\x00")[0].strip()
        sweeps.append(
            ChannelSweep(
                number=record + 1,  # as WinWCP counts
                stimulus_names=(marker, path.stem),
                channels=tuple(
                    _channel(path, header, channel, start + analysis_bytes, data_bytes, ranges_V[channel], interval_s)
                    for channel in range(channels)
                ),
                fault=fault,
                no_current="no channel recorded a current in pA or nA",
                start_s=float(begins_s),
            )
        )
    return sweeps


def _header(text: bytes) -> dict[str, str]:
    lines = (line.partition("=") for line in text.decode("latin-1").split("\r\n"))
    return {key.strip(): value.strip() for key, sign, value in lines if sign}


def _word(text: bytes) -> str:
    return text.decode("ascii", "replace").strip("\x00 ").upper()


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def _channel(
    path: Path, header: dict[str, str], channel: int, start: int, data_bytes: int, range_V: float, interval_s: float
) -> RecordedChannel:
    channels = int(header["NC"])
    samples = min(int(header.get("NP", data_bytes)), data_bytes // 2 // channels)
    place = int(header.get(f"YO{channel}", channel))
    per_volt = _number(header[f"YG{channel}"])
    if not 0 <= place < channels or per_volt == 0:
        raise ValueError(f"channel {channel} at place {place} with a gain of {per_volt}")
    scale = range_V / (_number(header["ADCMAX"]) * per_volt)

    def read() -> np.ndarray:
        stored = np.fromfile(path, dtype="<i2", count=samples * channels, offset=start)
        if stored.size < samples * channels:
            raise SweepFault("the file ends before this record")
        return stored[place::channels] * scale

    name = header.get(f"YN{channel}", f"channel {channel}")
    return RecordedChannel(name, header[f"YU{channel}"], 1.0 / interval_s, read)
