"""Facts about the machines of a cluster.

This module travels to the nodes by value, because a node may have another version of it, or none. So at the top of
the file it imports the standard library only; what else a question needs is imported inside its function, where a
package that is missing on a node is the answer to this one question. Every fact is
``{"value": …}`` or, if it cannot be had, ``{"unknown": why}``.
"""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import socket
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib import error as url_error
from urllib import request

Fact = dict[str, Any]
Facts = dict[str, Fact]

ANSWER_LIMIT_S = 60.0
CALL_LIMIT_S = 900.0
"""A node may have to compile first."""

CLOCK_READINGS = 3
CLOCK_LIMIT_S = 10.0
HTTP_LIMIT_S = 5.0
WORKER_PORTS = (10002, 19999)

_ROLES = {
    "/gcs_server": "GCS",
    "/raylet": "raylet",
    "/dashboard/dashboard.py": "dashboard",
    "/dashboard/agent.py": "dashboard agent",
    "ray::DashboardAgent": "dashboard agent",
    "/runtime_env/agent/main.py": "runtime environment agent",
    "ray::RuntimeEnvAgent": "runtime environment agent",
    "ray.util.client.server": "Ray Client server",
    "/monitor.py": "autoscaler monitor",
}


def ask_fact(question: Callable[[], Any]) -> Fact:
    """Return the answer to a question as a fact, also if it cannot be had."""
    try:
        return {"value": question()}
    except Exception as error:  # noqa: BLE001 - whatever keeps a machine from telling is what is reported
        named = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
        return {"unknown": f"{named}{error}"}


