"""Connections to Ray, each in a process of its own."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from neurofleet.cluster.ray import session
from neurofleet.cluster.ray.session import clean_up_folder
from neurofleet.errors import ClusterError, ClusterUnreachable

REPOSITORY = Path(__file__).resolve().parents[2]

EMBEDDED = """
import json, os, sys
from neurofleet.cluster.ray.session import connect

before = dict(os.environ)
with connect(cpus=2) as session:
    import ray

    @ray.remote
    def where():
        return ray.get_runtime_context().get_node_id()

    node = ray.get(where.remote())
    print(json.dumps({
        "address": session.address,
        "embedded": session.embedded,
        "token": os.environ["RAY_AUTH_TOKEN_PATH"],
        "cpus": ray.cluster_resources()["CPU"],
    }), flush=True)
    sys.stdin.readline()
    ray.get(where.remote())
print(json.dumps({"environment kept": dict(os.environ) == before}), flush=True)
"""


def start(script, **environment):
    """Start a Python of its own, with nothing of a Ray that this process may be connected to."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=plain | environment,
    )


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """An embedded Ray in another process, with a home that has no token, beside a RAY_ADDRESS."""
    home = tmp_path_factory.mktemp("home")
    process = start(EMBEDDED, HOME=str(home), RAY_ADDRESS="192.0.2.1:6379")
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate()[1])
    yield {**json.loads(line), "process": psutil.Process(process.pid), "home": home}
    family = psutil.Process(process.pid).children(recursive=True)
    out, err = process.communicate("\n", timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out) == {"environment kept": True}
    assert err == ""
    give_up = time.monotonic() + 10
    while not all(map(is_gone, family)) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert all(map(is_gone, family))
    assert not list(home.iterdir()), "something was written into the user's home"


def test_embedded_ray_has_a_private_token_and_folder_and_no_process_that_nobody_needs(embedded):
    token = Path(embedded["token"])
    assert embedded["embedded"]
    assert embedded["cpus"] == 2
    started = " ".join(part for process in embedded["process"].children(recursive=True) for part in process.cmdline())
    assert "gcs_server" in started
    assert not [name for name in ("dashboard/dashboard.py", "monitor.py") if name in started]
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) >= 32


