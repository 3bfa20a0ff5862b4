"""One training of HIPPIE networks: which units, which settings; written for other processes to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from learners.hippie.inputs import Inputs
from learners.hippie.module import FineTuning, Members, Pretraining
from learners.hippie.network import Sizes
from learners.hippie.settings import Settings

START = "start.safetensors"
_VALIDATION_BATCH = 1024


@dataclass(frozen=True)
class Task:
    """A training.

    Attributes
    ----------
    inputs : Inputs
        All units that it uses, as the networks take them.
    labels : array of int, shape (units,)
        Class numbers; -1 where there is none. Unused in pretraining.
    n_classes : int
        0 in pretraining.
    train_rows, validation_rows : array of int
    settings : Settings
    start : mapping, optional
        State of a pretrained network.
    stage : {'pretraining', 'adaptation', 'fine-tuning'}
    """

    inputs: Inputs
    labels: np.ndarray
    n_classes: int
    train_rows: np.ndarray
    validation_rows: np.ndarray
    settings: Settings
    start: Mapping[str, Tensor] | None = None
    stage: str = "fine-tuning"

    @property
    def sizes(self) -> Sizes:
        """What decides the networks' shapes."""
        inputs = self.inputs
        n_hand = inputs.hand.shape[1] if self.n_classes and self.settings.hand_features else 0
        return Sizes(inputs.modalities, inputs.n_technologies, self.n_classes, n_hand)

    def module(self) -> Members:
        """Return what is trained."""
        if self.stage == "fine-tuning":
            return FineTuning(self.sizes, self.settings, self.start)
        one = self.settings.model_copy(update={"members": 1})
        return Pretraining(self.sizes, one, self.start)

    def data(self, seed: int) -> HippieData:
        """Return the units in batches; `seed` decides their order."""
        return HippieData(self, seed)

    def epochs(self) -> int:
        """Return after how many epochs training ends."""
        settings = self.settings
        stages = {"pretraining": settings.pretrain_epochs, "adaptation": settings.adapt_epochs}
        return stages.get(self.stage, settings.epochs)

    def write(self, folder: Path, seed: int) -> dict[str, Any]:
        """Write the task for `build`, and return what `build` is to be called with."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = self.inputs.arrays() | {
            "labels": self.labels,
            "train_rows": self.train_rows,
            "validation_rows": self.validation_rows,
        }
        save_file(
            {n: np.ascontiguousarray(array) for n, array in arrays.items()}, folder / "task.safetensors"
        )
        if self.start is not None:
            save_tensors({name: tensor.clone() for name, tensor in self.start.items()}, folder / START)
        description = {
            "modalities": self.inputs.modalities,
            "n_technologies": self.inputs.n_technologies,
            "n_classes": self.n_classes,
            "settings": self.settings.model_dump(mode="json"),
            "stage": self.stage,
            "has_start": self.start is not None,
            "epochs": self.epochs(),
        }
        (folder / "task.json").write_text(json.dumps(description, indent=1))
        return {"folder": str(folder), "seed": seed}


def build(payload: Mapping[str, Any]) -> tuple[Members, HippieData]:
    """Return module and data of a task that was written to ``payload["folder"]``.

    Parameters
    ----------
    payload : mapping
        As `Task.write` returned it; ``changes`` are settings that differ from the task's.
    """
    folder = Path(payload["folder"])
    arrays = load_file(folder / "task.safetensors")
    described = json.loads((folder / "task.json").read_text())
    task = Task(
        inputs=Inputs.from_arrays(arrays, tuple(described["modalities"]), described["n_technologies"]),
        labels=arrays["labels"],
        n_classes=described["n_classes"],
        train_rows=arrays["train_rows"],
        validation_rows=arrays["validation_rows"],
        settings=Settings(**(described["settings"] | payload.get("changes", {}))),
        start=load_tensors(folder / START) if described["has_start"] else None,
        stage=described["stage"],
    )
    return task.module(), task.data(payload["seed"])


class HippieData(pl.LightningDataModule):
    """Batches of a task's units: in fine-tuning each class as often as any other.

    Parameters
    ----------
    task : Task
    seed : int
        Decides the order of the units.
    """

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__()
        self.task = task
        self._generator = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> DataLoader:
        task = self.task
        units = _Units(task, task.train_rows)
        if task.stage != "fine-tuning":
            size, order = task.settings.pretrain_batch_size, {"shuffle": True}
        else:
            labels = task.labels[task.train_rows]
            weights = (1.0 / np.bincount(labels, minlength=task.n_classes).clip(min=1))[labels]
            sampler = WeightedRandomSampler(weights.tolist(), len(units), generator=self._generator)
            size, order = task.settings.batch_size, {"sampler": sampler}
        # A last batch of a unit or two would spoil batch norm's statistics.
        whole = len(units) >= size
        return DataLoader(
            units, size, drop_last=whole, generator=self._generator, collate_fn=units.gathered, **order
        )

    def val_dataloader(self) -> DataLoader | list[Any]:
        if not len(self.task.validation_rows):
            return []
        units = _Units(self.task, self.task.validation_rows)
        return DataLoader(units, _VALIDATION_BATCH, collate_fn=units.gathered)


class _Units(Dataset):
    """Row numbers; a batch of them is gathered at once."""

    def __init__(self, task: Task, rows: np.ndarray) -> None:
        self._rows = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        self._tensors = task.inputs.tensors() | {"label": torch.from_numpy(task.labels)}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> int:
        return int(self._rows[index])

    def gathered(self, rows: list[int]) -> dict[str, Tensor]:
        chosen = torch.tensor(rows)
        return {name: tensor[chosen] for name, tensor in self._tensors.items()}
