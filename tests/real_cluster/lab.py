"""Hosts with a network, processes, a host name, /root, /run, /tmp and /dev/shm of their own, on this machine.

`Lab` makes hosts h1 … and a laptop "lap" in namespaces, with sshd on each, one key for all, and /srv/lab shared. Their
addresses are in these namespaces alone. They see this machine's Python and its packages; neurofleet itself is
installed on them, by the commands under test, from a wheel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NETWORK = "10.77.0."
SHARED = Path("/srv/lab")

HOST = """
set -e
mount --make-rprivate /
hostname "$host"
mkdir -p /srv/lab
mount --bind "$dir/shared" /srv/lab
mount --bind "$dir/etc-hosts" /etc/hosts
mount -t overlay overlay -o "lowerdir=/root,upperdir=$dir/$host/root,workdir=$dir/$host/work" /root
mount -t tmpfs tmpfs /run
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t proc proc /proc
mount --bind "$dir/$host/tmp" /tmp
mkdir -p -m 755 /run/sshd
exec /usr/sbin/sshd -D -e -o PidFile=none -o PermitRootLogin=yes -o StrictModes=no -o UsePAM=no
"""

SSH_CONFIG = "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"


def why_not(*programs: str) -> str:
    """Return why this machine cannot have a lab; empty if it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    missing = [name for name in ("ip", "unshare", "ssh-keygen", "sshd", "rsync", *programs) if not shutil.which(name)]
    if missing:
        return f"needs {', '.join(missing)} (apt-get install iproute2 openssh-server openssh-client rsync slurm-wlm)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"needs namespaces: {tried.stderr.strip()}"


