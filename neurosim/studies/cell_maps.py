"""Maps of cells in the plane: StandardScaler, UMAP, k-means with the gap statistic, decision regions."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler

from neurofleet.errors import InputError

NEIGHBOURS = 10
MOST_CLUSTERS = 10
LEAST_CELLS = MOST_CLUSTERS + 2
"""More than neighbours, and more than the clusters that the gap statistic tries."""
REFERENCES = 20
STARTS = 10
GRID = 100
MARGIN = 0.05


@dataclass(frozen=True, eq=False)
class Map:
    """A map of cells, with others placed on it.

    Attributes
    ----------
    fitted : ndarray, shape (n, 2)
        The rows that the map was made of.
    placed : list of ndarray, shape (m, 2)
        Others, each array as it was given.
    """

    fitted: np.ndarray
    placed: list[np.ndarray]


def umap_map(fitted: np.ndarray, placed: Sequence[np.ndarray], seed: int) -> Map:
    """Make a map of some rows and place others on it.

    UMAP gets distances rather than coordinates: its graph is the same, and it is spared a loop in Python
    over all pairs when rows are placed.

    Parameters
    ----------
    fitted : ndarray, shape (n, P)
        Standardised by their own mean and standard deviation, which serve for the placed rows as well.
    placed : sequence of ndarray, shape (m, P)
    seed : int

    Raises
    ------
    InputError
        There are fewer rows than `LEAST_CELLS`.
    """
    from umap import UMAP

    if len(fitted) < LEAST_CELLS:
        raise InputError(
            f"A map is made of {LEAST_CELLS} cells or more, more than its neighbours and clusters, found "
            f"{len(fitted)}. Give more cells, or leave this map out."
        )
    scaler = StandardScaler().fit(fitted)
    known = scaler.transform(fitted)
    reducer = UMAP(n_neighbors=NEIGHBOURS, random_state=seed, n_jobs=1, metric="precomputed")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precomputed metric")
        flat = reducer.fit_transform(cdist(known, known))
        others = [reducer.transform(cdist(scaler.transform(rows), known)) for rows in placed]
    return Map(np.asarray(flat, np.float64), [np.asarray(rows, np.float64) for rows in others])


@dataclass(frozen=True, eq=False)
class Clusters:
    """k-means of a map, its number of clusters by the gap statistic.

    Attributes
    ----------
    number : int
    numbers : ndarray of int
        The numbers of clusters that were tried.
    gap, gap_sd : ndarray
        The gap statistic of each, and s of Tibshirani et al. (2001).
    model : KMeans
        Says which cluster any point of the map belongs to (`predict`).
    """

    number: int
    numbers: np.ndarray
    gap: np.ndarray
    gap_sd: np.ndarray
    model: Any


def gap_clusters(flat: np.ndarray, seed: int) -> Clusters:
    """Cluster points of a map.

    The chosen number is the smallest k of 2 to 10 with gap(k) > gap(k + 1) - s(k + 1), and otherwise 10.
    References are uniform in the bounding box of the points.

    Parameters
    ----------
    flat : ndarray, shape (n, 2)
        At least `LEAST_CELLS` points.
    """
    rng = np.random.default_rng(seed)
    low, high = flat.min(axis=0), flat.max(axis=0)
    references = rng.uniform(low, high, size=(REFERENCES, *flat.shape))
    numbers = np.arange(2, MOST_CLUSTERS + 2)
    models = [_kmeans(flat, int(k), seed) for k in numbers]
    spread = np.log([[_kmeans(reference, int(k), seed).inertia_ for reference in references] for k in numbers])
    gap = spread.mean(axis=1) - np.log([model.inertia_ for model in models])
    gap_sd = spread.std(axis=1) * np.sqrt(1.0 + 1.0 / REFERENCES)
    enough = np.flatnonzero(gap[:-1] > gap[1:] - gap_sd[1:])
    chosen = int(enough[0]) if len(enough) else len(numbers) - 2
    return Clusters(int(numbers[chosen]), numbers, gap, gap_sd, models[chosen])


def decision_regions(clusters: Clusters, flats: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid over all points, shape (GRID², 2), and the cluster of each of its points."""
    points = np.concatenate(list(flats))
    low, high = points.min(axis=0), points.max(axis=0)
    room = MARGIN * (high - low)
    x, y = (np.linspace(low[i] - room[i], high[i] + room[i], GRID) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return grid, clusters.model.predict(grid)


def _kmeans(flat: np.ndarray, number: int, seed: int) -> Any:
    return KMeans(number, n_init=STARTS, random_state=seed).fit(flat)
