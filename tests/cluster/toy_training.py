"""A small training whose result is known to be the same, however it came about. Imported by workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests.cluster.toy_trials import once_only


class Regression(pl.LightningModule):
    """A linear model with dropout, and a learning rate that falls when there is no progress."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__()
        self._payload = payload
        self.dropout = torch.nn.Dropout(payload.get("dropout", 0.0))
        self.layer = torch.nn.Linear(4, 1)

    def _loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(self.dropout(x)), y)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self._loss(batch)
        size = len(batch[0])
        self.log("train_loss", loss, on_epoch=True, on_step=False, sync_dist=True, batch_size=size)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), sync_dist=True, batch_size=len(batch[0]))

    def on_train_epoch_start(self) -> None:
        time.sleep(self._payload.get("epoch_s", 0.0))
        if deed := self._payload.get("in_epoch", {}).get(str(self.current_epoch)):
            misbehave(deed, self._payload["once"], self.global_rank)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self._payload.get("lr", 0.1))
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def misbehave(deed: str, once: str, rank: int) -> None:
    """Do something bad in the first process that comes by."""
    if rank or not once_only(Path(once)):
        return
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def samples(n: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 4, generator=generator)
    noise = 0.1 * torch.randn(n, 1, generator=generator)
    return TensorDataset(x, x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]]) + noise)


class Samples(pl.LightningDataModule):
    """Indexed samples, shuffled, left to the road to divide."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__()
        self._n = payload.get("n", 96)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(samples(self._n), batch_size=16, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(samples(50), batch_size=16)


class Stream(IterableDataset):
    """Batches of one worker, drawn anew in each epoch, with noise from numpy's global generator."""

    def __init__(self, data: Streamed) -> None:
        self._data = data

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        trainer, epoch = self._data.trainer, self._data.epochs[-1]
        x, y = samples(96).tensors
        order = torch.randperm(96, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(16):
            mine = batch[trainer.global_rank :: trainer.world_size]
            noise = np.random.normal(scale=0.1, size=(len(mine), 1))  # noqa: NPY002
            yield [x[mine], y[mine] + torch.as_tensor(noise, dtype=torch.float32)]


class Streamed(Samples):
    """Samples that the data module divides by itself."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(payload)
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Stream(self), batch_size=None)


def build_streamed(payload: dict[str, Any]) -> tuple[Regression, Streamed]:
    return Regression(payload), Streamed(payload)


def build(payload: dict[str, Any]) -> tuple[Regression, Samples]:
    if "built" in payload:
        with open(payload["built"], "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    if payload.get("refuse"):
        raise ValueError("this reference has no labels")
    return Regression(payload), Samples(payload)