def wait_for(what: Callable[[], Any], timeout_s: float, told: Callable[[], str] = str, every_s: float = 1.0) -> Any:
    """Return what it returns, as soon as that is something."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if found := what():
            return found
        time.sleep(every_s)
    pytest.fail(f"waited {timeout_s:g} s in vain. {told()}")


class Lab:
    """Some hosts and a laptop; a context.

    Parameters
    ----------
    folder : Path
        For the hosts' own files; on a file system that can be below an overlay.
    hosts : int
    venv : str
        Where each host has an environment with all packages but neurofleet, below /root or /srv/lab.
    """

    def __init__(self, folder: Path, hosts: int, venv: str) -> None:
        self.folder = folder
        self.hosts = [*(f"h{number}" for number in range(1, hosts + 1)), "lap"]
        self.venv = Path(venv)
        self.shared = folder / "shared"
        self._space = f"nfl{os.getpid() % 10000}"  # a link's name has at most 15 characters
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Lab:
        self.shared.mkdir(parents=True)
        if self.venv.is_relative_to(SHARED):
            _make_venv(self.shared / self.venv.relative_to(SHARED), self.venv)
        key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        names = [f"{NETWORK}{number} {host}" for number, host in enumerate(self.hosts, 1)]
        (self.folder / "etc-hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        _ip("netns", "add", self._space)
        try:
            _ip("-n", self._space, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._space, "link", "set", "br0", "up")
            for number, host in enumerate(self.hosts, 1):
                self._start(host, number)
            for host in self.hosts:
                wait_for(lambda host=host: self.on(host, "true").returncode == 0, 20, every_s=0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host, process in self._processes.items():
            with suppress(psutil.NoSuchProcess, IndexError):
                self._first_process(host).kill()  # the host's first process: all others end with it
            process.kill()
            process.wait()
        for space in (*(f"{self._space}-{host}" for host in self.hosts), self._space):
            subprocess.run(["ip", "netns", "del", space], capture_output=True)

    def on(self, host: str, command: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess:
        """Run a command on a host as a login of root would."""
        return subprocess.run(
            self._login(host, command), capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
        )

    def done(self, host: str, command: str, timeout_s: float = 120.0) -> str:
        """Run a command that has to succeed, and return what it printed."""
        result = self.on(host, command, timeout_s)
        assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        return result.stdout

    def start(self, host: str, command: str) -> subprocess.Popen:
        """Start a command on a host; it ends with the host."""
        null = subprocess.DEVNULL
        return subprocess.Popen(self._login(host, command), stdin=null, stdout=null, stderr=null)

    def cut(self, host: str) -> None:
        """Pull the cable of a host."""
        _ip("-n", self._space, "link", "set", f"{self._space}-{host}", "down")

    def heal(self, host: str) -> None:
        _ip("-n", self._space, "link", "set", f"{self._space}-{host}", "up")

    def _start(self, host: str, number: int) -> None:
        own, space = self.folder / host, f"{self._space}-{host}"
        for part in ("root/.ssh", "work", "tmp"):
            (own / part).mkdir(parents=True)
        (own / "tmp").chmod(0o1777)
        ssh = own / "root" / ".ssh"
        ssh.chmod(0o700)
        shutil.copy(self.folder / "key", ssh / "id_ed25519")
        shutil.copy(self.folder / "key.pub", ssh / "authorized_keys")
        (ssh / "config").write_text(SSH_CONFIG)
        # Else Ray's workers give way to all else on this machine, until deadlines pass.
        (own / "root" / ".bashrc").write_text("export RAY_worker_niceness=0\n")
        if not self.venv.is_relative_to(SHARED):
            _make_venv(own / self.venv.relative_to("/"), self.venv)
        _ip("netns", "add", space)
        _ip("-n", self._space, "link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("-n", self._space, "link", "set", space, "master", "br0", "up")
        for part in ("lo", "eth0"):
            _ip("-n", space, "link", "set", part, "up")
        _ip("-n", space, "addr", "add", f"{NETWORK}{number}/24", "dev", "eth0")
        inside = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "bash", "-c", HOST]
        with (own / "log").open("wb") as log:
            self._processes[host] = subprocess.Popen(
                ["ip", "netns", "exec", space, *inside],
                env=os.environ | {"host": host, "dir": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _first_process(self, host: str) -> psutil.Process:
        return psutil.Process(self._processes[host].pid).children()[0]

    def _login(self, host: str, command: str) -> Sequence[str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = ["env", "-i", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/bash", f"PATH={path}"]
        try:
            pid = str(self._first_process(host).pid)
        except IndexError:
            pid = "0"  # not there yet, or gone: nsenter fails
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        return ["nsenter", "--target", pid, *spaces, *environment, "bash", "-c", f"cd /root; {command}"]


def build_wheel(folder: Path) -> None:
    """Build neurofleet's wheel as docs/clusters.md says, into ``folder/dist``, and put constraints.txt beside."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    checkout = folder / "checkout"
    shutil.copytree(
        REPOSITORY, checkout, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "tests", "__pycache__")
    )
    subprocess.run([*pip, "-w", folder / "dist", checkout], check=True, capture_output=True)
    shutil.copy(REPOSITORY / "constraints.txt", folder)
    shutil.rmtree(checkout)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _make_venv(there: Path, known_as: Path) -> None:
    """Make an environment with all packages of this one but neurofleet, without copying them.

    Its commands name the path by which the host knows it.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", there], check=True)
    (site,) = there.glob("lib/python*/site-packages")
    packages = there / "packages"
    packages.mkdir()
    own = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    for package in own.iterdir():
        if "neurofleet" not in package.name and package.suffix != ".pth":
            (packages / package.name).symlink_to(package)
    (site / "packages.pth").write_text(f"{known_as}/packages\n")
    for program in Path(sys.prefix, "bin").iterdir():
        if program.is_symlink() or (there / "bin" / program.name).exists() or program.name == "neurofleet":
            continue
        content = program.read_bytes()
        first, _, rest = content.partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            content = b"#!" + bytes(known_as / "bin" / "python") + b"\n" + rest
        (there / "bin" / program.name).write_bytes(content)
        (there / "bin" / program.name).chmod(0o755)
