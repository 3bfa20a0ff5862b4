"""A pool over several nodes, one of which is killed while it works."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from neurofleet.cluster.ray.session import clean_up_folder

REPOSITORY = Path(__file__).resolve().parents[2]

# A process of its own: a fake cluster and the session's embedded Ray do not fit into one.
SCRIPT = """
import json
from ray.cluster_utils import Cluster

quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
quick["health_check_failure_threshold"] = 3
small = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]

from neurofleet.cluster.pool.outcome import EvaluationTask
from neurofleet.cluster.ray.session import connect
from tests.cluster.engines import spec

with connect(cluster.address):
    from neurofleet.cluster.pool.pool import Pool
    with Pool() as pool:
        for number in range(60):
            pool.submit(EvaluationTask(number, spec(pause_s=0.1), float(number), 20.0))
        values, killed, hosts = {}, False, 0
        while len(values) < 60:
            for number, outcome in pool.completed(1.0):
                assert outcome.ok, outcome
                values[number] = outcome.value
            hosts = max(hosts, pool.statistics().hosts)
            if hosts == 2 and len(values) > 10 and not killed:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                killed = True
        print(json.dumps({
            "right": all(values[number] == number**2 for number in range(60)),
            "killed": killed,
            "hosts": hosts,
            "hosts_lost": pool.statistics().hosts_lost,
        }), flush=True)
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_killed_node_changes_no_result():
    folder = Path(tempfile.mkdtemp(prefix="nt-", dir="/tmp"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=200,
            env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": str(folder)},
        )
    finally:
        clean_up_folder(folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"right": True, "killed": True, "hosts": 2, "hosts_lost": 1}
