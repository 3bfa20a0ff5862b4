"""Published tables in the object store: no copy, never stale, and back after their owner was lost."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import neurofleet.cluster as cluster
from neurofleet.cluster.store import published_tables
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.errors import ClusterError

pytestmark = pytest.mark.usefixtures("ray_session")

REPOSITORY = Path(__file__).resolve().parents[2]


def hall(cell: str = "c1", seed: int = 1, models: int = 4, draw: int = 0) -> HallOfFameRows:
    random = np.random.default_rng(draw)
    return HallOfFameRows(
        cell=cell,
        seeds=np.full(models, seed),
        generations=np.arange(models),
        individuals=np.arange(models),
        parameter_names=("cm.soma", "gbar_NaTa_t.axon"),
        objective_names=("Step.soma.AP_width",),
        parameters=random.random((models, 2)),
        scores=random.random((models, 1)),
        totals=np.sort(random.random(models)),
    )


@pytest.fixture
def run(tmp_path, request) -> RunStore:
    """A run with halls of fame of two cells, published under the test's name."""
    store = RunStore(tmp_path / "run")
    for seed in (1, 2):
        store.write_hall_of_fame(hall(seed=seed, draw=seed), seed)
    store.write_hall_of_fame(hall(draw=3), "pooled")
    store.write_hall_of_fame(hall("c2"), "pooled")
    published_tables.publish(request.node.name, tmp_path / "run")
    yield store
    end_owner(request.node.name)


def end_owner(name: str) -> None:
    import ray

    ray.kill(owner(name), no_restart=True)


def owner(name: str):
    return published_tables._table_owner(name, published_tables._published(name).node)


def pid(name: str) -> int:
    """The process of a run's owner."""
    import ray

    return ray.get(owner(name).__ray_call__.remote(lambda self: os.getpid()))


def assert_is(table, store: RunStore, cell="c1", seed: int | str = "pooled") -> None:
    assert table.equals(store.hall_of_fame_table(cell, seed), check_metadata=True)


def test_tables_come_by_run_cell_and_seed(run, request):
    name = request.node.name
    assert name in cluster.published_runs()
    assert_is(cluster.hall_of_fame(name, "c1"), run)
    assert_is(cluster.hall_of_fame(name, "c1", 2), run, seed=2)
    assert_is(cluster.hall_of_fame(name, "c2", "pooled"), run, "c2")
    assert not cluster.hall_of_fame(name, "c1", 1).equals(cluster.hall_of_fame(name, "c1", 2))


def test_a_table_is_the_object_stores_memory_and_is_not_copied(run, request):
    models = 1_000_000
    run.write_hall_of_fame(hall("big", models=models), "pooled")
    before = psutil.Process().memory_full_info().uss
    table = cluster.hall_of_fame(request.node.name, "big")
    totals = [chunk.to_numpy(zero_copy_only=True) for chunk in table["total"].chunks]
    assert sum(map(np.sum, totals)) > 0
    assert table.nbytes > 40 * models
    assert psutil.Process().memory_full_info().uss - before < table.nbytes / 10
    regions = [
        (*(int(end, 16) for end in line.split()[0].split("-")), line)
        for line in Path("/proc/self/maps").read_text().splitlines()
    ]
    for column in table.columns:
        for buffer in (buffer for chunk in column.chunks for buffer in chunk.buffers() if buffer):
            assert not buffer.is_mutable
            (region,) = [line for start, end, line in regions if start <= buffer.address < end]
            assert "plasma" in region
    with pytest.raises(ValueError, match="read-only"):
        totals[0][0] = 1.0


def test_a_hall_of_fame_that_is_written_again_is_not_served_stale(run, request):
    name = request.node.name
    first = cluster.hall_of_fame(name, "c1")
    again = cluster.hall_of_fame(name, "c1")
    assert again["total"].chunk(0).buffers()[1].address == first["total"].chunk(0).buffers()[1].address
    kept = first.to_pydict()
    run.write_hall_of_fame(hall(draw=9), "pooled")
    assert_is(cluster.hall_of_fame(name, "c1"), run)
    assert first.to_pydict() == kept


@pytest.mark.parametrize("how", ["restarted", "removed", "SIGKILL"])
def test_a_lost_owner_is_made_again_and_reads_parquet_again(run, request, how):
    import ray

    name = request.node.name
    before = cluster.hall_of_fame(name, "c1")
    kept = before.to_pydict()
    process = pid(name)
    if how == "SIGKILL":
        os.kill(process, signal.SIGKILL)
    else:
        ray.kill(owner(name), no_restart=how == "removed")
    assert_is(cluster.hall_of_fame(name, "c1"), run)
    assert_is(cluster.hall_of_fame(name, "c1", 2), run, seed=2)
    assert pid(name) != process
    assert before.to_pydict() == kept


