"""The processes of an engine: one that holds it, and a child forked for every evaluation.

The engine process is single-threaded and imports little but the engine's own module, so that forking it is safe and
quick. It never runs an evaluation itself, so the engine stays as it was built. A child that is over its deadline is
killed, one that dies is only a closed pipe, and the next one takes a fork (7 ms) and no build (seconds).
`EngineProcess` is the host's end of it.

Messages from the host: the engine to build, then one batch after the other. Messages to the host: ``built`` or
``failed``, then per batch an outcome for each individual, and ``done``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import resource
import select
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from neurofleet.cluster.pool.outcome import Budget, BudgetExceeded, Engine, Failure, Outcome, Status, deadline_reason
from neurofleet.fresh_process import (
    BrokenFrame,
    FrameReader,
    end_with,
    frame,
    function_named,
    start,
    write_frame,
)

GRACE_S = 0.05
"""How long after its deadline a child may still report by itself."""

LONGEST_VALUE_BYTES = 256 * 2**20
LONGEST_MESSAGE_BYTES = 2**32

_EXIT_WAIT_S = 1.0
_GOES_ON, _STOPS = b"+", b"-"

# The signals of a fault of its own. All others came from outside (a user, the system short of memory), and the
# evaluation may be tried again.
_FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGXCPU,
    signal.SIGXFSZ,
}

_PR_SET_CHILD_SUBREAPER = 36


def serve_engine(host_socket: int) -> None:
    """Build the engine that the host names, then evaluate batches until the host hangs up."""
    # What a child has started becomes a child of this process when the child is gone, and is killed with it.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread of the host that starts this may have blocked some
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a segfault is an outcome, not a file of gigabytes
    reader = FrameReader(host_socket, LONGEST_MESSAGE_BYTES)
    engine = None
    while not reader.ended:
        for message in reader.receive():
            if engine is None:
                engine = _build_engine(message, host_socket)
                gc.collect()
                gc.freeze()  # a collection in a child would copy every page it looks at
                helpers = _children()
            else:
                _BatchChild(engine, host_socket, helpers).run(*pickle.loads(message))


def send_to_host(host_socket: int, kind: str, content: Any) -> None:
    """Send one message to the host."""
    write_frame(host_socket, pickle.dumps((kind, content)))


def _build_engine(message: bytes, host_socket: int) -> Engine:
    try:
        factory, payload = pickle.loads(message)
        engine = function_named(factory)(pickle.loads(payload))
        isolation = getattr(engine, "isolation", "individual")
        if isolation not in ("individual", "batch"):
            raise ValueError(f"engine.isolation should be 'individual' or 'batch', it is {isolation!r}")
    except BaseException as error:  # noqa: BLE001  a process border: the host wants the reason
        tail = "".join(traceback.format_exception(error)[-3:])
        send_to_host(host_socket, "failed", f"{_error_in_words(error)}\n{tail}")
        os._exit(1)
    send_to_host(host_socket, "built", isolation)
    return engine


class _BatchChild:
    """One child, from its fork to its end."""

    def __init__(self, engine: Engine, host_socket: int, helpers: set[int]) -> None:
        self._engine = engine
        self._host_socket = host_socket
        self._helpers = helpers

    def run(self, deadlines_s: Sequence[float], memory_limit_mb: int | None, individuals: bytes) -> None:
        """Send an outcome for each individual as it comes, then ``done``.

        ``done`` is False when the child was killed or died with several individuals unanswered: any of them may be
        the cause, so none has an outcome, and the host runs them again one by one.
        """
        read_end, write_end = os.pipe()
        parent = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(read_end)
                os.close(self._host_socket)
                _child_main(self._engine, write_end, parent, deadlines_s, memory_limit_mb, individuals)
            finally:
                os._exit(os.EX_SOFTWARE)  # whatever happened, a child never goes on as the engine process
        os.close(write_end)
        try:
            attributable = self._pass_on_outcomes(read_end, list(deadlines_s))
            send_to_host(self._host_socket, "done", attributable)
        finally:
            os.close(read_end)
            self._end_child()

    def _pass_on_outcomes(self, read_end: int, deadlines_s: list[float]) -> bool:
        reader = FrameReader(read_end, LONGEST_VALUE_BYTES + 2**20)
        poll = select.poll()
        poll.register(read_end, select.POLLIN)
        poll.register(self._host_socket, 0)  # that the host hangs up is reported whatever is registered for
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
                return self._end_batch(deadlines_s, self._overdue(deadlines_s[0], seconds))
            try:
                messages = list(reader.receive())
            except BrokenFrame as error:
                seconds = time.monotonic() - started
                return self._end_batch(deadlines_s, Outcome("crash", f"wrote {error} to its pipe", seconds))
            for message in messages:
                deadlines_s.pop(0)
                started = time.monotonic()
                write_frame(self._host_socket, pickle.dumps(("outcome", message[1:])))
                if message[:1] == _STOPS:
                    return True
            if reader.ended and deadlines_s:
                outcome = self._how_it_ended(time.monotonic() - started)
                return self._end_batch(deadlines_s, outcome)
        return True

    def _end_batch(self, unanswered: list[float], outcome: Outcome) -> bool:
        if len(unanswered) > 1 and outcome.status != "lost":
            return False
        write_frame(self._host_socket, pickle.dumps(("outcome", pickle.dumps(outcome))))
        return True

    def _overdue(self, deadline_s: float, seconds: float) -> Outcome:
        """A ``timeout``, or ``lost`` if a signal had stopped the child meanwhile, which took some of its time."""
        if _was_stopped(self._child):
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
        if code < 0 and -code not in _FAULTS:
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


def _was_stopped(child: int) -> bool:
    """Whether a signal has stopped a child process, which may go on by now; it is left to be reaped."""
    states = os.WSTOPPED | os.WCONTINUED | os.WEXITED
    state = os.waitid(os.P_PID, child, states | os.WNOHANG | os.WNOWAIT)
    return state is not None and state.si_code in (os.CLD_STOPPED, os.CLD_CONTINUED)


def _child_main(
    engine: Engine,
    pipe: int,
    parent: int,
    deadlines_s: Sequence[float],
    memory_limit_mb: int | None,
    individuals: bytes,
) -> None:
    """Evaluate in the child, and end it."""
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever the engine has set: it would look like an error of it
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
            message = pickle.dumps(_outcome_of(value, together_s + seconds))
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
            failure = ("error", _error_in_words(error))
        if failure:
            message = pickle.dumps(Outcome(*failure, time.monotonic() - started))
        write_frame(pipe, (_STOPS if failure else _GOES_ON) + message)
        if failure:
            break
    os._exit(0)


def _outcome_of(value: Any, seconds: float) -> Outcome:
    if isinstance(value, Failure):
        return Outcome("error", value.reason, seconds)
    return Outcome("ok", "", seconds, value)


def _limit_memory(limit_mb: int | None) -> Any:
    """Limit what may be allocated beyond what is there now. Return a function that lifts the limit."""
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


def _error_in_words(error: BaseException) -> str:
    """Type, first line of the message, and where it was raised."""
    first_line = next(iter(str(error).splitlines()), "")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line}{where}"


def exit_in_words(code: int) -> str:
    """Return how a process ended, as the reason of an outcome; `code` is negative for a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


