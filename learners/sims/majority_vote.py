"""Labels smoothed over clusters of a query: each cluster has the label that most of its cells have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

CELLS_OF_CLUSTER = 40
MOST_CLUSTERS = 500
FITTED_CELLS = 20_000


def cluster_cells(blocks: Callable[[], Iterator[np.ndarray]], n_cells: int, seed: int = 0) -> np.ndarray:
    """Return the cluster of each cell, (cells,) int32: about one for 40 cells, and at most 500 (k-means).

    Parameters
    ----------
    blocks : callable
        Yields the coordinates (cells, components) of all cells, block by block; it is called twice.
    n_cells : int
    seed : int
    """
    from sklearn.cluster import MiniBatchKMeans

    k = min(max(n_cells // CELLS_OF_CLUSTER, 1), MOST_CLUSTERS)
    drawn = np.sort(np.random.default_rng(seed).permutation(n_cells)[:FITTED_CELLS])
    sample, start = [], 0
    for block in blocks():
        first, last = np.searchsorted(drawn, (start, start + len(block)))
        sample.append(block[drawn[first:last] - start])
        start += len(block)
    means = MiniBatchKMeans(k, n_init=3, batch_size=4096, random_state=seed).fit(np.concatenate(sample))
    return np.concatenate([means.predict(block) for block in blocks()]).astype(np.int32)


@dataclass(frozen=True)
class Votes:
    """How many cells of each cluster have each label.

    Attributes
    ----------
    counts : array of int, shape (clusters, labels)
    """

    counts: np.ndarray

    @classmethod
    def of(cls, clusters: np.ndarray, labels: np.ndarray, n_clusters: int, n_labels: int) -> Votes:
        """Count the labels (numbers) of cells in each cluster."""
        counts = np.zeros((n_clusters, n_labels), dtype=np.int64)
        np.add.at(counts, (clusters, labels), 1)
        return cls(counts)

    def __add__(self, other: Votes) -> Votes:
        return Votes(self.counts + other.counts)

    def winners(self, least_share: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the label of each cluster, -1 where it has too small a share, and the share.

        Parameters
        ----------
        least_share : float
            Of a cluster's cells. Of equal labels the first wins.
        """
        best = self.counts.argmax(1)
        share = self.counts.max(1, initial=0) / np.maximum(self.counts.sum(1), 1)
        return np.where(share < least_share, -1, best), share
