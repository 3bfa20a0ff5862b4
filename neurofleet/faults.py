"""Report all faults of a user's file at once, each with its place and the nearest known name."""

import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from neurofleet.errors import did_you_mean


def faults(error: ValidationError, model: type[BaseModel], whole: str = "the file") -> str:
    """Return all faults of a file in one sentence each: place, what was found, the nearest known key.

    `whole` is the place of a fault that lies in no single key.
    """
    lines = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"]) or whole
        if fault["type"] == "extra_forbidden":
            key = str(fault["loc"][-1])
            lines.append(f"{place}: unknown key{did_you_mean(key, _keys(model))}")
        elif fault["type"] == "missing":
            lines.append(f"{place}: is missing")
        else:
            message = fault["msg"].removeprefix("Value error, ")
            several = isinstance(fault["input"], dict)  # a rule between keys: the message names them
            lines.append(f"{place}: {message}" if several else f"{place}: {message}, found {fault['input']!r}")
    return "; ".join(lines)


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
