"""Log records with their context (run, cell, stage, seed, generation), one line of JSON each."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

ABOUT = ("cell", "stage", "seed", "generation")
OURS = "neurofleet"
_OF_LOGGING = ("exc_info", "stack_info", "stacklevel")


class AboutLogger(logging.LoggerAdapter):
    """A logger that takes any keywords: ``log.info("generation stored", generation=3, best=12.3)``.

    Parameters
    ----------
    logger : logging.Logger
    about : mapping
        The context of all its records, any of `ABOUT`.
    """

    def __init__(self, logger: logging.Logger, about: Mapping[str, Any]) -> None:
        super().__init__(logger, dict(about))

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Move the keywords that logging does not know to the record's fields."""
        fields = {**(self.extra or {}), **kwargs}
        known = {name: fields.pop(name) for name in _OF_LOGGING if name in fields}
        return msg, {**known, "extra": {"fields": fields}}


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record comes from neurofleet, not from a library that it uses."""
    return record.name.partition(".")[0] == OURS


def is_kept(record: logging.LogRecord) -> bool:
    """Filter of a handler: keep our own records from INFO on, and those of libraries from WARNING on."""
    return record.levelno >= (logging.INFO if is_ours(record) else logging.WARNING)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return a record's fields beside its message; those of `ABOUT` first, None where they do not apply."""
    fields = getattr(record, "fields", {})
    return {name: fields.get(name, getattr(record, name, None)) for name in ABOUT} | fields


class JsonLine(logging.Formatter):
    """A record as one line of JSON: at, level, run, cell, stage, seed, generation, logger, message, fields.

    Numbers that JSON does not have (nan, inf) become null.

    Parameters
    ----------
    run : str
        The run's name, in every line.
    """

    def __init__(self, run: str) -> None:
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its newline."""
        fields = fields_of(record)
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "run": self._run,
            **{name: fields.pop(name) for name in ABOUT},
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        for name, value in fields.items():
            line.setdefault(name, value)
        return json.dumps(plain_json(line))


def plain_json(value: Any) -> Any:
    """Return the nearest value that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(name): plain_json(content) for name, content in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(content) for content in value]
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return plain_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
