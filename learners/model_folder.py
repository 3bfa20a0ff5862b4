"""A model is written and read as a folder: model.safetensors and model.json. Loading runs no code."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from neurofleet.errors import LearnerError, UsageError, did_you_mean
from neurofleet.faults import faults
from neurofleet.input_paths import name_of, with_home

if TYPE_CHECKING:
    import torch

Settings = TypeVar("Settings", bound=BaseModel)

FORMAT = "neurofleet model"
VERSION = 1
TENSORS = "model.safetensors"
QUICK = "quick"
"""Among a model's facts: that a quick run has made it, in words."""

DESCRIPTION = "model.json"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".bin")


class ModelRefused(LearnerError):
    """A folder is no model of ours, is damaged, or holds another model than the one to be written."""

    exit_code = 2


@dataclass(frozen=True)
class StoredModel:
    """What a model folder holds.

    Attributes
    ----------
    learner : str
        Which learner wrote it, such as ``sims``.
    run : str
        Fingerprint of the training run that wrote it.
    description : dict
        Config, classes, genes, preprocessing, temperature, scores …: whatever JSON can hold.
    tensors : dict of arrays
        By name.
    written : datetime
        When the folder was written, in local time.
    sha256 : str
        Of its tensors.
    """

    learner: str
    run: str
    description: dict[str, Any]
    tensors: dict[str, np.ndarray]
    written: datetime
    sha256: str


def write_model(
    folder: str | Path,
    *,
    learner: str,
    run: str,
    description: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray | torch.Tensor],
) -> None:
    """Write a model; other files of the folder stay as they are.

    Both files are written under temporary names and renamed. The same run may write again.

    Raises
    ------
    ModelRefused
        When the folder holds the model of another run, or something that is no model under its name.
    LearnerError
        When the description holds what JSON cannot (NaN included).
    """
    folder = with_home(folder)
    refuse_other_model(folder, run)
    files = model_files(learner=learner, run=run, description=description, tensors=tensors)
    is_new, before = not folder.exists(), [name for name in files if (folder / name).exists()]
    folder.mkdir(parents=True, exist_ok=True)
    partial = {name: folder / f"{name}.partial" for name in files}
    try:
        for name, content in files.items():
            _write(partial[name], content)
        for name in files:
            os.replace(partial[name], folder / name)
    except BaseException:  # Ctrl-C too leaves no half of a model
        for name, path in partial.items():
            path.unlink(missing_ok=True)
            if name not in before:
                (folder / name).unlink(missing_ok=True)
        if is_new:
            folder.rmdir()
        raise


