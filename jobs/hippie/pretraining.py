"""Pretraining inside a job: on the job's workers, once for each pool, kept in the run's folder."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.carrying_out import TRAININGS
from jobs.errors import UsageError
from jobs.hippie.spec import Folded, HippieSpec, Method
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


def methods_of(spec: Folded, has_pool: bool) -> tuple[list[Method], list[str]]:
    """Return the methods of a job that make sense with or without a pool, and why others are left out.

    Raises
    ------
    UsageError
        None is left.
    """
    settings = spec.chosen
    pretrained = has_pool and settings.pretrain_epochs > 0
    reconstructs = settings.reconstruction_weight > 0
    without: dict[str, str] = {}
    if not pretrained:
        without["frozen"] = "it needs a pretrained network: a `pool:`, and `pretrain_epochs` above 0"
    if not reconstructs and not (pretrained and settings.objective == "reconstruction"):
        without["mean_knn"] = (
            "nothing trains the latent mean here, so that it is a random projection of the fusion vector;"
            " set `reconstruction_weight` above 0, or give a `pool:` for pretraining by reconstruction"
        )
    told = [f"Method {name} is left out: {why}." for name, why in without.items() if name in spec.methods]
    methods = [name for name in spec.methods if name not in without]
    if not methods:
        raise UsageError(f"methods: nothing is left to do. {' '.join(told)}")
    return methods, told


def fingerprint(spec: HippieSpec) -> str:
    """Return what tells a job's model from those of other jobs."""
    return hashlib.sha256(json.dumps(spec.identity(), sort_keys=True).encode()).hexdigest()
