"""A map of the samples that a model was trained on, on which others are placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from threadpoolctl import threadpool_limits

from neurofleet.learners.reference_distance import FEWEST_SAMPLES, KEPT_SAMPLES, ReferenceDistance

MAP = "map"
"""What a table of embeddings calls the place on the map: ``map_0``, ``map_1``, and ``obsm["X_map"]``."""


@dataclass(frozen=True)
class ReferenceMap:
    """Embeddings of training samples, and their places on a map (t-SNE).

    Attributes
    ----------
    points : array of float32, shape (samples, size)
    plane : array of float32, shape (samples, 2)
    """

    points: np.ndarray
    plane: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, seed: int = 0) -> Self | None:
        """Make the map of up to 2,000 samples; None of fewer than 20, or where they are all the same.

        Parameters
        ----------
        vectors : array, shape (samples, size)
        seed : int
            Decides which of more than 2,000 are on the map.
        """
        rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:KEPT_SAMPLES])
        points = np.asarray(vectors[rows], np.float32)
        if len(points) < FEWEST_SAMPLES or (points.std(0) > 0).sum() < 2:
            return None
        with threadpool_limits(1):  # the same numbers on any machine, and quicker beside a busy neighbour
            return cls(points, tsne_map(points))

    def placed(self, vectors: np.ndarray) -> np.ndarray:
        """Return the places of samples, (samples, 2) float32: means of the nearest samples', the nearer the more."""
        _, nearest, weights = self._points.nearest(vectors)
        return np.einsum("nk,nkd->nd", weights, self.plane[nearest]).astype(np.float32)

    @cached_property
    def _points(self) -> ReferenceDistance:
        return ReferenceDistance(self.points, np.ones(1, np.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name."""
        return {"points": self.points, "plane": self.plane}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self | None:
        """Return what `arrays` returned as an object again; None without arrays, which earlier versions did not write.

        Raises
        ------
        KeyError
            If one of the arrays is missing.
        """
        return cls(arrays["points"], arrays["plane"]) if arrays else None


def tsne_map(vectors: np.ndarray) -> np.ndarray:
    """Return a map (t-SNE) of vectors, shape (samples, n >= 2), as float32, shape (samples, 2)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 4)
    made = TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(vectors)
    return made.astype(np.float32)
