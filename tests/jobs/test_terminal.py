"""What a lab calls its classes, cells and files is printed as it is."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.terminal import print_json, terminal

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


ROWS = [
    ("C060114A7", "slow_trough_delta_v.LongDC_250", "84.41 ± 2", "-84.39", "0.01", "0.0123"),
    ("C060114A7", "slow_trough_norm_t.LongDC_250", "", "0.0909", "12.25", "7.5e-05"),
]
HEAD = ("cell", "e-feature", "recorded mean", "best model", "z", "after the subthreshold stages")


@pytest.mark.parametrize("width", [100, 72, 60, 40, 20])
def test_a_table_that_is_too_wide_cuts_nothing(width, capsys):
    ReportTable(HEAD, ROWS, numbers=range(2, 6), title="fit", grouped=True).print(terminal(width=width))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    said = re.sub(r"[\s│┃]", "", "".join(lines))
    for word in {word for row in (HEAD, *ROWS) for cell in row for word in cell.split()}:
        assert word in said or width < 40, word
    if width >= 40:  # what tells rows apart stands whole in one line
        assert sum("slow_trough_norm_t.LongDC_250" in line for line in lines) == 1
    if width == 40:  # turned: each row is a block that says which one it is
        assert [line for line in lines if line.startswith("cell C060114A7")]


def test_a_pipe_gets_tables_as_wide_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    ReportTable(HEAD, ROWS, numbers=range(2, 6)).print(terminal())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(value in line for line, row in zip(lines[3:], ROWS, strict=False) for value in row)


def test_a_progress_bar_shows_names_as_they_are(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with CountProgress("[/red]", 2, "[/cells]", terminal(width=200)) as progress:
        progress.add(1)
    assert "[/red]" in capsys.readouterr().out


def test_json_for_other_programs_has_no_numbers_that_json_lacks(capsys):
    print_json({"scores": (0.5, math.nan, [-math.inf]), "folder": Path("out"), "at": np.float32(1.5)})
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == {"scores": [0.5, None, [None]], "folder": "out", "at": 1.5}


def test_no_other_console_is_made():
    package = Path(__file__).parents[2]
    files = [file for part in ("cluster", "jobs", "learners", "neurosim") for file in (package / part).rglob("*.py")]
    made = [file.name for file in files if re.search(r"(?<![\w.])(Console|_Terminal)\(", file.read_text())]
    assert made == ["terminal.py"]
