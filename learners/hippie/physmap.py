"""The PhysMAP baseline: modalities joined by weighted nearest neighbours, embedded by UMAP, classified by KNN.

Each modality gets principal components and a neighbour graph. A unit trusts a modality the more, the better
its neighbours there predict it, compared with its neighbours in the other modalities (Hao et al. 2021, STAR
Methods, "weighted nearest neighbor analysis"). UMAP of the joint graph gives 5 dimensions, in which a KNN
probe decides.

Labels play no part in the graph. Units to be tested may be in it: the map is then transductive, which is an
advantage that must be said beside its scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import euclidean_distances

from neurofleet.errors import LearnerError

COMPONENTS = 20
NEIGHBOURS = 20
CANDIDATES = 200
DIMENSIONS = 5
MOST_UNITS = 6000
CROSS_FLOOR = 1e-4
HIGHEST_SCORE = 200.0


@dataclass(frozen=True)
class PhysMap:
    """A map of units.

    Attributes
    ----------
    modalities : tuple of str
    weights : (n, modalities) float64 array
        How far each unit trusts each modality; rows sum to 1, 0 where a modality is missing.
    neighbours : (n, k) int array
        The unit itself, then the units most like it over all modalities.
    distances : (n, k) float64 array
        0, then sqrt((1 - similarity) / 2), ascending.
    embedding : (n, 5) float32 array
    """

    modalities: tuple[str, ...]
    weights: np.ndarray
    neighbours: np.ndarray
    distances: np.ndarray
    embedding: np.ndarray


def physmap(
    modalities: Mapping[str, np.ndarray],
    *,
    present: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> PhysMap:
    """Map units without their labels.

    Parameters
    ----------
    modalities : mapping of (n, points) arrays
        Scaled vectors by name, such as waveform and isi; one is enough.
    present : mapping of (n,) bool arrays
        Which units have a modality; all by default.

    Raises
    ------
    LearnerError
        For no modality, a unit with none, fewer than 6 units or more than 6,000 (all distances are kept).
    """
    names = tuple(modalities)
    if not names:
        raise LearnerError("PhysMAP needs at least one modality, found none.")
    n = len(modalities[names[0]])
    if not 6 <= n <= MOST_UNITS:
        raise LearnerError(
            f"PhysMAP expects 6 to {MOST_UNITS} units (it keeps all distances between them), found {n}."
            " Give a subsample."
        )
    has = {name: np.ones(n, dtype=bool) if present is None else np.asarray(present[name]) for name in names}
    bare = ~np.any([has[name] for name in names], axis=0)
    if bare.any():
        raise LearnerError(f"{int(bare.sum())} of {n} units have none of {', '.join(names)}. Leave them out.")
    coordinates = {name: _coordinates(modalities[name], has[name], seed) for name in names}
    weights, neighbours, distances = weighted_neighbours(coordinates, has)
    embedding = _umap(neighbours, distances, np.hstack(list(coordinates.values())), seed)
    return PhysMap(names, weights, neighbours, distances, embedding)


def weighted_neighbours(
    coordinates: Mapping[str, np.ndarray], has: Mapping[str, np.ndarray], k: int = NEIGHBOURS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return modality weights (n, modalities), and neighbours and distances (n, k + 1), the unit first.

    Of more than two modalities, the cross-prediction that a modality is compared with is the mean over the
    other ones.

    Parameters
    ----------
    coordinates : mapping of (n, dimensions) arrays
    has : mapping of (n,) bool arrays
    """
    names = list(coordinates)
    n = len(coordinates[names[0]])
    k = min(k, n - 1)
    distance, near, sigma, closest = {}, {}, {}, {}
    for name in names:
        between = euclidean_distances(coordinates[name])
        between[:, ~has[name]] = np.inf
        between[~has[name]] = np.inf
        np.fill_diagonal(between, np.inf)
        order = np.argsort(between, axis=1, kind="stable")
        distance[name], near[name] = between, order[:, :k]
        closest[name] = np.where(has[name], between[np.arange(n), order[:, 0]], 0.0)
        sigma[name] = _bandwidth(between, order[:, :k], closest[name])

    def kernel(name: str, gap: np.ndarray) -> np.ndarray:
        return np.exp(-np.maximum(gap - closest[name], 0.0) / sigma[name])

    scores = np.full((n, len(names)), -np.inf)
    for column, name in enumerate(names):
        x = coordinates[name]
        affinity = {}
        for other in names:
            counted = has[name][near[other]] & np.isfinite(np.take_along_axis(distance[other], near[other], 1))
            share = counted / np.maximum(counted.sum(axis=1, keepdims=True), 1)
            predicted = np.einsum("nk,nkd->nd", share, x[near[other]])
            kernel_of_cross = kernel(name, np.linalg.norm(x - predicted, axis=1))
            affinity[other] = np.where(counted.any(axis=1), kernel_of_cross, np.nan)
        others = [affinity[other] for other in names if other != name]
        cross = np.zeros(n) if not others else np.nan_to_num(_mean_known(others))
        score = np.clip(affinity[name] / (cross + CROSS_FLOOR), 0.0, HIGHEST_SCORE)
        scores[has[name], column] = np.nan_to_num(score)[has[name]]
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)

    similarity, candidate = np.zeros((n, n)), np.zeros((n, n), dtype=bool)
    for column, name in enumerate(names):
        gap = distance[name] - closest[name][:, None]
        similarity += weights[:, [column]] * np.exp(-np.maximum(gap, 0.0) / sigma[name][:, None])
        closer = np.argsort(distance[name], axis=1, kind="stable")[:, : min(CANDIDATES, n - 1)]
        np.put_along_axis(candidate, closer, True, axis=1)
    candidate &= np.any([np.isfinite(distance[name]) for name in names], axis=0)
    ranked = np.where(candidate, similarity, -1.0)
    np.fill_diagonal(ranked, -2.0)
    best = np.argsort(-ranked, axis=1, kind="stable")[:, :k]
    top = np.clip(np.take_along_axis(ranked, best, axis=1), 0.0, 1.0)
    row = np.arange(n)[:, None]
    return weights, np.hstack([row, best]), np.hstack([np.zeros((n, 1)), np.sqrt((1 - top) / 2)])


