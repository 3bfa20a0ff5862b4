"""Hosts that stop, do not start, or have to go: no process is left behind, no task without outcome."""

import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from neurofleet.errors import ClusterError
from tests.cluster.engines import BrokenHost, spec
from tests.cluster.pool_helpers import collect, host_processes, submit, wait_for

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def pool_module(ray_session):
    import neurofleet.cluster.pool.pool

    return neurofleet.cluster.pool.pool


def test_a_stopped_host_is_replaced_and_does_not_stay_behind(pool_module):
    with pool_module.Pool(hosts=1, lease_s=1.0) as pool:
        collect(pool, submit(pool, [1.0]))
        [host] = host_processes(pool)
        tasks = submit(pool, [2.0, 3.0])
        host.suspend()
        assert [outcome.value for _, outcome in collect(pool, tasks)] == [4.0, 9.0]
        assert pool.statistics().hosts_lost == 1
        wait_for(lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE)


def test_a_driver_that_is_busy_elsewhere_does_not_blame_its_hosts(pool_module):
    with pool_module.Pool(hosts=1, lease_s=0.2) as pool:
        collect(pool, submit(pool, [1.0]))
        tasks = submit(pool, [2.0, 3.0])
        pool.completed(0.0)
        time.sleep(2.0)  # longer than a call to a host, and its lease
        assert [outcome.value for _, outcome in collect(pool, tasks)] == [4.0, 9.0]
        assert pool.statistics().hosts_lost == 0


def test_a_lost_task_is_not_left_for_last(pool_module, tmp_path):
    with pool_module.Pool(hosts=1) as pool:
        slow = spec("slow", pause_s=0.1)
        lost = submit(pool, [("once", str(tmp_path / "happened"), "kill the host")], slow, expected_s=9.0)
        others = submit(pool, [1.0] * 60, slow, expected_s=0.1)
        finished = []
        while not lost.keys() & set(finished):
            finished += [task_id for task_id, _ in pool.completed(1.0)]
        assert len(finished) < 30
        collect(pool, {key: value for key, value in others.items() if key not in finished})


def relays():
    return [process for process in psutil.process_iter(["cmdline"]) if "ray::Relay" in str(process.info)]


def test_hosts_behind_relays_do_the_same_and_a_lost_relay_costs_nothing(pool_module):
    with pool_module.Pool(hosts=2, hosts_per_relay=1) as pool:
        for individual, outcome in collect(pool, submit(pool, [float(n) for n in range(40)])):
            assert outcome.value == individual**2
        before = relays()
        assert len(before) == 2
        tasks = submit(pool, [*map(float, range(30)), "segfault"], spec("slow", pause_s=0.1))
        victims = before[:1]

        def kill() -> None:
            if victims and pool.statistics().outcomes["ok"] > 45:
                victims.pop().kill()

        for individual, outcome in collect(pool, tasks, meanwhile=kill):
            assert outcome.status == "crash" if individual == "segfault" else outcome.value == individual**2
        assert not victims
        assert pool.statistics().hosts_lost == 1
        processes = [*relays(), *host_processes(pool)]
    wait_for(lambda: not any(process.is_running() for process in processes))


def test_nothing_is_left_of_a_closed_pool(pool_module):
    with pool_module.Pool(hosts=2) as pool:
        collect(pool, submit(pool, [1.0, 2.0]))
        submit(pool, ["hang", "hang", "hang"], deadline_s=600.0)
        processes = []
        while len(processes) < 6:  # two of each: host, engine process, child
            pool.completed(0.1)
            hosts = host_processes(pool)
            processes = hosts + [child for host in hosts for child in host.children(recursive=True)]
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes))


def test_statistics_add_up(pool_module):
    with pool_module.Pool(hosts=2) as pool:
        tasks = submit(pool, [1.0] * 6 + ["raise"], spec("slow", pause_s=0.1))
        assert pool.statistics().waiting == 7
        collect(pool, tasks)
        statistics = pool.statistics()
    assert statistics.outcomes == {"ok": 6, "error": 1}
    assert (statistics.waiting, statistics.running, statistics.hosts) == (0, 0, 2)
    assert 0.6 <= statistics.busy_s <= statistics.available_s
    assert statistics.utilisation == statistics.busy_s / statistics.available_s


def test_hosts_that_cannot_start_are_an_error(pool_module, monkeypatch):
    monkeypatch.setattr("neurofleet.cluster.pool.hosts.Host", BrokenHost)
    with pool_module.Pool(hosts=1) as pool:
        tasks = submit(pool, [1.0])
        with pytest.raises(ClusterError, match="No module named 'neurofleet'"):
            collect(pool, tasks)


DRIVER = """
import sys
from neurofleet.cluster.pool.outcome import EvaluationTask
from neurofleet.cluster.ray.session import connect
from tests.cluster.engines import spec

with connect(cpus=2):
    from neurofleet.cluster.pool.pool import Pool
    with Pool() as pool:
        pool.submit(EvaluationTask(0, spec(), 1.0, 10.0))
        pool.submit(EvaluationTask(1, spec(), "hang", 600.0))
        pool.submit(EvaluationTask(2, spec(), "print", 600.0))
        while pool.statistics().running < 2 or not pool.statistics().outcomes:
            pool.completed(0.1)
        print("running", flush=True)
        pool.completed(600.0)
"""


def test_a_killed_driver_leaves_nothing_behind():
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, cwd=REPOSITORY, start_new_session=True
    )
    try:
        assert driver.stdout.readline() == b"running\n"
        time.sleep(0.5)
        family = psutil.Process(driver.pid).children(recursive=True)
        folders = {
            folder for process in family for folder in re.findall(r"/tmp/nf-[^/\s]+", " ".join(process.cmdline()))
        }
        assert len(family) > 8
        assert folders
    finally:
        driver.kill()
        driver.communicate()
    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family))
    wait_for(lambda: not any(Path(folder).exists() for folder in folders))
