"""What the base of all studies does, with a toy kind: run, be killed, resume, print, report, plan, refuse."""

import json
import shlex
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from neurofleet import fresh_process
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError, UsageError
from neurofleet.jobs import terminal
from neurofleet.jobs.job_file import KINDS, load_job
from neurofleet.jobs.job_kinds import STUDIES, findings_of, write_report
from neurofleet.jobs.quick import QUICK_NOTE
from neurofleet.jobs.results.results_command import results_command
from neurofleet.jobs.run_folder import start_or_resume
from neurofleet.jobs.run_job import print_plan, run_job
from neurofleet.jobs.status import print_status
from neurofleet.jobs.studies.findings import FINDINGS, Findings
from tests.jobs.studies.toy_report import ToyFindings
from tests.jobs.studies.toy_study import run_alone


@pytest.fixture(autouse=True)
def _toy_kind(monkeypatch):
    monkeypatch.setitem(KINDS, "toy", "tests.jobs.studies.toy_study:ToySpec")
    monkeypatch.setitem(STUDIES, "toy", "tests.jobs.studies.toy_report:ToyFindings")


def write_job(folder: Path, numbers: str = "1 2 skip 3 4 5 6 7 8") -> Path:
    (folder / "numbers.txt").write_text(numbers)
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump({"kind": "toy", "name": "slow", "numbers": "numbers.txt", "seconds": 0.3}))
    return job


@pytest.mark.usefixtures("ray_session")
def test_a_study_that_is_killed_resumes_from_its_blocks_and_every_command_knows_its_kind(tmp_path, capfd):
    job, out = write_job(tmp_path), tmp_path / "out"
    process = fresh_process.start(run_alone, tmp_path / "numbers.txt", out)
    blocks = out / "squares" / "cell=a"
    deadline = time.monotonic() + 120
    while len(list(blocks.glob("block-*.parquet"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fresh_process.end(process)
    stored = {path: path.stat().st_mtime_ns for path in blocks.glob("block-*.parquet")}
    assert 2 <= len(stored) < 4
    print_status(str(out))
    assert f"{len(stored)} of 4 blocks are stored" in capfd.readouterr().out
    with pytest.raises(UsageError, match="expected a job that has ended"):
        results_command(str(out), None, json=False)

    mail = tmp_path / "mail.json"
    send = f"{sys.executable} -c " + shlex.quote(f"import sys; open({str(mail)!r}, 'x').write(sys.stdin.read())")
    run_job(job, str(out), cpus=1, notify=send)
    message = json.loads(mail.read_text())
    (finished,) = [event for event in RunStore(out).read_events() if event["event"] == "finished"]
    assert (message["event"], message["seconds"]) == ("done", finished["seconds"])
    assert {path: path.stat().st_mtime_ns for path in stored} == stored, "stored blocks are not measured again"
    assert len(list(blocks.glob("block-*.parquet"))) == 4
    assert pq.read_table(out / "squares.parquet")["square"].to_pylist() == [n**2 for n in range(1, 9)]
    assert not (out / "nothing.parquet").exists(), "a table of no rows is not written"
    plain = json.loads((out / FINDINGS).read_text())
    assert plain["cells"] == [{"cell": "a", "class": "all", "total": 204.0, "added_later": None}]
    assert (plain["name"], plain["kind"], plain["notes"]) == ("slow", "toy", ["1 left out"])
    assert "[all]" in capfd.readouterr().err

    report = (out / "report.html").read_text()
    assert "1 left out" in report
    (out / "report.html").unlink()
    assert Path(write_report(out)).read_text() == report
    for command in (lambda: print_status(str(out)), lambda: results_command(str(out), None, json=False)):
        command()
        assert "204" in capfd.readouterr().out
    results_command(str(out), None, json=True)
    assert json.loads(capfd.readouterr().out) == plain
    mail.unlink()
    run_job(job, str(out), cpus=1, notify=send)
    assert "finished already" in capfd.readouterr().err
    assert not mail.exists(), "nobody is told of what was finished before"


@pytest.mark.usefixtures("ray_session")
def test_a_quick_run_says_so_in_all_that_it_writes_and_shows_and_no_full_run_goes_on_from_it(
    tmp_path, capfd, monkeypatch
):
    job, out = write_job(tmp_path, "1 2"), tmp_path / "out"
    run_job(job, str(out), cpus=1, quick=True)
    assert capfd.readouterr().err.count(QUICK_NOTE) == 2, "when it begins, and above its verdict"
    assert yaml.safe_load((out / "job.yaml").read_text())["quick"] is True
    record = json.loads((out / "provenance.json").read_text())
    assert (record["quick"], record["reduced"]) == (True, ["seconds: 0.0 in place of 0.3"])
    assert json.loads((out / FINDINGS).read_text())["quick"] is True
    assert QUICK_NOTE in (out / "report.html").read_text()
    for command in (lambda: print_status(str(out)), lambda: results_command(str(out), None, json=False)):
        command()
        assert capfd.readouterr().out.startswith(QUICK_NOTE)
    results_command(str(tmp_path), "select quick from runs", json=True)
    assert json.loads(capfd.readouterr().out) == [{"quick": True}]

    with pytest.raises(UsageError, match="holds a quick run.*another --out"):
        run_job(job, str(out), cpus=1)
    monkeypatch.setattr(terminal, "_silent", True)  # --quiet leaves what a run has found
    run_job(job, str(out), cpus=1, quick=True)
    told = capfd.readouterr().err
    assert "finished already" in told
    assert f"report: {out}/report.html" in told
    spec = load_job(job)
    assert "quick" not in spec.plain()
    with RunStore(tmp_path / "full").locked() as full:
        start_or_resume(spec, {}, tmp_path, full)
        with pytest.raises(UsageError, match="holds a full run.*another --out"):
            start_or_resume(load_job(job, quick=True), {}, tmp_path, full)


def test_the_plan_tells_notes_and_times_an_individual_in_a_process_of_its_own(tmp_path, capsys):
    print_plan(write_job(tmp_path))
    assert capsys.readouterr().out == "1 left out\n8 numbers, below a second each: True\n"


def test_inputs_that_cannot_be_used_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="found none"):
        run_job(write_job(tmp_path, "skip"), str(tmp_path / "out"))
    (tmp_path / "numbers.txt").unlink()
    with pytest.raises(UsageError, match=r"numbers\.txt does not exist"):
        run_job(tmp_path / "job.yaml", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_findings_of_other_versions_are_read(tmp_path):
    cell = {"cell": "a", "class": "x", "total": 2, "gone": 1}
    (tmp_path / FINDINGS).write_text(json.dumps({"name": "old", "kind": "toy", "cells": [cell], "what": 1}))
    findings = ToyFindings.read(tmp_path)
    assert (findings.cells[0].group, findings.cells[0].added_later, findings.notes) == ("x", None, [])
    del cell["total"]
    (tmp_path / FINDINGS).write_text(json.dumps({"name": "old", "kind": "toy", "cells": [cell]}))
    with pytest.raises(UsageError, match="cell 1: total is missing"):
        ToyFindings.read(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in STUDIES if kind != "toy"])
def test_every_kind_has_findings(kind):
    assert issubclass(findings_of(kind), Findings)
