"""Tell somebody how a job ended: a message to a URL such as that of a Slack channel, or a command on this machine.

A job file may name a URL only, never a command: who runs the job of somebody else runs no command of theirs. Secrets,
and the names of user, machine and home folder, are taken out of what is sent. Nothing that goes wrong with it is an
error of the job.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import requests

from neurofleet import __version__
from neurofleet.errors import Interrupted, UsageError
from neurofleet.input_paths import is_web_address
from neurofleet.jobs.job_kinds import findings_in
from neurofleet.jobs.progress import duration
from neurofleet.jobs.redaction import redaction
from neurofleet.jobs.reports.tables import print_line
from neurofleet.jobs.terminal import terminal

VARIABLE = "NEUROFLEET_NOTIFY"
TIMEOUTS_S = (3.0, 5.0)
"""Of a URL: to connect, and to answer."""

COMMAND_S = 10.0
LONGEST = 1000
"""Characters of an error, or of what was found."""

Event = Literal["done", "failed", "interrupted", "stalled", "resumed"]


def checked_target(target: str, source: str) -> str:
    """Return a URL or a command as it is.

    Parameters
    ----------
    target : str
    source : str
        Where it was given, for the message.

    Raises
    ------
    UsageError
        It is neither. The message does not repeat a URL, which may hold a secret, nor what may be one without its
        scheme.
    """
    if is_web_address(target):
        return target
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise UsageError(f"{source}: expected a URL or a command, found one that cannot be read: {error}.") from None
    if not words or "://" in words[0]:
        raise UsageError(f"{source}: expected a URL, http:// or https://, or a command; found another one or nothing.")
    if shutil.which(words[0]) is None:
        if not re.fullmatch(r"[\w.+-]+", words[0]) and not os.path.exists(words[0]):
            raise UsageError(
                f"{source}: expected a URL, which starts with http:// or https://, or a command of this machine; found"
                " neither."
            )
        raise UsageError(f"{source}: expected a URL or a command; there is no command {words[0]} on this machine.")
    return target


def targets_of(option: str | None, of_job: str | None) -> list[str]:
    """Return where messages go: to what `--notify` names, else to those of the job and of the environment.

    Raises
    ------
    UsageError
        One of them is neither a URL nor a command.
    """
    if option is not None:
        return [checked_target(option, "--notify")]
    own = os.environ.get(VARIABLE)
    return list(dict.fromkeys([*([of_job] if of_job else []), *([checked_target(own, VARIABLE)] if own else [])]))


@dataclass
class Notifier:
    """Sends the messages of a run.

    Attributes
    ----------
    targets : sequence of str
        URLs and commands.
    name, kind : str
        Of the job.
    started : float
        By `time.monotonic`.
    seconds : float or None
        How long the run took, as it says itself; until it does, the time since it started.
    was_finished : bool
        Whether the run was finished before: then there is nothing to tell at its end.
    """

    targets: Sequence[str]
    name: str
    kind: str
    started: float
    seconds: float | None = None
    was_finished: bool = False

    def send(self, event: Event, tell: Callable[[], str] = lambda: "") -> None:
        """Send a message to all targets; what fails is told, and no error.

        Parameters
        ----------
        event : str
        tell : callable
            Returns what else there is to say.
        """
        try:
            said = redaction()(tell())[:LONGEST].strip()
        except Exception as error:  # noqa: BLE001  what there is to say may be gone, and that the run has ended is not
            said = ""
            _warn(f"the message has its first line only: {type(error).__name__}: {error}")
        try:
            message = self._message(event, said)
            for target in self.targets:
                send = _post if is_web_address(target) else _run
                if fault := send(target, message) and send(target, message):  # once more
                    _warn(f"nobody was notified: {fault}")
        except Exception as error:  # noqa: BLE001  a message is no part of the job, which has ended as it has
            _warn(f"nobody was notified: {type(error).__name__}: {error}")

    def _message(self, event: Event, said: str) -> dict[str, Any]:
        seconds = time.monotonic() - self.started if self.seconds is None else self.seconds
        text = f"neurofleet: {self.name} ({self.kind}) {_WORDS[event]} after {duration(seconds)}."
        return {
            "text": f"{text}\n{said}" if said else text,
            "event": event,
            "name": self.name,
            "kind": self.kind,
            "seconds": round(seconds, 1),
            "version": __version__,
        }


def _warn(fault: str) -> None:
    print_line(terminal(errors=True, warnings=True), f"warning: {fault}")


_WORDS: dict[Event, str] = {
    "done": "is done",
    "failed": "has failed",
    "interrupted": "was interrupted, and can be resumed,",
    "stalled": "waits",
    "resumed": "goes on",
}


def _post(url: str, message: dict[str, Any]) -> str:
    """Send a message; return what went wrong. The path of a URL is not told: of webhooks it is the password."""
    where = f"{urlsplit(url).scheme}://{host_of(url)}"
    try:
        with requests.post(url, json=message, timeout=TIMEOUTS_S, allow_redirects=False, stream=True) as answer:
            return "" if answer.status_code < 300 else f"{where} answered {answer.status_code}"
    except requests.RequestException as error:
        return f"{where} did not answer ({type(error).__name__})"


def host_of(url: str) -> str:
    """Return host and port of a URL, without the user and password that may stand before them."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _run(command: str, message: dict[str, Any]) -> str:
    """Run a command with the message on its standard input, as JSON; return what went wrong."""
    words = shlex.split(command)
    about = {"NEUROFLEET_EVENT": message["event"], "NEUROFLEET_TEXT": message["text"]}
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env=os.environ | about,
                start_new_session=True,
            )
        except OSError as error:
            return f"{words[0]} cannot be run: {error.strerror}"
        try:
            process.communicate(json.dumps(message).encode(), timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            return f"{words[0]} had not ended after {COMMAND_S:g} s"
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode == 0:
            return ""
        said.seek(0)
        last = (said.read()[-200:].decode(errors="replace").strip().splitlines() or [""])[-1]
        return f"{words[0]} ended with {process.returncode}{f': {last}' if last else ''}"


_current: ContextVar[Notifier | None] = ContextVar("_current", default=None)


def notify_in_background(event: Event, told: str) -> None:
    """Send a message of the run that is under way here, if it has somebody to tell, without waiting for it."""
    if (notifier := _current.get()) is not None:
        threading.Thread(target=notifier.send, args=(event, lambda: told), daemon=True).start()


def run_took(seconds: float) -> None:
    """Let the message of the run that is under way here say how long it took."""
    if (notifier := _current.get()) is not None:
        notifier.seconds = seconds


def run_was_finished() -> None:
    """Let nobody be told that the run that was opened here is done: it was so before."""
    if (notifier := _current.get()) is not None:
        notifier.was_finished = True


@contextmanager
def notifying(targets: Sequence[str], name: str, kind: str, out: str) -> Iterator[None]:
    """Send a message when what is within a ``with`` block has ended, unless it was so before.

    Parameters
    ----------
    targets : sequence of str
        As `targets_of` returns them.
    name, kind : str
        Of the job.
    out : str
        The run folder, whose findings are told at the end.
    """
    if not targets:
        yield
        return
    notifier = Notifier(targets, name, kind, time.monotonic())
    token = _current.set(notifier)
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        notifier.send("interrupted")
        raise
    except Exception as error:
        told = str(error) or type(error).__name__
        notifier.send("failed", lambda: told)
        raise
    else:
        if not notifier.was_finished:
            notifier.send("done", lambda: "\n".join(findings_in(out)))
    finally:
        _current.reset(token)
