"""What stands on the disk for a while only: temporary folders, and the cache."""

import os
import time
from pathlib import Path

from neurofleet import cache, fresh_process
from neurofleet.scratch import scratch_folder


def stay_in_a_folder(parent: Path) -> None:
    with scratch_folder("made", parent) as folder:
        (folder / "something").write_text("large")
        (parent / "ready").touch()
        time.sleep(60)


def test_the_folder_of_a_killed_process_goes_with_the_next_one_and_those_in_use_stay(tmp_path):
    process = fresh_process.start(stay_in_a_folder, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (other,) = tmp_path.glob("made-*")
    with scratch_folder("made", tmp_path) as own:
        assert own.is_dir()
        assert (other / "something").is_file()
        fresh_process.end(process)
        with scratch_folder("made", tmp_path):
            assert not other.exists()
            assert own.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


def test_the_cache_loses_what_was_not_used_for_longest(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path))
    entries = [tmp_path / "kernels" / "a.so", tmp_path / "files" / "b", tmp_path / "mechanisms" / "c"]
    for age, entry in enumerate(entries, 2):
        file = entry if entry.suffix else entry / "content"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(1000))
        os.utime(entry, (time.time() - age * 24 * 3600,) * 2)
    cache.keep_small(limit_gb=3000e-9)
    assert all(entry.exists() for entry in entries)
    cache.used(entries[2])
    cache.keep_small(limit_gb=2500e-9)
    assert [entry.exists() for entry in entries] == [True, False, True]
    cache.keep_small(limit_gb=0.0)
    assert [entry.exists() for entry in entries] == [False, False, True], "of the last day all stays"
