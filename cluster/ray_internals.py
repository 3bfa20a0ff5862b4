"""Settings of Ray that have no public switch, changed for a while and put back."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


@contextmanager
def environment(
    values: Mapping[str, str], without: tuple[str, ...] = (), kept: tuple[str, ...] = ()
) -> Iterator[None]:
    """Set and remove environment variables, and put them back, and those that Ray sets (`kept`)."""
    names = (*values, *without, *kept)
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(values)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def authentication() -> Iterator[None]:
    """Let Ray, which reads them once, see the authentication variables as they are now."""
    _read_authentication()
    try:
        yield
    finally:
        _read_authentication()


@contextmanager
def own_token() -> Iterator[None]:
    """Show our token, where there is one: Ray sends it only when it is told to by ``RAY_AUTH_MODE``."""
    auth = {"RAY_AUTH_MODE": "token"} if "RAY_AUTH_MODE" not in os.environ and has_token() else {}
    with environment(auth), authentication():
        yield


def has_token() -> bool:
    """Whether there is a token where Ray looks for one."""
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    return bool(named) or (Path.home() / ".ray" / "auth_token").exists()


def _read_authentication() -> None:
    _raylet: Any = importlib.import_module("ray._raylet")
    _raylet.Config.initialize("")
    _raylet.AuthenticationTokenLoader.instance().reset_cache()


def raylet_messages_logged() -> AbstractContextManager[None]:
    """Send to the log what Ray would print on standard output about workers that died.

    The pool deals with lost hosts, and says so in its statistics.
    """

    def log(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for line in data.get("lines", ()):
            logger.info("%s", line)

    return _replaced("ray._private.worker", "print_to_stdstream", log)


def this_machine_only() -> AbstractContextManager[None]:
    """Make Ray listen on 127.0.0.1.

    It does so by itself where it knows one machine only (its rule on macOS and Windows), and otherwise
    replaces a loopback address by the machine's own and listens on every interface.
    """
    return _replaced("ray._private.ray_constants", "ENABLE_RAY_CLUSTER", False)


@contextmanager
def _replaced(module_name: str, name: str, value: Any) -> Iterator[None]:
    """Replace something inside Ray for a while."""
    module = importlib.import_module(module_name)
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
