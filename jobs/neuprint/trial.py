"""One trial of a NeuPRINT sweep: a dynamics with some settings, scored on the frames that are held out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.train.trials import Report, scores_of, train_trial


def run(
    payload: Mapping[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    folder: Path,
    report: Report,
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
    from jobs.neuprint.inputs import read_inputs
    from jobs.neuprint.spec import SweepSpec
    from learners.neuprint.downstream import trained_neurons
    from learners.neuprint.task import Task

    spec = SweepSpec.model_validate(payload["spec"])
    inputs, _ = read_inputs(spec, Path(payload["folder"]))
    settings = spec.with_settings(parameters).chosen
    neurons = trained_neurons(inputs.recordings, inputs.splits[0], spec.mode)
    task = Task(inputs.recordings, neurons, settings)
    written = task.write(folder, inputs.sources, seed)
    trained = train_trial(spec, task, written, parameters, seed, folder, report)
    return scores_of(spec, trained.metrics)
