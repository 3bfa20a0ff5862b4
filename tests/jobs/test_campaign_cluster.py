"""A campaign on a cluster that loses nodes, a host, a child and its driver, or that scales, ends as an embedded one."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pytest
import ray
import yaml

from neurofleet.cluster.ray.session import clean_up_folder
from neurofleet.cluster.store.generations import FitKey
from tests.jobs.local_head import free_ports
from tests.jobs.stored_generations import (
    assert_not_evaluated_again,
    assert_same_evaluations,
    generations,
    stored_rows,
)

CELLS = [f"C{number}" for number in range(1, 4)]
SEEDS = [1, 2]
EVALUATIONS = 40
BEGUN = 8  # generations stored, of 27, when the disturbances begin
DEADLINE_S = 8.0

RECIPE = {
    "name": "small",
    "stages": [
        {
            "name": "passive",
            "targets": "subthreshold",
            "mechanisms": {"all": ["pas"]},
            "fixed": {"Ra": {"all": 120}},
            "parameters": {"cm": {"all": [0.1, 10]}, "g_pas": {"all": [1e-7, 1e-2]}},
            "features": ["voltage_base", "voltage_deflection_vb_ssse"],
        },
        {
            "name": "leak",
            "targets": "subthreshold",
            "parameters": {"e_pas": {"all": [-110, -60]}},
            "features": ["voltage_base", "voltage_after_stim", "voltage_deflection_vb_ssse"],
        },
    ],
}

# Of the recordings only the five repeats of one silent step, so that an evaluation takes little.
CELL = {"morphology": "cell.swc", "recordings": "cell.nwb", "exclude_sweeps": list(range(5, 35))}
JOB = {
    "kind": "fit",
    "name": "three-cells",
    "cells": [{"id": cell} | CELL for cell in CELLS],
    "recipe": "small.yaml",
    "evolution": {
        "learn": False,  # a cell learns from those that happen to be finished before it
        "offspring": 16,
        "seeds": SEEDS,
        "evaluations": {"passive": EVALUATIONS, "leak": EVALUATIONS},
        "hall_of_fame": 4,
    },
    "deadline_s": DEADLINE_S,
}

# The command line; with fewer cells prepared beforehand, so that this campaign has some prepared meanwhile.
DRIVER = """
import neurofleet.jobs.fit.fit_run
from neurofleet.jobs.cli import main
neurofleet.jobs.fit.fit_run.PREPARED_FIRST = 2
main()
"""

# How soon Ray gives up a node.
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}

# A process of its own: a fake cluster and the session's embedded Ray do not fit into one. It removes the
# nodes whose numbers it reads.
CLUSTER = """
import json
import sys
from ray.cluster_utils import Cluster

quick = json.loads(sys.argv[1])
small = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(3)]
raylets = [node.all_processes["raylet"][0].process.pid for node in [*nodes, cluster.head_node]]
print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[int(line)], allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""

HEAD = f"{0:f>56x}"  # a node's id, by which Ray's autoscaler knows that it need not start it
MOST_NODES = 4
MAX_HOSTS = 3

# Ray's own autoscaler, with the provider of its tests, whose nodes are processes of this machine.
SCALING = {
    **dict.fromkeys(["setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands"], []),
    **dict.fromkeys(["head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"], []),
    **dict.fromkeys(["auth", "file_mounts"], {}),
    "cluster_name": "fake",
    "max_workers": MOST_NODES,
    "idle_timeout_minutes": 0.1,
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1, "object_store_memory": 80 * 2**20}, "node_config": {}},
    },
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": HEAD,
        "launch_multiple": True,
        "disable_node_updaters": True,
    },
}


def wait_for(what: Callable[[], Any], timeout_s: float = 120.0, every_s: float = 0.05) -> Any:
    """Return what it returns, as soon as that is something."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if found := what():
            return found
        time.sleep(every_s)
    pytest.fail("waited in vain")


def children(process: int) -> list[int]:
    """The processes that its threads have started; quicker than psutil, which looks at all there are."""
    found = []
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(pid) for pid in thread.read_text().split()]
    return found


def command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_engine(process: int) -> bool:
    """Whether it is an engine's process, or a child forked from one."""
    return "neurofleet.cluster.pool.child_processes" in command_line(process)


def host(raylet: int) -> int | None:
    """The pool's host on a node."""
    found = [pid for pid in children(raylet) if command_line(pid).startswith("ray::Host")]
    return found[0] if found else None


def at_work(raylet: int) -> list[int]:
    """The children that evaluate on a node; what an engine's build starts (a compiler) is none of them."""
    engines = [pid for pid in children(host(raylet) or 0) if is_engine(pid)]
    return [child for engine in engines for child in children(engine) if is_engine(child)]


