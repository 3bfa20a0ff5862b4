"""What Prometheus sees of a campaign."""

import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from neurofleet.cluster.metrics import BOUNDARIES_S, DECLARED, RecentUtilisation
from neurofleet.cluster.ray.session import clean_up_folder

REPOSITORY = Path(__file__).resolve().parents[2]

# Ends when it is told to, so that what it has told Ray can be looked at.
DRIVER = """
import dataclasses, sys
from neurofleet.cluster.metrics import CampaignMetrics
from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.pool.outcome import PoolStatistics
from neurofleet.cluster.ray.session import connect

with connect(sys.argv[1]):
    metrics = CampaignMetrics("rat")
    assert metrics.due
    cells = {"done": 1, "failed": 0, "left": 5}
    first = PoolStatistics(
        hosts=2, waiting=40, running=4, outcomes={"ok": 3}, hosts_lost=0, retried=0,
        busy_s=0.0, available_s=10.0, engines_failed={},
    )
    metrics.update(first, 2, cells)
    assert not metrics.due
    for seconds in (0.03, 0.07, 3.0, 3.0, 700.0):
        metrics.evaluated(Outcome("ok", "", seconds))
    metrics.evaluated(Outcome("error", "the engine could not be built"))
    later = dataclasses.replace(
        first, hosts=3, waiting=0, outcomes={"ok": 5, "timeout": 2}, hosts_lost=1,
        busy_s=30.0, available_s=50.0,
    )
    metrics.update(later, 3, cells | {"done": 2, "failed": 1, "left": 3})
    metrics.update(later, 3, cells | {"done": 2, "failed": 1, "left": 3})
    print("told", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def head():
    """A head that listens on this machine only: its address, and where it exports metrics."""
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    port, export = free_ports(2)
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    process = subprocess.Popen(
        [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
        + [f"--port={port}", f"--metrics-export-port={export}", f"--temp-dir={folder}", "--num-cpus=1"]
        + ["--include-dashboard=false", "--disable-usage-stats", f"--object-store-memory={80 * 2**20}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail("the head did not start")
        yield f"127.0.0.1:{port}", export, environment
    finally:
        process.terminate()
        process.communicate(timeout=30)
        clean_up_folder(folder)


def free_ports(number):
    """Ports outside those that Ray gives to its workers."""
    found = []
    for port in range(23000 + os.getpid() % 5000, 32000):
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    pytest.fail("no free ports")


def scrape(export):
    """Sample name -> its (tags of ours, value) pairs."""
    with urllib.request.urlopen(f"http://127.0.0.1:{export}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.startswith("ray_neurofleet_"):
            tags = {name: sample.labels[name] for name in ("status", "state", "le") if name in sample.labels}
            assert sample.labels["run"] == "rat"
            assert "cell" not in sample.labels
            found.setdefault(sample.name, []).append((tags, sample.value))
    return found


@pytest.mark.slow
def test_prometheus_finds_the_metrics_with_their_values(head):
    address, export, environment = head
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, address],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout.readline() == "told\n", driver.communicate()[1]
        wanted = {name for metric in DECLARED for name in metric.series}
        give_up = time.monotonic() + 60
        while set(found := scrape(export)) != wanted and time.monotonic() < give_up:
            time.sleep(0.5)
    finally:
        _, errors = driver.communicate("\n", timeout=60)
    assert driver.returncode == 0, errors
    assert errors == ""
    assert set(found) == wanted

    values = {name: samples[0][1] for name, samples in found.items() if len(samples) == 1}
    assert values.pop("ray_neurofleet_evaluation_seconds_count") == 5
    del values["ray_neurofleet_evaluation_seconds_sum"]
    assert values == pytest.approx(
        {
            "ray_neurofleet_hosts": 3,
            "ray_neurofleet_hosts_lost": 1,
            "ray_neurofleet_evaluations_waiting": 0,
            "ray_neurofleet_evaluations_running": 4,
            "ray_neurofleet_utilisation": 0.75,
            "ray_neurofleet_active_fits": 3,
        }
    )
    by_status = {tags["status"]: value for tags, value in found["ray_neurofleet_evaluations_total"]}
    assert by_status == {"ok": 5, "timeout": 2}
    by_state = {tags["state"]: value for tags, value in found["ray_neurofleet_cells"]}
    assert by_state == {"done": 2, "failed": 1, "left": 3}
    buckets = {float(tags["le"]): n for tags, n in found["ray_neurofleet_evaluation_seconds_bucket"]}
    assert tuple(sorted(buckets)) == (*BOUNDARIES_S, math.inf)
    assert [buckets[limit] for limit in (0.05, 0.1, 2.0, 5.0, 600.0, math.inf)] == [1, 2, 2, 4, 4, 5]

    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == export
    ]
    assert listening == ["127.0.0.1"]


def test_recent_utilisation_forgets_what_is_long_ago():
    recent = RecentUtilisation(60.0)
    assert recent.utilisation(0.0, 0.0, 0.0) == 0.0, "no hosts"
    assert recent.utilisation(30.0, 0.0, 60.0) == 0.0
    assert recent.utilisation(60.0, 60.0, 120.0) == pytest.approx(0.5)
    assert recent.utilisation(90.0, 120.0, 180.0) == pytest.approx(1.0), "the first 30 s are forgotten"
    assert recent.utilisation(500.0, 120.0, 1000.0) == pytest.approx(0.0), "the last step is longer"


def test_utilisation_is_at_most_1_when_long_evaluations_end_together():
    recent = RecentUtilisation(60.0)
    recent.utilisation(0.0, 0.0, 0.0)
    assert recent.utilisation(10.0, 300.0, 20.0) == 1.0
