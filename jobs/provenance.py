"""What a run was made from; a run folder is taken up again only by the same job on the same inputs."""

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs.errors import UsageError
from jobs.spec import JobSpec, parse_job

if TYPE_CHECKING:
    from cluster.store import RunStore

PACKAGES = (
    "neurofleet",
    "neuron",
    "bluepyopt",
    "efel",
    "cmaes",
    "numpy",
    "pynwb",
    "ray",
    "pyarrow",
    "torch",
    "lightning",
    "scikit-learn",
    "anndata",
    "scipy",
    "umap-learn",
    "salib",
)


def open_run(spec: JobSpec, inputs: dict[str, str], folder: Path, store: "RunStore") -> bool:
    """Record job and inputs in a new run folder, or make sure that they are those of the run in it.

    Returns
    -------
    bool
        Whether a run is resumed.

    Raises
    ------
    UsageError
        When the folder holds a run of another job or of changed inputs; says what differs.
    """
    stored = store.read_text("job.yaml")
    if stored is None:
        record = {"job_folder": str(folder.resolve()), "inputs": inputs, "versions": versions()}
        store.write_text("provenance.json", json.dumps(record, indent=1))
        store.write_text("job.yaml", yaml.safe_dump(spec.plain(), sort_keys=False))
        return False
    kept = parse_job(stored, f"{store.root}/job.yaml", spec.name)
    differences = _differences(kept.identity(), spec.identity())
    before = json.loads(store.read_text("provenance.json") or "{}")
    differences += [
        f"input {name} has changed" if name in inputs else f"input {name} is gone"
        for name, digest in before.get("inputs", {}).items()
        if inputs.get(name) != digest
    ]
    now = versions()
    differences += [
        f"{package} was {before['versions'].get(package)}, is {now[package]}"
        for package in spec.decisive_packages
        if before.get("versions", {}).get(package, now[package]) != now[package]
    ]
    if differences:
        raise UsageError(
            f"{store.root} holds a run that this job cannot go on with: {'; '.join(differences)}. "
            "Undo the change to resume the run, or choose another --out for a new one."
        )
    return True


def versions() -> dict[str, str]:
    """Return the versions that a score can depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def _differences(before: Any, now: Any, place: str = "") -> list[str]:
    """Return one line for each key whose value differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*before, *now]))
        return [
            line
            for key in keys
            for line in _differences(before.get(key), now.get(key), f"{place}.{key}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line
            for i, (b, n) in enumerate(zip(before, now, strict=True))
            for line in _differences(b, n, f"{place}.{i}")
        ]
    return [] if before == now else [f"{place} was {before!r}, is {now!r}"]
