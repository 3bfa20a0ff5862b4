"""HIPPIE trainings and sweeps: methods compared on folds, then a model of all labelled units is written."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.store.published_tables import publish
from neurofleet.cluster.training.lightning_training import Training
from neurofleet.cluster.training.trainer import train
from neurofleet.jobs.learners.embedding import write_embeddings_h5ad
from neurofleet.jobs.learners.hippie_evaluation import (
    SetEvaluation,
    embedding_columns,
    evaluate,
    evaluation_facts,
    folds_of,
    labelled_rows,
    methods_of,
    pretrained_on,
    pretraining_fingerprint,
    trainings_of,
    write_evaluation_tables,
)
from neurofleet.jobs.learners.hippie_evaluation import read_hippie_evaluation_inputs as read_sets
from neurofleet.jobs.learners.hippie_job import (
    Folded,
    HippieEvaluateSpec,
    HippieSweepSpec,
    HippieTrainSpec,
    read_labelled,
    read_pool,
)
from neurofleet.jobs.learners.hippie_report import print_evaluation, write_training_report
from neurofleet.jobs.learners.learner_figures import plane_map
from neurofleet.jobs.learners.learner_folder import DESCRIPTION
from neurofleet.jobs.learners.learner_job import connected, most_workers, workers_of
from neurofleet.jobs.learners.sweep_trials import Report, plan_of, run_sweep_trials, train_trial, trial_scores
from neurofleet.jobs.progress import duration
from neurofleet.jobs.run_folder import JobRun, refuse_missing, run_in_folder, versions
from neurofleet.learners.hippie.compared_methods import UnitFoldCase
from neurofleet.learners.hippie.fine_tuning import fine_tune
from neurofleet.learners.hippie.hippie_model import HippieModel
from neurofleet.learners.hippie.network_inputs import modalities_of
from neurofleet.learners.hippie.unit_classifiers import FOLDS
from neurofleet.learners.hippie.unit_pretraining import Pretrained, pretrain, refuse_shared
from neurofleet.learners.local_training import Train, TrainingTask, train_here
from neurofleet.learners.units.unit_labels import LabelledUnits
from neurofleet.learners.units.units import Units

EMBEDDINGS = "embeddings.parquet"


@dataclass(frozen=True)
class HippieTrainingInputs:
    """A training's input: labelled units, and the pool for pretraining."""

    labelled: LabelledUnits
    pool: "Units | None"


