"""Compaction: equal rows before and after, at every moment at which it can be killed."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from neurofleet.cluster.store.folders import LocalFolder, RemoteFolder
from neurofleet.cluster.store.generations import FitKey
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import ClusterError, RunFolderRefused
from tests.cluster.test_run_store import assert_equal_rows, make_generation, make_hall_of_fame

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = FitKey("cell-1", "active", 2)
GENERATIONS = 6
MERGED = SEED.merged(range(GENERATIONS))


def write(store: RunStore, cell: str = "cell-1", generations: int = GENERATIONS) -> None:
    for stage, count in (("passive", 2), ("active", generations), ("active_final", 1)):
        for number in range(count):
            store.write_generation(cell, stage, 2, make_generation(number, n=2 + number % 2))


@pytest.fixture
def finished(tmp_path) -> RunStore:
    """A finished cell, and one that is under way."""
    store = RunStore(tmp_path / "run")
    with store.locked():
        write(store)
        write(store, "cell-2")
        store.write_hall_of_fame(make_hall_of_fame(), "pooled")
    return store


def files(store: RunStore, folder: str = "evaluations") -> list[str]:
    return store._folder.names(folder)


def parts(generations=range(GENERATIONS)) -> list[str]:
    return [SEED.part(number) for number in generations]


def assert_reads_as_written(store: RunStore) -> None:
    generations = store.read_generations(*SEED)
    assert [g.generation for g in generations] == list(range(GENERATIONS))
    for number, generation in enumerate(generations):
        assert_equal_rows(generation, make_generation(number, n=2 + number % 2))


def compact(store: RunStore):
    with store.locked():
        return store.compact()


def test_finished_cells_are_merged_and_others_left(finished):
    stored, others = finished.stored(), files(finished, "evaluations/cell=cell-2")
    sizes = {name: (Path(finished.root) / name).stat().st_size for name in files(finished)}
    done = compact(finished)
    passive = FitKey("cell-1", "passive", 2).merged(range(2))
    assert files(finished, SEED.folder) == [MERGED]
    assert files(finished, "evaluations/cell=cell-2") == others
    assert (done.files_before, done.files_after) == (GENERATIONS + 2, 2)
    assert done.bytes_before == sum(
        size for name, size in sizes.items() if "cell-1" in name and "active_final" not in name
    )
    assert done.bytes_after == sum((Path(finished.root) / name).stat().st_size for name in (MERGED, passive))
    assert (done.unfinished, done.failed) == ({"cell-2": GENERATIONS + 3}, {})
    assert finished.stored() == stored
    assert_reads_as_written(finished)
    again = compact(finished)
    assert (again.files_before, again.files_after) == (0, 0)


def test_merged_rows_are_those_of_the_parts_for_any_reader(finished):
    everything = (
        f"select * from read_parquet('{finished.root}/evaluations/**/*.parquet', hive_partitioning=true)"
        " order by cell, stage, seed, generation, individual"
    )
    before = duckdb.sql(everything).to_arrow_table()
    schema = pq.read_schema(Path(finished.root) / SEED.part(0))
    compact(finished)
    assert duckdb.sql(everything).to_arrow_table().equals(before)
    merged = Path(finished.root) / MERGED
    assert pq.read_schema(merged).equals(schema, check_metadata=True)
    order = pq.read_table(merged, columns=["generation", "individual"]).to_pylist()
    assert order == sorted(order, key=lambda row: (row["generation"], row["individual"]))


KILLED = """
import os, pathlib, shutil, signal, sys
from neurofleet.cluster.store import folders
from neurofleet.cluster.store.run_store import RunStore

root, exchanges, moment, count = sys.argv[1], sys.argv[2] == "True", sys.argv[3], int(sys.argv[4])

def dying(call, before):
    left = [count]
    def wrapped(*arguments, **keywords):
        if before and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **keywords)
        left[0] -= 1
        if not before and not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

if not exchanges:
    folders._exchange = lambda one, other: False
with RunStore(root).locked() as store:
    if moment in ("write", "rename"):
        os.replace = dying(os.replace, before=moment == "write")
    elif moment == "exchange":
        folders._exchange = dying(folders._exchange, before=count == 0)
    elif moment == "unlink":
        pathlib.Path.unlink = dying(pathlib.Path.unlink, before=False)
    else:
        os.unlink = dying(os.unlink, before=False)
    store.merge_generations("cell-1", "active", 2)
