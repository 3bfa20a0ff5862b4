"""Read recordings of Spike2 (.smr) and AxoGraph (.axgx, .axgd), through neo."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.recorded_channels import (
    ChannelSweep,
    CurrentSource,
    RecordedChannel,
    channel_entries,
)
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, SweepFault

_READERS = {"Spike2": "Spike2RawIO", "AxoGraph": "AxographRawIO"}


@contextmanager
def open_with_neo(path: Path, program: str, current: CurrentSource | None = None) -> Iterator[list[SweepEntry]]:
    """Open a file that neo reads and list its sweeps.

    Parameters
    ----------
    path : Path
    program : {"Spike2", "AxoGraph"}
        Which wrote the file.
    current : "command" or "recorded", optional
        Which current is used.

    Raises
    ------
    InputError
        When neo cannot read the file.
    """
    import neo.rawio

    logging.getLogger("neo").addHandler(logging.NullHandler())  # what it finds odd would be printed
    try:
        reader = getattr(neo.rawio, _READERS[program])(filename=str(path))
        reader.parse_header()
        sweeps = _sweeps(path, reader)
    except InputError:
        raise
    except Exception as error:  # whatever neo stumbles over in a damaged file
        raise InputError(
            f"{path}: expected a whole {program} file, but neo cannot read it ({str(error)[:200]}). Copy it again from "
            f"its source, or export it from {program}."
        ) from error
    yield channel_entries(sweeps, current)


def _sweeps(path: Path, reader: Any) -> list[ChannelSweep]:
    rows = reader.header["signal_channels"]
    segments = reader.header["nb_segment"][0]
    sweeps = []
    for segment in range(segments):
        channels = [_channel(reader, segment, row) for row in rows]
        groups = _repeats(channels)
        for group in groups:
            sweeps.append(
                ChannelSweep(
                    number=len(sweeps) + 1,
                    stimulus_names=(path.stem,),
                    channels=tuple(group),
                    no_current="no channel recorded a current in pA or nA",
                    start_s=float(reader.segment_t_start(0, segment)) if len(groups) == 1 else None,
                    continuous=segments == len(groups) == 1,
                )
            )
    return sweeps


def _repeats(channels: Sequence[RecordedChannel]) -> list[Sequence[RecordedChannel]]:
    """Cut columns that repeat their names and units, as episodes of old AxoGraph files do, into sweeps."""
    kinds = [(channel.name, channel.unit) for channel in channels]
    period = len(set(kinds))
    if period and len(kinds) % period == 0 and kinds == kinds[:period] * (len(kinds) // period):
        return [channels[first : first + period] for first in range(0, len(kinds), period)]
    return [channels]


def _channel(reader: Any, segment: int, row: Any) -> RecordedChannel:
    stream = [str(one["id"]) for one in reader.header["signal_streams"]].index(str(row["stream_id"]))
    in_stream = [one for one in reader.header["signal_channels"] if one["stream_id"] == row["stream_id"]]
    position = [str(one["id"]) for one in in_stream].index(str(row["id"]))

    def read() -> np.ndarray:
        try:
            stored = reader.get_analogsignal_chunk(
                block_index=0, seg_index=segment, stream_index=stream, channel_indexes=[position]
            )
        except Exception as error:
            raise SweepFault(f"the data of {row['name']} cannot be read ({error})") from error
        return stored[:, 0].astype(float) * float(row["gain"]) + float(row["offset"])

    return RecordedChannel(str(row["name"]).strip(), str(row["units"]), float(row["sampling_rate"]), read)
