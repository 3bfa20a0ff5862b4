"""Makes ``kuberay.json``, a strict schema of RayCluster and RayJob, from KubeRay's definitions of them.

``python -m tests.cluster.schemas.kuberay KUBERAY/ray-operator/config/crd/bases v1.5.1 > kuberay.json``, where
KUBERAY is a checkout of github.com/ray-project/kuberay (Apache licence 2.0) at the oldest supported version.

Descriptions and ``status`` are left out, and what stands in it several times is kept once, under ``$defs``.
An unknown field, which Kubernetes refuses or drops, is refused.
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

SHARE_ABOVE_CHARACTERS = 150


def resource(folder: Path, plural: str) -> dict[str, Any]:
    """The v1 schema of a resource, strict, without its status."""
    definition = yaml.load((folder / f"ray.io_{plural}.yaml").read_text(), yaml.CSafeLoader)
    version = next(v for v in definition["spec"]["versions"] if v["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    del schema["properties"]["status"]
    schema["properties"]["kind"]["const"] = definition["spec"]["names"]["kind"]
    schema["properties"]["apiVersion"]["const"] = "ray.io/v1"
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def strict(schema: Any) -> Any:
    """A schema without its prose, which refuses properties that it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: strict(property_) for name, property_ in value.items()}
        elif key != "description":
            kept[key] = strict(value)
    if "properties" in kept and not kept.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    return kept


def shared(schema: Any, defs: dict[str, Any], seen: Counter[str]) -> Any:
    """The schema with what is in it more than once replaced by references into `defs`."""
    if isinstance(schema, list):
        return [shared(item, defs, seen) for item in schema]
    if not isinstance(schema, dict):
        return schema
    text = json.dumps(schema, sort_keys=True)
    inner = {key: shared(value, defs, seen) for key, value in schema.items()}
    if len(text) < SHARE_ABOVE_CHARACTERS or seen[text] < 2 or not ({"type", "anyOf"} & schema.keys()):
        return inner
    name = hashlib.sha256(text.encode()).hexdigest()[:8]
    defs[name] = inner
    return {"$ref": f"#/$defs/{name}"}


def count(schema: Any, seen: Counter[str]) -> None:
    """Count every part of a schema."""
    if isinstance(schema, dict):
        seen[json.dumps(schema, sort_keys=True)] += 1
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        count(value, seen)


def main(folder: str, version: str) -> None:
    """Print the schema."""
    resources = {kind: resource(Path(folder), plural) for kind, plural in PLURALS.items()}
    seen: Counter[str] = Counter()
    count(resources, seen)
    defs: dict[str, Any] = {}
    kinds = {kind: shared(schema, defs, seen) for kind, schema in resources.items()}
    document = {
        "$comment": f"github.com/ray-project/kuberay {version}; made by tests/cluster/schemas/kuberay.py",
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "oneOf": list(kinds.values()),
        "$defs": defs,
    }
    json.dump(document, sys.stdout, separators=(",", ":"), sort_keys=True)
    print()


PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}

if __name__ == "__main__":
    main(*sys.argv[1:])
