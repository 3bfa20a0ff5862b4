"""HIPPIE's methods compared on folds, with pretraining and controls: one table of methods for each data set."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.evaluation_pieces import PIECES, Piece, do_missing, write_result
from neurofleet.jobs.learners.hippie_job import (
    Folded,
    HippieEvaluateSpec,
    HippieSpec,
    LabelledSpec,
    Method,
    read_labelled,
    read_units,
)
from neurofleet.jobs.learners.hippie_report import print_evaluation, write_evaluation_report
from neurofleet.jobs.learners.learner_figures import plane_map
from neurofleet.jobs.learners.learner_folder import EVALUATION, TRAININGS
from neurofleet.jobs.learners.learner_job import Workers, connected, most_workers, workers_of
from neurofleet.jobs.learners.trainings import Trainings
from neurofleet.jobs.run_folder import JobRun, refuse_missing, run_in_folder, versions
from neurofleet.learners.folds import Fold, repeated_folds
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.compared_methods import METHODS, UnitFoldCase, answers
from neurofleet.learners.hippie.fine_tuning import untrained
from neurofleet.learners.hippie.network_inputs import modalities_of
from neurofleet.learners.hippie.unit_pretraining import Pretrained, pretrain, refuse_shared
from neurofleet.learners.label_controls import permuted_test_labels_check, shuffled_labels_control
from neurofleet.learners.learner_errors import LearnerError
from neurofleet.learners.local_training import train_here
from neurofleet.learners.method_comparison import MethodComparison, compare
from neurofleet.learners.units.signal_scaling import scaled
from neurofleet.learners.units.unit_labels import CLASS, LabelledUnits
from neurofleet.learners.units.units import Units, joined

FOLD, SHUFFLED, PERMUTED = "fold", "shuffled", "permuted"
CONTROLLED = ("classical", "head")
"""The methods of which the rest are made; labels are shuffled for these."""


def do_hippie_piece(payload: Mapping[str, Any]) -> float:
    """Do one piece and keep what it has found in its file; return how many seconds it took.

    Parameters
    ----------
    payload : mapping
        ``place`` (the file), ``labelled`` (a LabelledSpec), ``folder`` (of the job file), ``settings``,
        ``seed``, ``folds``, ``repeats``, ``methods``, ``shuffles``, ``pretrained`` (a folder or None), and
        ``piece``: what is to be done, with ``kind`` and, by kind, ``repeat`` and ``fold`` or ``method``.
    """
    started = time.monotonic()
    write_result(Path(payload["place"]), _done(payload))
    return time.monotonic() - started


def _done(payload: Mapping[str, Any]) -> dict[str, Any]:
    piece = payload["piece"]
    found = read_labelled(LabelledSpec(**payload["labelled"]), Path(payload["folder"]))
    rows = labelled_rows(found)
    folds = folds_of(found, payload["folds"], payload["repeats"], payload["seed"])
    if piece["kind"] == FOLD:
        (fold,) = [f for f in folds if (f.repeat, f.fold) == (piece["repeat"], piece["fold"])]
        return _fold(found, rows, fold, payload)
    if piece["kind"] == SHUFFLED:
        return _shuffled(found, rows, folds, payload)
    return _permuted(found, rows, folds[0], payload)


def labelled_rows(found: LabelledUnits) -> "np.ndarray":
    """Return the rows of the units that have a class."""
    return np.flatnonzero(found.labels >= 0)


def folds_of(found: LabelledUnits, folds: int, repeats: int, seed: int) -> "list[Fold]":
    """Return the folds of a data set, over its labelled units."""
    rows = labelled_rows(found)
    groups = None if found.groups is None else found.groups[rows]
    return repeated_folds(found.labels[rows], groups, folds, repeats, seed)


def _case(
    found: LabelledUnits, rows: "np.ndarray", train: "np.ndarray", test: "np.ndarray", payload: Mapping[str, Any]
) -> "UnitFoldCase":
    place = payload["pretrained"]
    return UnitFoldCase(
        units=found.units.take(rows),
        labels=found.labels[rows],
        n_classes=len(found.classes),
        groups=None if found.groups is None else found.groups[rows],
        train=train,
        test=test,
        settings=HippieSettings(**payload["settings"]),
        pretrained=Pretrained.read(Path(place)) if place else None,
        train_task=train_here,
        seed=payload["seed"],
    )


def _fold(found: LabelledUnits, rows: "np.ndarray", fold: "Fold", payload: Mapping[str, Any]) -> dict[str, Any]:
    case = _case(found, rows, fold.train, fold.test, payload)
    given = answers(case, payload["methods"])
    return {
        "test": fold.test.tolist(),
        "probabilities": {name: probabilities.tolist() for name, (probabilities, _) in given.items()},
        "chosen": {name: chosen for name, (_, chosen) in given.items() if chosen},
    }


def _shuffled(
    found: LabelledUnits, rows: "np.ndarray", folds: "list[Fold]", payload: Mapping[str, Any]
) -> dict[str, Any]:
    short = {**payload, "settings": payload["settings"] | {"members": 1}}
    method = METHODS[payload["piece"]["method"]]
    whole = _case(found, rows, folds[0].train, folds[0].test, short)

    def answer(train: "np.ndarray", test: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
        return method(replace(whole, train=train, test=test, labels=labels))[0]

    return shuffled_labels_control(
        answer, whole.labels, folds, permutations=payload["shuffles"], seed=payload["seed"]
    ).to_dict()


def _permuted(found: LabelledUnits, rows: "np.ndarray", fold: "Fold", payload: Mapping[str, Any]) -> dict[str, Any]:
    whole = _case(found, rows, fold.train, fold.test, payload)

    def answer(train: "np.ndarray", test: "np.ndarray", labels: "np.ndarray") -> "dict[str, np.ndarray]":
        case = replace(whole, train=train, test=test, labels=labels)
        given = {name: found for name, (found, _) in answers(case, payload["methods"]).items()}
        fusion, mean = case.networks.embed(case.units.take(test))
        return given | {"fusion": fusion, "mean": mean}

    return permuted_test_labels_check(answer, fold.train, fold.test, whole.labels, payload["seed"]).to_dict()


REFERENCE = "classical"


@dataclass(frozen=True)
class SetEvaluation:
    """How one data set is evaluated.

    Attributes
    ----------
    name : str
    labelled : LabelledSpec
    found : LabelledUnits
        What `labelled` names, opened.
    settings : dict
    methods : sequence of str
    folds, repeats, shuffles, seed : int
    pretrained : str or None
        A folder.
    """

    name: str
    labelled: LabelledSpec
    found: LabelledUnits
    settings: dict[str, Any]
    methods: Sequence[str]
    folds: int
    repeats: int
    shuffles: int
    seed: int
    pretrained: str | None

    def pieces(self) -> dict[str, dict[str, Any]]:
        """Return all that is to be done, by name."""
        found: dict[str, dict[str, Any]] = {
            f"fold-{repeat}-{fold}": {"kind": FOLD, "repeat": repeat, "fold": fold}
            for repeat in range(self.repeats)
            for fold in range(self.folds)
        }
        for method in CONTROLLED:
            if set(self.methods) & {method, "best"}:
                found[f"shuffled-{method}"] = {"kind": SHUFFLED, "method": method}
        return found | {"permuted": {"kind": PERMUTED}}

    def payload(self, piece: Mapping[str, Any], folder: Path, place: Path) -> dict[str, Any]:
        """Return what `do_piece` is to be given."""
        spec = self.labelled.model_dump(mode="json", include=set(LabelledSpec.model_fields))
        return {
            "place": str(place.absolute()),
            "labelled": spec,
            "folder": str(folder.resolve()),
            "settings": self.settings,
            "methods": list(self.methods),
            "folds": self.folds,
            "repeats": self.repeats,
            "shuffles": self.shuffles,
            "seed": self.seed,
            "pretrained": self.pretrained,
            "piece": dict(piece),
        }


@dataclass(frozen=True)
class SetResult:
    """What an evaluation of one data set has found.

    Attributes
    ----------
    comparison : MethodComparison
    probabilities : dict of arrays, shape (repeats, labelled units, classes)
    chosen : list of dict
        What methods have chosen in each fold.
    shuffled : dict
        By method; see `neurofleet.learners.label_controls.ShuffledLabels`.
    permuted : dict
        See `neurofleet.learners.label_controls.PermutedTestLabels`.
    """

    comparison: "MethodComparison"
    probabilities: "dict[str, np.ndarray]"
    chosen: list[dict[str, Any]]
    shuffled: dict[str, Any]
    permuted: dict[str, Any]


def evaluate(
    plans: Sequence[SetEvaluation], folder: Path, out: Path, workers: int, console: "Console"
) -> list[SetResult]:
    """Do what is missing of some evaluations, and return all of them.

    Parameters
    ----------
    folder : Path
        Of the job file.
    out : Path
        Where finished pieces are kept.
    workers : int
        0 works in this process; else on the Ray cluster that it is connected to.
    """
    pieces = [
        Piece(
            plan.payload(piece, folder, out / PIECES / plan.name / f"{name}.json"),
            f"{plan.name} {piece['kind']}",
            f"{plan.name}, {name}",
        )
        for plan in plans
        for name, piece in plan.pieces().items()
    ]
    do_missing("neurofleet.jobs.learners.hippie_evaluation:do_hippie_piece", pieces, workers, console)
    return [_collected(plan, out / PIECES / plan.name) for plan in plans]


def _collected(plan: SetEvaluation, folder: Path) -> SetResult:
    found = plan.found
    rows = labelled_rows(found)
    labels = found.labels[rows]
    shape = (plan.repeats, len(rows), len(found.classes))
    probabilities = {name: np.full(shape, np.nan) for name in plan.methods}
    kept = {name: json.loads((folder / f"{name}.json").read_text()) for name in plan.pieces()}
    chosen = []
    for name, piece in plan.pieces().items():
        if piece["kind"] != FOLD:
            continue
        for method, values in kept[name]["probabilities"].items():
            probabilities[method][piece["repeat"], kept[name]["test"]] = values
        chosen.append({"repeat": piece["repeat"], "fold": piece["fold"], **kept[name]["chosen"]})
    comparison = compare(
        probabilities,
        labels,
        found.classes,
        folds_of(found, plan.folds, plan.repeats, plan.seed),
        reference=REFERENCE if REFERENCE in plan.methods else plan.methods[0],
        groups=None if found.groups is None else found.groups[rows],
        seed=plan.seed,
    )
    shuffled = {name.removeprefix("shuffled-"): value for name, value in kept.items() if name.startswith("shuffled-")}
    return SetResult(comparison, probabilities, chosen, shuffled, kept["permuted"])


PRETRAINED = "pretrained"


def trainings_of(spec: HippieSpec, out: Path, workers: Workers, epochs: int, console: "Console") -> "Trainings":
    """Return what trains the tasks of a job."""
    return Trainings(
        spec,
        (out / TRAININGS).absolute(),
        lambda task, place, seed: task.write(place, seed),
        lambda task: None,
        workers,
        epochs,
        console,
    )


def pretrained_on(
    pool: "Units | None",
    target: "Units",
    spec: HippieSpec,
    trainings: "Trainings",
    pool_name: str,
    out: Path,
) -> "tuple[Pretrained, str] | None":
    """Return a network pretrained on a pool and the folder it is kept in; None without a pool.

    Parameters
    ----------
    target : Units
        Those that are to be named later, none of which is in the pool: their modalities are learned.
    """
    settings = spec.chosen
    if pool is None or not settings.pretrain_epochs:
        return None
    folder = (out / PRETRAINED / pool_name).absolute()
    if (folder / "pretrained.json").is_file():
        return Pretrained.read(folder), str(folder)

    def train(task: Any, name: str, seed: int) -> Any:
        return trainings(task, f"{pool_name}-{name}", seed)

    modalities = modalities_of(target, settings.modalities)
    found = pretrain(pool, settings, train, spec.seed, modalities=modalities, target=target)
    found.write(folder)
    return found, str(folder)


def methods_of(spec: Folded, has_pool: bool) -> tuple[list[Method], list[str]]:
    """Return the methods of a job that make sense with or without a pool, and why others are left out.

    Raises
    ------
    UsageError
        None is left.
    """
    settings = spec.chosen
    pretrained = has_pool and settings.pretrain_epochs > 0
    reconstructs = settings.reconstruction_weight > 0
    without: dict[str, str] = {}
    if not pretrained:
        without["frozen"] = "it needs a pretrained network: a `pool:`, and `pretrain_epochs` above 0"
    if not reconstructs and not (pretrained and settings.objective == "reconstruction"):
        without["mean_knn"] = (
            "nothing trains the latent mean here, so that it is a random projection of the fusion vector;"
            " set `reconstruction_weight` above 0, or give a `pool:` for pretraining by reconstruction"
        )
    told = [f"Method {name} is left out: {why}." for name, why in without.items() if name in spec.methods]
    methods = [name for name in spec.methods if name not in without]
    if not methods:
        raise UsageError(f"methods: nothing is left to do. {' '.join(told)}")
    return methods, told


def pretraining_fingerprint(spec: HippieSpec) -> str:
    """Return what tells a job's model from those of other jobs."""
    return hashlib.sha256(json.dumps(spec.identity(), sort_keys=True).encode()).hexdigest()