def _coordinates(rows: np.ndarray, has: np.ndarray, seed: int) -> np.ndarray:
    """Return principal components (n, up to 20) of unit length; zero where the modality is missing."""
    rows = np.asarray(rows, dtype=np.float64)
    pca = PCA(min(COMPONENTS, int(has.sum()) - 1, rows.shape[1]), random_state=seed)
    coordinates = np.zeros((len(rows), pca.n_components))
    coordinates[has] = pca.fit_transform(rows[has])
    return coordinates / np.maximum(np.linalg.norm(coordinates, axis=1, keepdims=True), 1e-12)


def _bandwidth(distance: np.ndarray, near: np.ndarray, closest: np.ndarray) -> np.ndarray:
    """Return the kernel width (n,): mean distance to the k units that share fewest neighbours, but some.

    The distance of the nearest unit is taken off, as it is from the distances that the kernel sees.
    """
    n, k = near.shape
    member = np.eye(n, dtype=np.float32)
    np.put_along_axis(member, near, 1.0, axis=1)
    shared = member @ member.T
    shared[~np.isfinite(distance)] = 0.0
    overlap = np.where(shared > 0, shared / (2 * (k + 1) - shared), np.inf)
    width = np.ones(n)
    for i in range(n):
        order = np.lexsort((-distance[i], overlap[i]))[:k]
        far = distance[i, order[np.isfinite(overlap[i, order])]]
        if len(far):
            width[i] = far.mean() - closest[i]
    return np.maximum(width, 1e-6)


def _mean_known(columns: list[np.ndarray]) -> np.ndarray:
    stacked = np.array(columns)
    known = np.isfinite(stacked)
    return np.where(known, stacked, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def _umap(neighbours: np.ndarray, distances: np.ndarray, coordinates: np.ndarray, seed: int) -> np.ndarray:
    """Return UMAP's 5 dimensions of a given neighbour graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no transform of new units, one thread: both intended
        import umap

        mapper = umap.UMAP(
            n_neighbors=neighbours.shape[1],
            n_components=min(DIMENSIONS, len(neighbours) - 2),
            random_state=seed,
            n_jobs=1,
            precomputed_knn=(neighbours, distances.astype(np.float32)),
        )
        return np.asarray(mapper.fit_transform(coordinates), dtype=np.float32)
