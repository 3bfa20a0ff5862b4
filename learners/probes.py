"""Probes: small classifiers on vectors of units or cells, fitted by scikit-learn and kept as plain arrays.

Every kind is fitted by scikit-learn and then kept as the arrays its formula needs, so that a stored probe
answers exactly as it did, whatever the version of scikit-learn, and without loading it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import softmax

from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.learners.calibration import fit_temperature
from neurofleet.learners.folds import inner_repeated_folds, stratified_rows
from neurofleet.learners.scores import balanced_accuracy

ABSENT = -1e6  # decision value of a class without training rows
MANY_CLASSES = "The number of unique classes is greater than 50%"  # how scikit-learn's warning begins
Arrays = dict[str, np.ndarray]
ProbeSetting = dict[str, Any]


def _fit_knn(x: np.ndarray, y: np.ndarray, n_classes: int, setting: ProbeSetting, seed: int) -> Arrays:
    return {"x": x, "y": y.astype(np.int64), "k": np.array(min(setting["k"], len(y)))}


def _answer_knn(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    distance = _squared_distances(x, values["x"])
    k = int(values["k"])
    closest = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return np.eye(n_classes)[values["y"][closest]].mean(axis=1)


def _fit_linear(x: np.ndarray, y: np.ndarray, n_classes: int, setting: ProbeSetting, seed: int) -> Arrays:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=setting["C"], class_weight="balanced", max_iter=2000, tol=1e-4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MANY_CLASSES, category=UserWarning)
        model.fit(x, y)
    weights, bias = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:  # one logit, of the second class
        weights, bias = weights * [-0.5, 0.5], bias * [-0.5, 0.5]
    return {"weights": weights, "bias": bias, "classes": model.classes_}


def _answer_linear(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    return _spread(softmax(x @ values["weights"] + values["bias"], axis=1), values, n_classes, 0.0)


def _fit_lda(x: np.ndarray, y: np.ndarray, n_classes: int, setting: ProbeSetting, seed: int) -> Arrays:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    present = np.unique(y)
    alike = np.full(len(present), 1 / len(present))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=setting["shrinkage"], priors=alike).fit(x, y)
    weights, bias = model.coef_.T, model.intercept_
    if len(present) == 2:
        weights, bias = weights * [-0.5, 0.5], bias * [-0.5, 0.5]
    return {"weights": weights, "bias": bias, "classes": model.classes_}


def _answer_lda(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    return _spread(x @ values["weights"] + values["bias"], values, n_classes, ABSENT)


def _fit_svm(x: np.ndarray, y: np.ndarray, n_classes: int, setting: ProbeSetting, seed: int) -> Arrays:
    from sklearn.svm import SVC

    gamma = setting["gamma_by_features"] / x.shape[1]
    model = SVC(C=setting["C"], gamma=gamma, class_weight="balanced", cache_size=500).fit(x, y)
    return {
        "support": model.support_vectors_,
        "dual": model.dual_coef_,
        "bias": model.intercept_,
        "n_support": model.n_support_,
        "gamma": np.array(gamma),
        "classes": model.classes_,
    }


def _answer_svm(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    """Return decision values: of each class its votes against every other class, plus its margin squashed."""
    kernel = np.exp(-values["gamma"] * _squared_distances(x, values["support"]))
    dual, bias, n = values["dual"], values["bias"], len(values["classes"])
    if n == 2:
        decision = kernel @ dual[0] + bias[0]
        return _spread(decision[:, None] * [-0.5, 0.5], values, n_classes, ABSENT)
    ends = np.concatenate([[0], np.cumsum(values["n_support"])])
    votes, margins = np.zeros((len(x), n)), np.zeros((len(x), n))
    pair = 0
    for i in range(n):
        for j in range(i + 1, n):
            of_i, of_j = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            decision = kernel[:, of_i] @ dual[j - 1, of_i] + kernel[:, of_j] @ dual[i, of_j] + bias[pair]
            votes[:, i] += decision >= 0
            votes[:, j] += decision < 0
            margins[:, i] += decision
            margins[:, j] -= decision
            pair += 1
    return _spread(votes + margins / (3 * (np.abs(margins) + 1)), values, n_classes, ABSENT)


def _fit_mlp(x: np.ndarray, y: np.ndarray, n_classes: int, setting: ProbeSetting, seed: int) -> Arrays:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils.class_weight import compute_sample_weight

    model = MLPClassifier(setting["hidden"], alpha=setting["alpha"], max_iter=100, random_state=seed)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        warnings.filterwarnings("error", "Training interrupted")  # in place of KeyboardInterrupt, which it catches
        try:
            model.fit(x, y, sample_weight=compute_sample_weight("balanced", y))
        except UserWarning as warning:
            raise KeyboardInterrupt from warning
    (weights, out), (bias, out_bias) = model.coefs_, model.intercepts_
    if len(model.classes_) == 2:
        out, out_bias = out * [-0.5, 0.5], out_bias * [-0.5, 0.5]
    return {
        "weights": weights,
        "bias": bias,
        "out": out,
        "out_bias": out_bias,
        "classes": model.classes_,
    }


def _answer_mlp(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    hidden = np.maximum(x @ values["weights"] + values["bias"], 0.0)
    return _spread(softmax(hidden @ values["out"] + values["out_bias"], axis=1), values, n_classes, 0.0)


def _fit_trees(x: np.ndarray, y: np.ndarray, n_classes: int, setting: ProbeSetting, seed: int) -> Arrays:
    from sklearn.ensemble import ExtraTreesClassifier

    model = ExtraTreesClassifier(
        setting["trees"],
        min_samples_leaf=setting["min_samples_leaf"],
        class_weight="balanced",
        random_state=seed,
    ).fit(x.astype(np.float32), y)
    trees = [fitted_tree.tree_ for fitted_tree in model.estimators_]
    first = np.cumsum([0] + [tree.node_count for tree in trees[:-1]])

    def joined(name: str, shift: bool = False) -> np.ndarray:
        parts = [getattr(tree, name) for tree in trees]
        return np.concatenate([p + f if shift else p for p, f in zip(parts, first, strict=True)])

    shares = joined("value")[:, 0, :]
    return {
        "roots": first,
        "left": joined("children_left", shift=True),
        "right": joined("children_right", shift=True),
        "feature": joined("feature"),
        "threshold": joined("threshold"),
        "shares": shares / shares.sum(axis=1, keepdims=True),
        "classes": model.classes_,
    }


def _answer_trees(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    x = x.astype(np.float32)  # as scikit-learn compares with its thresholds
    total = np.zeros((len(x), len(values["classes"])))
    row = np.arange(len(x))
    for root in values["roots"]:
        node = np.full(len(x), root)
        inside = values["feature"][node] >= 0
        while inside.any():
            below = x[row, values["feature"][node]] <= values["threshold"][node]
            node = np.where(inside, np.where(below, values["left"][node], values["right"][node]), node)
            inside = values["feature"][node] >= 0
        total += values["shares"][node]
    return _spread(total / len(values["roots"]), values, n_classes, 0.0)


def _squared_distances(x: np.ndarray, others: np.ndarray) -> np.ndarray:
    products = x @ others.T
    squares = np.einsum("ij,ij->i", x, x)[:, None] - 2.0 * products + np.einsum("ij,ij->i", others, others)
    return np.maximum(squares, 0.0)


def _spread(values_present: np.ndarray, values: Arrays, n_classes: int, absent: float) -> np.ndarray:
    """Return columns for all classes; those that had no training row get `absent`."""
    full = np.full((len(values_present), n_classes), absent)
    full[:, values["classes"]] = values_present
    return full


@dataclass(frozen=True)
class ProbeKind:
    """How one kind is fitted and asked, which settings are tried, and how many rows it is fitted on."""

    fit: Callable[[np.ndarray, np.ndarray, int, ProbeSetting, int], Arrays]
    answer: Callable[[Arrays, np.ndarray, int], np.ndarray]
    grid: tuple[ProbeSetting, ...]
    most_rows: int = 20_000
    decision_values: bool = False


KINDS = {
    "knn": ProbeKind(_fit_knn, _answer_knn, tuple({"k": k} for k in (1, 3, 5, 10))),
    "linear": ProbeKind(_fit_linear, _answer_linear, tuple({"C": c} for c in (0.01, 0.1, 1.0, 10.0))),
    "svm": ProbeKind(
        _fit_svm,
        _answer_svm,
        tuple({"C": c, "gamma_by_features": g} for c in (3.0, 30.0, 300.0) for g in (0.1, 0.5)),
        most_rows=5000,
        decision_values=True,
    ),
    "mlp": ProbeKind(_fit_mlp, _answer_mlp, tuple({"hidden": 64, "alpha": a} for a in (0.01, 1.0))),
    "lda": ProbeKind(_fit_lda, _answer_lda, tuple({"shrinkage": s} for s in (0.02, 0.1, 0.4)), decision_values=True),
    "trees": ProbeKind(_fit_trees, _answer_trees, ({"trees": 300, "min_samples_leaf": 1},)),
}


PROBES = ("knn", "linear", "svm", "mlp")
FOLDS = 3
CLIP_SD = 5.0
TUNING_ROWS = 3000
ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Probe:
    """A fitted classifier.

    Attributes
    ----------
    kind : str
        ``knn``, ``linear``, ``svm``, ``mlp``, ``lda`` or ``trees``.
    settings : dict
        What the inner cross-validation chose, and on how many rows.
    inner_balanced_accuracy : float
        At these settings, over the rows that it held out.
    held_out : (n, n_classes) float64 array
        Probabilities of each training row by the inner model that had not seen it; NaN for rows never held
        out. Not kept in a model folder: a restored probe has none (0 rows).
    n_classes : int
    values : dict of arrays
        What the formula of the kind needs.
    """

    kind: str
    settings: dict[str, Any]
    inner_balanced_accuracy: float
    held_out: np.ndarray
    n_classes: int
    values: Arrays = field(repr=False)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Return class probabilities (m, n_classes) of rows `x` (m, n_features); rows sum to 1.

        Raises
        ------
        LearnerError
            For another number of features than was fitted on, or a value which is not finite.
        """
        x = np.asarray(x)
        n_features = len(self.values["mean"])
        if x.ndim != 2 or x.shape[1] != n_features:
            raise LearnerError(
                f"Expected rows of {n_features} features, as the probe was fitted on; found shape {x.shape}."
            )
        _refuse_not_finite(x)
        return answer(self.kind, self.values, x, self.n_classes, self.settings["temperature"])

    def arrays(self) -> Arrays:
        """Return what a model folder keeps as tensors."""
        return dict(self.values)

    def description(self) -> dict[str, Any]:
        """Return what a model folder keeps as JSON."""
        return {
            "kind": self.kind,
            "settings": self.settings,
            "inner_balanced_accuracy": self.inner_balanced_accuracy,
            "n_classes": self.n_classes,
        }


