"""One trial of a sweep: a training with some settings, scored on validation cells."""

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

    Test cells are not touched: their scores are not known before the best setting is.

    Parameters
    ----------
    payload : mapping
        ``spec`` (the sweep, as its job file) and ``folder`` (of that file).
    report : callable
        Is told each epoch's metrics; does not return when the trial is to be stopped.
    """
    from cluster.training import Training, train
    from jobs.sims.inputs import read_inputs
    from jobs.sims.spec import SweepSpec
    from jobs.sims.stability import write_attention

    spec = SweepSpec.model_validate(payload["spec"])
    inputs = read_inputs(spec, Path(payload["folder"]))
    settings = spec.chosen.model_validate(spec.chosen.model_dump() | dict(parameters))
    split = inputs.final
    task = inputs.reference.task(split.rows("train"), split.rows("validation"), settings)
    changeable = {"changes": dict(parameters)} if spec.trials.scheduler == "pbt" else {}
    trained = train(
        Training("learners.sims.task:build", task.write(folder, inputs.sources, seed), seed, changeable),
        folder,
        max_epochs=task.epochs(),
        workers=spec.workers or 0,
        precision=spec.precision,
        loggers=spec.loggers,
        progress=report,
    )
    write_attention(task, trained.weights(), folder, seed)
    return {name: trained.metrics[name] for name, _ in spec.metrics.values()}
