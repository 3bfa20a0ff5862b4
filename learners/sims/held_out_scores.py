"""Scores of a fit on cells that it never saw, beside those of simple methods; and of types that were left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.learners.calibration import (
    calibrated_probabilities,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_table,
)
from neurofleet.learners.label_controls import ShuffleControl, shuffle_control
from neurofleet.learners.local_training import Prefixed, Train, TrainsAhead
from neurofleet.learners.scores import Scores, score
from neurofleet.learners.sims.expression_baselines import Baseline
from neurofleet.learners.sims.gene_importance import mean_attention
from neurofleet.learners.sims.labelled_reference import Reference
from neurofleet.learners.sims.linear_share import mixed
from neurofleet.learners.sims.logistic_regression import LogisticModel
from neurofleet.learners.sims.reference_fit import (
    SHUFFLED,
    Fitted,
    ShuffledTraining,
    fit,
    predict_log,
    shuffled_scores,
    shuffled_training,
    simple_methods,
)
from neurofleet.learners.sims.sims_classifier import blocks_of
from neurofleet.learners.sims.tabnet_settings import SimsSettings
from neurofleet.learners.splits import Split, leave_type_out
from neurofleet.learners.unknown_labels import UnknownCurve, unknown_curve

FACT_CELLS = 2_000


@dataclass(frozen=True)
class Tested:
    """Predictions for the tested cells of one split.

    Attributes
    ----------
    role : str
        Which part was scored: ``test``, or ``validation`` where there is no test part.
    rows : array of int
    log_probabilities : dict of arrays, shape (rows, classes)
        ``sims`` (uncalibrated), and its parts ``networks`` and ``linear``.
    temperature : float
    baselines : dict of Baseline
    shuffled : Scores or None
        Of the label-shuffle control; None where there is no test part.
    """

    role: str
    rows: np.ndarray
    log_probabilities: dict[str, np.ndarray]
    temperature: float
    baselines: dict[str, Baseline]
    shuffled: Scores | None


def fit_and_test(
    reference: Reference,
    split: Split,
    settings: SimsSettings,
    train: Train,
    seed: int = 1,
    baselines: Sequence[str] | None = None,
) -> tuple[Fitted, Tested]:
    """Fit a model and score it; another process fits simple methods, and trains the control, at the same time.

    Parameters
    ----------
    baselines : sequence of str, optional
        See `neurofleet.learners.sims.expression_baselines.run_baselines`; all by default.
    """
    control, after = None, None
    if len(split.rows("test")):
        control = shuffled_training(reference, split, settings, seed)
        after = train.ahead(control.task, SHUFFLED, seed) if isinstance(train, TrainsAhead) else None
    with simple_methods(reference, split, settings, baselines, seed, after) as simple:
        fitted = fit(reference, split, settings, train, seed, simple)
        tested = score_split(
            fitted, reference, split, settings, train, seed, simple.fits.baselines, control, simple.fits.tuned
        )
        return fitted, tested


def score_split(
    fitted: Fitted,
    reference: Reference,
    split: Split,
    settings: SimsSettings,
    train: Train,
    seed: int = 1,
    baselines: dict[str, Baseline] | None = None,
    control: ShuffledTraining | None = None,
    tuned: LogisticModel | None = None,
) -> Tested:
    """Predict the test cells of a split; without any, its validation cells by the model that never saw them.

    Parameters
    ----------
    baselines : dict of Baseline, optional
        Those of the same split.
    control : ShuffledTraining, optional
        That of the same split.
    tuned : LogisticModel, optional
        See `shuffled_scores`; by default the fit's.
    """
    role = "test" if len(split.rows("test")) else "validation"
    model = fitted.model if role == "test" else fitted.validated
    rows = split.rows(role)
    parts_by_name: dict[str, list[np.ndarray]] = {}
    for block in blocks_of(len(rows), len(model.genes)):
        parts = model.parts(reference.values(rows[block]))
        parts = {"sims": mixed(parts["networks"], parts.get("linear"), model.linear_share), **parts}
        for name, part in parts.items():
            parts_by_name.setdefault(name, []).append(part)
    shuffled = None
    if role == "test":
        tuned = tuned or fitted.validated.linear
        shuffled = shuffled_scores(reference, split, settings, train, seed, tuned, control)
    return Tested(
        role,
        rows,
        {name: np.concatenate(parts) for name, parts in parts_by_name.items()},
        model.calibration.temperature,
        baselines or {},
        shuffled,
    )


def cross_validate(
    reference: Reference,
    splits: Sequence[Split],
    settings: SimsSettings,
    train: Train,
    seed: int = 1,
    baselines: Sequence[str] | None = None,
) -> list[Tested]:
    """Fit and test on each split in turn; the names of trainings hold the fold's number."""
    tested = []
    for split in splits:
        in_fold = Prefixed(train, f"fold-{int(split.fold[0])}-")
        tested.append(fit_and_test(reference, split, settings, in_fold, seed, baselines)[1])
    return tested


