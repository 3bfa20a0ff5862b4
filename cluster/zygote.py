"""The helper process that holds a built engine and forks a disposable child for every evaluation.

It is single-threaded and imports nothing but the engine's own module, so that forking it is safe and
quick; it never runs an evaluation itself, so that the engine stays as it was built. A child that is over
its deadline is killed, one that dies is only a closed pipe, and the next one is a fork away.

Messages from the host: the engine to build, then one batch after the other. Messages to the host:
``built`` or ``failed``, then per batch an outcome for each individual, and ``done``.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import pickle
import resource
import select
import signal
import time
import traceback
from collections.abc import Sequence
from typing import Any

from cluster.frames import BrokenFrame, FrameReader, write_frame
from cluster.orphans import die_with
from cluster.outcome import Budget, BudgetExceeded, Engine, Failure, Outcome, Status, deadline_reason

GRACE_S = 0.05
"""How long after its deadline a child may still report by itself."""

LONGEST_VALUE_BYTES = 256 * 2**20
LONGEST_MESSAGE_BYTES = 2**32

_EXIT_WAIT_S = 1.0
_GOES_ON, _STOPS = b"+", b"-"

# Nothing an evaluation does ends in these: somebody else sent them, and the evaluation may be tried again.
_SENT_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def main(host_socket: int, host_process: int) -> None:
    """Build the engine that the host names, then evaluate batches until the host hangs up."""
    die_with(host_process)
    # Whatever a child has started is ours to end when the child is gone.
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader = FrameReader(host_socket, LONGEST_MESSAGE_BYTES)
    engine = None
    while not reader.ended:
        for message in reader.receive():
            if engine is None:
                engine = _build(message, host_socket)
                gc.collect()
                gc.freeze()  # a collection in a child would copy every page it looks at
                helpers = _children()
            else:
                _Batch(engine, host_socket, helpers).run(*pickle.loads(message))


def send(host_socket: int, kind: str, content: Any) -> None:
    """Send one message to the host."""
    write_frame(host_socket, pickle.dumps((kind, content)))


def _build(message: bytes, host_socket: int) -> Engine:
    try:
        factory, payload = pickle.loads(message)
        module, _, function = factory.partition(":")
        engine = getattr(importlib.import_module(module), function)(pickle.loads(payload))
        isolation = getattr(engine, "isolation", "individual")
        if isolation not in ("individual", "batch"):
            raise ValueError(f"engine.isolation should be 'individual' or 'batch', it is {isolation!r}")
    except BaseException as error:  # noqa: BLE001  a process border: the host wants the reason
        tail = "".join(traceback.format_exception(error)[-3:])
        send(host_socket, "failed", f"{_describe(error)}\n{tail}")
        os._exit(1)
    send(host_socket, "built", isolation)
    return engine


class _Batch:
    """One child from its fork to its end, watched."""

    def __init__(self, engine: Engine, host_socket: int, helpers: set[int]) -> None:
        self._engine = engine
        self._host_socket = host_socket
        self._helpers = helpers

    def run(self, deadlines_s: Sequence[float], memory_limit_mb: int | None, individuals: bytes) -> None:
        """Send an outcome for each individual as it comes, then ``done``.

        ``done`` is False when the child was stopped or died with several individuals unanswered: none of
        them can be blamed, and none has an outcome.
        """
        read_end, write_end = os.pipe()
        zygote = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(read_end)
                os.close(self._host_socket)
                _child_main(self._engine, write_end, zygote, deadlines_s, memory_limit_mb, individuals)
            finally:
                os._exit(os.EX_SOFTWARE)  # whatever happened, a child never goes on as a zygote
        os.close(write_end)
        try:
            blamed = self._watch(read_end, list(deadlines_s))
            send(self._host_socket, "done", blamed)
        finally:
            os.close(read_end)
            self._end_child()

    def _watch(self, read_end: int, deadlines_s: list[float]) -> bool:
        reader = FrameReader(read_end, LONGEST_VALUE_BYTES + 2**20)
        poll = select.poll()
        poll.register(read_end, select.POLLIN)
        poll.register(self._host_socket, 0)  # reported when the host hangs up, whatever is asked for
        started = time.monotonic()
        while deadlines_s:
            # A batch that is computed as one has the longest of its deadlines.
            deadline_s = max(deadlines_s)
            left_s = started + deadline_s + GRACE_S - time.monotonic()
            events = dict(poll.poll(max(left_s, 0.0) * 1000.0))
            if events.get(self._host_socket, 0) & (select.POLLHUP | select.POLLERR):
                self._end_child()
                os._exit(0)
            if read_end not in events:
                if left_s > 0:
                    continue
                seconds = time.monotonic() - started
                return self._blame(deadlines_s, self._overdue(deadlines_s[0], seconds))
            try:
                messages = list(reader.receive())
            except BrokenFrame as error:
                seconds = time.monotonic() - started
                return self._blame(deadlines_s, Outcome("crash", f"wrote {error} to its pipe", seconds))
            for message in messages:
                deadlines_s.pop(0)
                started = time.monotonic()
                write_frame(self._host_socket, pickle.dumps(("outcome", message[1:])))
                if message[:1] == _STOPS:
                    return True
            if reader.ended and deadlines_s:
                outcome = self._how_it_ended(time.monotonic() - started)
                return self._blame(deadlines_s, outcome)
        return True

    def _blame(self, unanswered: list[float], outcome: Outcome) -> bool:
        if len(unanswered) > 1 and outcome.status != "lost":
            return False
        write_frame(self._host_socket, pickle.dumps(("outcome", pickle.dumps(outcome))))
        return True

    def _overdue(self, deadline_s: float, seconds: float) -> Outcome:
        """A ``timeout``; but a child that somebody stopped, for a while or still, had not all of its time."""
        states = os.WSTOPPED | os.WCONTINUED | os.WEXITED
        found = os.waitid(os.P_PID, self._child, states | os.WNOHANG | os.WNOWAIT)
        if found is not None and found.si_code in (os.CLD_STOPPED, os.CLD_CONTINUED):
            return Outcome("lost", "its process was stopped by a signal", seconds)
        return Outcome("timeout", deadline_reason(deadline_s), seconds)

    def _how_it_ended(self, seconds: float) -> Outcome:
        give_up = time.monotonic() + _EXIT_WAIT_S
        while time.monotonic() < give_up:
            process, status = os.waitpid(self._child, os.WNOHANG)
            if process:
                self._child = 0
                break
            time.sleep(0.0005)
        else:
            return Outcome("crash", "closed its pipe and went on", seconds)
        code = os.waitstatus_to_exitcode(status)
        if -code in _SENT_FROM_OUTSIDE:
            return Outcome("lost", f"its process {exit_in_words(code)}", seconds)
        return Outcome("crash", exit_in_words(code), seconds)

    def _end_child(self) -> None:
        """Kill and reap the child, and then whatever it had started."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0
        while left := _children() - self._helpers:
            for process in left:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _child_main(
    engine: Engine,
    pipe: int,
    zygote: int,
    deadlines_s: Sequence[float],
    memory_limit_mb: int | None,
    individuals: bytes,
) -> None:
    """Evaluate in the child, and end it."""
    die_with(zygote)
    unlimited = _limit_memory(memory_limit_mb)
    budget = Budget(deadlines_s[0])
    values = None
    together_s = 0.0
    for number, deadline_s in enumerate(deadlines_s):
        started = time.monotonic()
        budget.restart(deadline_s)
        failure: tuple[Status, str] | None = None
        try:
            if values is None:
                values = iter(engine.evaluate(pickle.loads(individuals), budget))
            value = next(values)
            seconds = time.monotonic() - started
            if number == 0:
                together_s, seconds = seconds / len(deadlines_s), 0.0
            message = pickle.dumps(_outcome(value, together_s + seconds))
            if len(message) > LONGEST_VALUE_BYTES:
                raise ValueError(f"the value is larger than {LONGEST_VALUE_BYTES >> 20} MB")
        except BudgetExceeded as error:
            failure = ("timeout", str(error) or deadline_reason(deadline_s))
        except MemoryError:
            values = value = None
            unlimited()
            failure = ("error", f"MemoryError: more than {memory_limit_mb} MB")
        except StopIteration:
            failure = ("error", "the engine yielded no value")
        except BaseException as error:  # noqa: BLE001  a process border: every failure is an outcome
            failure = ("error", _describe(error))
        if failure:
            message = pickle.dumps(Outcome(*failure, time.monotonic() - started))
        write_frame(pipe, (_STOPS if failure else _GOES_ON) + message)
        if failure:
            break
    os._exit(0)


def _outcome(value: Any, seconds: float) -> Outcome:
    if isinstance(value, Failure):
        return Outcome("error", value.reason, seconds)
    return Outcome("ok", "", seconds, value)


def _limit_memory(limit_mb: int | None) -> Any:
    """Allow so much more than there is now. Returns what lifts the limit again."""
    if limit_mb is None:
        return lambda: None
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with open("/proc/self/statm", encoding="ascii") as file:
        now_bytes = int(file.read().split()[0]) * resource.getpagesize()
    limit_bytes = now_bytes + limit_mb * 2**20
    if hard != resource.RLIM_INFINITY:
        limit_bytes = min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _children() -> set[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return {int(process) for process in file.read().split()}
    except FileNotFoundError:  # a kernel built without the list
        return set()


def _describe(error: BaseException) -> str:
    """Type, first line of the message, and where it was raised."""
    first_line = next(iter(str(error).splitlines()), "")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line}{where}"


def exit_in_words(code: int) -> str:
    """How a process ended; `code` is negative for a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
