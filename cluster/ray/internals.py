"""Settings of Ray that have no public switch, changed for a while and put back, and other uses of its internals."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import psutil

from neurofleet.fresh_process import module_path

logger = logging.getLogger(__name__)


@contextmanager
def environment(values: Mapping[str, str], without: tuple[str, ...] = (), kept: tuple[str, ...] = ()) -> Iterator[None]:
    """Set and remove environment variables, and restore them afterwards, with those that Ray sets itself (`kept`)."""
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


class _WorkerPath(list):
    """Where workers look for modules. Ray puts the entries before a worker's own path one by one, the last one first.

    It also adds the driver's working folder at the end, hence before all others: here it goes to the other end.
    """

    def extend(self, paths: Iterable[str]) -> None:
        self[:0] = paths


def working_folder_last() -> Any:
    """Return a job's configuration with which workers on this machine look for modules where this process does.

    The working folder comes last: what a user keeps there in a random.py or numpy.py takes no module's place, neither
    for Ray nor for us. Without this it would come first.
    """
    config: Any = importlib.import_module("ray.job_config").JobConfig()
    folders = [path for path in module_path() if path != os.getcwd() and os.path.exists(path)]
    config._py_driver_sys_path = _WorkerPath(reversed(folders))
    return config


def driver_folders_last() -> None:
    """In a Ray worker, look for modules in the driver's folders (its script's, its working folder) last of all.

    On a cluster of several machines the paths of the driver mean nothing to others, so `working_folder_last` does not
    apply: Ray puts the driver's folders first, until the worker calls this.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    if getattr(worker.global_worker, "mode", None) != worker.WORKER_MODE:
        return
    for folder in dict.fromkeys(worker.global_worker.core_worker.get_job_config().py_driver_sys_path):
        if folder in sys.path:
            sys.path.remove(folder)
            if folder not in sys.path:  # else it is on the worker's own path as well, and stays there
                sys.path.append(folder)


def running_here() -> str:
    """The address of the head that ``auto`` means: the one in ``RAY_ADDRESS``, or one on this machine.

    Raises
    ------
    ConnectionError
        If there is none.
    """
    services: Any = importlib.import_module("ray._private.services")
    return services.get_ray_address_from_environment("auto", None)


def local_nodes() -> set[str]:
    """The ids of the nodes, of whatever cluster, that run on this machine."""
    services: Any = importlib.import_module("ray._private.services")
    return services.find_node_ids()


def own_raylet() -> psutil.Process | None:
    """The raylet that this process is connected to, None if it is not to be found."""
    worker: Any = importlib.import_module("ray._private.worker")
    argument = f"--raylet_socket_name={worker.global_worker.node.raylet_socket_name}"
    found = (process for process in psutil.process_iter(["cmdline"]) if argument in (process.info["cmdline"] or ()))
    return next(found, None)


def train_controller_announced(messages: Any) -> Any:
    """A callback of Ray Train that puts ``("controller", handle)`` into a queue when a training starts.

    The handle has ``abort``, for which `TorchTrainer` has no method of its own.
    """
    interface: Any = importlib.import_module("ray.train.v2._internal.execution.callback").ControllerCallback

    class Announcement(interface):
        def after_controller_start(self, train_run_context: Any) -> None:
            import ray

            messages.put(("controller", ray.get_runtime_context().current_actor))

    return Announcement()


def raylet_messages_logged() -> AbstractContextManager[None]:
    """Send to the log what Ray would print on standard output about workers that died.

    The pool replaces lost hosts, and counts them in its statistics.
    """

    def log(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for line in data.get("lines", ()):
            logger.info("%s", line)

    return _replaced(importlib.import_module("ray._private.worker"), "print_to_stdstream", log)


def this_machine_only() -> AbstractContextManager[None]:
    """Make Ray listen on 127.0.0.1.

    It does so by itself where it knows one machine only (its rule on macOS and Windows), and otherwise
    replaces a loopback address by the machine's own and listens on every interface.
    """
    return _replaced(importlib.import_module("ray._private.ray_constants"), "ENABLE_RAY_CLUSTER", False)


@contextmanager
def without_unused_processes() -> Iterator[None]:
    """Start Ray without three processes that a Ray on one machine has no use for; each takes a second to load.

    They are the server of its dashboard, which it starts and waits for even where no dashboard is included, the monitor
    of its autoscaler, and the one that sends to the driver what workers print, which ours does not show.
    """
    constants: Any = importlib.import_module("ray._private.ray_constants")

    def announce(node: Any, **_: Any) -> None:
        # An agent would look for the address, and log that there is none, every second.
        key, namespace = constants.DASHBOARD_ADDRESS.encode(), constants.KV_NAMESPACE_DASHBOARD
        node.get_gcs_client().internal_kv_put(key, _NOBODY, True, namespace)

    def left_out(_: Any) -> None:
        return

    replaced = {"start_api_server": announce, "start_monitor": left_out, "start_log_monitor": left_out}
    node: Any = importlib.import_module("ray._private.node").Node
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(_replaced(node, name, value))
        yield


_NOBODY = b"127.0.0.1:9"
"""Where no server listens."""


@contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Replace something inside Ray for a while."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)
