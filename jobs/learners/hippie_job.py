"""The jobs of HIPPIE: methods compared on folds of data sets, with controls; and a model of all labelled units."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.training.lightning_training import Training
from neurofleet.cluster.training.trainer import train
from neurofleet.errors import LearnerError, UsageError
from neurofleet.input_paths import name_of, place_of
from neurofleet.jobs.learners.evaluation_pieces import Piece, do_missing
from neurofleet.jobs.learners.hippie_report import METHODS, HippieReport
from neurofleet.jobs.learners.hippie_spec import (
    QUICK_UNITS,
    FoldsSpec,
    HippieEvaluateSpec,
    HippieSpec,
    HippieTrainSpec,
    LabelledSpec,
    Method,
    SetSpec,
    UnitsSpec,
)
from neurofleet.jobs.learners.learner_figures import plane_map
from neurofleet.jobs.learners.learner_folder import EMBEDDINGS, EMBEDDINGS_H5AD, PIECES, SCORES, SIGNALS
from neurofleet.jobs.learners.learner_job import LearnerJob, LearnerRun, Trained, Trial, logged_run
from neurofleet.jobs.progress import duration
from neurofleet.jobs.results.sql import united
from neurofleet.jobs.run_folder import refuse_missing, versions
from neurofleet.learners.embedding_tables import vector_columns
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.units.class_signals import class_signals
from neurofleet.learners.units.signal_scaling import scaled
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.unit_labels import CLASS, LabelledUnits, labelled_units
from neurofleet.learners.units.units import Units, joined

if TYPE_CHECKING:
    from neurofleet.learners.folds import Fold
    from neurofleet.learners.hippie.compared_methods import UnitFoldCase
    from neurofleet.learners.hippie.hippie_model import HippieModel
    from neurofleet.learners.local_training import TrainingTask
    from neurofleet.learners.method_comparison import MethodComparison

MEASURED_EPOCHS = 3
MEASURED_UNITS = 150
PRETRAINED = "pretrained"
CHOSEN_BY_SWEEP = (
    "The sweep has compared its trials on some of the units that the scores below are of: these are a little"
    " too good, by as much as there was to choose from. An evaluation on other units is free of that."
)
CONTROLLED = ("classical", "head")
"""The methods of which the rest are made; labels are shuffled for these."""

REFERENCE = "classical"
"""Differences of other methods are to this one, where it is compared."""


def folds_of(labelled: LabelledUnits, folds: int, repeats: int, seed: int) -> "list[Fold]":
    """Return folds over the labelled units of a set, by group where it has groups."""
    from neurofleet.learners.folds import repeated_folds

    labels = labelled.labels[labelled.rows]
    return repeated_folds(labels, groups_of(labelled), folds, repeats, seed, names=labelled.classes)


def groups_of(labelled: LabelledUnits) -> np.ndarray | None:
    """Return the animal or recording of each unit that has a class."""
    return None if labelled.groups is None else labelled.groups[labelled.rows]


def read_units(spec: UnitsSpec, folder: Path) -> Units:
    """Open the files of units that a job names.

    Raises
    ------
    LearnerError
        What is in them cannot be used.
    """
    return open_units([place_of(path, folder) for path in spec.units], spec.layout)


def read_labelled(spec: LabelledSpec, folder: Path, most: int | None = None) -> LabelledUnits:
    """Open units and their classes; of those that have one, about `most`.

    Raises
    ------
    LearnerError
        A column or class is not there, fewer than two classes are, or a class's units are all missing.
    """
    labelled = labelled_units(read_units(spec, folder), spec.label, spec.classes, spec.group)
    return labelled if most is None else labelled.some(most, 0)


def methods_of(spec: FoldsSpec, has_pool: bool) -> tuple[list[Method], list[str]]:
    """Return the methods of a job that make sense with or without a pool, and why others are left out.

    Raises
    ------
    UsageError
        None is left.
    """
    settings = spec.chosen
    pretrained = has_pool and settings.pretrain_epochs > 0
    reconstructs = settings.reconstruction_weight > 0
    left_out: dict[str, str] = {}
    if not pretrained:
        left_out["frozen"] = "it needs a pretrained network: a `pool:`, and `pretrain_epochs` above 0"
    if not reconstructs and not (pretrained and settings.objective == "reconstruction"):
        left_out["mean_knn"] = (
            "nothing trains the latent mean here, so that it is a random projection of the fusion vector;"
            " set `reconstruction_weight` above 0, or give a `pool:` for pretraining by reconstruction"
        )
    notes = [f"Method {name} is left out: {why}." for name, why in left_out.items() if name in spec.methods]
    methods = [name for name in spec.methods if name not in left_out]
    if not methods:
        raise UsageError(f"methods: nothing is left to do. {' '.join(notes)}")
    return methods, notes


@dataclass(frozen=True)
class UnitSet:
    """A data set on which methods are compared.

    Attributes
    ----------
    name : str
    spec : LabelledSpec
        What names its files, classes and groups.
    labelled : LabelledUnits
    others : list of Units
        A network for this set is pretrained on these.
    """

    name: str
    spec: LabelledSpec
    labelled: LabelledUnits
    others: list[Units]

    @property
    def units_of_class(self) -> dict[str, int]:
        """Units of each class."""
        counts = np.bincount(self.labelled.labels[self.labelled.rows], minlength=len(self.labelled.classes))
        return dict(zip(self.labelled.classes, counts.tolist(), strict=True))

    def pool(self) -> Units | None:
        """Return all units that a network for this set is pretrained on, joined; None without any."""
        return joined(self.others) if self.others else None


def open_set(
    name: str, labelled: LabelledUnits, others: list[Units], spec: LabelledSpec, folds: FoldsSpec
) -> tuple[UnitSet, list[str]]:
    """Return a set after checking that none of its units are in its pool, and why methods are left out for it."""
    from neurofleet.learners.hippie.unit_pretraining import refuse_shared

    unit_set = UnitSet(name, spec, labelled, others)
    _, notes = methods_of(folds, bool(others))
    pool = unit_set.pool()
    if pool is not None:
        refuse_shared(pool, labelled.units)
    return unit_set, notes


@dataclass(frozen=True)
class HippiePiece(Piece):
    """A fold, or a control, of the comparison of methods on one set.

    Attributes
    ----------
    labelled : LabelledSpec
    folder : Path
        Of the job file.
    settings : HippieSettings
    methods : tuple of str
    folds, repeats, shuffles, seed : int
    pretrained : Path or None
        The folder of a pretrained network.
    work : {"fold", "shuffled", "permuted"}
        A fold with all methods; a method with shuffled labels; all methods with permuted test labels.
    most : int or None
        How many labelled units are used at most.
    repeat, fold : int
        Of a fold.
    method : str
        With shuffled labels.
    """

    labelled: LabelledSpec
    folder: Path
    settings: HippieSettings
    methods: tuple[str, ...]
    folds: int
    repeats: int
    shuffles: int
    seed: int
    pretrained: Path | None
    work: Literal["fold", "shuffled", "permuted"]
    most: int | None = None
    repeat: int = 0
    fold: int = 0
    method: str = ""

    def result(self) -> dict[str, Any]:
        """Do the piece; see `Piece.result`."""
        from neurofleet.learners.hippie.compared_methods import answers

        labelled = read_labelled(self.labelled, self.folder, self.most)
        folds = folds_of(labelled, self.folds, self.repeats, self.seed)
        if self.work == "shuffled":
            return self._shuffled(labelled, folds)
        if self.work == "permuted":
            return self._permuted(labelled, folds[0])
        (fold,) = [fold for fold in folds if (fold.repeat, fold.fold) == (self.repeat, self.fold)]
        given = answers(self._case(labelled, fold), self.methods)
        return {
            "test": fold.test.tolist(),
            "probabilities": {name: probabilities.tolist() for name, (probabilities, _) in given.items()},
            "chosen": {name: chosen for name, (_, chosen) in given.items() if chosen},
        }

    def _case(self, labelled: LabelledUnits, fold: "Fold") -> "UnitFoldCase":
        from neurofleet.learners.hippie.compared_methods import UnitFoldCase
        from neurofleet.learners.hippie.unit_pretraining import Pretrained
        from neurofleet.learners.local_training import train_here

        return UnitFoldCase(
            units=labelled.units.take(labelled.rows),
            labels=labelled.labels[labelled.rows],
            n_classes=len(labelled.classes),
            groups=groups_of(labelled),
            train=fold.train,
            test=fold.test,
            settings=self.settings,
            pretrained=Pretrained.read(self.pretrained) if self.pretrained else None,
            train_task=train_here,
            seed=self.seed,
        )

    def _shuffled(self, labelled: LabelledUnits, folds: "list[Fold]") -> dict[str, Any]:
        from neurofleet.learners.hippie.compared_methods import METHODS
        from neurofleet.learners.label_controls import shuffled_labels_control

        one_network = self.settings.model_copy(update={"members": 1})
        case = replace(self, settings=one_network)._case(labelled, folds[0])
        method = METHODS[self.method]

        def answer(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> np.ndarray:
            return method(replace(case, train=train, test=test, labels=labels))[0]

        return shuffled_labels_control(answer, case.labels, folds, permutations=self.shuffles, seed=self.seed).to_dict()

    def _permuted(self, labelled: LabelledUnits, fold: "Fold") -> dict[str, Any]:
        from neurofleet.learners.hippie.compared_methods import answers
        from neurofleet.learners.label_controls import permuted_test_labels_check

        case = self._case(labelled, fold)

        def answer(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
            permuted = replace(case, train=train, test=test, labels=labels)
            given = {name: answer for name, (answer, _) in answers(permuted, self.methods).items()}
            fusion, mean = permuted.networks.embed(permuted.units.take(test))
            return given | {"fusion": fusion, "mean": mean}

        return permuted_test_labels_check(answer, fold.train, fold.test, case.labels, self.seed).to_dict()


@dataclass(frozen=True)
class SetResult:
    """The comparison of methods on one data set.

    Attributes
    ----------
    unit_set : UnitSet
    comparison : MethodComparison
    probabilities : dict of arrays, shape (repeats, labelled units, classes)
    chosen : list of dict
        What methods have chosen in each fold.
    shuffled : dict
        By method; see `neurofleet.learners.label_controls.ShuffledLabels`.
    permuted : dict
        See `neurofleet.learners.label_controls.PermutedTestLabels`.
    pretrained : Path or None
        The folder of the network that was pretrained for it.
    """

    unit_set: UnitSet
    comparison: "MethodComparison"
    probabilities: dict[str, np.ndarray]
    chosen: list[dict[str, Any]]
    shuffled: dict[str, Any]
    permuted: dict[str, Any]
    pretrained: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the probabilities as plain JSON."""
        return {
            "set": self.unit_set.name,
            "files": [name_of(path) for path in self.unit_set.spec.units],
            "group": self.unit_set.spec.group,
            "comparison": self.comparison.to_dict(),
            "shuffled": self.shuffled,
            "permuted": self.permuted,
            "chosen": self.chosen,
            "pretrained": self.pretrained is not None,
        }


