"""One object of an object store that several drivers may want to write, each only in place of what it has read."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from neurofleet.cluster.store.folders import RemoteFolder


class Seen(NamedTuple):
    """An object as it was read or written: its content, and what a further write has to name."""

    content: bytes
    version: Any


class Changed(Exception):
    """The object is not as it was read any more."""


class LeaseObject(Protocol):
    """An object that several drivers may want to write.

    Attributes
    ----------
    atomic : bool
        Whether the store itself refuses a write that names another version than there is.
    """

    atomic: bool

    def read(self) -> Seen | None:
        """Return what is there; None if nothing is."""

    def write(self, content: bytes, before: Seen | None) -> Seen:
        """Replace what was read, None where there was nothing.

        Raises
        ------
        Changed
            If it is not there any more as it was read.
        """


class PlainObject:
    """An object of any store: it is read again before it is written, which two drivers can do at the same moment."""

    atomic = False

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self._folder = folder
        self._name = name

    def read(self) -> Seen | None:
        content = self._folder.get(self._name)
        return None if content is None else Seen(content, content)

    def write(self, content: bytes, before: Seen | None) -> Seen:
        if self.read() != before:
            raise Changed
        self._folder.put(self._name, content)
        return Seen(content, content)
