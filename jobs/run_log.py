"""The log of a run: lines of JSON in ``OUT/log.jsonl``, and warnings in the terminal beside the progress.

Every record says which run it belongs to, and which cell, stage, seed and generation it is about, null where
that does not apply. Warnings of libraries are records like any other.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rich.console import Console

from neurofleet.cluster.log_records import ABOUT, OURS, AboutLogger, JsonLine, fields_of, is_kept, is_ours
from neurofleet.cluster.store.parts import WHOLE, Part, files_of_parts
from neurofleet.errors import ClusterError
from neurofleet.jobs.terminal import terminal

FILE = "log.jsonl"
FILE_BYTES = 64 * 2**20
FILES_KEPT = 4
"""Older ones: ``log.jsonl.1`` is the youngest of them."""


def fit_logger(**about: Any) -> AboutLogger:
    """Return a logger that takes any keywords: ``log.info("generation stored", generation=3, best=12.3)``.

    Parameters
    ----------
    **about
        What all its records are about: `cell`, `stage`, `seed`, `generation`.
    """
    return AboutLogger(logging.getLogger("neurofleet.jobs.fit"), about)


LEVELS = ("debug", "info", "warning", "error", "critical")
MOST_READ_BYTES = 16 * 2**20


@dataclass(frozen=True)
class LogLines:
    """Records of a run's log, the latest first.

    Attributes
    ----------
    records : list of dict
        As they are stored: ``at``, ``level``, ``message``, ``cell`` …
    complete : bool
        Whether there are no more that fit.
    """

    records: list[dict[str, Any]]
    complete: bool


def read_log(root: str | Path, level: str = "debug", words: Sequence[str] = (), most: int = 200) -> LogLines:
    """Return the latest records of a run's log that fit, read from the end of its files.

    Parameters
    ----------
    root : str or Path
        The run's folder on this machine.
    level : str
        One of `LEVELS`: records of this and higher ones.
    words : sequence of str
        Each of them is in the line, capitals or not.
    most : int
        Records, and no more than `MOST_READ_BYTES` of each file are looked at.
    """
    levels = LEVELS[LEVELS.index(level) :]
    records: list[dict[str, Any]] = []
    complete = True
    folder = Path(root)
    for name in files_of_parts(FILE, [path.name for path in folder.glob("log*.jsonl")]):
        lines = _tail(folder / name)
        complete &= lines is not None
        found = 0
        for line in reversed((lines or _tail(folder / name, cut=True) or b"").split(b"\n")):
            text = line.decode(errors="replace")
            if not all(word.casefold() in text.casefold() for word in words):
                continue
            try:
                record = json.loads(text)
            except ValueError:  # torn, or cut at its beginning
                continue
            if isinstance(record, dict) and record.get("level") in levels:
                records.append(record)
                found += 1
                if found > most:
                    break
    records.sort(key=lambda record: str(record.get("at")), reverse=True)
    return LogLines(records[:most], complete and len(records) <= most)


def _tail(path: Path, cut: bool = False) -> bytes | None:
    """Return a file's content; where it is too large None, or its end if `cut`."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size > MOST_READ_BYTES and not cut:
            return None
        file.seek(max(0, size - MOST_READ_BYTES))
        return file.read(MOST_READ_BYTES)


