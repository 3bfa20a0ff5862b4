"""Read intracellular recordings in NWB 2, through pynwb."""

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.recordings.current_step import NotAStep, SeveralSteps, find_step
from neurofleet.neurosim.recordings.recorded_channels import ends_of_parts
from neurofleet.neurosim.recordings.recording_checks import rate_fault
from neurofleet.neurosim.recordings.sweep_entries import (
    NOT_CURRENT_CLAMP,
    SweepEntry,
    SweepFault,
    last_distinct_numbers,
    megaohms,
)

UNNAMED = {"", "na", "n/a", "none", "no description", "unknown"}
SAME_START_S = 0.001


class PairingFault(Exception):
    """Responses and stimuli of a file cannot be paired; the message says which, and what to do."""


class UnknownFilter(Exception):
    """Data of a file cannot be decompressed; the message says why, and what to do."""


@dataclass(frozen=True)
class _Part:
    """A run of samples of one series."""

    series: Any
    first: int
    count: int


@dataclass(frozen=True)
class _Pair:
    """A response and the current injected meanwhile, with their electrode, their row and its type of stimulus."""

    response: _Part
    stimulus: _Part | None
    electrode: Any
    row: int | None = None
    stimulus_type: str = ""


@contextmanager
def open_nwb2(path: Path) -> Iterator[list[SweepEntry]]:
    """Open an NWB 2 file and list its sweeps: each voltage response with the current injected meanwhile.

    Raises
    ------
    InputError
        When pynwb cannot read the file, or h5py its compressed data.
    """
    import pynwb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about cached specifications older than the installed ones
        try:
            io = pynwb.NWBHDF5IO(str(path), "r", load_namespaces=True)
        except Exception as error:  # whatever pynwb stumbles over in a damaged file
            raise _damaged(path, error) from error
        with io:
            try:
                entries = _entries(io.read())
            except (PairingFault, UnknownFilter) as fault:
                raise InputError(f"{path}: {fault}") from None
            except InputError:
                raise
            except Exception as error:
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
    _check_filters([*responses, *stimuli])
    pairs = _pairs_of_table(nwbfile, responses)
    done = {id(part.series) for pair in pairs for part in (pair.response, pair.stimulus) if part is not None}
    left = [[series for series in side if id(series) not in done] for side in (responses, stimuli)]
    pairs += _cut(_pairs_without_table(*left))
    return [_entry(number, pair) for number, pair in zip(_sweep_numbers(pairs), pairs, strict=True)]


def _pairs_of_table(nwbfile: Any, responses: Sequence[Any]) -> list[_Pair]:
    """Pairs as the table of intracellular recordings gives them, with the part of each series."""
    table = nwbfile.intracellular_recordings
    if table is None:
        return []
    known = {id(series) for series in responses}
    types = _stimulus_types(nwbfile)
    pairs = []
    columns = [list(table.category_tables[side][column]) for side, column in _TABLE_COLUMNS]
    for row, electrode, response, stimulus in zip(table.id[:], *columns, strict=True):
        if id(response.timeseries) in known and response.count > 0:
            part = _Part(stimulus.timeseries, stimulus.idx_start, stimulus.count) if stimulus.count > 0 else None
            whole = _Part(response.timeseries, response.idx_start, response.count)
            pairs.append(_Pair(whole, part, electrode, int(row), types.get(len(pairs), "")))
    return pairs


def _cut(pairs: Sequence[_Pair]) -> Iterator[_Pair]:
    """Cut what an electrode recorded without gaps, as one series, midway between its current steps."""
    recorded = Counter(id(pair.electrode) for pair in pairs)
    for pair in pairs:
        ends: list[int] = []
        stimulus = pair.stimulus
        if recorded[id(pair.electrode)] == 1 and stimulus is not None and stimulus.count == pair.response.count:
            with suppress(SweepFault):
                ends = _ends_of_steps(stimulus)
        if len(ends) < 2:
            yield pair
        for first, stop in pairwise([0, *ends]) if len(ends) > 1 else ():
            yield replace(
                pair,
                response=_Part(pair.response.series, first, stop - first),
                stimulus=_Part(stimulus.series, first, stop - first),
            )


