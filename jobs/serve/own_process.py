"""What is done for visitors in processes of their own, with limits; what goes wrong there is told in words."""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from neurofleet import fresh_process
from neurofleet.errors import JobError, NeurofleetError, UsageError, missing_extra

GIB = 2**30
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Limits:
    """What a visitor may use.

    Attributes
    ----------
    upload_bytes : int
        Of one file.
    kept_bytes : int
        Of all that is kept of a visitor.
    memory_bytes : int
        Of the process that opens a file.
    seconds : float
        That it may take.
    """

    upload_bytes: int = 8 * GIB
    kept_bytes: int = 24 * GIB
    memory_bytes: int = field(default_factory=lambda: min(16 * GIB, psutil.virtual_memory().total // 2))
    seconds: float = 3600.0

    @property
    def memory(self) -> str:
        """The limit of memory in words."""
        return f"the {self.memory_bytes / GIB:.3g} GiB of memory that one process may take here"


def last_result(
    what: str,
    advice: str,
    function: Callable[..., Any] | str,
    *arguments: Any,
    limits: Limits,
    folder: Path | None = None,
    many_threads: bool = False,
) -> Any:
    """Return the last that a generator function yields in a process of its own, None where it yields nothing.

    Parameters
    ----------
    what : str
        What it works on, as errors call it.
    advice : str
        What to do where a limit is too small: a sentence.
    function : callable or str
    *arguments : object
    limits : Limits
        The function itself sets that of memory.
    folder : Path, optional
        Where the process works.
    many_threads : bool

    Raises
    ------
    NeurofleetError
        What the function refuses; else that it broke off, and why.
    """
    too_large = f"{what} needs more than {limits.memory}. {advice}"
    environment = None if many_threads else _ONE_THREAD
    try:
        results = deque(
            fresh_process.stream(function, *arguments, limit_s=limits.seconds, environment=environment, folder=folder),
            1,
        )
        return results[0] if results else None
    except NeurofleetError:
        raise
    except ModuleNotFoundError as error:
        raise UsageError(missing_extra(error) or str(error)) from error
    except MemoryError as error:
        raise JobError(too_large) from error
    except fresh_process.ProcessFailed as error:
        if error.timed_out:
            minutes = f"{limits.seconds / 60:g} minutes"
            raise JobError(f"{what} took longer than the {minutes} that one process may take here. {advice}") from error
        if "emory" in error.output:
            raise JobError(too_large) from error
        raise JobError(
            f"{what} broke off: {error.reason}. What it reads may be damaged, or need more than {limits.memory}. "
            f"{advice}"
        ) from error
    except Exception as error:
        logging.getLogger(__name__).exception("%s", what)
        raise JobError(f"{what} cannot be read ({type(error).__name__}): it may be damaged.") from error


def end_processes(function: str) -> None:
    """End the processes of this one that call a function, or one whose name begins so: threads wait for them."""
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if "".join(process.cmdline()[-1:]).startswith(function):
                process.kill()
