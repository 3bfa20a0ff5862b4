"""``neurofleet doctor``: findings from facts, and the command where something really is wrong."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from neurofleet.cache import cache_folder
from neurofleet.cluster.ray.session import clean_up_folder
from neurofleet.jobs.doctor import cluster_checks, doctor_command, machine_checks
from neurofleet.jobs.doctor.findings import Finding, judged
from neurofleet.jobs.doctor.machine_checks import neuron_facts

GB = 1e9
ON_ALL = [{"role": "GCS", "ip": "::", "port": 6379}, {"role": "worker", "ip": "0.0.0.0", "port": 10002}]
ON_LOOPBACK = [
    {"role": "GCS", "ip": "::ffff:127.0.0.1", "port": 6379},
    {"role": "dashboard", "ip": "127.0.0.1", "port": 8265},
]
HERE = {
    "ray": "2.60.0",
    "neurofleet": "0.1.0",
    "neuron": "9.0.2",
    "bluepyopt": "1.14",
    "efel": "5.7",
    "cmaes": "0.13",
    "deap": "1.4.4",
    "numpy": "2.0",
}


def dashboard_at(ip, status=401):
    sockets = [
        {"role": "dashboard", "ip": ip, "port": 8265},
        {"role": "dashboard", "ip": "::", "port": 44217},
    ]
    found = {"address": "192.0.2.2:8265", "port": 8265, "anonymous_status": status}
    return cluster_checks.dashboard(found, sockets)


CASES = [
    (machine_checks.compiler_and_make, ("/usr/bin/g++", "/usr/bin/make"), "ok", "/usr/bin/make"),
    (machine_checks.compiler_and_make, (None, "/usr/bin/make"), "warning", "no C++ compiler"),
    (machine_checks.compiler_and_make, ("/usr/bin/g++", None), "warning", "no make"),
    (machine_checks.memory, (2.4 * GB, 4), "ok", "2.4 GB free for 4 CPUs"),
    (machine_checks.memory, (2.3 * GB, 4), "warning", "need about 2.4 GB"),
    (machine_checks.memory, (0.5 * GB, 4), "fault", "0.5 GB free"),
    (machine_checks.memory, (0.5 * GB, 0), "fault", "0.5 GB free for 0 CPUs"),
    (
        machine_checks.temporary_folder,
        ({"folder": "/t", "free_bytes": 6e9, "used": 0.5},),
        "ok",
        "/t: 6.0 GB",
    ),
    (
        machine_checks.temporary_folder,
        ({"folder": "/t", "free_bytes": 4e9, "used": 0.5},),
        "warning",
        "4.0 GB",
    ),
    (machine_checks.temporary_folder, ({"folder": "/t", "free_bytes": 6e9, "used": 0.96},), "warning", "96%"),
    (machine_checks.temporary_folder, ({"folder": "/t", "free_bytes": 5e8, "used": 0.5},), "fault", "0.5 GB"),
    (machine_checks.session_folder, ({"folder": "/t/r", "open": False},), "ok", "closed to other accounts"),
    (machine_checks.session_folder, ({"folder": "/t/r", "open": True},), "warning", "can write in /t/r"),
    (machine_checks.open_files, (4096,), "ok", "4096"),
    (machine_checks.open_files, (-1,), "ok", "no limit"),
    (machine_checks.open_files, (1024,), "warning", "up to 1024"),
    (machine_checks.shared_memory, (64e6,), "warning", "64 MB free"),
    (machine_checks.shared_memory, (2 * GB,), "ok", "2000 MB"),
    (machine_checks.object_store, ("/dev/shm",), "ok", "/dev/shm"),
    (machine_checks.object_store, ("/tmp",), "warning", "in /tmp"),
    (machine_checks.neuron, ({"value": {"version": "9.0.2", "mechanisms": 26, "seconds": 1.0}},), "ok", "26"),
    (
        machine_checks.neuron,
        ({"error": "ModuleNotFoundError: No module named 'neuron'"},),
        "fault",
        "'neuron'",
    ),
    (machine_checks.neuron, ({"error": "No module named 'jobs'"},), "fault", "neurofleet is not there"),
    (machine_checks.neuron, ({"error": "InputError: no C++ compiler"},), "fault", "no C++ compiler"),
    (machine_checks.token, (None,), "ok", "none here"),
    (machine_checks.token, ({"place": "/t", "mode": 0o600},), "ok", "0600"),
    (machine_checks.token, ({"place": "the variable", "mode": None},), "ok", "the variable"),
    (machine_checks.token, ({"place": "/t", "mode": 0o644},), "fault", "mode 0644"),
    (cluster_checks.token_refused, (None,), "fault", "there is none here"),
    (cluster_checks.token_refused, ({"place": "/t", "mode": 0o600},), "fault", "does not take the one in /t"),
    (machine_checks.ports, ({6379: True, 8265: True},), "ok", "6379, 8265"),
    (machine_checks.ports, ({6379: True, 8265: False},), "warning", "8265 in use"),
    (cluster_checks.python, ("3.11.7", "3.11.7"), "ok", "as here"),
    (cluster_checks.python, ("3.11.7", "3.11.2"), "warning", "3.11.2, here it is 3.11.7"),
    (cluster_checks.python, ("3.11.7", "3.12.7"), "fault", "3.12.7"),
    (cluster_checks.clock, ({"ahead_s": 4.9, "exact_to_s": 0.001},), "ok", "4.90 s ahead of here"),
    (cluster_checks.clock, ({"ahead_s": -6.0, "exact_to_s": 0.001},), "warning", "6.00 s behind here"),
    (cluster_checks.clock, ({"ahead_s": 6.0, "exact_to_s": 2.0},), "ok", "± 2.00 s"),
    (cluster_checks.authentication, ("refused", True), "ok", "was refused"),
    (cluster_checks.authentication, ("open", True), "fault", "anyone who reaches its ports can run code"),
    (cluster_checks.authentication, ("open", False), "warning", "programs on that machine"),
    (cluster_checks.bound, (ON_LOOPBACK,), "ok", "2 ports, all on this machine only"),
    (cluster_checks.bound, (ON_ALL,), "warning", "GCS *:6379; 1 worker"),
    (cluster_checks.bound, ([],), "warning", "no listening socket"),
    (dashboard_at, ("127.0.0.1",), "ok", "127.0.0.1:8265 only, answers 401"),
    (dashboard_at, ("0.0.0.0",), "fault", "every interface (*:8265)"),
    (dashboard_at, ("192.0.2.2",), "warning", "beyond this machine"),
    (dashboard_at, ("127.0.0.1", 200), "warning", "answers without a token"),
    (dashboard_at, ("192.0.2.2", 200), "fault", "answers without a token"),
    (cluster_checks.dashboard, (None, ON_ALL), "ok", "none"),
    (cluster_checks.port_collisions, (ON_ALL, [10002, 19999]), "ok", "none of Ray's servers"),
    (cluster_checks.port_collisions, (ON_ALL, [6000, 7000]), "warning", "GCS 6379: in 6000-7000"),
    (cluster_checks.port_collisions, (ON_ALL, [0, 0]), "ok", "whatever port is free"),
    (cluster_checks.storage, ("/o", True, 2e9), "ok", "2.0 GB free"),
    (cluster_checks.storage, ("s3://o", True, None), "ok", "read back"),
    (cluster_checks.storage, ("/o", True, 5e8), "warning", "0.5 GB free"),
    (cluster_checks.storage, ("/o", True, 5e6), "fault", "0.0 GB free"),
    (cluster_checks.storage, ("/o", False, 2e9), "fault", "gave something else"),
    (cluster_checks.storage_seen, ("/o", False, "x", {"value": "x"}), "ok", "read what this machine wrote"),
    (cluster_checks.storage_seen, ("/o", False, "x", {"value": None}), "ok", "needs a shared path or a URI"),
    (cluster_checks.storage_seen, ("s3://o", True, "x", {"value": None}), "fault", "is not there"),
    (
        cluster_checks.storage_seen,
        ("s3://o", True, "x", {"unknown": "no credentials"}),
        "fault",
        "no credentials",
    ),
]


@pytest.mark.parametrize(("check", "facts", "status", "told"), CASES)
def test_findings(check, facts, status, told):
    finding = check(*facts)
    assert finding.status == status
    assert told in finding.found
    assert bool(finding.advice) == (status != "ok")


def test_a_fact_that_is_not_known_is_a_warning():
    finding = judged("sockets", {"unknown": "PermissionError: no"}, cluster_checks.bound)
    assert finding.status == "warning"
    assert "could not be checked: PermissionError: no" in finding.found


def test_what_is_not_well_needs_advice():
    with pytest.raises(ValueError, match="advice"):
        Finding("check", "fault", "broken")


def test_versions_on_a_node():
    (same,) = cluster_checks.versions(HERE, dict(HERE))
    assert same.status == "ok"
    there = HERE | {"neuron": "8.2.6", "numpy": "1.26", "neurofleet": None}
    found = {finding.check: finding for finding in cluster_checks.versions(HERE, there)}
    assert {name: finding.status for name, finding in found.items()} == {
        "neuron": "fault",
        "numpy": "warning",
        "neurofleet": "fault",
    }
    assert found["neurofleet"].found == "not installed, here it is 0.1.0"
    assert "Scores depend on it" in found["neuron"].advice


def test_requirements(monkeypatch):
    assert [f.status for f in machine_checks.requirements("3.11.7", doctor_command._requirements())] == ["ok"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["ray<2", "absent>1", 'x; extra == "test"'])
    found = {f.check: f for f in machine_checks.requirements("3.11.7", doctor_command._requirements())}
    assert {name: finding.status for name, finding in found.items()} == {"ray": "fault", "absent": "fault"}
    assert "neurofleet needs <2" in found["ray"].found


def command(*arguments, **environment):
    """Run the command; return exit code, findings by check (and node), and standard error."""
    environment = {"NEUROFLEET_CACHE": str(cache_folder())} | environment  # wherever HOME is
    done = subprocess.run(
        [Path(sys.executable).parent / "neurofleet", "doctor", "--json", *arguments],
        capture_output=True,
        text=True,
        env={name: v for name, v in (os.environ | environment).items() if v is not None},
        timeout=120,
    )
    record = json.loads(done.stdout)
    assert record["ok"] == all(f["status"] != "fault" for f in record["findings"])
    here = {f["check"]: f for f in record["findings"] if not f["where"]}
    there = {f["check"]: f for f in record["findings"] if f["where"]}
    return done.returncode, here, there, done.stderr


def test_a_machine_with_everything_wrong(tmp_path):
    (tmp_path / "file").touch()
    token = tmp_path / "token"
    token.touch()
    token.chmod(0o640)
    code, here, there, err = command(
        "--address=127.0.0.1:9",
        f"--out={tmp_path / 'file' / 'run'}",
        PATH=str(tmp_path),
        NEUROFLEET_CACHE=str(tmp_path / "cache"),
        RAY_AUTH_TOKEN_PATH=str(token),
    )
    assert code == 3
    assert "no cluster was reached at 127.0.0.1:9" in err
    assert there == {}
    assert {name for name, finding in here.items() if finding["status"] == "fault"} == {
        "NEURON",
        "token",
        "storage",
        "connection",
    }
    assert "there is no C++ compiler" in here["NEURON"]["found"]
    assert here["compiler"]["status"] == "warning"
    assert "Connection refused" in here["connection"]["found"]


def test_the_mechanisms_really_load():
    assert neuron_facts()["mechanisms"] > 20


def test_a_cluster_that_asks_for_a_token(ray_session, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    code, here, there, err = command(f"--address={address}", RAY_AUTH_TOKEN_PATH=None, HOME=str(tmp_path))
    assert code == 3
    assert here["authentication"]["found"] == "the cluster asks for a token, and there is none here"
    assert "Traceback" not in err
    assert "connection" not in here

    wrong = tmp_path / "token"
    wrong.touch(mode=0o600)
    wrong.write_text("f" * 64)
    code, here, there, err = command(f"--address={address}", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert code == 3
    assert f"does not take the one in {wrong}" in here["authentication"]["found"]


@pytest.fixture
def open_head():
    """A head as nobody should start one: no token, dashboard on every interface."""
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    head = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=1"]
        + ["--port=30511", "--dashboard-host=0.0.0.0", "--dashboard-port=30512", f"--temp-dir={folder}"]
        + ["--ray-client-server-port=30513", "--object-store-memory=80000000", "--disable-usage-stats"],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in head.stdout:
        said.append(line)
        if "Ray runtime started" in line:
            break
    assert head.poll() is None, "".join(said)
    yield "127.0.0.1:30511"
    for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
        process.kill()
    head.communicate()
    clean_up_folder(folder)


@pytest.mark.slow
def test_an_open_cluster(open_head, tmp_path):
    away = {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN_PATH": None, "HOME": str(tmp_path)}
    code, here, there, err = command(f"--address={open_head}", f"--out={tmp_path / 'run'}", **away)
    assert code == 1
    assert "2 faults found" in err
    assert "anyone who reaches its ports can run code" in here["authentication"]["found"]
    assert here["authentication"]["status"] == there["dashboard"]["status"] == "fault"
    assert "(*:30512)" in there["dashboard"]["found"]
    assert there["bind addresses"]["status"] == "warning"
    assert "GCS *:30511" in there["bind addresses"]["found"]
    assert ":30513" in there["bind addresses"]["found"]
    assert "read what this machine wrote" in there["storage"]["found"]
    assert not (tmp_path / "run").exists()
    for check in ("Python", "versions", "NEURON", "compiler", "clock", "ports"):
        assert there[check]["status"] == "ok", there[check]
