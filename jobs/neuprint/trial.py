"""One trial of a NeuPRINT sweep: a dynamics with some settings, scored on the frames that are held out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def run(
    payload: Mapping[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    folder: Path,
    report: Callable[[Mapping[str, Any]], None],
) -> dict[str, float]:
    """Train with `parameters` in place of the job's settings, and return the last epoch's scores.

    The neurons are those that the dynamics of the first split may see.

    Parameters
    ----------
    payload : mapping
        ``spec`` (the sweep, as its job file) and ``folder`` (of that file).
    report : callable
        Is told each epoch's metrics; does not return when the trial is to be stopped.
    """
    from cluster.training import Training, train
    from jobs.neuprint.inputs import read_inputs
    from jobs.neuprint.spec import SweepSpec
    from learners.neuprint.downstream import trained_neurons
    from learners.neuprint.task import Task

    spec = SweepSpec.model_validate(payload["spec"])
    inputs, _ = read_inputs(spec, Path(payload["folder"]))
    settings = spec.chosen.model_validate(spec.chosen.model_dump() | dict(parameters))
    neurons = trained_neurons(inputs.recordings, inputs.splits[0], spec.mode)
    task = Task(inputs.recordings, neurons, settings)
    changeable = {"changes": dict(parameters)} if spec.trials.scheduler == "pbt" else {}
    trained = train(
        Training("learners.neuprint.task:build", task.write(folder, inputs.sources, seed), seed, changeable),
        folder,
        max_epochs=task.epochs(),
        workers=spec.workers or 0,
        precision=spec.precision,
        loggers=spec.loggers,
        progress=report,
    )
    return {name: trained.metrics[name] for name, _ in spec.metrics.values()}
