"""The examples in README and docs: jobs are checked, command lines parsed, Python compiled, what is cheap is run."""

import ast
import importlib
import inspect
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import duckdb
import numpy as np
import pytest
import typer.main
from jsonschema import Draft202012Validator
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject

import neurofleet as nf
from docs.notebooks import notebook, tutorials
from neurofleet.jobs.cli import app
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.job_file import check_job, load_job
from neurofleet.jobs.job_schema import job_schema
from neurofleet.jobs.learners.learner_job import checked_inputs, job_of
from neurofleet.jobs.opened_run import Run
from neurofleet.neurosim.cells.recipe import load_recipe
from neurofleet.yaml_files import read_yaml
from tests.jobs.made_run import write_run
from tests.learners.cells.made_cells import made_counts, written
from tests.learners.units.made_units import waveforms

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
CELL = {"id": "a", "morphology": "a.swc", "recordings": "a.nwb"}
PLACEHOLDERS = {"HOST:PORT": "h1:6379", "URL": "http://127.0.0.1:8265", "…": "select 1", "...": "select 1"}


def blocks(*languages: str) -> list[Any]:
    """Return (document and line, text) of all blocks in these languages."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if match[1] in languages:
                place = f"{document.relative_to(REPOSITORY)}:{text[: match.start()].count(chr(10)) + 1}"
                found.append(pytest.param(match[2], id=place))
    return found


def anchors(document: Path) -> set[str]:
    """Return what links may follow the # with: headings as both GitHub and the site name them."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, *REPOSITORY.glob("C*.md"), REPOSITORY / "SECURITY.md"], ids=str)
