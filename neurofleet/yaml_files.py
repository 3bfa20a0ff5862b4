"""YAML that people write: job files, recipes and layouts, read without surprises.

What stands for a number or for true and false is decided as in YAML 1.2: ``NO`` and ``on`` are words, ``12:30`` is no
number of seconds, and ``010`` is no octal number. A key that stands twice is a fault, and so is a file whose aliases
or nesting would make it grow without bounds.
"""

import codecs
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from neurofleet.errors import InputError, UsageError, nearest_file

DEEPEST = 100
"""Levels of lists and keys within each other."""

MOST_VALUES = 1_000_000
"""Values of a file with its aliases written out; a file without aliases may have any number."""


class YamlRefused(UsageError, InputError):
    """A file that is no YAML, or none that can be read as it was meant."""


def read_yaml_file(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises
    ------
    YamlRefused
        It cannot be read, is no text, or is refused as `read_yaml` does.
    """
    try:
        content = path.read_bytes()
        is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except FileNotFoundError as error:
        raise YamlRefused(f"{path}: there is no such file{nearest_file(path)}.") from error
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise YamlRefused(
                f"{path}: expected a file of text in YAML, found one that is no text. If it is data, `neurofleet new"
                " KIND FILE` writes a job for it."
            ) from error
        raise YamlRefused(f"{path}: cannot be read ({error.strerror}). Expected a file of text in YAML.") from error
    return read_yaml(text, str(path))


def read_yaml(text: str, source: str) -> Any:
    """Return what YAML `text` holds; `source` names it in errors.

    Raises
    ------
    YamlRefused
        No YAML, more than one document, a key twice, nested too deep, or values without end.
    """
    return read_yaml_nodes(text, source)[1]


def read_yaml_nodes(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """Return the tree of YAML `text`, which knows where everything stands, and what it holds; raises as `read_yaml`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _check_size(node)
        return node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        told = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlRefused(f"{source}: not readable as YAML ({place}{told}).") from error
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        raise YamlRefused(f"{source}: not readable as YAML ({' '.join(str(error).split())}).") from error


class _Loader(yaml.SafeLoader):
    """Reads plain data; the implicit types are those that YAML 1.1 and 1.2 agree on."""

    yaml_implicit_resolvers: dict = {}
    yaml_constructors: ClassVar[dict] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"lists or keys are nested more than {DEEPEST} deep", problem_mark=self.peek_event().start_mark
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_yaml_map(self, node: yaml.MappingNode) -> Any:
        # Before `<<` is resolved: a key may stand beside the same key of what is merged in.
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = None if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
            if key_node.tag == _MERGE or not isinstance(key, Hashable):
                continue  # the base class merges the one, and refuses the other
            if key in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is given twice, in lines {lines[key]} and {key_node.start_mark.line + 1};"
                    " leave one of them out",
                    problem_mark=key_node.start_mark,
                )
            lines[key] = key_node.start_mark.line + 1
        yield from super().construct_yaml_map(node)


_MERGE = "tag:yaml.org,2002:merge"
_IMPLICIT = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": r"0|-?[1-9][0-9]*",
    "float": r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
for _name, _rule in _IMPLICIT.items():
    _pattern, _first = _rule if isinstance(_rule, tuple) else (_rule, "-+0123456789.")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))
for _name in ("null", "bool", "int", "float", "str", "seq", "map"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", getattr(_Loader, f"construct_yaml_{_name}"))
_Loader.add_constructor(None, _Loader.construct_undefined)  # type: ignore[type-var]  # the stub's generic self


def _check_size(root: yaml.Node) -> None:
    """Refuse a document that refers to itself, or that its aliases would make deep or large."""
    values: dict[int, int] = {}
    depths: dict[int, int] = {}
    open_nodes: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        if id(node) in values:
            waiting.pop()
            continue
        parts = _parts(node)
        left = [part for part in parts if id(part) not in values]
        if left and id(node) not in open_nodes:
            open_nodes.add(id(node))
            waiting += left
            continue
        if left:
            raise yaml.MarkedYAMLError(problem="an alias refers to what it stands in", problem_mark=node.start_mark)
        waiting.pop()
        values[id(node)] = 1 + sum(values[id(part)] for part in parts)
        depths[id(node)] = 1 + max((depths[id(part)] for part in parts), default=0)
    if values[id(root)] > max(MOST_VALUES, len(values)) or depths[id(root)] > DEEPEST:
        raise yaml.MarkedYAMLError(
            problem=f"its aliases (`*name`) stand for more than {MOST_VALUES:,} values, or are nested more than"
            f" {DEEPEST} deep; write out what you need",
            problem_mark=root.start_mark,
        )


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
