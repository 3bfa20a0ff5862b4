"""Whether a cluster lets this process in, asked from another process: Ray may hang, or end the one that asks."""

from __future__ import annotations

import importlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from neurofleet.cluster.ray.checkup import token_file
from neurofleet.cluster.ray.internals import local_nodes, running_here
from neurofleet.cluster.ray.tokens import own_authentication
from neurofleet.errors import ClusterUnreachable, TokenRefused
from neurofleet.fresh_process import ProcessFailed, stream

PORT_LIMIT_S = 10.0
ANSWER_LIMIT_S = 8.0
"""A head answers within milliseconds; what does not answer for so long is no head."""

START_LIMIT_S = 60.0
"""How long the process that asks may take to load Ray."""

_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_CHECK = "Check failed: "  # before Ray's reason for ending a process


@dataclass(frozen=True)
class AdmittedCluster:
    """A cluster to which this process can connect.

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


def wait_for_nodes(address: str, count: int, limit_s: float, report: Callable[[str], None]) -> int:
    """Wait until a cluster that is starting has its nodes, this machine among them; return how many it has.

    Parameters
    ----------
    address : str
        ``host:port`` of its head.
    count : int
        How many nodes it is to have.
    limit_s : float
        How long to wait for them. After that, those that are there are enough if this machine is one.
    report : callable
        Gets a line when their number changes.

    Raises
    ------
    TokenRefused
        It asks for a token, and does not take ours.
    ClusterUnreachable
        No cluster with this machine has come up at the limit.
    """
    give_up = time.monotonic() + limit_s
    there = -1
    while True:
        try:
            nodes = _ask_for_nodes(address, own_authentication())
            cause = "no node of it is this machine"
        except RuntimeError as error:
            nodes, cause = {}, str(error)
        if nodes is None:
            raise _refused(address)
        here = bool(local_nodes() & set(nodes))
        if len(nodes) != there:
            there = len(nodes)
            report(f"{there} of {count} nodes have joined the cluster at {address}")
        if here and there >= count:
            return there
        if time.monotonic() > give_up:
            if not here:
                raise unreachable(address, f"after {limit_s:g} s, {cause}")
            report(f"{count - there} of {count} nodes have not come within {limit_s:g} s; going on without them")
            return there
        time.sleep(1.0)


def anonymous_access(address: str) -> str:
    """Whether the head at ``host:port`` can be used without a token: "open" or "refused".

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
    environment = dict.fromkeys(_AUTHENTICATION) | authentication
    answers = stream(_ask_head, address, ANSWER_LIMIT_S, limit_s=START_LIMIT_S, environment=environment)
    try:
        return next(answers)
    except ProcessFailed as error:
        if error.timed_out:
            raise RuntimeError(f"Ray could not be loaded within {START_LIMIT_S:g} s") from None
        if error.code == -signal.SIGALRM:
            raise RuntimeError("something answers there, but not as a Ray head does") from None
        lines = error.output.strip().splitlines()
        checks = [line.partition(_CHECK)[2] for line in lines if _CHECK in line]  # the lines after it are the stack
        raise RuntimeError((checks[:1] or lines[-1:] or ["no answer"])[0]) from None
    except Exception as error:  # noqa: BLE001 - whatever Ray raises there is the reason
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
    finally:
        answers.close()


def _ask_head(address: str, limit_s: float) -> Iterator[dict[str, str] | None]:
    """Yield what `_ask_for_nodes` returns, in the process that asks."""
    from ray.exceptions import AuthenticationError

    _raylet: Any = importlib.import_module("ray._raylet")

    # GcsClient waits in C, where no exception reaches it; the alarm ends the process. And it may crash when it is
    # taken down, so this is a generator: its process is killed once it has answered.
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        client = _raylet.GcsClient(address=address)
        nodes = client.get_all_node_info(timeout=limit_s).items()
        yield {key.hex(): node.node_manager_address for key, node in nodes if node.state == 0}
    except AuthenticationError:
        yield None
