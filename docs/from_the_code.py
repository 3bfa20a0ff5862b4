"""Directives whose content is read from the code: ``job-keys``, ``commands``, ``help-topics`` and ``benchmarks``."""

import ast
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from neurofleet.jobs.cli import app as command_line
from neurofleet.jobs.help_topics import TOPICS
from neurofleet.jobs.job_schema import job_models, job_schema

TERMS = re.compile(r"^(``.*``)\n((?:    .*\n?)+)", re.M)  # of a docstring
BENCHMARKS = Path(__file__).parents[1] / "tests" / "benchmarks"

Schema = Mapping[str, Any]


class JobKeys(SphinxDirective):
    """The keys of a kind of job: a table for the job, and one for each of its parts."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return sections of tables."""
        return self.parse_text_to_nodes("\n".join(keys_of(self.arguments[0])), allow_section_headings=True)


class Commands(SphinxDirective):
    """All commands with their arguments and options."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each group of commands."""
        return self.parse_text_to_nodes("\n".join(commands()), allow_section_headings=True)


class HelpTopics(SphinxDirective):
    """What ``neurofleet help`` prints."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each topic."""
        text = "\n".join(
            f"### help {name}\n\n{topic.title}.\n\n```text\n{topic.text}\n```\n" for name, topic in TOPICS.items()
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Benchmarks(SphinxDirective):
    """The recorded lines of the benchmarks, with what their docstrings say."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each line."""
        return self.parse_text_to_nodes("\n".join(benchmarks()), allow_section_headings=True)


def benchmarks() -> Iterator[str]:
    """Yield Markdown: each line of ``benchmarks.jsonl``."""
    for text in Path(__file__).with_name("benchmarks.jsonl").read_text().splitlines():
        line = json.loads(text)
        name = line["command"].split()[0]
        about = ast.get_docstring(ast.parse((BENCHMARKS / f"{name}.py").read_text())) or ""
        terms = TERMS.sub(lambda found: f"{found[1]}\n: {textwrap.dedent(found[2])}\n", about)
        machine = "{processor} ({instructions}), {processors} processors, load {load_before}".format_map(line)
        yield from (f"## {name}", "", terms, "", f"`{line['command']}`, {line['date']}, {machine}:", "")
        yield from ("| | |", "|---|---|")
        tables = {key: value for key, value in line["found"].items() if isinstance(value, list) and value}
        alone = {key: value for key, value in line["found"].items() if key not in (*tables, "benchmark")}
        yield from (f"| `{key}` | {value} |" for key, value in _flat(alone))
        for name, rows in tables.items():
            if isinstance(rows[0], dict):
                yield from ("", f"`{name}`:", "", f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|")
                yield from (f"| {' | '.join(str(value) for _, value in _flat(row))} |" for row in rows)
            else:
                yield from ("", f"`{name}`: {', '.join(map(str, rows))}")
        yield ""


def _flat(found: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their dotted names."""
    for key, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            digits = ",.0f" if isinstance(value, float) and abs(value) >= 1000 else ".4g"
            yield f"{above}{key}", f"{value:{digits}}" if isinstance(value, float) else value


def keys_of(kind: str) -> Iterator[str]:
    """Yield Markdown: the keys of a kind of job and of its parts."""
    definitions = job_schema(kind)["$defs"]
    jobs = [model.__name__ for model in job_models(kind).values()]
    for name in [*jobs, *sorted(definitions.keys() - {*jobs})]:
        part = definitions[name]
        settings = set(part["properties"].get("settings", {}).get("properties", ()))
        needed = set(part.get("required", ()))
        yield from (f"### {_title(name, part, jobs)}", "", part.get("description", ""), "")
        yield from _table({key: about for key, about in part["properties"].items() if key not in settings}, needed)
        if settings:
            yield from ("", "Settings, below `settings:` or beside the other keys:", "")
            yield from _table(part["properties"]["settings"]["properties"], set())
        yield ""


def _title(name: str, part: Schema, jobs: list[str]) -> str:
    if name in jobs:
        learner = part["properties"].get("learner", {}).get("const")
        return "Keys of the job" if learner is None else f"Keys of the job, learner {learner}"
    return f"Part: {name.removesuffix('Spec')}"


def _table(keys: Schema, needed: set[str]) -> Iterator[str]:
    yield from ("| key | type | default | |", "|---|---|---|---|")
    for key, about in keys.items():
        default = "required" if key in needed else _value(about.get("default"))
        yield f"| `{key}` | {_escaped(_type(about))} | {_escaped(default)} | {_escaped(about['description'])} |"


def _value(default: Any) -> str:
    if default is None or default in ([], {}):
        return ""
    if isinstance(default, dict):
        return "as below"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _type(about: Schema) -> str:
    """Return a type in words."""
    if "$ref" in about:
        return about["$ref"].rsplit("/", 1)[1].removesuffix("Spec")
    if "anyOf" in about:
        names = [name for part in about["anyOf"] if (name := _type(part)) != "nothing"]
        lists = [name for name in names if name.startswith("list")]
        kept = [name for name in names if name != "one value" or not lists]
        if "text" in kept:  # numbers are taken as text there
            kept = [name for name in kept if name not in ("true, false", "whole number", "number")]
        return ", ".join(dict.fromkeys(kept))
    if "enum" in about or "const" in about:
        values = about.get("enum", [about.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    kind = about.get("type", "anything")
    if isinstance(kind, list):
        return "one value"
    if kind == "array":
        return f"list of {_type(about.get('items', {}))}" if "items" in about else "list"
    if kind == "object":
        inside = about.get("additionalProperties")
        return f"names: {_type(inside)}" if isinstance(inside, dict) else "keys and values"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false"}
    return {"null": "nothing"}.get(kind) or ("path" if about.get("format") == "path" else words.get(kind, kind))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def commands() -> Iterator[str]:
    """Yield Markdown: all commands that are not hidden, in their groups."""
    root: Any = typer.main.get_command(command_line)
    groups: dict[str, list[Any]] = {}
    for command in root.commands.values():
        if not command.hidden:
            groups.setdefault(getattr(command, "rich_help_panel", None) or "Others", []).append(command)
    for group, members in groups.items():
        yield from (f"## {group}", "")
        for command in members:
            yield from _command(command, f"neurofleet {command.name}")


def _command(command: Any, called: str) -> Iterator[str]:
    inside = getattr(command, "commands", None)
    arguments = " ".join(p.metavar or p.name for p in command.params if _is_argument(p))
    yield from (f"### {called}", "", f"`{called} {'TARGET' if inside else arguments}`".replace(" `", "`"), "")
    yield from (_escaped(" ".join((command.help or "").split())), "")
    options = [p for p in command.params if p.name != "help" and (getattr(p, "help", None))]
    if options:
        yield from ("| argument or option | |", "|---|---|")
        for option in options:
            name = option.metavar or option.name if _is_argument(option) else ", ".join(option.opts)
            yield f"| `{name}` | {_escaped(option.help)}{_default(option)} |"
        yield ""
    for name, target in (inside or {}).items():
        yield from _command(target, f"{called} {name}")


def _is_argument(parameter: Any) -> bool:
    return parameter.param_type_name == "argument"


def _default(option: Any) -> str:
    default = option.default
    shown = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    return f" Default: `{default}`." if shown and not _is_argument(option) else ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directives to Sphinx."""
    app.add_directive("job-keys", JobKeys)
    app.add_directive("commands", Commands)
    app.add_directive("help-topics", HelpTopics)
    app.add_directive("benchmarks", Benchmarks)
    return {"parallel_read_safe": True}
