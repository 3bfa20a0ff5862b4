"""One trial of a sweep: a training that tells its epochs, and the scores that it is compared by."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.sweep.spec import Sweeping

if TYPE_CHECKING:
    from cluster.training import Trained

Report = Callable[[Mapping[str, Any]], None]


def train_trial(
    spec: Sweeping,
    task: Any,
    payload: dict[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    folder: Path,
    report: Report,
) -> "Trained":
    """Train a task that is written in `folder`.

    Parameters
    ----------
    payload : dict
        As the task's ``write`` returned it.
    parameters : mapping
        The trial's settings: a population that borrows settings goes on with other ones.
    report : callable
        Is told each epoch's metrics; does not return when the trial is to be stopped.
    """
    from cluster.training import Training, train

    changeable = {"changes": dict(parameters)} if spec.trials.scheduler == "pbt" else {}
    return train(
        Training(f"{type(task).__module__}:build", payload, seed, changeable),
        folder,
        max_epochs=task.epochs(),
        workers=spec.workers or 0,
        precision=spec.precision,
        loggers=spec.loggers,
        progress=report,
    )


def scores_of(spec: Sweeping, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what trials of a sweep can be compared by, of the last epoch's metrics."""
    return {name: metrics[name] for name, _ in spec.metrics.values()}