def evaluate_sets(
    sets: Sequence[tuple[UnitSet, Path | None]], spec: FoldsSpec, folder: Path, run: LearnerRun[Any]
) -> list[SetResult]:
    """Compare methods on data sets; folds and controls that are done are not done again.

    Parameters
    ----------
    sets : sequence of (UnitSet, Path or None)
        With the folder of the network that was pretrained for each.
    folder : Path
        Of the job file.
    """
    pieces = [pieces_of(unit_set, pretrained, spec, folder, run.out) for unit_set, pretrained in sets]
    do_missing([piece for of_set in pieces for piece in of_set.values()], run.workers, run.console)
    return [
        _collected(unit_set, pretrained, spec, of_set)
        for (unit_set, pretrained), of_set in zip(sets, pieces, strict=True)
    ]


def pieces_of(
    unit_set: UnitSet, pretrained: Path | None, spec: FoldsSpec, folder: Path, out: Path
) -> dict[str, HippiePiece]:
    """Return all pieces of a set by the name of their file: folds, then a control for each method, then one more."""
    methods, _ = methods_of(spec, bool(unit_set.others))
    files = (out / PIECES / unit_set.name).absolute()

    def piece(name: str, title: str, work: Literal["fold", "shuffled", "permuted"], **which: Any) -> HippiePiece:
        return HippiePiece(
            file=files / f"{name}.json",
            kind=f"{unit_set.name} {work}",
            title=f"{unit_set.name}, {title}",
            labelled=LabelledSpec(**unit_set.spec.model_dump(include=set(LabelledSpec.model_fields))),
            folder=folder.resolve(),
            settings=spec.chosen,
            methods=tuple(methods),
            folds=spec.folds,
            repeats=spec.repeats,
            shuffles=spec.shuffles,
            seed=spec.seed,
            pretrained=pretrained,
            work=work,
            most=_most(spec),
            **which,
        )

    pieces = {
        name: piece(name, title, "fold", repeat=repeat, fold=fold)
        for repeat in range(spec.repeats)
        for fold in range(spec.folds)
        for name in [f"fold-{repeat}-{fold}"]
        for title in [f"fold {fold + 1}" + (f" of repeat {repeat + 1}" if spec.repeats > 1 else "")]
    }
    for method in CONTROLLED:
        if {method, "best"} & set(methods):
            name = f"shuffled-{method}"
            pieces[name] = piece(name, f"{METHODS[method]} with shuffled labels", "shuffled", method=method)
    return pieces | {"permuted": piece("permuted", "test labels exchanged", "permuted")}


