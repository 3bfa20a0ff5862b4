"""How text that people read says numbers, applied where it leaves the program: errors, the terminal, reports."""

import math
import re
from collections.abc import Iterable

SHOWN = 8

_THINGS = (
    "animals assets batches blocks branches bytes cells channels checks classes classifiers clusters columns "
    "compartments copies cores coordinates curves days draws electrodes epochs errors evaluations faults "
    "features files finalists folds frames generations genes groups hosts hours individuals intervals jobs "
    "labels layers letters lines logs machines minutes models months names networks neurons nodes objectives "
    "observations parameters pieces points ports processes protocols pulses records recordings regions repeats "
    "rows runs samples seconds seeds segments sessions shuffles simulations sites spikes splits stages steps "
    "stimuli sweeps synapses targets tests times traces trainings trees trials types units values views "
    "waveforms workers"
).split()
_SINGULAR = {"stimuli": "stimulus", "copies": "copy"}
_VERBS = {"are": "is", "have": "has", "were": "was", "lie": "lies", "need": "needs", "lack": "lacks", "occur": "occurs"}
_NUMBERED = frozenset(
    "animal block cell channel column electrode epoch fold generation group individual layer line member model number "
    "part point rank repeat row sample seed session stage step sweep trial type unit value version worker".split()
)
"""What is called by its number: in ``sweep 1 spikes``, 1 is no number of spikes."""
_ONE = re.compile(
    r"(?<![\w.,/×-])1 ((?!(?:and|at|by|for|from|in|of|or|than|to)\b)[A-Za-z-]+ )?"
    rf"({'|'.join(_THINGS)})\b(?: ({'|'.join(_VERBS)})\b)?"
)


def told_once(notes: Iterable[str]) -> list[str]:
    """Return notes with those that differ in the file alone as one: ``a.npz (and 4 more): not used: depth.``.

    Parameters
    ----------
    notes : iterable of str
        ``FILE: what is to be known``, or a sentence of its own.
    """
    files: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        file, colon, rest = note.partition(": ")
        files.setdefault(rest if colon else note, []).append(file if colon else "")
    return [
        f"{first}{f' (and {len(more)} more)' if more else ''}: {rest}" if first else rest
        for rest, (first, *more) in files.items()
    ]


def agreeing(text: str) -> str:
    """Return a text in which one thing is one: ``1 cells are`` becomes ``1 cell is``."""
    return _ONE.sub(_singular, text)


def _singular(found: re.Match[str]) -> str:
    before = found.string[: found.start()].split()
    if before and before[-1].lower() in _NUMBERED:
        return found[0]
    kind, things, verb = found.groups()
    thing = _SINGULAR.get(things) or re.sub(r"(?<=ch|ss)es$|s$", "", things)
    return f"1 {kind or ''}{thing}{f' {_VERBS[verb]}' if verb else ''}"


def listed(names: Iterable[object], most: int = SHOWN) -> str:
    """Return names with commas; of many the first, and how many more."""
    words = [*map(str, names)]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def duration(seconds: float) -> str:
    """Return a duration for display."""
    if not math.isfinite(seconds):
        return "unknown time"
    if 0 < seconds < 1:
        return "less than 1 s"
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {secs} s" if minutes else f"{secs} s"


def time_left(seconds: float) -> str:
    """Return how long something takes from now on, for display; nothing at its end."""
    if seconds <= 0:
        return ""
    return f"{'' if seconds < 1 else 'about '}{duration(seconds)} left"
