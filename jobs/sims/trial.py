"""One trial of a sweep: a training with some settings, scored on validation cells."""

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

    Test cells are not touched: their scores are not known before the best setting is.

    Parameters
    ----------
    payload : mapping
        ``spec`` (the sweep, as its job file) and ``folder`` (of that file).
    report : callable
        Is told each epoch's metrics; does not return when the trial is to be stopped.
    """
    from jobs.sims.inputs import read_inputs
    from jobs.sims.spec import SweepSpec
    from jobs.sims.stability import write_attention

    spec = SweepSpec.model_validate(payload["spec"])
    inputs = read_inputs(spec, Path(payload["folder"]))
    settings = spec.with_settings(parameters).chosen
    split = inputs.final
    task = inputs.reference.task(split.rows("train"), split.rows("validation"), settings)
    written = task.write(folder, inputs.sources, seed)
    trained = train_trial(spec, task, written, parameters, seed, folder, report)
    write_attention(task, trained.weights(), folder, seed)
    return scores_of(spec, trained.metrics)
