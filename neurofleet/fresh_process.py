"""Call a function in a fresh Python interpreter.

For work that may crash, hang, or change its process for good (NEURON, compilers, a user's own code). The new
interpreter looks for modules where this one does, but in the working folder last of all, so that a file that lies
there (``random.py``, ``numpy.py``) cannot take the place of a module. Arguments and results are pickled; both ends
are this program.

`call` returns a result, `begin` does so later on, `stream` yields several as they come, `start` only starts the
process. Their processes are leaders of a session of their own: Ctrl-C reaches the caller, which ends them, and
whatever they have started ends with them.
"""

import ctypes
import importlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_BOOT = "import sys; sys.path[:] = {path!r}; from neurofleet.fresh_process import _run; _run({parent})"
_PR_SET_PDEATHSIG = 1
_TAIL_BYTES = 1 << 16
_LAST_LINE_CHARACTERS = 300
_EXIT_CHECK_S = 1.0
_LENGTH = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 20
_LONGEST_RESULT_BYTES = 2**36


class ProcessFailed(Exception):
    """The process ended without a result.

    Attributes
    ----------
    reason : str
        How it ended and the last line that it printed, without a full stop.
    timed_out : bool
        Whether it was killed at its limit.
    code : int or None
        Its exit code, negative for a signal; None if it did not end by itself.
    output : str
        The end of what it printed.
    """

    def __init__(self, reason: str, timed_out: bool = False, code: int | None = None, output: str = "") -> None:
        super().__init__(reason)
        self.reason, self.timed_out, self.code, self.output = reason, timed_out, code, output


def call(function: Callable[..., Any] | str, *arguments: Any, **options: Any) -> Any:
    """Return what `function` returns in a fresh interpreter.

    A process that a signal ends is started once more: it may have come from outside, and what crashes by itself does
    so again.

    Parameters
    ----------
    function : callable or str
        A function at the top level of a module, or its name as ``"module:function"``.
    *arguments : object
        Passed to it; anything that can be pickled.
    **options : object
        As of `stream`.

    Raises
    ------
    ProcessFailed
        It crashed, ended early, or took longer than `limit_s`.
    Exception
        Whatever the function raised, as it was raised there.
    """
    for is_last in (False, True):
        try:
            (result,) = stream(_only_result, function, *arguments, **options)
        except ProcessFailed as error:
            if is_last or error.code is None or error.code >= 0:
                raise
        else:
            break
    return result


def begin(function: Callable[..., Any] | str, *arguments: Any, **options: Any) -> Generator[Any, None, None]:
    """Yield None once a fresh interpreter has begun, and then what `function` returns there.

    What the function needs is imported in between, while the caller does something else.

    Parameters
    ----------
    function, *arguments, **options
        As of `call`.

    Raises
    ------
    ProcessFailed
        It ended early.
    """
    return stream(_begun_then_result, _name(function), [pickle.dumps(arguments)], **options)


def stream(
    function: Callable[..., Any] | str,
    *arguments: Any,
    limit_s: float | None = None,
    environment: Mapping[str, str | None] | None = None,
    folder: str | Path | None = None,
) -> Generator[Any, None, None]:
    """Yield, as they come, what a generator function yields in a fresh interpreter.

    The process ends with the iteration: also when the caller stops early, or is killed itself, or the thread ends
    that asked for the first value.

    Parameters
    ----------
    function : callable or str
    *arguments : object
    limit_s : float, optional
        Seconds until the process is killed.
    environment : mapping of str to str or None, optional
        Variables that are set, or with None removed, besides those of this process.
    folder : path, optional
        Where it works; by default where this process does.

    Raises
    ------
    ProcessFailed
        It ended early; what was yielded before stands.
    """
    with tempfile.TemporaryFile() as printed:
        read, write = os.pipe()
        try:
            process = start(
                _send_results,
                write,
                _name(function),
                arguments,
                environment=environment,
                folder=folder,
                output=printed,
                pass_fds=[write],
                follow=True,
                title=_name(function),
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        del arguments  # the process has them
        try:
            yield from _received(process, read, limit_s, printed)
        finally:
            end(process)
            os.close(read)


def start(
    function: Callable[..., Any] | str,
    *arguments: Any,
    environment: Mapping[str, str | None] | None = None,
    folder: str | Path | None = None,
    output: int | IO[bytes] = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    follow: bool = False,
    title: str = "",
) -> subprocess.Popen:
    """Start a fresh interpreter that calls a function, and return at once.

    Parameters
    ----------
    function : callable or str
    *arguments : object
    environment, folder
        As of `stream`.
    output : file or int
        Where what it prints goes; by default nowhere.
    pass_fds : sequence of int
        File descriptors that it inherits, under the same numbers. What it starts itself does not inherit them.
    follow : bool
        Whether the system kills it when the thread that starts it ends, as it does when this process is killed.
    title : str
        What a list of processes shows at the end of its command; by default the function's name.

    Returns
    -------
    Popen
        The leader of a process group of its own: `end` kills it and whatever it has started.
    """
    variables = {**os.environ, **(environment or {})}
    # In a file and not through a pipe, which a process that hangs before it reads would block.
    with tempfile.TemporaryFile() as request:
        request.write(pickle.dumps((_name(function), tuple(pass_fds), pickle.dumps(arguments))))
        request.seek(0)
        code = _BOOT.format(path=module_path(), parent=os.getpid() if follow else 0)
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, title or _name(function)],
            stdin=request,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={name: value for name, value in variables.items() if value is not None},
            pass_fds=pass_fds,
            start_new_session=True,
        )


