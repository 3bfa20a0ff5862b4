"""The form of a job: a field for each key of its schema, with the values that its text has."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from neurofleet.errors import UsageError
from neurofleet.jobs.drafts.draft import flow
from neurofleet.jobs.drafts.new_command import DRAFTS
from neurofleet.jobs.job_schema import job_models, job_schema
from neurofleet.jobs.serve.job_text import REMOVED
from neurofleet.yaml_files import YamlRefused, read_yaml

ELSEWHERE = ("kind", "learner", "out", "quick", "notify")
"""Keys that are no fields: the page has controls of its own for them."""

COMMON = (
    "name",
    "cells",
    "evolution",
    "evolution.seeds",
    "evolution.evaluations",
    "recipe",
    "label",
    "split",
    "preset",
)
"""Keys that are seen at once, besides those that are needed and those that a job has."""

NULL = {"type": "null"}
_MISSING = object()


@dataclass(frozen=True)
class FormField:
    """A key of a job.

    Attributes
    ----------
    place : tuple
        Keys and positions that lead to it.
    help : str
    shape : str
        ``text``, ``choice``, ``keys`` (`fields` are keys) or ``list`` (`fields` are its parts).
    value, default : str
        As YAML writes them on one line; empty where there is none.
    choices : sequence of str
    is_needed, is_there : bool
    is_text : bool
        Whether what is typed is text, whatever YAML would take it for.
    fields : sequence of FormField
    """

    place: tuple[str | int, ...]
    help: str
    shape: str
    value: str = ""
    default: str = ""
    choices: Sequence[str] = ()
    is_needed: bool = False
    is_there: bool = False
    is_text: bool = False
    fields: Sequence["FormField"] = ()

    @property
    def name(self) -> str:
        """What the field is called in the page."""
        return json.dumps(self.place)

    @property
    def label(self) -> str:
        """The last key; of a part of a list its number."""
        last = self.place[-1]
        return f"{last + 1}" if isinstance(last, int) else last

    @property
    def is_shown(self) -> bool:
        """Whether it is seen at once."""
        keys = ".".join(step for step in self.place if isinstance(step, str))
        return self.is_needed or self.is_there or keys in COMMON


def kinds() -> dict[str, str]:
    """Return each kind of job, such as ``train sims``, and what `neurofleet new` calls it; empty where it has none."""
    names = {which: which.split() for which in _kinds()}
    return {
        which: next((name for name in (words[-1],) if name in DRAFTS and words[0] in (name, "train")), "")
        for which, words in names.items()
    }


@cache
def _kinds() -> tuple[str, ...]:
    return tuple(job_models())


@cache
def _schema(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what describes a kind of job, and its definitions."""
    models = job_models(kind.split()[0])
    schema = job_schema(kind.split()[0])
    places = schema.get("anyOf") or [{"$ref": schema["$ref"]}]
    at = places[list(models).index(kind)]["$ref"].rsplit("/", 1)[1]
    return schema["$defs"][at], schema["$defs"]


def kind_of(content: Any) -> str:
    """Return the kind of a job, as `kinds` has it.

    Raises
    ------
    UsageError
        There is none of this kind.
    """
    keys = content if isinstance(content, dict) else {}
    kind, learner = keys.get("kind", "fit"), keys.get("learner")
    for found in (kind, f"{kind} {learner}"):
        if found in _kinds():
            return str(found)
    raise UsageError(f"expected `kind:` and, of a learner's job, `learner:` of one of: {', '.join(_kinds())}.")


def begun(kind: str) -> str:
    """Return the text of a job of a kind that has nothing else yet."""
    words = kind.split()
    learner = f"learner: {words[1]}\n" if len(words) > 1 else ""
    return f"kind: {words[0]}\n{learner}name: {words[-1]}\n"


def form_of(content: dict[str, Any]) -> list[FormField]:
    """Return the fields of a job with these keys and values; raises as `kind_of` does."""
    described, definitions = _schema(kind_of(content))
    return list(_fields((), described, content, definitions))


def typed(content: dict[str, Any], place: Sequence[str | int], text: str) -> Any:
    """Return the value that somebody has typed into a field; `REMOVED` for one that is empty and not needed.

    Raises
    ------
    UsageError
        There is no such field.
    """
    found = next((field for field in _all(form_of(content)) if field.place == tuple(place)), None)
    if found is None or found.shape not in ("text", "choice"):
        raise UsageError(f"A job of this kind has no key {'.'.join(map(str, place))!r} that is one value.")
    if not text.strip():
        return "" if found.is_needed else REMOVED
    if found.is_text:
        return text
    try:
        return read_yaml(text, "the value")
    except YamlRefused:
        return text


def _all(fields: Sequence[FormField]) -> Iterator[FormField]:
    for field in fields:
        yield field
        yield from _all(field.fields)


def _fields(
    place: tuple[str | int, ...], described: Mapping[str, Any], content: Any, definitions: Mapping[str, Any]
) -> Iterator[FormField]:
    keys = content if isinstance(content, dict) else {}
    needed = described.get("required", ())
    for key, about in described["properties"].items():
        if place or key not in ELSEWHERE:
            field = _field((*place, key), about, keys.get(key, _MISSING), definitions)
            yield replace(field, is_needed=key in needed, is_there=key in keys)


def _field(
    place: tuple[str | int, ...], about: Mapping[str, Any], value: Any, definitions: Mapping[str, Any]
) -> FormField:
    ways = list(_alternatives(about, definitions))
    help = about.get("description", "")
    objects = [way for way in ways if way.get("properties")]
    items = [way["items"] for way in ways if "items" in way]
    parts = [part for each in items for part in _alternatives(each, definitions) if part.get("properties")]
    if parts and not isinstance(value, dict | str):
        listed = value if isinstance(value, list) else []
        fields = [_part((*place, number), parts[0], each, definitions) for number, each in enumerate(listed)]
        return FormField(place, help, "list", fields=fields)
    if objects and (value is _MISSING or value is None or isinstance(value, dict)):
        return FormField(place, help, "keys", fields=list(_fields(place, objects[0], value, definitions)))
    shown = "" if value is _MISSING else value if isinstance(value, str) and "\n" not in value else flow(value)
    default = about.get("default")
    default = "" if default in (None, [], {}) else flow(default)
    types = [way.get("type") for way in ways if way != NULL]
    is_text = bool(types) and all(each == "string" for each in types)
    choices = [str(choice) for way in ways for choice in way.get("enum", ())]
    choices += ["true", "false"] if "boolean" in types else []
    if choices and all("enum" in way or way.get("type") == "boolean" for way in ways if way != NULL):
        choices += [shown] if shown and shown not in choices else []
        return FormField(place, help, "choice", shown, default, choices, is_text=is_text)
    return FormField(place, help, "text", shown, default, is_text=is_text)


def _part(
    place: tuple[str | int, ...], described: Mapping[str, Any], value: Any, definitions: Mapping[str, Any]
) -> FormField:
    return FormField(place, "", "keys", is_there=True, fields=list(_fields(place, described, value, definitions)))


def _alternatives(about: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in about:
        yield from _alternatives(definitions[about["$ref"].rsplit("/", 1)[1]], definitions)
    elif "anyOf" in about:
        for each in about["anyOf"]:
            yield from _alternatives(each, definitions)
    else:
        yield about
