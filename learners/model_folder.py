"""A model is written and read as a folder: model.safetensors and model.json. Loading runs no code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from neurofleet.learners.learner_errors import LearnerError

if TYPE_CHECKING:
    import torch

FORMAT = "neurofleet model"
VERSION = 1
TENSORS = "model.safetensors"
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
    """

    learner: str
    run: str
    description: dict[str, Any]
    tensors: dict[str, np.ndarray]


def write_model(
    folder: Path,
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
    folder = Path(folder)
    _refuse_other_model(folder, run)
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
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / TENSORS, content)
    _replace(folder / DESCRIPTION, text.encode())


def read_model(folder: Path, learner: str | None = None) -> StoredModel:
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
    folder = Path(folder)
    head = _description(folder)
    if learner is not None and head["learner"] != learner:
        raise ModelRefused(f"{folder} holds a model of learner {head['learner']!r}; expected {learner!r}.")
    path = folder / TENSORS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelRefused(f"{folder} is no whole model: {TENSORS} cannot be read ({error}).") from error
    if hashlib.sha256(content).hexdigest() != head["sha256"]:
        raise ModelRefused(
            f"{path} is not the file that {DESCRIPTION} describes (its checksum differs): it is damaged or of"
            " another model. Copy the folder again as a whole, or train again."
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ModelRefused(f"{path} is no safetensors file ({error}).") from error
    found = {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in tensors.items()}
    for name in sorted(found.keys() | head["tensors"].keys()):
        if found.get(name) != head["tensors"].get(name):
            raise ModelRefused(
                f"{folder}: {DESCRIPTION} says that tensor {name} is {_shape(head['tensors'].get(name))},"
                f" {TENSORS} holds {_shape(found.get(name))}. Copy the folder again as a whole."
            )
    return StoredModel(head["learner"], head["run"], head["description"], tensors)


def _description(folder: Path) -> dict[str, Any]:
    """Return the checked content of model.json."""
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
        found = ", ".join((pickles or names)[:5]) or "nothing"
        why = " Pickles are not loaded: they can run any code." if pickles else ""
        raise ModelRefused(f"{folder} is no model: expected {DESCRIPTION} and {TENSORS}, found {found}.{why}")
    try:
        head = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} cannot be read as JSON ({error}). Put back a good copy.") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        found = head.get("format", "no format") if isinstance(head, dict) else type(head).__name__
        raise ModelRefused(f"{path} is of another program: expected format {FORMAT!r}, found {found!r}.")
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


def _refuse_other_model(folder: Path, run: str) -> None:
    if folder.is_file():
        raise ModelRefused(f"{folder} is a file; a model needs a folder. Give another name.")
    if not (folder / DESCRIPTION).exists() and not (folder / TENSORS).exists():
        return
    found = _description(folder)["run"]
    if found != run:
        raise ModelRefused(
            f"{folder} already holds the model of another run ({found[:12]}; this one is {run[:12]})."
            " Nothing was written. Give another folder, or remove that model."
        )


def _array(tensor: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return a C-ordered array on the CPU: safetensors stores the buffer as it lies in memory."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().numpy()
    return np.asarray(tensor, order="C")


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(2)
    return path.suffix in PICKLES or start[:1] == b"\x80" or start == b"PK"


def _shape(entry: dict[str, Any] | None) -> str:
    return "absent" if entry is None else f"{entry.get('dtype')} {entry.get('shape')}"
