"""Read intracellular recordings in NWB 2, through pynwb."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry, SweepFault, last_distinct_numbers

UNNAMED = {"", "na", "n/a", "none", "no description", "unknown"}


@dataclass(frozen=True)
class _Part:
    """A run of samples of one series."""

    series: Any
    first: int
    count: int


@contextmanager
def open_nwb2(path: Path) -> Iterator[list[SweepEntry]]:
    """Open an NWB 2 file and list its sweeps: each voltage response with the current injected meanwhile.

    Raises
    ------
    InputError
        When pynwb cannot read the file.
    """
    import pynwb
    from hdmf.build.errors import BuildError, ConstructError  # loads zarr, and every engine process would

    unreadable = (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        BuildError,
        ConstructError,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about cached specifications older than the installed ones
        try:
            io = pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True)
        except unreadable as error:
            raise _damaged(path, error) from error
        with io:
            try:
                entries = _entries(io.read())
            except unreadable as error:
                raise _damaged(path, error) from error
            yield entries


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f"{path}: expected an NWB 2 file, but it cannot be read ({reason}); it is damaged or not valid NWB. "
        "Check it with `python -m pynwb.validate`, or copy it again from its source."
    )


def _entries(nwbfile: Any) -> list[SweepEntry]:
    from pynwb.icephys import CurrentClampStimulusSeries, PatchClampSeries

    responses = [
        series
        for series in nwbfile.acquisition.values()
        if isinstance(series, PatchClampSeries) and not isinstance(series, CurrentClampStimulusSeries)
    ]
    stimuli = [series for series in nwbfile.stimulus.values() if isinstance(series, PatchClampSeries)]
    pairs = _pairs_of_table(nwbfile, responses)
    pairs += _pairs_by_number(responses, stimuli, {id(response.series) for response, _ in pairs})
    numbers = _sweep_numbers([response for response, _ in pairs])
    shared = Counter(numbers)
    return [
        _entry(number, response, stimulus, shared[number])
        for number, (response, stimulus) in zip(numbers, pairs, strict=True)
    ]


def _pairs_of_table(nwbfile: Any, responses: Sequence[Any]) -> list[tuple[_Part, _Part | None]]:
    """Pairs as the table of intracellular recordings gives them, with the part of each series."""
    table = nwbfile.intracellular_recordings
    if table is None:
        return []
    known = {id(series) for series in responses}
    pairs = []
    references = (table.category_tables[side][column] for side, column in _TABLE_COLUMNS)
    for response, stimulus in zip(*references, strict=True):
        if id(response.timeseries) in known and response.count > 0:
            part = _Part(stimulus.timeseries, stimulus.idx_start, stimulus.count) if stimulus.count > 0 else None
            pairs.append((_Part(response.timeseries, response.idx_start, response.count), part))
    return pairs


_TABLE_COLUMNS = (("responses", "response"), ("stimuli", "stimulus"))


def _pairs_by_number(
    responses: Sequence[Any], stimuli: Sequence[Any], done: set[int]
) -> list[tuple[_Part, _Part | None]]:
    """Pair what no table pairs: by sweep number (and electrode), else by the numbers in the names."""
    pairs = []
    for response in responses:
        if id(response) in done:
            continue
        if response.sweep_number is not None:
            partners = [series for series in stimuli if series.sweep_number == response.sweep_number]
            if len(partners) > 1:
                partners = [series for series in partners if series.electrode is response.electrode]
        else:
            partners = [series for series in stimuli if _digits(series.name) == _digits(response.name)]
        stimulus = partners[0] if len(partners) == 1 else None
        pairs.append((_whole(response), _whole(stimulus) if stimulus is not None else None))
    return pairs


def _digits(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _whole(series: Any) -> _Part:
    return _Part(series, 0, len(series.data))


def _sweep_numbers(responses: Sequence[_Part]) -> list[int]:
    """Sweep numbers as stored, else from the names of the series."""
    stored = [part.series.sweep_number for part in responses]
    if all(number is not None for number in stored):
        return [int(number) for number in stored]
    named = last_distinct_numbers([part.series.name for part in responses])
    return [named[part.series.name] for part in responses]


def _entry(number: int, response: _Part, stimulus: _Part | None, sharing: int) -> SweepEntry:
    described = [part.series.stimulus_description for part in (stimulus, response) if part is not None]
    names = [str(name).strip() for name in described if name and str(name).strip().casefold() not in UNNAMED]
    series_names = [part.series.name for part in (stimulus, response) if part is not None]
    names = list(dict.fromkeys([*names, re.sub(r"[\W_]*\d+$", "", series_names[0]), *series_names]))
    return SweepEntry(
        number=number,
        stimulus_name=names[0],
        aliases=tuple(names[1:]),
        read=lambda: _read(response, stimulus, sharing),
    )


def _read(response: _Part, stimulus: _Part | None, sharing: int) -> tuple[np.ndarray, np.ndarray, float]:
    from pynwb.icephys import CurrentClampSeries, CurrentClampStimulusSeries, IZeroClampSeries

    if not isinstance(response.series, CurrentClampSeries) or isinstance(response.series, IZeroClampSeries):
        raise SweepFault(f"not current clamp: a {type(response.series).__name__}")
    if sharing > 1:
        raise SweepFault(f"{sharing} recordings share this sweep number (several cells in one file?)")
    if stimulus is None:
        raise SweepFault("no current stimulus series belongs to it")
    if not isinstance(stimulus.series, CurrentClampStimulusSeries):
        raise SweepFault(f"not current clamp: the stimulus is a {type(stimulus.series).__name__}")
    rate = _rate(response.series)
    if not np.isclose(_rate(stimulus.series), rate, rtol=1e-6):
        raise SweepFault(f"current ({_rate(stimulus.series):g} Hz) and voltage ({rate:g} Hz) differ in sampling rate")
    return _values(stimulus, 1e9), _values(response, 1e3), rate


def _values(part: _Part, per_SI: float) -> np.ndarray:
    """Values of a part: stored x conversion + offset is SI (volts or amperes)."""
    series = part.series
    try:
        data = np.asarray(series.data[part.first : part.first + part.count], dtype=float)
    except (OSError, RuntimeError, ValueError) as error:
        raise SweepFault(f"the data of {series.name} cannot be read ({error})") from error
    if data.ndim != 1:
        raise SweepFault(f"the data of {series.name} have {data.ndim} dimensions instead of one")
    # The factors are joined first: mV stored with conversion 0.001 then come back unrounded.
    offset = series.offset if series.offset is not None else 0.0
    return data * (series.conversion * per_SI) + offset * per_SI


def _rate(series: Any) -> float:
    """Sampling rate in Hz, from the time stamps where no rate is stored."""
    if series.rate:
        return float(series.rate)
    if series.timestamps is not None and len(series.timestamps) > 1:
        intervals = np.diff(np.asarray(series.timestamps[:], dtype=float))
        if intervals.min() > 0 and np.ptp(intervals) <= 0.01 * intervals.mean():
            return float(1.0 / intervals.mean())
    raise SweepFault(f"{series.name} has no sampling rate (or uneven time stamps)")
