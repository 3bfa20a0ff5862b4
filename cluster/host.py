"""The Ray actor of the pool, one per CPU: a `Workbench` that the driver can call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.host_log import log_to_standard_error
from cluster.workbench import Assignment, Report, Workbench

if TYPE_CHECKING:
    from ray import ObjectRef


class Host:
    """Made a Ray actor by the pool. See `Workbench` for the arguments; `run` is for the log."""

    def __init__(self, memory_limit_mb: int | None, build_limit_s: float, run: str) -> None:
        log_to_standard_error(run)
        self._bench = Workbench(memory_limit_mb, build_limit_s)

    def hello(self) -> tuple[str, int]:
        """The node it is on, and its process."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def exchange(
        self,
        assignments: Sequence[Assignment],
        recipes: Mapping[str, tuple[str, ObjectRef]],
        forgotten: Sequence[str],
        wait_s: float,
    ) -> Report:
        """Take new tasks in, and hand out what there is.

        `recipes` says how to build engines this host has not heard of: key -> factory, pickled payload.
        `forgotten` are engines that are not needed any more.
        """
        for key in forgotten:
            self._bench.forget_engine(key)
        for key, recipe in recipes.items():
            self._bench.add_engine(key, _Fetch(*recipe))
        return self._bench.exchange(assignments, wait_s)


class _Fetch:
    """A recipe whose payload is fetched when the engine is built."""

    def __init__(self, factory: str, payload: ObjectRef) -> None:
        self._factory = factory
        self._payload = payload

    def __call__(self) -> tuple[str, bytes]:
        import ray

        return self._factory, ray.get(self._payload)
