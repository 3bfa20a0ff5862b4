"""Cells in shuffled batches: from disk by blocks of neighbours, from memory in any order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from scdataset import BlockShuffling, Streaming, scDataset
from torch.utils.data import IterableDataset

from neurofleet.errors import LearnerError
from neurofleet.learners.cells.cell_matrix import CellMatrix

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # we only make them dense


class CellBatch(NamedTuple):
    """A batch on its way to the device: dense, or the parts of a CSR matrix.

    Attributes
    ----------
    rows : (n,) int64 tensor
        Which cells these are.
    values : float32 tensor
        (n, n_genes), or the stored values.
    columns : int32 tensor or None
        The gene of each stored value; None if `values` is dense.
    offsets : (n + 1,) int32 tensor or None
        Where each cell's stored values begin.
    n_genes : int
    """

    rows: torch.Tensor
    values: torch.Tensor
    columns: torch.Tensor | None
    offsets: torch.Tensor | None
    n_genes: int

    def dense(self) -> torch.Tensor:
        """Return cells × genes as a dense tensor, on the device where the batch is."""
        if self.columns is None or self.offsets is None:
            return self.values
        size = (len(self.rows), self.n_genes)
        sparse = torch.sparse_csr_tensor(self.offsets, self.columns, self.values, size=size, check_invariants=False)
        return sparse.to_dense()


@dataclass(eq=False)
class CellStream(IterableDataset):
    """The batches of one epoch after the other, as `stream` describes."""

    cells: CellMatrix
    rows: np.ndarray
    batch_size: int
    seed: int
    epoch: int
    rank: int
    world_size: int
    block_size: int
    fetch_factor: int
    shuffle: bool
    classes: np.ndarray | None
    max_per_class: int | None
    weights: np.ndarray | None
    transform: Callable[[sp.csr_matrix], sp.csr_matrix] | None

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch's order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return -(-len(self.order()) // self.batch_size)

    def order(self) -> np.ndarray:
        """Return the cells of this rank in this epoch, in order."""
        if not self.shuffle:
            return np.array_split(self.rows, self.world_size)[self.rank]
        generator = np.random.default_rng([self.seed, self.epoch])
        rows = self._drawn(generator)
        if self.cells.is_in_memory:
            return _dealt(generator.permutation(rows), self.batch_size, self.rank, self.world_size)
        blocks = BlockShuffling(self.block_size, indices=np.sort(rows)).get_indices(self.cells, rng=generator)
        share = len(blocks) // self.world_size
        mine = blocks[self.rank * share : (self.rank + 1) * share].copy()
        window = self.batch_size * self.fetch_factor
        for start in range(0, share, window):
            generator.shuffle(mine[start : start + window])
        return _without_single(mine, self.batch_size)

    def __iter__(self) -> Iterator[CellBatch]:
        order = self.order()
        yield from scDataset(
            order,
            Streaming(),
            self.batch_size,
            self.fetch_factor,
            fetch_callback=self._fetch,
            batch_callback=_batch,
            rank=0,  # `order` is this rank's already, equally long on all ranks
            world_size=1,
            seed=0,
        )

    def _fetch(self, order: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray | sp.csr_matrix]:
        rows = order[places]
        dense = self.cells.dense
        if dense is not None and self.transform is None:
            return rows, dense[rows]
        values = self.cells.read(rows)
        return rows, values if self.transform is None else self.transform(values)

    def _drawn(self, generator: np.random.Generator) -> np.ndarray:
        """Draw this epoch's cells: at most `max_per_class` of a class, or by weight, or all."""
        if self.weights is not None:
            return generator.choice(self.rows, len(self.rows), p=self.weights / self.weights.sum())
        if self.max_per_class is None or self.classes is None:
            return self.rows
        shuffled = generator.permutation(len(self.rows))
        classes = self.classes[shuffled]
        kept = [shuffled[classes == label][: self.max_per_class] for label in np.unique(classes)]
        return self.rows[np.concatenate(kept)]


