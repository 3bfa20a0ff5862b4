"""What a recording file lists of its sweeps before any data are read, and which of them were asked for."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from neurofleet.errors import InputError, did_you_mean

SMALLEST_OHM = 10_000.0
"""A resistance below it is no number of ohms."""


NOT_CURRENT_CLAMP = "not current clamp"
"""How the reason begins where a sweep was recorded in another mode."""


class SweepFault(ValueError):
    """A sweep that cannot be used; the message says why."""


@dataclass(frozen=True)
class SweepEntry:
    """One sweep of a file, its data still on disk.

    Attributes
    ----------
    number : int
    stimulus_name : str
        The name under which the sweep is listed.
    read : callable
        Returns current (nA, without the bias current), voltage (mV) and sampling rate (Hz), or raises SweepFault.
    aliases : tuple of str
        Other names by which the stimulus may be asked for.
    electrode : str
        The electrode (pipette, headstage, channel) that recorded it; empty where the file does not tell.
    cell : str
        The cell that it was recorded from; empty where the file does not tell.
    fault : str
        Why the sweep cannot be used, where that is known without its data: it is no current clamp.
    bias_current_nA : float or None
        Current that the amplifier added to the command; None where it is not stored.
    bridge_balance_MOhm, access_resistance_MOhm, capacitance_compensation_pF : float or None
        Settings and measurements of the amplifier; None where they are not stored.
    response_start_s, stimulus_start_s : float or None
        When the voltage and the current begin, on one clock; None where it is not stored.
    """

    number: int
    stimulus_name: str
    read: Callable[[], tuple[np.ndarray, np.ndarray, float]]
    aliases: tuple[str, ...] = field(default=())
    electrode: str = ""
    cell: str = ""
    fault: str = ""
    bias_current_nA: float | None = None
    bridge_balance_MOhm: float | None = None
    access_resistance_MOhm: float | None = None
    capacitance_compensation_pF: float | None = None
    response_start_s: float | None = None
    stimulus_start_s: float | None = None

    def matches(self, pattern: str) -> bool:
        """True when a name of the stimulus equals or fits the pattern, whatever the case."""
        return any(_fits(name, pattern) for name in (self.stimulus_name, *self.aliases))


def select_entries(entries: Iterable[SweepEntry], stimuli: Sequence[str], path: Path) -> list[SweepEntry]:
    """Choose the sweeps whose stimulus was asked for, in order of number.

    Raises
    ------
    InputError
        When the file holds no sweeps, or one of the names matches none of them.
    """
    entries = sorted(entries, key=lambda entry: entry.number)
    if not entries:
        raise InputError(f"{path}: expected current-clamp sweeps, found none. Check that this is the right file.")
    if not stimuli:
        raise InputError(f"{path}: `stimuli` is empty; name at least one of: {_names_with_counts(entries)}.")
    unmatched = [name for name in stimuli if not any(entry.matches(name) for entry in entries)]
    if unmatched:
        names = ", ".join(f'"{name}"' for name in unmatched)
        raise InputError(
            f"{path}: no sweep has the stimulus {names}; the file holds {_names_with_counts(entries)}. "
            "Set `stimuli` to names or patterns among these."
        )
    return [entry for entry in entries if any(entry.matches(name) for name in stimuli)]


def of_one_electrode(
    entries: Sequence[SweepEntry], electrode: str | None, exclude: Collection[int], path: Path
) -> list[SweepEntry]:
    """Choose the sweeps of an electrode; without its name there may be only one that recorded in current clamp.

    Raises
    ------
    InputError
        When no electrode has that name, or there are several and none was named.
    """
    recorded = Counter(entry.electrode for entry in entries if not entry.fault and entry.number not in exclude)
    listed = ", ".join(f'"{name or "unnamed"}" ({count} sweeps)' for name, count in sorted(recorded.items()))
    if electrode is not None:
        chosen = [entry for entry in entries if _fits(entry.electrode, electrode)]
        if not chosen:
            raise InputError(
                f'{path}: no electrode "{electrode}"{did_you_mean(electrode, recorded)}; the sweeps asked for were '
                f"recorded with {listed or 'none in current clamp'}. Correct `electrode:`."
            )
        return chosen
    if len(recorded) > 1:
        first = min(recorded)
        raise InputError(
            f"{path}: expected sweeps of one cell, found those of {len(recorded)} electrodes: {listed}. Choose one "
            f"with `electrode: {first}` in the job's cell; where all are of one cell, `electrode: '*'` takes them all."
        )
    return list(entries)


def _fits(name: str, pattern: str) -> bool:
    """Whether a name equals or fits a shell pattern, whatever the case."""
    name, pattern = name.casefold(), pattern.casefold()
    return name == pattern or fnmatchcase(name, pattern)


def _names_with_counts(entries: Sequence[SweepEntry]) -> str:
    counts = Counter(entry.stimulus_name for entry in entries).most_common()
    listed = ", ".join(f'"{name}" ({count})' for name, count in counts[:20])
    return listed + (f" and {len(counts) - 20} more names" if len(counts) > 20 else "")


def last_distinct_numbers(names: Sequence[str]) -> dict[str, int] | None:
    """Number each name by the last number inside it that differs from name to name.

    `Sweep_12` gives 12; of `data_00012_AD0` and `data_00013_AD0` the numbers 12 and 13 are taken. Names that
    hold no such number give None.
    """
    parts = {name: [int(digits) for digits in re.findall(r"\d+", name)] for name in names}
    for position in range(1, 1 + min((len(numbers) for numbers in parts.values()), default=0)):
        numbered = {name: numbers[-position] for name, numbers in parts.items()}
        if len(set(numbered.values())) == len(names):
            return numbered
    return None


def megaohms(value: object) -> float | None:
    """Read a resistance that was stored as a number or as text, with or without its unit; None where there is none.

    A number without a unit is ohms, as NWB has it, unless it is so small that it can only be megaohms.
    """
    match = re.search(r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*([kKMG]?)(?=\s*(?:[oO]hm|Ω|\u2126|$))", str(value))
    if match is None or not np.isfinite(number := float(match[1])) or number <= 0:
        return None
    if match[2]:
        return number * {"k": 1e-3, "K": 1e-3, "M": 1.0, "G": 1e3}[match[2]]
    return number if number < SMALLEST_OHM else number * 1e-6