SILENCE_S = 10.0
"""How much later than its deadlines allow an engine process may answer before it is taken for hung."""

SEND_TIMEOUT_S = 60.0

_OUTPUT_TAIL_BYTES = 2000


class EngineDied(Exception):
    """The engine process ended, or does not answer. Says nothing about the individual at work."""


class EngineNotBuilt(Exception):
    """The engine's factory raised; the message is why."""


class EngineProcess:
    """A process that builds one engine, from which the children are forked that evaluate with it.

    It ends with the *thread* that makes it (see `neurofleet.fresh_process.start`), so that must be one that lives as
    long as the host.

    Parameters
    ----------
    factory : str
    payload : bytes
        The pickled argument of the factory.
    """

    def __init__(self, factory: str, payload: bytes) -> None:
        ours, theirs = socket.socketpair()
        output, their_output = os.pipe()
        # One thread each: a host has one CPU, and a process with threads cannot be forked safely.
        environment = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONUNBUFFERED"), "1"
        )
        try:
            self._process = start(
                serve_engine,
                theirs.fileno(),
                environment=environment,
                output=their_output,
                pass_fds=[theirs.fileno()],
                follow=True,
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
            If the process ended meanwhile, or a signal has stopped it.
        """
        try:
            kind, content = self._next(timeout_s)
        except TimeoutError:
            if _was_stopped(self._process.pid):
                raise EngineDied("its engine process was stopped by a signal") from None
            raise EngineNotBuilt(f"not built within {timeout_s:g} s") from None
        if kind == "failed":
            raise EngineNotBuilt(content)
        self.isolation = content

    def run(
        self, individuals: Sequence[Any], deadlines_s: Sequence[float], memory_limit_mb: int | None
    ) -> Iterator[Outcome | None]:
        """Evaluate a batch in one child; yield outcomes as they come.

        Fewer outcomes than individuals mean that the child was given up: the rest is to be run again, and one by one
        if None is yielded last, since any of them may have been the cause.

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
        """End the process and whatever it has started; a thread that waits for it gets `EngineDied`."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process, and close what this process holds of it."""
        self.kill()
        self._process.wait()
        self._socket.close()
        os.close(self._output)

    def _outcome(self, content: bytes) -> Outcome:
        try:
            outcome = pickle.loads(content)
        except Exception as error:  # noqa: BLE001  a process border: what a child wrote may be anything
            return Outcome("crash", f"its value cannot be read: {type(error).__name__}: {error}")
        if outcome.status == "crash" and (printed := self._last_output_line()):
            return Outcome("crash", f"{outcome.reason}; it said: {printed}", outcome.seconds)
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
        printed = self._last_output_line()
        return f"its engine process {exit_in_words(code)}" + (f"; it said: {printed}" if printed else "")

    def _drain_output(self) -> bool:
        """Keep the end of what the process and its children print. False when the last of them has ended."""
        try:
            printed = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return True
        self._output_tail = (self._output_tail + printed)[-_OUTPUT_TAIL_BYTES:]
        return bool(printed)

    def _last_output_line(self) -> str:
        self._drain_output()
        lines = self._output_tail.decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
