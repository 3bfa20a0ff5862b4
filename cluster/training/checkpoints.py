"""The checkpoints of a training: the last two, and the best."""

from __future__ import annotations

import io
import logging
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from neurofleet.cluster.store.folders import LocalFolder, open_folder
from neurofleet.cluster.training.lightning_training import EpochRow, Training, TrainingResult
from neurofleet.errors import ClusterError

logger = logging.getLogger(__name__)

BEST = "best.ckpt"
CHECKPOINTS_KEPT = 2
STATE_KEY = "neurofleet"
"""The key of a checkpoint under which `CheckpointState` is stored."""

_EPOCH = re.compile(r"^epoch-(\d{5})\.ckpt$")


@dataclass
class CheckpointState:
    """The state of a training that is in its checkpoint beside Lightning's.

    Attributes
    ----------
    fingerprint : str
    history : list of dict
    best_epoch : int
        Counted from 1; 0 when none is kept.
    best_score : float
    changeable : dict
        That part of the payload as it was last.
    stopped : bool
        Whether training stopped early after this epoch.
    """

    fingerprint: str
    history: list[EpochRow]
    best_epoch: int = 0
    best_score: float = 0.0
    changeable: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False

    @property
    def epochs(self) -> int:
        return len(self.history)

    def result(self, files: CheckpointFiles, here: Path) -> TrainingResult:
        """The training as it ended, its checkpoint on this machine."""
        epoch = self.best_epoch or self.epochs
        row = self.history[epoch - 1]
        return TrainingResult(
            checkpoint=files.fetch(BEST if self.best_epoch else epoch_file(epoch), here),
            epoch=epoch,
            epochs=self.epochs,
            metrics={name: value for name, value in row.items() if name not in ("epoch", "seconds")},
            history=self.history,
            stopped_early=self.stopped,
        )


class LastCheckpoint(NamedTuple):
    """A checkpoint: its name, and the state of the training in it."""

    name: str
    state: CheckpointState


def epoch_file(epochs: int) -> str:
    """The name of the checkpoint after so many epochs."""
    return f"epoch-{epochs:05d}.ckpt"


class CheckpointFiles:
    """The folder of checkpoints, a path or a URI; each is complete or absent.

    Parameters
    ----------
    root : str or Path
    """

    def __init__(self, root: str | Path) -> None:
        self._folder = open_folder(root)

    @property
    def root(self) -> str:
        return self._folder.root

    def last(self, training: Training) -> LastCheckpoint | None:
        """Return the newest checkpoint that can be read; None if there is none yet.

        Raises
        ------
        ClusterError
            If it belongs to another training, or there are some and none can be read.
        """
        names = self._names()
        for name in reversed(names):
            try:
                state = self._state(name)
            except ClusterError as error:
                if name == names[0]:
                    raise
                logger.warning("%s The one before it is used.", error)
                continue
            if not training.continues(state.fingerprint):
                raise ClusterError(
                    f"{self.root} holds checkpoints of another training: {state.fingerprint} there,"
                    f" {training.fingerprint} requested. Give a new folder, or the same training again."
                )
            return LastCheckpoint(name, state)
        return None

    def save(self, epochs: int, content: bytes, best: bool) -> None:
        """Write the checkpoint after so many epochs, and remove those that are too old."""
        if best:
            self._folder.write(BEST, content)
        self._folder.write(epoch_file(epochs), content)
        self._folder.remove(self._names()[:-CHECKPOINTS_KEPT])

    def sweep(self) -> None:
        """Remove temporary files of writers that were killed."""
        self._folder.sweep()

    def write_driver_id(self, driver_id: str) -> None:
        """Write the driver's id, for workers to see whether they look at the same folder."""
        self._folder.write(".driver", driver_id.encode())

    def has_driver_id(self, driver_id: str) -> bool:
        """Whether this is the folder into which the driver has written its id."""
        return self._folder.read(".driver") == driver_id.encode()

    def fetch(self, name: str, here: Path) -> Path:
        """Return the path of a checkpoint on this machine, copied into `here` if it is elsewhere."""
        if isinstance(self._folder, LocalFolder) and self._folder.path == here:
            return here / name
        LocalFolder(here).write(name, self._read(name))
        return here / name

    def _names(self) -> list[str]:
        return [name for name in self._folder.names() if _EPOCH.match(name)]

    def _read(self, name: str) -> bytes:
        content = self._folder.read(name)
        if content is None:
            raise ClusterError(f"{self.root}/{name} is gone. Remove {self.root} to train from the beginning.")
        return content

    def _state(self, name: str) -> CheckpointState:
        content = safely_loaded(self._read(name), f"{self.root}/{name}")
        if STATE_KEY not in content:
            raise ClusterError(f"{self.root}/{name} was not written here. Give another folder.")
        return CheckpointState(**content[STATE_KEY])


def safely_loaded(content: bytes, name: str) -> dict[str, Any]:
    """A checkpoint's tensors and plain values.

    Raises
    ------
    ClusterError
        If it holds anything else, or is damaged.
    """
    import torch  # takes seconds to load, and only checkpoints that are there need it

    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ClusterError(
            f"{name} cannot be read: {str(error).splitlines()[0]}. A checkpoint holds tensors and plain"
            " values and nothing else."
        ) from error
