"""Cells' inputs, read ahead of their fits."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from neurofleet.errors import InputError, JobError
from neurofleet.jobs.fit import input_process
from neurofleet.jobs.fit.fit_job import CellSpec, FitSpec
from neurofleet.jobs.fit.input_process import Preparation

CELLS = [CellSpec(id=id, morphology="m.swc", recordings="r.nwb") for id in "abcdef"]
SPEC = FitSpec(name="made", cells=CELLS)


def stand_in(cell, spec, folder, recorded):
    """Read a cell: its id says what becomes of it in the folder's file."""
    deed = (folder / cell.id).read_text() if (folder / cell.id).exists() else ""
    if deed == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "die once":
        (folder / cell.id).unlink()
        os.kill(os.getpid(), signal.SIGTERM)
    if deed == "raise":
        raise InputError("no soma")
    if deed == "wait":
        time.sleep(600)
    return f"{cell.id} by {os.getpid()}"


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(input_process, "prepare_to_fit", stand_in)
    with Preparation(SPEC, tmp_path, {"a": "a, ready"}, CELLS[1:]) as prepared:
        yield prepared


def take(prepared, cell):
    while (subject := prepared.take(cell, 0.25)) is None:
        pass
    return subject


def test_those_that_are_ready_first_and_the_others_in_one_process_of_its_own(prepared):
    subjects = [take(prepared, cell.id) for cell in CELLS]
    assert subjects[0] == "a, ready"
    assert [subject[0] for subject in subjects] == list("abcdef")
    (process,) = {int(subject.split()[-1]) for subject in subjects[1:]}
    assert process != os.getpid()


def test_nobody_waits_for_one_that_is_not_ready(prepared, tmp_path):
    (tmp_path / "d").write_text("wait")
    take(prepared, "b")
    take(prepared, "c")
    begun = time.monotonic()
    assert prepared.take("d", 0.0) is None
    assert prepared.take("d", 0.25) is None
    assert time.monotonic() - begun < 5


def test_a_cell_with_bad_input_is_told_and_the_next_ones_are_read(prepared, tmp_path):
    (tmp_path / "d").write_text("raise")
    take(prepared, "b")
    take(prepared, "c")
    with pytest.raises(InputError, match="no soma"):
        take(prepared, "d")
    assert take(prepared, "e")[0] == "e"


@pytest.mark.parametrize("late", [False, True])
def test_only_the_cell_that_ends_the_process_is_blamed(prepared, tmp_path, late):
    (tmp_path / "d").write_text("die")
    take(prepared, "b")
    if late:  # when the next cell is asked for, the process has ended already
        while prepared._coming["c"].running() or "d" not in prepared._coming:
            prepared._go_ahead()
        prepared._coming["d"].exception(timeout=60)
    assert take(prepared, "c")[0] == "c"
    with pytest.raises(JobError, match="cell d: the process that read its inputs ended twice"):
        take(prepared, "d")
    (tmp_path / "e").write_text("die once")
    assert [take(prepared, id)[0] for id in "ef"] == ["e", "f"]


DRIVER = """
import sys
from pathlib import Path
from neurofleet.jobs.fit import input_process
from tests.jobs.test_input_process import CELLS, SPEC, stand_in

if __name__ == "__main__":
    input_process.prepare_to_fit = stand_in
    prepared = input_process.Preparation(SPEC, Path(sys.argv[1]), {}, CELLS)
    with prepared:
        while (subject := prepared.take("a", 1.0)) is None:
            pass
        print(subject.split()[-1], flush=True)
        sys.stdin.readline()
"""


def test_the_process_ends_with_a_driver_that_is_killed_and_leaves_ctrl_c_to_it(tmp_path):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = driver.stdout.readline()
    assert line, driver.stderr.read()
    reader = psutil.Process(int(line))
    reader.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert reader.status() == psutil.STATUS_SLEEPING
    driver.kill()
    assert "KeyboardInterrupt" not in driver.communicate(timeout=20)[1]
    reader.wait(timeout=10)
