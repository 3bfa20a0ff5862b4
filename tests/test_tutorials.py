"""The tutorials, as a reader runs them: commands and Python blocks in their order, in a folder of their own.

The pictures of a page are those that its Python draws. ``pytest -m cluster tests/test_tutorials.py --basetemp DIR``
leaves them as ``DIR/tutorials0/NAME-1.png`` …, to be looked at and copied to ``docs/_static/tutorials``; ``-s`` shows
the values of last lines, as a notebook does.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from docs.notebooks import cells, tutorials

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all of them, as two of them look at what `neurofleet demo` leaves."""
    return tmp_path_factory.mktemp("tutorials")


def run_python(text: str, scope: dict[str, Any]) -> None:
    """Run a block as a notebook does: the value of a last line that is an expression is shown."""
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<tutorial>", "exec"), scope)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "<tutorial>", "eval"), scope)
        if value is not None:
            print(value)


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [page.stem for page in tutorials(DOCS)])
def test_a_tutorial_runs_from_top_to_bottom(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    plt.switch_backend("agg")
    page = (DOCS / f"tutorials/{name}.md").read_text()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    scope: dict[str, Any] = {}
    drawn = []
    for kind, text in cells(page):
        if kind == "python":
            run_python(text, scope)
        elif kind == "sh":
            subprocess.run(["sh", "-ec", text], check=True, env={**os.environ, "PATH": path, "COLUMNS": "120"})
        elif kind != "markdown":
            Path(kind).parent.mkdir(exist_ok=True)
            Path(kind).write_text(text)
        for number in plt.get_fignums():
            drawn.append(f"{name}-{len(drawn) + 1}.png")
            plt.figure(number).savefig(drawn[-1], dpi=110, bbox_inches="tight")
        plt.close("all")
    assert drawn == re.findall(r"\]\(\.\./_static/tutorials/([\w.-]+)\)", page)
