"""Supervised networks on single neurons: LOLCAT, Transformer+ISI and Transformer+Raw.

Widths, steps and learning rate are smaller than the paper's (table 7), so that 300 neurons take less than a
minute on one core. Each step draws some windows of every neuron of the batch; the validation neurons decide
which step is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from learners.neuprint.baselines_windows import PATCH_FRAMES, Windows, interval_windows, raw_windows
from learners.neuprint.recordings import Recordings, RecordingsRefused

BATCH = 64
STEPS = 600
STEPS_PER_CHECK = 20
PATIENCE = 10  # checks
LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 2e-3, 1e-2, 0.1
HEADS, WIDTH = 4, 64
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
    return _fitted(
        lambda: IntervalTransformer(windows.values.shape[1], n_classes), windows, INTERVAL_WINDOWS, *parts
    )


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
        self.encoder = nn.Linear(features, WIDTH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, positions, WIDTH) * 0.02) if positions else None
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, DROPOUT, batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, n_classes))

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
