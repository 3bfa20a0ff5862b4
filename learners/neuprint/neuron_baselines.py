"""Simple methods and supervised networks on single neurons, beside NeuPRINT on the same stored split.

Widths, steps and learning rate are smaller than the paper's (table 7), so that 300 neurons take less than a
minute on one core. Each step draws some windows of every neuron of the batch; the validation neurons decide
which step is kept.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor, nn

from neurofleet.learners.neuprint.activity_statistics import EVENT_WINDOW_FRAMES, hand_statistics, interval_histograms
from neurofleet.learners.neuprint.population_recordings import Recordings, RecordingsRefused
from neurofleet.learners.probes import fit_probe

RAW_FRAMES, PATCH_FRAMES = 512, 16


@dataclass(frozen=True)
class Windows:
    """Windows of all neurons, one neuron after the other.

    Attributes
    ----------
    values : (windows, width) float32
    start, count : (neurons,) int
        The windows of neuron i are start[i] to start[i] + count[i].
    """

    values: Tensor
    start: Tensor
    count: Tensor

    def drawn(self, rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """Return `number` random windows of each neuron of `rows`, (rows, number, width)."""
        share = torch.rand(len(rows), number, generator=generator)
        return self._at(rows, share)

    def spread(self, rows: Tensor, number: int) -> Tensor:
        """Return `number` windows of each neuron, evenly spread over its recordings."""
        share = (torch.arange(number) + 0.5) / number
        return self._at(rows, share.expand(len(rows), number))

    def _at(self, rows: Tensor, share: Tensor) -> Tensor:
        count = self.count[rows, None]
        return self.values[self.start[rows, None] + (share * count).long().clamp(max=count - 1)]


def interval_windows(recordings: Recordings) -> Windows:
    """Return the interval histograms of 64-frame windows of every neuron."""
    _refuse_short(recordings, EVENT_WINDOW_FRAMES)
    return _windows(recordings, [interval_histograms(recording) for recording in recordings.recordings])


def raw_windows(recordings: Recordings) -> Windows:
    """Return stretches of activity of every neuron, which do not overlap."""
    _refuse_short(recordings, PATCH_FRAMES)
    shortest = min(recording.n_frames for recording in recordings.recordings)
    frames = min(RAW_FRAMES, shortest) // PATCH_FRAMES * PATCH_FRAMES
    parts = []
    for recording in recordings.recordings:
        number = recording.n_frames // frames
        cut = recording.activity[: number * frames].T
        parts.append(cut.reshape(recording.n_neurons, number, frames))
    return _windows(recordings, parts)


def _refuse_short(recordings: Recordings, frames: int) -> None:
    for recording in recordings.recordings:
        if recording.n_frames < frames:
            raise RecordingsRefused(
                f"{recording.session} has {recording.n_frames} frames, fewer than the window of {frames}."
                " Leave such sessions out first (neurofleet.learners.neuprint.population_recordings.long_enough)."
            )


def _windows(recordings: Recordings, parts: Sequence[np.ndarray]) -> Windows:
    """Sort windows (neurons, windows, width) of each recording by the neuron they belong to."""
    owner = np.concatenate(
        [
            np.repeat(recordings.number(recording), part.shape[1])
            for recording, part in zip(recordings.recordings, parts, strict=True)
        ]
    )
    values = np.concatenate([part.reshape(-1, part.shape[2]) for part in parts])
    count = np.bincount(owner, minlength=len(recordings.neurons))
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    values = values[np.argsort(owner, kind="stable")]
    return Windows(torch.from_numpy(values), torch.from_numpy(start), torch.from_numpy(count))


BATCH = 64
STEPS = 600
STEPS_PER_CHECK = 20
PATIENCE = 10  # checks
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 2e-3, 1e-2, 0.1
HEADS, NETWORK_WIDTH = 4, 64
INTERVAL_WINDOWS = 32
RAW_WINDOWS = 1


def lolcat(
    recordings: Recordings,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Pool interval histograms by multi-head attention (hidden 32, 16, 16; 4 heads); see `BASELINES`."""
    windows = interval_windows(recordings)
    parts = (train_rows, validation_rows, labels, n_classes, seed)
    return _fitted(lambda: Lolcat(windows.values.shape[1], n_classes), windows, INTERVAL_WINDOWS, *parts)


