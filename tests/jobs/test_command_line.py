"""What people expect of any command line: version, completion, groups, no colours, JSON, silence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neurofleet import __version__
from neurofleet.errors import UsageError
from neurofleet.jobs import terminal as terminals
from neurofleet.jobs.cli import app
from neurofleet.jobs.help_topics import TOPICS
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.terminal import collected, silence, terminal


def test_version_and_groups():
    assert CliRunner().invoke(app, ["--version"]).output.split() == ["neurofleet", __version__]
    told = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert [group for group in ("Jobs", "Fits", "Learners", "Results", "Clusters") if f" {group} ─" not in told] == []
    assert " Commands ─" not in told


def test_help_has_topics_and_commands():
    listed = CliRunner().invoke(app, ["help"]).output
    for name, topic in TOPICS.items():
        told = CliRunner().invoke(app, ["help", name]).output
        assert topic.text in told
        assert (Path(__file__).parents[2] / "docs" / topic.page).is_file()
        assert f"{name} " in listed
        assert max(map(len, topic.text.splitlines())) <= 120
    assert "--query" in CliRunner().invoke(app, ["help", "results"]).output
    assert "--rank" in CliRunner().invoke(app, ["help", "export"]).output
    with pytest.raises(UsageError, match="did you mean 'clusters'"):
        CliRunner().invoke(app, ["help", "cluster"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", {"COMP_WORDS": "neurofleet pred", "COMP_CWORD": "1"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "neurofleet pred"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "neurofleet pred", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_commands_are_completed(shell, line):
    code = "import sys; sys.argv[0] = 'neurofleet'; from neurofleet.__main__ import main; main()"
    command = [sys.executable, "-P", "-c", code]
    asked = {**os.environ, "_NEUROFLEET_COMPLETE": f"complete_{shell}", **line}
    assert "predict" in subprocess.run(command, env=asked, capture_output=True, text=True).stdout


def test_no_color_is_obeyed(monkeypatch, capsys):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal().print("fault", style="red")
    assert "\x1b[31m" not in capsys.readouterr().out
    monkeypatch.delenv("NO_COLOR")
    terminal().print("fault", style="red")
    assert "\x1b[31m" in capsys.readouterr().out


def test_what_is_printed_can_be_collected_as_data(capsys):
    with collected() as found:
        ReportTable(["cell", "models"], [["a", 1]], title="1 cells").print(terminal())
        terminal().print("1 cells are fitted")
        terminal(errors=True).print("measuring")
    printed = capsys.readouterr()
    assert (printed.out, printed.err.strip()) == ("", "measuring")
    assert json.loads(json.dumps(found)) == {
        "tables": [{"title": "1 cell", "columns": ["cell", "models"], "rows": [["a", "1"]]}],
        "lines": ["1 cell is fitted"],
    }


def test_silence_keeps_results_and_warnings(monkeypatch, capsys):
    monkeypatch.setattr(terminals, "_silent", False)
    silence()
    terminal(errors=True).print("measuring")
    terminal(errors=True, warnings=True).print("warning: odd")
    terminal().print("result")
    assert capsys.readouterr() == ("result\n", "warning: odd\n")
