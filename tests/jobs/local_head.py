"""A head with token authentication on this machine, as an administrator starts one, and who submits jobs to it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from neurofleet.cluster.ray.session import clean_up_folder

TOKEN = "0123456789abcdef" * 4
COMMAND = [sys.executable, "-P", "-c", "from neurofleet.jobs.cli import main; main()"]


class Laptop:
    """Runs the command line with the address, and the token, of a cluster."""

    def __init__(self, address: str, folder: Path, **environment: str) -> None:
        self.folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self._environment = kept | {"RAY_API_SERVER_ADDRESS": address} | environment

    def __call__(self, *arguments: object, timeout_s: float = 200.0) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout_s)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(self, *arguments: object) -> subprocess.Popen:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            cwd=self.folder,
        )


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


@contextmanager
def local_head(token: Path) -> Iterator[str]:
    """Start a head that asks for the token of a file, which is written, and give the address of its Jobs API.

    Its own path leads to no Python of ours.
    """
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    token.write_text(TOKEN)
    port, dashboard, agent = free_ports(3)
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}"]
        + [f"--temp-dir={folder}", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        + ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        + [f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats"],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": os.environ["HOME"],
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_worker_niceness": os.environ["RAY_worker_niceness"],
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if "Ray runtime started" in line:
            break
    yield f"http://127.0.0.1:{dashboard}"
    for part in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        part.kill()
    process.communicate()
    clean_up_folder(folder)