def records(log: Path) -> list[dict]:
    """What we have logged in a file so far; Ray adds lines of its own, and the last may be on its way."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@dataclass
class FakeCluster:
    """Three nodes of one CPU, and a head without work, whose raylet is the last."""

    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen = field(init=False)
    address: str = ""
    raylets: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, json.dumps(QUICK)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it has come up; Ray gives a node half a minute, which is too short on a busy machine."""
        for _ in range(3):
            assert self.process.stdout
            if line := self.process.stdout.readline():
                told = json.loads(line)
                self.address, self.raylets = told["address"], told["raylets"]
                return
            self.process.wait()
            self.start()
        pytest.fail("the cluster did not come up")

    def remove_node(self, number: int) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"

    def logged(self, message: str) -> list[dict]:
        """What the hosts have logged of this."""
        files = self.folder.glob("**/logs/worker-*.err")
        return [record for file in files for record in records(file) if record["message"] == message]

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@dataclass
class ScalingCluster:
    """A head without work, and an autoscaler that starts nodes of one CPU when they are asked for."""

    environment: dict[str, str]
    address: str = field(init=False)
    process: subprocess.Popen = field(init=False)

    def __post_init__(self) -> None:
        folder = Path(self.environment["RAY_TMPDIR"])
        port, agent, client = free_ports(3)
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        config = SCALING | {"provider": SCALING["provider"] | {"gcs_address": self.address}}
        (folder / "scaling.json").write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
            + [f"--autoscaling-config={folder}/scaling.json", f"--temp-dir={folder}/r", "--disable-usage-stats"]
            + ["--include-dashboard=false", f"--dashboard-agent-listen-port={agent}"]
            + [f"--ray-client-server-port={client}", "--object-store-memory=100000000"]
            + [f"--system-config={json.dumps(QUICK)}"],
            env=self.environment
            | {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
            | {"RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD},
            stdout=(folder / "head.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_for(lambda: "Ray runtime started" in (folder / "head.log").read_text(), every_s=0.5)

    def raylets(self) -> set[int]:
        """Those of the nodes that were started, and live."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        raylets = {process.pid for process in family if "/raylet" in command_line(process.pid).split(" ")[0]}
        return {pid for pid in raylets if "--head" not in command_line(pid)}

    def is_grown(self) -> bool:
        """Whether it has as many nodes as may be asked for, and a host of the pool on each."""
        raylets = self.raylets()
        return len(raylets) == MAX_HOSTS and all(map(host, raylets))


@pytest.fixture
def mark() -> str:
    """A word in the environment of all processes of the test."""
    return f"mark-{secrets.token_hex(8)}"


@pytest.fixture
def environment(mark) -> Iterator[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    yield os.environ | auth | {"RAY_TMPDIR": str(folder), "PYTHONPATH": f"/{mark}"}
    for process in marked(mark):  # of a test that failed
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    clean_up_folder(folder)


@pytest.fixture
def cluster(environment) -> Iterator[FakeCluster]:
    cluster = FakeCluster(Path(environment["RAY_TMPDIR"]), environment)
    try:
        yield cluster
    finally:
        cluster.process.kill()
        cluster.process.wait()


@pytest.fixture(scope="module")
def job(demo_recordings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    shutil.copytree(demo_recordings, folder, dirs_exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


@pytest.fixture(scope="module")
def whole(job) -> Path:
    """The results of an undisturbed run on an embedded Ray."""
    out = job.parent / "whole"
    end(start(dict(os.environ), job, "--out", out, "--cpus", 2))
    assert Counter(key for key, _ in generations(out)).most_common()[-1][1] >= 3
    return out


def start(environment: dict[str, str], *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, "run", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def end(driver: subprocess.Popen) -> str:
    """Wait for its end, and return what it said."""
    said = driver.communicate(timeout=400)[1]
    assert driver.returncode == 0, said
    return said


def hosts_lost(out: Path) -> list[dict]:
    return [record for record in records(out / "log.jsonl") if record["message"] == "a host was lost"]


def marked(mark: str) -> dict[int, str]:
    """The processes of the test, Ray's own and ours, with their command lines."""
    found = {}
    for process in psutil.process_iter():
        try:
            said = " ".join(process.cmdline())
            if mark in said or any(mark in value for value in process.environ().values()):
                found[process.pid] = said
        except psutil.Error:
            continue
    return found


def of_a_run(processes: dict[int, str]) -> dict[int, str]:
    """Those that belong to a run, and not to the cluster."""
    ours = ("neurofleet.jobs.cli", "neurofleet.cluster.pool.child_processes", "multiprocessing", "ray::Host")
    return {pid: said for pid, said in processes.items() if any(name in said for name in ours)}


def wait_for_none_left(mark: str) -> None:
    wait_for(lambda: not of_a_run(marked(mark)), 20.0, every_s=0.5)


def stop_a_child(cluster: FakeCluster, node: int) -> psutil.Process:
    """Stop (SIGSTOP) an evaluation at work on a node."""

    def stopped() -> psutil.Process | None:
        for child in at_work(cluster.raylets[node]):
            try:
                process = psutil.Process(child)
                process.suspend()
                time.sleep(0.5)  # one that had just said its result is gone by then
                if process.status() == psutil.STATUS_STOPPED and is_engine(child):
                    return process
                process.resume()
            except psutil.NoSuchProcess:
                continue
        return None

    return wait_for(stopped, every_s=0.001)


def disturb(cluster: FakeCluster, out: Path, driver: subprocess.Popen) -> None:
    """Have a campaign lose a child, a node and a host, and return when all it lost is stored."""
    child = stop_a_child(cluster, 0)
    cluster.remove_node(2)
    wait_for(lambda: len(hosts_lost(out)) == 1)
    killed = wait_for(lambda: host(cluster.raylets[1]))
    wait_for(lambda: at_work(cluster.raylets[1]), every_s=0.001)
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(hosts_lost(out)) == 2)
    one, other = hosts_lost(out)
    assert one["node"] != other["node"]
    wait_for(lambda: not child.is_running())
    (lost,) = wait_for(lambda: cluster.logged("evaluation ended as lost"))
    assert lost["reason"] == "its process was stopped by a signal"
    assert lost["seconds"] >= DEADLINE_S
    place = FitKey(lost["cell"], lost["stage"], lost["seed"]), lost["generation"]
    wait_for(lambda: place in generations(out))
    wait_for(lambda: host(cluster.raylets[1]) not in (None, killed))
    assert driver.poll() is None


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_campaign_that_loses_its_nodes_and_its_own_raylet_ends_like_an_undisturbed_one(
    environment, cluster, mark, job, whole, tmp_path
):
    out = tmp_path / "disturbed"
    cluster.wait()
    driver = start(environment, job, "--out", out, "--address", cluster.address)
    wait_for(lambda: len(generations(out)) >= BEGUN and all(map(host, cluster.raylets[:3])))
    disturb(cluster, out, driver)
    before = of_a_run(marked(mark))
    assert sum("spawn_main" in said for said in before.values()) == 1
    assert sum("ray::Host" in said for said in before.values()) == 2
    assert sum("neurofleet.cluster.pool.child_processes" in said for said in before.values()) >= 2
    os.kill(cluster.raylets[3], signal.SIGKILL)  # that of the head, which the driver is connected to
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 3, said
    assert f"The Ray cluster at {cluster.address} was lost: its raylet on this machine has ended" in said
    wait_for_none_left(mark)
    stored = stored_rows(out)
    assert BEGUN < len(stored) < len(generations(whole))

    said = end(start(environment, job, "--out", out, "--address", cluster.address))  # as that message says
    assert "resuming" in said
    wait_for_none_left(mark)
    cluster.end()
    wait_for(lambda: not marked(mark), 20.0, every_s=0.5)

    assert_not_evaluated_again(stored, out)
    assert_equal(out, whole)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_cluster_that_scales_grows_with_a_campaign_and_shrinks_at_its_end(environment, mark, job, whole, tmp_path):
    out, scaled = tmp_path / "scaled", job.parent / "scaled.yaml"
    scaled.write_text(yaml.safe_dump(JOB | {"max_hosts": MAX_HOSTS}))
    cluster = ScalingCluster(environment)
    assert not cluster.raylets()
    driver = start(environment, scaled, "--out", out, "--address", cluster.address)
    wait_for(lambda: cluster.is_grown() and generations(out))

    stored = stored_rows(out)
    lost = min(cluster.raylets())
    wait_for(lambda: at_work(lost), every_s=0.001)
    os.kill(lost, signal.SIGKILL)  # as a spot machine that is taken away
    wait_for(lambda: hosts_lost(out))
    wait_for(lambda: lost not in cluster.raylets() and cluster.is_grown())
    assert len(hosts_lost(out)) == 1
    assert_not_evaluated_again(stored, out)
    stored = stored_rows(out)
    os.kill(driver.pid, signal.SIGKILL)  # it cannot withdraw what it has asked for
    driver.communicate()
    wait_for_none_left(mark)
    assert len(stored) < len(generations(whole))

    said = end(start(environment, scaled, "--out", out, "--address", cluster.address))
    assert "resuming" in said
    wait_for(lambda: not cluster.raylets(), every_s=0.5)  # nothing is asked for any more
    assert_not_evaluated_again(stored, out)
    assert_equal(out, whole)
    cluster.process.terminate()
    wait_for(lambda: not marked(mark), 60.0, every_s=0.5)


def assert_equal(out: Path, whole: Path) -> None:
    found = [*whole.glob("hall_of_fame/**/*.parquet"), *whole.glob("pooled/**/*.parquet")]
    halls = [file.relative_to(whole) for file in found]
    assert len(halls) == len(CELLS) * (len(SEEDS) + 1)
    for file in halls:
        assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    assert_same_evaluations(out, whole)
    rows = ds.dataset(out / "evaluations", partitioning="hive").to_table().to_pylist()
    names = ("cell", "stage", "seed", "generation", "individual")
    counts = Counter(tuple(row[name] for name in names) for row in rows)
    assert set(counts.values()) == {1}
    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) == len(CELLS) * (1 + len(SEEDS)) * EVALUATIONS