def end(process: subprocess.Popen) -> None:
    """Kill a process that `start` has started, with whatever is left in its group, and wait for its end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def module_path() -> list[str]:
    """Return where modules are looked for, the working folder last of all."""
    here = os.getcwd()
    paths = [os.path.abspath(path) for path in sys.path]
    return [path for path in dict.fromkeys(paths) if path != here] + ([here] if here in paths else [])


def end_with(parent: int) -> None:
    """Have the system kill this process when `parent` ends; end at once if it has ended already.

    The parent's thread that started this process counts as the parent.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "prctl"):  # Linux
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def how_it_ended(code: int) -> str:
    """Return a process's exit code in words; `code` is negative for a signal."""
    return f"ended with signal {-code}" if code < 0 else f"ended with code {code}"


def function_named(name: str) -> Any:
    """Return what stands at ``module:name``."""
    module, _, names = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in names.split("."):
        value = getattr(value, part)
    return value


class BrokenFrame(Exception):
    """The bytes are no message: their writer has gone wrong."""


def frame(content: bytes) -> bytes:
    """Return a message as it is sent: its length, then its bytes."""
    return _LENGTH.pack(len(content)) + content


def write_frame(descriptor: int, content: bytes) -> None:
    """Write one message, waiting as long as the reader needs."""
    view = memoryview(frame(content))
    while view:
        view = view[os.write(descriptor, view) :]


class FrameReader:
    """Collects what arrives at a descriptor into whole messages.

    It never waits for the rest of a message, so a writer that was stopped half way cannot hold its reader.

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


def _name(function: Callable[..., Any] | str) -> str:
    return function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"


def _run(parent: int) -> None:
    """Do in the fresh interpreter what standard input asks for; it was written by `start`, from this program."""
    if parent:
        end_with(parent)
    # Ctrl-C reaches the caller alone. A signal from outside should end this process, and not look like an error of the
    # function.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    name, descriptors, pickled = pickle.load(sys.stdin.buffer)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    arguments = pickle.loads(pickled)
    del pickled
    function_named(name)(*arguments)


def _only_result(function: Callable[..., Any] | str, *arguments: Any) -> Iterator[Any]:
    yield (function_named(function) if isinstance(function, str) else function)(*arguments)


def _begun_then_result(name: str, pickled: list[bytes]) -> Iterator[Any]:
    yield None
    yield function_named(name)(*pickle.loads(pickled.pop()))  # not held while the function works


def _send_results(pipe: int, name: str, arguments: tuple[Any, ...]) -> None:
    try:
        for result in function_named(name)(*arguments):
            write_frame(pipe, pickle.dumps(("result", result)))
        write_frame(pipe, pickle.dumps(("end", None)))
    except Exception as error:  # noqa: BLE001 - the border of this process
        write_frame(pipe, _error_message(error))


def _error_message(error: Exception) -> bytes:
    try:
        message = pickle.dumps(("error", error))
        pickle.loads(message)
    except Exception:  # noqa: BLE001 - an error that cannot be pickled, or not be made again, is told in words
        return pickle.dumps(("failed", f"{type(error).__name__}: {error}"))
    return message


def _received(process: subprocess.Popen, pipe: int, limit_s: float | None, printed: IO[bytes]) -> Iterator[Any]:
    deadline = None if limit_s is None else time.monotonic() + limit_s
    reader = FrameReader(pipe, _LONGEST_RESULT_BYTES)
    while True:
        left_s = _EXIT_CHECK_S if deadline is None else deadline - time.monotonic()
        if left_s <= 0:
            raise ProcessFailed(f"it was stopped after {limit_s:g} s", True, output=tail(printed))
        has_ended = process.poll() is not None
        readable, _, _ = select.select([pipe], [], [], 0.0 if has_ended else min(left_s, _EXIT_CHECK_S))
        if readable:
            for message in reader.receive():
                kind, content = pickle.loads(message)
                if kind == "end":
                    return
                if kind == "error":
                    raise content
                if kind == "failed":
                    raise ProcessFailed(content, output=tail(printed))
                yield content
        # What the process has started and left behind may hold the pipe open.
        if reader.ended or (has_ended and not readable):
            raise _ended_early(process, printed)


def _ended_early(process: subprocess.Popen, printed: IO[bytes]) -> ProcessFailed:
    try:
        code = process.wait(_EXIT_CHECK_S)
    except subprocess.TimeoutExpired:
        return ProcessFailed("its process closed its pipe and went on", output=tail(printed))
    output = tail(printed)
    lines = output.strip().splitlines()
    last = f" ({lines[-1].strip()[:_LAST_LINE_CHARACTERS]})" if lines else ""
    return ProcessFailed(f"its process {how_it_ended(code)}{last}", code=code, output=output)


def tail(printed: IO[bytes]) -> str:
    """Return the end of what a process has printed, which may be more than fits into memory."""
    size = os.fstat(printed.fileno()).st_size
    return os.pread(printed.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")
