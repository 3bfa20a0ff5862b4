"""The driver of a submitted job, before the fit: its Python, and what it refuses."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from neurofleet.errors import UsageError
from neurofleet.jobs.remote import job_package
from neurofleet.jobs.remote.driver import check_storage
from tests.jobs.test_fit import neurofleet
from tests.jobs.test_job_package import lab, write  # noqa: F401

START = str(Path(job_package.__file__).with_name("start.sh"))

# A stand-in for the raylet, which starts a stand-in for the supervisor, which starts the command as Ray does.
RAYLET = """
import subprocess, sys
supervisor = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1], shell=True).returncode)"
sys.exit(subprocess.run([sys.executable, "-c", supervisor, sys.argv[-1]]).returncode)
"""


def start_driver(workers_python, *arguments, named=""):
    """Run start.sh below a raylet that starts workers with this Python, and with no Python on the path."""
    command = shlex.join(["exec", "sh", START, named, *arguments])
    return subprocess.run(
        [sys.executable, "-c", RAYLET, f"--python_worker_command={workers_python} worker.py --a=b", command],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
        cwd="/",
        timeout=60,
    )


@pytest.fixture
def bare_python(tmp_path):
    """A Python without neurofleet."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return str(python)


def test_the_driver_runs_with_the_python_of_rays_workers():
    done = start_driver(sys.executable, "--help")
    assert done.returncode == 0, done.stderr
    assert "drive" in done.stdout


def test_a_python_that_is_named_goes_first(bare_python):
    assert start_driver(bare_python, "--help", named=sys.executable).returncode == 0


def test_a_python_without_neurofleet_is_told(bare_python):
    done = start_driver(bare_python, "--help")
    assert done.returncode == 1
    assert f"neurofleet is not installed for {bare_python}" in done.stdout
    assert "--python PATH" in done.stdout


def test_where_no_python_is_found_it_is_told():
    done = start_driver("/nowhere/python")
    assert done.returncode == 1
    assert "/nowhere/python is no program" in done.stdout


@pytest.mark.parametrize("here_only", [True, False])
def test_the_disk_of_the_head_is_refused_and_nothing_is_written(tmp_path, lab, here_only):  # noqa: F811
    out = tmp_path / "results" / "run"
    witness = tmp_path / "laptop" / ".neurofleet-0123456789abcdef"
    job = write(lab)
    arguments = ["drive", job, "--out", out, "--witness", witness, *(["--here-only"] if here_only else [])]
    done = neurofleet(*arguments)
    assert done.returncode == 2
    assert str(out) in done.stderr
    assert ("relative path" in done.stderr) == here_only
    assert "s3://bucket/folder" in done.stderr
    assert not out.parent.exists()


def test_storage_that_both_see_is_taken_and_the_witness_goes(tmp_path):
    witness = tmp_path / ".neurofleet-0123456789abcdef"
    witness.touch()
    check_storage(str(tmp_path / "run"), witness, here_only=True)
    assert not witness.exists()


def test_an_object_store_is_taken():
    check_storage("s3://bucket/rat", None, here_only=False)


def test_absolute_paths_that_are_not_on_the_cluster_are_all_told(lab):  # noqa: F811
    cells = [{"id": "a", "morphology": "/lab/a.swc", "recordings": "/lab/a.nwb"}]
    done = neurofleet("drive", write(lab, cells=cells), "--out", "s3://bucket/rat")
    assert done.returncode == 2
    assert "/lab/a.swc, /lab/a.nwb" in done.stderr


def test_a_network_file_system_does_for_an_absolute_path_only(tmp_path, monkeypatch):
    from neurofleet.cluster.store.folders import Mount

    monkeypatch.setattr("neurofleet.jobs.remote.driver.mount_of", lambda folder: Mount("/shared", "nfs4"))
    check_storage(str(tmp_path), None, here_only=False)
    with pytest.raises(UsageError, match="relative path"):
        check_storage(str(Path(tmp_path)), None, here_only=True)
