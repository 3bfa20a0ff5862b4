"""Progress of what takes long, as records of the logger ``neurofleet.learners``.

A call of ``train`` prints them on standard error, line by line, as notebooks and logs want it; a run keeps them in its
log; elsewhere nothing is seen of them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

from neurofleet.errors import Interrupted
from neurofleet.wording import time_left

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("neurofleet.learners")
LINE_S = 10.0


class StepProgress:
    """Logs how far something is: at its first step, then at most every 10 s, and at its last.

    Parameters
    ----------
    total : int
        Steps that it has.
    of_what : str
        What the time left is about, where the steps are a part of something only: ``of this training``.
    """

    def __init__(self, total: int, of_what: str = "") -> None:
        self._total, self._done = total, 0
        self._of_what = of_what
        self._start = time.monotonic()
        self._next = self._start

    def done(self, line: str) -> None:
        """Count a step, and log `line` with about how long the others take, if it is time for a line."""
        self._done += 1
        now = time.monotonic()
        if now < self._next and self._done != self._total:
            return
        self._next = now + LINE_S
        left = time_left((now - self._start) / self._done * (self._total - self._done))
        logger.info(" · ".join(filter(None, [line, f"{left} {self._of_what}".strip() if left else ""])))


def told(train: Callable[P, R]) -> Callable[P, R]:
    """Decorate a learner's ``train``: progress goes to standard error unless ``quiet``, and Ctrl-C says what it ended.

    Raises
    ------
    Interrupted
        Ctrl-C, or a notebook's stop button.
    """

    @wraps(train)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with nullcontext() if kwargs.get("quiet") else logged_to(logging.StreamHandler(sys.stderr)):
                return train(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted(
                "The training was interrupted: no model was written. The same call begins it again."
            ) from None

    return call


@contextmanager
def logged_to(handler: logging.Handler) -> Iterator[None]:
    """Hand the records within a ``with`` block to a handler, and to no other."""
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # or a notebook that has set up logging would show each line twice
    try:
        yield
    finally:
        logger.propagate = propagates
        logger.setLevel(level)
        logger.removeHandler(handler)