def scores_table(name: str, comparison: "MethodComparison") -> "pa.Table":
    """Return a row for each method, with the split, the sizes and the majority rate beside its scores."""
    common = {
        "set": name,
        "split": comparison.split,
        "n": comparison.n,
        "n_classes": comparison.n_classes,
        "n_groups": comparison.n_groups,
        "majority_rate": comparison.majority_rate,
        "reference": comparison.reference,
    }
    return pa.Table.from_pylist([common | vars(row) for row in comparison.methods])


def predictions_table(plan: SetEvaluation, found: SetResult) -> "pa.Table":
    """Return a row for each unit, repeat and method: true and predicted class, and its probability."""
    labelled = plan.found
    rows = labelled_rows(labelled)
    classes = np.array(labelled.classes)
    parts = []
    for method, probabilities in found.probabilities.items():
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


def embeddings_table(plan: SetEvaluation) -> "pa.Table":
    """Return the embedding of all units of a set by a network that has seen none of them.

    Without a pretrained network the map is one of the signals themselves, and there are no other columns.
    """
    units = plan.found.units
    if plan.pretrained is None:
        signals = scaled(units)
        whole = np.concatenate([signals[name] for name in modalities_of(units)], 1)
        return embedding_columns(units, plan.found.names, {}, plane_map(whole))
    settings = HippieSettings(**plan.settings)
    networks = untrained(units, settings, len(plan.found.classes), pretrained=Pretrained.read(Path(plan.pretrained)))
    fusion, mean = networks.first().embed(units)
    return embedding_columns(units, plan.found.names, {"fusion": fusion, "mean": mean}, plane_map(fusion))


