"""A run's folder: whole files or none, one driver at a time, equal bytes for equal content."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.fs
import pyarrow.parquet
import pytest

from neurofleet.cluster.store import lease
from neurofleet.cluster.store.folders import RemoteFolder
from neurofleet.cluster.store.parts import Part
from neurofleet.cluster.store.run_store import MARKER, RunStore
from neurofleet.cluster.store.schemas import Evaluations, HallOfFameRows
from neurofleet.errors import ClusterError, RunFolderRefused

REPOSITORY = Path(__file__).resolve().parents[2]


def make_generation(number: int, n: int = 3, signed: bool = False) -> Evaluations:
    random = np.random.default_rng(number)
    return Evaluations(
        generation=number,
        parameter_names=("gbar_NaTa_t.axon", "cm.soma"),
        objective_names=("Step.soma.Spikecount", "Step.soma.AP_width", "Step.soma.AHP_depth"),
        parameters=random.random((n, 2)),
        scores=random.random((n, 3)),
        totals=random.random(n),
        statuses=["ok", "timeout", "ok"][:n],
        reasons=["", "no result within 3 s", ""][:n],
        seconds=random.random(n),
        residuals=np.append(random.random((n, 2)) - 0.5, [[np.nan]] * n, 1).astype(np.float32) if signed else None,
    )


def make_hall_of_fame() -> HallOfFameRows:
    return HallOfFameRows(
        cell="cell-1",
        seeds=np.array([2, 2]),
        generations=np.array([5, 1]),
        individuals=np.array([0, 7]),
        parameter_names=("cm.soma",),
        objective_names=("a", "b"),
        parameters=np.array([[1.0], [2.0]]),
        scores=np.array([[0.0, 1.0], [2.0, 3.0]]),
        totals=np.array([1.0, 5.0]),
    )


def scored_again(rows: HallOfFameRows) -> HallOfFameRows:
    return replace(rows, search_scores=rows.scores + 0.5, search_totals=rows.totals + 1.0)


def assert_equal_rows(left, right):
    for name in type(left).__dataclass_fields__:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.fixture
def remote_store(monkeypatch):
    """A run on an object store, here pyarrow's in-memory file system."""
    filesystem = pyarrow.fs._MockFileSystem()
    filesystem.create_dir("bucket/run")
    monkeypatch.setattr(lease, "SETTLED_AFTER_S", 0.0)
    monkeypatch.setattr(
        "neurofleet.cluster.store.run_store.open_folder", lambda root: RemoteFolder(root, filesystem, "bucket/run")
    )
    return lambda: RunStore("mock://bucket/run")


@pytest.mark.parametrize("signed", [False, True])
def test_generations_come_back_in_order(tmp_path, signed):
    store = RunStore(tmp_path / "out")
    with store.locked():
        for number in (1, 0, 2):
            store.write_generation("c1", "active", 4, make_generation(number, signed=signed))
        apart = RunStore(tmp_path / "out").read_generations("c1", "active", 4)
        store.merge_generations("c1", "active", 4)
    for found in (apart, RunStore(tmp_path / "out").read_generations("c1", "active", 4)):
        assert [generation.generation for generation in found] == [0, 1, 2]
        for number, generation in enumerate(found):
            assert_equal_rows(generation, make_generation(number, signed=signed))
    assert store.read_generations("c1", "active", 5) == []
    assert store.stored() == [("c1", "active", 4)]


def test_a_missing_generation_is_refused(tmp_path):
    store = RunStore(tmp_path)
    for number in (0, 1, 3):
        store.write_generation("c1", "active", 1, make_generation(number))
    with pytest.raises(ClusterError, match="holds generation 3 but not 2"):
        store.read_generations("c1", "active", 1)


