"""The examples in README and docs: job files are checked, command lines parsed, Python compiled, what is cheap is run."""

import ast
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import click
import duckdb
import pytest
import typer.main

import neurofleet as nf
from neurofleet.jobs.cli import app
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.job_file import check_job
from neurofleet.jobs.opened_run import Run
from neurofleet.yaml_files import read_yaml
from tests.jobs.made_run import write_run

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


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_job_in_the_documents_is_one(text, tmp_path):
    (tmp_path / "cells.csv").write_text("id,morphology,recordings\na,a.swc,a.nwb\n")
    content = read_yaml(text, "the example")
    if "kind" not in content:  # a part of a job
        is_fit = set(content) <= set(FitSpec.model_fields)
        content = ({"kind": "fit", "cells": [CELL]} if is_fit else {"kind": "validate"}) | content
    job = check_job(content, "the example", "example", tmp_path)
    assert job.kind == content["kind"]


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


@pytest.mark.parametrize("text", blocks("python"))
def test_python_in_the_documents_calls_what_there_is(text):
    """Functions of neurofleet and methods of its runs exist and take the keywords; nothing is run."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = ast.unparse(node.func.value), node.func.attr
        places = {"nf": nf, "nf.sims": nf.sims, "nf.hippie": nf.hippie, "nf.neuprint": nf.neuprint, "run": Run}
        if owner not in places:
            continue
        signature = inspect.signature(getattr(places[owner], name))
        keywords = {keyword.arg: None for keyword in node.keywords}
        signature.bind_partial(*([None] * (len(node.args) + (owner == "run"))), **keywords)


def test_what_a_run_folder_and_its_files_show_is_shown(tmp_path, monkeypatch):
    """The examples of README that open a finished run, with any library; without reports and exports."""
    write_run(tmp_path / "rat", cells=("C060114A7",))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"nf": nf}
    texts = [block.values[0] for block in blocks("python") if block.id.startswith("README.md")]
    lines = [line for text in texts if '("rat")' in text or '"rat/' in text for line in text.splitlines()]
    done = [line for line in lines if line and not line.startswith(("run.report", "run.export"))]
    exec("\n".join(done), scope)
    assert len(done) > 10
    assert scope["run"].status == "finished"
    assert len(scope["pd"].read_parquet("rat/hall_of_fame")) == len(scope["run"].sql("from hall_of_fame"))
    assert duckdb.sql("from read_parquet('rat/pooled/**/*.parquet')").df().shape[0] == len(scope["run"].hall_of_fame())
