"""A real fit of three stages with the vector engine, small, and what has to be equal wherever it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from neurofleet.cluster.store.run_store import RunStore
from tests.jobs.test_fit import LEFT_OUT
from tests.real_cluster.lab import REPOSITORY

SEEDS = [1, 2]
JOB: dict[str, Any] = {
    "kind": "fit",
    "name": "rat",
    "cells": [{"id": "demo", "morphology": "cell.swc", "recordings": "cell.nwb", "exclude_sweeps": LEFT_OUT}],
    "recipe": "demo",
    "engine": "vector",
    "evolution": {
        "seeds": SEEDS,
        "offspring": 16,
        "evaluations": {"passive": 64, "ih": 64, "active": 160},
        "hall_of_fame": 4,
    },
    "deadline_s": 240,
}


def write_job(recordings: Path, folder: Path) -> Path:
    """Write the job, and the demo cell's files beside it."""
    shutil.copytree(recordings, folder, dirs_exist_ok=True)
    (folder / "rat.yaml").write_text(yaml.safe_dump(JOB))
    return folder / "rat.yaml"


@contextmanager
def embedded(job: Path, out: Path) -> Iterator[Callable[[], None]]:
    """Run the same fit on an embedded Ray meanwhile; what is given waits for its end."""
    with (out.parent / "embedded.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "neurofleet", "run", str(job), "--out", str(out), "--cpus", "2"],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=log,
            stderr=log,
        )

        def wait() -> None:
            assert process.wait(400) == 0, (out.parent / "embedded.log").read_text()

        try:
            yield wait
        finally:
            process.terminate()
            process.wait()


def generations_stored(out: Path) -> int:
    store = RunStore(out)
    return sum(len(store.read_generations(key.cell, key.stage, key.seed)) for key in store.stored())


def assert_equal(out: Path, whole: Path) -> None:
    """Assert that two runs have the same halls of fame, to the byte, and the same evaluations, each once."""
    ours, theirs = RunStore(out), RunStore(whole)
    assert ours.stored() == theirs.stored()
    for key in theirs.stored():
        ours_read, theirs_read = (store.read_generations(key.cell, key.stage, key.seed) for store in (ours, theirs))
        assert [g.generation for g in ours_read] == [g.generation for g in theirs_read], key
        for one, other in zip(ours_read, theirs_read, strict=True):
            told = key, one.generation, one.statuses, one.reasons, one.totals, other.totals
            assert one.to_table().drop(["seconds"]).equals(other.to_table().drop(["seconds"])), told
    halls = [file for part in ("hall_of_fame", "pooled") for file in whole.glob(f"{part}/**/*.parquet")]
    assert len(halls) == len(SEEDS) + 1
    for hall in halls:
        assert (out / hall.relative_to(whole)).read_bytes() == hall.read_bytes(), hall