def test_a_renamed_generation_is_refused(tmp_path):
    store = RunStore(tmp_path)
    store.write_generation("c1", "active", 1, make_generation(0))
    folder = tmp_path / "evaluations/cell=c1/stage=active/seed=1"
    (folder / "generation-00001.parquet").write_bytes((folder / "generation-00000.parquet").read_bytes())
    with pytest.raises(ClusterError, match="generation-00001.parquet holds generation 0"):
        store.read_generations("c1", "active", 1)


@pytest.mark.parametrize("damage", [b"", b"PAR1 cut short"])
def test_a_damaged_generation_names_its_file(tmp_path, damage):
    store = RunStore(tmp_path)
    store.write_generation("c1", "active", 1, make_generation(0))
    next(tmp_path.rglob("*.parquet")).write_bytes(damage)
    with pytest.raises(ClusterError, match=r"generation-00000.parquet"):
        store.read_generations("c1", "active", 1)


def test_a_newer_schema_is_refused(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    monkeypatch.setattr("neurofleet.cluster.store.schemas.SCHEMA_VERSION", 99)
    store.write_generation("c1", "active", 1, make_generation(0))
    monkeypatch.undo()
    with pytest.raises(ClusterError, match="schema version 99"):
        store.read_generations("c1", "active", 1)


def test_equal_content_has_equal_bytes(tmp_path):
    contents = []
    for name in ("first", "second"):
        store = RunStore(tmp_path / name)
        store.write_generation("c1", "active", 1, make_generation(7))
        store.write_hall_of_fame(make_hall_of_fame(), seed=2)
        contents.append([path.read_bytes() for path in sorted((tmp_path / name).rglob("*.parquet"))])
    assert len(contents[0]) == 2
    assert contents[0] == contents[1]


def test_hall_of_fame_round_trip(tmp_path):
    store = RunStore(tmp_path)
    assert store.read_hall_of_fame("cell-1") is None
    store.write_hall_of_fame(make_hall_of_fame(), seed=2)
    store.write_hall_of_fame(make_hall_of_fame(), seed="pooled")
    for seed in (2, "pooled"):
        assert_equal_rows(store.read_hall_of_fame("cell-1", seed), make_hall_of_fame())


def test_scores_of_the_search_are_beside_those_that_count(tmp_path):
    store, rows = RunStore(tmp_path), scored_again(make_hall_of_fame())
    store.write_hall_of_fame(make_hall_of_fame(), seed=1)
    store.write_hall_of_fame(rows, seed=2)
    assert_equal_rows(store.read_hall_of_fame("cell-1", 2), rows)
    table = store.hall_of_fame_table("cell-1", 2)
    assert table["search_total"].to_pylist() == [2.0, 6.0]
    assert table["search_score.b"].to_pylist() == [1.5, 3.5]
    older = store.hall_of_fame_table("cell-1", 1)
    assert [name for name in table.column_names if not name.startswith("search_")] == older.column_names


RECIPES = {"one": ("cm.soma", "gbar_Ih.soma"), "two": ("gbar_NaV.soma", "cm.soma")}
OBJECTIVES = {"one": ("Step_100.soma.AP_width", "Step_100.soma.Spikecount"), "two": ("Step_250.soma.AHP_depth",)}
MODELS = 10


def write_two_cells(store: RunStore) -> dict[str, dict[int, HallOfFameRows]]:
    """Write two cells with recipes and objectives of their own, in two stages and with two seeds."""
    store.parameters = ("cm.soma", "gbar_Ih.soma", "gbar_NaV.soma")
    random = np.random.default_rng(0)
    halls: dict[str, dict[int, HallOfFameRows]] = {}
    for cell, names in RECIPES.items():
        for stage, parameters, objectives in (
            ("passive", names[:1], ("Step_-50.soma.sag",)),
            ("active", names, OBJECTIVES[cell]),
        ):
            for seed in (1, 2):
                rows = replace(
                    make_generation(0),
                    parameter_names=parameters,
                    parameters=random.random((3, len(parameters))),
                    objective_names=objectives,
                    scores=random.random((3, len(objectives))),
                )
                store.write_generation(cell, stage, seed, rows)
        for seed in (1, 2):
            scores = random.random((MODELS, len(OBJECTIVES[cell])))
            hall = HallOfFameRows(
                cell=cell,
                seeds=np.full(MODELS, seed),
                generations=np.zeros(MODELS, int),
                individuals=np.arange(MODELS),
                parameter_names=names,
                objective_names=OBJECTIVES[cell],
                parameters=random.random((MODELS, 2)),
                scores=scores,
                totals=scores.sum(axis=1),
                search_scores=scores if cell == "one" else None,
                search_totals=scores.sum(axis=1) if cell == "one" else None,
            )
            store.write_hall_of_fame(hall, seed)
            halls.setdefault(cell, {})[seed] = hall
        store.write_hall_of_fame(halls[cell][1], "pooled")
    return halls


def plain_readers() -> dict[str, Callable[[Path], pd.DataFrame]]:
    """What a user types who has not read anything."""
    return {
        "pandas": pd.read_parquet,
        "pyarrow": lambda folder: pyarrow.parquet.read_table(folder).to_pandas(),
        "polars": lambda folder: pl.scan_parquet(folder).collect().to_pandas(),
        "duckdb": lambda folder: duckdb.sql(f"from read_parquet('{folder}/**/*.parquet')").df(),
    }


@pytest.mark.parametrize("reader", plain_readers())
def test_other_libraries_read_the_folders_of_a_run_as_they_are(tmp_path, reader):
    store = RunStore(tmp_path)
    halls = write_two_cells(store)
    half = tmp_path / "evaluations/cell=one/stage=active/seed=1/.generation-00001.parquet.0a1b2c3d.tmp"
    if reader != "polars":  # which takes a folder only when all its files have one ending
        half.write_bytes(b"half")
    read = plain_readers()[reader]
    table = read(tmp_path / "hall_of_fame")
    assert len(table) == 2 * 2 * MODELS
    for cell, of_seeds in halls.items():
        for seed, hall in of_seeds.items():
            rows = table[(table["cell"] == cell) & (table["seed"] == seed)].sort_values("rank")
            np.testing.assert_array_equal(rows["total"], hall.totals)
            np.testing.assert_array_equal(rows["param.cm.soma"], hall.parameters[:, RECIPES[cell].index("cm.soma")])
            for score, name in zip(hall.scores[0], hall.objective_names, strict=True):
                assert dict(rows["score"].iloc[0])[name] == score
        absent = {"one": "param.gbar_NaV.soma", "two": "param.gbar_Ih.soma"}[cell]
        assert table.loc[table["cell"] == cell, absent].isna().all()
    assert len(read(tmp_path / "pooled")) == 2 * MODELS
    table = read(tmp_path / "evaluations")
    assert len(table) == 2 * 2 * 2 * 3
    assert set(table["stage"]) == {"active", "passive"}
    timeouts = table[(table["status"] == "timeout") & (table["cell"] == "two") & (table["seed"].astype(int) == 2)]
    assert timeouts["reason"].tolist() == ["no result within 3 s"] * 2


def test_a_run_of_an_older_version_has_one_schema_after_it_was_resumed(tmp_path):
    old = REPOSITORY / "tests/old_runs/fit"
    shutil.copytree(old / "evaluations", tmp_path / "evaluations")
    shutil.copytree(old / "hall_of_fame", tmp_path / "hall_of_fame")
    store = RunStore(tmp_path)
    keys, before = store.stored(), store.read_hall_of_fame("demo")
    rows = {key: store.read_generations(*key) for key in keys}
    store.parameters = before.parameter_names
    store.upgrade()
    assert store.stored() == keys
    for key in keys:
        for again, generation in zip(store.read_generations(*key), rows[key], strict=True):
            assert_equal_rows(again, generation)
    assert_equal_rows(store.read_hall_of_fame("demo"), before)
    assert sorted(store.halls_of_fame(), key=str) == [("demo", "pooled"), ("demo", 1), ("demo", 2)]
    for read in plain_readers().values():
        assert len(read(tmp_path / "hall_of_fame")) == len(read(tmp_path / "pooled")) == len(before)
        assert len(read(tmp_path / "evaluations")) == sum(map(len, (g for of_key in rows.values() for g in of_key)))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    store.upgrade()
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_events_survive_a_torn_last_line(tmp_path):
    store = RunStore(tmp_path)
    with store.locked():
        store.append_event("started", cells=1)
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b'{"at": "2026-01-01", "ev')
    assert [event["event"] for event in store.read_events()] == ["started"]
    with store.locked():
        store.append_event("resumed")
    assert [event["event"] for event in store.read_events()] == ["started", "resumed"]
    assert all(json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())