def _collected(
    unit_set: UnitSet, pretrained: Path | None, spec: FoldsSpec, pieces: Mapping[str, HippiePiece]
) -> SetResult:
    from neurofleet.learners.method_comparison import compare

    labelled = unit_set.labelled
    methods = next(iter(pieces.values())).methods
    shape = (spec.repeats, len(labelled.rows), len(labelled.classes))
    probabilities = {name: np.full(shape, np.nan) for name in methods}
    kept = {name: json.loads(piece.file.read_text()) for name, piece in pieces.items()}
    chosen = []
    for name, piece in pieces.items():
        if piece.work == "fold":
            for method, values in kept[name]["probabilities"].items():
                probabilities[method][piece.repeat, kept[name]["test"]] = values
            chosen.append({"repeat": piece.repeat, "fold": piece.fold, **kept[name]["chosen"]})
    comparison = compare(
        probabilities,
        labelled.labels[labelled.rows],
        labelled.classes,
        folds_of(labelled, spec.folds, spec.repeats, spec.seed),
        reference=REFERENCE if REFERENCE in methods else methods[0],
        groups=groups_of(labelled),
        seed=spec.seed,
    )
    return SetResult(
        unit_set,
        comparison,
        probabilities,
        chosen,
        {piece.method: kept[name] for name, piece in pieces.items() if piece.work == "shuffled"},
        kept["permuted"],
        pretrained,
    )


