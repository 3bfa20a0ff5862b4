"""The parts of a run that several drivers share, and what the files are called of which each has its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

_SUFFIX = re.compile(r"-(\d+)-of-(\d+)(?:\.[a-z]+)?$")


@dataclass(frozen=True)
class Part:
    """One of `of` parts of a run, counted from 1."""

    number: int = 1
    of: int = 1

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return every `of`-th item: the parts together have each once."""
        return list(items[self.number - 1 :: self.of])

    def file(self, name: str) -> str:
        """Return what a file is called of which each part has its own, such as ``events-2-of-5.jsonl``."""
        if self.of == 1:
            return name
        stem, dot, ending = name.rpartition(".")
        suffix = f"-{self.number}-of-{self.of}"
        return f"{stem}{suffix}.{ending}" if stem else f"{name}{suffix}"

    @classmethod
    def in_name(cls, name: str) -> Part:
        """Return the part whose file has this name."""
        match = _SUFFIX.search(name)
        return cls(int(match[1]), int(match[2])) if match else cls()


WHOLE = Part()


def files_of_parts(name: str, names: Sequence[str]) -> list[str]:
    """Return those of some names that are a file of the whole run or of one of its parts."""
    return [other for other in names if Part.in_name(other).file(name) == other]
