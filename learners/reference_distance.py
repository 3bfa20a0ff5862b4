"""How far samples lie from those that a model was trained on, and what is likeliest of values that they lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

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


FOLDS = 5
FEWEST_SAMPLES, FEWEST_OTHERS = 20, 10
KEPT_SAMPLES = 2000
SD_FLOOR_QUANTILE = 0.05


@dataclass(frozen=True)
class TrainingSpace:
    """Where the units or neurons that a model was trained on lie; it tells how far others are.

    Attributes
    ----------
    components : Components
        Of standardised values.
    distance : ReferenceDistance
        In these.
    """

    components: Components
    distance: ReferenceDistance

    @classmethod
    def of(
        cls, values: np.ndarray, groups: np.ndarray | None, sizes: np.ndarray | None = None, seed: int = 0
    ) -> Self | None:
        """Make the space of training samples; None of fewer than 20, or in fewer than two groups.

        Samples are held out in five parts, whole groups together, and their distances from the others, by components of
        the others, give the limit.

        Parameters
        ----------
        values : array, shape (samples, values)
            NaN where one was not measured.
        groups : array, shape (samples,), or None
            Animal or recording of each.
        sizes : array, shape (values,), optional
            How many values there are of the same kind: a kind weighs the same, however many it has.
        seed : int
            Decides the parts.
        """
        rng = np.random.default_rng(seed)
        rows = np.flatnonzero(~np.isnan(values).all(1))
        rows = np.sort(rng.permutation(rows)[:KEPT_SAMPLES])
        values = values[rows].astype(np.float32)
        if len(rows) < FEWEST_SAMPLES:
            return None
        weights = np.ones(values.shape[1]) if sizes is None else np.sqrt(np.asarray(sizes, np.float64))
        _, codes = np.unique(np.arange(len(rows)) if groups is None else groups[rows], return_inverse=True)
        parts = (rng.permutation(codes.max() + 1) % FOLDS)[codes]
        held_out = []
        with threadpool_limits(1):  # the same numbers on any machine, and quicker beside a busy neighbour
            for part in np.unique(parts):
                others = values[parts != part]
                if len(others) < FEWEST_OTHERS:
                    continue
                components = _standardised(others, weights)
                points = _coordinates(components, others)
                away = ReferenceDistance(points, np.ones(1, np.float32)).of(
                    _coordinates(components, values[parts == part])
                )
                held_out.append(away)
            if not held_out:
                return None
            components = _standardised(values, weights)
            points = _coordinates(components, values)
        return cls(components, ReferenceDistance(points, np.sort(np.concatenate(held_out))))

    def of_samples(self, values: np.ndarray) -> np.ndarray:
        """Return the distance of samples, (samples,) float32, where 1 is the limit; NaN where nothing was measured."""
        measured = ~np.isnan(values).all(1)
        found = np.full(len(values), np.nan, np.float32)
        if measured.any():
            found[measured] = self.distance.of(_coordinates(self.components, values[measured].astype(np.float32)))
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name."""
        return {"points": self.distance.points, "held_out": self.distance.held_out, **vars(self.components)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Return what `arrays` returned as an object again.

        Raises
        ------
        KeyError
            If an array is missing.
        """
        names = ("mean", "scale", "loadings", "variance", "noise")
        components = Components(**{name: arrays[name] for name in names})
        return cls(components, ReferenceDistance(arrays["points"], arrays["held_out"]))


def _standardised(values: np.ndarray, weights: np.ndarray) -> Components:
    """Return components of values whose gaps are filled with means, each standardised and divided by its weight."""
    there = ~np.isnan(values)
    counts = np.maximum(there.sum(0), 1)
    filled = np.where(there, values, 0.0)
    mean = filled.sum(0, dtype=np.float64) / counts
    sd = np.sqrt((np.where(there, values - mean, 0.0) ** 2).sum(0) / counts)
    varying = sd > 0
    sd = np.where(varying, np.maximum(sd, np.quantile(sd[varying], SD_FLOOR_QUANTILE) if varying.any() else 1.0), 1.0)
    return Components.of(np.where(there, values, mean).astype(np.float32), mean, sd * weights)


def _coordinates(components: Components, values: np.ndarray) -> np.ndarray:
    """Return samples in the components, whichever of their values are missing."""
    gaps = np.isnan(values)
    patterns, which = np.unique(gaps, axis=0, return_inverse=True)
    found = np.empty((len(values), components.loadings.shape[1]), np.float32)
    for number, absent in enumerate(patterns):
        rows = which.ravel() == number
        found[rows] = components.coordinates(np.where(absent, 0.0, values[rows]).astype(np.float32), absent)
    return found


def distance_columns(distance: np.ndarray) -> dict[str, Any]:
    """Return the columns ``distance``, and ``outside`` of those beyond the limit; false where nothing was measured."""
    return {"distance": distance, "outside": distance > 1}


FAR = "Of another condition, technology or type, they may have wrong labels with high probabilities."
"""What it means that many samples lie outside."""


NO_DISTANCES = (
    "The model does not hold where its training data lie (an earlier neurofleet trained it, or there were too few), so"
    " nothing says what lies outside. Train it again to know."
)


def outside_in_words(n_outside: int, n_samples: int, samples: str = "cells", owner: str = "reference") -> str:
    """Say how many samples are farther from the reference than nearly all of its own."""
    return (
        f"{n_outside:,} of {n_samples:,} {samples} ({100 * n_outside / max(n_samples, 1):.1f} %) lie outside: farther"
        f" from the {owner} than {100 * INSIDE:.0f} % of its own {samples}"
    )


def far_notes(distance: np.ndarray, samples: str, parts: str = "", *, always: bool) -> Iterator[str]:
    """Yield how many of some units or neurons lie outside, and what it means.

    Parameters
    ----------
    distance : array, shape (samples,)
        NaN where nothing was measured.
    samples : str
        What they are, for the sentence.
    parts : str
        By what they are outside.
    always : bool
        Whether few are told, too.
    """
    measured = distance[~np.isnan(distance)]
    n_outside = int((measured > 1).sum())
    many = n_outside > WARNED_OUTSIDE * len(measured)
    if len(measured) and (many or always):
        text = outside_in_words(n_outside, len(measured), samples, "training data")
        yield f"{text}{f' ({parts})' if parts and n_outside else ''}.{f' {FAR}' if many else ''}"
