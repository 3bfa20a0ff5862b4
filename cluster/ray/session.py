"""A connection to Ray: one started on this machine for this process, or a running cluster.

Ray's own processes follow a killed driver within a second, but two of its agents take another minute, and nothing
removes the temporary folder. A small process of ours does both: it waits at a pipe that ends with the driver.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil

from neurofleet.cluster.ray.admission import admit, unreachable
from neurofleet.cluster.ray.internals import (
    environment,
    own_raylet,
    raylet_messages_logged,
    this_machine_only,
    without_unused_processes,
    working_folder_last,
)
from neurofleet.cluster.ray.tokens import authentication, own_token, write_token
from neurofleet.errors import ClusterError, ClusterUnreachable
from neurofleet.fresh_process import end, start

OBJECT_STORE_BYTES = 200 * 2**20

# AF_UNIX names may be 107 bytes long; Ray appends about 80 to its folder's name.
_LONGEST_FOLDER = 24

# Ray's own switches, read when it is imported or when it starts its processes.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_SET_BY_RAY = ("PYTHONBREAKPOINT", "RAY_CLIENT_MODE")


@dataclass(frozen=True)
class RaySession:
    """A connection to Ray.

    Attributes
    ----------
    address : str
        Where its head listens, ``host:port``.
    embedded : bool
        Whether it was started here and ends with the session.
    """

    address: str
    embedded: bool


@contextmanager
def connect(address: str | None = None, cpus: int | None = None) -> Iterator[RaySession]:
    """Connect this process to Ray for the length of a ``with`` block.

    Without an address, one is started for this process alone: it listens on this machine only, needs a token of its
    own, and keeps its files in a private temporary folder. Nothing of it is left afterwards, also when this process is
    killed. Any other Ray on the machine, and ``RAY_ADDRESS``, is left alone. A process that is connected already stays
    connected as it is.

    Parameters
    ----------
    address : str, optional
        A running cluster, ``host:port`` of its head, or ``"auto"`` for the one on this machine.
    cpus : int, optional
        Cores the embedded Ray may use; all of this process's by default.

    Raises
    ------
    ClusterUnreachable
        If nothing answers at the address, it does not take our token, or this machine is none of its nodes, which is
        raised within seconds; if no Ray can be started here; or, in the main thread, if Ray's head or its part on this
        machine ends while this process is connected.
    ClusterError
        If both an address and `cpus` are given, or this process is connected to another Ray.
    KeyboardInterrupt
        SIGTERM while Ray starts.
    """
    if address is not None and cpus is not None:
        raise ClusterError(
            f"cpus={cpus} was given together with the address {address}. A running cluster brings its own"
            " cores: leave one of the two away."
        )
    if cpus is not None and cpus < 1:
        raise ClusterError(f"cpus={cpus} was given; an embedded Ray needs at least one. Give 1 or more.")
    with environment(_QUIET, kept=_SET_BY_RAY), raylet_messages_logged():
        import ray

        if ray.is_initialized():
            connected_to = ray.get_runtime_context().gcs_address
            if address not in (None, "auto", connected_to):
                raise ClusterError(
                    f"This process is connected to the Ray at {connected_to} already, and cannot be connected"
                    f" to {address} as well. Call ray.shutdown() first, or use another process."
                )
            yield RaySession(connected_to, embedded=False)
            return
        # Ray would configure its logging itself, and give its format to handlers that are not its own.
        logging.getLogger("ray").setLevel(logging.ERROR)
        on_sigterm = signal.getsignal(signal.SIGTERM)
        with (
            _Watch() as watch,
            _embedded(cpus) if address is None else _attached(address) as session,
            watch.over(session.address),
        ):
            if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
                # Ray has put its own handler in its place, which ends the process at once.
                signal.signal(signal.SIGTERM, on_sigterm)
            yield session


@contextmanager
def _embedded(cpus: int | None) -> Iterator[RaySession]:
    import ray

    folder = _private_folder()
    token = write_token(folder)
    cleanup, cleanup_pipe = _start_cleanup_process(folder)
    try:
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        with (
            environment(auth, without=("RAY_ADDRESS", "RAY_AUTH_TOKEN")),
            authentication(),
            this_machine_only(),
            without_unused_processes(),
        ):
            try:
                ray.init(
                    address="local",
                    num_cpus=cpus or available_cpus(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    configure_logging=False,
                    job_config=working_folder_last(),
                    _temp_dir=str(folder / "r"),
                    _node_ip_address="127.0.0.1",
                )
            except SystemExit as end_of_process:
                raise _interrupted(end_of_process) from None
            except Exception as error:
                # On a busy machine, or when one of its processes is killed, Ray raises a plain Exception.
                ray.shutdown()
                raise ClusterUnreachable(
                    f"Ray could not be started on this machine: {str(error) or repr(error)}. Its logs are lost with"
                    f" its temporary folder. Make sure that {folder.parent} has room and that loopback connections"
                    " are allowed, and try again when the machine is less busy, or give the --address of a running"
                    " cluster."
                ) from error
            try:
                yield RaySession(ray.get_runtime_context().gcs_address, embedded=True)
            finally:
                ray.shutdown()
    finally:
        # Not by closing the pipe: Ray has left log files of the folder open in this process, and the other one
        # would take it for a leftover and kill it.
        end(cleanup)
        os.close(cleanup_pipe)
        clean_up_folder(folder)


@contextmanager
def _attached(address: str) -> Iterator[RaySession]:
    import ray

    cluster = admit(address)  # Ray itself may try for minutes, or for ever
    with own_token(), this_machine_only() if cluster.loopback else nullcontext():
        try:
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        except SystemExit as end_of_process:
            raise _interrupted(end_of_process) from None
        except Exception as error:
            ray.shutdown()
            raise unreachable(address, str(error) or repr(error)) from error
        try:
            yield RaySession(ray.get_runtime_context().gcs_address, embedded=False)
        finally:
            ray.shutdown()


LOOK_S = 2.0
HEAD_AWAY_S = 45.0
"""How long the head may not answer. After 60 s Ray itself would end the process, with exit code 1 and no reason."""

RAYLET_ENDED = "its raylet on this machine has ended"

END_WITHIN_S = 10.0
"""How long the main thread may take to end when the cluster is lost: a call into Ray can wait for it."""


class _Watch:
    """Raises `ClusterUnreachable` in the main thread when the cluster is lost; a context around the connection."""

    def __init__(self) -> None:
        self._left, self._ended = threading.Event(), threading.Event()
        self._lost: ClusterUnreachable | None = None

    def __enter__(self) -> _Watch:
        return self

    @contextmanager
    def over(self, address: str) -> Iterator[None]:
        """Watch the head at ``host:port`` and the raylet of this machine for the length of a ``with`` block."""
        if threading.current_thread() is threading.main_thread():
            raylet = own_raylet()
            threading.Thread(target=self._watch, args=(address, raylet), daemon=True).start()
            if raylet is not None and hasattr(os, "pidfd_open"):
                threading.Thread(target=self._end_with_raylet, args=(address, raylet.pid), daemon=True).start()
        try:
            yield
        finally:
            self._left.set()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._ended.set()
        if self._lost is not None and error is not None:
            raise self._lost from error

    def _watch(self, address: str, raylet: psutil.Process | None) -> None:
        answered = time.monotonic()
        cause = ""
        while not cause:
            if self._left.wait(LOOK_S):
                return
            silence = _silence_of(address)
            if not silence:
                answered = time.monotonic()
            if raylet is not None and not _is_alive(raylet):
                cause = RAYLET_ENDED
            elif time.monotonic() - answered > HEAD_AWAY_S:
                cause = f"its head does not answer ({silence})"
        if self._left.is_set():
            return
        self._lost = _lost(address, cause)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if not self._ended.wait(END_WITHIN_S):
            _end_at_once(self._lost)

    def _end_with_raylet(self, address: str, pid: int) -> None:
        """End this process before Ray does it.

        At the next call into a raylet that has ended, Ray ends the process with exit code 1 and no reason.
        """
        try:
            raylet = os.pidfd_open(pid)
        except OSError:
            return  # it has ended already, which the other thread sees
        try:
            select.select([raylet], [], [])
        finally:
            os.close(raylet)
        if not self._left.is_set():
            _end_at_once(_lost(address, RAYLET_ENDED))


def _lost(address: str, cause: str) -> ClusterUnreachable:
    return ClusterUnreachable(
        f"The Ray cluster at {address} was lost: {cause}. What is finished is stored; give the same command again"
        " when the cluster is there."
    )


def _end_at_once(lost: ClusterUnreachable) -> None:
    print(f"neurofleet: {lost}", file=sys.stderr, flush=True)
    os._exit(lost.exit_code)


def _silence_of(address: str) -> str:
    """Return why nobody listens at ``host:port``, empty if somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), LOOK_S).close()
    except OSError as error:
        return str(error)
    return ""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _interrupted(end_of_process: SystemExit) -> BaseException:
    """Return what to raise when `ray.init` ends the process: Ray has set its own handler of SIGTERM by then."""
    return KeyboardInterrupt() if end_of_process.code == signal.SIGTERM else end_of_process