def _ends_of_steps(stimulus: _Part) -> list[int]:
    current, rate = _values(stimulus, 1e9), _rate(stimulus.series)
    if rate_fault(rate) or not np.isfinite(current).all():
        return []
    try:
        find_step(current, rate)
    except SeveralSteps as several:
        return ends_of_parts(current, rate, several.longest.rest_nA)
    except NotAStep:
        pass
    return []


def _stimulus_types(nwbfile: Any) -> Mapping[int, str]:
    """Index of a row of the table of recordings -> type of stimulus of the sequential recording that it is part of."""
    simultaneous, sequential = nwbfile.icephys_simultaneous_recordings, nwbfile.icephys_sequential_recordings
    if simultaneous is None or sequential is None or "stimulus_type" not in sequential.colnames:
        return {}
    types = {}
    for number, kind in enumerate(sequential["stimulus_type"][:]):
        for together in _rows_of(sequential["simultaneous_recordings"], number):
            types.update(dict.fromkeys(_rows_of(simultaneous["recordings"], together), str(kind)))
    return types


def _rows_of(column: Any, number: int) -> list[int]:
    """Rows of another table that an entry of an indexed column refers to."""
    first = int(column.data[number - 1]) if number else 0
    return [int(row) for row in column.target.data[first : int(column.data[number])]]


_TABLE_COLUMNS = (("electrodes", "electrode"), ("responses", "response"), ("stimuli", "stimulus"))


def _pairs_without_table(responses: Sequence[Any], stimuli: Sequence[Any]) -> list[_Pair]:
    """Pair what no table pairs: by sweep number, else by start time, else by the numbers in the names.

    A stimulus belongs to a response of its own electrode; only one that no such response claims can be another's.

    Raises
    ------
    PairingFault
        Responses without a stimulus are left, and stimuli without a response: the numbers may be shifted.
    """
    partners: dict[int, list[Any]] = {}
    for electrode in {id(one.electrode): one.electrode for one in responses}.values():
        own = [[one for one in side if one.electrode is electrode] for side in (responses, stimuli)]
        partners |= _partners(*own)
    claimed = {id(one) for matches in partners.values() for one in matches}
    left = [one for one in responses if not partners[id(one)]]
    partners |= _partners(left, [one for one in stimuli if id(one) not in claimed])
    claimed = {id(one) for matches in partners.values() for one in matches}
    alone = [one for one in responses if not partners[id(one)] and _is_current_clamp(one)]
    unused = [one for one in stimuli if _is_current_stimulus(one) and id(one) not in claimed]
    if alone and unused:
        raise PairingFault(
            f"responses and stimuli cannot be paired: {_some(alone)} found no stimulus and {_some(unused)} no "
            "response by sweep number, start time or the numbers in the names, so that the other pairs may be "
            "wrong as well. Expected a stimulus for each response. List the pairs in the file's table of "
            "intracellular recordings, or give the two of a pair the same sweep_number, and write the file again."
        )
    return [
        _Pair(_whole(one), _whole(partners[id(one)][0]) if len(partners[id(one)]) == 1 else None, one.electrode)
        for one in responses
    ]


def _partners(responses: Sequence[Any], stimuli: Sequence[Any]) -> dict[int, list[Any]]:
    """Identity of each response -> the stimuli that may belong to it."""
    by_time = _partners_in_time(responses, stimuli)
    partners = {}
    for response in responses:
        if response.sweep_number is not None:
            found = [one for one in stimuli if one.sweep_number == response.sweep_number]
        elif by_time:
            found = by_time[id(response)]
        else:
            found = [one for one in stimuli if _digits(one.name) == _digits(response.name)]
        partners[id(response)] = found
    return partners