def model_files(
    *,
    learner: str,
    run: str,
    description: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray | torch.Tensor],
) -> dict[str, bytes]:
    """Return the files of a model by their names, tensors first; raises as `write_model` where JSON cannot hold it."""
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    content = save(arrays)
    head = {
        "format": FORMAT,
        "version": VERSION,
        "learner": learner,
        "run": run,
        "sha256": hashlib.sha256(content).hexdigest(),
        "tensors": {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()},
        "description": dict(description),
    }
    try:
        text = json.dumps(head, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise LearnerError(f"The model's description cannot be stored as JSON: {error}.") from error
    return {TENSORS: content, DESCRIPTION: text.encode()}


def read_model(folder: str | Path, learner: str | None = None) -> StoredModel:
    """Read a model folder after checking format, version, checksum and shapes.

    Parameters
    ----------
    folder : Path
        The folder, not a file in it.
    learner : str
        The learner that it must be of, if that matters.

    Raises
    ------
    ModelRefused
        Saying what was expected and what was found.
    """
    folder = with_home(folder)
    head = read_head(folder)
    if learner is not None and head["learner"] != learner:
        uses = f" {USES[head['learner']]}" if head["learner"] in USES else ""
        raise ModelRefused(f"{folder} holds a model of learner {head['learner']!r}; expected {learner!r}.{uses}")
    path = folder / TENSORS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{folder} is not a complete model: {TENSORS} cannot be read ({error}).") from error
    if hashlib.sha256(content).hexdigest() != head["sha256"]:
        raise ModelRefused(
            f"{path} is not the file that {DESCRIPTION} describes (its checksum differs): it is damaged or of"
            " another model. Copy the folder again as a whole, or train again."
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ModelRefused(f"{path} is not a safetensors file ({error}).") from error
    stored = {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in tensors.items()}
    for name in sorted(stored.keys() | head["tensors"].keys()):
        if stored.get(name) != head["tensors"].get(name):
            raise ModelRefused(
                f"{folder}: {DESCRIPTION} says that tensor {name} is {_shape(head['tensors'].get(name))},"
                f" {TENSORS} holds {_shape(stored.get(name))}. Copy the folder again as a whole."
            )
    written = datetime.fromtimestamp((folder / DESCRIPTION).stat().st_mtime)
    return StoredModel(head["learner"], head["run"], head["description"], tensors, written, head["sha256"])


MODEL_CLASSES = {
    "sims": "neurofleet.learners.sims.sims_model:SimsModel",
    "hippie": "neurofleet.learners.hippie.hippie_model:HippieModel",
    "neuprint": "neurofleet.learners.neuprint.neuprint_model:NeuprintModel",
}
"""Learner -> the class of its models. Named, not imported: each of them imports this module."""

USES = {
    "sims": "`neurofleet predict` and `explain` use it, for cells by genes.",
    "hippie": "`neurofleet embed` uses it: it names and embeds units.",
    "neuprint": "`neurofleet embed` uses it: it names and embeds neurons.",
}
"""Learner -> which commands take its models."""


def load_model(folder: str | Path, device: str | None = None) -> Any:
    """Load a trained model of any learner; no code of the folder is run.

    Parameters
    ----------
    folder : path
        As ``train(..., out=folder)`` or ``neurofleet run`` of a training wrote it.
    device : str, optional
        Where the networks of a SIMS model compute, such as ``cpu`` or ``cuda``; by default a GPU where there is one.
        The other learners predict on the CPU.

    Returns
    -------
    SimsModel, HippieModel or NeuprintModel

    Raises
    ------
    ModelRefused
        If the folder holds no model, a damaged one, or one of a learner that this neurofleet does not have.

    Examples
    --------
    >>> model = load_model("runs/pbmc")
    >>> model
    """
    import torch

    folder = with_home(folder)
    learner = read_head(folder)["learner"]
    if learner not in MODEL_CLASSES:
        raise ModelRefused(
            f"{folder} holds a model of learner {learner!r}; this neurofleet has {', '.join(MODEL_CLASSES)}."
            " Use the neurofleet that wrote it."
        )
    module, name = MODEL_CLASSES[learner].split(":")
    model_class = getattr(import_module(module), name)
    if learner != "sims":
        return model_class.load(folder)
    return model_class.load(folder, device or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def refuse_damaged(folder: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a model is made from its description and tensors into a refusal.

    Raises
    ------
    ModelRefused
        Naming the file, and what is wrong with it.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelRefused(
            f"{Path(folder) / DESCRIPTION} is damaged, or of another version: {type(error).__name__}: {error}."
            " Put back a good copy of the folder, or train again."
        ) from error


def tensors_under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def model_fingerprint(description: Mapping[str, Any]) -> str:
    """Return the sha256 of what a training depends on, plain JSON: the `run` of its model."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def package_versions() -> dict[str, str]:
    """Return the versions that a model's numbers can depend on."""
    versions = {"python": platform.python_version()}
    for package in ("neurofleet", "torch", "lightning", "scikit-learn", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def now_in_words() -> str:
    """Return the present local time, to the minute: when a model was trained."""
    return datetime.now().isoformat(" ", "minutes")


def source_names(sources: Any) -> list[str]:
    """Return what the data of a training are called: names of files, or the type of what lay in memory."""
    several = sources if isinstance(sources, list | tuple) else [sources]
    return [name_of(item) if isinstance(item, str | Path) else type(item).__name__ for item in several]


def checked_settings(
    settings_of: Callable[[str, dict[str, Any] | None], Settings],
    presets: Mapping[str, Any],
    preset: str,
    changes: Mapping[str, Any] | None,
) -> Settings:
    """Return a learner's settings, and refuse what is wrong with them in words.

    Raises
    ------
    UsageError
        For an unknown preset or setting (with the nearest name), or a value out of range.
    """
    if preset not in presets:
        raise UsageError(f"Expected a preset of {', '.join(presets)}, found {preset!r}{did_you_mean(preset, presets)}.")
    try:
        return settings_of(preset, dict(changes or {}))
    except ValidationError as error:
        told = faults(error, type(settings_of(preset, None)), content=presets[preset] | dict(changes or {}))
        raise UsageError(f"settings: {told}.") from None


def model_summary(learner: str, lines: Sequence[str], facts: Mapping[str, Any], written: datetime | None) -> str:
    """Return the text of a model's ``repr``: what it is, what it was trained on, and when.

    Parameters
    ----------
    learner : str
    lines : sequence of str
    facts : mapping
        Of the model: ``trained_at``, where a training in this process has noted it, and ``versions``.
    written : datetime or None
        When its folder was written, which stands in for it.
    """
    when = facts.get("trained_at") or (written.isoformat(" ", "minutes") if written else "")
    version = facts.get("versions", {}).get("neurofleet", "")
    ends = [f"trained {when}" if when else "", f"neurofleet {version}" if version else ""]
    last = ", ".join(end for end in ends if end)
    return "\n    ".join([f"{learner} model", *lines, *filter(None, [last, facts.get(QUICK)])])


def read_head(folder: Path) -> dict[str, Any]:
    """Return the checked content of a folder's model.json; its tensors are not read.

    Raises
    ------
    ModelRefused
        Saying what was expected and what was found.
    """
    if folder.is_file():
        kind = " It is a pickle, which can run any code when it is loaded." if _is_pickle(folder) else ""
        raise ModelRefused(
            f"{folder} is a file; expected a model folder with {DESCRIPTION} and {TENSORS}.{kind}"
            " Give the folder that a training run wrote."
        )
    if not folder.is_dir():
        raise ModelRefused(f"There is no folder {folder}; expected a model folder with {DESCRIPTION} and {TENSORS}.")
    path = folder / DESCRIPTION
    if not path.is_file():
        names = sorted(entry.name for entry in folder.iterdir())
        pickles = [name for name in names if name.endswith(PICKLES)]
        present = ", ".join((pickles or names)[:5]) or "nothing"
        why = " Pickles are not loaded: they can run any code." if pickles else ""
        raise ModelRefused(f"{folder} is not a model: expected {DESCRIPTION} and {TENSORS}, found {present}.{why}")
    try:
        head = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} cannot be read as JSON ({error}). Put back a good copy.") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        present = head.get("format", "no format") if isinstance(head, dict) else type(head).__name__
        raise ModelRefused(f"{path} is of another program: expected format {FORMAT!r}, found {present!r}.")
    if head.get("version") != VERSION:
        raise ModelRefused(
            f"{path} is of version {head.get('version')!r}; this neurofleet reads version {VERSION}."
            " Use the neurofleet that wrote it, or train again."
        )
    kinds = {"learner": str, "run": str, "sha256": str, "tensors": dict, "description": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(head.get(name), kind)]
    if wrong:
        raise ModelRefused(f"{path} is damaged: {', '.join(wrong)} missing or of the wrong kind.")
    return head


def refuse_other_model(folder: str | Path, run: str) -> None:
    """Refuse a folder that holds the model of another run, before time is spent on this one.

    Raises
    ------
    ModelRefused
        Naming both runs.
    """
    folder = with_home(folder)
    if folder.is_file():
        raise ModelRefused(f"{folder} is a file; a model needs a folder. Give another name.")
    if not (folder / DESCRIPTION).exists() and not (folder / TENSORS).exists():
        return
    other = read_head(folder)["run"]
    if other != run:
        raise ModelRefused(
            f"{folder} already holds the model of another run ({other[:12]}; this one is {run[:12]})."
            " Nothing was written. Give another folder, or remove that model."
        )


def _array(tensor: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return a C-ordered array on the CPU: safetensors stores the buffer as it lies in memory."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().numpy()
    return np.asarray(tensor, order="C")


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(2)
    return path.suffix in PICKLES or start[:1] == b"\x80" or start == b"PK"


def _shape(entry: dict[str, Any] | None) -> str:
    return "absent" if entry is None else f"{entry.get('dtype')} {entry.get('shape')}"
