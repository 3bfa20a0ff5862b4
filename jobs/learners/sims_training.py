"""SIMS trainings and sweeps, from a labelled reference to the model that is written; and their plan."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.sweeps.parameter_sweep import ParameterSweep
from neurofleet.cluster.training.lightning_training import BestEpoch
from neurofleet.jobs.learners.learner_folder import DESCRIPTION, TRAININGS
from neurofleet.jobs.learners.sims_job import SimsInputs, SimsSweepSpec, SimsTrainSpec, read_sims_inputs
from neurofleet.jobs.learners.sims_report import write_training_report
from neurofleet.jobs.learners.sims_scores import print_scores
from neurofleet.jobs.learners.sweep_trials import TRIALS, Report, plan_of, run_sweep_trials, train_trial, trial_scores
from neurofleet.jobs.learners.trainings import Trainings
from neurofleet.jobs.progress import duration
from neurofleet.jobs.run_folder import JobRun, run_in_folder, versions
from neurofleet.learners.local_training import train_here
from neurofleet.learners.sims.gene_importance import mean_attention
from neurofleet.learners.sims.held_out_scores import cross_validate, facts, leave_types_out, query_facts, score_split
from neurofleet.learners.sims.reference_fit import CONTROL_EPOCHS, fit, is_trained_again, trained_networks
from neurofleet.learners.sims.tabnet_settings import RELEASED_WARNING
from neurofleet.learners.sims.tabnet_training import SimsTask
from neurofleet.learners.splits import fingerprint, write_splits


def run_sims_training(spec: SimsTrainSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Train a model with everything kept in `out`, or go on with it there; raises as `run_in_folder` does.

    Parameters
    ----------
    folder : Path
        Of the job file.
    """
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_with_notes(spec, folder),
        lambda run: train_sims_model(run, address, cpus),
        DESCRIPTION,
    )


def read_with_notes(spec: SimsTrainSpec, folder: Path) -> tuple[SimsInputs, list[str]]:
    """Return a training's input and what is to be said of it."""
    inputs = read_sims_inputs(spec, folder)
    notes = [*inputs.notes, *inputs.final.notes]
    return inputs, [*notes, RELEASED_WARNING] if spec.preset.startswith("released") else notes


def train_sims_model(run: JobRun, address: str | None, cpus: int | None) -> None:
    """Train, score and write the model of a job, on workers of a cluster where the job asks for them."""
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


def _best_epoch(task: "SimsTask") -> "BestEpoch | None":
    patience = task.settings.patience
    return BestEpoch("val_accuracy", "max", patience) if patience and len(task.validation_rows) else None


def epochs_in_all(spec: SimsTrainSpec, inputs: SimsInputs) -> int:
    """Return how many epochs all trainings of a job have at most: fits, and their controls."""
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


def _fit_and_write(run: JobRun, trainings: "Trainings") -> None:
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


def _circumstances(run: JobRun, n_genes_seen: int) -> dict[str, Any]:
    """Return what a model was trained on, and with what."""
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


def _unknown_types(run: JobRun, trainings: "Trainings") -> dict[str, dict[str, list[float | None]]]:
    """Return the curve of each type that was left out of training in turn, as plain JSON."""
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


def _fingerprint(spec: SimsTrainSpec, inputs: SimsInputs) -> str:
    told = json.dumps(spec.identity(), sort_keys=True) + fingerprint(inputs.splits)
    return hashlib.sha256(told.encode()).hexdigest()


def _role_counts(inputs: SimsInputs) -> list[dict[str, int]]:
    roles = ("train", "validation", "test")
    return [{role: len(split.rows(role)) for role in roles} for split in inputs.splits]


ATTENTION = "attention.npy"


def write_attention(task: "SimsTask", weights: Mapping[str, Any], folder: Path, seed: int) -> None:
    """Write the mean attention of a trained task's networks over its validation cells, (genes,)."""
    networks = trained_networks(task, weights, seed)
    rows = task.validation_rows
    values = task.used_values(task.cells.read(rows))
    whole = np.zeros(len(task.cells.genes))
    whole[task.inputs.columns] = mean_attention(networks, values)
    np.save(folder / ATTENTION, whole)


def stability_table(folders: Sequence[Path], genes: Sequence[str] | np.ndarray) -> "pa.Table":
    """Return each gene's weight over repeated trainings, most weight first.

    Columns: ``gene``, ``mean_weight`` (of weights divided by the run's largest), ``sd_weight``,
    ``dispersion`` (variance over mean), ``runs_in_top_20``, ``runs``.
    """
    weights = np.stack([np.load(folder / ATTENTION, allow_pickle=False) for folder in folders])
    weights = weights / np.maximum(weights.max(1, keepdims=True), np.finfo(float).tiny)
    mean, variance = weights.mean(0), weights.var(0)
    ranks = np.argsort(np.argsort(-weights, axis=1, kind="stable"), axis=1)
    order = np.argsort(-mean, kind="stable")
    table = pa.table(
        {
            "gene": np.asarray(genes, dtype=str),
            "mean_weight": mean,
            "sd_weight": np.sqrt(variance),
            "dispersion": np.divide(variance, mean, out=np.zeros_like(mean), where=mean > 0),
            "runs_in_top_20": ((ranks < 20) & (weights > 0)).sum(0),
            "runs": np.full(len(mean), len(folders)),
        }
    )
    return table.take(order)


