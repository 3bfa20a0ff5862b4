"""The kinds of probes: how each is fitted by scikit-learn, and the formula that answers from its arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from sklearn.utils.class_weight import compute_sample_weight

ABSENT = -1e6  # decision value of a class without training rows
MANY_CLASSES = "The number of unique classes is greater than 50%"  # how scikit-learn's warning begins
Arrays = dict[str, np.ndarray]
Setting = dict[str, Any]


def _fit_knn(x: np.ndarray, y: np.ndarray, n_classes: int, setting: Setting, seed: int) -> Arrays:
    return {"x": x, "y": y.astype(np.int64), "k": np.array(min(setting["k"], len(y)))}


def _answer_knn(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    distance = euclidean_distances(x, values["x"], squared=True)
    k = int(values["k"])
    closest = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return np.eye(n_classes)[values["y"][closest]].mean(axis=1)


def _fit_linear(x: np.ndarray, y: np.ndarray, n_classes: int, setting: Setting, seed: int) -> Arrays:
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


def _fit_lda(x: np.ndarray, y: np.ndarray, n_classes: int, setting: Setting, seed: int) -> Arrays:
    present = np.unique(y)
    alike = np.full(len(present), 1 / len(present))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=setting["shrinkage"], priors=alike).fit(x, y)
    weights, bias = model.coef_.T, model.intercept_
    if len(present) == 2:
        weights, bias = weights * [-0.5, 0.5], bias * [-0.5, 0.5]
    return {"weights": weights, "bias": bias, "classes": model.classes_}


def _answer_lda(values: Arrays, x: np.ndarray, n_classes: int) -> np.ndarray:
    return _spread(x @ values["weights"] + values["bias"], values, n_classes, ABSENT)


def _fit_svm(x: np.ndarray, y: np.ndarray, n_classes: int, setting: Setting, seed: int) -> Arrays:
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
    kernel = np.exp(-values["gamma"] * euclidean_distances(x, values["support"], squared=True))
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


def _fit_mlp(x: np.ndarray, y: np.ndarray, n_classes: int, setting: Setting, seed: int) -> Arrays:
    model = MLPClassifier(setting["hidden"], alpha=setting["alpha"], max_iter=100, random_state=seed)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(x, y, sample_weight=compute_sample_weight("balanced", y))
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


def _fit_trees(x: np.ndarray, y: np.ndarray, n_classes: int, setting: Setting, seed: int) -> Arrays:
    model = ExtraTreesClassifier(
        setting["trees"],
        min_samples_leaf=setting["min_samples_leaf"],
        class_weight="balanced",
        random_state=seed,
    ).fit(x.astype(np.float32), y)
    trees = [one.tree_ for one in model.estimators_]
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


def _spread(found: np.ndarray, values: Arrays, n_classes: int, absent: float) -> np.ndarray:
    """Return columns for all classes; those that had no training row get `absent`."""
    full = np.full((len(found), n_classes), absent)
    full[:, values["classes"]] = found
    return full


@dataclass(frozen=True)
class Kind:
    """How one kind is fitted and asked, which settings are tried, and how many rows it is fitted on."""

    fit: Callable[[np.ndarray, np.ndarray, int, Setting, int], Arrays]
    answer: Callable[[Arrays, np.ndarray, int], np.ndarray]
    grid: tuple[Setting, ...]
    most_rows: int = 20_000
    decision_values: bool = False


KINDS = {
    "knn": Kind(_fit_knn, _answer_knn, tuple({"k": k} for k in (1, 3, 5, 10))),
    "linear": Kind(_fit_linear, _answer_linear, tuple({"C": c} for c in (0.01, 0.1, 1.0, 10.0))),
    "svm": Kind(
        _fit_svm,
        _answer_svm,
        tuple({"C": c, "gamma_by_features": g} for c in (3.0, 30.0, 300.0) for g in (0.1, 0.5)),
        most_rows=5000,
        decision_values=True,
    ),
    "mlp": Kind(_fit_mlp, _answer_mlp, tuple({"hidden": 64, "alpha": a} for a in (0.01, 1.0))),
    "lda": Kind(
        _fit_lda, _answer_lda, tuple({"shrinkage": s} for s in (0.02, 0.1, 0.4)), decision_values=True
    ),
    "trees": Kind(_fit_trees, _answer_trees, ({"trees": 300, "min_samples_leaf": 1},)),
}