def scores_table(result: SetResult) -> pa.Table:
    """Return a row for each method, with the split, the sizes and the majority rate beside its scores."""
    comparison = result.comparison
    common = {
        "set": result.unit_set.name,
        "split": comparison.split,
        "n": comparison.n,
        "n_classes": comparison.n_classes,
        "n_groups": comparison.n_groups,
        "majority_rate": comparison.majority_rate,
        "reference": comparison.reference,
    }
    return pa.Table.from_pylist([common | vars(row) for row in comparison.methods])


def predictions_table(result: SetResult) -> pa.Table:
    """Return a row for each unit, repeat and method: true and predicted class, and its probability."""
    labelled = result.unit_set.labelled
    rows = labelled.rows
    classes = np.array(labelled.classes)
    parts = []
    for method, probabilities in result.probabilities.items():
        for repeat, each in enumerate(probabilities):
            best = each.argmax(1)
            parts.append(
                pa.table(
                    {
                        "unit_id": labelled.units.unit_ids[rows],
                        "method": [method] * len(rows),
                        "repeat": [repeat] * len(rows),
                        "true": classes[labelled.labels[rows]],
                        "predicted": classes[best],
                        "probability": each[np.arange(len(rows)), best],
                    }
                )
            )
    return pa.concat_tables(parts)


def embeddings_table(result: SetResult, settings: HippieSettings) -> pa.Table:
    """Return the embedding of all units of a set by a network that has seen none of them.

    Without a pretrained network the map is one of the signals themselves, and there are no other columns.
    """
    from neurofleet.learners.hippie.fine_tuning import untrained
    from neurofleet.learners.hippie.network_inputs import modalities_of
    from neurofleet.learners.hippie.unit_pretraining import Pretrained

    labelled = result.unit_set.labelled
    units = labelled.units
    if result.pretrained is None:
        signals = scaled(units)
        joint = np.concatenate([signals[name] for name in modalities_of(units)], 1)
        return embedding_columns(units, labelled.names, {}, plane_map(joint))
    networks = untrained(units, settings, len(labelled.classes), pretrained=Pretrained.read(result.pretrained))
    fusion, mean = networks.first().embed(units)
    return embedding_columns(units, labelled.names, {"fusion": fusion, "mean": mean}, plane_map(fusion))