def run_hippie_training(spec: HippieTrainSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Train a model with everything kept in `out`, or go on with it there; raises as `run_in_folder` does."""
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_hippie_training_inputs(spec, folder),
        lambda run: train_hippie_model(run, folder, address, cpus),
        DESCRIPTION,
    )


def read_hippie_training_inputs(spec: HippieTrainSpec, folder: Path) -> tuple[HippieTrainingInputs, list[str]]:
    """Open a training's units and pool, and check that the units can be split.

    Raises
    ------
    UsageError, LearnerError
        They cannot be used.
    """
    refuse_missing(spec, folder)
    labelled = read_labelled(spec, folder)
    folds_of(labelled, spec.folds, spec.repeats, spec.seed)
    pool = read_pool(spec.pool, folder)
    if pool is not None:
        refuse_shared(pool, labelled.units)
    _, told = methods_of(spec, pool is not None)
    return HippieTrainingInputs(labelled, pool), [*labelled.notes, *told]


def train_hippie_model(run: JobRun, folder: Path, address: str | None, cpus: int | None) -> None:
    """Compare methods on folds, train on all labelled units, and write model, embeddings and report."""
    spec, inputs, out = run.spec, run.inputs, run.out
    settings, workers = spec.chosen, workers_of(spec, address)
    epochs = settings.epochs + settings.pretrain_epochs * (inputs.pool is not None)
    trainings = trainings_of(spec, out, workers, epochs, run.console)
    with connected(workers, address, cpus):
        kept = pretrained_on(inputs.pool, inputs.labelled.units, spec, trainings, "pool", out)
        plan = SetEvaluation(
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
        (found,) = evaluate([plan], folder, out, most_workers(workers), run.console)
        model = fit_on_all_units(inputs.labelled, spec, kept[0] if kept else None, trainings)
        write_unit_embeddings(out, model, inputs.labelled)
        write_evaluation_tables(out, [plan], [found])
        told = evaluation_facts(plan, found) | circumstances(run)
        model = replace(model, facts=told)
        write_training_report(out, told)
        model.save(out, run=pretraining_fingerprint(spec))
        if workers:
            publish(spec.name, out)
    print_evaluation({"sets": [told]}, run.console)


def fit_on_all_units(
    labelled: LabelledUnits, spec: HippieTrainSpec, pretrained: "Pretrained | None", train: "Train"
) -> "HippieModel":
    """Return a model of all labelled units: networks, and the blend that inner validation chooses."""
    rows = labelled_rows(labelled)
    units, labels = labelled.units.take(rows), labelled.labels[rows]
    everything = np.arange(len(rows))
    groups = None if labelled.groups is None else labelled.groups[rows]
    case = UnitFoldCase(
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


def write_unit_embeddings(out: Path, model: "HippieModel", labelled: LabelledUnits) -> None:
    """Write the model's embedding of all units, labelled or not: ``embeddings.parquet`` and ``.h5ad``."""
    vectors = model.vectors(labelled.units)
    table = embedding_columns(labelled.units, labelled.names, vectors, plane_map(vectors["fusion"]))
    pq.write_table(table, out / EMBEDDINGS)
    write_embeddings_h5ad(table, vectors, out / "embeddings.h5ad")


def circumstances(run: JobRun) -> dict[str, Any]:
    """Return what a model was trained on, and with what."""
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


def run_hippie_trial(
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
    spec = HippieSweepSpec.model_validate(payload["spec"])
    inputs, _ = read_hippie_training_inputs(spec, Path(payload["folder"]))
    settings = spec.with_settings(parameters).chosen
    metrics: dict[str, float] = {}

    def trained(task: Any, name: str, seed: int) -> Any:
        if task.stage == "fine-tuning":
            found = train_trial(spec, task, task.write(folder, seed), parameters, seed, folder, report)
        else:
            place = folder / name
            found = train(
                Training("neurofleet.learners.hippie.autoencoder_training:build", task.write(place, seed), seed),
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
        pretrained = pretrain(inputs.pool, settings, trained, seed, modalities=modalities, target=labelled.units)
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
    return trial_scores(spec, metrics)


def trial_split(labelled: "LabelledUnits", folds: int, seed: int) -> "tuple[np.ndarray, np.ndarray]":
    """Return the rows that trials train on, and those that they are compared on: one part in `folds`."""
    rows = labelled_rows(labelled)
    first = folds_of(labelled, folds, 1, seed)[0]
    return rows[first.train], rows[first.test]


SEEN = (
    "The sweep has compared its trials on some of the units that the scores below are of: these are a little"
    " too good, by as much as there was to choose from. An evaluation on other units is free of that."
)


def run_hippie_sweep(spec: HippieSweepSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Run a sweep with everything kept in `out`, or go on with it there; raises as `run_in_folder` does.

    Finished trials are not run again. The folder becomes that of the best setting's model.
    """
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_hippie_training_inputs(spec, folder),
        lambda run: _sweep(run, folder, address, cpus),
        DESCRIPTION,
    )


def _sweep(run: JobRun, folder: Path, address: str | None, cpus: int | None) -> None:
    spec = run.spec
    plan = plan_of(spec, "neurofleet.jobs.learners.hippie_training:run_hippie_trial", folder, spec.chosen.epochs)
    swept = run_sweep_trials(spec, plan, run.out, run.console, address, cpus)
    best = spec.with_settings(swept.parameters)
    has_pool = run.inputs.pool is not None
    outdated = methods_of(spec, has_pool)[1]
    notes = [note for note in run.notes if note not in outdated] + methods_of(best, has_pool)[1]
    train_hippie_model(replace(run, spec=best, notes=[*notes, SEEN]), folder, address, cpus)


MEASURED_EPOCHS = 3


def print_hippie_plan(spec: Folded, folder: Path) -> None:
    """Print units, classes, folds and the time that networks take in this process, after a few epochs.

    Raises
    ------
    UsageError, LearnerError
        The input cannot be used.
    """
    console = Console()
    sets = _sets(spec, folder)
    table = Table(title=f"{spec.name}: {spec.folds} folds × {spec.repeats}")
    for name in ("set", "units", "classes", "split"):
        table.add_column(name)
    table.add_column("fine-tunings", justify="right")
    table.add_column("each", justify="right")
    total_s = 0.0
    for name, found in sets.items():
        fits, each_s = _fits(spec), _measured(spec, found)
        total_s += fits * each_s
        split = "random" if found.groups is None else f"{len(set(found.groups))} groups kept apart"
        labelled = int((found.labels >= 0).sum())
        table.add_row(name, f"{labelled:,}", str(len(found.classes)), split, str(fits), f"{each_s:.1f} s")
    console.print(table)
    for name, found in sets.items():
        for note in found.notes:
            console.print(f"{name}: {note}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"Networks take about {duration(total_s)} one after the other; folds are done side by side on"
        " workers. Classical classifiers and pretraining come on top.",
        soft_wrap=True,
        highlight=False,
    )
    if isinstance(spec, HippieSweepSpec):
        sweep = plan_of(spec, "neurofleet.jobs.learners.hippie_training:run_hippie_trial", folder, spec.chosen.epochs)
        trials = sweep.number_of_settings() * sweep.repeats
        each_s = _measured(spec, next(iter(sets.values())))
        console.print(f"Before that, {trials} trials: about {duration(trials * each_s)} one by one.")


def _sets(spec: Folded, folder: Path) -> "dict[str, LabelledUnits]":
    if isinstance(spec, HippieEvaluateSpec):
        inputs, _ = read_sets(spec, folder)
        return {one.name: found for one, found in zip(spec.sets, inputs.sets, strict=True)}
    assert isinstance(spec, HippieTrainSpec)
    return {spec.name: read_hippie_training_inputs(spec, folder)[0].labelled}


def _fits(spec: Folded) -> int:
    """Return how many times networks are fine-tuned for one set, in whole trainings."""
    has_head, has_best = "head" in spec.methods, "best" in spec.methods
    in_fold = has_head or has_best
    each = int(in_fold) + FOLDS * has_best
    shuffled = spec.shuffles * spec.folds / spec.chosen.members if in_fold else 0
    kept = 1 + FOLDS if isinstance(spec, HippieTrainSpec) else 0
    return round(each * (spec.folds * spec.repeats + 3) + shuffled + kept)


def _measured(spec: Folded, found: "LabelledUnits") -> float:
    """Return the seconds of one fine-tuning in this process."""
    ends = []

    def timed(task: TrainingTask, name: str, seed: int):
        return train_here(task, name, seed, lambda row: ends.append(time.perf_counter()))

    few = spec.chosen.model_copy(update={"epochs": MEASURED_EPOCHS})
    fine_tune(found.units, found.labels, len(found.classes), labelled_rows(found), few, timed, spec.seed)
    return (ends[-1] - ends[0]) / (MEASURED_EPOCHS - 1) * spec.chosen.epochs