"""
ALL = range(GENERATIONS)


@pytest.mark.parametrize(
    ("exchanges", "moment", "count", "merged", "left"),
    [
        (True, "write", 0, [], ALL),
        (True, "rename", 1, [], ALL),
        (True, "exchange", 0, [], ALL),
        (True, "exchange", 1, [MERGED], []),
        (True, "remove", 2, [MERGED], []),
        (False, "write", 1, [], ALL),
        (False, "rename", 2, [MERGED], ALL),
        (False, "unlink", 4, [MERGED], range(2, GENERATIONS)),  # the first two calls are for temporary names
        (False, "unlink", GENERATIONS + 2, [MERGED], []),
    ],
)
def test_killed_at_any_moment_it_reads_right_and_the_next_one_ends_it(finished, exchanges, moment, count, merged, left):
    command = [sys.executable, "-c", KILLED, finished.root, str(exchanges), moment, str(count)]
    assert subprocess.run(command, cwd=REPOSITORY, timeout=60).returncode == -signal.SIGKILL
    assert files(finished, SEED.folder) == [*parts(left), *merged]
    assert_reads_as_written(finished)
    rows = duckdb.sql(f"select count(*) from read_parquet('{finished.root}/{SEED.folder}/*.parquet')").fetchall()[0][0]
    once = sum(2 + number % 2 for number in ALL)
    assert rows == once if exchanges else rows >= once
    done = compact(finished)
    assert not done.failed
    assert files(finished, SEED.folder) == [MERGED]
    assert not list(Path(finished.root).rglob("*.tmp"))
    assert_reads_as_written(finished)


def test_whoever_lists_a_folder_while_it_is_merged_finds_the_parts_or_the_file(tmp_path):
    store, keys = RunStore(tmp_path), [FitKey("c", "active", seed) for seed in range(20)]
    seen: set[tuple[str, ...]] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for key in keys:
                seen.add(tuple(sorted(path.name for path in (tmp_path / key.folder).glob("*.parquet"))))

    with store.locked():
        for key in keys:
            for number in range(3):
                store.write_generation(*key, make_generation(number))
        reader = threading.Thread(target=look)
        reader.start()
        for key in keys:
            store.merge_generations(*key)
        over.set()
        reader.join()
    whole = {tuple(f"generation-0000{number}.parquet" for number in range(3)), ("generations-00000-00002.parquet",)}
    assert seen <= whole


def test_a_file_of_somebody_else_stays_where_generations_are_merged(finished):
    notes = Path(finished.root) / SEED.folder / "notes.txt"
    notes.write_text("mine")
    with finished.locked():
        finished.merge_generations(*SEED)
    assert files(finished, SEED.folder) == [MERGED, f"{SEED.folder}/notes.txt"]
    assert notes.read_text() == "mine"


def damage(content: bytes) -> bytes:
    """One bit of a number in the middle turned over."""
    at = content.index(np.float64(make_generation(3, n=3).totals[1]).tobytes())
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def other_rows(content: bytes) -> bytes:
    """A sound file of the same generations, with a value that is not that of the parts."""
    table = pq.read_table(pa.BufferReader(content))
    at = table.column_names.index("total")
    table = table.set_column(at, table.field(at), [table["total"].to_numpy() + 1e-12])
    return parquet(table)


def a_row_less(content: bytes) -> bytes:
    return parquet(pq.read_table(pa.BufferReader(content))[:-1])


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("harm", [damage, half, other_rows, a_row_less])
def test_a_merged_file_that_is_not_its_parts_is_noticed_and_the_parts_stay(finished, harm, monkeypatch):
    sound = LocalFolder.write

    def write_harmed(folder, name, content):
        sound(folder, name, harm(content) if name == Path(MERGED).name else content)

    monkeypatch.setattr(LocalFolder, "write", write_harmed)
    done = compact(finished)
    assert list(done.failed) == [SEED.folder]
    assert MERGED in done.failed[SEED.folder]
    assert "all parts stay" in done.failed[SEED.folder]
    assert files(finished, SEED.folder) == parts()
    assert files(finished, "evaluations/cell=cell-1/stage=passive") == [FitKey("cell-1", "passive", 2).merged(range(2))]
    assert_reads_as_written(finished)
    monkeypatch.undo()
    assert not compact(finished).failed
    assert_reads_as_written(finished)


def test_a_bit_that_turns_over_later_is_noticed_by_readers(finished):
    compact(finished)
    path = Path(finished.root) / MERGED
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ClusterError, match=r"generations-00000-00005.parquet.*(?s:.)*good copy"):
        finished.read_generations(*SEED)


def test_a_merged_file_damaged_while_some_parts_are_gone_costs_no_further_part(finished):
    content = {name: (Path(finished.root) / name).read_bytes() for name in parts()}
    compact(finished)
    merged = Path(finished.root) / MERGED
    good = merged.read_bytes()
    merged.write_bytes(other_rows(good))
    for name in parts([3, 4, 5]):
        (Path(finished.root) / name).write_bytes(content[name])
    done = compact(finished)
    assert "damaged since" in done.failed[SEED.folder]
    assert files(finished, SEED.folder) == [*parts([3, 4, 5]), MERGED]
    merged.write_bytes(good)
    assert not compact(finished).failed
    assert_reads_as_written(finished)


@pytest.mark.parametrize("harm", ["damaged", "missing", "other columns"])
def test_parts_that_cannot_be_merged_stay_and_the_others_go_on(finished, harm):
    path = Path(finished.root) / SEED.part(2)
    if harm == "damaged":
        path.write_bytes(half(path.read_bytes()))
    elif harm == "missing":
        path.unlink()
    else:
        table = pq.read_table(path)
        pq.write_table(table.append_column("more", table["total"]), path)
    before = files(finished, SEED.folder)
    done = compact(finished)
    assert list(done.failed) == [SEED.folder]
    assert files(finished, SEED.folder) == before
    assert (done.files_before, done.files_after) == (2, 1)


def test_generations_after_a_merged_file_are_read_and_merged_beside_it(finished):
    compact(finished)
    with finished.locked():
        for number in (GENERATIONS, GENERATIONS + 1):
            finished.write_generation(*SEED, make_generation(number))
        assert len(finished.read_generations(*SEED)) == GENERATIONS + 2
        finished.compact()
    assert files(finished, SEED.folder) == [
        MERGED,
        SEED.merged(range(GENERATIONS, GENERATIONS + 2)),
    ]
    numbers = [generation.generation for generation in finished.read_generations(*SEED)]
    assert numbers == list(range(GENERATIONS + 2))


def test_a_missing_or_doubled_merged_file_is_refused(finished):
    with finished.locked():
        finished.compact()
        finished.write_generation(*SEED, make_generation(GENERATIONS + 1))
    with pytest.raises(ClusterError, match=f"holds generation {GENERATIONS + 1} but not {GENERATIONS}"):
        finished.read_generations(*SEED)
    folder = Path(finished.root) / SEED.folder
    (folder / "generations-00002-00007.parquet").write_bytes((Path(finished.root) / MERGED).read_bytes())
    with pytest.raises(ClusterError, match="one that is too many"):
        finished.read_generations(*SEED)


def test_a_driver_at_work_is_left_alone(finished):
    with finished.locked(), pytest.raises(RunFolderRefused):
        compact(RunStore(finished.root))
    assert files(finished, SEED.folder) == parts()


def test_on_an_object_store(monkeypatch):
    filesystem = pyarrow.fs._MockFileSystem()
    filesystem.create_dir("bucket/run")
    monkeypatch.setattr("neurofleet.cluster.store.lease.SETTLED_AFTER_S", 0.0)
    monkeypatch.setattr(
        "neurofleet.cluster.store.run_store.open_folder", lambda root: RemoteFolder(root, filesystem, "bucket/run")
    )
    store = RunStore("mock://bucket/run")
    with store.locked():
        write(store)
        store.write_hall_of_fame(make_hall_of_fame(), "pooled")
    assert not compact(store).failed
    assert files(store, SEED.folder) == [MERGED]
    assert_reads_as_written(store)
    store._folder.remove([MERGED, MERGED])
    assert files(store, SEED.folder) == []