def embedding_columns(units: Units, names: np.ndarray, vectors: Mapping[str, np.ndarray], flat: np.ndarray) -> pa.Table:
    """Return columns unit_id, class, every other column of the units, ``umap_0``, ``umap_1`` and vectors."""
    columns: dict[str, Any] = {"unit_id": units.unit_ids, CLASS: names}
    columns |= {name: units.column(name) for name in units.obs.columns if name not in columns and isinstance(name, str)}
    columns |= {f"umap_{number}": flat[:, number] for number in range(flat.shape[1])}
    return pa.table(columns | vector_columns(vectors))


@dataclass(frozen=True)
class HippieInputs:
    """What a job of HIPPIE reads: one set for a training, one or more for an evaluation."""

    sets: list[UnitSet]
    notes: list[str]


class HippieJob(LearnerJob[FoldsSpec, HippieInputs]):
    """Trainings, sweeps and evaluations of HIPPIE."""

    def read(self) -> HippieInputs:
        """Open units and pools, and check that the units can be split."""
        refuse_missing(self.spec, self.folder)
        if isinstance(self.spec, HippieEvaluateSpec):
            return self._read_sets(self.spec)
        spec = self._training_spec
        labelled = self._split_units(spec)
        pool = [read_units(files, self.folder) for files in spec.pool]
        unit_set, notes = open_set(spec.name, labelled, pool, spec, spec)
        return HippieInputs([unit_set], [*labelled.notes, *notes])

    def _read_sets(self, spec: HippieEvaluateSpec) -> HippieInputs:
        """Open all sets of an evaluation; errors and notes name the set."""
        labelled, sets, notes = [], [], []
        for each in spec.sets:
            with _naming(each):
                labelled.append(self._split_units(each))
            notes += [f"{each.name}: {note}" for note in labelled[-1].notes]
        pool = [read_units(files, self.folder) for files in spec.pool]
        for number, each in enumerate(spec.sets):
            others = [units.units for i, units in enumerate(labelled) if i != number and spec.pretrain_on_others]
            with _naming(each):
                unit_set, left_out = open_set(each.name, labelled[number], [*pool, *others], each, spec)
            sets.append(unit_set)
            notes += [f"{each.name}: {note}" for note in left_out]
        return HippieInputs(sets, notes)

    def epochs(self, inputs: HippieInputs) -> int:
        """Return the epochs of pretraining, and of the model that is kept; folds are trained in pieces."""
        settings = self.spec.chosen
        if isinstance(self.spec, HippieEvaluateSpec):
            return len(inputs.sets) * settings.pretrain_epochs
        return settings.epochs + settings.pretrain_epochs * bool(inputs.sets[0].others)

    def write_task(self, inputs: HippieInputs, task: Any, folder: Path, seed: int) -> dict[str, Any]:
        """Write a task; see `LearnerJob.write_task`."""
        payload: dict[str, Any] = task.write(folder, seed)
        return payload

    def train(self, run: LearnerRun[HippieInputs]) -> Trained:
        """Compare methods on folds, train on all labelled units, and write their embeddings."""
        from neurofleet.learners.hippie.train_hippie import fit_all_units, inner_epochs
        from neurofleet.learners.hippie.unit_pretraining import Pretrained
        from neurofleet.learners.local_training import TrainHere

        spec, (unit_set,) = self._training_spec, run.inputs.sets
        pretrained = self._pretrain(unit_set, "pool", run)
        (result,) = evaluate_sets([(unit_set, pretrained)], spec, self.folder, run)
        network = Pretrained.read(pretrained) if pretrained else None
        labelled = unit_set.labelled
        with run.step(f"training with all {len(labelled.rows):,} labelled units, and choosing what they are named by"):
            inner = TrainHere(inner_epochs(labelled, spec.chosen, network is not None))
            model = fit_all_units(labelled, spec.chosen, network, run.trainings, spec.seed, inner_train=inner)
        with run.step("writing embeddings, their map, and tables"):
            write_unit_embeddings(run.out, model, labelled)
            _write_tables(run.out, [result])
        model = replace(model, facts=result.to_json() | self._origin(run))
        return Trained(model, HippieReport.of_training(model.facts))

    def _origin(self, run: LearnerRun[HippieInputs]) -> dict[str, Any]:
        """Return what a model was trained on, and with what, as plain JSON."""
        spec, (unit_set,) = self._training_spec, run.inputs.sets
        labelled = unit_set.labelled
        return {
            "name": spec.name,
            "preset": spec.preset,
            "seed": spec.seed,
            "data": {
                "files": [name_of(path) for path in spec.units],
                "sha256": run.input_digests(spec.files_named()),
                "n_units": len(labelled.units),
                "label": spec.label,
                "units_of_class": unit_set.units_of_class,
                "n_pool": sum(map(len, unit_set.others)),
            },
            "notes": run.inputs.notes,
            "versions": versions(),
        }

    def evaluate(self, run: LearnerRun[HippieInputs]) -> tuple[dict[str, Any], HippieReport]:
        """Compare methods on each set."""
        spec = self.spec
        sets = [(unit_set, self._pretrain(unit_set, unit_set.name, run)) for unit_set in run.inputs.sets]
        results = evaluate_sets(sets, spec, self.folder, run)
        with run.step("writing embeddings, their maps, and tables"):
            _write_tables(run.out, results)
            embeddings = {result.unit_set.name: embeddings_table(result, spec.chosen) for result in results}
            _write_parts(run.out / "embeddings", embeddings)
        findings: dict[str, Any] = {
            "name": spec.name,
            "sets": [result.to_json() for result in results],
            "notes": run.inputs.notes,
            "versions": versions(),
        }
        return findings, HippieReport.of_evaluation(findings)

    def _pretrain(self, unit_set: UnitSet, pool_name: str, run: LearnerRun[HippieInputs]) -> Path | None:
        """Pretrain a network on a set's pool and return the folder it is kept in; None without a pool.

        The modalities of the set's units are learned; none of these is in the pool.
        """
        from neurofleet.learners.hippie.network_inputs import modalities_of
        from neurofleet.learners.hippie.unit_pretraining import pretrain

        settings = self.spec.chosen
        pool = unit_set.pool() if settings.pretrain_epochs else None
        if pool is None:
            return None
        folder = (run.out / PRETRAINED / pool_name).absolute()
        if (folder / "pretrained.json").is_file():
            return folder

        def train_stage(task: Any, name: str, seed: int) -> Any:
            return run.trainings(task, f"{pool_name}-{name}", seed)

        units = unit_set.labelled.units
        modalities = modalities_of(units, settings.modalities)
        pretrain(pool, settings, train_stage, self.spec.seed, modalities=modalities, target=units).write(folder)
        return folder

    def trial_epochs(self, inputs: HippieInputs) -> int:
        """Return the epochs of fine-tuning with the job's own settings."""
        return self.spec.chosen.epochs

    def trial(self, trial: Trial) -> Mapping[str, float]:
        """Pretrain and fine-tune on all folds but one, which trials are compared on."""
        from neurofleet.learners.hippie.fine_tuning import fine_tune
        from neurofleet.learners.hippie.network_inputs import modalities_of
        from neurofleet.learners.hippie.unit_pretraining import pretrain

        spec = self.spec
        (unit_set,) = self.read().sets
        labelled, settings = unit_set.labelled, spec.chosen
        metrics: dict[str, float] = {}

        def train_stage(task: Any, name: str, seed: int) -> Any:
            if task.stage == "fine-tuning":
                trained = trial.train(task, task.write(trial.folder, seed))
            else:
                folder = trial.folder / name
                trained = train(
                    Training(f"{type(task).__module__}:build", task.write(folder, seed), seed),
                    folder,
                    max_epochs=task.epochs(),
                    workers=spec.workers or 0,
                    precision=spec.precision,
                    loggers=spec.loggers,
                    logged=logged_run(spec, folder, trial.out, seed),
                )
            metrics.clear()
            metrics.update(trained.metrics)
            return trained.weights()

        pretrained, pool = None, unit_set.pool()
        if pool is not None and settings.pretrain_epochs:
            modalities = modalities_of(labelled.units, settings.modalities)
            pretrained = pretrain(pool, settings, train_stage, trial.seed, modalities=modalities, target=labelled.units)
        first = folds_of(labelled, spec.folds, 1, spec.seed)[0]
        fine_tune(
            labelled.units,
            labelled.labels,
            len(labelled.classes),
            labelled.rows[first.train],
            settings,
            train_stage,
            trial.seed,
            pretrained=pretrained,
            validation_rows=labelled.rows[first.test],
        )
        return metrics

    def inputs_after_sweep(self, inputs: HippieInputs, sweep: FoldsSpec) -> HippieInputs:
        """Return the inputs with notes that fit the best settings."""
        has_pool = bool(inputs.sets[0].others)
        outdated = methods_of(sweep, has_pool)[1]
        notes = [note for note in inputs.notes if note not in outdated] + methods_of(self.spec, has_pool)[1]
        return replace(inputs, notes=[*notes, CHOSEN_BY_SWEEP])

    def print_plan(self, inputs: HippieInputs, console: Console) -> float:
        """Print units, classes, folds and the time that networks take; return the seconds of a fine-tuning."""
        spec = self.spec
        table = Table(title=f"{spec.name}: {spec.folds} folds × {spec.repeats}")
        for name in ("set", "units", "classes", "split"):
            table.add_column(name)
        table.add_column("fine-tunings", justify="right")
        table.add_column("each", justify="right")
        fits = _fits(spec)
        seconds = [_measured(spec, unit_set.labelled) for unit_set in inputs.sets]
        for unit_set, each_s in zip(inputs.sets, seconds, strict=True):
            groups = unit_set.labelled.groups
            split = "random" if groups is None else f"{len(set(groups))} groups kept apart"
            table.add_row(
                unit_set.name,
                f"{len(unit_set.labelled.rows):,}",
                str(len(unit_set.labelled.classes)),
                split,
                str(fits),
                f"{each_s:.1f} s",
            )
        console.print(table)
        for unit_set in inputs.sets:
            counts = ", ".join(f"{name} {n:,}" for name, n in unit_set.units_of_class.items())
            notes = [f"units of each class: {counts}", *unit_set.labelled.notes]
            self.print_notes([f"{unit_set.name}: {note}" for note in notes], console)
        parts, more = [f"Networks take about {duration(fits * sum(seconds))}"], "Other methods and pretraining"
        if number := _classical_fits(spec):
            each = [_measured_classical(unit_set.labelled, spec.seed) for unit_set in inputs.sets]
            if all(each):
                parts.append(f"classical classifiers, fitted {number} times, about {duration(number * sum(each))}")
            else:
                more = "Classical classifiers, other methods and pretraining"
        console.print(
            f"{' and '.join(parts)} one after the other; folds are done side by side on workers. {more} come on top.",
            soft_wrap=True,
            highlight=False,
        )
        return seconds[0]

    @property
    def _training_spec(self) -> HippieTrainSpec:
        assert isinstance(self.spec, HippieTrainSpec)
        return self.spec

    def _split_units(self, spec: Any) -> LabelledUnits:
        """Open labelled units and check that they can be split."""
        labelled = read_labelled(spec, self.folder, _most(self.spec))  # a wrong name is told before torch is imported
        from neurofleet.learners.folds import check_inner_folds
        from neurofleet.learners.hippie.train_hippie import check_all_units

        if isinstance(self.spec, HippieTrainSpec):
            check_all_units(labelled)
        inner = _inner_folds(self.spec.methods)
        labels, groups = labelled.labels[labelled.rows], groups_of(labelled)
        for fold in folds_of(labelled, self.spec.folds, self.spec.repeats, self.spec.seed):
            if inner:
                inner_groups = None if groups is None else groups[fold.train]
                check_inner_folds(labels[fold.train], inner_groups, inner, labelled.classes)
        return labelled