def test_links_lead_to_files_and_headings(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    for place, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        target = document.parent / place if place else document
        generated = target.name == "job-keys.md" or target.stem in ("changelog", "contributing", "security")
        assert target.exists(), f"{document}: {place}"
        assert not heading or generated or heading in anchors(target), f"{document}: {place}#{heading}"


def test_every_page_is_in_the_contents_of_the_site():
    docs = REPOSITORY / "docs"
    contents = set(re.findall(r"^([\w/-]+)$", (docs / "index.md").read_text(), re.M))
    pages = {
        str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.md") if "generated" not in page.parts
    }
    assert pages - contents == {"index"}


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_job_in_the_documents_is_one(text, tmp_path):
    (tmp_path / "cells.csv").write_text("id,morphology,recordings\na,a.swc,a.nwb\n")
    content = read_yaml(text, "the example")
    if "stages" in content:
        (tmp_path / "recipe.yaml").write_text(text)
        assert load_recipe("recipe.yaml", "spiny", tmp_path).stages
        return
    if "kind" not in content:  # a part of a job
        is_fit = set(content) <= set(FitSpec.model_fields)
        content = ({"kind": "fit", "cells": [CELL]} if is_fit else {"kind": "validate"}) | content
    job = check_job(content, "the example", "example", tmp_path)
    assert job.kind == content["kind"]
    assert Draft202012Validator(job_schema(job.kind)).is_valid(content)


def write_cells(folder: Path) -> None:
    for name in ("atlas_a", "atlas_b"):
        cells = made_counts(60, seed=len(name), prefix=name)
        cells.obs["donor"] = np.resize(["3p", "5p"], 60)
        written(cells, folder / f"{name}.h5ad")


def write_units(folder: Path) -> None:
    """Five sessions, each of an animal of its own, with spike times and mean waveforms of 24 units."""
    random = np.random.default_rng(1)
    (folder / "sessions").mkdir()
    for number in range(5):
        about = {"session_description": "made", "session_start_time": datetime(2026, 1, 1, tzinfo=UTC)}
        file = NWBFile(identifier=f"s{number}", subject=Subject(subject_id=f"mouse-{number}"), **about)
        file.add_unit_column("cell_type", "class of the unit")
        for waveform in waveforms(30_000, n=24):
            times_s = np.cumsum(random.gamma(2.0, 0.05, 400))
            kind = ("PV", "SST")[file.units is not None and len(file.units.id) % 2]
            file.add_unit(spike_times=times_s, waveform_mean=waveform * (1 + random.random()), cell_type=kind)
        file.units.waveform_rate = 30_000.0
        with NWBHDF5IO(str(folder / f"sessions/{number}.nwb"), "w") as out:
            out.write(file)


def write_recordings(folder: Path) -> None:
    random = np.random.default_rng(2)
    for name in ("animal_a", "animal_b", "worm_1", "worm_2"):
        arrays = {"velocity": random.random(600), "head_angle": random.random(600), "label_confidence": np.full(24, 4)}
        activity = random.standard_normal((600, 24)).cumsum(0)
        kinds = np.array(["AVA", "RIM"] * 12)
        np.savez(folder / f"{name}.npz", activity=activity, rate_hz=4.0, neuron_class=kinds, **arrays)


@pytest.mark.parametrize(
    ("name", "write"),
    [("train", write_cells), ("units", write_units), ("neurons", write_recordings), ("worms", write_recordings)],
)
def test_a_learners_example_reads_data_of_its_shape(name, write, tmp_path):
    write(tmp_path)
    texts = [block.values[0] for block in blocks("yaml") if block.values[0].startswith(f"# {name}.yaml")]
    assert texts
    (tmp_path / f"{name}.yaml").write_text(texts[0])
    assert checked_inputs(job_of(load_job(tmp_path / f"{name}.yaml"), tmp_path))


def command_lines(text: str) -> list[list[str]]:
    """Return the arguments of each `neurofleet` in a block, without what is said of it behind two spaces or a #."""
    commands: list[list[str]] = []
    waiting = ""
    for line in text.splitlines():
        told = line.strip().removeprefix("$ ") if not waiting else line
        waiting += " " + re.split(r"\s#\s|\s{2,}(?=\S)", told)[0].removesuffix("\\") if not waiting else told
        try:
            words = shlex.split(waiting.rstrip("\\"))
        except ValueError:  # a quoted query goes on in the next line
            waiting += "\n"
            continue
        if line.endswith("\\"):
            continue
        waiting = ""
        if words and (words[0] == "neurofleet" or words[0].endswith("/neurofleet")):
            ends = [i for i, word in enumerate(words) if word in (">", "&&", "|")]
            commands.append([PLACEHOLDERS.get(word, word) for word in words[1 : min(ends, default=None)]])
    return commands


def parsed(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> click.Command:
    """Return the command that arguments call, after all of them were understood; nothing is run."""
    with command.make_context(command.name, list(arguments), parent=parent) as context:
        if not hasattr(command, "resolve_command"):
            return command
        rest = [*context._protected_args, *context.args]
        name, called, rest = command.resolve_command(context, rest)
        return parsed(called, rest, context)


COMMANDS = [
    pytest.param(arguments, id=f"{block.id} {' '.join(arguments)[:40]}")
    for block in blocks("", "sh", "console")
    for arguments in command_lines(block.values[0])
]


def test_commands_are_found_in_the_documents():
    called = {param.values[0][0] for param in COMMANDS}
    assert len(COMMANDS) > 60
    assert {"plan", "run", "status", "results", "report", "export", "recipe", "deploy", "predict", "embed"} <= called


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_command_in_the_documents_is_understood(arguments, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    assert parsed(typer.main.get_command(app), arguments).name == arguments[0] or arguments[0] == "deploy"


MODELS = (nf.sims.SimsModel, nf.hippie.HippieModel, nf.neuprint.NeuprintModel)
OWNERS = {"nf": (nf,), "nf.sims": (nf.sims,), "nf.hippie": (nf.hippie,), "nf.neuprint": (nf.neuprint,)}
OWNERS |= {"run": (Run,), "study": (Run,), "model": MODELS, "nf.load_model": MODELS, "nf.open_run": (Run,)}


def takes(owner: Any, name: str, call: ast.Call) -> bool:
    """Return whether a module's function or a class's method of this name can be called so."""
    function = getattr(owner, name, None)
    if function is None:
        return False
    keywords = {keyword.arg: None for keyword in call.keywords}
    arguments = [None] * (len(call.args) + inspect.isclass(owner))
    try:
        inspect.signature(function).bind_partial(*arguments, **keywords)
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("text", blocks("python"))
def test_python_in_the_documents_calls_what_there_is(text):
    """Functions of neurofleet and methods of its runs and models exist and take the keywords; nothing is run."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("neurofleet"):
            module = importlib.import_module(str(node.module))
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            value = node.func.value
            owners = OWNERS.get(ast.unparse(value.func if isinstance(value, ast.Call) else value))
            assert owners is None or any(takes(owner, node.func.attr, node) for owner in owners), ast.unparse(node)


@pytest.mark.parametrize("page", tutorials(REPOSITORY / "docs"), ids=lambda page: page.stem)
def test_a_tutorial_becomes_a_notebook(page):
    text = page.read_text()
    cells = notebook(text)["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert "](../" not in "".join(cell["source"] for cell in cells)
    assert len({cell["id"] for cell in cells}) == len(cells)
    for source in code:
        magic, _, rest = source.partition("\n")
        assert (rest if magic.startswith("%%") else source) in text


def test_what_a_run_folder_and_its_files_show_is_shown(tmp_path, monkeypatch):
    """The examples that open a finished run, with any library; without reports and exports."""
    write_run(tmp_path / "rat", cells=("C060114A7",))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"nf": nf}
    texts = [block.values[0] for block in blocks("python") if block.id.startswith("docs/how-to/results.md")]
    lines = [line for text in texts if '("rat")' in text or '"rat/' in text for line in text.splitlines()]
    done = [line for line in lines if line and not line.startswith(("run.report", "run.export"))]
    exec("\n".join(done), scope)
    assert len(done) > 10
    assert scope["run"].status == "finished"
    assert len(scope["pd"].read_parquet("rat/hall_of_fame")) == len(scope["run"].sql("from hall_of_fame"))
    assert duckdb.sql("from read_parquet('rat/pooled/**/*.parquet')").df().shape[0] == len(scope["run"].hall_of_fame())
