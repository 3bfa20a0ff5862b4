"""Training of a dynamics and of the Phi of training neurons: Lightning module, batches and tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torchmetrics import MeanMetric

from neurofleet.errors import LearnerError
from neurofleet.learners.neuprint.dynamics import BandedTransformer, Filter, Prediction, dynamics_for, entry_losses
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.filter_moments import Moments, joined, moments_of
from neurofleet.learners.neuprint.phi_inference import one_cycle
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.neuprint.session_tensors import SessionTensors, Window, frames_of, sessions_of, window_starts

ZERO_SHARE = 0.8
NOISE_SHARE = 0.1


def hide(activity: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return activity with some entries hidden, and which: both (rows, steps).

    A `share` of the entries is chosen, and the last step of every row always. Of the chosen, 80 % become 0,
    10 % standard normal noise, and 10 % stay (NeuPRINT, appendix E.1; the released code means the last
    step, too, but hides the last neuron).
    """
    chosen = torch.rand_like(activity) < share
    chosen[:, -1] = True
    kind = torch.rand_like(activity)
    shown = activity.masked_fill(chosen & (kind < ZERO_SHARE), 0.0)
    noisy = chosen & (kind >= ZERO_SHARE) & (kind < ZERO_SHARE + NOISE_SHARE)
    return torch.where(noisy, torch.randn_like(activity), shown), chosen


PHI_START_SD = 0.1

WindowsOrMoments = Window | Moments


