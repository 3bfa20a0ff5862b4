"""The run of a training job, from a labelled reference to a model folder."""

import hashlib
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.carrying_out import TRAININGS, Opened, carry_out
from jobs.sims.inputs import Inputs, read_inputs
from jobs.sims.spec import TrainSpec
from jobs.train.folder import DESCRIPTION

if TYPE_CHECKING:
    from cluster.training import Best
    from jobs.train.trainings import Trainings
    from learners.sims.task import Task


def run_train(spec: TrainSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Train a model with everything kept in `out`, or go on with it there; raises as `carry_out` does.

    Parameters
    ----------
    folder : Path
        Of the job file.
    """
    carry_out(
        spec,
        folder,
        out,
        lambda: read_with_notes(spec, folder),
        lambda run: train_model(run, address, cpus),
        DESCRIPTION,
    )


def read_with_notes(spec: TrainSpec, folder: Path) -> tuple[Inputs, list[str]]:
    """Return a training's input and what is to be said of it."""
    from learners.sims.settings import RELEASED_WARNING

    inputs = read_inputs(spec, folder)
    notes = [*inputs.notes, *inputs.final.notes]
    return inputs, [*notes, RELEASED_WARNING] if spec.preset.startswith("released") else notes


def train_model(run: Opened, address: str | None, cpus: int | None) -> None:
    """Train, score and write the model of a job, on workers of a cluster where the job asks for them."""
    from cluster.session import connect
    from jobs.train.trainings import Trainings

    spec = run.spec
    workers = spec.workers if spec.workers is not None else (1 if address else 0)
    trainings = Trainings(
        spec,
        (run.out / TRAININGS).absolute(),
        lambda task, place, seed: task.write(place, run.inputs.sources, seed),
        _best_epoch,
        workers,
        epochs_in_all(spec, run.inputs),
        run.console,
    )
    with connect(address, None if address else cpus) if workers else nullcontext():
        _fit_and_write(run, trainings)


def _best_epoch(task: "Task") -> "Best | None":
    from cluster.training import Best

    patience = task.settings.patience
    return Best("val_accuracy", "max", patience) if patience and len(task.validation_rows) else None


def epochs_in_all(spec: TrainSpec, inputs: Inputs) -> int:
    """Return how many epochs all trainings of a job have at most: fits, and their controls."""
    from learners.sims.fit import CONTROL_EPOCHS, is_trained_again

    settings, each = spec.chosen, 0
    for split in [inputs.final, *(inputs.splits if len(inputs.splits) > 1 else [])]:
        n_train, n_validation = len(split.rows("train")), len(split.rows("validation"))
        each += settings.epochs_for(n_train)
        if is_trained_again(split, settings):
            each += settings.epochs_for(n_train + n_validation)
        if len(split.rows("test")):
            each += min(CONTROL_EPOCHS, settings.epochs_for(n_train))
    if spec.unknown_curve:
        types = inputs.labels.classes if spec.unknown_curve is True else spec.unknown_curve
        each += len(types) * settings.epochs_for(n_train) * (2 if is_trained_again(split, settings) else 1)
    return each


def _fit_and_write(run: Opened, trainings: "Trainings") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.sims.report import write_training_report
    from jobs.sims.results import print_scores
    from learners.sims.evaluation import cross_validate, facts, query_facts, score_split
    from learners.sims.fit import fit
    from learners.split_files import write_splits

    spec, inputs, out, console = run.spec, run.inputs, run.out, run.console
    write_splits(out / "split.parquet", inputs.splits)
    reference, settings, seed = inputs.reference, spec.chosen, spec.seed
    fitted = fit(reference, inputs.final, settings, trainings, seed)
    if len(inputs.splits) > 1:
        tested = cross_validate(reference, inputs.splits, settings, trainings, seed, spec.baselines)
    else:
        console.print("Scoring, with baselines under the same split …")
        tested = [score_split(fitted, reference, inputs.final, settings, trainings, seed, spec.baselines)]
    found = facts(tested, reference) | query_facts(fitted, reference, inputs.final, seed)
    found["notes"] = [*run.notes, *(note for note in fitted.notes if note not in run.notes)]
    if spec.unknown_curve:
        found["unknown_types"] = _unknown_types(run, trainings)
    model = replace(fitted.model, facts=found | _circumstances(run, len(fitted.model.inputs.columns)))
    history = pa.Table.from_pylist(trainings.history)
    pq.write_table(history, out / "history.parquet")
    write_training_report(out, model, history)
    model.save(out, run=_fingerprint(spec, inputs))
    print_scores(model.facts, console)


def _circumstances(run: Opened, n_genes_seen: int) -> dict[str, Any]:
    """Return what a model was trained on, and with what."""
    from jobs.provenance import versions
    from learners.splits import fingerprint

    spec, inputs = run.spec, run.inputs
    n_cells, n_genes = inputs.reference.cells.shape
    return {
        "name": spec.name,
        "preset": spec.preset,
        "seed": spec.seed,
        "data": {
            "files": [Path(path).name for path in inputs.sources["paths"]],
            "sha256": json.loads((run.out / "provenance.json").read_text())["inputs"],
            "n_cells": n_cells,
            "n_genes": n_genes,
            "n_genes_seen": n_genes_seen,
            "label": spec.label,
            "cells_of_class": dict(zip(inputs.labels.classes, inputs.labels.counts.tolist(), strict=True)),
            "normalisation": str(inputs.reference.normalisation),
        },
        "split": {
            "how": spec.split.model_dump(mode="json", exclude_none=True),
            "fingerprint": fingerprint(inputs.splits),
            "cells": _role_counts(inputs),
        },
        "versions": versions(),
    }


def _unknown_types(run: Opened, trainings: "Trainings") -> dict[str, dict[str, list[float | None]]]:
    """Return the curve of each type that was left out of training in turn, as plain JSON."""
    from learners.sims.unknown_types import leave_types_out

    spec, inputs = run.spec, run.inputs
    names = None if spec.unknown_curve is True else list(spec.unknown_curve or ())
    curves = leave_types_out(inputs.reference, inputs.splits[0], spec.chosen, trainings, spec.seed, names)
    return {
        name: {
            key: [None if value != value else float(value) for value in values]  # NaN is no JSON
            for key, values in vars(curve).items()
        }
        for name, curve in curves.items()
    }


def _fingerprint(spec: TrainSpec, inputs: Inputs) -> str:
    from learners.splits import fingerprint

    told = json.dumps(spec.identity(), sort_keys=True) + fingerprint(inputs.splits)
    return hashlib.sha256(told.encode()).hexdigest()


def _role_counts(inputs: Inputs) -> list[dict[str, int]]:
    roles = ("train", "validation", "test")
    return [{role: len(split.rows(role)) for role in roles} for split in inputs.splits]
