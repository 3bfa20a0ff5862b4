"""Training of SIMS networks: the Lightning module, its data and tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
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
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_matrix import CellMatrix, MatrixPart, MemorySource
from neurofleet.learners.cells.cell_stream import CellBatch, CellStream, stream
from neurofleet.learners.cells.normalisation import Normalisation
from neurofleet.learners.sims.masked_gene_pretraining import MaskedGenePretraining, start_from
from neurofleet.learners.sims.sims_classifier import load_state, state_of
from neurofleet.learners.sims.tabnet import GeneInputs, TabNetEnsemble, mask_entropy, mean_log_probabilities
from neurofleet.learners.sims.tabnet_settings import SimsSettings

_WARM_UP = 0.25
_START = 1 / 25
_END = 1e-4
_PLATEAU_FACTOR = 0.75
_PLATEAU_PATIENCE = 20
_SKIP_RATE = 0.1


class SimsModule(pl.LightningModule):
    """Members trained side by side on the same batches, each by its own loss.

    A batch is a `CellBatch` of log-normalised values of the genes used, and the cells' class numbers.
    Logs ``train_loss``, ``val_loss``, ``val_accuracy`` and ``val_macro_f1``.

    Parameters
    ----------
    inputs : GeneInputs
    class_weights : Tensor, shape (classes,)
        Weights of the cross-entropy, from the training cells.
    settings : SimsSettings
    start : mapping, optional
        Pretrained encoders; with `goes_on` all of the networks.
    goes_on : bool

    References
    ----------
    The SIMS paper, methods; Arik and Pfister, AAAI 2021, section 3 for the sparsity term.
    """

    class_weights: Tensor
    n_averaged: Tensor

    def __init__(
        self,
        inputs: GeneInputs,
        class_weights: Tensor,
        settings: SimsSettings,
        start: Mapping[str, Tensor] | None = None,
        goes_on: bool = False,
    ) -> None:
        super().__init__()
        self.settings = settings
        n_classes = len(class_weights)
        self.networks = TabNetEnsemble(inputs, n_classes, settings)
        if start is not None:
            (load_state if goes_on else start_from)(self.networks, start)
        self.averaged = deepcopy(self.networks).requires_grad_(False) if settings.average_decay else None
        self.register_buffer("n_averaged", torch.tensor(0))
        self.register_buffer("class_weights", class_weights.float())
        self.val_accuracy = MulticlassAccuracy(n_classes, average="micro")
        self.val_macro_f1 = MulticlassF1Score(n_classes, average="macro")

    @property
    def best(self) -> TabNetEnsemble:
        """The networks that are validated and kept: with averaged weights where these are kept."""
        return self.networks if self.averaged is None else self.averaged

    def training_step(self, batch: tuple[CellBatch, Tensor], _: int) -> Tensor:
        cells, labels = batch
        logits, steps = self.networks(cells.dense())
        total = torch.stack(
            [
                self._loss(member_logits, labels) + self.settings.sparsity * mask_entropy(taken)
                for member_logits, taken in zip(logits, steps, strict=True)
            ]
        ).sum()
        self.log("train_loss", total / len(logits), on_epoch=True, on_step=False, batch_size=len(labels))
        for weights in self._skips:
            total = total + self.settings.skip_penalty * weights.square().sum()
        return total

    def validation_step(self, batch: tuple[CellBatch, Tensor], _: int) -> None:
        cells, labels = batch
        log_probabilities = mean_log_probabilities(self.best(cells.dense())[0])
        loss = nn.functional.nll_loss(log_probabilities, labels)
        self.val_accuracy(log_probabilities, labels)
        self.val_macro_f1(log_probabilities, labels)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(labels), sync_dist=True)
        self.log("val_accuracy", self.val_accuracy, on_epoch=True, batch_size=len(labels))
        self.log("val_macro_f1", self.val_macro_f1, on_epoch=True, batch_size=len(labels))

    def on_fit_start(self) -> None:
        self._parameters_of = [list(member.parameters()) for member in self.networks.members]
        self._skips = [p for name, p in self.networks.named_parameters() if name.endswith("skip.weight")]
        if self.averaged is not None:
            self._kept = _floats(self.averaged)
            self._new = _floats(self.networks)

    @torch.no_grad()
    def on_train_batch_end(self, *_: Any) -> None:
        if self.averaged is None:
            return
        count = int(self.n_averaged)
        share = min((1.0 + count) / (10.0 + count), self.settings.average_decay)
        torch._foreach_lerp_(self._kept, self._new, 1.0 - share)
        self.n_averaged.add_(1)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        for parameters in self._parameters_of:
            nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        skips = [p for n, p in self.networks.named_parameters() if ".skip." in n]
        others = [p for n, p in self.networks.named_parameters() if ".skip." not in n]
        groups: list[dict[str, Any]] = [{"params": others, "lr": settings.learning_rate}]
        if skips:
            groups.append({"params": skips, "lr": settings.learning_rate * _SKIP_RATE})
        fused = self.trainer.precision != "16-mixed"  # fused steps undo the scaling only after gradients are clipped
        optimizer = torch.optim.Adam(groups, weight_decay=settings.weight_decay, fused=fused)
        if settings.schedule == "one-cycle":
            n_steps = int(self.trainer.estimated_stepping_batches)
            schedule: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(one_cycle, n_steps=n_steps))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits.float(), labels, self.class_weights)


@torch.no_grad()
def set_exact_statistics(networks: TabNetEnsemble, batches: list[Tensor]) -> None:
    """Set the batch norms' running statistics to those of cells, with no gene masked.

    Parameters
    ----------
    batches : list of Tensor, shape (cells, genes used)
        As large as memory allows; with one batch the statistics are exact.
    """
    norms = [layer for layer in networks.modules() if isinstance(layer, nn.BatchNorm1d)]
    ghosts = [layer for layer in networks.modules() if hasattr(layer, "virtual_batch_size")]
    momenta, pieces = [norm.momentum for norm in norms], [ghost.virtual_batch_size for ghost in ghosts]
    networks.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for ghost in ghosts:
        ghost.training = True
        ghost.virtual_batch_size = max(len(batch) for batch in batches)
    for batch in batches:
        networks(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for ghost, size in zip(ghosts, pieces, strict=True):
        ghost.virtual_batch_size = size
    networks.eval()


def one_cycle(step: int, n_steps: int) -> float:
    """Return which part of its peak the learning rate has at a step, counted from 0.

    Up from 1/25 over the first quarter and down to almost nothing, both along half a cosine; as torch's
    OneCycleLR, which cannot be asked for trainings of a few steps.
    """
    peak, last = max(_WARM_UP * n_steps - 1, 1e-9), max(n_steps - 1, 1e-9)
    if step <= peak:
        low, done = _START, step / peak
    else:
        low, done = _START * _END, 1.0 - min((step - peak) / max(last - peak, 1e-9), 1.0)
    return low + (1.0 - low) * 0.5 * (1.0 - math.cos(math.pi * done))


def _floats(networks: TabNetEnsemble) -> list[Tensor]:
    """Return all weights and running statistics, always in the same order."""
    state = [*networks.parameters(), *networks.buffers()]
    return [tensor.detach() for tensor in state if tensor.is_floating_point()]


IN_MEMORY_BYTES = 2**30
"""Training cells that take less than this are normalised once and kept in memory."""

START = "task.start.safetensors"
_VALIDATION_BATCH = 1024


@dataclass(frozen=True)
class SimsTask:
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
    inputs : GeneInputs
    settings : SimsSettings
    is_pretraining : bool
        Whether networks learn to fill in genes instead of classes.
    start : mapping, optional
        Encoders to start from, see `neurofleet.learners.sims.masked_gene_pretraining.encoder_state`.
    goes_on : bool
        Whether `start` is whole networks, which are trained on.
    """

    cells: CellMatrix
    normalisation: Normalisation
    labels: np.ndarray
    n_classes: int
    train_rows: np.ndarray
    validation_rows: np.ndarray
    inputs: GeneInputs
    settings: SimsSettings
    is_pretraining: bool = False
    start: Mapping[str, Tensor] | None = None
    goes_on: bool = False

    def going_on(self, networks: TabNetEnsemble, rows: np.ndarray) -> SimsTask:
        """Return the training of trained networks with other cells, none of which are watched."""
        return replace(
            self,
            train_rows=np.sort(rows),
            validation_rows=np.array([], dtype=np.int64),
            settings=self.settings.going_on(len(rows)),
            start={name: tensor.detach().cpu() for name, tensor in state_of(networks).items()},
            goes_on=True,
        )

    def module(self) -> SimsModule | MaskedGenePretraining:
        """Return what is trained."""
        return MaskedGenePretraining(self.inputs, self.settings) if self.is_pretraining else self.classifier()

    def classifier(self) -> SimsModule:
        """Return the networks that learn classes, before training."""
        counts = np.bincount(self.labels[self.train_rows], minlength=self.n_classes)
        weights = np.ones(self.n_classes)
        if self.settings.class_weights == "balanced":
            weights = len(self.train_rows) / (self.n_classes * np.maximum(counts, 1))
        return SimsModule(self.inputs, torch.from_numpy(weights), self.settings, self.start, self.goes_on)

    def data(self, seed: int) -> SimsData:
        """Return the cells in batches; `seed` decides their order."""
        return SimsData(self, seed)

    def epochs(self) -> int:
        """Return after how many epochs training ends."""
        if self.is_pretraining:
            return self.settings.pretrain_epochs
        return self.settings.epochs_for(len(self.train_rows))

    def batch_size(self) -> int:
        """Return the cells of a batch, those of all workers together."""
        n_cells = len(self.train_rows)
        return self.settings.batch_size if self.is_pretraining else self.settings.batch_for(n_cells)

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
        memory = (MatrixPart(MemorySource(values), None),)
        return replace(self.cells, parts=memory, genes=genes, var=self.cells.var.loc[genes]), True

    def stream(self, rows: np.ndarray, batch_size: int, **options: Any) -> CellStream:
        """Return batches of the genes used, see `neurofleet.learners.cells.cell_stream.stream`."""
        cells, is_normalised = self.used
        return stream(cells, rows, batch_size, transform=None if is_normalised else self.used_values, **options)

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
            "goes_on": self.goes_on,
            "epochs": self.epochs(),
        }
        (folder / "task.json").write_text(json.dumps(description, indent=1))
        return {"folder": str(folder), "seed": seed}