def facts(tested: Sequence[Tested], reference: Reference) -> dict[str, Any]:
    """Return all scores as plain JSON; folds are pooled, cell by cell.

    Keys: ``role``, ``scores`` (of ``sims``, ``networks``, ``linear``), ``baselines``, ``control``,
    ``reliability``, ``folds`` (accuracy and macro-F1 of each, for more than one).
    """
    rows = np.concatenate([fold.rows for fold in tested])
    true = reference.labels[rows]
    pooled = {
        name: np.concatenate([fold.log_probabilities[name] for fold in tested]) for name in tested[0].log_probabilities
    }
    calibrated = np.concatenate(
        [calibrated_probabilities(fold.log_probabilities["sims"], fold.temperature) for fold in tested]
    )
    control = [fold.shuffled for fold in tested if fold.shuffled is not None]
    result: dict[str, Any] = {
        "role": tested[0].role,
        "scores": {
            name: score(true, log_probabilities.argmax(1), reference.classes).to_dict()
            for name, log_probabilities in pooled.items()
        },
        "baselines": _pooled_baselines([fold.baselines for fold in tested]),
        "control": _control(shuffle_control(control)) if control else None,
        "reliability": {
            "before": _reliability(calibrated_probabilities(pooled["sims"]), true),
            "after": _reliability(calibrated, true),
        },
    }
    if len(tested) > 1:
        result["folds"] = [
            {
                name: {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1, "n": scores.n}
                for name, log_probabilities in each.log_probabilities.items()
                for scores in [score(reference.labels[each.rows], log_probabilities.argmax(1), reference.classes)]
            }
            for each in tested
        ]
    return result


def query_facts(fitted: Fitted, reference: Reference, split: Split, seed: int = 1) -> dict[str, list[float]]:
    """Return what judges a query later on, without the reference.

    ``validation_top_probability``: at most 2,000 of these, for a threshold by coverage;
    ``gene_importance``: each gene's share of the networks' attention, over at most 2,000 training cells.
    """
    top = fitted.validation_top_probability
    if len(top) > FACT_CELLS:
        top = np.quantile(top, np.linspace(0, 1, FACT_CELLS))
    rows = _sample(split.rows("train"), FACT_CELLS, seed)
    importance = np.zeros(len(fitted.model.genes))
    columns = fitted.model.inputs.columns
    importance[columns] = mean_attention(fitted.model.networks, reference.values(rows)[:, columns])
    return {
        "validation_top_probability": np.round(top, 6).tolist(),
        "gene_importance": np.round(importance, 8).tolist(),
    }


def _pooled_baselines(folds: Sequence[dict[str, Baseline]]) -> dict[str, Any]:
    """Return each baseline's accuracy and macro-F1, averaged over folds by their cells."""
    pooled = {}
    for name in folds[0]:
        scored = [fold[name].scores for fold in folds if fold[name].scores is not None]
        notes = sorted({note for fold in folds for note in fold[name].notes})
        entry: dict[str, Any] = {
            "seconds": sum(fold[name].seconds for fold in folds),
            "notes": notes,
            "settings": [fold[name].settings for fold in folds],
        }
        if len(scored) == len(folds):
            weights = [scores.n for scores in scored if scores is not None]
            for key in ("accuracy", "balanced_accuracy", "macro_f1", "majority_rate"):
                entry[key] = float(np.average([getattr(scores, key) for scores in scored], weights=weights))
        pooled[name] = entry
    return pooled


def _control(control: ShuffleControl) -> dict[str, Any]:
    return {
        "valid": control.valid,
        "accuracy": control.accuracy,
        "chance": control.chance,
        "limit": control.limit,
        "decisive": control.decisive,
    }


def _reliability(probabilities: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    return {
        "ece": expected_calibration_error(probabilities, true),
        "nll": negative_log_likelihood(probabilities, true),
        "bins": [vars(part) for part in reliability_table(probabilities, true)],
    }


def _sample(rows: np.ndarray, limit: int, seed: int) -> np.ndarray:
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


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
    curves = {}
    for name in names:
        number = reference.classes.index(name)
        labels = np.asarray(reference.classes, dtype=object)[reference.labels]
        labels[reference.labels < 0] = ""
        without = leave_type_out(split, labels, name)
        model = fit(reference, without, settings, Prefixed(train, f"without-type-{number}-"), seed).model
        rows = without.rows("test")
        probabilities = calibrated_probabilities(predict_log(model, reference, rows), model.calibration.temperature)
        true = reference.labels[rows]
        curves[name] = unknown_curve(probabilities.max(1), right=probabilities.argmax(1) == true, known=true != number)
    return curves
