"""The data of a training divided over its workers, and the randomness of each epoch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, IterableDataset

from neurofleet.errors import ClusterError

SMALLEST_SHARE = 2
"""The fewest samples of a training batch that a worker gets: batch norm cannot learn from one."""

_ORDER = 2**32 - 1  # in the seeds in place of a rank: the order of the data is the same for all ranks


def seed_everything(*key: int) -> None:
    """Seed torch, numpy and Python from some numbers."""
    seeds = np.random.SeedSequence(key).generate_state(3)
    torch.manual_seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))  # noqa: NPY002  for modules and data modules that use it
    random.seed(int(seeds[2]))


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch on the CPU, numpy and Python for a while, and put them back."""
    before = np.random.get_state(), random.getstate()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        seed_everything(*key)
        try:
            yield
        finally:
            np.random.set_state(before[0])  # noqa: NPY002
            random.setstate(before[1])


class DataDivision:
    """Divides what a data module gives over the workers of a trainer.

    Parameters
    ----------
    seed : int
    epoch : int
        The first, counted from 0; set anew when another epoch begins.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self.seed = seed
        self.epoch = epoch

    @property
    def rank(self) -> int:
        return self._trainer.global_rank

    @property
    def workers(self) -> int:
        return self._trainer.world_size

    def apply(self, data: pl.LightningDataModule, trainer: pl.Trainer) -> None:
        """Have the loaders of a data module divided from now on, by replacing its methods."""
        self._trainer = trainer
        for name, training in (("train_dataloader", True), ("val_dataloader", False)):
            if is_overridden(name, data):
                setattr(data, name, partial(self._divided, getattr(data, name), training))
        self._set_epoch = getattr(data, "set_epoch", lambda epoch: None)

    def begin_epoch(self) -> None:
        """Tell the data module of the epoch, and seed all generators for it."""
        self._set_epoch(self.epoch)
        self.seed_epoch()

    def seed_epoch(self) -> None:
        """Seed all generators for the epoch on this worker."""
        seed_everything(self.seed, self.epoch, self.rank)

    def _divided(self, loaders: Callable[[], Any], training: bool) -> Any:
        return self._each(loaders(), training)

    def _each(self, loaders: Any, training: bool) -> Any:
        if isinstance(loaders, list | tuple):
            return type(loaders)(self._each(loader, training) for loader in loaders)
        if isinstance(loaders, dict):
            return {name: self._each(loader, training) for name, loader in loaders.items()}
        if type(loaders) is DataLoader and not isinstance(loaders.dataset, IterableDataset):
            loaders = _with_batches(loaders, _Shares(loaders.batch_sampler, self, training))
        return _EpochLoader(loaders, self) if training else loaders


class _EpochLoader:
    """A training loader that seeds all generators for the epoch at the start of each pass.

    The loader's iterator is made when the first batch is needed and not before: Lightning makes its iterators at
    different moments in the first epoch and in later ones, and making one draws random numbers.
    """

    def __init__(self, loader: Any, division: DataDivision) -> None:
        self._loader = loader
        self._division = division

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._division.begin_epoch()
        yield from self._loader


class _Shares:
    """The share of each batch that is this worker's."""

    def __init__(self, batches: Any, division: DataDivision, training: bool) -> None:
        if batches is None:
            raise ClusterError(
                "A data module gave a DataLoader without batches (batch_size=None) over a dataset that is"
                " indexed by number. Give it a batch size, or divide the data in the data module and give an"
                " IterableDataset."
            )
        self._batches = batches
        self._division = division
        self._smallest_share = SMALLEST_SHARE if training else 1
        self._drawn: tuple[int, list[list[int]]] = (-1, [])

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[list[int]]:
        rank, workers = self._division.rank, self._division.workers
        return iter([batch[rank::workers] for batch in self._all()])

    def _all(self) -> list[list[int]]:
        """The epoch's batches, the same on every worker."""
        if self._drawn[0] != self._division.epoch:
            self._drawn = self._division.epoch, self._draw(self._division.seed, self._division.epoch)
        return self._drawn[1]

    def _draw(self, seed: int, epoch: int) -> list[list[int]]:
        with seeded(seed, epoch, _ORDER):
            sampler = getattr(self._batches, "sampler", None)
            for owner in (self._batches, sampler):
                if isinstance(generator := getattr(owner, "generator", None), torch.Generator):
                    generator.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
                getattr(owner, "set_epoch", lambda epoch: None)(epoch)
            batches = [list(batch) for batch in self._batches]
        workers = self._division.workers
        if len(batches) > 1 and len(batches[-1]) < workers * self._smallest_share:
            rest = batches.pop()
            batches[-1] += rest
        if small := [len(batch) for batch in batches if len(batch) < workers]:
            raise ClusterError(
                f"A batch of {min(small)} samples cannot be divided over {workers} workers. Use fewer"
                " workers, or a larger batch size; that is of the whole training, not of a worker."
            )
        return batches


def _with_batches(loader: DataLoader, batches: Any) -> DataLoader:
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )
