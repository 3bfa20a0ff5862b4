"""What a lab calls its classes, cells and files is printed as it is."""

import re
from pathlib import Path

import pytest
from rich.table import Table

from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.terminal import terminal

NAMES = ("[/red]", "[bold]Sst[/bold]", ":smile:", r"\[x]")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_markup(name, capsys):
    console = terminal(width=200)
    console.print(f"{name}: done")
    table = Table(name, title=f"{name} title")
    table.add_row(f"{name} row")
    console.print(table)
    ReportTable((f"{name} head",), ((f"{name} value",),), title=f"{name} study").print(console)
    said = capsys.readouterr().out
    assert all(f"{name}{end}" in said for end in (": done", " title", " row", " head", " value", " study"))


def test_a_progress_bar_shows_names_as_they_are(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with CountProgress("[/red]", 2, "[/cells]", terminal(width=200)) as progress:
        progress.add(1)
    assert "[/red]" in capsys.readouterr().out


def test_no_other_console_is_made():
    package = Path(__file__).parents[2]
    files = [file for part in ("cluster", "jobs", "learners", "neurosim") for file in (package / part).rglob("*.py")]
    made = [file.name for file in files if re.search(r"(?<![\w.])(Console|_Terminal)\(", file.read_text())]
    assert made == ["terminal.py"]
