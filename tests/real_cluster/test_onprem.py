"""`deploy onprem` as docs/clusters.md prints it: from hosts with ssh to a finished fit; a cut, a lost raylet."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_cluster.lab import SHARED, Lab, build_wheel, wait_for, why_not
from tests.real_cluster.small_fit import assert_equal, embedded, generations_stored, write_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

BIN = "export RAY_AUTH_MODE=token PATH=$HOME/nf-lab/venv/bin:$PATH;"
API = BIN + " export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265; cd checkout;"
ALIVE = "ray exec lab.yaml 'RAY_AUTH_MODE=token ~/nf-lab/venv/bin/ray status'"


class OnPrem:
    """A head h1, a worker h2, and the laptop from which they were started."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def laptop(self, command: str, timeout_s: float = 240.0) -> str:
        return self.lab.done("lap", API + command, timeout_s)

    def has_worker(self) -> bool:
        """Whether Ray knows h2 to be alive: the head has no CPU."""
        return bool(re.search(r"/[1-9][\d.]* CPU", self.lab.on("lap", API + ALIVE).stdout))

    def raylet(self) -> int:
        """The raylet of h2, as h2 numbers its processes; 0 for none."""
        found = self.lab.on("h2", "pgrep -x raylet").stdout.split()
        return int(found[0]) if found else 0

    def log_of_worker(self) -> str:
        """What h2 runs of Ray, and the end of what its loop has printed."""
        return self.lab.on("h2", "date; ps -eo pid,etimes,args | cut -c1-150; tail -n 40 ~/nf-lab/*.log").stdout

    def open_tunnel(self) -> None:
        """As docs/clusters.md opens it, in a second terminal; it stays open."""
        if self.lab.on("lap", API + "neurofleet list").returncode != 0:
            self.lab.start("lap", API + "ray dashboard lab.yaml")
            wait_for(lambda: self.lab.on("lap", API + "neurofleet list").returncode == 0, 60)

    def status(self) -> str:
        return self.lab.on("lap", API + "neurofleet status rat").stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[OnPrem]:
    """Started by the commands of docs/clusters.md."""
    if reason := why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="nf-lab-", dir="/var/tmp"))
    try:
        with Lab(folder, 2, str(Path.home() / "nf-lab" / "venv")) as lab:
            build_wheel(folder / "lap" / "root" / "checkout")
            cluster = OnPrem(lab)
            cluster.laptop("pip install -q --no-index dist/*.whl")
            cluster.laptop("ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token")
            cluster.laptop("neurofleet deploy onprem --name lab --head h1 --worker h2 --ssh-user root > lab.yaml")
            cluster.laptop("ray up --yes lab.yaml", 400)
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_fit_that_loses_its_worker_twice_ends_as_an_embedded_one(cluster, demo_recordings, tmp_path):
    job = write_job(demo_recordings, cluster.lab.shared / "job")
    out, whole = cluster.lab.shared / "rat", tmp_path / "whole"
    with embedded(job, whole) as wait_for_embedded:
        wait_for(cluster.has_worker, 400, lambda: cluster.laptop(ALIVE), 5)
        cluster.open_tunnel()
        sent = cluster.laptop(f"neurofleet submit {SHARED}/job/rat.yaml --out {SHARED}/rat")
        assert "rat-a1 is running" in sent

        wait_for(lambda: generations_stored(out), 120, cluster.status)
        before = cluster.raylet()
        cluster.lab.cut("h2")
        wait_for(lambda: "no hosts since" in cluster.status(), 180, cluster.status)
        wait_for(lambda: not cluster.has_worker(), 180, cluster.status)  # the pool may give a host up before Ray does
        stored = generations_stored(out)
        cluster.lab.heal("h2")  # its Ray hears that it was given up, ends, and is started again
        wait_for(lambda: cluster.raylet() not in (0, before), 180, cluster.log_of_worker)
        wait_for(lambda: generations_stored(out) > stored, 180, cluster.status)  # nobody but h2 evaluates

        before = cluster.raylet()
        cluster.lab.done("h2", f"kill -9 {before}")
        wait_for(lambda: cluster.raylet() not in (0, before), 120, cluster.log_of_worker)
        assert "no hosts since" in cluster.laptop("neurofleet logs rat -f", 400)
        assert "rat-a1: succeeded" in cluster.status()
        wait_for_embedded()
        assert_equal(out, whole)


def test_another_account_cannot_exchange_the_files_of_a_job(cluster):
    """Ray lets every account write into its folders; the one above them lets nobody in."""
    lab = cluster.lab
    cluster.open_tunnel()
    job = "{kind: fit, cells: [{id: a, morphology: /gone.swc, recordings: /gone.nwb}]}"
    cluster.laptop(f"echo '{job}' > gone.yaml; ! neurofleet submit gone.yaml --out {SHARED}/gone")
    files = "/tmp/nf-lab/r/session_latest/runtime_resources/working_dir_files"
    package = lab.done("h1", f"ls -d {files}/_ray_pkg_* | head -1").strip()
    assert lab.done("h1", f"stat -c %a {files}").strip() == "777"
    attack = f"mv {package} {files}/old && mkdir {package}"
    as_nobody = f"setpriv --reuid=65534 --regid=65534 --clear-groups sh -c '{attack}'"
    doctor = f"{BIN} neurofleet doctor --address auto --json"
    refused = lab.on("h1", as_nobody)
    assert refused.returncode != 0
    assert "Permission denied" in refused.stderr
    assert lab.done("h1", f"stat -c %U {package}").strip() == "root"
    assert "closed to other accounts" in lab.on("h1", doctor, 300).stdout
    lab.done("h1", "chmod 755 /tmp/nf-lab")  # without what the printed file does, it succeeds
    lab.done("h1", as_nobody)
    assert lab.done("h1", f"stat -c %U {package}").strip() == "nobody"
    assert "other accounts of this machine can write" in lab.on("h1", doctor, 300).stdout
    lab.done("h1", "chmod 700 /tmp/nf-lab")
