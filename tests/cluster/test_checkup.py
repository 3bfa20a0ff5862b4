"""What a machine says of itself, against what is known of it otherwise."""

import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from neurofleet.cluster.ray import checkup
from neurofleet.cluster.ray.checkup import Facts
from neurofleet.errors import ClusterError

REPOSITORY = Path(__file__).resolve().parents[2]


def value(facts: Facts, name: str):
    assert "value" in facts[name], facts[name]
    return facts[name]["value"]


def test_this_machine():
    facts = checkup.machine_facts(["ray", "no-such-package"])
    assert value(facts, "hostname") == socket.gethostname()
    assert value(facts, "python") == platform.python_version()
    assert value(facts, "packages") == {"ray": checkup.package_version("ray"), "no-such-package": None}
    assert 0 < value(facts, "memory_bytes") <= psutil.virtual_memory().available + 2**30
    assert value(facts, "temporary")["free_bytes"] == pytest.approx(psutil.disk_usage("/tmp").free, rel=0.1)
    assert value(facts, "open_files") == psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[0]
    assert Path(value(facts, "make")).name == "make"


def test_tools_that_are_not_on_path(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = checkup.machine_facts([])
    assert value(facts, "compiler") is None
    assert value(facts, "make") is None
    (tmp_path / "clang++").touch(mode=0o755)
    assert value(checkup.machine_facts([]), "compiler") == str(tmp_path / "clang++")


def test_a_fact_that_cannot_be_had_is_a_fact():
    assert checkup.ask_fact(lambda: Path("/nonexistent").read_text()) == {
        "unknown": "FileNotFoundError: [Errno 2] No such file or directory: '/nonexistent'"
    }


def test_token(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkup.token_file() is None
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.touch()
    file.chmod(0o644)
    assert checkup.token_file() == {"place": str(file), "mode": 0o644}
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert checkup.token_file() == {"place": "the variable RAY_AUTH_TOKEN", "mode": None}


def test_ports():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not checkup.port_is_free(port)
    assert checkup.port_is_free(port)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("os:getpid", None),
        ("os:abort", "os:abort: its process ended with signal 6"),
        ("no_such_module:function", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("tests.cluster.engines:no_such_function", "AttributeError"),
    ],
)
def test_calls_in_a_fresh_process(function, error):
    answer = checkup.call_in_fresh_process(function)
    if error is None:
        assert answer["value"] != os.getpid()
    else:
        assert error in answer["error"]


def test_a_call_that_does_not_return():
    begun = time.monotonic()
    assert "did not return within 0.5 s" in checkup.call_in_fresh_process("signal:pause", limit_s=0.5)["error"]
    assert time.monotonic() - begun < 10


def test_a_probe_leaves_no_trace(tmp_path):
    root = tmp_path / "new" / "run"
    with checkup.probe_file(str(root)) as (name, content):
        assert (root / name).read_text() == content
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").touch()
    with checkup.probe_file(str(tmp_path)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_probe_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ClusterError, match="Cannot write"),
        checkup.probe_file(str(tmp_path / "file" / "run")),
    ):
        pass


WITHOUT_THE_PACKAGE = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "neurofleet":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import ray
answer, call = ray.cloudpickle.loads(sys.stdin.buffer.read())
print(json.dumps([answer(["ray"], ("/tmp", "x")), call("os:getpid")]))
"""


def test_a_node_without_the_package_answers():
    from ray import cloudpickle

    with checkup._sent_by_value():
        sent = cloudpickle.dumps((checkup._answer, checkup._answer_call))
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_PACKAGE], input=sent, capture_output=True, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    facts, call = json.loads(done.stdout.splitlines()[-1])
    assert value(facts, "python") == platform.python_version()
    assert "No module named 'neurofleet" in facts["storage"]["unknown"]
    assert "no process above this one is a raylet" in facts["sockets"]["unknown"]
    assert "No module named 'neurofleet" in call["error"]


@pytest.fixture(scope="module")
def node(ray_session):
    """What the session's own Ray says, with a file for it to read."""
    told = []
    with checkup.probe_file("/tmp") as (name, content):
        nodes = checkup.node_facts(["ray"], "os:getpid", ("/tmp", name), lambda *done: told.append(done))
    assert len(nodes) == 1
    assert told[-1] == (1, 1)
    return {**nodes[0], "content": content}


def test_a_node_tells_where_it_listens(node):
    sockets = value(node, "sockets")
    assert {"GCS", "raylet", "worker", "dashboard agent"} <= {found["role"] for found in sockets}
    assert {found["ip"] for found in sockets} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    truth = {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert {found["port"] for found in sockets} <= truth
    assert value(node, "worker_ports") == [0, 0]


def test_a_node_tells_the_rest(node):
    assert value(node, "head") is True
    assert value(node, "cpus") == 2
    assert value(node, "packages") == {"ray": checkup.package_version("ray")}
    assert value(node, "dashboard") is None
    assert value(node, "object_store") == "/dev/shm"
    folder = value(node, "session_folder")
    assert folder["open"] is False
    parent = Path(folder["folder"]).parents[1]
    assert parent.stat().st_mode & 0o777 == 0o700
    parent.chmod(0o711)  # Ray's own folders are open to all
    assert checkup.who_gets_in(folder["folder"])["open"] is True
    parent.chmod(0o700)
    assert value(node, "storage") == node["content"]
    assert value(node, "token")["mode"] == 0o600
    assert value(node, "call")["value"] not in (None, os.getpid())
    assert "session_" in value(node, "temporary")["folder"]
    clock = value(node, "clock")
    assert abs(clock["ahead_s"]) <= clock["exact_to_s"] + 0.01
    assert clock["exact_to_s"] < 1


def test_a_skewed_clock_is_measured(ray_session):
    import ray

    with checkup._sent_by_value():
        ahead = ray.remote(num_cpus=0)(lambda: time.time() + 60)
        assert checkup._clock_difference(ahead)["ahead_s"] == pytest.approx(60, abs=1)


def test_a_node_that_does_not_answer(ray_session, monkeypatch):
    monkeypatch.setattr(checkup, "ANSWER_LIMIT_S", 0.0)
    (node,) = checkup.node_facts([])
    assert node["answer"] == {"unknown": "no answer within 0 s"}
    assert value(node, "hostname") == socket.gethostname()
