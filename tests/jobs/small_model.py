"""A folder with a small model, trained in a second or two."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from neurofleet.learners.local_training import train_here
from neurofleet.learners.sims.hidden_genes import measure_hidden_genes
from neurofleet.learners.sims.reference_fit import fit, predict_log
from neurofleet.learners.sims.reference_space import reference_space
from tests.learners.sims.small_reference import QUICK, small_reference, small_split


def small_model(folder: Path) -> Path:
    """Train and save one; it knows the top probabilities of its validation cells."""
    reference = small_reference(folder)
    split = small_split(reference)
    fitted = fit(reference, split, QUICK, train_here)
    top = np.exp(predict_log(fitted.validated, reference, split.rows("validation"))).max(1)
    facts = {"validation_top_probability": sorted(map(float, top))}
    rows = np.sort(np.concatenate([split.rows("train"), split.rows("validation")]))
    space = reference_space(reference.values, rows, reference.labels)
    hidden = measure_hidden_genes(fitted.validated, reference, split)
    replace(fitted.model, facts=facts, space=space, hidden=hidden).save(folder / "model", run="made")
    return folder / "model"
