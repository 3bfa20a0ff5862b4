"""Changes of one value in a job file's text, which leave its comments and its order as they are."""

from collections.abc import Sequence
from typing import Any

import yaml

from neurofleet.errors import UsageError
from neurofleet.jobs.drafts.draft import flow
from neurofleet.yaml_files import YamlRefused, read_yaml, read_yaml_nodes

Place = Sequence[str | int]
"""Keys, and positions in lists counted from 0; a position behind the last adds one."""

REMOVED = object()


def with_value(text: str, place: Place, value: Any) -> str:
    """Return a job file's text with another value at a place; with `REMOVED`, without what stands there.

    Where the text cannot be changed in place, as where it uses aliases, all of it is written anew, without comments.

    Raises
    ------
    UsageError
        The text is no YAML, or there is no such place.
    """
    node, content = read_yaml_nodes(text, "the job")
    content = _unshared({} if content is None else content)
    place = _removed_whole(content, place) if value is REMOVED else tuple(place)
    wanted = _changed(content, place, value)
    try:
        changed = _in_place(text, node, place, value, wanted)
        if read_yaml(changed, "the job") == wanted:
            return changed
    except (LookupError, YamlRefused):
        pass
    return yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True, width=100)


def _unshared(value: Any) -> Any:
    """Return a copy in which nothing stands twice by an alias."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def _at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


def _removed_whole(content: Any, place: Place) -> tuple[str | int, ...]:
    """Return the place of the outermost mapping that would be empty."""
    place = tuple(place)
    while len(place) > 1 and isinstance(place[-2], str) and list(_at(content, place[:-1])) == [place[-1]]:
        place = place[:-1]
    return place


def _changed(content: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    key, *rest = place
    if isinstance(key, int):
        if not isinstance(content, list) or not 0 <= key <= len(content) - (value is REMOVED):
            raise UsageError(f"There is no place {key + 1} in this list of the job.")
        if value is REMOVED and not rest:
            return content[:key] + content[key + 1 :]
        return content[:key] + [_changed(content[key] if key < len(content) else {}, rest, value)] + content[key + 1 :]
    if not isinstance(content, dict):
        content = {}
    if value is REMOVED and not rest:
        return {name: each for name, each in content.items() if name != key}
    return content | {key: _changed(content.get(key), rest, value)}


def _in_place(text: str, root: yaml.Node | None, place: Place, value: Any, wanted: Any) -> str:
    if root is None:
        return f"{text}\n{_nested(place, value)}\n".lstrip("\n")
    node, depth, key_node = root, 0, None
    for key in place:
        if node.flow_style if isinstance(node, yaml.CollectionNode) else False:
            return _replaced(text, node, key_node, flow(_at(wanted, place[:depth])))
        found = _child(node, key)
        if found is None:
            break
        (key_node, node), depth = found, depth + 1
    if value is REMOVED:
        if depth < len(place):
            return text
        start = text.rfind("\n", 0, (key_node or node).start_mark.index) + 1
        if text[start : (key_node or node).start_mark.index].strip(" ") not in ("", "-"[: isinstance(place[-1], int)]):
            raise LookupError("something else begins on this line")
        return text[:start] + text[_line_end(text, node) :]
    if depth == len(place):
        return _replaced(text, node, key_node, flow(value))
    rest = place[depth:]
    if not isinstance(node, yaml.CollectionNode):
        return _replaced(text, node, key_node, flow(_changed(None, rest, value)))
    if isinstance(rest[0], int):
        lines = yaml.safe_dump(_changed({}, rest[1:], value), sort_keys=False, allow_unicode=True, width=1000)
        block = "  " + lines.strip().replace("\n", "\n  ")
        column = text.rfind("-", 0, node.value[0].start_mark.index)
        indent = column - text.rfind("\n", 0, column) - 1
        added = "\n".join(" " * indent + line for line in f"- {block[2:]}".split("\n"))
    else:
        added = " " * node.value[0][0].start_mark.column + _nested(rest, value)
    end = _line_end(text, node)
    before = text[:end] if text[:end].endswith("\n") else f"{text[:end]}\n"
    return f"{before}{added}\n{text[end:]}"


def _child(node: yaml.Node, key: str | int) -> tuple[yaml.Node | None, yaml.Node] | None:
    if isinstance(key, int):
        is_there = isinstance(node, yaml.SequenceNode) and key < len(node.value)
        return (None, node.value[key]) if is_there else None
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((pair for pair in pairs if pair[0].value == key), None)


def _nested(place: Place, value: Any) -> str:
    rest = _changed(None, place[1:], value) if len(place) > 1 else value
    return f"{flow(place[0])}: {flow(rest)}"


def _replaced(text: str, node: yaml.Node, key: yaml.Node | None, by: str) -> str:
    if key is None:
        return text[: node.start_mark.index] + by + text[_end(text, node) :]
    colon = text.find(":", key.end_mark.index)
    if colon < 0:
        raise LookupError("a key without a colon")
    return f"{text[: key.end_mark.index]}: {by}{text[max(_end(text, node), colon + 1) :]}"


def _end(text: str, node: yaml.Node) -> int:
    """Return where a value ends; what follows it may be a comment."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        return _end(text, last[1] if isinstance(last, tuple) else last)
    end = node.end_mark.index
    return len(text[:end].rstrip()) if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">") else end


def _line_end(text: str, node: yaml.Node) -> int:
    """Return where the line behind the last of a value begins."""
    end = text.find("\n", _end(text, node))
    return len(text) if end < 0 else end + 1