def transformer_isi(
    recordings: Recordings,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Attend from a class token to interval histograms, which have no positions; see `BASELINES`."""
    windows = interval_windows(recordings)
    parts = (train_rows, validation_rows, labels, n_classes, seed)
    return _fitted(lambda: IntervalTransformer(windows.values.shape[1], n_classes), windows, INTERVAL_WINDOWS, *parts)


def transformer_raw(
    recordings: Recordings,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Attend from a class token to stretches of 16 frames of the trace, with positions; see `BASELINES`.

    Windows have 512 frames, or as many as the shortest recording has.
    """
    windows = raw_windows(recordings)
    parts = (train_rows, validation_rows, labels, n_classes, seed)
    tokens = windows.values.shape[1] // PATCH_FRAMES
    return _fitted(lambda: TraceTransformer(tokens, n_classes), windows, RAW_WINDOWS, *parts)


class Lolcat(nn.Module):
    """Encode each histogram, weigh them by each head's attention, and classify the weighted sums."""

    def __init__(self, bins: int, n_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(bins, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.attention = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, HEADS))
        self.head = nn.Sequential(nn.Linear(16 * HEADS, 16), nn.ReLU(), nn.Linear(16, n_classes))

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits (rows, n_classes) of histograms (rows, windows, bins)."""
        encoded = self.encoder(windows)
        weights = self.attention(encoded).softmax(dim=1)
        return self.head(torch.einsum("nwh,nwc->nhc", weights, encoded).flatten(1))


class _TokenTransformer(nn.Module):
    """One layer of self-attention over tokens and a class token, whose output is classified."""

    def __init__(self, features: int, positions: int, n_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(features, NETWORK_WIDTH)
        self.token = nn.Parameter(torch.randn(1, 1, NETWORK_WIDTH) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, positions, NETWORK_WIDTH) * 0.02) if positions else None
        self.layer = nn.TransformerEncoderLayer(
            NETWORK_WIDTH, HEADS, 2 * NETWORK_WIDTH, DROPOUT, batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.LayerNorm(NETWORK_WIDTH), nn.Linear(NETWORK_WIDTH, n_classes))

    def logits(self, tokens: Tensor) -> Tensor:
        encoded = self.encoder(tokens)
        if self.positions is not None:
            encoded = encoded + self.positions
        everything = torch.cat([self.token.expand(len(tokens), -1, -1), encoded], dim=1)
        return self.head(self.layer(everything)[:, 0])


class IntervalTransformer(_TokenTransformer):
    """Interval histograms are the tokens; their order does not matter."""

    def __init__(self, bins: int, n_classes: int) -> None:
        super().__init__(bins, 0, n_classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits (rows, n_classes) of histograms (rows, windows, bins)."""
        return self.logits(windows)


class TraceTransformer(_TokenTransformer):
    """Stretches of 16 frames of one window are the tokens; logits of several windows are averaged."""

    def __init__(self, tokens: int, n_classes: int) -> None:
        super().__init__(PATCH_FRAMES, tokens, n_classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits (rows, n_classes) of traces (rows, windows, frames)."""
        rows, number, _ = windows.shape
        tokens = windows.reshape(rows * number, -1, PATCH_FRAMES)
        return self.logits(tokens).reshape(rows, number, -1).mean(dim=1)


def _fitted(
    make: Callable[[], nn.Module],
    windows: Windows,
    number: int,
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Train on the training neurons, keep the step of least validation loss, and answer for all neurons.

    Classes weigh alike in both losses.
    """
    if not len(validation_rows):
        raise RecordingsRefused("Supervised networks need validation neurons, to know when to stop.")
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    train, validation = (torch.from_numpy(np.asarray(rows)) for rows in (train_rows, validation_rows))
    counts = torch.bincount(target[train], minlength=n_classes).float()
    loss = nn.CrossEntropyLoss(weight=len(train) / (n_classes * counts.clamp(min=1)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        network = make()
        optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        best, kept, waited = float("inf"), copy.deepcopy(network.state_dict()), 0
        for step in range(1, STEPS + 1):
            rows = train[torch.randint(len(train), (BATCH,), generator=generator)]
            network.train()
            optimiser.zero_grad()
            loss(network(windows.drawn(rows, number, generator)), target[rows]).backward()
            optimiser.step()
            if step % STEPS_PER_CHECK:
                continue
            now = float(loss(_logits(network, windows, number, validation), target[validation]))
            waited += 1
            if now < best:
                best, kept, waited = now, copy.deepcopy(network.state_dict()), 0
            if waited == PATIENCE:
                break
    network.load_state_dict(kept)
    everyone = torch.arange(len(windows.count))
    return _logits(network, windows, number, everyone).softmax(dim=1).double().numpy()


def _logits(network: nn.Module, windows: Windows, number: int, rows: Tensor) -> Tensor:
    """Return the logits of whole recordings, from twice as many windows as a training step draws."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(windows.spread(part, 2 * number)) for part in rows.split(BATCH)])


VECTOR_WIDTH = 64
VECTOR_WINDOW_FRAMES = 2048
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
    vectors = np.random.default_rng(seed).standard_normal((len(recordings.neurons), VECTOR_WIDTH))
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
    width = min(VECTOR_WIDTH, len(train_rows), window.shape[1])
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
    width = min(VECTOR_WIDTH, len(train_rows) - 2)
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
    probabilities = np.zeros((len(values), n_classes))
    probabilities[:, forest.classes_] = forest.predict_proba(values)
    return probabilities


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
    frames = min(VECTOR_WINDOW_FRAMES, *(recording.n_frames for recording in recordings.recordings))
    rng = np.random.default_rng(seed)
    window = np.zeros((len(recordings.neurons), frames), dtype=np.float32)
    starts = [int(rng.integers(recording.n_frames - frames + 1)) for recording in recordings.recordings]
    for recording, start in reversed(list(zip(recordings.recordings, starts, strict=True))):
        window[recordings.number(recording)] = recording.activity[start : start + frames].T
    return window


def _probed(vectors: np.ndarray, train_rows: np.ndarray, labels: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """Fit a linear probe on the training rows; its penalty is chosen by cross-validation inside these."""
    probe = fit_probe("linear", vectors[train_rows], labels[train_rows], n_classes, seed=seed)
    return probe.probabilities(vectors)
