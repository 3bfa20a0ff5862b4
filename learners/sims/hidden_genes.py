"""How sure predictions are where a query lacks genes: measured on validation cells, of which genes are hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp

from neurofleet.learners.calibration import fit_temperature
from neurofleet.learners.reference_distance import Components
from neurofleet.learners.sims.reference_space import KEPT_CELLS, KEPT_VALUES, both_components

if TYPE_CHECKING:
    from neurofleet.learners.sims.reference_fit import Reference
    from neurofleet.learners.sims.sims_classifier import SimsClassifier
    from neurofleet.learners.splits import Split

HIDDEN_SHARES = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97)
"""Shares of the genes that are hidden, one after the other."""

TRIED_CELLS = 500
FEWEST_TRIED = 20


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


def measure_hidden_genes(
    model: SimsClassifier, reference: Reference, split: Split, seed: int = 0
) -> HiddenGenes | None:
    """Hide more and more genes, drawn at random, of validation cells, and find the temperature for each share.

    Missing genes are estimated by components of the training cells alone. Temperatures are made to never fall with what
    is missing (isotonic regression), and lie at the model's own where nothing is.

    Parameters
    ----------
    model : SimsClassifier
        That has seen no validation cell; calibrated.

    Returns
    -------
    HiddenGenes or None
        None with fewer than 20 validation cells, or where no temperature could be fitted.
    """
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(seed)
    rows = split.rows("validation")
    if len(rows) < FEWEST_TRIED or not model.calibration.n:
        return None
    n_genes = len(model.genes)
    rows = np.sort(rng.permutation(rows)[:TRIED_CELLS])
    most = max(min(KEPT_CELLS, KEPT_VALUES // n_genes), FEWEST_TRIED)
    both = both_components(reference.values(np.sort(rng.permutation(split.rows("train"))[:most])).toarray())
    if both is None:
        return None
    distances, estimates = both
    values, true = reference.values(rows).toarray(), reference.labels[rows]
    found = []
    for share in HIDDEN_SHARES:
        absent = np.zeros(n_genes, dtype=bool)
        absent[rng.permutation(n_genes)[: min(round(share * n_genes), n_genes - 2)]] = True
        cells = filled(values, absent, estimates, below_zero=model.normalisation.kind == "scaled")
        calibration = fit_temperature(model.log_probabilities(sp.csr_matrix(cells)), true)
        if calibration.determined:
            found.append((distances.uncertainty(absent), np.log(calibration.temperature)))
    if not found:
        return None
    uncertainty, logs = np.array(sorted(found)).T
    first = distances.uncertainty(np.zeros(n_genes, dtype=bool))
    own = np.log(model.calibration.temperature)
    rising = np.maximum(IsotonicRegression().fit_transform(uncertainty, logs), own)
    return HiddenGenes(
        tuple(float(each) for each in (first, *np.maximum(uncertainty, first))),
        tuple(float(each) for each in np.exp((own, *rising))),
    )
