"""Simple methods beside NeuPRINT on the same stored split, all with one signature."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier

from learners.neuprint.baselines_networks import lolcat, transformer_isi, transformer_raw
from learners.neuprint.hand_statistics import hand_statistics
from learners.neuprint.recordings import Recordings
from learners.probes import fit_probe

WIDTH = 64
WINDOW_FRAMES = 2048
TREES = 300
Method = Callable[[Recordings, np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]


def random_vectors(
    recordings: Recordings,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Probe 64 random numbers per neuron: what chance reaches; see `BASELINES`."""
    vectors = np.random.default_rng(seed).standard_normal((len(recordings.neurons), WIDTH))
    return _probed(vectors, train_rows, labels, n_classes, seed)


def pca(
    recordings: Recordings,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Probe 64 principal components of a window of raw activity; see `BASELINES` and `raw_window`."""
    window = raw_window(recordings, seed)
    width = min(WIDTH, len(train_rows), window.shape[1])
    fitted = PCA(width, random_state=seed).fit(window[train_rows])
    return _probed(fitted.transform(window), train_rows, labels, n_classes, seed)


def umap(
    recordings: Recordings,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Probe a UMAP of 64 dimensions of a window of raw activity; see `BASELINES` and `raw_window`."""
    from umap import UMAP

    window = raw_window(recordings, seed)
    width = min(WIDTH, len(train_rows) - 2)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # one thread, since it is seeded
        fitted = UMAP(n_components=width, n_neighbors=15, random_state=seed, init="random")
        vectors = np.zeros((len(window), width), dtype=np.float32)
        vectors[train_rows] = fitted.fit_transform(window[train_rows])
        others = np.setdiff1d(np.arange(len(window)), train_rows)
        vectors[others] = fitted.transform(window[others])
    return _probed(vectors, train_rows, labels, n_classes, seed)


def hand_forest(
    recordings: Recordings,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Grow a random forest of 300 trees on hand statistics; see `BASELINES`."""
    values = hand_statistics(recordings).values
    forest = RandomForestClassifier(TREES, class_weight="balanced_subsample", random_state=seed)
    forest.fit(values[train_rows], labels[train_rows])
    found = np.zeros((len(values), n_classes))
    found[:, forest.classes_] = forest.predict_proba(values)
    return found


BASELINES: dict[str, Method] = {
    "random": random_vectors,
    "pca": pca,
    "umap": umap,
    "hand_forest": hand_forest,
    "lolcat": lolcat,
    "transformer_isi": transformer_isi,
    "transformer_raw": transformer_raw,
}
"""Methods by name: (recordings, train_rows, validation_rows, labels, n_classes, seed) -> probabilities.

Rows are rows of `recordings.neurons`; labels are (neurons,) int, and only those of training and validation
rows are read. The answer is (neurons, n_classes) float64 for all neurons. Nothing is fitted on other
neurons than those of the training rows; validation rows only decide when the networks stop.
"""


def raw_window(recordings: Recordings, seed: int) -> np.ndarray:
    """Return a window of the activity of each neuron, (neurons, frames) float32.

    The window has 2,048 frames, or as many as the shortest recording, and is at the same random place for
    all neurons of a recording; of a neuron with several recordings, the first counts. Frames of one
    recording do not correspond to those of another, so such vectors compare neurons of one recording only.
    """
    frames = min(WINDOW_FRAMES, *(recording.n_frames for recording in recordings.recordings))
    rng = np.random.default_rng(seed)
    window = np.zeros((len(recordings.neurons), frames), dtype=np.float32)
    starts = [int(rng.integers(recording.n_frames - frames + 1)) for recording in recordings.recordings]
    for recording, start in reversed(list(zip(recordings.recordings, starts, strict=True))):
        window[recordings.number(recording)] = recording.activity[start : start + frames].T
    return window


def _probed(
    vectors: np.ndarray, train_rows: np.ndarray, labels: np.ndarray, n_classes: int, seed: int
) -> np.ndarray:
    """Fit a linear probe on the training rows; its penalty is chosen by cross-validation inside these."""
    probe = fit_probe("linear", vectors[train_rows], labels[train_rows], n_classes, seed=seed)
    return probe.probabilities(vectors)
