"""The jobs of SIMS, a training and a sweep: from a labelled reference to the model that is written, and their plan."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.sweeps.search_space import parse_space
from neurofleet.cluster.sweeps.trial_records import TrialRow
from neurofleet.cluster.training.lightning_training import BestEpoch
from neurofleet.errors import LearnerError, did_you_mean
from neurofleet.input_paths import name_of, place_of
from neurofleet.jobs.learners.learner_folder import HISTORY, MAP, PREDICTIONS, sweep_folder
from neurofleet.jobs.learners.learner_job import LearnerJob, LearnerRun, Trained, Trainings, Trial
from neurofleet.jobs.learners.learner_report import typed
from neurofleet.jobs.learners.sims_report import SimsReport, SimsScores
from neurofleet.jobs.learners.sims_spec import QUICK_CELLS, SimsSweepSpec, SimsTrainSpec
from neurofleet.jobs.progress import duration
from neurofleet.jobs.run_folder import refuse_missing, versions
from neurofleet.learners.calibration import calibrated_probabilities
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels
from neurofleet.learners.cells.cell_matrix import SOURCE_COLUMN
from neurofleet.learners.sims.tabnet_settings import RELEASED_WARNING
from neurofleet.learners.splits import fingerprint, refuse_missing_columns, write_splits

if TYPE_CHECKING:
    from neurofleet.learners.sims.held_out_scores import Tested
    from neurofleet.learners.sims.sims_model import SimsModel
    from neurofleet.learners.sims.tabnet_training import SimsTask
    from neurofleet.learners.sims.train_sims import PreparedReference
    from neurofleet.learners.splits import Split

SPLITS = "split.parquet"
MEASURED_STEPS = 10


@dataclass(frozen=True)
class SimsInputs:
    """What a job of SIMS reads.

    Attributes
    ----------
    prepared : PreparedReference
        Cells, labels and splits.
    sources : dict
        Arguments of `open_cells`, to open the cells again in another process.
    notes : list of str
    """

    prepared: "PreparedReference"
    sources: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True)
class PlannedTraining:
    """A training to come: its epochs at most, the cells of each, and the networks that are shown them."""

    epochs: int
    cells: int
    members: int


class SimsJob(LearnerJob[SimsTrainSpec, SimsInputs]):
    """Trainings and sweeps of SIMS."""

    publishes = False  # it writes no embeddings

    def read(self) -> SimsInputs:
        """Open and check cells, labels and the split."""
        spec, folder = self.spec, self.folder
        refuse_missing(spec, folder)
        sources: dict[str, Any] = {
            "paths": [place_of(path, folder) for path in spec.reference],
            "labels_path": place_of(spec.labels, folder) if spec.labels else None,
            "layer": spec.layer,
            "gene_names": spec.gene_names,
        }
        if spec.query:
            sources |= {"query": [place_of(path, folder) for path in spec.query], "query_layer": spec.query_layer}
        cells = open_cells(**sources)
        read_labels(cells, spec.label, drop_missing=spec.drop_unlabelled)  # a wrong name is told before all else
        refuse_missing_columns(spec.split.columns, [name for name in cells.obs.columns if name != SOURCE_COLUMN])
        from neurofleet.learners.sims.train_sims import prepare_reference  # imports torch

        prepared = prepare_reference(
            cells,
            spec.label,
            batch=spec.split.by,
            test=0.2 if spec.split.test is None else spec.split.test,
            validation=spec.split.validation,
            folds=spec.split.folds,
            target_sum=spec.target_sum,
            values=spec.values,
            drop_unlabelled=spec.drop_unlabelled,
            most_labelled=QUICK_CELLS if spec.quick else None,
            seed=spec.split.seed,
        )
        known = prepared.labels.classes
        for name in spec.unknown_curve if isinstance(spec.unknown_curve, list) else ():
            if name not in known:
                raise LearnerError(f"unknown_curve: no class is called {name!r}{did_you_mean(name, known)}.")
        tried = parse_space(spec.search).tested_values("batch_size") if isinstance(spec, SimsSweepSpec) else ()
        batches = spec.chosen.batch_note(len(prepared.final.rows("train")), tried)
        notes = [*prepared.notes, *prepared.final.notes, *([batches] if batches else [])]
        if spec.preset.startswith("released"):
            notes.append(RELEASED_WARNING)
        return SimsInputs(prepared, sources, notes)

    def epochs(self, inputs: SimsInputs) -> int:
        """Return how many epochs all trainings of a job have at most: fits, and their controls."""
        return sum(training.epochs for training in self._trainings(inputs))

    def work(self, inputs: SimsInputs) -> float:
        """Return how many cells all networks are shown in all trainings; see `LearnerJob.work`."""
        return float(sum(each.epochs * each.cells * each.members for each in self._trainings(inputs)))

    def epoch_work(self, task: "SimsTask") -> float:
        """Return how many cells the networks of a task are shown in an epoch."""
        return float(len(task.train_rows) * task.settings.members)

    def _trainings(self, inputs: SimsInputs) -> list["PlannedTraining"]:
        from neurofleet.learners.sims.reference_fit import CONTROL_CELLS, CONTROL_EPOCHS, is_trained_again

        prepared, settings = inputs.prepared, self.spec.chosen
        members, planned = settings.members, []

        def fit(split: "Split") -> None:
            n_train, n_validation = len(split.rows("train")), len(split.rows("validation"))
            planned.append(PlannedTraining(settings.epochs_for(n_train), n_train, members))
            if is_trained_again(split, settings):
                n_known = n_train + n_validation
                planned.append(PlannedTraining(settings.going_on(n_known).epochs, n_known, members))

        folds = prepared.splits if len(prepared.splits) > 1 else ()
        for split in (prepared.final, *folds):
            fit(split)
        for split in prepared.splits:
            if len(split.rows("test")):
                n_control = min(len(split.rows("train")), CONTROL_CELLS)
                epochs = min(CONTROL_EPOCHS, settings.epochs_for(n_control))
                planned.append(PlannedTraining(epochs, n_control, 1))
        if self.spec.unknown_curve:
            types = prepared.labels.classes if self.spec.unknown_curve is True else self.spec.unknown_curve
            for _ in types:
                fit(prepared.splits[0])
        return planned

    def write_task(self, inputs: SimsInputs, task: "SimsTask", folder: Path, seed: int) -> dict[str, Any]:
        """Write a task; see `LearnerJob.write_task`."""
        return task.write(folder, inputs.sources, seed)

    def best_epoch(self, task: "SimsTask") -> BestEpoch | None:
        """Return the epoch of the best validation accuracy, where the settings watch it."""
        patience = task.settings.patience
        return BestEpoch("val_accuracy", "max", patience) if patience and len(task.validation_rows) else None

    def split_fingerprint(self, inputs: SimsInputs) -> str:
        """Return the fingerprint of the split or of the folds."""
        return fingerprint(inputs.prepared.splits)

    def train(self, run: LearnerRun[SimsInputs]) -> Trained:
        """Train the model that is kept, and score it, or with folds one model a fold, beside baselines."""
        from neurofleet.learners.sims.train_sims import fit_and_score

        spec, inputs = self.spec, run.inputs
        write_splits(run.out / SPLITS, inputs.prepared.splits)
        with run.step("training"):
            model, tested = fit_and_score(
                inputs.prepared, spec.chosen, run.trainings, spec.seed, baselines=spec.baselines
            )
        notes = [*inputs.notes, *(note for note in model.facts["notes"] if note not in inputs.notes)]
        scores = {**model.facts, "notes": notes}
        if spec.unknown_curve:
            scores["unknown_types"] = self._unknown_types(inputs.prepared, run.trainings)
        model = replace(model, facts=scores | self._origin(run, len(model.inputs.columns)))
        run.trainings.write_history(run.out / HISTORY)
        predictions = predictions_table(tested, inputs.prepared)
        pq.write_table(predictions, run.out / PREDICTIONS)
        with run.step("drawing a map of the cells"):
            pq.write_table(map_table(model, predictions, inputs.prepared, spec.seed), run.out / MAP)
        report = SimsReport(
            scores=typed(SimsScores, model.facts, run.out),
            classes=list(model.classes),
            settings=model.settings.model_dump(),
            calibration=model.calibration,
            has_linear=model.linear is not None,
            history=pa.Table.from_pylist(run.trainings.history).to_pylist(),
        )
        return Trained(model, report)

    def _unknown_types(
        self, prepared: "PreparedReference", trainings: Trainings
    ) -> dict[str, dict[str, list[float | None]]]:
        """Return the curve of each type that was left out of training in turn, as plain JSON."""
        from neurofleet.learners.sims.held_out_scores import leave_types_out

        spec = self.spec
        names = None if spec.unknown_curve is True else list(spec.unknown_curve or ())
        curves = leave_types_out(prepared.reference, prepared.splits[0], spec.chosen, trainings, spec.seed, names)
        return {
            name: {
                key: [None if value != value else float(value) for value in values]  # NaN is no JSON
                for key, values in vars(curve).items()
            }
            for name, curve in curves.items()
        }

    def _origin(self, run: LearnerRun[SimsInputs], n_genes_seen: int) -> dict[str, Any]:
        """Return what a model was trained on, and with what, as plain JSON."""
        spec, prepared = self.spec, run.inputs.prepared
        files = [name_of(path) for path in run.inputs.sources["paths"]]
        return {
            "name": spec.name,
            "preset": spec.preset,
            "seed": spec.seed,
            "data": prepared.data_facts(files, spec.label, n_genes_seen)
            | {"sha256": run.input_digests(spec.reference)},
            "split": {
                "how": spec.split.model_dump(mode="json", exclude_none=True),
                "fingerprint": fingerprint(prepared.splits),
                "cells": prepared.cells_by_role(),
            },
            "versions": versions(),
        }

    def trial_epochs(self, inputs: SimsInputs) -> int:
        """Return the epochs of the job's own settings."""
        return self.spec.chosen.epochs_for(len(inputs.prepared.final.rows("train")))

    def trial(self, trial: Trial) -> Mapping[str, float]:
        """Train without the test cells: their scores are not known before the best setting is."""
        inputs = self.read()
        split = inputs.prepared.final
        task = inputs.prepared.reference.task(split.rows("train"), split.rows("validation"), self.spec.chosen)
        trained = trial.train(task, self.write_task(inputs, task, trial.folder, trial.seed))
        write_attention(task, trained.weights(), trial.folder, trial.seed)
        return trained.metrics

    def after_trials(self, rows: Sequence[TrialRow], inputs: SimsInputs, out: Path) -> None:
        """Write how stable the genes' weights are over repeated trainings."""
        assert isinstance(self.spec, SimsSweepSpec)
        if self.spec.trials.repeats > 1:
            folders = [sweep_folder(out).absolute() / row.trial for row in rows]
            pq.write_table(stability_table(folders, inputs.prepared.reference.cells.genes), out / "stability.parquet")

    def print_plan(self, inputs: SimsInputs, console: Console) -> float:
        """Print cells, genes, split, epochs and their time; return the seconds of a training."""
        spec, prepared = self.spec, inputs.prepared
        n_cells, n_genes = prepared.reference.cells.shape
        n_classes = len(prepared.labels.classes)
        table = Table(title=f"{spec.name}: {n_cells:,} cells × {n_genes:,} genes, {n_classes} classes")
        for name in ("split", "training", "validation", "test"):
            table.add_column(name, justify="left" if name == "split" else "right")
        for number, counts in enumerate(prepared.cells_by_role(), 1):
            split = f"fold {number}" if len(prepared.splits) > 1 else "all"
            table.add_row(split, *(f"{count:,}" for count in counts.values()))
        console.print(table)
        self.print_notes(inputs.notes, console)
        step_s, steps = _measured(spec, prepared)
        batch_size = spec.chosen.batch_for(len(prepared.final.rows("train")))
        n_steps = self.work(inputs) / (spec.chosen.members * batch_size)
        console.print(
            f"{self.epochs(inputs)} epochs of about {steps} steps in all trainings, up to {self.trial_epochs(inputs)}"
            f" in each. A step takes {1000 * step_s:.0f} ms in this process: about {duration(n_steps * step_s)}."
            " Simple methods are fitted by another process at the same time.",
            soft_wrap=True,
            highlight=False,
        )
        if told := _streamed(spec, prepared):
            console.print(told, soft_wrap=True, highlight=False)
        return self.trial_epochs(inputs) * steps * step_s