def _most(spec: HippieSpec) -> int | None:
    """Return how many labelled units of a set a job uses at most."""
    return QUICK_UNITS if spec.quick else None


def _inner_folds(methods: Sequence[str]) -> int:
    """Return into how many folds methods divide the training units to choose by; 0 where they choose nothing."""
    from neurofleet.learners import probes
    from neurofleet.learners.hippie.unit_classifiers import FOLDS

    if {"classical", "best"} & set(methods):
        return FOLDS
    return probes.FOLDS if set(methods) - {"head"} else 0


@contextmanager
def _naming(unit_set: SetSpec) -> Iterator[None]:
    """Let an error within a ``with`` block name the set that it is about, and its files."""
    try:
        yield
    except LearnerError as error:
        files = ", ".join(map(name_of, unit_set.units))
        raise LearnerError(f"set {unit_set.name} ({files}): {error}") from error


def write_unit_embeddings(out: Path, model: "HippieModel", labelled: LabelledUnits) -> None:
    """Write the model's embedding of all units, labelled or not: ``embeddings.parquet`` and ``.h5ad``."""
    from neurofleet.jobs.learners.embedding import write_embeddings_h5ad

    vectors = model.vectors(labelled.units)
    table = embedding_columns(labelled.units, labelled.names, vectors, plane_map(vectors["fusion"]))
    pq.write_table(table, out / EMBEDDINGS)
    write_embeddings_h5ad(table, vectors, out / EMBEDDINGS_H5AD)


