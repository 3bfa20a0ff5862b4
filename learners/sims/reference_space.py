"""Where the reference's cells lie: it tells how far a query's cells are, and estimates the genes that a query lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from neurofleet.learners.reference_distance import Components, ReferenceDistance
from neurofleet.learners.reference_map import tsne_map as cell_map

SD_FLOOR_QUANTILE = 0.05
KEPT_CELLS, KEPT_OF_CLASS = 2000, 30
KEPT_VALUES = 50_000_000
HELD_OUT_CELLS, HELD_OUT_SHARE = 1000, 0.2
FEWEST_CELLS = 20

_COMPONENTS = ("distances", "estimates")


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

    @cached_property
    def distance(self) -> ReferenceDistance:
        """How far cells are from these."""
        return ReferenceDistance(self.cells, self.held_out)

    @property
    def limit(self) -> float:
        """The distance that 95 % of the held-out cells of the reference do not exceed."""
        return self.distance.limit

    def placed(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance of cells, where 1 is the limit, and their place on the map.

        Returns
        -------
        distance : array of float32, shape (cells,)
        plane : array of float32, shape (cells, 2)
            Mean place of the nearest cells of the reference, the nearer the more.
        """
        distance, nearest, weights = self.distance.nearest(coordinates)
        plane = np.einsum("nk,nkd->nd", weights, self.plane[nearest])
        return distance, plane.astype(np.float32)


def reference_space(
    read: Callable[[np.ndarray], sp.csr_matrix],
    rows: np.ndarray,
    labels: np.ndarray,
    seed: int = 0,
    make_map: Callable[[np.ndarray], np.ndarray] | None = None,
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
    make_map : callable, optional
        Returns the place on the map, (cells, 2), of cells in the components; `cell_map` by default.
    """
    if len(rows) < FEWEST_CELLS:
        return None
    order = np.random.default_rng(seed).permutation(rows)
    n_held = min(int(HELD_OUT_SHARE * len(rows)), HELD_OUT_CELLS)
    held_rows, others = np.sort(order[:n_held]), order[n_held:]
    n_genes = read(rows[:1]).shape[1]
    kept = np.sort(_some_of_each(others, labels, max(min(KEPT_CELLS, KEPT_VALUES // n_genes), FEWEST_CELLS)))
    values = read(kept).toarray()
    both = both_components(values)
    if both is None:
        return None
    distances, estimates = both
    counts = np.expm1(np.maximum(values, 0)).mean(0, dtype=np.float64)
    with threadpool_limits(1):
        cells = distances.coordinates(values)
        plane = (make_map or cell_map)(cells)
    space = ReferenceSpace(
        distances,
        estimates,
        (counts / max(counts.sum(), 1e-9)).astype(np.float32),
        cells,
        labels[kept].astype(np.int32),
        plane,
        np.ones(1, np.float32),
    )
    far = space.distance.of(distances.coordinates(read(held_rows).toarray()))
    return replace(space, held_out=np.sort(far))


def both_components(values: np.ndarray) -> tuple[Components, Components] | None:
    """Return the components of z-scores and those of log values of cells (cells, genes); None if no genes vary."""
    mean, sd = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    varying = sd > 0
    if varying.sum() < 2:
        return None
    sd = np.where(varying, np.maximum(sd, np.quantile(sd[varying], SD_FLOOR_QUANTILE)), 1.0)
    with threadpool_limits(1):  # the same numbers on any machine, and quicker beside a busy neighbour
        return Components.of(values, mean, sd), Components.of(values, mean, np.ones(values.shape[1]))


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


def filled(values: np.ndarray, absent: np.ndarray, estimates: Components, *, below_zero: bool) -> np.ndarray:
    """Return values (cells, genes) with estimates in place of those of absent genes.

    Parameters
    ----------
    below_zero : bool
        Whether values can be negative.
    """
    values = values.copy()
    estimated = estimates.estimated(values, absent)
    values[:, absent] = estimated if below_zero else np.maximum(estimated, 0.0)
    return values


@dataclass(frozen=True)
class HiddenGenes:
    """The temperature that calibrates a model where genes are missing.

    Attributes
    ----------
    uncertainty : tuple of float
        Which share of the reference's principal components is not known without the genes that are missing
        (`Components.uncertainty`), ascending; the first where no gene is.
    temperature : tuple of float
        Never falling.
    """

    uncertainty: tuple[float, ...]
    temperature: tuple[float, ...]

    def temperature_at(self, uncertainty: float) -> float:
        """Return the temperature, between those measured by its logarithm; beyond the last one the last."""
        return float(np.exp(np.interp(uncertainty, self.uncertainty, np.log(self.temperature))))

    @classmethod
    def from_dict(cls, entries: Mapping[str, Sequence[float]]) -> Self:
        """Return what a model's description holds."""
        return cls(tuple(entries["uncertainty"]), tuple(entries["temperature"]))

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {"uncertainty": list(self.uncertainty), "temperature": list(self.temperature)}
