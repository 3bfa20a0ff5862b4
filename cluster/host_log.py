"""What a host logs: lines of JSON on its standard error, which Ray keeps in the worker's log file.

Nothing of it travels to the driver. What engines print is kept too, but not more than its end, and of
evaluations that went well only now and then: an engine that prints without end fills no disk.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from cluster.log import OURS, AboutLogger, JsonLine, is_kept
from cluster.outcome import Outcome

PRINTED_EVERY_S = 60.0

_logger = logging.getLogger("cluster.host")


def log_to_standard_error(run: str) -> None:
    """Have this process log there until it ends: our own records, and warnings of anything else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine(run))
    handler.addFilter(is_kept)
    logging.getLogger().addHandler(handler)
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    logging.captureWarnings(True)


class HostLog:
    """What a workbench has to say."""

    def __init__(self) -> None:
        self._next_printed = 0.0

    def built(self, engine: str, seconds: float, printed: str) -> None:
        """An engine was built; `printed` is what it said meanwhile."""
        _log({}).info("engine built", engine=engine, seconds=round(seconds, 3), **_printed(printed))

    def not_built(self, engine: str, reason: str) -> None:
        """An engine cannot be built here."""
        _log({}).warning("engine not built", engine=engine, reason=reason)

    def ended(self, about: Mapping[str, Any], engine: str, outcome: Outcome, printed: str) -> None:
        """An evaluation ended. One that is ``ok`` and printed nothing is not worth a record."""
        if not outcome.ok:
            _log(about).warning(
                f"evaluation ended as {outcome.status}",
                engine=engine,
                reason=outcome.reason,
                seconds=round(outcome.seconds, 3),
                **_printed(printed),
            )
        elif printed and time.monotonic() >= self._next_printed:
            self._next_printed = time.monotonic() + PRINTED_EVERY_S
            _log(about).info("engine printed", engine=engine, **_printed(printed))


def _log(about: Mapping[str, Any]) -> AboutLogger:
    return AboutLogger(_logger, about)


def _printed(text: str) -> dict[str, Any]:
    return {"printed": text} if text else {}
