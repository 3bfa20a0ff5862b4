"""What the program says: one thing is one, units are written alike, and nothing speaks of how it was checked."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.reports.html import paragraph
from neurofleet.jobs.results.results_command import _cell_text
from neurofleet.jobs.terminal import terminal
from neurofleet.wording import agreeing

REPOSITORY = Path(__file__).parents[1]
CHECKERS_WORDS = re.compile(r"\w\(s\)(?=\s|$)|[Uu]ndo the change|\bconstrained-|\bliteral\[|should match pattern")
LINKS = ("cluster", "jobs", "learners", "neurosim")  # in the folder neurofleet
MICROMETRES = re.compile(r"(?<=[\s}])um2?\b(?!_)")


@pytest.mark.parametrize(
    ("told", "right"),
    [
        ("1 cells are left out", "1 cell is left out"),
        ("21 cells, 1,001 cells, 1.1 cells and cell-1 cells", None),
        ("2 of 1 test units have none", "2 of 1 test unit has none"),
        ("sweep 1 spikes before the step", None),
        ("1 gene names occur twice", "1 gene name occurs twice"),
        ("1 or more cells, 1 to 10 cells, 1 of the cells", None),
        ("1 classes, 1 branches, 1 copies and 1 stimuli", "1 class, 1 branch, 1 copy and 1 stimulus"),
    ],
)
def test_one_thing_is_one_wherever_text_leaves(told, right, capsys):
    right = right or told
    assert agreeing(told) == right
    assert str(UsageError(told)) == str(InputError(told)) == right
    assert paragraph(told) == f"<p>{right}</p>"
    terminal(width=200).print(told)
    assert capsys.readouterr().out == f"{right}\n"


def test_results_say_yes_and_no():
    assert [_cell_text(value) for value in (True, False, None, 1)] == ["yes", "no", "", "1"]


def sentences() -> Iterator[tuple[str, str]]:
    """Yield every text of the program with its place; values are {} in it. Docstrings are none."""
    for package in ("cluster", "jobs", "learners", "neurosim", "neurofleet"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if package == "neurofleet" and path.relative_to(REPOSITORY).parts[1] in LINKS:
                continue
            if "node_modules" in path.parts:
                continue
            tree = ast.parse(path.read_text())
            silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            silent |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if id(node) in silent:
                    continue
                if isinstance(node, ast.JoinedStr):
                    parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                    text = "".join(map(str, parts))
                else:
                    text = node.value if isinstance(node, ast.Constant) else None
                if isinstance(text, str) and " " in text:
                    yield f"{path.relative_to(REPOSITORY)}:{node.lineno}", text


def test_no_sentence_has_checkers_words_or_two_ways_to_write_a_unit():
    found = list(sentences())
    assert len(found) > 2000
    assert [(place, text) for place, text in found if CHECKERS_WORDS.search(text)] == []
    assert [(place, text) for place, text in found if MICROMETRES.search(text)] == []