def embedding_columns(
    units: "Units", names: "np.ndarray", vectors: "dict[str, np.ndarray]", flat: "np.ndarray"
) -> "pa.Table":
    """Return columns unit_id, class, every other column of the units, ``umap_0``, ``umap_1`` and vectors."""
    columns: dict[str, Any] = {"unit_id": units.unit_ids, CLASS: names}
    columns |= {name: units.column(name) for name in units.obs.columns if name not in columns and isinstance(name, str)}
    columns |= {f"umap_{number}": flat[:, number] for number in range(flat.shape[1])}
    for part, values in vectors.items():
        columns |= {f"{part}_{number}": values[:, number] for number in range(values.shape[1])}
    return pa.table(columns)


@dataclass(frozen=True)
class HippieEvaluationInputs:
    """An evaluation's input.

    Attributes
    ----------
    sets : list of LabelledUnits
        In the order of the job.
    pool : list of Units
        For pretraining, besides the other sets.
    """

    sets: list[LabelledUnits]
    pool: "list[Units]"


def run_hippie_evaluation(
    spec: HippieEvaluateSpec, folder: Path, out: str, address: str | None, cpus: int | None
) -> None:
    """Evaluate methods with everything kept in `out`, or go on with it there; raises as `run_in_folder` does."""
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_hippie_evaluation_inputs(spec, folder),
        lambda run: _evaluate(run, folder, address, cpus),
        EVALUATION,
    )


