"""A job file that is written for somebody to read: keys in order, and comments with what was seen."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from neurofleet.wording import agreeing

WIDTH = 110


class Draft:
    """The lines of a job file.

    Parameters
    ----------
    kind : str
    folder : Path
        Where the job file is going to be; paths below it are written relative to it.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.folder = folder.resolve()
        self.lines: list[str] = []
        self.put("kind", kind)

    @property
    def text(self) -> str:
        """The job file."""
        return "\n".join(self.lines) + "\n"

    def say(self, *sentences: str, indent: str = "") -> None:
        """Add comments."""
        for sentence in sentences:
            self.lines += wrap(
                agreeing(sentence),
                WIDTH,
                initial_indent=f"{indent}# ",
                subsequent_indent=f"{indent}#   ",
                break_long_words=False,
            )

    def put(self, key: str, value: Any, note: str = "", indent: str = "") -> None:
        """Add a key on one line, with a comment behind it."""
        line, note = f"{indent}{key}: {flow(value)}", agreeing(note)
        if note and len(line) + len(note) > WIDTH:
            self.say(note, indent=indent.replace("-", " "))
            note = ""
        self.lines.append(f"{line}   # {note}" if note else line)

    def path(self, path: Path) -> str:
        """Return a path as the job file has it."""
        place = path.resolve()
        below = place.is_relative_to(self.folder)
        return os.path.relpath(place, self.folder) if below else str(place)


def flow(value: Any) -> str:
    """Return a value as YAML writes it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=100_000, allow_unicode=True, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def as_id(name: str) -> str:
    """Return a file's name as the id of a cell."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "cell"


def partner(path: Path, others: Sequence[Path]) -> Path | None:
    """Return the file that belongs to another by its name or its folder; None where that cannot be told."""
    if len(others) == 1:
        return others[0]
    for belongs in (
        lambda other: other.stem == path.stem,
        lambda other: path.stem.startswith(other.stem) or other.stem.startswith(path.stem),
        lambda other: other.parent == path.parent,
    ):
        found = [other for other in others if belongs(other)]
        if len(found) == 1:
            return found[0]
    return None
