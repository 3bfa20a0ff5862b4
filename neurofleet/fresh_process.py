"""Call a function in a fresh Python interpreter.

For work that may crash, hang, or change its process for good (NEURON, compilers, a user's own code). The new
interpreter looks for modules where this one does, but in the working folder last of all, so that a file that lies
there (``random.py``, ``numpy.py``) cannot take the place of a module. Arguments and results are pickled; both ends
are this program.
"""

import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_BOOT = "import sys; sys.path[:] = {path!r}; from neurofleet.fresh_process import _serve; _serve({answers}, {parent})"
_PR_SET_PDEATHSIG = 1
_LAST_LINE_CHARACTERS = 300


class ProcessFailed(Exception):
    """The process ended without a result.

    Attributes
    ----------
    reason : str
        How it ended and the last line that it printed, without a full stop.
    timed_out : bool
        Whether it was killed at its limit.
    """

    def __init__(self, reason: str, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.timed_out = reason, timed_out


def call(function: Callable[..., Any] | str, *arguments: Any, **options: Any) -> Any:
    """Return what `function` returns in a fresh interpreter.

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
    (result,) = stream(_only_result, function, *arguments, **options)
    return result


def stream(
    function: Callable[..., Any] | str,
    *arguments: Any,
    limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
) -> Iterator[Any]:
    """Yield, as they come, what a generator function yields in a fresh interpreter.

    Parameters
    ----------
    function : callable or str
    *arguments : object
    limit_s : float, optional
        Seconds until the process is killed.
    environment : mapping of str to str, optional
        Variables that are set besides those of this process.
    folder : path, optional
        Where it works; by default where this process does.

    Raises
    ------
    ProcessFailed
        It ended early; what was yielded before stands.
    """
    with tempfile.TemporaryFile() as printed:
        process, answers = start(
            function, *arguments, environment=environment, folder=folder, output=printed, follow=True
        )
        try:
            yield from _received(process, answers, limit_s, printed)
        finally:
            process.kill()
            process.wait()
            answers.close()


def start(
    function: Callable[..., Any] | str,
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    output: Any = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    follow: bool = False,
    new_session: bool = False,
) -> tuple[subprocess.Popen, Connection]:
    """Start a fresh interpreter that runs a generator function, or one without a result, and return at once.

    Parameters
    ----------
    function : callable or str
    *arguments : object
    environment, folder
        As of `stream`.
    output : file or int
        Where what it prints goes; by default nowhere.
    pass_fds : sequence of int
        File descriptors that it inherits, under the same numbers.
    follow : bool
        Whether the system kills it when the thread that starts it ends.
    new_session : bool
        Whether signals of the terminal, such as Ctrl-C, stay away from it.

    Returns
    -------
    Popen
    Connection
        Its results, and how it ended, come here; the caller closes it.
    """
    name = function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
    read, write = os.pipe()
    try:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                _BOOT.format(path=module_path(), answers=write, parent=os.getpid() if follow else 0),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            pass_fds=[write, *pass_fds],
            start_new_session=new_session,
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(pickle.dumps((name, pickle.dumps(arguments))))
    except BrokenPipeError:
        pass  # it has ended already; whoever waits for its results learns how
    return process, Connection(read, writable=False)


def module_path() -> list[str]:
    """Return where modules are looked for, the working folder last of all."""
    here = os.getcwd()
    own = [os.path.abspath(path) for path in sys.path]
    return [path for path in dict.fromkeys(own) if path != here] + ([here] if here in own else [])


def end_with(parent: int) -> None:
    """Have the system kill this process when `parent` ends; end at once if it has ended already.

    The parent's thread that started this process counts as the parent.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def how_it_ended(code: int) -> str:
    """Return a process's exit code in words."""
    return f"ended with signal {-code}" if code < 0 else f"ended with code {code}"


def function_named(name: str) -> Any:
    """Return what stands at ``module:name``."""
    module, _, names = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in names.split("."):
        found = getattr(found, part)
    return found


def _only_result(function: Callable[..., Any] | str, *arguments: Any) -> Iterator[Any]:
    yield (function_named(function) if isinstance(function, str) else function)(*arguments)


def _serve(answers: int, parent: int) -> None:
    """Do in the fresh interpreter what standard input asks for (written by `start`, from this program)."""
    if parent:
        end_with(parent)
    name, arguments = pickle.load(sys.stdin.buffer)
    with Connection(answers, readable=False) as pipe:
        try:
            for result in function_named(name)(*pickle.loads(arguments)) or ():
                pipe.send(("result", result))
            pipe.send(("end", None))
        except Exception as error:  # noqa: BLE001 - the border of this process
            _send_error(pipe, error)


def _send_error(answers: Connection, error: Exception) -> None:
    try:
        pickle.loads(pickle.dumps(error))
        answers.send(("error", error))
    except Exception:  # noqa: BLE001 - an error that cannot travel is told in words
        answers.send(("failed", f"{type(error).__name__}: {error}"))


def _received(process: subprocess.Popen, answers: Connection, limit_s: float | None, printed: Any) -> Iterator[Any]:
    deadline = None if limit_s is None else time.monotonic() + limit_s
    while answers.poll(None if deadline is None else max(0.0, deadline - time.monotonic())):
        try:
            kind, content = answers.recv()
        except EOFError:
            code = process.wait()
            printed.seek(0)
            lines = printed.read().decode(errors="replace").strip().splitlines()
            last = f" ({lines[-1][:_LAST_LINE_CHARACTERS]})" if lines else ""
            raise ProcessFailed(f"its process {how_it_ended(code)}{last}") from None
        if kind == "end":
            return
        if kind == "error":
            raise content
        if kind == "failed":
            raise ProcessFailed(content)
        yield content
    raise ProcessFailed(f"it was stopped after {limit_s:g} s", timed_out=True)