def read_hippie_evaluation_inputs(spec: HippieEvaluateSpec, folder: Path) -> tuple[HippieEvaluationInputs, list[str]]:
    """Open all sets and check that each can be split.

    Raises
    ------
    UsageError, LearnerError
        Naming the set.
    """
    refuse_missing(spec, folder)
    found, notes = [], []
    for one in spec.sets:
        try:
            opened = read_labelled(one, folder)
            folds_of(opened, spec.folds, spec.repeats, spec.seed)
        except LearnerError as error:
            raise LearnerError(f"set {one.name}: {error}") from error
        found.append(opened)
        notes += [f"{one.name}: {note}" for note in opened.notes]
    inputs = HippieEvaluationInputs(found, [read_units(one, folder) for one in spec.pool])
    for number, labelled in enumerate(found):
        pool = pool_for(spec, inputs, number)
        name = spec.sets[number].name
        notes += [f"{name}: {note}" for note in methods_of(spec, pool is not None)[1]]
        if pool is not None:
            try:
                refuse_shared(pool, labelled.units)
            except LearnerError as error:
                raise LearnerError(f"set {name}: {error}") from error
    return inputs, notes


def pool_for(spec: HippieEvaluateSpec, inputs: HippieEvaluationInputs, number: int) -> "Units | None":
    """Return the units that a network for one set is pretrained on; None where there are none."""
    others = [found.units for i, found in enumerate(inputs.sets) if i != number and spec.pretrain_on_others]
    pools = [*inputs.pool, *others]
    return joined(pools) if pools else None


