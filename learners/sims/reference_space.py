"""Where the reference's cells lie: it tells how far a query's cells are, and estimates the genes that a query lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

COMPONENTS = 20
NEIGHBOURS = 5
CLIP = 10.0
SD_FLOOR_QUANTILE = 0.05
KEPT_CELLS, KEPT_OF_CLASS = 2000, 30
KEPT_VALUES = 50_000_000
HELD_OUT_CELLS, HELD_OUT_SHARE = 1000, 0.2
FEWEST_CELLS = 20
INSIDE = 0.95
"""The share of held-out cells of the reference that lie inside its limit."""

_COMPONENTS = ("distances", "estimates")


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

    def estimated(self, values: np.ndarray, absent: np.ndarray) -> np.ndarray:
        """Return the likeliest values of absent genes given all others, (cells, absent genes)."""
        coordinates = self.coordinates(values, absent)
        return self.mean[absent] + self.scale[absent] * (coordinates @ self.loadings[absent].T)


def _scaled(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    scaled = (values - mean.astype(np.float32)) / scale.astype(np.float32)
    return np.clip(scaled, -CLIP, CLIP, out=scaled)


@dataclass(frozen=True)
class ReferenceSpace:
    """Principal components of a reference, and a sample of its cells in them.

    Attributes
    ----------
    distances : Components
        Of z-scores: cells are near to each other, or far, in these.
    estimates : Components
        Of log values as they are: genes that a query lacks are estimated by these.
    share : array of float32, shape (genes,)
        Of the counts of a cell, on average.
    cells : array of float32, shape (cells, components)
        The sample, in `distances`.
    labels : array of int32, shape (cells,)
        Class numbers.
    plane : array of float32, shape (cells, 2)
        The same cells as a map (t-SNE).
    held_out : array of float32, shape (held-out cells,)
        Distances of further cells of the reference, which neither the components nor `cells` know, ascending.
    """

    distances: Components
    estimates: Components
    share: np.ndarray
    cells: np.ndarray
    labels: np.ndarray
    plane: np.ndarray
    held_out: np.ndarray

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ReferenceSpace:
        """Return what `arrays` returned as an object again.

        Raises
        ------
        KeyError
            If an array is missing.
        """
        components = {
            name: Components(**{field.name: arrays[f"{name}.{field.name}"] for field in fields(Components)})
            for name in _COMPONENTS
        }
        others = {field.name: arrays[field.name] for field in fields(cls) if field.name not in _COMPONENTS}
        return cls(**components, **others)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _COMPONENTS}
        for name in _COMPONENTS:
            arrays |= {f"{name}.{key}": array for key, array in vars(getattr(self, name)).items()}
        return arrays

    @property
    def limit(self) -> float:
        """The distance that 95 % of the held-out cells of the reference do not exceed."""
        return float(np.quantile(self.held_out, INSIDE))

    def described(self) -> dict[str, float]:
        """Return what it was made from, as plain JSON."""
        return {"limit": self.limit, "cells": len(self.cells), "held_out_cells": len(self.held_out), "inside": INSIDE}

    def placed(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance of cells, where 1 is the limit, and their place on the map.

        Returns
        -------
        distance : array of float32, shape (cells,)
            Mean distance to the nearest cells of the reference, over `limit`.
        plane : array of float32, shape (cells, 2)
            Mean place of these, the nearer the more.
        """
        distances, nearest = self._tree.query(coordinates, range(1, min(NEIGHBOURS, len(self.cells)) + 1))
        weights = 1.0 / np.maximum(distances, 1e-6)
        weights /= weights.sum(1, keepdims=True)
        plane = np.einsum("nk,nkd->nd", weights, self.plane[nearest])
        return (distances.mean(1) / max(self.limit, 1e-9)).astype(np.float32), plane.astype(np.float32)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.cells)


def reference_space(
    read: Callable[[np.ndarray], sp.csr_matrix], rows: np.ndarray, labels: np.ndarray, seed: int = 0
) -> ReferenceSpace | None:
    """Make the space of a reference; None of fewer than 20 cells.

    Parameters
    ----------
    read : callable
        Returns log-normalised values (rows, genes) of some rows, which ascend.
    rows : array of int
        Labelled cells that a model may know.
    labels : array of int
        Class numbers of all rows of the reference.
    seed : int
        Decides which cells are kept, and which are held out.
    """
    if len(rows) < FEWEST_CELLS:
        return None
    order = np.random.default_rng(seed).permutation(rows)
    n_held = min(int(HELD_OUT_SHARE * len(rows)), HELD_OUT_CELLS)
    held_rows, others = np.sort(order[:n_held]), order[n_held:]
    n_genes = read(rows[:1]).shape[1]
    kept = np.sort(_some_of_each(others, labels, max(min(KEPT_CELLS, KEPT_VALUES // n_genes), FEWEST_CELLS)))
    values = read(kept).toarray()
    mean, sd = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    varying = sd > 0
    if varying.sum() < 2:
        return None
    sd = np.where(varying, np.maximum(sd, np.quantile(sd[varying], SD_FLOOR_QUANTILE)), 1.0)
    counts = np.expm1(np.maximum(values, 0)).mean(0, dtype=np.float64)
    with threadpool_limits(1):  # the same numbers on any machine, and quicker beside a busy neighbour
        distances, estimates = Components.of(values, mean, sd), Components.of(values, mean, np.ones(n_genes))
        cells = distances.coordinates(values)
        plane = cell_map(cells)
    space = ReferenceSpace(
        distances,
        estimates,
        (counts / max(counts.sum(), 1e-9)).astype(np.float32),
        cells,
        labels[kept].astype(np.int32),
        plane,
        np.ones(1, np.float32),
    )
    far, _ = space.placed(distances.coordinates(read(held_rows).toarray()))
    return replace(space, held_out=np.sort(far))


def cell_map(cells: np.ndarray) -> np.ndarray:
    """Return a map (t-SNE) of vectors, shape (cells, n >= 2), as float32, shape (cells, 2)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(cells) - 1) / 4)
    return TSNE(perplexity=perplexity, init="pca", max_iter=500, random_state=0).fit_transform(cells).astype(np.float32)


def _some_of_each(rows: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, of each class some before any has more; the order of `rows` decides."""
    if len(rows) <= most:
        return rows
    of_class = labels[rows]
    n_classes = len(np.unique(of_class))
    each = max(min(KEPT_OF_CLASS, most // n_classes), 1)
    first = np.concatenate([np.flatnonzero(of_class == number)[:each] for number in np.unique(of_class)])
    rest = np.setdiff1d(np.arange(len(rows)), first)
    return rows[np.concatenate([first, rest])[:most]]
