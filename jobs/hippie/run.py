"""The run of a training: methods compared on folds, then a model of all labelled units."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.carrying_out import Opened, carry_out, refuse_missing
from jobs.hippie.evaluate import facts, write_tables
from jobs.hippie.evaluations import Plan, evaluate
from jobs.hippie.inputs import Labelled, read_labelled, read_pool
from jobs.hippie.pieces import folds_of, labelled_rows
from jobs.hippie.pretraining import fingerprint, methods_of, pretrained_on, trainings_of
from jobs.hippie.spec import TrainSpec
from jobs.train.folder import DESCRIPTION
from jobs.train.workers import connected, most, workers_of

if TYPE_CHECKING:
    from learners.hippie.model import HippieModel
    from learners.hippie.pretraining import Pretrained, Train
    from learners.units.units import Units

EMBEDDINGS = "embeddings.parquet"


@dataclass(frozen=True)
class Inputs:
    """A training's input: labelled units, and the pool for pretraining."""

    labelled: Labelled
    pool: "Units | None"


def run_train(spec: TrainSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Train a model with everything kept in `out`, or go on with it there; raises as `carry_out` does."""
    carry_out(
        spec,
        folder,
        out,
        lambda: read_inputs(spec, folder),
        lambda run: train_model(run, folder, address, cpus),
        DESCRIPTION,
    )


def read_inputs(spec: TrainSpec, folder: Path) -> tuple[Inputs, list[str]]:
    """Open a training's units and pool, and check that the units can be split.

    Raises
    ------
    UsageError, LearnerError
        They cannot be used.
    """
    from learners.hippie.pretraining import refuse_shared

    refuse_missing(spec, folder)
    labelled = read_labelled(spec, folder)
    folds_of(labelled, spec.folds, spec.repeats, spec.seed)
    pool = read_pool(spec.pool, folder)
    if pool is not None:
        refuse_shared(pool, labelled.units)
    _, told = methods_of(spec, pool is not None)
    return Inputs(labelled, pool), [*labelled.notes, *told]


def train_model(run: Opened, folder: Path, address: str | None, cpus: int | None) -> None:
    """Compare methods on folds, train on all labelled units, and write model, embeddings and report."""
    from jobs.hippie.report import write_training_report
    from jobs.hippie.results import print_evaluation

    spec, inputs, out = run.spec, run.inputs, run.out
    settings, workers = spec.chosen, workers_of(spec, address)
    epochs = settings.epochs + settings.pretrain_epochs * (inputs.pool is not None)
    trainings = trainings_of(spec, out, workers, epochs, run.console)
    with connected(workers, address, cpus):
        kept = pretrained_on(inputs.pool, inputs.labelled.units, spec, trainings, "pool", out)
        plan = Plan(
            spec.name,
            spec,
            inputs.labelled,
            settings.model_dump(mode="json"),
            methods_of(spec, inputs.pool is not None)[0],
            spec.folds,
            spec.repeats,
            spec.shuffles,
            spec.seed,
            kept[1] if kept else None,
        )
        (found,) = evaluate([plan], folder, out, most(workers), run.console)
        model = fitted(inputs.labelled, spec, kept[0] if kept else None, trainings)
        write_embeddings(out, model, inputs.labelled)
        write_tables(out, [plan], [found])
        told = facts(plan, found) | circumstances(run)
        model = replace(model, facts=told)
        write_training_report(out, told)
        model.save(out, run=fingerprint(spec))
        if workers:
            from cluster.shared import publish

            publish(spec.name, out)
    print_evaluation({"sets": [told]}, run.console)


def fitted(
    labelled: Labelled, spec: TrainSpec, pretrained: "Pretrained | None", train: "Train"
) -> "HippieModel":
    """Return a model of all labelled units: networks, and the blend that inner validation chooses."""
    import numpy as np

    from learners.hippie.methods import Case
    from learners.hippie.model import HippieModel
    from learners.hippie.networks import fine_tune
    from learners.training import train_here

    rows = labelled_rows(labelled)
    units, labels = labelled.units.take(rows), labelled.labels[rows]
    everything = np.arange(len(rows))
    groups = None if labelled.groups is None else labelled.groups[rows]
    case = Case(
        units,
        labels,
        len(labelled.classes),
        groups,
        everything,
        everything,
        spec.chosen,
        pretrained,
        train_here,
        spec.seed,
    )
    networks = fine_tune(
        units,
        labels,
        len(labelled.classes),
        everything,
        spec.chosen,
        train,
        spec.seed,
        pretrained=pretrained,
    )
    return HippieModel(networks, case.blend, labelled.classes)


def write_embeddings(out: Path, model: "HippieModel", labelled: Labelled) -> None:
    """Write the model's embedding of all units, labelled or not: ``embeddings.parquet`` and ``.h5ad``."""
    import pyarrow.parquet as pq

    from jobs.embed import write_h5ad
    from jobs.hippie.tables import embedding_columns
    from jobs.train.embedding_map import mapped

    fusion, mean = model.embed(labelled.units)
    vectors = {"fusion": fusion, "mean": mean}
    table = embedding_columns(labelled.units, labelled.names, vectors, mapped(fusion))
    pq.write_table(table, out / EMBEDDINGS)
    write_h5ad(table, vectors, out / "embeddings.h5ad")


def circumstances(run: Opened) -> dict[str, Any]:
    """Return what a model was trained on, and with what."""
    import numpy as np

    from jobs.provenance import versions

    spec, labelled = run.spec, run.inputs.labelled
    counts = np.bincount(labelled.labels[labelled.labels >= 0], minlength=len(labelled.classes))
    return {
        "name": spec.name,
        "preset": spec.preset,
        "seed": spec.seed,
        "data": {
            "files": [path.name for path in spec.units],
            "sha256": json.loads((run.out / "provenance.json").read_text())["inputs"],
            "n_units": len(labelled.units),
            "label": spec.label,
            "units_of_class": dict(zip(labelled.classes, counts.tolist(), strict=True)),
            "n_pool": 0 if run.inputs.pool is None else len(run.inputs.pool),
        },
        "notes": run.notes,
        "versions": versions(),
    }
