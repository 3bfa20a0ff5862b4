"""Messages over pipes and sockets: a length, then that many bytes.

The reader never waits for the rest of a message, so that a writer that is stopped half way cannot hold it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

_LENGTH = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 20


class BrokenFrame(Exception):
    """The bytes are no message: their writer has gone wrong."""


def frame(content: bytes) -> bytes:
    """One message as it is sent."""
    return _LENGTH.pack(len(content)) + content


def write_frame(descriptor: int, content: bytes) -> None:
    """Write one message, waiting as long as the reader needs."""
    view = memoryview(frame(content))
    while view:
        view = view[os.write(descriptor, view) :]


class FrameReader:
    """Collects what arrives at a descriptor into whole messages.

    Parameters
    ----------
    descriptor : int
    longest_bytes : int
        A message that claims to be longer is a `BrokenFrame`.
    """

    def __init__(self, descriptor: int, longest_bytes: int) -> None:
        self.descriptor = descriptor
        self._longest_bytes = longest_bytes
        self._received = bytearray()
        self.ended = False

    def receive(self) -> Iterator[bytes]:
        """Read once, which waits only if nothing is there, and yield the messages that are complete."""
        received = os.read(self.descriptor, _CHUNK_BYTES)
        self.ended = not received
        self._received += received
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > self._longest_bytes:
                raise BrokenFrame(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            content = bytes(self._received[_LENGTH.size : end])
            del self._received[:end]
            yield content