def machine_facts(packages: Sequence[str]) -> Facts:
    """What this process sees of its machine, without Ray: sizes in bytes, versions as strings or None."""
    return {
        "hostname": ask_fact(socket.gethostname),
        "python": ask_fact(platform.python_version),
        "packages": ask_fact(lambda: {name: package_version(name) for name in packages}),
        "compiler": ask_fact(_compiler),
        "make": ask_fact(lambda: shutil.which("make")),
        "memory_bytes": ask_fact(free_memory_bytes),
        "shared_memory_bytes": ask_fact(lambda: shutil.disk_usage("/dev/shm").free),
        "temporary": ask_fact(lambda: disk(tempfile.gettempdir())),
        "open_files": ask_fact(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "token": ask_fact(token_file),
    }


def package_version(package: str) -> str | None:
    """The installed version of a distribution, None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _compiler() -> str | None:
    names = os.environ.get("CXX", "").split()[:1] or ["g++", "clang++", "c++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def free_memory_bytes() -> int:
    """Memory that new processes can have: the machine's, or what its container's limit leaves."""
    import psutil

    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def disk(folder: str) -> dict[str, Any]:
    """Folder, free bytes, and the fraction of its disk that is used."""
    usage = shutil.disk_usage(folder)
    return {"folder": folder, "free_bytes": usage.free, "used": 1 - usage.free / usage.total}


def who_gets_in(folder: str) -> dict[str, Any]:
    """Folder, and whether other accounts of the machine reach it and can write in it or a folder of it."""
    place = Path(folder).resolve()
    reached = all(parent.stat().st_mode & 0o011 for parent in place.parents)
    inside = [place, *(path for path in place.iterdir() if path.is_dir())]
    return {"folder": folder, "open": reached and any(path.stat().st_mode & 0o022 for path in inside)}


def token_file() -> dict[str, Any] | None:
    """Where Ray would read this process's token, and the mode of that file; None when there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return {"place": "the variable RAY_AUTH_TOKEN", "mode": None}
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return {"place": str(path), "mode": stat.S_IMODE(path.stat().st_mode)}
    except FileNotFoundError:
        return None


@contextmanager
def probe_file(root: str) -> Iterator[tuple[str, str]]:
    """Write a small file into a folder (path or URI); yield its name and content, and leave no trace of it.

    Raises
    ------
    ClusterError
        If it cannot be written.
    """
    from neurofleet.cluster.store.folders import LocalFolder, open_folder

    folder = open_folder(root)
    name, content = f".probe-{uuid.uuid4().hex}", uuid.uuid4().hex
    made = []
    if isinstance(folder, LocalFolder):
        made = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
    try:
        folder.write(name, content.encode())
        try:
            yield name, content
        finally:
            folder.remove([name])
    finally:
        for path in made:
            with suppress(OSError):  # not there, or something else is in it by now
                path.rmdir()


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port, on every interface."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError:
            return False
    return True


def call_in_fresh_process(function: str, *arguments: Any, limit_s: float = CALL_LIMIT_S) -> dict[str, Any]:
    """Call ``module:function`` in a fresh process of this machine, which may crash or hang.

    Returns
    -------
    dict
        ``value``, or ``error``, a text.
    """
    try:
        from neurofleet.fresh_process import ProcessFailed, call
    except ImportError as error:  # a node without this package, or with one too old
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        return {"value": call(function, *arguments, limit_s=limit_s)}
    except ProcessFailed as error:
        if error.timed_out:
            return {"error": f"{function} did not return within {limit_s:g} s"}
        return {"error": f"{function}: {error.reason}"}
    except Exception as error:  # noqa: BLE001 - whatever it raises is what is reported
        return {"error": f"{type(error).__name__}: {error}"}


def node_facts(
    packages: Sequence[str],
    function: str | None = None,
    read: tuple[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, nodes: None,
) -> list[Facts]:
    """Ask every live node of the connected cluster, each in a task that takes no CPU.

    Parameters
    ----------
    packages : sequence of str
        Distributions whose versions are reported.
    function : str, optional
        ``module:function``, called in a fresh process on each node; see `call_in_fresh_process`.
    read : (str, str), optional
        A folder (path or URI) and the name of a file in it that each node is to read.
    progress : callable
        Called with how many nodes have answered, and of how many.

    Returns
    -------
    list of Facts
        One a node, the head first. A node that does not answer has ``{"unknown": why}`` as ``answer``.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = sorted(
        (node for node in ray.nodes() if node["Alive"]),
        key=lambda node: ("node:__internal_head__" not in node["Resources"], node["NodeManagerAddress"]),
    )
    with _sent_by_value():
        tasks: list[Any] = [
            ray.remote(task).options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            for node in nodes
            for task in (_answer, _clock, _answer_call)
        ]
        first = [task.remote(list(packages), read) for task in tasks[0::3]]
        _wait(first, ANSWER_LIMIT_S, progress)
        nodes_facts = []
        for node, reference, clock in zip(nodes, first, tasks[1::3], strict=True):
            answer = _answered(reference, ANSWER_LIMIT_S)
            facts = _described(node) | {"answer": {"value": True} if "value" in answer else answer}
            if "value" in answer:
                facts |= answer["value"]
                facts["clock"] = ask_fact(partial(_clock_difference, clock))
            else:
                ray.cancel(reference, force=True)
            nodes_facts.append(facts)
        answering = [i for i, facts in enumerate(nodes_facts) if function and "value" in facts["answer"]]
        calls = {i: tasks[3 * i + 2].remote(function) for i in answering}
        _wait(list(calls.values()), CALL_LIMIT_S, progress)
        for i, reference in calls.items():
            nodes_facts[i]["call"] = _answered(reference, CALL_LIMIT_S)
    return nodes_facts


@contextmanager
def _sent_by_value() -> Iterator[None]:
    from ray import cloudpickle

    module = importlib.import_module(__name__)
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _wait(references: list[Any], limit_s: float, progress: Callable[[int, int], None]) -> None:
    import ray

    give_up = time.monotonic() + limit_s
    waiting, total = references, len(references)
    while waiting and time.monotonic() < give_up:
        progress(total - len(waiting), total)
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
    progress(total - len(waiting), total)


def _answered(reference: Any, limit_s: float) -> Fact:
    import ray

    ready, _ = ray.wait([reference], timeout=0)
    return ask_fact(lambda: ray.get(reference)) if ready else {"unknown": f"no answer within {limit_s:g} s"}


def _described(node: dict[str, Any]) -> Facts:
    """Return what the head knows about a node."""
    values = {
        "node": node["NodeID"],
        "address": node["NodeManagerAddress"],
        "hostname": node["NodeManagerHostname"],
        "head": "node:__internal_head__" in node["Resources"],
        "cpus": int(node["Resources"].get("CPU", 0)),
    }
    return {name: {"value": value} for name, value in values.items()}


def _clock_difference(clock: Any) -> dict[str, float]:
    """How many seconds a node's clock is ahead of ours, and how exactly that is known."""
    import ray

    readings = []
    for _ in range(CLOCK_READINGS):
        before = time.time()
        there = ray.get(clock.remote(), timeout=CLOCK_LIMIT_S)
        after = time.time()
        readings.append({"ahead_s": there - (before + after) / 2, "exact_to_s": (after - before) / 2})
    return min(readings, key=lambda reading: reading["exact_to_s"])


def _clock() -> float:
    return time.time()


def _answer_call(function: str) -> dict[str, Any]:
    return call_in_fresh_process(function)


def _answer(packages: list[str], read: tuple[str, str] | None) -> Facts:
    """Run on a node."""
    raylet = ask_fact(_own_raylet)

    def of_raylet(question: Callable[[dict[str, Any]], Any]) -> Fact:
        return ask_fact(lambda: question(raylet["value"])) if "value" in raylet else raylet

    facts = machine_facts(packages) | {
        "temporary": of_raylet(lambda own: disk(own["arguments"]["session_dir"])),
        "session_folder": of_raylet(lambda own: who_gets_in(own["arguments"]["session_dir"])),
        "object_store": of_raylet(lambda own: own["arguments"]["plasma_directory"]),
        "worker_ports": of_raylet(_worker_ports),
        "sockets": of_raylet(_listening),
        "dashboard": of_raylet(_dashboard),
    }
    if read is not None:
        facts["storage"] = ask_fact(lambda: _read_on_node(*read))
    return facts


def _read_on_node(root: str, name: str) -> str | None:
    """The content of a file as this node sees it."""
    from neurofleet.cluster.store.folders import open_folder

    content = open_folder(root).read(name)
    return None if content is None else content.decode()


def _own_raylet() -> dict[str, Any]:
    """The raylet that started this worker: process, and the arguments it was started with."""
    import psutil  # Ray brings it

    for parent in psutil.Process().parents():
        command = parent.cmdline()
        if command and command[0].endswith("/raylet"):
            pairs = (word[2:].split("=", 1) for word in command if word.startswith("--") and "=" in word)
            arguments = {name.replace("-", "_"): value for name, value in pairs}
            return {"process": parent.pid, "arguments": arguments, "head": "--head" in command}
    raise LookupError("no process above this one is a raylet")


def _worker_ports(raylet: dict[str, Any]) -> list[int]:
    """First and last port that Ray gives to its workers here; 0 and 0 where the system chooses."""
    defaults = {"min_worker_port": WORKER_PORTS[0], "max_worker_port": WORKER_PORTS[1]}
    return [int(raylet["arguments"].get(name, default)) for name, default in defaults.items()]


def _dashboard(raylet: dict[str, Any]) -> dict[str, Any] | None:
    """Where dashboard and Jobs API listen on this node, and what they answer without a token."""
    worker = raylet["arguments"].get("python_worker_command", "").split()
    address = next((word.partition("=")[2] for word in worker if word.startswith("--webui=")), "")
    if not raylet["head"] or address in ("", "None"):
        return None
    opener = request.build_opener(request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/api/jobs/", timeout=HTTP_LIMIT_S) as answer:
            status = answer.status
    except url_error.HTTPError as refusal:
        status = refusal.code
    return {"address": address, "port": int(address.rpartition(":")[2]), "anonymous_status": status}


def _listening(raylet: dict[str, Any]) -> list[dict[str, Any]]:
    """The sockets on which this node's processes of this cluster listen.

    Raises
    ------
    PermissionError
        When they belong to another user.
    """
    import psutil

    own = psutil.Process(raylet["process"])
    processes = {process.pid: process for process in (own, *own.children(recursive=True))}
    session, node, head = (raylet["arguments"][name] for name in ("session_name", "node_id", "gcs_address"))
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        ours = any(session in word for word in command) or (
            "ray.util.client.server" in command and f"--address={head}" in command
        )
        others = command[:1] and command[0].endswith("/raylet") and f"--node_id={node}" not in command
        if ours and not others:
            processes.setdefault(process.pid, process)
    sockets = []
    for process in processes.values():
        try:
            listening = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            role = _role(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied as error:
            raise PermissionError(f"the sockets of process {process.pid} are another user's") from error
        sockets += [{"role": role, "ip": address.ip, "port": address.port} for address in listening]
    return sockets


def _role(command: Sequence[str]) -> str:
    for part, role in _ROLES.items():
        if any(word.endswith(part) and not word.startswith("--") for word in command[:4]):
            return role
    return "worker"
