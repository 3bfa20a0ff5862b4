"""A fit whose folder is lost."""

import shutil

import pytest

from tests.jobs.test_fit import neurofleet
from tests.real_cluster.lab import wait_for
from tests.real_cluster.small_fit import generations_stored, write_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_a_fit_whose_folder_is_removed_ends_with_words_and_code_1(demo_recordings, tmp_path):
    job, out = write_job(demo_recordings, tmp_path / "job"), tmp_path / "out"
    driver = neurofleet("run", job, "--out", out, "--cpus", 2, start=True)
    try:
        wait_for(lambda: generations_stored(out) or driver.poll() is not None, 200, every_s=0.1)
        out.rename(tmp_path / "removed")
        shutil.rmtree(tmp_path / "removed")
        said = driver.communicate(timeout=120)[1]
    finally:
        driver.kill()
    assert driver.returncode == 1, said
    assert "was removed or moved while" in " ".join(said.split())
    assert "done after" not in said
    assert not out.exists()
