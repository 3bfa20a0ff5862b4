"""One training of SIMS networks: which cells, which settings; written for other processes to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor
from torch.utils.data import DataLoader

from learners.cells.matrix import CellMatrix, Part
from learners.cells.normalisation import Normalisation
from learners.cells.opening import open_cells
from learners.cells.sources import MemorySource
from learners.cells.stream import CellBatch, CellStream, stream
from learners.sims.module import SimsModule
from learners.sims.network import Inputs
from learners.sims.pretraining import Pretraining
from learners.sims.settings import Settings

IN_MEMORY_BYTES = 2**30
"""Training cells that take less than this are normalised once and kept in memory."""

START = "start.safetensors"
_VALIDATION_BATCH = 1024


@dataclass(frozen=True)
class Task:
    """A training.

    Attributes
    ----------
    cells : CellMatrix
        The reference, as it is in its files.
    normalisation : Normalisation
    labels : array of int, shape (cells,)
        Class numbers; -1 where there is none.
    n_classes : int
    train_rows, validation_rows : array of int
    inputs : Inputs
    settings : Settings
    is_pretraining : bool
        Whether networks learn to fill in genes instead of classes.
    start : mapping, optional
        Encoders to start from, see `learners.sims.pretraining.encoder_state`.
    """

    cells: CellMatrix
    normalisation: Normalisation
    labels: np.ndarray
    n_classes: int
    train_rows: np.ndarray
    validation_rows: np.ndarray
    inputs: Inputs
    settings: Settings
    is_pretraining: bool = False
    start: Mapping[str, Tensor] | None = None

    def module(self) -> SimsModule | Pretraining:
        """Return what is trained."""
        return Pretraining(self.inputs, self.settings) if self.is_pretraining else self.classifier()

    def classifier(self) -> SimsModule:
        """Return the networks that learn classes, before training."""
        counts = np.bincount(self.labels[self.train_rows], minlength=self.n_classes)
        weights = np.ones(self.n_classes)
        if self.settings.class_weights == "balanced":
            weights = len(self.train_rows) / (self.n_classes * np.maximum(counts, 1))
        return SimsModule(self.inputs, torch.from_numpy(weights), self.settings, self.start)

    def data(self, seed: int) -> SimsData:
        """Return the cells in batches; `seed` decides their order."""
        return SimsData(self, seed)

    def epochs(self) -> int:
        """Return after how many epochs training ends."""
        if self.is_pretraining:
            return self.settings.pretrain_epochs
        return self.settings.epochs_for(len(self.train_rows))

    def used_values(self, values: sp.csr_matrix) -> sp.csr_matrix:
        """Return log-normalised values of the genes used from values as they are in the files."""
        return sp.csr_matrix(self.normalisation.apply(values)[:, self.inputs.columns])

    @cached_property
    def used(self) -> tuple[CellMatrix, bool]:
        """The cells with log-normalised values of the genes used, and whether they are that already.

        In memory where the training's cells are small enough; else they are normalised as they are read.
        """
        rows = np.union1d(self.train_rows, self.validation_rows)
        if 4 * len(self.cells) * len(self.inputs.columns) > IN_MEMORY_BYTES:
            return self.cells, False
        values = np.zeros((len(self.cells), len(self.inputs.columns)), dtype=np.float32)
        start = 0
        for block in self.cells.blocks(rows):
            values[rows[start : start + block.shape[0]]] = self.used_values(block).toarray()
            start += block.shape[0]
        genes = self.cells.genes[self.inputs.columns]
        memory = (Part(MemorySource(values), None),)
        return replace(self.cells, parts=memory, genes=genes, var=self.cells.var.loc[genes]), True

    def stream(self, rows: np.ndarray, batch_size: int, **options: Any) -> CellStream:
        """Return batches of the genes used, see `learners.cells.stream.stream`."""
        cells, is_normalised = self.used
        return stream(
            cells, rows, batch_size, transform=None if is_normalised else self.used_values, **options
        )

    def write(self, folder: Path, sources: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Write the task for `build`, and return what `build` is to be called with.

        Parameters
        ----------
        sources : mapping
            What `open_cells` was called with, with absolute paths.
        """
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            "labels": self.labels,
            "train_rows": self.train_rows,
            "validation_rows": self.validation_rows,
            "columns": self.inputs.columns,
            "mean": self.inputs.mean,
            "sd": self.inputs.sd,
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(arrays, folder / "task.safetensors")
        if self.start is not None:
            save_tensors({name: tensor.clone() for name, tensor in self.start.items()}, folder / START)
        description = {
            "sources": dict(sources),
            "normalisation": asdict(self.normalisation),
            "n_classes": self.n_classes,
            "settings": self.settings.model_dump(),
            "is_pretraining": self.is_pretraining,
            "epochs": self.epochs(),
        }
        (folder / "task.json").write_text(json.dumps(description, indent=1))
        return {"folder": str(folder), "seed": seed}


def build(payload: Mapping[str, Any]) -> tuple[SimsModule | Pretraining, SimsData]:
    """Return module and data of a task that was written to ``payload["folder"]``.

    Parameters
    ----------
    payload : mapping
        As `Task.write` returned it; ``changes`` are settings that differ from the task's.
    """
    folder = Path(payload["folder"])
    arrays = load_file(folder / "task.safetensors")
    description = json.loads((folder / "task.json").read_text())
    task = Task(
        cells=open_cells(**description["sources"]),
        normalisation=Normalisation(**description["normalisation"]),
        labels=arrays["labels"],
        n_classes=description["n_classes"],
        train_rows=arrays["train_rows"],
        validation_rows=arrays["validation_rows"],
        inputs=Inputs(arrays["columns"], arrays["mean"], arrays["sd"]),
        settings=Settings(**(description["settings"] | payload.get("changes", {}))),
        is_pretraining=description["is_pretraining"],
        start=load_tensors(folder / START) if (folder / START).exists() else None,
    )
    return task.module(), task.data(payload["seed"])


class SimsData(pl.LightningDataModule):
    """Batches of a task's cells, each worker its share of every batch.

    Parameters
    ----------
    task : Task
    seed : int
        Decides the order of the cells.
    """

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__()
        self.task = task
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch's order comes next."""
        self.epoch = epoch
        if hasattr(self, "_train"):
            self._train.set_epoch(epoch)

    @property
    def _place(self) -> dict[str, int]:
        trainer = self.trainer
        assert trainer is not None
        return {"rank": trainer.global_rank, "world_size": trainer.world_size}

    def train_dataloader(self) -> DataLoader:
        task = self.task
        self._train = task.stream(
            task.train_rows,
            max(task.settings.batch_size // self._place["world_size"], 2),
            seed=self.seed,
            epoch=self.epoch,
            **self._place,
            classes=task.labels[task.train_rows],
            max_per_class=None if task.is_pretraining else task.settings.most_per_class,
        )
        return self._loader(self._train)

    def val_dataloader(self) -> DataLoader | list[Any]:
        if not len(self.task.validation_rows):
            return []
        return self._loader(
            self.task.stream(self.task.validation_rows, _VALIDATION_BATCH, shuffle=False, **self._place)
        )

    def _loader(self, cells: CellStream) -> DataLoader:
        labels = torch.from_numpy(self.task.labels)
        return DataLoader(cells, batch_size=None, collate_fn=partial(_with_labels, labels))


def _with_labels(labels: Tensor, batch: CellBatch) -> tuple[CellBatch, Tensor]:
    return batch, labels[batch.rows]
