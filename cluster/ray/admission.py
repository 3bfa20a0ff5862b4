"""Whether a cluster lets somebody in, asked from a process of its own: Ray may hang, or end its process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

from neurofleet.cluster.cluster_errors import ClusterUnreachable, TokenRefused
from neurofleet.cluster.ray.checkup import token_file
from neurofleet.cluster.ray.internals import local_nodes, running_here
from neurofleet.cluster.ray.tokens import own_authentication

PORT_LIMIT_S = 10.0
ANSWER_LIMIT_S = 8.0
"""A head answers within milliseconds; what does not answer for so long is none."""

START_LIMIT_S = 60.0
"""How long the process that asks may take to load Ray."""

_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_CHECK = "Check failed: "  # before the words in which Ray ends a process

# GcsClient may crash when its process ends; by then it has answered. SIGALRM ends one that waits in C.
_ASK_FOR_NODES_CODE = """
import json, os, signal, sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
try:
    nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=float(sys.argv[2])).items()
    alive = {key.hex(): node.node_manager_address for key, node in nodes if node.state == 0}
    print("\\n" + json.dumps(alive), flush=True)
except AuthenticationError:
    print("\\nnull", flush=True)
os._exit(0)
"""


@dataclass(frozen=True)
class AdmittedCluster:
    """A cluster that lets us in.

    Attributes
    ----------
    address : str
        Its head's ``host:port``, as it can be reached from here.
    loopback : bool
        Whether its nodes know each other by 127.0.0.1: all of it is on this machine, and listens there only.
    """

    address: str
    loopback: bool


def admit(address: str) -> AdmittedCluster:
    """Make sure that this process can connect to a cluster, within seconds.

    Parameters
    ----------
    address : str
        ``host:port`` of its head, or ``"auto"`` for the one on this machine.

    Raises
    ------
    TokenRefused
        It asks for a token, and does not take ours.
    ClusterUnreachable
        There is none, or this machine is not one of its nodes.
    """
    try:
        head = running_here() if address == "auto" else address
    except ConnectionError as error:
        raise unreachable("auto", "no Ray runs on this machine") from error
    if "://" in head:
        raise ClusterUnreachable(
            f"{head} is a Ray Client address, and evaluations need a full connection. Give the head's own"
            " address, host:6379, or run the job on the cluster."
        )
    host, _, port = head.rpartition(":")
    if not (host and port.isdigit()):
        raise unreachable(head, "an address has the form host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PORT_LIMIT_S).close()
    except (OSError, OverflowError) as error:
        raise unreachable(head, str(error)) from error
    try:
        nodes = _ask_for_nodes(head, own_authentication())
    except RuntimeError as error:
        raise unreachable(head, str(error)) from error
    if nodes is None:
        raise _refused(head)
    if not local_nodes() & set(nodes):
        addresses = ", ".join(sorted(set(nodes.values()))) or "none"
        raise ClusterUnreachable(
            f"This machine is not a node of the Ray cluster at {head} (its nodes: {addresses}), and"
            " evaluations are handed out from one. Send the job there with `neurofleet submit`, or run it on"
            f" a node of the cluster, or make this machine one with `ray start --address={head}`."
        )
    return AdmittedCluster(head, all(node.startswith("127.") for node in nodes.values()))


def anonymous_access(address: str) -> str:
    """Whether the head at ``host:port`` lets somebody in who shows no token: "open" or "refused".

    Raises
    ------
    RuntimeError
        If it answers neither way.
    """
    return "refused" if _ask_for_nodes(address, {"RAY_AUTH_MODE": "disabled"}) is None else "open"


def unreachable(address: str, cause: str) -> ClusterUnreachable:
    """The error for a cluster that was not reached, with its cause."""
    return ClusterUnreachable(
        f"No Ray cluster could be reached at {address}: {' '.join(cause.split())}. Give host:port of a"
        " running head (as `ray start --head` prints it), or leave the address away to run on this machine."
    )


def _refused(address: str) -> TokenRefused:
    token = token_file()
    if token is None:
        return TokenRefused(
            f"The Ray cluster at {address} asks for a token, and there is none here. Copy the head's"
            " ~/.ray/auth_token to the same place here and `chmod 600` it, or name another file in"
            " RAY_AUTH_TOKEN_PATH."
        )
    if own_authentication()["RAY_AUTH_MODE"] == "disabled":
        return TokenRefused(
            f"The Ray cluster at {address} asks for a token, and RAY_AUTH_MODE=disabled keeps the one in"
            f" {token['place']} from being shown. Unset RAY_AUTH_MODE."
        )
    return TokenRefused(
        f"The Ray cluster at {address} asks for a token, and does not take the one in {token['place']}. Copy"
        " the token of this cluster's head there; each cluster may have its own."
    )


def _ask_for_nodes(address: str, authentication: dict[str, str]) -> dict[str, str] | None:
    """The nodes that are alive, id -> address; None if we are refused.

    Raises
    ------
    RuntimeError
        If it answers neither way.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _AUTHENTICATION}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_FOR_NODES_CODE, address, str(ANSWER_LIMIT_S)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
            env=environment | authentication,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"Ray could not be loaded within {START_LIMIT_S:g} s") from None
    if done.returncode == -signal.SIGALRM:
        raise RuntimeError("something answers there, but not as a Ray head does")
    first = done.stderr.partition("\n")[0]
    if _CHECK in first:  # the lines after it are the stack
        raise RuntimeError(first.partition(_CHECK)[2])
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise RuntimeError((done.stderr.strip().splitlines() or ["no answer"])[-1]) from None
