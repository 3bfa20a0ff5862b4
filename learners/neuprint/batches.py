"""Batches of neurons times windows, each worker its share of every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from learners.neuprint.dynamics.moments import Moments, joined, moments_of
from learners.neuprint.sessions import Session, Window, frames_of
from learners.neuprint.settings import Settings

MOMENT_STEPS = 40
"""Steps of an epoch where second moments stand for all windows at once."""

MOMENT_NEURONS = 4096


def window_starts(frames: tuple[int, int], window: int, warm_up: int) -> np.ndarray:
    """Return where whole windows begin so that the targets of one follow on those of another."""
    return np.arange(frames[0], frames[1] - window + 1, window - warm_up)


def windows_of(frames: tuple[int, int], window: int, warm_up: int) -> list[tuple[int, int]]:
    """Return (start, length) of windows whose targets are each frame of a part once.

    Windows reach back before the part by the warm-up, as far as there are frames; the last is shorter.
    """
    found = []
    first = max(frames[0], warm_up)
    for target in range(first, frames[1], window - warm_up):
        end = min(target + window - warm_up, frames[1])
        found.append((target - warm_up, end - target + warm_up))
    return found


@dataclass(frozen=True)
class Place:
    """Which of how many workers this is."""

    rank: int = 0
    world_size: int = 1

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this worker's part of rows."""
        return rows[self.rank :: self.world_size]

    def window(self, session: Session, rows: np.ndarray, starts: np.ndarray, settings: Settings) -> Window:
        """Return this worker's part of a batch, which knows the size of the whole."""
        part = session.window(self.share(rows), starts, settings.window, settings.warm_up)
        frames = torch.from_numpy((starts[:, None] + np.arange(settings.warm_up, settings.window)).ravel())
        n_targets = float(session.valid[torch.from_numpy(rows)][:, frames].sum())
        n_rows = len(rows) * len(starts)
        return replace(part, n_targets=max(n_targets, 1.0) / self.world_size, n_rows=n_rows / self.world_size)


class TrainingWindows:
    """Every neuron to train on in every window of the training frames, once an epoch, in random order.

    Windows begin at another frame in each epoch.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        rows: Sequence[np.ndarray],
        settings: Settings,
        place: Place,
        seed: int,
    ) -> None:
        self.sessions = sessions
        self.rows = rows
        self.settings = settings
        self.place = place
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._plan(self.epoch))

    def __iter__(self) -> Iterator[Window]:
        for number, rows, starts in self._plan(self.epoch):
            yield self.place.window(self.sessions[number], rows, starts, self.settings)

    def _plan(self, epoch: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        settings, rng = self.settings, np.random.default_rng([self.seed, epoch])
        stride = settings.window - settings.warm_up
        batches = []
        for number, (session, rows) in enumerate(zip(self.sessions, self.rows, strict=True)):
            if not len(rows):
                continue
            end = frames_of(session, settings)["train"][1]
            spare = (end - settings.window) % stride
            starts = window_starts((int(rng.integers(spare + 1)), end), settings.window, settings.warm_up)
            starts = rng.permutation(starts)
            for at in range(0, len(starts), settings.batch_windows):
                n_parts = -(-len(rows) // settings.batch_neurons)
                for part in np.array_split(rng.permutation(rows), n_parts):
                    batches.append((number, part, starts[at : at + settings.batch_windows]))
        return [batches[number] for number in rng.permutation(len(batches))]


class ValidationWindows:
    """Every neuron that is trained on, in the validation frames; each entry is a target once."""

    def __init__(
        self, sessions: Sequence[Session], rows: Sequence[np.ndarray], settings: Settings, place: Place
    ) -> None:
        self._plan = []
        size = settings.batch_neurons * settings.batch_windows
        for session, own in zip(sessions, rows, strict=True):
            frames = frames_of(session, settings)["validation"]
            for start, length in windows_of(frames, settings.window, settings.warm_up):
                for at in range(0, len(own), size):
                    self._plan.append((session, place.share(own[at : at + size]), start, length))
        self._warm_up = settings.warm_up

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Window]:
        for session, rows, start, length in self._plan:
            yield session.window(rows, np.array([start]), length, self._warm_up)


class MomentBatches:
    """Second moments that stand for all windows at once, for losses that need nothing else.

    All neurons in one batch where they are not too many, else in several; an epoch goes over these again
    until it has `steps` steps.
    """

    def __init__(self, moments: Moments, place: Place, seed: int, steps: int = 1) -> None:
        n = len(moments.neurons)
        order = np.random.default_rng(seed).permutation(n)
        self._parts = []
        for rows in np.array_split(order, -(-n // MOMENT_NEURONS)):
            n_targets = float(moments.count[torch.from_numpy(rows)].sum()) / place.world_size
            part = moments.take(torch.from_numpy(place.share(rows)))
            self._parts.append(
                replace(part, n_targets=max(n_targets, 1.0), n_rows=len(rows) / place.world_size)
            )
        self._n_steps = max(steps, len(self._parts))

    def __len__(self) -> int:
        return self._n_steps

    def __iter__(self) -> Iterator[Moments]:
        for step in range(self._n_steps):
            yield self._parts[step % len(self._parts)]


class NeuprintData(pl.LightningDataModule):
    """Batches of a task.

    Parameters
    ----------
    sessions : sequence of Session
    train_neurons : array of int
        Numbers of the neurons that are trained on.
    settings : Settings
    seed : int
        Decides the order of the windows.
    """

    def __init__(
        self, sessions: Sequence[Session], train_neurons: np.ndarray, settings: Settings, seed: int
    ) -> None:
        super().__init__()
        self.sessions = sessions
        self.rows = [np.flatnonzero(np.isin(session.numbers, train_neurons)) for session in sessions]
        self.settings = settings
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch's order comes next."""
        self.epoch = epoch
        if hasattr(self, "_windows"):
            self._windows.epoch = epoch

    def windows(self, place: Place) -> TrainingWindows:
        """Return the training windows that a worker at this place gets."""
        return TrainingWindows(self.sessions, self.rows, self.settings, place, self.seed)

    @property
    def _place(self) -> Place:
        assert self.trainer is not None
        return Place(self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> TrainingWindows | MomentBatches:
        if self.settings.is_quadratic:
            return MomentBatches(self._moments("train"), self._place, self.seed, MOMENT_STEPS)
        self._windows = self.windows(self._place)
        self._windows.epoch = self.epoch
        return self._windows

    def val_dataloader(self) -> ValidationWindows | MomentBatches | list[Any]:
        if self.settings.train_share == 1.0:
            return []
        if not self.settings.is_quadratic:
            return ValidationWindows(self.sessions, self.rows, self.settings, self._place)
        return MomentBatches(self._moments("validation"), self._place, self.seed)

    def _moments(self, part: str) -> Moments:
        settings = self.settings
        return joined(
            [
                moments_of(session, rows, frames_of(session, settings)[part], settings.lags, settings.warm_up)
                for session, rows in zip(self.sessions, self.rows, strict=True)
                if len(rows)
            ]
        )
