"""The log of a run: what gets into the file, what onto the terminal."""

import io
import json
import logging
import warnings

import numpy as np
import pytest
from rich.console import Console
from rich.live import Live

from neurofleet.errors import ClusterError
from neurofleet.jobs import run_log as module
from neurofleet.jobs.run_log import fit_logger, run_log

FIXED = ["at", "level", "run", "cell", "stage", "seed", "generation", "logger", "message"]


@pytest.fixture
def console():
    """A console that is no terminal."""
    return Console(file=io.StringIO(), width=60)


def lines_of(path):
    content = path.read_text(encoding="utf-8")
    assert content.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in content.splitlines()]


def test_a_record_says_what_it_is_about(tmp_path, console):
    with run_log("rat", str(tmp_path), console) as log:
        log.info("started", hosts=3)
        fit = fit_logger(cell="C1", stage="passive", seed=1)
        fit.info("generation stored", generation=3, best=np.float32(12.5), worst=np.inf, at_most=np.arange(2))
        logging.getLogger("neurofleet.cluster.pool.pool").info("a host was lost", extra={"cell": "C2"})
    started, stored, lost = lines_of(tmp_path / "log.jsonl")
    assert list(started) == [*FIXED, "hosts"]
    assert started | {"at": ""} == {
        "at": "",
        "level": "info",
        "run": "rat",
        "cell": None,
        "stage": None,
        "seed": None,
        "generation": None,
        "logger": "neurofleet.jobs.run_job",
        "message": "started",
        "hosts": 3,
    }
    assert stored["at"] >= started["at"]
    assert [stored[name] for name in FIXED[2:7]] == ["rat", "C1", "passive", 1, 3]
    assert (stored["best"], stored["worst"], stored["at_most"]) == (12.5, None, [0, 1])
    assert (lost["run"], lost["cell"], lost["logger"]) == ("rat", "C2", "neurofleet.cluster.pool.pool")
    assert console.file.getvalue() == ""


def test_awkward_content_stays_one_line_of_json(tmp_path, console):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    with run_log("rat", str(tmp_path), console) as log:
        log.info("two\nlines %d%% \x1b[31m", path=tmp_path, name=name, run="mine", nested={"x": [float("nan")]})
    (line,) = lines_of(tmp_path / "log.jsonl")
    assert line["message"] == "two\nlines %d%% \x1b[31m"
    assert (line["path"], line["name"]) == (str(tmp_path), name)
    assert (line["run"], line["nested"]) == ("rat", {"x": [None]})


def test_warnings_of_libraries_are_records_of_the_run(tmp_path, console):
    other = logging.getLogger("some.library")
    other.setLevel(logging.DEBUG)
    ray = logging.Logger("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(logging.Logger.manager.loggerDict, "ray", ray)
        ray.propagate = False
        with run_log("rat", str(tmp_path), console):
            other.info("nobody wants to know")
            other.warning("%d spikes [bold]missing[/bold]", 2)
            warnings.warn("this will go away", FutureWarning, stacklevel=1)
            ray.error("a raylet is gone")
    lines = lines_of(tmp_path / "log.jsonl")
    assert [line["logger"] for line in lines] == ["some.library", "py.warnings", "ray"]
    assert {line["run"] for line in lines} == {"rat"}
    shown = console.file.getvalue()
    assert "warning: some.library: 2 spikes [bold]missing[/bold]\n" in shown
    assert "FutureWarning: this will go away" in shown
    assert "raylet" not in shown


def test_a_warning_is_shown_above_the_live_display(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    with (
        run_log("rat", str(tmp_path), console),
        Live("the table", console=console, auto_refresh=False, transient=True),
    ):
        fit_logger(cell="C1", stage="passive", seed=1).warning("no bounds " + 60 * "x", total=3)
        fit_logger(cell="C1").info("not shown")
    shown = console.file.getvalue()
    warning = f"warning: cell C1, stage passive, seed 1: no bounds {60 * 'x'} (total 3)\n"
    assert warning in shown
    assert shown.index(warning) < shown.rindex("the table")
    assert "not shown" not in shown


def test_logging_is_afterwards_as_it_was(tmp_path, console):
    def state():
        loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("jobs", "cluster", "ray"))]
        return [(logger.level, list(logger.handlers)) for logger in loggers], warnings.showwarning

    before = state()
    with pytest.raises(KeyError), run_log("rat", str(tmp_path), console):
        raise KeyError("soma")
    assert state() == before
    (line,) = lines_of(tmp_path / "log.jsonl")
    assert (line["level"], line["message"]) == ("error", "the run ended with KeyError: 'soma'")
    assert "in test_logging_is_afterwards_as_it_was" in line["exception"]
    assert console.file.getvalue() == "", "the command line shows it"


def test_a_resumed_run_adds_to_the_file_after_a_line_that_was_cut_off(tmp_path, console):
    path = tmp_path / "log.jsonl"
    with run_log("rat", str(tmp_path), console) as log:
        log.info("first")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    for word in ("second", "third"):
        with run_log("rat", str(tmp_path), console) as log:
            log.info(word)
    content = path.read_bytes().splitlines()
    assert path.read_bytes().startswith(whole)
    assert content[1] == whole[:40]
    assert [json.loads(line)["message"] for line in content[2:]] == ["second", "third"]


def test_the_file_does_not_grow_without_end(tmp_path, console, monkeypatch):
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    with run_log("rat", str(tmp_path), console) as log:
        for number in range(100):
            log.info("again", number=number)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + module.FILES_KEPT
    assert all(file.stat().st_size <= 1000 for file in files)
    assert lines_of(tmp_path / "log.jsonl")[-1]["number"] == 99


@pytest.mark.parametrize("terminal", [False, True])
def test_a_folder_behind_a_uri_has_its_lines_in_the_jobs_log(terminal, capsys):
    console = Console(stderr=True, force_terminal=terminal, color_system=None)
    with run_log("rat", "s3://bucket/rat", console) as log:
        log.info("started")
        logging.getLogger("some.library").warning("careful")
    shown = capsys.readouterr().err.splitlines()
    if terminal:
        assert shown == ["warning: some.library: careful"]
    else:
        assert [json.loads(line)["message"] for line in shown] == ["started", "careful"]


def test_a_full_disk_is_told_once_and_does_not_end_the_run(tmp_path, console):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with run_log("rat", str(tmp_path), console) as log:
        for _ in range(3):
            log.info("hello")
    shown = console.file.getvalue()
    assert shown.count("\n") == 1
    assert "log.jsonl is incomplete: [Errno 28]" in shown


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, console):
    (tmp_path / "log.jsonl").mkdir()
    with (
        pytest.raises(ClusterError, match=r"Cannot write .*log\.jsonl"),
        run_log("rat", str(tmp_path), console),
    ):
        pass
