"""What each worker of a training runs."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Mapping
from typing import Any

import ray.train
from ray import cloudpickle
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

from cluster.errors import ClusterError
from cluster.training_checkpoints import CheckpointFiles
from cluster.training_process import Fit


def train_worker(config: Mapping[str, Any]) -> None:
    """Train on this worker, in step with the others.

    A worker that is lost makes the others fail with a RuntimeError or an OSError: Ray starts them all
    again. Any other exception is the training's own, and the driver is told of it.

    Parameters
    ----------
    config : mapping
        ``plan``, ``messages`` (a queue to the driver) and ``word`` (that it left beside the checkpoints).
    """
    plan, messages = config["plan"], config["messages"]
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    try:
        _check_storage(plan["checkpoints"], config["word"])
        strategy = {"devices": "auto", "strategy": RayDDPStrategy(), "plugins": [RayLightningEnvironment()]}
        fit = Fit(plan, lambda row: messages.put(("epoch", row)), strategy)
    except Exception as error:
        messages.put(("failed", _copied(error, context.get_world_rank())))
        raise
    if first:
        messages.put(("started", (fit.epochs_done, context.get_world_size())))
    try:
        fit.run()
    except (RuntimeError, OSError):
        raise
    except Exception as error:
        messages.put(("failed", _copied(error, context.get_world_rank())))
        raise


def _copied(error: Exception, rank: int) -> Exception:
    """The error as it can be sent."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001  whatever an exception of another's making does when it is copied
        error = ClusterError(f"{type(error).__name__}: {error}")
    error.add_note(f"In training worker {rank}:\n{''.join(traceback.format_exception(error))}")
    return error


def _check_storage(checkpoints: str, word: str) -> None:
    if not CheckpointFiles(checkpoints).has_word(word):
        raise ClusterError(
            f"The training worker on {socket.gethostname()} does not see what was written in {checkpoints} on"
            " the driver's machine. Name a folder that all machines share, or a URI, as the storage."
        )