def _partners_in_time(responses: Sequence[Any], stimuli: Sequence[Any]) -> dict[int, list[Any]]:
    """Identity of each response -> the stimuli that begin with it; empty where the start times do not tell."""
    begins, starts = _distinct_starts_s(responses), _distinct_starts_s(stimuli)
    if begins is None or starts is None:
        return {}
    together = np.abs(np.subtract.outer(begins, starts)) <= SAME_START_S
    if not (together.any(axis=1).all() or together.any(axis=0).all()):
        return {}
    return {
        id(response): [series for series, matches in zip(stimuli, row, strict=True) if matches]
        for response, row in zip(responses, together, strict=True)
    }


def _distinct_starts_s(series: Sequence[Any]) -> list[float] | None:
    """When each begins; None where one does not tell, or they all begin at the same time."""
    starts = [start for one in series if (start := _start_s(_whole(one))) is not None]
    return starts if len(starts) == len(series) and len(set(starts)) == len(starts) >= 2 else None


def _some(series: Sequence[Any]) -> str:
    names = ", ".join(one.name for one in series[:3])
    return names + (f" and {len(series) - 3} more" if len(series) > 3 else "")


def _is_current_clamp(series: Any) -> bool:
    from pynwb.icephys import CurrentClampSeries, IZeroClampSeries

    return isinstance(series, CurrentClampSeries) and not isinstance(series, IZeroClampSeries)


def _is_current_stimulus(series: Any) -> bool:
    from pynwb.icephys import CurrentClampStimulusSeries

    return isinstance(series, CurrentClampStimulusSeries)


