"""The host's end of a zygote: starts it, hands it batches, reads its outcomes, ends it."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from cluster.frames import BrokenFrame, FrameReader, frame
from cluster.outcome import Outcome
from cluster.zygote import GRACE_S, LONGEST_MESSAGE_BYTES, exit_in_words

SILENCE_S = 10.0
"""How much later than promised a zygote may answer before it is taken for hung."""

SEND_TIMEOUT_S = 60.0

# Not ``python -m``, which would put the working folder first and the importer's own paths nowhere.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from cluster.zygote import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_OUTPUT_TAIL_BYTES = 2000


class EngineDied(Exception):
    """The zygote ended, or does not answer. Says nothing about the individual at work."""


class EngineNotBuilt(Exception):
    """The engine's factory raised; the message is why."""


class EngineProcess:
    """A zygote that builds one engine.

    It ends with the *thread* that makes it, so that must be one that lives as long as the process.

    Parameters
    ----------
    factory : str
    payload : bytes
        The pickled argument of the factory.
    """

    def __init__(self, factory: str, payload: bytes) -> None:
        ours, theirs = socket.socketpair()
        output, their_output = os.pipe()
        environment = os.environ | dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONUNBUFFERED"), "1"
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=their_output,
                stderr=their_output,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(their_output)
        ours.settimeout(SEND_TIMEOUT_S)
        self._socket = ours
        self._output = output
        os.set_blocking(output, False)
        self._output_tail = b""
        self._reader = FrameReader(ours.fileno(), LONGEST_MESSAGE_BYTES)
        self._messages: list[tuple[str, Any]] = []
        self._send((factory, payload))
        self.isolation = ""

    def wait_built(self, timeout_s: float) -> None:
        """Wait until the engine is built.

        Raises
        ------
        EngineNotBuilt
            If the factory raised, or took longer.
        EngineDied
            If the process ended meanwhile.
        """
        try:
            kind, content = self._next(timeout_s)
        except TimeoutError:
            raise EngineNotBuilt(f"not built within {timeout_s:g} s") from None
        if kind == "failed":
            raise EngineNotBuilt(content)
        self.isolation = content

    def run(
        self, individuals: Sequence[Any], deadlines_s: Sequence[float], memory_limit_mb: int | None
    ) -> Iterator[Outcome | None]:
        """Evaluate a batch in one child; yield outcomes as they come.

        Fewer outcomes than individuals mean that the child had to be given up: the rest is to be run
        again, and one by one if None is yielded last, since nobody knows which of them was the cause.

        Raises
        ------
        EngineDied
        """
        self._output_tail = b""
        self._send((tuple(deadlines_s), memory_limit_mb, pickle.dumps(list(individuals))))
        longest_s = max(deadlines_s) + GRACE_S + SILENCE_S
        while True:
            try:
                kind, content = self._next(longest_s)
            except TimeoutError:
                raise EngineDied("its engine process stopped answering") from None
            if kind == "done":
                if not content:
                    yield None
                return
            yield self._outcome(content)

    def take_printed(self) -> str:
        """Return the end of what the engine printed in this batch, each piece once."""
        self._drain_output()
        printed, self._output_tail = self._output_tail, b""
        return printed.decode(errors="replace").strip()

    def kill(self) -> None:
        """End the zygote and whatever it has started; whoever waits for it gets `EngineDied`."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the zygote, and give back what this process holds of it."""
        self.kill()
        self._process.wait()
        self._socket.close()
        os.close(self._output)

    def _outcome(self, content: bytes) -> Outcome:
        try:
            outcome = pickle.loads(content)
        except Exception as error:  # noqa: BLE001  a process border: what a child wrote may be anything
            return Outcome("crash", f"its value cannot be read: {type(error).__name__}: {error}")
        if outcome.status == "crash" and (said := self._last_words()):
            return Outcome("crash", f"{outcome.reason}; it said: {said}", outcome.seconds)
        return outcome

    def _send(self, message: Any) -> None:
        try:
            self._socket.sendall(frame(pickle.dumps(message)))
        except OSError as error:
            raise EngineDied(f"its engine process does not listen: {error}") from error

    def _next(self, timeout_s: float) -> tuple[str, Any]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._output, select.POLLIN)
        give_up = time.monotonic() + timeout_s
        while not self._messages:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            ready = dict(poll.poll(left_s * 1000.0))
            if self._output in ready and not self._drain_output():
                poll.unregister(self._output)
            if self._socket.fileno() in ready:
                try:
                    self._messages += [pickle.loads(frame) for frame in self._reader.receive()]
                except (OSError, BrokenFrame) as error:
                    raise EngineDied(f"its engine process broke off: {error}") from error
                if self._reader.ended and not self._messages:
                    raise EngineDied(self._how_it_ended())
        return self._messages.pop(0)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(SILENCE_S)
        except subprocess.TimeoutExpired:
            return "its engine process hung up"
        said = self._last_words()
        return f"its engine process {exit_in_words(code)}" + (f"; it said: {said}" if said else "")

    def _drain_output(self) -> bool:
        """Keep the end of what the zygote and its children print. False when nobody can print any more."""
        try:
            printed = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return True
        self._output_tail = (self._output_tail + printed)[-_OUTPUT_TAIL_BYTES:]
        return bool(printed)

    def _last_words(self) -> str:
        self._drain_output()
        lines = self._output_tail.decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
