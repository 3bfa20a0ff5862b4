"""Report all faults of a user's file at once, each with its place, what was expected, and the nearest known name."""

import reprlib
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from neurofleet.errors import did_you_mean

_SHOWN = reprlib.Repr()  # takes its limits as arguments only since Python 3.12
_SHOWN.maxstring = _SHOWN.maxother = 80
_SHOWN.maxlist = _SHOWN.maxdict = 4
_SHOWN.maxlevel = 2

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "keys and values",
    "mapping_type": "keys and values",
    "model_type": "keys and values",
    "dataclass_type": "keys and values",
    "none_required": "nothing",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "at least {min_length} letters",
    "string_too_long": "at most {max_length} letters",
    "invalid_key": "a key that is a word",
}
"""What pydantic calls a fault -> what should have been there, in words."""

SECRET_VALUE = "secret_value"
"""Type of a fault whose value is not told: it may hold a password."""

_OTHER_TYPE = {name for name in _EXPECTED if name.endswith(("_type", "_parsing"))} | {"literal_error", "none_required"}
"""Faults of a value that was not meant to be of this kind."""


def faults(error: ValidationError, model: type[BaseModel], whole: str = "", content: Any = None) -> str:
    """Return all faults of a file in one sentence each: place, what was expected and found, the nearest known key.

    Parameters
    ----------
    error : ValidationError
    model : type
        What the file was checked against.
    whole : str
        What a fault that lies in no single key is said of; nothing where the caller names it.
    content : mapping, optional
        What was checked. With it, the names that the checker gives to alternatives are no part of a place.
    """
    choices: dict[tuple, dict[Any, list[_Fault]]] = {}
    telling = _Telling(model, whole, content)
    for number, details in enumerate(error.errors(include_url=False)):
        fault = _placed(details, content)
        at = number if fault.choice is None else fault.place[: fault.choice]
        choices.setdefault((at,), {}).setdefault(fault.alternative, []).append(fault)
    lines = [line for alternatives in choices.values() for line in telling.lines(list(alternatives.values()))]
    return "; ".join(dict.fromkeys(lines))


class _Fault(NamedTuple):
    """A fault: what pydantic says of it, the keys that lead to it, and those of them that lead to alternatives."""

    details: Any
    place: tuple
    choice: int | None = None
    alternative: Any = None


def _placed(details: Any, content: Any) -> _Fault:
    if content is None:
        return _Fault(details, tuple(details["loc"]))
    keys: list[Any] = []
    choice, alternative = None, None
    here = content
    last = len(details["loc"]) - 1
    for number, part in enumerate(details["loc"]):
        if isinstance(here, Mapping) and part in here:
            here = here[part]
        elif isinstance(here, list | tuple) and isinstance(part, int) and part < len(here):
            here = here[part]
        elif details["type"] not in ("missing", "extra_forbidden") or number < last:
            if choice is None and part != "[key]":
                choice, alternative = len(keys), part
            continue
        keys.append(part)
    return _Fault(details, tuple(keys), choice, alternative)