def test_embedded_ray_listens_on_this_machine_only(embedded):
    assert embedded["address"].startswith("127.0.0.1:")
    processes = [embedded["process"], *embedded["process"].children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


ATTACH = """
import sys
from neurofleet.cluster.ray.session import connect

with connect(sys.stdin.readline().strip()) as session:
    import ray

    @ray.remote
    def double(x):
        return 2 * x

    print(session.address, session.embedded, ray.get(double.remote(21)))
"""


@pytest.fixture(scope="module")
def cluster_with_token(tmp_path_factory):
    """A head as an administrator starts it, with token authentication: address, token file."""
    home = tmp_path_factory.mktemp("home")
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    token = home / "token"
    token.write_text("0123456789abcdef" * 4)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=1"]
        + [f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats"],
        env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    yield f"127.0.0.1:{port}", token
    for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
        process.kill()
    head.communicate()
    clean_up_folder(folder)


def test_attaching_with_the_token_and_leaving_the_cluster_running(cluster_with_token):
    address, token = cluster_with_token
    for _ in range(2):
        process = start(ATTACH, RAY_AUTH_TOKEN_PATH=str(token))
        out, err = process.communicate(address + "\n", timeout=60)
        assert out.split()[1:] == ["False", "42"], err
        assert out.split()[0].endswith(address.partition(":")[2])


def test_attaching_without_the_token_is_refused_at_once(cluster_with_token, tmp_path):
    address, _ = cluster_with_token
    for mode in ({}, {"RAY_AUTH_MODE": "token"}):
        begun = time.monotonic()
        process = start(ATTACH, HOME=str(tmp_path), **mode)
        out, err = process.communicate(address + "\n", timeout=60)
        assert out == ""
        assert time.monotonic() - begun < 20
        kind, _, message = err.splitlines()[-1].partition(": ")
        assert kind == "neurofleet.errors.TokenRefused"
        assert message.startswith(f"The Ray cluster at {address} asks for a token, and there is none")
        assert "InvalidAuthToken" not in err, "Ray's own warnings are shown as well"


def test_attaching_to_a_head_that_listens_on_loopback_only(embedded):
    process = start(ATTACH, RAY_AUTH_TOKEN_PATH=embedded["token"])
    out, err = process.communicate(embedded["address"] + "\n", timeout=60)
    assert out.split() == [embedded["address"], "False", "42"], err


def test_another_version_of_ray_is_told_whole(embedded):
    other = "import ray; ray.__version__ = '2.0.0'\n"
    process = start(other + ATTACH, RAY_AUTH_TOKEN_PATH=embedded["token"])
    out, err = process.communicate(embedded["address"] + "\n", timeout=60)
    assert out == ""
    assert "Version mismatch: The cluster was started with: Ray: 2." in err.splitlines()[-1]
    assert "was started with: Ray: 2.0.0 Python: 3." in err.splitlines()[-1]


def test_a_second_embedded_ray_is_another_one_and_an_interrupt_ends_it_alone(embedded):
    process = start(EMBEDDED)
    other = json.loads(process.stdout.readline())
    family = psutil.Process(process.pid).children(recursive=True)
    assert other["address"] != embedded["address"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert all(map(is_gone, family))
    assert not Path(other["token"]).parent.exists()
    assert Path(embedded["token"]).exists()
    assert embedded["process"].is_running()


LOSING = (
    """
import neurofleet.cluster.ray.session as session
session.LOOK_S, session.HEAD_AWAY_S = 0.2, 1.0
"""
    + EMBEDDED
)


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_cluster_that_is_lost_is_told(part):
    process = start(LOSING)
    process.stdout.readline()
    (lost,) = [p for p in psutil.Process(process.pid).children(recursive=True) if p.name() == part]
    lost.kill()
    process.wait(60)  # with its standard input open: it waits there
    err = process.communicate()[1].splitlines()[-1]
    if part == "gcs_server":
        assert err.startswith("neurofleet.errors.ClusterUnreachable: The Ray cluster at 127.0.0.1:"), err
        assert "its head does not answer" in err
    else:
        assert err.startswith("neurofleet: The Ray cluster at 127.0.0.1:"), err
        assert "its raylet on this machine has ended" in err
        assert process.returncode == 3


@pytest.fixture
def unconnected(monkeypatch):
    """This process as if it had no connection, which other tests may have made."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def test_nobody_answers(unconnected):
    begun = time.monotonic()
    with pytest.raises(ClusterUnreachable, match=r"127\.0\.0\.1:9.*Connection refused") as raised:
        with session.connect("127.0.0.1:9"):
            pass
    assert raised.value.exit_code == 3
    assert time.monotonic() - begun < 60


def test_ray_client_addresses_are_refused(unconnected):
    with pytest.raises(ClusterUnreachable, match="Ray Client address"), session.connect("ray://head:10001"):
        pass


@pytest.mark.parametrize(("address", "cpus"), [("head:6379", 2), (None, 0)])
def test_impossible_requests_are_refused(address, cpus):
    with pytest.raises(ClusterError, match=f"cpus={cpus} was given"), session.connect(address, cpus):
        pass


@pytest.mark.parametrize("raised", [Exception("The current node timed out during startup."), ValueError("no room")])
def test_a_ray_that_does_not_start_is_one_error(monkeypatch, unconnected, raised):
    monkeypatch.setattr("ray.init", Mock(side_effect=raised))
    monkeypatch.setattr("ray.shutdown", shutdown := Mock())
    with pytest.raises(ClusterUnreachable, match=f"could not be started on this machine: {raised}"), session.connect():
        pass
    shutdown.assert_called_once()


def test_sigterm_while_ray_starts_interrupts(monkeypatch, unconnected):
    monkeypatch.setattr("ray.init", Mock(side_effect=SystemExit(signal.SIGTERM)))  # what Ray's own handler does
    with pytest.raises(KeyboardInterrupt), session.connect():
        pass


def test_the_folder_is_short_enough_for_sockets(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = session._private_folder()
    try:
        assert len(str(folder)) < 24
    finally:
        folder.rmdir()


def test_a_connected_process_stays_connected(ray_session):
    import ray

    with session.connect() as inner:
        assert not inner.embedded
    assert ray.is_initialized()
    with pytest.raises(ClusterError, match="already"), session.connect("192.0.2.1:6379"):
        pass


def test_cpus_are_counted_where_processes_have_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert 1 <= session.available_cpus() <= os.cpu_count()
