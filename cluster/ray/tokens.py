"""Ray's token: whether there is one, the variables with which Ray sends it to a cluster, and a new one."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neurofleet.cluster.ray.checkup import token_file
from neurofleet.cluster.ray.internals import environment

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


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
    """Send our token, if there is one: Ray sends it only if ``RAY_AUTH_MODE`` says so."""
    with environment(own_authentication()), authentication():
        yield


def own_authentication() -> dict[str, str]:
    """Return the variables with which Ray sends our token.

    Without a token the mode is ``disabled``: in mode ``token`` Ray would end the process.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode == "token" and not has_token():
        mode = "disabled"
    named = {name: os.environ[name] for name in _TOKENS if os.environ.get(name)}
    return {"RAY_AUTH_MODE": mode} | named


def has_token() -> bool:
    """Whether there is a token where Ray looks for one."""
    return token_file() is not None


def write_token(folder: Path) -> Path:
    """Write a new token into a folder, for its owner's eyes only, and return the file."""
    file = folder / "token"
    file.touch(mode=0o600)
    file.write_text(secrets.token_hex(32))
    return file


def _read_authentication() -> None:
    _raylet: Any = importlib.import_module("ray._raylet")
    _raylet.Config.initialize("")
    _raylet.AuthenticationTokenLoader.instance().reset_cache()
