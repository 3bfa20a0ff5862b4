"""How far samples lie from those that a model was trained on, and what is likeliest of values that they lack."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

COMPONENTS = 20
NEIGHBOURS = 5
CLIP = 10.0
INSIDE = 0.95
"""The share of held-out samples of the reference that lie inside its limit."""

WARNED_OUTSIDE = 0.2
"""From this share of samples outside on, a user is warned."""


@dataclass(frozen=True)
class Components:
    """Principal components of shifted and scaled values, with the variance that they leave (probabilistic PCA).

    Attributes
    ----------
    mean, scale : array of float32, shape (genes,)
        What is subtracted from log-normalised values, and what these are divided by before they are clipped at 10.
    loadings : array of float32, shape (genes, components)
    variance : array of float32, shape (components,)
    noise : array of float32, shape (1,)
        Mean variance of a gene outside the components.
    """

    mean: np.ndarray
    scale: np.ndarray
    loadings: np.ndarray
    variance: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> Components:
        """Find the components of cells (cells, genes)."""
        from sklearn.decomposition import PCA

        scaled = _scaled(values, mean, scale)
        centre = scaled.mean(0, dtype=np.float64)
        pca = PCA(min(COMPONENTS, min(scaled.shape) - 1), svd_solver="randomized", random_state=0).fit(scaled)
        return cls(
            (mean + scale * centre).astype(np.float32),
            scale.astype(np.float32),
            np.ascontiguousarray(pca.components_.T, np.float32),
            np.maximum(pca.explained_variance_, 1e-6).astype(np.float32),
            np.array([max(pca.noise_variance_, 1e-6)], np.float32),
        )

    def coordinates(self, values: np.ndarray, absent: np.ndarray | None = None) -> np.ndarray:
        """Return cells in the components, (cells, components) float32.

        Parameters
        ----------
        values : array of float32, shape (cells, genes)
            Log-normalised.
        absent : array of bool, shape (genes,), optional
            Genes that are not known; the coordinates are then those that are likeliest given all other genes
            (Tipping and Bishop, J. R. Stat. Soc. B 1999).
        """
        if absent is None or not absent.any():
            return _scaled(values, self.mean, self.scale) @ self.loadings
        known = np.flatnonzero(~absent)
        loadings = self.loadings[known].astype(np.float64)
        weights = np.linalg.solve(loadings.T @ loadings + np.diag(self.noise / self.variance), loadings.T)
        return _scaled(values[:, known], self.mean[known], self.scale[known]) @ weights.T.astype(np.float32)

    def uncertainty(self, absent: np.ndarray) -> float:
        """Return which share of the components' variance is not known where some genes, (genes,) bool, are not.

        The mean over the components: from about 0 where all genes are known to 1 where none is.
        """
        loadings = self.loadings[~absent].astype(np.float64)
        known = loadings.T @ loadings / self.noise + np.diag(1.0 / self.variance)
        return float((np.diag(np.linalg.inv(known)) / self.variance).mean())

    def estimated(self, values: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Return the likeliest values of absent genes given all others, (cells, absent genes)."""
        coordinates = self.coordinates(values, absent)
        return self.mean[absent] + self.scale[absent] * (coordinates @ self.loadings[absent].T)


def _scaled(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = (values - mean.astype(np.float32)) / scale.astype(np.float32)
    return np.clip(scaled, -CLIP, CLIP, out=scaled)


@dataclass(frozen=True)
class ReferenceDistance:
    """Distances from the samples of a reference, measured by those of further samples of it.

    Attributes
    ----------
    points : array of float32, shape (samples, coordinates)
    held_out : array of float32, shape (held-out samples,)
        Distances of samples that are not among the points, ascending.
    """

    points: np.ndarray
    held_out: np.ndarray

    @property
    def limit(self) -> float:
        """The distance that 95 % of the held-out samples do not exceed."""
        return float(np.quantile(self.held_out, INSIDE))

    def described(self) -> dict[str, float]:
        """Return what it was made from, as plain JSON."""
        return {
            "limit": self.limit,
            "cells": len(self.points),
            "held_out_cells": len(self.held_out),
            "inside": INSIDE,
        }

    def of(self, coordinates: np.ndarray) -> np.ndarray:
        """Return the distance of samples, (samples,) float32, where 1 is the limit."""
        return self.nearest(coordinates)[0]

    def nearest(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the distance of samples, where 1 is the limit, and the nearest points with their weights.

        Returns
        -------
        distance : array of float32, shape (samples,)
            Mean distance to the nearest points, over `limit`.
        nearest : array of int, shape (samples, neighbours)
        weights : array, shape (samples, neighbours)
            The nearer the more; a row's sum is 1.
        """
        distances, nearest = self._tree.query(coordinates, range(1, min(NEIGHBOURS, len(self.points)) + 1))
        weights = 1.0 / np.maximum(distances, 1e-6)
        weights /= weights.sum(1, keepdims=True)
        return (distances.mean(1) / max(self.limit, 1e-9)).astype(np.float32), nearest, weights

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points)


FAR = "Of another condition, technology or type, they may have wrong labels with high probabilities."
"""What it means that many samples lie outside."""


def outside_in_words(n_outside: int, n_samples: int, samples: str = "cells", owner: str = "reference") -> str:
    """Say how many samples are farther from the reference than nearly all of its own."""
    return (
        f"{n_outside:,} of {n_samples:,} {samples} ({100 * n_outside / max(n_samples, 1):.1f} %) lie outside: farther"
        f" from the {owner} than {100 * INSIDE:.0f} % of its own {samples}"
    )
