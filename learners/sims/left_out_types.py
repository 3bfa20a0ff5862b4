"""How well a type never trained on is called unknown: the leave-one-type-out experiment of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurofleet.errors import did_you_mean
from neurofleet.learners.calibration import calibrated_probabilities
from neurofleet.learners.learner_errors import LearnerError
from neurofleet.learners.local_training import Train
from neurofleet.learners.sims.reference_fit import Reference, fit, predict_log
from neurofleet.learners.sims.tabnet_settings import SimsSettings
from neurofleet.learners.splits import Split, leave_type_out
from neurofleet.learners.unknown_labels import UnknownCurve, unknown_curve


def leave_types_out(
    reference: Reference,
    split: Split,
    settings: SimsSettings,
    train: Train,
    seed: int = 1,
    names: Sequence[str] | None = None,
) -> dict[str, UnknownCurve]:
    """Train without each type in turn, predict its cells and the test cells, and sweep the threshold.

    Probabilities are calibrated on the validation cells of the types that were trained on.

    Parameters
    ----------
    split : Split
        With a test part, whose cells of other types show what a threshold costs.
    names : sequence of str, optional
        The types that are left out; all by default.

    Returns
    -------
    dict
        Type -> its curve.

    Raises
    ------
    LearnerError
        If a type is unknown, or the split has no test part.
    """
    names = list(reference.classes if names is None else names)
    for name in names:
        if name not in reference.classes:
            raise LearnerError(f"No class is called {name!r}{did_you_mean(name, reference.classes)}.")
    if not len(split.rows("test")):
        raise LearnerError("Leaving types out needs a test part. Split with test above 0.")
    found = {}
    for name in names:
        number = reference.classes.index(name)
        labels = np.asarray(reference.classes, dtype=object)[reference.labels]
        labels[reference.labels < 0] = ""
        without = leave_type_out(split, labels, name)

        def named(task: Any, training: str, seed: int, number: int = number) -> Any:
            return train(task, f"without-type-{number}-{training}", seed)

        model = fit(reference, without, settings, named, seed).model
        rows = without.rows("test")
        probabilities = calibrated_probabilities(predict_log(model, reference, rows), model.calibration.temperature)
        true = reference.labels[rows]
        found[name] = unknown_curve(probabilities.max(1), right=probabilities.argmax(1) == true, known=true != number)
    return found