def test_text_files(tmp_path):
    store = RunStore(tmp_path / "out")
    assert store.read_text("job.yaml") is None
    store.write_text("job.yaml", "kind: fit # µ\n")
    store.write_text("models/c1.json", "{}")
    assert store.read_text("job.yaml") == "kind: fit # µ\n"
    assert (tmp_path / "out/models/c1.json").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a=b"])
def test_names_that_are_no_folder_names_are_refused(tmp_path, name):
    with pytest.raises(ClusterError, match="letters, digits"):
        RunStore(tmp_path).write_generation(name, "active", 1, make_generation(0))


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "job.yaml").write_text("kind: fit")
    (tmp_path / "thesis.tex").write_text("precious")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RunFolderRefused, match="job.yaml, thesis.tex"), RunStore(tmp_path).locked():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(RunFolderRefused, match="is a file"), RunStore(tmp_path / "out").locked():
        pass


def test_a_run_copied_without_hidden_files_is_still_a_run(tmp_path):
    for name in ("job.yaml", "provenance.json", "events.jsonl"):
        (tmp_path / name).write_text("")
    with RunStore(tmp_path).locked():
        assert (tmp_path / MARKER).exists()


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    store = RunStore(tmp_path)
    with store.locked():
        store.write_generation("c1", "active", 1, make_generation(0))
    folder = next(tmp_path.rglob("*.parquet")).parent
    (folder / ".generation-00001.parquet.0a1b2c3d.tmp").write_bytes(b"half")
    (folder / ".keep.tmp").write_bytes(b"not ours")
    with store.locked():
        assert sorted(path.name for path in folder.iterdir()) == [".keep.tmp", "generation-00000.parquet"]