def available_cpus() -> int:
    """Cores this process may use: its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _private_folder() -> Path:
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) + len("/nf-12345678/r") > _LONGEST_FOLDER:
        parent = Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="nf-", dir=parent))


def _start_cleanup_process(folder: Path) -> tuple[subprocess.Popen, int]:
    """Start what cleans up if this process is killed: it waits for our end of a pipe to close."""
    reader, writer = os.pipe()
    try:
        return start(_clean_up_when_closed, reader, folder, pass_fds=[reader], folder="/"), writer
    finally:
        os.close(reader)


def _clean_up_when_closed(pipe: int, folder: Path) -> None:
    os.read(pipe, 1)
    clean_up_folder(folder)


def clean_up_folder(folder: Path) -> None:
    """Kill every process that has a file open in the folder, then remove the folder."""
    give_up = time.monotonic() + 10.0
    while time.monotonic() < give_up:
        processes = _processes_in(folder)
        if not processes:
            break
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _processes_in(folder: Path) -> list[int]:
    """Other processes of ours with an open file, or their working folder, at or below `folder`."""
    prefix = f"{folder}/"
    processes = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        links = [f"{entry.path}/cwd"]
        try:
            links += [link.path for link in os.scandir(f"{entry.path}/fd")]
        except OSError:
            continue
        if any(_target(link).startswith(prefix) for link in links):
            processes.append(int(entry.name))
    return processes


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