def build(payload: Mapping[str, Any]) -> tuple[SimsModule | MaskedGenePretraining, SimsData]:
    """Return module and data of a task that was written to ``payload["folder"]``.

    Parameters
    ----------
    payload : mapping
        As `SimsTask.write` returned it; ``changes`` are settings that differ from the task's.
    """
    folder = Path(payload["folder"])
    arrays = load_file(folder / "task.safetensors")
    description = json.loads((folder / "task.json").read_text())
    task = SimsTask(
        cells=open_cells(**description["sources"]),
        normalisation=Normalisation(**description["normalisation"]),
        labels=arrays["labels"],
        n_classes=description["n_classes"],
        train_rows=arrays["train_rows"],
        validation_rows=arrays["validation_rows"],
        inputs=GeneInputs(arrays["columns"], arrays["mean"], arrays["sd"]),
        settings=SimsSettings(**(description["settings"] | payload.get("changes", {}))),
        is_pretraining=description["is_pretraining"],
        start=load_tensors(folder / START) if (folder / START).exists() else None,
        goes_on=description.get("goes_on", False),
    )
    return task.module(), task.data(payload["seed"])


class SimsData(pl.LightningDataModule):
    """Batches of a task's cells, each worker its share of every batch.

    Parameters
    ----------
    task : SimsTask
    seed : int
        Decides the order of the cells.
    """

    def __init__(self, task: SimsTask, seed: int) -> None:
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
            max(task.batch_size() // self._place["world_size"], 2),
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
