"""Fixtures shared by all tests, which may run in several processes of pytest-xdist."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers would give way to all else on the machine, here to the tests of another process.
os.environ.setdefault("RAY_worker_niceness", "0")
# A process more for each start of a training's workers; there is no machine here that could be taken away.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests: a long one that begins last keeps one process alone.

    Those marked `cluster` or `browser` run only where ``-m`` names the mark.
    """
    for mark in [mark for mark in ("cluster", "browser") if mark not in config.option.markexpr]:
        left_out = [item for item in items if item.get_closest_marker(mark)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings and models beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}")
    return folder


@pytest.fixture(scope="session")
def demo_recordings(tmp_path_factory) -> Path:
    """Folder with the demo cell, ``cell.swc`` and ``cell.nwb``, made once for all processes: to be copied."""
    from neurofleet.jobs.demo import make_input

    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = common / "demo-recordings"
    with (common / "demo-recordings.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make_input(common / "demo-recordings-unfinished")
            (common / "demo-recordings-unfinished").rename(folder)
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One embedded Ray on 2 CPUs for all tests that need one; code under test that connects shares it."""
    from neurofleet.cluster.ray.session import connect

    with connect(cpus=2):
        yield
