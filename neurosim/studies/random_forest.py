"""Random forests that name the class of a cell from its models, split by cell."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.model_table import ModelTable

TEST = 0.3
TREES = tuple(range(50, 451, 50))
FOLDS = 3
SHUFFLES = 3
AUGMENTED = 20
LEAST_CELLS = 10
CONTROLS = 2


@dataclass(frozen=True, eq=False)
class Classified:
    """How well random forests classify test cells.

    Attributes
    ----------
    scores : DataFrame
        One row a shuffle: `trees`, `f1` (macro), `accuracy`, `n_train`, `n_test` (cells), `majority_f1` and
        `majority_rate` of the most frequent training class, `shuffled_f1` and `shuffled_accuracy`, means
        over `CONTROLS` forests of the fewest trees, whose training cells have permuted classes.
    grid : DataFrame
        `shuffle`, `trees`, `f1`: the mean over inner folds that chose the number of trees.
    predictions : DataFrame
        `shuffle`, `cell`, `true`, `predicted`, `probability`.
    importances : DataFrame
        `quantity`, `importance`: mean decrease in Gini impurity, mean over shuffles.
    """

    scores: pd.DataFrame
    grid: pd.DataFrame
    predictions: pd.DataFrame
    importances: pd.DataFrame


def refuse_small_classes(classes: pd.Series) -> tuple[pd.Series, list[str]]:
    """Return the classes that are large enough for a forest, and notes on those that are left out.

    Parameters
    ----------
    classes : Series
        Class by cell; "" for none.

    Raises
    ------
    InputError
        Fewer than two classes have `LEAST_CELLS` cells.
    """
    named = classes[classes != ""]
    counts = named.value_counts(sort=False).sort_index()
    small = [f"{name} ({count})" for name, count in counts.items() if count < LEAST_CELLS]
    kept = counts[counts >= LEAST_CELLS]
    if len(kept) < 2:
        raise InputError(
            f"A forest tells classes of at least {LEAST_CELLS} cells apart; expected two of them, found "
            f"{', '.join(f'{name} ({count})' for name, count in counts.items()) or 'no class'}. Merge classes"
            " in `classes:`, add populations, or set `forest: false`."
        )
    notes = [f"Classes with fewer than {LEAST_CELLS} cells are left out of the forest: {', '.join(small)}."]
    return named[named.isin(kept.index)], notes if small else []


def classify(models: ModelTable, classes: pd.Series, seed: int, jobs: int = 1) -> Classified:
    """Train and test forests on several random splits of the cells.

    All models of a cell are on one side. A training cell gives its best `AUGMENTED` models, a test cell its
    best alone. The number of trees is chosen by cross-validation inside the training cells.

    Parameters
    ----------
    models : ModelTable
        With values for all parameters.
    classes : Series
        Class by cell; models of other cells are not used.
    seed : int
    jobs : int
        Threads that grow trees; results do not depend on it.
    """
    cells = classes.index.to_numpy(dtype=str)
    labels = classes.to_numpy(dtype=str)
    values, of_cell = _augmented(models, cells)
    best = models.best()
    tested = pd.DataFrame(best.values, index=best.cells)
    splits = StratifiedShuffleSplit(SHUFFLES, test_size=TEST, random_state=seed)
    scores, grids, predictions, importances = [], [], [], []
    for shuffle, (train, test) in enumerate(splits.split(cells, labels)):
        rows = np.isin(of_cell, train)
        x, group = values[rows], of_cell[rows]
        y = labels[group]
        grid = grid_scores(x, y, group, seed + shuffle, jobs)
        trees = TREES[int(np.argmax(grid))]
        x_test, truth = tested.loc[cells[test]].to_numpy(), labels[test]
        forest = grown(x, y, trees, seed + shuffle, jobs)
        probabilities = forest.predict_proba(x_test)
        predicted = forest.classes_[probabilities.argmax(axis=1)]
        shuffled = [
            _scores(truth, grown(x, permuted[group], TREES[0], seed + shuffle, jobs).predict(x_test))
            for permuted in _permuted(labels, train, seed + shuffle)
        ]
        scores.append(
            {"shuffle": shuffle, "trees": trees, "n_train": len(train), "n_test": len(test)}
            | _scores(truth, predicted)
            | _majority(labels[train], truth)
            | {
                f"shuffled_{key}": float(np.mean([scores_of_control[key] for scores_of_control in shuffled]))
                for key in shuffled[0]
            }
        )
        grids += [{"shuffle": shuffle, "trees": n, "f1": f1} for n, f1 in zip(TREES, grid, strict=True)]
        predictions.append(
            pd.DataFrame(
                {
                    "shuffle": shuffle,
                    "cell": cells[test],
                    "true": truth,
                    "predicted": predicted,
                    "probability": probabilities.max(axis=1),
                }
            )
        )
        importances.append(forest.feature_importances_)
    mean = pd.DataFrame({"quantity": models.parameters, "importance": np.mean(importances, axis=0)})
    return Classified(
        pd.DataFrame(scores),
        pd.DataFrame(grids),
        pd.concat(predictions, ignore_index=True),
        mean.sort_values("importance", ascending=False, kind="stable", ignore_index=True),
    )


def grid_scores(x: np.ndarray, y: np.ndarray, group: np.ndarray, seed: int, jobs: int = 1) -> np.ndarray:
    """Return the mean macro F1 over inner folds for each number of trees, shape (9,).

    The scores are those of scikit-learn's `GridSearchCV` with `StratifiedGroupKFold`, at a fifth of its
    time: a forest of 50 trees is the beginning of one of 100, so each fold grows one forest step by step.

    Parameters
    ----------
    x : ndarray, shape (n, P)
    y : ndarray of str, shape (n,)
    group : ndarray of int, shape (n,)
        The cell of each row; a cell is in one fold.
    """
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    scores = np.empty((FOLDS, len(TREES)))
    for fold, (train, test) in enumerate(folds.split(x, y, group)):
        forest = RandomForestClassifier(random_state=seed, warm_start=True, n_jobs=jobs)
        tested = x[test].astype(np.float32)  # as trees compare values
        votes, counted = 0.0, 0
        for number, trees in enumerate(TREES):
            forest.set_params(n_estimators=trees).fit(x[train], y[train])
            for tree in forest.estimators_[counted:]:
                votes = votes + tree.predict_proba(tested, check_input=False)
            counted = trees
            predicted = forest.classes_[np.argmax(votes, axis=1)]
            scores[fold, number] = _scores(y[test], predicted)["f1"]
    return scores.mean(axis=0)


def grown(x: np.ndarray, y: np.ndarray, trees: int, seed: int, jobs: int) -> RandomForestClassifier:
    """Return a forest grown on some rows."""
    forest = RandomForestClassifier(trees, random_state=seed, n_jobs=jobs).fit(x, y)
    return forest.set_params(n_jobs=1)  # threads add votes in any order, and rounding may decide a tie


def _augmented(models: ModelTable, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = models.best(AUGMENTED)
    chosen = known.rows(np.isin(known.cells, cells))
    order = np.argsort(cells)
    return chosen.values, order[np.searchsorted(cells, chosen.cells, sorter=order)]


def _permuted(labels: np.ndarray, train: np.ndarray, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    permuted = []
    for _ in range(CONTROLS):
        shuffled = labels.copy()
        shuffled[train] = rng.permutation(labels[train])
        permuted.append(shuffled)
    return permuted


def _scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "f1": float(f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0.0)),
        "accuracy": float(accuracy_score(truth, predicted)),
    }


def _majority(train: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    names, counts = np.unique(train, return_counts=True)
    scores = _scores(truth, np.full(len(truth), names[counts.argmax()], dtype=truth.dtype))
    return {"majority_f1": scores["f1"], "majority_rate": scores["accuracy"]}
