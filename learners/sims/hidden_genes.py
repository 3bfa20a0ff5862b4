"""How sure predictions are where a query lacks genes: measured on validation cells, of which genes are hidden."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.isotonic import IsotonicRegression

from neurofleet.learners.calibration import fit_temperature
from neurofleet.learners.sims.labelled_reference import Reference
from neurofleet.learners.sims.reference_space import KEPT_CELLS, KEPT_VALUES, HiddenGenes, both_components, filled
from neurofleet.learners.sims.sims_classifier import SimsClassifier
from neurofleet.learners.splits import Split

HIDDEN_SHARES = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97)
"""Shares of the genes that are hidden, one after the other."""

TRIED_CELLS = 500
FEWEST_TRIED = 20


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