def restore_probe(description: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Probe:
    """Return the probe that gave `description` and `arrays`; its probabilities are the same to the bit."""
    n_classes = int(description["n_classes"])
    return Probe(
        kind=description["kind"],
        settings=dict(description["settings"]),
        inner_balanced_accuracy=description["inner_balanced_accuracy"],
        held_out=np.empty((0, n_classes)),
        n_classes=n_classes,
        values={name: np.asarray(array) for name, array in arrays.items()},
    )


def fit_probe(
    kind: str,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Probe:
    """Fit a probe; its settings are those of the best balanced accuracy in an inner 3-fold cross-validation.

    Features are standardised and clipped at 5 s.d. Classes weigh alike in all kinds but ``knn``. The
    confidence of ``knn`` is the share of votes, that of ``svm`` and ``lda`` a softmax over their decision
    values with a temperature fitted on held-out rows. Above 3,000 rows the settings are chosen on a
    stratified subsample of that size; ``svm`` is then fitted on at most 5,000 rows, the others on at most
    20,000 (``settings`` tells both numbers).

    Parameters
    ----------
    kind : str
        One of `PROBES`; also ``lda`` (shrunk linear discriminants) or ``trees`` (300 extremely random ones).
    x : (n, n_features) array
        Vectors, embeddings or hand features.
    y : (n,) int array
        Classes, 0 to n_classes - 1.
    groups : (n,) array
        Animal or recording; the inner folds keep groups whole.

    Raises
    ------
    LearnerError
        For an unknown kind, shapes that do not agree, values that are not finite, or too few rows.
    """
    if kind not in KINDS:
        raise LearnerError(f"Expected a probe of {', '.join(KINDS)}, found {kind!r}{did_you_mean(kind, KINDS)}.")
    x, y = np.asarray(x), np.asarray(y)
    checked(x, y, n_classes, groups)
    _refuse_not_finite(x)
    rows = stratified_rows(y, TUNING_ROWS, FOLDS, seed)
    inner = inner_repeated_folds(y[rows], None if groups is None else groups[rows], FOLDS, seed)
    tried = cross_validated(kind, x[rows], y[rows], n_classes, inner, seed)
    best = max(tried, key=lambda attempt: attempt.balanced_accuracy)
    held_out = np.full((len(y), n_classes), np.nan)
    held_out[rows] = best.held_out
    final = stratified_rows(y, KINDS[kind].most_rows, FOLDS, seed)
    settings = best.setting | {
        "temperature": best.temperature,
        "tuned_on": len(rows),
        "fitted_on": len(final),
        "seed": seed,
    }
    values = fitted(kind, x[final], y[final], n_classes, best.setting, seed)
    return Probe(kind, settings, best.balanced_accuracy, held_out, n_classes, values)


@dataclass(frozen=True)
class Tried:
    """One setting, and what its inner models gave for the rows they had not seen (NaN: never held out)."""

    setting: ProbeSetting
    balanced_accuracy: float
    temperature: float
    held_out: np.ndarray


def cross_validated(
    kind: str,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    folds: list[Any],
    seed: int,
) -> list[Tried]:
    """Return every setting of a kind with its held-out probabilities; repeats are averaged."""
    tried = []
    for setting in KINDS[kind].grid:
        total, count = np.zeros((len(y), n_classes)), np.zeros(len(y))
        for fold in folds:
            values = fitted(kind, x[fold.train], y[fold.train], n_classes, setting, seed)
            total[fold.test] += raw_answer(kind, values, x[fold.test], n_classes)
            count[fold.test] += 1
        seen = count > 0
        held_out = np.full((len(y), n_classes), np.nan)
        held_out[seen] = total[seen] / count[seen, None]
        temperature = 1.0
        if KINDS[kind].decision_values:
            possible = seen & (held_out[np.arange(len(y)), y] > ABSENT / 10)  # its class was trained on
            temperature = fit_temperature(held_out[possible], y[possible]).temperature
            held_out[seen] = softmax(held_out[seen] / temperature, axis=1)
        reached = balanced_accuracy(y[seen], held_out[seen].argmax(axis=1))
        tried.append(Tried(setting, reached, temperature, held_out))
    return tried


def fitted(kind: str, x: np.ndarray, y: np.ndarray, n_classes: int, setting: ProbeSetting, seed: int) -> Arrays:
    """Fit one setting on standardised rows; return its arrays."""
    x = np.asarray(x, dtype=np.float64)
    mean, sd = x.mean(axis=0), x.std(axis=0)
    sd = np.where(sd > 1e-9 * np.maximum(1.0, np.abs(mean)), sd, 1.0)
    arrays = {"mean": mean, "sd": sd}
    return arrays | KINDS[kind].fit(_standardised(arrays, x), y, n_classes, setting, seed)


def raw_answer(kind: str, values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    """Return probabilities (m, n_classes), for ``svm`` decision values, a block of rows at a time."""
    blocks = [x[start : start + ROWS_AT_ONCE] for start in range(0, len(x), ROWS_AT_ONCE)]
    if not blocks:
        return np.empty((0, n_classes))
    return np.concatenate([KINDS[kind].answer(values, _standardised(values, block), n_classes) for block in blocks])


def answer(kind: str, values: Arrays, x: np.ndarray, n_classes: int, temperature: float) -> np.ndarray:
    """Return probabilities (m, n_classes)."""
    raw = raw_answer(kind, values, x, n_classes)
    return softmax(raw / temperature, axis=1) if KINDS[kind].decision_values else raw


def checked(x: np.ndarray, y: np.ndarray, n_classes: int, groups: np.ndarray | None) -> None:
    """Refuse shapes that do not agree and classes out of range."""
    if x.ndim != 2 or y.shape != x.shape[:1] or (groups is not None and len(groups) != len(y)):
        groups_text = "" if groups is None else f" and {len(groups)} groups"
        raise LearnerError(
            f"Expected rows x features and a class per row, found shapes {x.shape} and {y.shape}{groups_text}."
        )
    present = np.unique(y)
    if len(present) < 2 or present[0] < 0 or present[-1] >= n_classes:
        raise LearnerError(
            f"Expected at least two classes with indices from 0 to {n_classes - 1}, found {present.tolist()}."
        )


def _refuse_not_finite(x: np.ndarray) -> None:
    wrong = ~np.isfinite(x)
    if wrong.any():
        raise LearnerError(
            f"{int(wrong.any(axis=1).sum())} of {len(x)} rows hold NaN or infinity (the first: row"
            f" {int(np.flatnonzero(wrong.any(axis=1))[0])}). Fill or drop them first; for an embedding, the"
            " model has not converged."
        )


def _standardised(values: Arrays, x: np.ndarray) -> np.ndarray:
    return np.clip((x - values["mean"]) / values["sd"], -CLIP_SD, CLIP_SD)