class _Telling(NamedTuple):
    """What faults are told with: see `faults`."""

    model: type[BaseModel]
    whole: str
    content: Any

    def lines(self, alternatives: list[list[_Fault]]) -> list[str]:
        """Return the faults of the alternatives that the value was meant for; of none, what each of them expects."""
        meant = [found for found in alternatives if not any(_is_other_type(fault) for fault in found)]
        if len(alternatives) > 1 and not meant:
            fault = alternatives[0][0]
            expected = list(dict.fromkeys(_expected(found[0].details) for found in alternatives))
            return [f"{self._name(fault.place)}expected {' or '.join(expected)}, found {shown(fault.details['input'])}"]
        return [self._line(fault) for found in meant or alternatives for fault in found]

    def _name(self, place: tuple) -> str:
        name = place_in_words(place, self.content) or self.whole
        return f"{name}: " if name else ""

    def _line(self, placed: _Fault) -> str:
        fault, place = placed.details, self._name(placed.place)
        if fault["type"] == "extra_forbidden":
            return f"{place}unknown key{did_you_mean(str(placed.place[-1]), _keys(self.model))}"
        if fault["type"] == "missing":
            return f"{place}is missing"
        if fault["type"] == SECRET_VALUE:
            return f"{place}{fault['msg']}"
        if fault["type"] in ("value_error", "assertion_error"):
            message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
            # A rule between keys names them itself.
            return f"{place}{message}" if isinstance(fault["input"], dict) else _found(f"{place}{message}", fault)
        if fault["type"] == "literal_error":
            known = [word.strip("'") for word in fault["ctx"]["expected"].replace(" or ", ", ").split(", ")]
            return _found(f"{place}expected {_expected(fault)}", fault) + did_you_mean(str(fault["input"]), known)
        return _found(f"{place}expected {_expected(fault)}", fault)


def _is_other_type(fault: _Fault) -> bool:
    return fault.details["type"] in _OTHER_TYPE and len(fault.place) == fault.choice


def place_in_words(place: tuple, content: Any = None) -> str:
    """Return where something stands in a file, as people count: ``cell C1: axon``, ``evolution.seeds, value 2``.

    Parameters
    ----------
    place : tuple
        Keys, and positions in lists counted from 0.
    content : mapping, list or model, optional
        The file's content: parts of a list that have an ``id`` or a ``name`` are called by it.
    """
    told = ""
    for number, step in enumerate(place):
        is_key = not isinstance(step, int) or isinstance(content, Mapping)
        content = _inside(content, step)
        if is_key:
            told += f"{'' if not told or told.endswith(': ') else '.'}{step}"
        elif number == len(place) - 1 and not isinstance(content, Mapping | BaseModel):
            told += f", value {step + 1}"
        else:
            called = next((_inside(content, key) for key in ("id", "name") if _inside(content, key) is not None), None)
            has_name = isinstance(called, str | int) and len(str(called)) <= 40 and place[number + 1 :] != ("id",)
            told = f"{told.removesuffix('s')} {called if has_name else step + 1}"
            told += ": " if number < len(place) - 1 else ""
    return told


def _inside(content: Any, step: Any) -> Any:
    if isinstance(content, Mapping):
        return content.get(step)
    if isinstance(content, list | tuple):
        return content[step] if isinstance(step, int) and step < len(content) else None
    return getattr(content, step, None) if isinstance(content, BaseModel) and isinstance(step, str) else None


def _expected(fault: dict[str, Any]) -> str:
    if fault["type"] == "literal_error":
        words = fault["ctx"]["expected"].replace("'", "")
        return f"one of {words}" if "," in words or " or " in words else words
    words = _EXPECTED.get(fault["type"])
    if words is None:
        return fault["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    limits = {name: f"{limit:g}" for name, limit in fault.get("ctx", {}).items() if isinstance(limit, int | float)}
    return words.format(**limits).replace("least 1 of them", "least one").replace("least 1 letters", "least one letter")


def _found(told: str, fault: dict[str, Any]) -> str:
    return f"{told}, found {shown(fault['input'])}"


def shown(value: Any) -> str:
    """Return what was found, as a message shows it: short, and as YAML has it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = _SHOWN.repr(value)
    return f"{value:.6g}" if isinstance(value, float) and len(text) > 10 else text


def _keys(model: Any, seen: set | None = None) -> set[str]:
    """Return the keys of `model` and of every model inside it."""
    seen = set() if seen is None else seen
    if isinstance(model, type) and issubclass(model, BaseModel):
        if model in seen:
            return set()
        seen.add(model)
        keys = set(model.model_fields)
        for field in model.model_fields.values():
            keys |= _keys(field.annotation, seen)
        return keys
    return {key for part in typing.get_args(model) for key in _keys(part, seen)}
