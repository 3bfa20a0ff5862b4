"""What a deployment file can be told: options that are read and checked before they reach a template."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.errors import ClusterError

Value = str | int | tuple[str, ...] | None


class OptionRefused(ClusterError):
    """A deployment file was asked for with options that do not make one."""

    exit_code = 2


@dataclass(frozen=True)
class Text:
    """An option whose value is written into the file as it is, so only harmless characters pass.

    Attributes
    ----------
    name : str
        As Python and the templates spell it.
    help : str
        One line for ``--help``.
    pattern : str
        Regular expression of the whole value.
    expected : str
        The pattern in words, for the message.
    default : str, callable or None
        What holds without the option; called for its value if it can be.
    required : bool
        Whether there is no file without it.
    many : bool
        Whether it may be given several times; its value is a tuple then.
    """

    name: str
    help: str
    pattern: str
    expected: str
    default: str | Callable[[], str] | None = None
    required: bool = False
    many: bool = False

    def read(self, given: Value | Sequence[str]) -> Value:
        """Return the checked value, or raise `OptionRefused`."""
        if self.many:
            values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
            for value in values:
                self._check(value)
            return values
        if given is None:
            given = self.default() if callable(self.default) else self.default
        if given is not None:
            self._check(given)
        return given if isinstance(given, str) else None

    def _check(self, value: object) -> None:
        if not (isinstance(value, str) and re.fullmatch(self.pattern, value, re.ASCII)):
            raise OptionRefused(f"{flag(self.name)} {value!r}: expected {self.expected}.")


@dataclass(frozen=True)
class Count:
    """An option that is a whole number within bounds.

    Attributes
    ----------
    name, help : str
        As of `Text`.
    default, smallest, largest : int
        The value without the option, and the bounds, which it may reach.
    """

    name: str
    help: str
    default: int
    smallest: int
    largest: int
    required: bool = False
    many: bool = False

    def read(self, given: Value | Sequence[str]) -> Value:
        """Return the checked value, or raise `OptionRefused`."""
        value = self.default if given is None else given
        if not isinstance(value, int) or not self.smallest <= value <= self.largest:
            raise OptionRefused(
                f"{flag(self.name)} {value}: expected a whole number from {self.smallest} to {self.largest}."
            )
        return value


Option = Text | Count


def flag(name: str) -> str:
    """Return an option as the command line spells it."""
    return "--" + name.replace("_", "-")
