"""``results --compact``: the same answers from fewer files, and a run that goes on where it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neurofleet.errors import JobError, RunFolderRefused, UsageError
from neurofleet.jobs.job_kinds import write_report
from neurofleet.jobs.results.results_command import compact_command, query
from neurofleet.jobs.results.run_summary import summaries
from neurofleet.jobs.results.run_tables import RunTables
from tests.jobs.made_run import write_run

REPOSITORY = Path(__file__).resolve().parents[2]


def neurofleet(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from neurofleet.jobs.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=REPOSITORY)


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.glob("evaluations/**/*.parquet"))


@pytest.fixture
def finished(tmp_path):
    write_run(tmp_path / "run", cells=("a", "b"))
    return tmp_path / "run"


def test_summaries_queries_and_report_are_the_same_afterwards(finished):
    queries = [
        "select * from evaluations order by cell, stage, seed, generation, individual",
        "select cell, stage, seed, count(*) n, min(total) best from evaluations group by all order by all",
        "select * from pooled order by all",
    ]
    summary, rows = summaries(RunTables(finished)), [query(finished, sql) for sql in queries]
    done = neurofleet("results", finished, "--compact")
    assert done.returncode == 0, done.stderr
    assert "30 files" in done.stdout
    assert "became 6" in done.stdout
    assert "evaluations/cell=a/stage=active/seed=1/generations-00000-00004.parquet" in files(finished)
    assert len(files(finished)) == 6 + 4  # a single generation of finalists is one file already
    assert summaries(RunTables(finished)) == summary
    assert [query(finished, sql) for sql in queries] == rows
    write_report(finished, print_line=lambda text: None)
    assert (finished / "report.html").stat().st_size > 10_000


def test_parts_beside_their_merged_file_count_once(finished):
    counts = "select cell, stage, seed, generation, count(*) n from evaluations group by all order by all"
    before, content = (
        query(finished, counts),
        {name: (finished / name).read_bytes() for name in files(finished)},
    )
    compact_command(str(finished), None, True)
    for name in list(content)[::2]:
        (finished / name).write_bytes(content[name])
    assert query(finished, counts) == before
    assert summaries(RunTables(finished))[0].stages[0].evaluations == 50


def test_what_is_left_or_done_already_is_said(tmp_path, capsys):
    root = tmp_path / "run"
    write_run(root, finished=False)
    compact_command(str(root), None, False)
    told = capsys.readouterr().out
    assert "Nothing to compact" in told
    assert "15 files of 1 cell that has no pooled hall of fame yet (a)" in told
    write_run(tmp_path / "other")
    compact_command(str(tmp_path / "other"), None, True)
    assert json.loads(capsys.readouterr().out)["files_before"] == 15
    compact_command(str(tmp_path / "other"), None, False)
    assert "Nothing to compact" in capsys.readouterr().out


def test_wrong_use_is_refused(tmp_path, finished):
    with pytest.raises(UsageError, match="no such folder"):
        compact_command(str(tmp_path / "nowhere"), None, False)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(UsageError, match="two commands"):
        compact_command(str(finished), "select 1", False)
    from neurofleet.cluster.store.run_store import RunStore

    with RunStore(finished).locked(), pytest.raises(RunFolderRefused):
        compact_command(str(finished), None, False)


def test_parts_that_cannot_be_merged_are_named_and_the_command_fails(finished, capsys):
    bad = finished / "evaluations/cell=a/stage=active/seed=1/generation-00003.parquet"
    bad.write_bytes(b"PAR1 cut short")
    with pytest.raises(JobError, match="generation-00003.parquet"):
        compact_command(str(finished), None, False)
    assert "25 files" in capsys.readouterr().out
    assert bad.exists()
