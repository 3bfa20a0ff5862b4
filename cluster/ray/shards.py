"""One function called with many payloads on a Ray cluster, the results in order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from neurofleet.errors import ClusterError

RETRIES = 3
ENDING_S = 10.0


def map_shards(
    function: str, payloads: Sequence[Mapping[str, Any]], *, cpus: int = 1, retries: int = RETRIES
) -> Iterator[Any]:
    """Call a function once a payload, each call a Ray task; yield what it returns, in the payloads' order.

    A call whose worker or machine dies is made again, so it must be one that may be made twice. When the
    caller stops early, or a call fails, those not finished are cancelled, and have ended when this ends.

    Parameters
    ----------
    function : str
        ``module:name``; the module must be installed on all machines of the cluster.
    payloads : sequence of mapping
        What each call is given.
    cpus : int
        Cores that a call takes.
    retries : int
        How often a call is made again.

    Raises
    ------
    ClusterError
        If this process is not connected to Ray, or a call's worker has died each time.
    Exception
        What a call raised.
    """
    import ray

    if not ray.is_initialized():
        raise ClusterError(
            "This process is not connected to a Ray cluster. Work inside"
            " `with neurofleet.cluster.ray.session.connect():`."
        )
    remote: Any = ray.remote(call).options(
        num_cpus=cpus, max_retries=retries, retry_exceptions=False, scheduling_strategy="SPREAD"
    )
    waiting = [remote.remote(function, dict(payload)) for payload in payloads]
    waiting.reverse()
    try:
        while waiting:
            yield _result(waiting[-1], function, retries)
            waiting.pop()
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if waiting:  # they may be writing where the caller is about to remove files
            ray.wait(waiting, num_returns=len(waiting), timeout=ENDING_S)


def call(function: str, payload: Mapping[str, Any]) -> Any:
    """Call a function by its name, in the process of a Ray worker."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)(payload)


def _result(reference: Any, function: str, retries: int) -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise ClusterError(
            f"A worker that was at {function} has died {retries + 1} times"
            f" ({type(error).__name__}: {str(error).strip().splitlines()[0]}). It may have run out of memory:"
            " use fewer workers on a machine, or larger machines."
        ) from error