def _streamed(spec: SimsTrainSpec, prepared: "PreparedReference") -> str:
    """Return what is to be known of a logistic regression of many cells; nothing where there is none."""
    from neurofleet.learners.sims.reference_fit import simple_work
    from neurofleet.learners.sims.streamed_regression import seconds_of

    streamed = simple_work(prepared.reference, prepared.final, spec.chosen, spec.baselines, spec.seed).streamed
    if streamed is None:
        return ""
    return (
        f"In each fit that process streams cells for a logistic regression ({streamed.n_cells:,} at most), too: about"
        f" {duration(seconds_of(streamed))} of CPU, for which the run waits where the networks are trained sooner."
    )


def _measured(spec: SimsTrainSpec, prepared: "PreparedReference") -> tuple[float, int]:
    """Return seconds of a step, and how many an epoch has."""
    from neurofleet.learners.local_training import train_here

    rows = prepared.final.rows("train")
    changes = {"epochs": 2, "most_steps": None, "batch_size": spec.chosen.batch_for(len(rows))}
    settings = spec.chosen.model_copy(update=changes)
    few = rows[: MEASURED_STEPS * settings.batch_size]
    if settings.schedule == "plateau":
        settings = settings.model_copy(update={"schedule": "one-cycle"})
    task = prepared.reference.task(few, np.array([], dtype=np.int64), settings)
    ends = [time.thread_time()]
    train_here(task, "plan", spec.seed, lambda row: ends.append(time.thread_time()))
    steps = max(len(few) // settings.batch_size, 1)
    return (ends[-1] - ends[-2]) / steps, max(len(rows) // settings.batch_size, 1)


MAP_CELLS = 3000
"""How many labelled cells the map shows at most, scored ones first."""


def predictions_table(tested: "Sequence[Tested]", prepared: "PreparedReference") -> pa.Table:
    """Return a row for each scored cell: its class, what was predicted, and its calibrated probability."""
    classes = np.asarray(prepared.labels.classes, dtype=object)
    reference, parts = prepared.reference, []
    for part in tested:
        probabilities = calibrated_probabilities(part.log_probabilities["sims"], part.temperature)
        parts.append(
            pa.table(
                {
                    "cell_id": reference.cells.cell_ids[part.rows].astype(str),
                    "true": classes[reference.labels[part.rows]],
                    "predicted": classes[probabilities.argmax(1)],
                    "probability": probabilities.max(1),
                }
            )
        )
    return pa.concat_tables(parts)


def map_table(model: "SimsModel", predictions: pa.Table, prepared: "PreparedReference", seed: int) -> pa.Table:
    """Return labelled cells on a map of the model's embedding, at most `MAP_CELLS`.

    Columns: ``cell_id``, ``true``, ``predicted`` (null where a cell was not scored), ``tsne_0``, ``tsne_1``.
    """
    from neurofleet.learners.sims.reference_space import cell_map  # imports scikit-learn

    reference = prepared.reference
    ids = reference.cells.cell_ids.astype(str)
    labelled = np.random.default_rng(seed).permutation(prepared.labels.rows)
    predicted = dict(zip(predictions["cell_id"].to_pylist(), predictions["predicted"].to_pylist(), strict=True))
    scored_first = np.argsort([ids[row] not in predicted for row in labelled], kind="stable")
    rows = np.sort(labelled[scored_first][:MAP_CELLS])
    flat = cell_map(model.vectors(reference.values(rows)))
    classes = np.asarray(prepared.labels.classes, dtype=object)
    return pa.table(
        {
            "cell_id": ids[rows],
            "true": classes[reference.labels[rows]],
            "predicted": pa.array([predicted.get(name) for name in ids[rows]], pa.string()),
            "tsne_0": flat[:, 0],
            "tsne_1": flat[:, 1],
        }
    )


ATTENTION = "attention.npy"


def write_attention(task: "SimsTask", weights: Mapping[str, Any], folder: Path, seed: int) -> None:
    """Write the mean attention of a trained task's networks over its validation cells, (genes,)."""
    from neurofleet.learners.sims.gene_importance import mean_attention
    from neurofleet.learners.sims.reference_fit import trained_networks

    networks = trained_networks(task, weights, seed)
    rows = task.validation_rows
    values = task.used_values(task.cells.read(rows))
    attention = np.zeros(len(task.cells.genes))
    attention[task.inputs.columns] = mean_attention(networks, values)
    np.save(folder / ATTENTION, attention)


def stability_table(folders: Sequence[Path], genes: Sequence[str] | np.ndarray) -> pa.Table:
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