def _write_tables(out: Path, results: list[SetResult]) -> None:
    """Write predictions of all sets, the mean signals of their classes, and their scores, as Parquet."""
    _write_parts(out / "predictions", {result.unit_set.name: predictions_table(result) for result in results})
    signals = {result.unit_set.name: class_signals(result.unit_set.labelled) for result in results}
    _write_parts(
        out / SIGNALS, {name: pa.Table.from_pandas(table, preserve_index=False) for name, table in signals.items()}
    )
    pq.write_table(pa.concat_tables([scores_table(result) for result in results]), out / SCORES)


def _write_parts(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    """Write the tables of all sets with one schema; a column that a set lacks is null there."""
    kinds, _ = united([(name, table.schema) for name, table in tables.items()])
    for name, table in tables.items():
        file = folder / f"set={name}" / "part.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            column: table[column].cast(kind) if column in table.column_names else pa.nulls(len(table), kind)
            for column, kind in kinds.items()
        }
        pq.write_table(pa.table(columns), file)


def _fits(spec: FoldsSpec) -> int:
    """Return how many times networks are fine-tuned for one set, in whole trainings."""
    from neurofleet.learners.hippie.unit_classifiers import FOLDS

    has_head, has_best = "head" in spec.methods, "best" in spec.methods
    in_fold = has_head or has_best
    each = int(in_fold) + FOLDS * has_best
    shuffled = spec.shuffles * spec.folds / spec.chosen.members if in_fold else 0
    kept = 1 + FOLDS if isinstance(spec, HippieTrainSpec) else 0
    return round(each * (spec.folds * spec.repeats + 3) + shuffled + kept)