def _evaluate(run: JobRun, folder: Path, address: str | None, cpus: int | None) -> None:
    spec, inputs = run.spec, run.inputs
    workers = workers_of(spec, address)
    trainings = trainings_of(spec, run.out, workers, len(spec.sets) * spec.chosen.pretrain_epochs, run.console)
    with connected(workers, address, cpus):
        plans = []
        for number, one in enumerate(spec.sets):
            pool = pool_for(spec, inputs, number)
            kept = pretrained_on(pool, inputs.sets[number].units, spec, trainings, one.name, run.out)
            plans.append(
                SetEvaluation(
                    one.name,
                    one,
                    inputs.sets[number],
                    spec.chosen.model_dump(mode="json"),
                    methods_of(spec, pool is not None)[0],
                    spec.folds,
                    spec.repeats,
                    spec.shuffles,
                    spec.seed,
                    kept[1] if kept else None,
                )
            )
        found = evaluate(plans, folder, run.out, most_workers(workers), run.console)
    write_evaluation_tables(run.out, plans, found)
    for plan in plans:
        _write_part(run.out / "embeddings", plan.name, embeddings_table(plan))
    _write_evaluation(run, plans, found)
    write_evaluation_report(run.out)
    print_evaluation(json.loads((run.out / EVALUATION).read_text()), run.console)


def write_evaluation_tables(out: Path, plans: list[SetEvaluation], found: list[SetResult]) -> None:
    """Write predictions of all sets, and their scores, as Parquet."""
    for plan, one in zip(plans, found, strict=True):
        _write_part(out / "predictions", plan.name, predictions_table(plan, one))
    tables = [scores_table(plan.name, one.comparison) for plan, one in zip(plans, found, strict=True)]
    pq.write_table(pa.concat_tables(tables), out / "scores.parquet")


def _write_part(folder: Path, name: str, table: "pa.Table") -> None:
    place = folder / f"set={name}" / "part.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, place)


def _write_evaluation(run: JobRun, plans: list[SetEvaluation], found: list[SetResult]) -> None:
    sets = [evaluation_facts(plan, one) for plan, one in zip(plans, found, strict=True)]
    told: dict[str, Any] = {"name": run.spec.name, "sets": sets, "notes": run.notes, "versions": versions()}
    write_result(run.out / EVALUATION, told, indent=1)


def evaluation_facts(plan: SetEvaluation, found: SetResult) -> dict[str, Any]:
    """Return what is known of one evaluation, as plain JSON."""
    return {
        "set": plan.name,
        "files": [path.name for path in plan.labelled.units],
        "group": plan.labelled.group,
        "comparison": found.comparison.to_dict(),
        "shuffled": found.shuffled,
        "permuted": found.permuted,
        "chosen": found.chosen,
        "pretrained": plan.pretrained is not None,
    }