OTHER_DRIVER = """
import sys
from neurofleet.cluster.ray.internals import this_machine_only
from neurofleet.cluster.ray.session import connect

with this_machine_only(), connect(sys.argv[1]):
    from cluster import hall_of_fame, published_runs
    table = hall_of_fame(sys.argv[2], "c1", 2)
    print(sys.argv[2] in published_runs(), table["total"].to_pylist())
    print(table["total"].chunk(0).buffers()[1].is_mutable)
"""


def test_another_driver_reads_it_and_its_end_changes_nothing(run, request):
    import ray

    name = request.node.name
    command = [sys.executable, "-c", OTHER_DRIVER, ray.get_runtime_context().gcs_address, name]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told, mutable = done.stdout.splitlines()
    assert told == f"True {run.hall_of_fame_table('c1', 2)['total'].to_pylist()}"
    assert mutable == "False"
    process = pid(name)  # the owner that the other driver made
    assert_is(cluster.hall_of_fame(name, "c1", 2), run, seed=2)
    assert pid(name) == process


def test_tasks_can_ask(run, request):
    import ray

    @ray.remote(num_cpus=0)
    def models(name: str) -> int:
        from neurofleet.cluster import hall_of_fame

        return len(hall_of_fame(name, "c1"))

    assert ray.get(models.remote(request.node.name), timeout=60) == 4


def test_the_later_of_two_runs_of_one_name_wins(run, request, tmp_path, caplog):
    name = request.node.name
    cluster.hall_of_fame(name, "c1")
    published_tables.publish(name, run.root)
    assert not caplog.records
    later = RunStore(tmp_path / "later")
    later.write_hall_of_fame(hall(draw=7), "pooled")
    with caplog.at_level(logging.WARNING):
        published_tables.publish(name, tmp_path / "later")
    (record,) = caplog.records
    assert run.root in record.getMessage()
    assert str(tmp_path / "later") in record.getMessage()
    assert_is(cluster.hall_of_fame(name, "c1"), later)


def test_what_is_not_there_is_answered_with_what_is(run, request):
    name = request.node.name
    with pytest.raises(ClusterError, match=f"No run named 'nobody'.*{name}"):
        cluster.hall_of_fame("nobody", "c1")
    with pytest.raises(ClusterError, match=r"cell 'c9'.*c1: 1, 2, pooled; c2: pooled"):
        cluster.hall_of_fame(name, "c9")
    with pytest.raises(ClusterError, match=r"seed 5 .*c1: 1, 2, pooled"):
        cluster.hall_of_fame(name, "c1", 5)
    with pytest.raises(ClusterError, match="a number or 'pooled'"):
        cluster.hall_of_fame(name, "c1", "all")
    with pytest.raises(ClusterError, match="letters, digits"):
        cluster.hall_of_fame(name, "../c1")


def test_a_damaged_file_is_named(run, request, tmp_path):
    (tmp_path / "run/pooled/cell=c2/part.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(ClusterError, match=r"cell=c2/part\.parquet"):
        cluster.hall_of_fame(request.node.name, "c2")


def test_a_owner_that_never_answers_is_given_up(run, request, monkeypatch):
    name = request.node.name
    process = psutil.Process(pid(name))
    monkeypatch.setattr(published_tables, "GIVE_UP_S", 1.0)
    process.suspend()
    begun = time.monotonic()
    try:
        with pytest.raises(ClusterError, match=r"within 1 s.*It is safe in"):
            cluster.hall_of_fame(name, "c1")
    finally:
        process.resume()
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    "ask",
    [
        cluster.published_runs,
        lambda: cluster.hall_of_fame("a", "b"),
        lambda: published_tables.publish("a", "b"),
    ],
)
def test_without_a_connection_it_says_how_to_make_one(ask, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"not connected to a Ray cluster. Call ray.init"):
        ask()


def test_a_table_is_handed_out_as_it_is_stored(tmp_path):
    table = pa.table({"unit": ["a", "b"], "fusion_0": [0.5, 1.5]})
    pq.write_table(table, tmp_path / "embeddings.parquet")
    published_tables.publish("hippie-run", tmp_path)
    try:
        assert published_tables.published_table("hippie-run", "embeddings.parquet").equals(table)
        newer = pa.table({"unit": ["c"], "fusion_0": [2.5]})
        pq.write_table(newer, tmp_path / "embeddings.parquet")
        assert published_tables.published_table("hippie-run", "embeddings.parquet").equals(newer)
        with pytest.raises(ClusterError, match="there is no other.parquet in"):
            published_tables.published_table("hippie-run", "other.parquet")
        for name in ("../run/embeddings.parquet", "/etc/passwd.parquet", "job.yaml"):
            with pytest.raises(ClusterError, match="should be a Parquet file in the run's folder"):
                published_tables.published_table("hippie-run", name)
    finally:
        end_owner("hippie-run")