def _classical_fits(spec: FoldsSpec) -> int:
    """Return how many times the classical classifiers are fitted for one set: folds, controls, and the kept model."""
    kept = int(isinstance(spec, HippieTrainSpec))
    if not {"classical", "best"} & set(spec.methods):
        return kept
    return spec.folds * spec.repeats + 3 + spec.shuffles * spec.folds + kept


def _measured_classical(labelled: LabelledUnits, seed: int) -> float:
    """Return the seconds of one fit of the classical classifiers in this process, from one to a part of the units.

    0 where a part is too small to be divided into folds.
    """
    from neurofleet.learners.hippie.unit_classifiers import feature_sets, fit_classical

    part = labelled.some(MEASURED_UNITS, seed)
    features = {name: x[part.rows] for name, x in feature_sets(part.units).items()}
    started = time.thread_time()
    try:
        fit_classical(features, part.labels[part.rows], len(part.classes), seed=seed)
    except LearnerError:
        return 0.0
    return (time.thread_time() - started) * len(labelled.rows) / len(part.rows)


def _measured(spec: FoldsSpec, labelled: LabelledUnits) -> float:
    """Return the seconds of one fine-tuning in this process."""
    from neurofleet.learners.hippie.fine_tuning import fine_tune
    from neurofleet.learners.local_training import train_here

    ends = []

    def timed(task: "TrainingTask", name: str, seed: int) -> Any:
        return train_here(task, name, seed, lambda row: ends.append(time.thread_time()))

    few = spec.chosen.model_copy(update={"epochs": MEASURED_EPOCHS})
    fine_tune(labelled.units, labelled.labels, len(labelled.classes), labelled.rows, few, timed, spec.seed)
    return (ends[-1] - ends[0]) / (MEASURED_EPOCHS - 1) * spec.chosen.epochs
