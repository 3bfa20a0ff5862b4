"""What is done about a job in a process of its own, in the folder that is served: relative paths start there."""

import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from neurofleet.errors import NeurofleetError, missing_extra
from neurofleet.jobs.drafts.new_command import drafted
from neurofleet.jobs.remote.remote_jobs import cancel_command, list_command
from neurofleet.jobs.remote.submit import submit_command
from neurofleet.jobs.run_job import print_plan, run_job

WIDTH = 110


def draft(kind: str, files: Sequence[str], memory_bytes: int) -> Iterator[str]:
    """Yield the text of a job for files, as `neurofleet new` writes it, with a name."""
    _limit(memory_bytes)
    first, _, rest = drafted(kind, [Path(file) for file in files], Path("job.yaml")).partition("\n")
    yield f"{first}\nname: {kind}\n{rest}"


def plan(job: Mapping[str, Any], quick: bool, memory_bytes: int) -> Iterator[str]:
    """Yield what `neurofleet plan` prints."""
    _limit(memory_bytes)
    yield _printed(print_plan, job, quick)


def submit(job: Mapping[str, Any], address: str, out: str, quick: bool) -> Iterator[str]:
    """Yield what `neurofleet submit` prints."""
    yield _printed(submit_command, job, address, out, quick=quick)


def submitted(address: str) -> Iterator[str]:
    """Yield what `neurofleet list --json` prints."""
    yield _printed(list_command, address, True)


def cancel(address: str, id: str) -> Iterator[str]:
    """Yield what `neurofleet cancel` prints."""
    yield _printed(cancel_command, id, address)


def run(job: Mapping[str, Any], out: str, quick: bool, cpus: int | None) -> None:
    """Do what `neurofleet run` does, and end with its code."""
    try:
        run_job(job, out, quick=quick, cpus=cpus)
    except NeurofleetError as error:
        sys.exit(_last(str(error), error.exit_code))
    except ModuleNotFoundError as error:
        if (message := missing_extra(error)) is None:
            raise
        sys.exit(_last(message, 2))


def _last(message: str, code: int) -> int:
    print(f"neurofleet: {message}", file=sys.stderr, flush=True)
    return code


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _printed(command: Callable[..., None], *arguments: Any, **options: Any) -> str:
    os.environ["COLUMNS"] = str(WIDTH)
    with redirect_stdout(StringIO()) as text, redirect_stderr(text):
        command(*arguments, **options)
    return text.getvalue()
