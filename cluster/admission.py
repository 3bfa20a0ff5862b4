"""Whether a cluster lets somebody in, asked from outside and in processes of their own: Ray may hang."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from cluster.checkup import call_elsewhere, token_file
from cluster.errors import ClusterUnreachable
from cluster.session import connect

KNOCK_LIMIT_S = 20.0
PORT_LIMIT_S = 10.0
CONNECTION_LIMIT_S = 60.0

_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

# GcsClient may crash when its process ends; by then it has answered.
_KNOCK = """
import os, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).cluster_id
    print("\\nopen", flush=True)
except AuthenticationError:
    print("\\nrefused", flush=True)
os._exit(0)
"""


def port_answers(host: str, port: int) -> bool:
    """Whether anything listens there."""
    try:
        socket.create_connection((host, port), PORT_LIMIT_S).close()
    except OSError:
        return False
    return True


def anonymous_access(address: str) -> str:
    """Whether the head at ``host:port`` lets somebody in who shows no token: "open" or "refused".

    Raises
    ------
    RuntimeError
        If it answers neither way.
    """
    return _knock(address, {"RAY_AUTH_MODE": "disabled"})


def own_access(address: str) -> str:
    """As `anonymous_access`, with the token that there is here."""
    if token_file() is None:
        return "refused"
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    own = {name: os.environ[name] for name in names if os.environ.get(name)}
    return _knock(address, {"RAY_AUTH_MODE": "token"} | own)


def trial_connection(address: str) -> str | None:
    """Connect to a cluster in a process of its own, since Ray may wait for ever; why it failed, or None."""
    answer = call_elsewhere("cluster.admission:connect_once", address, limit_s=CONNECTION_LIMIT_S)
    error = answer.get("error")
    if error is not None and "did not return within" in error:
        return (
            f"no connection was made within {CONNECTION_LIMIT_S:g} s: something answers there, but not all of"
            " what a Ray head consists of can be reached from here"
        )
    return error


def connect_once(address: str) -> str:
    """Connect to a cluster, and leave it. Returns the address of its head.

    Raises
    ------
    ConnectionError
        In the words of Ray.
    """
    try:
        with connect(address) as session:
            return session.address
    except ClusterUnreachable as error:
        raise ConnectionError(" ".join(str(error.__cause__ or error).split())) from error


def _knock(address: str, authentication: dict[str, str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _AUTHENTICATION}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _KNOCK, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=KNOCK_LIMIT_S,
            env=environment | authentication,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{address} does not answer as a Ray head does") from None
    answer = done.stdout.strip().splitlines()[-1:]
    if answer not in (["open"], ["refused"]):
        raise RuntimeError((done.stderr.strip().splitlines() or ["no answer"])[-1])
    return answer[0]