@contextmanager
def run_log(run: str, root: str, console: Console | None = None, part: Part = WHOLE) -> Iterator[AboutLogger]:
    """Log to the run's folder for the length of a ``with`` block; yield a logger of the whole run.

    A folder behind a URI has no file that lines could be added to: they go to standard error, and so into
    the log of the Ray job, unless that is a terminal. Warnings are shown in a terminal either way. An error
    that leaves the block is in the lines too.

    Parameters
    ----------
    run : str
        The run's name, in every record.
    root : str
        The run's folder, a path or a URI. The caller has locked it.
    console : rich Console, optional
        The one that a progress display draws on.
    part : Part
        Of the run; each has a file of its own.

    Raises
    ------
    ClusterError
        If the file cannot be opened.
    """
    console = console or terminal(errors=True)
    to_lines: logging.Handler | None = None
    if "://" not in root:
        to_lines = _LogFile(Path(root) / part.file(FILE), console)
    elif not console.is_terminal:
        to_lines = logging.StreamHandler(sys.stderr)
    handlers: list[logging.Handler] = []
    if to_lines is not None:
        to_lines.setFormatter(JsonLine(run))
        handlers.append(to_lines)
    if to_lines is None or isinstance(to_lines, _LogFile):
        handlers.append(_ToConsole(terminal(errors=True, warnings=True) if console.quiet else console))
    log = AboutLogger(logging.getLogger("neurofleet.jobs.run_job"), {})
    with _attached(handlers):
        try:
            yield log
        except Exception as error:
            if to_lines is not None:
                _hand_over(to_lines, error)
            raise


@contextmanager
def _attached(handlers: list[logging.Handler]) -> Iterator[None]:
    """Have the handlers get our records from INFO, and those of all others from WARNING."""
    ours = logging.getLogger(OURS)
    level = ours.level
    # Ray's logger hands nothing on, and shows what it has to say itself.
    to_lines = [handler for handler in handlers if not isinstance(handler, _ToConsole)]
    places = [(logging.getLogger(), handlers), (logging.getLogger("ray"), to_lines)]
    for logger, its_handlers in places:
        for handler in its_handlers:
            handler.addFilter(is_kept)
            logger.addHandler(handler)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        ours.setLevel(level)
        for logger, its_handlers in places:
            for handler in its_handlers:
                logger.removeHandler(handler)
        for handler in handlers:
            handler.close()


def _hand_over(handler: logging.Handler, error: Exception) -> None:
    """Write the error into the lines only: the command line shows it by itself."""
    record = logging.LogRecord(
        "neurofleet.jobs.run_job",
        logging.ERROR,
        __file__,
        0,
        f"the run ended with {type(error).__name__}: {error}",
        None,
        (type(error), error, error.__traceback__),
    )
    handler.handle(record)


class _LogFile(RotatingFileHandler):
    """Adds lines to a file that is never rewritten; says so once when that does not work."""

    def __init__(self, path: Path, console: Console) -> None:
        self._console = console
        self._has_warned = False
        try:
            super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8")
        except OSError as error:
            raise ClusterError(
                f"Cannot write {path}: {error.strerror}. Make it a file that you may write, or remove it, and"
                " give the same command again."
            ) from error

    def _open(self) -> Any:
        stream = super()._open()
        if _is_torn(Path(self.baseFilename)):  # a driver was killed while it wrote
            stream.write("\n")
        return stream

    def close(self) -> None:
        """Close the file; what is left to be written may not find room."""
        try:
            super().close()
        except OSError as error:
            self._warn_once(error)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say why nothing is written; what else the run stores finds the same fault, and ends it."""
        self._warn_once(sys.exc_info()[1])

    def _warn_once(self, error: BaseException | None) -> None:
        if not self._has_warned:
            self._has_warned = True
            _print(self._console, f"warning: {self.baseFilename} is incomplete: {error}")


def _is_torn(path: Path) -> bool:
    with open(path, "rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


class _ToConsole(logging.Handler):
    """Prints warnings above whatever the console is drawing."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record: level, what it is about, message; where it comes from unless from here."""
        fields = fields_of(record)
        about = ", ".join(f"{name} {fields[name]}" for name in ABOUT if fields[name] is not None)
        others = ", ".join(f"{name} {value}" for name, value in fields.items() if name not in ABOUT)
        parts = (
            record.levelname.lower(),
            about,
            "" if is_ours(record) else record.name,
            record.getMessage().strip() + (f" ({others})" if others else ""),
        )
        text = ": ".join(part for part in parts if part)
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        _print(self._console, text)


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
