"""The table of a recording: each sweep that was asked for, and what it is used for or why it is left out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = "held out"
"""Of a step that no stage of a fit is scored at, so that it can validate the models."""

SHOWN_REASONS = 6
SHOWN_SWEEPS = 12
SHOWN_LETTERS = 24


@dataclass(frozen=True)
class SweepRow:
    """One sweep of a recording; None where a sweep that is left out was not read that far.

    Attributes
    ----------
    sweep : int
    stimulus : str
    electrode : str
    amplitude_pA : float or None
        Height of the step.
    start_ms, stop_ms : float or None
        Of the step.
    holding_pA : float or None
        Current outside of the step, the bias current included.
    rest_mV : float or None
        Median voltage before the step.
    spikes, spikes_outside : int or None
        During the step, and before or after it.
    used_for : tuple of str
        The stages of a fit that it is a target of, or `HELD_OUT`; of a recording that no job reads, whether it spikes.
    left_out : str
        Why it cannot be used; empty where it can.
    """

    sweep: int
    stimulus: str
    electrode: str = ""
    amplitude_pA: float | None = None
    start_ms: float | None = None
    stop_ms: float | None = None
    holding_pA: float | None = None
    rest_mV: float | None = None
    spikes: int | None = None
    spikes_outside: int | None = None
    used_for: tuple[str, ...] = ()
    left_out: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of `HEAD`."""
        outside = f" (+{self.spikes_outside})" if self.spikes_outside else ""
        return (
            str(self.sweep),
            _short(re.split(r"[\\/]", self.stimulus.rstrip("\\/"))[-1]),
            _number(self.amplitude_pA, 1),
            "–".join(f"{ms:.0f}" for ms in (self.start_ms, self.stop_ms) if ms is not None),
            _number(self.holding_pA, 1),
            _number(self.rest_mV, 1),
            "" if self.spikes is None else f"{self.spikes}{outside}",
            f"left out: {self.left_out}" if self.left_out else ", ".join(self.used_for) or "not used",
        )


HEAD = ("sweep", "stimulus", "step, pA", "ms", "hold, pA", "rest, mV", "spikes", "used for")
NUMBERS = (0, 2, 3, 4, 5, 6)
"""Columns of numbers."""


def _short(name: str) -> str:
    return name if len(name) <= SHOWN_LETTERS else f"{name[: SHOWN_LETTERS - 2].rstrip()} …"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value + 0.0:.{digits}f}"


@dataclass(frozen=True)
class RecordingTable:
    """What a recording holds and what is used of it.

    Attributes
    ----------
    file : str
        Name of the file.
    rows : tuple of SweepRow
    about : str
        Electrode, sampling rate and the like.
    notes, warnings : tuple of str
        What was done, and what looks odd.
    """

    file: str
    rows: tuple[SweepRow, ...]
    about: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def used(self) -> int:
        """Sweeps that can be used."""
        return sum(not row.left_out for row in self.rows)

    @property
    def left_out(self) -> dict[int, str]:
        """Sweep -> why it is left out."""
        return {row.sweep: row.left_out for row in self.rows if row.left_out}

    @property
    def summary(self) -> str:
        """One line: how many sweeps are used, and why the others are not."""
        line = f"{self.file}: {self.used} of {len(self.rows)} sweeps used"
        line += f" ({self.about})" if self.about else ""
        alike: dict[str, list[int]] = {}
        for number, reason in self.left_out.items():  # reasons that differ in their numbers are told as one
            alike.setdefault(re.sub(r"\d+(\.\d+)?", "0", reason), []).append(number)
        told = [
            f"{listed_sweeps(sweeps)}: {self.left_out[sweeps[0]]}" for sweeps in list(alike.values())[:SHOWN_REASONS]
        ]
        told += [f"{len(alike) - SHOWN_REASONS} more reasons"] if len(alike) > SHOWN_REASONS else []
        return line + (f"; left out: {'; '.join(told)}" if told else "")

    def used_for(self, roles: Mapping[int, Sequence[str]]) -> "RecordingTable":
        """Return the table with what each sweep is used for by a fit."""
        rows = (row if row.left_out else replace(row, used_for=tuple(roles.get(row.sweep, ()))) for row in self.rows)
        return replace(self, rows=tuple(rows))

    def facts(self) -> dict[str, Any]:
        """Return what a log keeps: how many sweeps are used, why the others are not, notes and warnings."""
        return {
            "file": self.file,
            "sweeps": len(self.rows),
            "used": self.used,
            "left_out": {str(sweep): reason for sweep, reason in self.left_out.items()},
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Return a row a sweep, with the columns of `SweepRow`."""
        import pandas as pd

        names = [field.name for field in fields(SweepRow)]
        columns = {name: [getattr(row, name) for row in self.rows] for name in names}
        columns["used_for"] = [", ".join(used_for) for used_for in columns["used_for"]]
        return pd.DataFrame(columns)

    def __str__(self) -> str:
        lines = [self.summary, *(f"note: {note}" for note in self.notes)]
        lines += [f"warning: {warning}" for warning in self.warnings]
        cells = [HEAD, *(row.cells() for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
        for row in cells:
            padded = (
                c.rjust(w) if i in NUMBERS else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.cells()) + "</tr>" for row in self.rows
        )
        told = "".join(f"<p>{escape(text)}</p>" for text in (self.summary, *self.notes, *self.warnings))
        return f"{told}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def listed_sweeps(numbers: Sequence[int]) -> str:
    """Return "sweep 3" or "sweeps 3, 5, 7"; of many the first ones and how many more."""
    shown = ", ".join(map(str, numbers[:SHOWN_SWEEPS]))
    more = f" and {len(numbers) - SHOWN_SWEEPS} more" if len(numbers) > SHOWN_SWEEPS else ""
    return f"sweep{'s' if len(numbers) > 1 else ''} {shown}{more}"
