"""One trial of a HIPPIE sweep: pretraining and fine-tuning with some settings, scored on validation units."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.train.trials import Report, scores_of, train_trial

if TYPE_CHECKING:
    import numpy as np

    from jobs.hippie.inputs import Labelled


def run(
    payload: Mapping[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    folder: Path,
    report: Report,
) -> dict[str, float]:
    """Train with `parameters` in place of the job's settings, and return the last epoch's scores.

    Parameters
    ----------
    payload : mapping
        ``spec`` (the sweep, as its job file) and ``folder`` (of that file).
    report : callable
        Is told each epoch's metrics of the fine-tuning; does not return when the trial is to be stopped.
    """
    from cluster.training import Training, train
    from jobs.hippie.run import read_inputs
    from jobs.hippie.spec import SweepSpec
    from learners.hippie.inputs import modalities_of
    from learners.hippie.networks import fine_tune
    from learners.hippie.pretraining import pretrain

    spec = SweepSpec.model_validate(payload["spec"])
    inputs, _ = read_inputs(spec, Path(payload["folder"]))
    settings = spec.with_settings(parameters).chosen
    metrics: dict[str, float] = {}

    def trained(task: Any, name: str, seed: int) -> Any:
        if task.stage == "fine-tuning":
            found = train_trial(spec, task, task.write(folder, seed), parameters, seed, folder, report)
        else:
            place = folder / name
            found = train(
                Training("learners.hippie.task:build", task.write(place, seed), seed),
                place,
                max_epochs=task.epochs(),
                workers=spec.workers or 0,
                precision=spec.precision,
            )
        metrics.clear()
        metrics.update(found.metrics)
        return found.weights()

    labelled = inputs.labelled
    pretrained = None
    if inputs.pool is not None and settings.pretrain_epochs:
        modalities = modalities_of(labelled.units, settings.modalities)
        pretrained = pretrain(
            inputs.pool, settings, trained, seed, modalities=modalities, target=labelled.units
        )
    shown, watched = trial_split(labelled, spec.folds, spec.seed)
    fine_tune(
        labelled.units,
        labelled.labels,
        len(labelled.classes),
        shown,
        settings,
        trained,
        seed,
        pretrained=pretrained,
        validation_rows=watched,
    )
    return scores_of(spec, metrics)


def trial_split(labelled: "Labelled", folds: int, seed: int) -> "tuple[np.ndarray, np.ndarray]":
    """Return the rows that trials train on, and those that they are compared on: one part in `folds`."""
    from jobs.hippie.pieces import folds_of, labelled_rows

    rows = labelled_rows(labelled)
    first = folds_of(labelled, folds, 1, seed)[0]
    return rows[first.train], rows[first.test]
