"""Ctrl-C and SIGTERM as one interruption, which is not lost where Python drops an exception."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_interrupted = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM, with which job systems end a process, do what Ctrl-C does, and remember either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    _interrupted.clear()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_if_interrupted() -> None:
    """Raise what was asked for: an exception out of a finaliser or a callback of C code is lost.

    Raises
    ------
    KeyboardInterrupt
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt
