"""The tutorials, as a reader runs them: commands and Python blocks in their order, in a folder of their own."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["first-fit", "labels-for-a-query", "units-to-cell-types"])
def test_a_tutorial_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    scope: dict[str, object] = {}
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", (TUTORIALS / f"{name}.md").read_text(), re.M | re.S)
    assert len(blocks) > 3
    for language, text in blocks:
        if language == "python":
            exec(text, scope)
            continue
        for line in text.splitlines():
            words = shlex.split(line)
            assert words[0] == "neurofleet"
            command = [sys.executable, "-P", "-m", *words]
            subprocess.run(command, check=True, env={**os.environ, "COLUMNS": "120"})