def stream(
    cells: CellMatrix,
    rows: np.ndarray,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    block_size: int = 32,
    fetch_factor: int = 16,
    shuffle: bool = True,
    classes: np.ndarray | None = None,
    max_per_class: int | None = None,
    weights: np.ndarray | None = None,
    transform: Callable[[sp.csr_matrix], sp.csr_matrix] | None = None,
) -> CellStream:
    """Stream some cells in batches: an iterable dataset for ``DataLoader(..., batch_size=None)``.

    From disk, blocks of `block_size` neighbours are read in random order and shuffled within
    ``fetch_factor * batch_size`` cells. From memory the order is random altogether, and a batch of n on each
    of k ranks holds together the same cells as one of k * n on a single rank.

    Parameters
    ----------
    rows : (n,) array of int
        The cells to take; all ranks are given the same.
    seed, epoch
        Decide the order, whatever the process.
    rank, world_size
        Which of how many equal shares of the epoch is wanted. In shuffled order, cells that do not go round
        and a last batch of a single cell are left out (others in every epoch), so that all ranks have as many
        batches; unshuffled, none is.
    classes : (n,) array of int, optional
        The class of each of `rows`, for `max_per_class`: at most so many of each class are drawn in an epoch.
    weights : (n,) array, optional
        Draw n of `rows`, with replacement, by these weights.
    transform
        What is done to every matrix read, such as normalising; in the loader's processes.

    Raises
    ------
    LearnerError
        If there are no cells, or one only in shuffled order, or both ways of drawing are asked for.
    """
    if weights is not None and max_per_class is not None:
        raise LearnerError("Cells are drawn by weight or by a limit per class; choose one of the two.")
    if max_per_class is not None and classes is None:
        raise LearnerError("A limit per class needs the class of each cell.")
    n_drawn = len(rows)
    if max_per_class is not None and classes is not None:
        n_drawn = int(np.minimum(np.unique(classes, return_counts=True)[1], max_per_class).sum())
    n_needed = 2 * world_size if shuffle else 1
    if n_drawn < n_needed:
        raise LearnerError(f"Expected at least {n_needed} cells for {world_size} workers, found {n_drawn}.")
    return CellStream(
        cells,
        np.asarray(rows, dtype=np.int64),
        batch_size,
        seed=seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        block_size=block_size,
        fetch_factor=fetch_factor,
        shuffle=shuffle,
        classes=classes,
        max_per_class=max_per_class,
        weights=weights,
        transform=transform,
    )


def _dealt(order: np.ndarray, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Deal batches of one global order to the ranks, the last one in equal parts."""
    n_whole = len(order) // (batch_size * world_size) * batch_size * world_size
    whole = order[:n_whole].reshape(-1, world_size, batch_size)[:, rank].reshape(-1)
    share = (len(order) - n_whole) // world_size
    rest = order[n_whole + rank * share : n_whole + (rank + 1) * share]
    return _without_single(np.concatenate([whole, rest]), batch_size)


def _without_single(order: np.ndarray, batch_size: int) -> np.ndarray:
    """Leave a last batch of one cell out: batch statistics of a single cell break training."""
    return order[:-1] if batch_size > 1 and len(order) % batch_size == 1 else order


def _batch(fetched: tuple[np.ndarray, np.ndarray | sp.csr_matrix], places: np.ndarray) -> CellBatch:
    rows, values = fetched[0], fetched[1][places]
    n_genes = values.shape[1]
    if isinstance(values, np.ndarray):
        return CellBatch(torch.from_numpy(rows[places]), torch.from_numpy(values), None, None, n_genes)
    return CellBatch(
        torch.from_numpy(rows[places]),
        torch.from_numpy(values.data),
        torch.from_numpy(values.indices),
        torch.from_numpy(values.indptr),
        n_genes,
    )