class NeuprintModule(pl.LightningModule):
    """f, and one table of Phi for all distinct neurons, fitted together by predicting activity.

    The loss is summed over the entries that count and divided by their number; to it come penalties of the
    sizes of Phi and of filters. Logs ``train_loss`` and ``val_loss`` without penalties, and ``val_r2``: one
    minus squared error over squared activity, on the entries of the validation frames, which are the same for
    every dynamics.

    Parameters
    ----------
    settings : NeuprintSettings
    n_neurons : int
        Distinct neurons: rows of the table of Phi.
    n_covariates : int
    """

    def __init__(self, settings: NeuprintSettings, n_neurons: int, n_covariates: int) -> None:
        super().__init__()
        self.settings = settings
        self.dynamics = dynamics_for(settings, n_covariates)
        self.phi = nn.Parameter(PHI_START_SD * torch.randn(n_neurons, settings.phi))
        self.val_loss = MeanMetric()
        self.val_error = MeanMetric()
        self.val_square = MeanMetric()

    def training_step(self, batch: WindowsOrMoments, _: int) -> Tensor:
        phi = self.phi[batch.neurons]
        if isinstance(batch, Moments):
            loss = self._filter_errors(batch, phi).sum() / batch.n_targets
        elif isinstance(self.dynamics, BandedTransformer) and self.settings.hiding == "random":
            shown, hidden = hide(batch.activity, self.settings.mask_share)
            targets = batch.targets & hidden
            predicted = self.dynamics.predict(shown, shown, batch.covariates, phi, targets)
            losses = entry_losses(predicted, batch.activity[targets])
            loss = losses.sum() / max(len(losses), 1)
        else:
            predicted = self.dynamics(batch, phi)
            loss = _summed(entry_losses(predicted, batch.activity), batch.targets) / batch.n_targets
        self.log(
            "train_loss",
            loss.detach(),
            on_epoch=True,
            on_step=False,
            sync_dist=True,
            batch_size=max(round(batch.n_targets), 1),
        )
        size = self.settings.phi_penalty * phi.square().sum() / batch.n_rows
        return loss + size + self.dynamics.penalty()

    def validation_step(self, batch: WindowsOrMoments, _: int) -> None:
        phi = self.phi[batch.neurons]
        if isinstance(batch, Moments):
            n, square = batch.count.sum(), batch.square.sum()
            error = total = self._filter_errors(batch, phi).sum()
        else:
            predicted = self.dynamics(batch, phi)
            n = batch.targets.sum().float()
            square = _summed(batch.activity.square(), batch.targets)
            total = _summed(entry_losses(predicted, batch.activity), batch.targets)
            error = _summed(entry_losses(Prediction(predicted.mean), batch.activity), batch.targets)
        if n > 0:
            self.val_loss.update(total / n, n)
            self.val_error.update(error / n, n)
            self.val_square.update(square / n, n)

    def on_validation_epoch_end(self) -> None:
        r2 = 1.0 - self.val_error.compute() / self.val_square.compute()
        metrics = {"val_loss": self.val_loss.compute(), "val_r2": r2}
        for metric in (self.val_loss, self.val_error, self.val_square):
            metric.reset()
        self.log_dict(metrics, on_epoch=True, sync_dist=True)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_norm_(self.dynamics.parameters(), self.settings.clip_norm)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        groups: list[dict[str, Any]] = [
            {"params": list(self.dynamics.parameters()), "lr": settings.learning_rate},
            {"params": [self.phi], "lr": settings.phi_rate},
        ]
        optimizer = torch.optim.Adam(groups)
        if settings.schedule == "constant":
            return optimizer
        n_steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(one_cycle, n_steps=n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _filter_errors(self, batch: Moments, phi: Tensor) -> Tensor:
        assert isinstance(self.dynamics, Filter)
        return batch.errors(self.dynamics.weights(phi)[0])


def _summed(values: Tensor, counted: Tensor) -> Tensor:
    return values.masked_fill(~counted, 0.0).sum()


MOMENT_STEPS = 40
"""Steps of an epoch where second moments stand for all windows at once."""

MOMENT_NEURONS = 4096


def windows_of(frames: tuple[int, int], window: int, warm_up: int) -> list[tuple[int, int]]:
    """Return (start, length) of windows whose targets are each frame of a part once.

    Windows reach back before the part by the warm-up, as far as there are frames; the last is shorter.
    """
    windows = []
    first = max(frames[0], warm_up)
    for target in range(first, frames[1], window - warm_up):
        end = min(target + window - warm_up, frames[1])
        windows.append((target - warm_up, end - target + warm_up))
    return windows


@dataclass(frozen=True)
class WorkerRank:
    """Which of how many workers this is."""

    rank: int = 0
    world_size: int = 1

    def share(self, rows: np.ndarray) -> np.ndarray:
        """Return this worker's part of rows."""
        return rows[self.rank :: self.world_size]

    def window(
        self, session: SessionTensors, rows: np.ndarray, starts: np.ndarray, settings: NeuprintSettings
    ) -> Window:
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
        sessions: Sequence[SessionTensors],
        rows: Sequence[np.ndarray],
        settings: NeuprintSettings,
        place: WorkerRank,
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
        self,
        sessions: Sequence[SessionTensors],
        rows: Sequence[np.ndarray],
        settings: NeuprintSettings,
        place: WorkerRank,
    ) -> None:
        self._plan = []
        size = settings.batch_neurons * settings.batch_windows
        for session, neurons in zip(sessions, rows, strict=True):
            frames = frames_of(session, settings)["validation"]
            for start, length in windows_of(frames, settings.window, settings.warm_up):
                for at in range(0, len(neurons), size):
                    self._plan.append((session, place.share(neurons[at : at + size]), start, length))
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

    def __init__(self, moments: Moments, place: WorkerRank, seed: int, steps: int = 1) -> None:
        n = len(moments.neurons)
        order = np.random.default_rng(seed).permutation(n)
        self._parts = []
        for rows in np.array_split(order, -(-n // MOMENT_NEURONS)):
            n_targets = float(moments.count[torch.from_numpy(rows)].sum()) / place.world_size
            part = moments.take(torch.from_numpy(place.share(rows)))
            self._parts.append(replace(part, n_targets=max(n_targets, 1.0), n_rows=len(rows) / place.world_size))
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
    sessions : sequence of SessionTensors
    train_neurons : array of int
        Numbers of the neurons that are trained on.
    settings : NeuprintSettings
    seed : int
        Decides the order of the windows.
    """

    def __init__(
        self, sessions: Sequence[SessionTensors], train_neurons: np.ndarray, settings: NeuprintSettings, seed: int
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

    def windows(self, place: WorkerRank) -> TrainingWindows:
        """Return the training windows that a worker at this place gets."""
        return TrainingWindows(self.sessions, self.rows, self.settings, place, self.seed)

    @property
    def _place(self) -> WorkerRank:
        assert self.trainer is not None
        return WorkerRank(self.trainer.global_rank, self.trainer.world_size)

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


_TENSORS, _DESCRIPTION = "task.safetensors", "task.json"


@dataclass(frozen=True)
class NeuprintTask:
    """A training of f and of the Phi of training neurons (stage 1).

    Attributes
    ----------
    recordings : Recordings
    train_neurons : array of int
        Rows of ``recordings.neurons`` that are trained on. Others are never targets; in their recordings
        they still belong to the population.
    settings : NeuprintSettings
    """

    recordings: Recordings
    train_neurons: np.ndarray
    settings: NeuprintSettings

    @cached_property
    def sessions(self) -> list[SessionTensors]:
        """The sessions that hold a training neuron, with their covariates.

        Raises
        ------
        LearnerError
            If a session cannot be used, or no neuron is trained on.
        """
        sessions = [
            session
            for session in sessions_of(self.recordings, self.settings)
            if np.isin(session.numbers, self.train_neurons).any()
        ]
        if not sessions:
            raise LearnerError("There is no neuron to train on: no recording holds one of train_neurons.")
        for session in sessions:
            frames_of(session, self.settings)
        return sessions

    def module(self) -> NeuprintModule:
        """Return what is trained."""
        return NeuprintModule(self.settings, len(self.recordings.neurons), len(self.sessions[0].names))

    def data(self, seed: int) -> NeuprintData:
        """Return its data; `seed` decides their order."""
        return NeuprintData(self.sessions, self.train_neurons, self.settings, seed)

    def epochs(self) -> int:
        """Return after how many epochs training ends: more than the settings' for short recordings."""
        settings = self.settings
        if settings.is_quadratic:
            return settings.epochs
        steps_per_epoch = len(self.data(0).windows(WorkerRank()))
        return max(settings.epochs, -(-settings.least_steps // steps_per_epoch))

    def write(self, folder: Path, sources: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Write the task for `build`, and return what `build` is to be called with.

        Parameters
        ----------
        sources : mapping
            What `open_recordings` was called with, with absolute paths.
        """
        folder.mkdir(parents=True, exist_ok=True)
        neurons = np.ascontiguousarray(self.train_neurons, dtype=np.int64)
        save_file({"train_rows": neurons}, folder / _TENSORS)
        description = {
            "sources": dict(sources),
            "settings": self.settings.model_dump(mode="json"),
            "epochs": self.epochs(),
        }
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1))
        return {"folder": str(folder), "seed": seed}


def build(payload: Mapping[str, Any]) -> tuple[NeuprintModule, NeuprintData]:
    """Return module and data of a task that was written to ``payload["folder"]``.

    Parameters
    ----------
    payload : mapping
        As `NeuprintTask.write` returned it; ``changes`` are settings that differ from the task's.
    """
    folder = Path(payload["folder"])
    description = json.loads((folder / _DESCRIPTION).read_text())
    task = NeuprintTask(
        recordings=open_recordings(**description["sources"]),
        train_neurons=load_file(folder / _TENSORS)["train_rows"],
        settings=NeuprintSettings(**(description["settings"] | payload.get("changes", {}))),
    )
    return task.module(), task.data(payload["seed"])
