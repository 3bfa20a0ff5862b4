"""`deploy slurm` as docs/clusters.md prints it, on two nodes: requeued at its time limit, preempted, and finished."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_cluster.lab import SHARED, Lab, build_wheel, wait_for, why_not
from tests.real_cluster.small_fit import assert_equal, embedded, generations_stored, write_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

HOME = SHARED / "home"
CONFIG = f"""\
ClusterName=lab
SlurmctldHost=h1
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=10
SlurmUser=root
StateSaveLocation=/run/slurm/state
SlurmdSpoolDir=/run/slurm/spool
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={SHARED}/slurmctld.log
SlurmdLogFile={SHARED}/slurmd-%h.log
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=5,sched_interval=5{{user_signal}}
NodeName=h[1-2] CPUs=4 RealMemory=8000
PartitionName=low Nodes=h[1-2] Default=YES PriorityTier=1 GraceTime=5
PartitionName=high Nodes=h[1-2] PriorityTier=2 PreemptMode=OFF
"""


class Slurm:
    """Two nodes, h1 with the controller, and a home that they share."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        version = tuple(map(int, re.findall(r"\d+", lab.done("h1", "slurmctld -V"))[:2]))
        old = ",preempt_send_user_signal" if version < (23, 2) else "\nPreemptParameters=send_user_signal"
        (lab.shared / "slurm.conf").write_text(CONFIG.format(user_signal=old))
        (lab.shared / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # none is used; the hosts mount none
        (lab.shared / "home").mkdir(exist_ok=True)
        for host, daemon in (("h1", "slurmctld"), ("h1", "slurmd"), ("h2", "slurmd")):
            lab.done(host, f"mkdir -p /run/slurm/state /run/slurm/spool; {self.configured} {daemon}")
        wait_for(lambda: self("sinfo -h -t idle -p low -o %D").strip() == "2", 60, lambda: self("sinfo -R; sinfo"))

    configured = f"export HOME={HOME} SLURM_CONF={SHARED}/slurm.conf RAY_worker_niceness=0; cd;"

    def __call__(self, command: str) -> str:
        return self.lab.done("h1", self.configured + command, 240)

    def job(self, id: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S+)", self(f"scontrol show job {id}")))


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    if reason := why_not("sbatch", "slurmctld", "slurmd"):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="nf-lab-", dir="/var/tmp"))
    try:
        with Lab(folder, 2, f"{HOME}/nf") as lab:
            build_wheel(folder / "wheel")
            (lab.shared / "home" / "checkout").mkdir()
            shutil.copytree(folder / "wheel", lab.shared / "home" / "checkout", dirs_exist_ok=True)
            lab.done("h1", f"cd {HOME}/checkout; ../nf/bin/pip install -q --no-deps dist/*.whl", 240)
            compile_now = "from neurofleet.neurosim.mechanisms import compile_mechanisms; compile_mechanisms()"
            lab.done("h1", f"export HOME={HOME}; {HOME}/nf/bin/python -c '{compile_now}'", 600)
            yield Slurm(lab)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_that_is_requeued_and_preempted_ends_as_an_embedded_one(slurm, demo_recordings, tmp_path):
    job = write_job(demo_recordings, slurm.lab.shared / "home" / "job")
    out, whole = slurm.lab.shared / "home" / "rat", tmp_path / "whole"
    with embedded(job, whole) as wait_for_embedded:
        deploy = (
            f"~/nf/bin/neurofleet deploy slurm --name rat --job {HOME}/job/rat.yaml --out {HOME}/rat --nodes 2 --cpus 4"
        )
        slurm(f"{deploy} --memory-per-cpu 1 --hours 1 --partition low > rat.sbatch")
        id = slurm("sbatch --parsable rat.sbatch").strip()
        log = slurm.lab.shared / "home" / f"rat-{id}.log"

        def told() -> str:
            return f"{slurm.job(id)}\n{log.read_text()[-9000:] if log.exists() else 'no log'}"

        wait_for(lambda: generations_stored(out), 300, told)
        assert "2 of 2 nodes have joined the cluster" in log.read_text()

        slurm(f"scancel --batch --signal=USR1 {id}")  # what Slurm sends before the time limit
        wait_for(lambda: slurm.job(id)["Restarts"] == "1", 120, told)
        assert "told to stop; to be requeued" in log.read_text()
        stored = generations_stored(out)
        wait_for(lambda: generations_stored(out) > stored, 240, told)
        assert "rat: resuming" in log.read_text()

        urgent = slurm("sbatch --parsable -p high -N 2 --exclusive --wrap 'sleep 5'").strip()
        wait_for(lambda: slurm.job(id)["Restarts"] == "2", 240, told)
        wait_for(lambda: slurm.job(urgent)["JobState"] == "COMPLETED", 60, told)
        wait_for(lambda: slurm.job(id)["JobState"] in ("COMPLETED", "FAILED"), 400, told, 5)
        assert slurm.job(id)["JobState"] == "COMPLETED", told()
        # Without its other node the driver goes on until it is told to stop, perhaps to the end of the fit.
        begun_again = re.findall("rat: (?:resuming|finished already)", log.read_text())
        assert len(begun_again) == 2, told()
        wait_for_embedded()
        assert_equal(out, whole)
        for host in ("h1", "h2"):
            left = slurm.lab.on(
                host, f"ls -d /tmp/nf-* 2> /dev/null; pgrep -l 'raylet|gcs_server'; ls {HOME}/.ray"
            ).stdout
            assert left == "", (host, left)