def run_sims_trial(
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
    spec = SimsSweepSpec.model_validate(payload["spec"])
    inputs = read_sims_inputs(spec, Path(payload["folder"]))
    settings = spec.with_settings(parameters).chosen
    split = inputs.final
    task = inputs.reference.task(split.rows("train"), split.rows("validation"), settings)
    written = task.write(folder, inputs.sources, seed)
    trained = train_trial(spec, task, written, parameters, seed, folder, report)
    write_attention(task, trained.weights(), folder, seed)
    return trial_scores(spec, trained.metrics)


def run_sims_sweep(spec: SimsSweepSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Run a sweep with everything kept in `out`, or go on with it there; raises as `run_in_folder` does.

    Finished trials are not run again. The folder becomes that of the best setting's model.
    """
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_with_notes(spec, folder),
        lambda run: _sweep(run, folder, address, cpus),
        DESCRIPTION,
    )


def trials_of(spec: SimsSweepSpec, folder: Path, n_training_cells: int) -> "ParameterSweep":
    """Return what the trials are."""
    return plan_of(
        spec, "neurofleet.jobs.learners.sims_training:run_sims_trial", folder, spec.chosen.epochs_for(n_training_cells)
    )


def _sweep(run: JobRun, folder: Path, address: str | None, cpus: int | None) -> None:
    spec = run.spec
    plan = trials_of(spec, folder, run.inputs.final.rows("train").size)
    swept = run_sweep_trials(spec, plan, run.out, run.console, address, cpus)
    if spec.trials.repeats > 1:
        where = (run.out / TRIALS).absolute()
        alike = [row for row in swept.rows if row.status == "done" and row.parameters == swept.parameters]
        table = stability_table([where / row.trial for row in alike], run.inputs.reference.cells.genes)
        pq.write_table(table, run.out / "stability.parquet")
    best = spec.with_settings(swept.parameters)
    train_sims_model(replace(run, spec=best), address, cpus)


MEASURED_STEPS = 10


def print_sims_plan(spec: SimsTrainSpec, folder: Path) -> None:
    """Print cells, genes, split, epochs and the time they take in this process, after a few measured steps.

    Raises
    ------
    UsageError, LearnerError
        The input cannot be used.
    """
    console = Console()
    inputs = read_sims_inputs(spec, folder)
    n_cells, n_genes = inputs.reference.cells.shape
    n_classes = len(inputs.labels.classes)
    table = Table(title=f"{spec.name}: {n_cells:,} cells × {n_genes:,} genes, {n_classes} classes")
    for name in ("split", "training", "validation", "test"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for number, split in enumerate(inputs.splits, 1):
        counts = [f"{len(split.rows(role)):,}" for role in ("train", "validation", "test")]
        table.add_row(f"fold {number}" if len(inputs.splits) > 1 else "all", *counts)
    console.print(table)
    for note in (*inputs.notes, *inputs.final.notes):
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    epochs = epochs_in_all(spec, inputs)
    step_s, steps = _measured(spec, inputs)
    console.print(
        f"{epochs} epochs of {steps} steps in all trainings. A step takes {1000 * step_s:.0f} ms in this"
        f" process: about {duration(epochs * steps * step_s)}, baselines not counted.",
        soft_wrap=True,
        highlight=False,
    )
    if spec.kind == "sweep":
        assert isinstance(spec, SimsSweepSpec)
        sweep = trials_of(spec, folder, len(inputs.final.rows("train")))
        trials, each = sweep.number_of_settings() * sweep.repeats, sweep.scheduler.max_epochs
        console.print(
            f"Before that, {trials} trials of up to {each} epochs: about"
            f" {duration(trials * each * steps * step_s)} one by one; what is searched may change it.",
            soft_wrap=True,
            highlight=False,
        )


def _measured(spec: SimsTrainSpec, inputs: SimsInputs) -> tuple[float, int]:
    """Return seconds of a step, and how many an epoch has."""
    rows = inputs.final.rows("train")
    few = rows[: MEASURED_STEPS * spec.chosen.batch_size]
    settings = spec.chosen.model_copy(update={"epochs": 2, "most_steps": None})
    if settings.schedule == "plateau":
        settings = settings.model_copy(update={"schedule": "one-cycle"})
    task = inputs.reference.task(few, np.array([], dtype=np.int64), settings)
    ends = [time.perf_counter()]
    train_here(task, "plan", spec.seed, lambda row: ends.append(time.perf_counter()))
    steps = max(len(few) // settings.batch_size, 1)
    return (ends[-1] - ends[-2]) / steps, max(len(rows) // settings.batch_size, 1)
