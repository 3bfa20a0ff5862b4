"""Pretraining inside a job: on the job's workers, once for each pool, kept in the run's folder."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.hippie.spec import HippieSpec
from jobs.train.carrying_out import TRAININGS
from jobs.train.workers import Workers

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.train.trainings import Trainings
    from learners.hippie.pretraining import Pretrained
    from learners.units.units import Units

PRETRAINED = "pretrained"


def trainings_of(
    spec: HippieSpec, out: Path, workers: Workers, epochs: int, console: "Console"
) -> "Trainings":
    """Return what trains the tasks of a job."""
    from jobs.train.trainings import Trainings

    return Trainings(
        spec,
        (out / TRAININGS).absolute(),
        lambda task, place, seed: task.write(place, seed),
        lambda task: None,
        workers,
        epochs,
        console,
    )


def pretrained_on(
    pool: "Units | None",
    target: "Units",
    spec: HippieSpec,
    trainings: "Trainings",
    pool_name: str,
    out: Path,
) -> "tuple[Pretrained, str] | None":
    """Return a network pretrained on a pool and the folder it is kept in; None without a pool.

    Parameters
    ----------
    target : Units
        Those that are to be named later, none of which is in the pool: their modalities are learned.
    """
    from learners.hippie.inputs import modalities_of
    from learners.hippie.pretraining import Pretrained, pretrain

    settings = spec.chosen
    if pool is None or not settings.pretrain_epochs:
        return None
    folder = (out / PRETRAINED / pool_name).absolute()
    if (folder / "pretrained.json").is_file():
        return Pretrained.read(folder), str(folder)

    def train(task: Any, name: str, seed: int) -> Any:
        return trainings(task, f"{pool_name}-{name}", seed)

    modalities = modalities_of(target, settings.modalities)
    found = pretrain(pool, settings, train, spec.seed, modalities=modalities, target=target)
    found.write(folder)
    return found, str(folder)


def fingerprint(spec: HippieSpec) -> str:
    """Return what tells a job's model from those of other jobs."""
    return hashlib.sha256(json.dumps(spec.identity(), sort_keys=True).encode()).hexdigest()
