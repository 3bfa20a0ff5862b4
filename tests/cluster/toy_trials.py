"""Trials of milliseconds that leave a trace. Imported by the processes of sweeps."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def valley(
    payload: dict[str, Any], parameters: dict[str, Any], seed: int, folder: Path, report: Callable
) -> dict[str, float]:
    """Come down to the depth of ``x``: best at 0.3; worse, by a little, with a larger seed."""
    trace(payload, f"begin {folder.name}")
    x = parameters.get("x", 0.0)
    if x == payload.get("fails_at"):
        raise ValueError(f"x should not be {x}")
    if x == payload.get("dies_at") and once_only(folder / "died"):
        os.kill(os.getpid(), signal.SIGKILL)
    depth = (x - 0.3) ** 2 + 0.001 * seed
    for epoch in range(payload.get("epochs", 4)):
        time.sleep(payload.get("epoch_s", 0.0))
        report({"loss": depth + 1.0 / (epoch + 1)})
    trace(payload, f"end {folder.name}")
    return {"loss": depth, "width": 2.0}


def trained(
    payload: dict[str, Any], parameters: dict[str, Any], seed: int, folder: Path, report: Callable
) -> dict[str, float]:
    """Train the toy module in the trial's folder, on as many workers as the payload says."""
    from neurofleet.cluster.training.lightning_training import Training
    from neurofleet.cluster.training.trainer import train

    trace(payload, f"begin {folder.name}")
    training = Training("tests.cluster.toy_training:build", {}, seed, changeable=parameters)
    workers = payload.get("workers", 0)
    done = train(training, folder, max_epochs=payload["epochs"], workers=workers, progress=report, loggers=[])
    trace(payload, f"end {folder.name}")
    return {"val_loss": done.metrics["val_loss"]}


def no_scores(*_: Any) -> None:
    """Return nothing."""


def once_only(mark: Path) -> bool:
    """Whether this is the first call for a file, which is then there."""
    if mark.exists():
        return False
    mark.touch()
    return True


def trace(payload: dict[str, Any], line: str) -> None:
    if "trace" in payload:
        with open(payload["trace"], "a", encoding="utf-8") as file:
            file.write(line + "\n")