DRIVER = """
import sys, time
from neurofleet.cluster.store.run_store import RunStore
with RunStore(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_drivers_are_refused_and_a_killed_one_leaves_the_run_free(tmp_path):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY)
    try:
        assert driver.stdout.readline() == b"locked\n"
        with pytest.raises(RunFolderRefused, match=f"process {driver.pid} on"), RunStore(tmp_path).locked():
            pass
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    with RunStore(tmp_path).locked():
        pass


def test_drivers_of_parts_share_a_run(tmp_path):
    one, two = (RunStore(tmp_path, Part(number, 2)) for number in (1, 2))
    with one.locked(), two.locked():
        for store, cell in ((one, "c1"), (two, "c2"), (one, "c3")):
            store.append_event("stored", cell=cell)
            time.sleep(0.002)
        half = tmp_path / ".seed=1.0a1b2c3d.tmp"
        half.mkdir()
        assert [event["cell"] for event in RunStore(tmp_path).read_events()] == ["c1", "c2", "c3"]
        assert RunStore(tmp_path).holder().count(f"process {os.getpid()}") == 2
        for other in (Part(2, 2), Part(1, 3), Part()):
            with pytest.raises(RunFolderRefused), RunStore(tmp_path, other).locked():
                pass
        assert half.exists()
    assert RunStore(tmp_path).holder() == ""
    with RunStore(tmp_path, Part(3, 3)).locked() as store:
        assert not half.exists()
        assert len(store.read_events()) == 3


def test_parts_divide_what_there_is():
    items = list(range(11))
    assert sorted(sum((Part(number, 4).share(items) for number in range(1, 5)), [])) == items
    assert Part().share(items) == items
    assert Part.in_name(Part(2, 5).file("events.jsonl")) == Part(2, 5)
    assert Part().file("events.jsonl") == "events.jsonl"


FULL_DISK = """
import resource, signal, sys
import numpy as np
from neurofleet.errors import ClusterError
from neurofleet.cluster.store.run_store import RunStore
from tests.cluster.test_run_store import make_generation

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = RunStore(sys.argv[1])
with store.locked():
    store.write_generation("c1", "active", 1, make_generation(0))
    store.append_event("started")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    for write in (
        lambda: store.write_generation("c1", "active", 1, make_generation(1)),
        lambda: store.append_event("generation", text="x" * 200),
    ):
        try:
            write()
        except ClusterError as error:
            print(error)
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "Cannot write" in first
    assert "generation-00001.parquet" in first
    assert "events.jsonl" in second
    assert "Make room" in second
    store = RunStore(tmp_path)
    assert_equal_rows(store.read_generations("c1", "active", 1)[0], make_generation(0))
    assert [event["event"] for event in store.read_events()] == ["started"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk asks for root")
def test_a_full_file_system(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False)
    if mounted.returncode:
        pytest.skip("this machine forbids mounting")
    try:
        store = RunStore(tmp_path)
        fill = (store.write_generation("c1", "active", 1, make_generation(number)) for number in range(100))
        with store.locked(), pytest.raises(ClusterError, match="No space left on device"):
            list(fill)
        kept = store.read_generations("c1", "active", 1)
        assert kept
        assert_equal_rows(kept[-1], make_generation(len(kept) - 1))
        assert not list(tmp_path.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_run_on_an_object_store(remote_store):
    store = remote_store()
    with store.locked():
        store.write_generation("c1", "active", 1, make_generation(0))
        store.append_event("started")
        store.append_event("generation", number=0)
        store.write_text("job.yaml", "kind: fit")
        with pytest.raises(RunFolderRefused, match="another neurofleet"), remote_store().locked():
            pass
    assert_equal_rows(store.read_generations("c1", "active", 1)[0], make_generation(0))
    assert [event["event"] for event in store.read_events()] == ["started", "generation"]
    assert store.stored() == [("c1", "active", 1)]


@pytest.mark.parametrize("what", ["folder", "content"])
def test_a_folder_that_is_removed_meanwhile_is_noticed(tmp_path, what):
    store = RunStore(tmp_path / "out")
    with store.locked():
        store.write_text("job.yaml", "kind: fit")
        store.check_whole()
        for path in (tmp_path / "out").iterdir():
            if what == "folder" or path.name != MARKER:
                path.unlink()
        if what == "folder":
            (tmp_path / "out").rmdir()
        for change in (
            lambda: store.append_event("finished"),
            lambda: store.write_generation("c1", "active", 1, make_generation(0)),
            store.check_whole,
        ):
            with pytest.raises(ClusterError, match="was removed or moved while"):
                change()
    assert not (tmp_path / "out" / "events.jsonl").exists()
    store.write_text("report.html", "x")  # without a lock, nothing is known of what was there


def test_an_unknown_uri_is_refused():
    with pytest.raises(ClusterError, match="nosuch://bucket"):
        RunStore("nosuch://bucket/run")


def test_a_file_uri_is_a_local_folder(tmp_path):
    store = RunStore(f"file://{tmp_path}/out")
    with store.locked():
        store.write_text("job.yaml", "x")
    assert (tmp_path / "out" / "job.yaml").read_text() == "x"