def _digits(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _whole(series: Any) -> _Part:
    return _Part(series, 0, len(series.data))


def _sweep_numbers(pairs: Sequence[_Pair]) -> list[int]:
    """Sweep numbers as stored, else from the names of the series, or the rows of the table.

    Sweeps that are parts of one series share its stored number and its name. Sweeps of several electrodes may
    share numbers.
    """
    series = [pair.response.series for pair in pairs]
    if len({id(one) for one in series}) < len(series):
        rows = [pair.row for pair in pairs]
        if len({row for row in rows if row is not None}) == len(rows):
            return [row for row in rows if row is not None]
        return list(range(len(rows)))
    stored = [one.sweep_number for one in series]
    if all(number is not None for number in stored):
        return [int(number) for number in stored]
    numbers = last_distinct_numbers([one.name for one in series])
    if numbers is not None:
        return [numbers[one.name] for one in series]
    counted: Counter[str] = Counter()
    electrodes = [pair.electrode.name for pair in pairs]
    named = {
        electrode: last_distinct_numbers(
            [one.name for one, of in zip(series, electrodes, strict=True) if of == electrode]
        )
        for electrode in dict.fromkeys(electrodes)
    }
    result = []
    for one, electrode in zip(series, electrodes, strict=True):
        own = named[electrode]
        result.append(counted[electrode] if own is None else own[one.name])
        counted[electrode] += 1
    return result


def _entry(number: int, pair: _Pair) -> SweepEntry:
    response, stimulus = pair.response, pair.stimulus
    names = _stimulus_names(pair)
    return SweepEntry(
        number=number,
        stimulus_name=names[0],
        aliases=tuple(names[1:]),
        read=lambda: _read(response, stimulus),
        electrode=str(pair.electrode.name),
        cell=str(pair.electrode.cell_id or ""),
        fault=_fault(response, stimulus),
        bias_current_nA=_scaled(response.series, "bias_current", 1e9),
        bridge_balance_MOhm=_scaled(response.series, "bridge_balance", 1e-6),
        access_resistance_MOhm=megaohms(pair.electrode.initial_access_resistance),
        capacitance_compensation_pF=_scaled(response.series, "capacitance_compensation", 1e12),
        response_start_s=_start_s(response),
        stimulus_start_s=None if stimulus is None else _start_s(stimulus),
    )


def _stimulus_names(pair: _Pair) -> list[str]:
    """Names of the stimulus, the best first: its description, the type in the table, then the names of the series.

    MIES adds the kind of output and a number to the names of its stimulus sets, and converters of ABF files write
    the protocol into the description of the series: both are known without, too.
    """
    series = [part.series for part in (pair.stimulus, pair.response) if part is not None]
    described = [str(one.stimulus_description or "").strip() for one in series]
    names = [*described, pair.stimulus_type.strip(), *(_protocol(str(one.description or "")) for one in series)]
    names = [name for name in names if name.casefold() not in UNNAMED]
    names += [re.sub(r"_DA_\d+$", "", name) for name in described if re.search(r"._DA_\d+$", name)]
    names += [re.sub(r"[\W_]*\d+$", "", series[0].name), *(one.name for one in series)]
    return list(dict.fromkeys(names))


def _protocol(description: str) -> str:
    match = re.fullmatch(r"Stim type:\s*(.+?)(\.pro)?", description.strip())
    return match[1] if match else ""


def _check_filters(series: Sequence[Any]) -> None:
    """Load the filters of hdf5plugin where data are compressed with one of them.

    Raises
    ------
    UnknownFilter
        A filter that neither h5py nor hdf5plugin has.
    """
    unknown = _unknown_filters(series)
    if unknown:
        with suppress(ModuleNotFoundError):
            import hdf5plugin  # noqa: F401  registers its filters

        unknown = _unknown_filters(series)
    if unknown:
        raise UnknownFilter(
            f"the data are compressed with {', '.join(unknown)}, which is not installed. Install it with pip install "
            "'neurofleet[formats]', or write the file again with gzip: h5repack -f GZIP=4 OLD NEW."
        )


def _unknown_filters(series: Sequence[Any]) -> list[str]:
    names = set()
    for one in series:
        if isinstance(one.data, h5py.Dataset):
            properties = one.data.id.get_create_plist()
            for position in range(properties.get_nfilters()):
                code, _, _, name = properties.get_filter(position)
                if not h5py.h5z.filter_avail(code):
                    names.add(f"{name.decode('ascii', 'replace') or 'a filter'} (HDF5 filter {code})")
    return sorted(names)


def _fault(response: _Part, stimulus: _Part | None) -> str:
    if not _is_current_clamp(response.series):
        return f"{NOT_CURRENT_CLAMP}: a {type(response.series).__name__}"
    if stimulus is not None and not _is_current_stimulus(stimulus.series):
        return f"{NOT_CURRENT_CLAMP}: the stimulus is a {type(stimulus.series).__name__}"
    return ""


def _scaled(series: Any, name: str, per_SI: float) -> float | None:
    """A number that only some kinds of series have; None where it is missing or NaN."""
    value = getattr(series, name, None)
    return None if value is None or not np.isfinite(value) else float(value) * per_SI


def _start_s(part: _Part) -> float | None:
    """When a part begins; None where neither a start time nor time stamps are stored."""
    series = part.series
    if series.timestamps is not None:
        return float(series.timestamps[part.first]) if part.first < len(series.timestamps) else None
    if series.starting_time is None or not series.rate:
        return None
    return float(series.starting_time + part.first / series.rate)


def _read(response: _Part, stimulus: _Part | None) -> tuple[np.ndarray, np.ndarray, float]:
    if stimulus is None:
        raise SweepFault("no current stimulus series belongs to it")
    rate = _rate(response.series)
    if not np.isclose(_rate(stimulus.series), rate, rtol=1e-6):
        raise SweepFault(f"current ({_rate(stimulus.series):g} Hz) and voltage ({rate:g} Hz) differ in sampling rate")
    return _values(stimulus, 1e9), _values(response, 1e3), rate


def _values(part: _Part, per_SI: float) -> np.ndarray:
    """Values of a part: stored x conversion + offset is SI (volts or amperes)."""
    series = part.series
    if part.first < 0 or part.first + part.count > len(series.data):
        raise SweepFault(
            f"the table asks for samples {part.first} to {part.first + part.count - 1} of {series.name}, which has "
            f"{len(series.data)}"
        )
    try:
        data = np.asarray(series.data[part.first : part.first + part.count], dtype=float)
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        raise SweepFault(f"the data of {series.name} cannot be read ({error})") from error
    if data.ndim == 2 and data.shape[1] == 1:
        data = data[:, 0]
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
