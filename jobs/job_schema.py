"""The keys of job files as JSON Schema: for editors, and for the reference in docs."""

import ast
import sys
from collections.abc import Mapping
from functools import cache
from inspect import getsource
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.job_file import KINDS, JobSpec, named
from neurofleet.jobs.learners.learner_spec import LearnerSpec

Schema = dict[str, Any]
_CELL = "CellSpec"
_SINGLE = {"string", "number", "integer", "boolean"}


class _OfFiles(GenerateJsonSchema):
    """What may stand in a file: a list of single values also as one value, or as text with commas."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Say that the key is title enough."""
        return False

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """Return the schema of a part of a job, each key with its description."""
        made = super().model_schema(schema)
        told = descriptions_of(schema["cls"])
        for key, about in made.get("properties", {}).items():
            about["description"] = told[key]
        if "description" in made:
            made["description"] = " ".join(made["description"].split())
        return made

    def list_schema(self, schema: Any) -> JsonSchemaValue:
        """Return the schema of a list."""
        of_list = super().list_schema(schema)
        single = [part["type"] for part in _alternatives(of_list["items"]) if part.get("type") in _SINGLE]
        return {"anyOf": [of_list, {"type": ["string", *sorted({*single} - {"string"})]}]} if single else of_list


def _alternatives(schema: Mapping[str, Any]) -> list[Any]:
    return schema.get("anyOf", [schema])


def descriptions_of(model: type[BaseModel]) -> dict[str, str]:
    """Return key -> what the docstring below it says, of a part of a job.

    pydantic's `use_attribute_docstrings` does the same when a class is made, which takes a job 0.2 s to start.
    """
    told: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if issubclass(part, BaseModel) and part is not BaseModel:
            told |= _docstrings(part)
    return told


@cache
def _docstrings(part: type) -> dict[str, str]:
    module = ast.parse(getsource(sys.modules[part.__module__]))
    body = next(node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == part.__name__)
    return {
        key.target.id: " ".join(text.value.value.split())
        for key, text in pairwise(body)
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def job_models(kind: str | None = None) -> dict[str, type[JobSpec]]:
    """Return what declares the keys of each kind of job, such as ``fit`` and ``train sims``; by default of all kinds.

    Raises
    ------
    UsageError
        If there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"expected a kind of job, one of {', '.join(KINDS)}; found {kind}{did_you_mean(kind, KINDS)}.")
    models: dict[str, type[JobSpec]] = {}
    for name in KINDS if kind is None else [kind]:
        place = KINDS[name]
        places = {name: place} if isinstance(place, str) else {f"{name} {who}": at for who, at in place.items()}
        models |= {which: named(at) for which, at in places.items()}
    return models


def job_schema(kind: str | None = None) -> Schema:
    """Return the JSON Schema of job files of one kind, or of all kinds.

    It knows keys, types and single values. What is wrong about several keys together is found by ``neurofleet plan``.

    Raises
    ------
    UsageError
        If there is no such kind.
    """
    models = job_models(kind)
    places, schema = models_json_schema(
        [(model, "validation") for model in models.values()], schema_generator=_OfFiles, ref_template="#/$defs/{model}"
    )
    definitions = schema["$defs"]
    for which, model in models.items():
        job = definitions[_name_of(places[model, "validation"])]
        job["properties"]["kind"]["enum"] = [which.split()[0]]
        job["properties"]["kind"].pop("const", None)
        needed = {*job.get("required", []), *(() if which == "fit" else ("kind",))} - {"name"}
        job["required"] = sorted(needed)
        if _CELL in definitions and "cells" in job["properties"]:
            _add_tables_of_cells(job["properties"]["cells"], definitions[_CELL])
        if issubclass(model, LearnerSpec):
            _add_settings(job["properties"], model)
    whole = [places[model, "validation"] for model in models.values()]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"neurofleet job{'' if kind is None else f', kind {kind}'}",
        **(whole[0] if len(whole) == 1 else {"anyOf": whole}),
        "$defs": definitions,
    }


def _name_of(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[1]


def _add_tables_of_cells(cells: Schema, cell: Schema) -> None:
    """Add the other form of `cells`: a table or a pattern, and keys that all its cells share."""
    if not any(part.get("items", {}).get("$ref", "").endswith(f"/{_CELL}") for part in _alternatives(cells)):
        return
    ways = {
        "from": {"type": "string", "description": "CSV or Parquet file with one row per cell."},
        "glob": {"type": "string", "description": "Pattern of recordings, each with its morphology beside it."},
    }
    table = {"type": "object", "properties": ways | cell["properties"], "additionalProperties": False}
    cells["anyOf"] = [*cells.get("anyOf", [_taken(cells, "type", "items", "minItems")]), table]


def _taken(schema: Schema, *keys: str) -> Schema:
    return {key: schema.pop(key) for key in keys if key in schema}


def _add_settings(keys: Schema, model: type[LearnerSpec]) -> None:
    """Add the settings of a learner, below `settings`, below `search`, and beside the other keys."""
    settings = model.settings_model.model_json_schema(schema_generator=_OfFiles)["properties"]
    told = {name: {"description": about["description"]} for name, about in settings.items()}
    keys["preset"] |= {"enum": list(model.presets)}
    keys["settings"] |= {"properties": settings, "additionalProperties": False}
    if "search" in keys:
        keys["search"] |= {"properties": told, "additionalProperties": False}
    for name in settings.keys() - keys.keys():
        keys[name] = settings[name]
