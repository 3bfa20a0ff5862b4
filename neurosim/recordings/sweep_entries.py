"""What a recording file lists of its sweeps before any data are read, and which of them were asked for."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from neurofleet.errors import InputError


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
        Returns current (nA), voltage (mV) and sampling rate (Hz), or raises SweepFault.
    aliases : tuple of str
        Other names by which the stimulus may be asked for.
    """

    number: int
    stimulus_name: str
    read: Callable[[], tuple[np.ndarray, np.ndarray, float]]
    aliases: tuple[str, ...] = field(default=())

    def matches(self, pattern: str) -> bool:
        """True when a name of the stimulus equals or fits the pattern, whatever the case."""
        pattern = pattern.casefold()
        names = [name.casefold() for name in (self.stimulus_name, *self.aliases)]
        return any(name == pattern or fnmatchcase(name, pattern) for name in names)


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


def _names_with_counts(entries: Sequence[SweepEntry]) -> str:
    counts = Counter(entry.stimulus_name for entry in entries).most_common()
    listed = ", ".join(f'"{name}" ({count})' for name, count in counts[:20])
    return listed + (f" and {len(counts) - 20} more names" if len(counts) > 20 else "")


def last_distinct_numbers(names: Sequence[str]) -> dict[str, int]:
    """Number each name by the last number inside it that differs from name to name.

    `Sweep_12` gives 12; of `data_00012_AD0` and `data_00013_AD0` the numbers 12 and 13 are taken. Names that
    hold no such number are counted from 0.
    """
    parts = {name: [int(digits) for digits in re.findall(r"\d+", name)] for name in names}
    for position in range(1, 1 + min((len(numbers) for numbers in parts.values()), default=0)):
        numbered = {name: numbers[-position] for name, numbers in parts.items()}
        if len(set(numbered.values())) == len(names):
            return numbered
    return {name: index for index, name in enumerate(names)}
