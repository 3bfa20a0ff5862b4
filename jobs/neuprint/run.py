"""The run of a training: dynamics fitted for each split and for all neurons, scores, and the model kept."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.carrying_out import TRAININGS, Opened, carry_out
from jobs.neuprint.evaluations import SPLITS, Payload, do_all, payloads
from jobs.neuprint.inputs import Inputs, epochs_of, read_inputs
from jobs.neuprint.spec import TrainSpec
from jobs.train.folder import DESCRIPTION
from jobs.train.workers import connected, most, workers_of

if TYPE_CHECKING:
    from jobs.train.trainings import Trainings
    from learners.neuprint.model import NeuprintModel


def run_train(spec: TrainSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Train a model with everything kept in `out`, or go on with it there; raises as `carry_out` does."""
    carry_out(
        spec,
        folder,
        out,
        lambda: read_inputs(spec, folder),
        lambda run: train_model(run, address, cpus),
        DESCRIPTION,
    )


def train_model(run: Opened, address: str | None, cpus: int | None) -> None:
    """Score on each split, fit all neurons, and write model, embeddings and report."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cluster.shared import publish
    from jobs.neuprint.embeddings import write_embeddings
    from jobs.neuprint.report import write_training_report
    from jobs.neuprint.results import print_evaluation
    from jobs.train.trainings import Trainings
    from learners.split_files import write_splits

    spec, inputs, out = run.spec, run.inputs, run.out
    workers = workers_of(spec, address)
    write_splits(out / SPLITS, inputs.splits)
    trainings = Trainings(
        spec,
        (out / TRAININGS).absolute(),
        lambda task, place, seed: task.write(place, inputs.sources, seed),
        lambda task: None,
        workers,
        epochs_of(inputs, spec.chosen, spec.mode) * (len(inputs.splits) + 1),
        run.console,
    )
    wanted = payloads(spec, inputs, out)
    with connected(workers, address, cpus):
        for payload in wanted:
            if payload["settings"] is not None:
                _score_phi(payload, inputs, trainings)
        do_all(wanted, most(workers), run.console)
        model = _model(spec, inputs, trainings)
        history = pa.Table.from_pylist(trainings.history)
        pq.write_table(history, out / "history.parquet")
        write_embeddings(out, model, inputs)
        told = write_scores(run, wanted)
        if model.naming is not None:
            told["naming"] = {"probe": model.naming.probe.kind, "tried": model.naming.tried}
        write_training_report(out, told, history)
        replace(model, facts=told).save(out, run=_fingerprint(spec, told))
        if workers:
            publish(spec.name, out)
    print_evaluation(told, run.console)


def _score_phi(payload: Payload, inputs: Inputs, trainings: "Trainings") -> None:
    """Train for one split, without its validation and test neurons, and probe the Phi of all."""
    from jobs.neuprint.pieces import case_of, keep_phi
    from learners.neuprint.downstream import trained_neurons
    from learners.neuprint.fit import fitted
    from learners.neuprint.settings import Settings
    from learners.neuprint.task import Task

    case = case_of(payload, inputs.recordings, inputs.splits[payload["number"]])
    neurons = trained_neurons(inputs.recordings, case.split, payload["mode"])
    task = Task(inputs.recordings, neurons, Settings(**payload["settings"]))
    weights = trainings(task, f"fold-{payload['number']}-model", case.seed)
    if not Path(payload["place"]).is_file():
        keep_phi(payload, case, fitted(task, weights, case.seed).phi)


def _model(spec: TrainSpec, inputs: Inputs, trainings: "Trainings") -> "NeuprintModel":
    """Return the model that is kept: fitted to every neuron, or with single-animal to those of the animal.

    Its probe learns from all of these that have a class.
    """
    import numpy as np

    from learners.neuprint.fit import fit
    from learners.neuprint.naming import fit_naming

    recordings = inputs.recordings
    neurons, animals = np.arange(len(recordings.neurons)), recordings.labels("animal")
    if spec.mode == "single":
        neurons = np.flatnonzero(np.isin(animals, animals[inputs.splits[0].rows("test")]))
    model = fit(recordings, neurons, spec.chosen, trainings, spec.seed)
    kept_apart = animals if spec.mode == "cross" else None
    return replace(model, naming=fit_naming(model.phi, inputs.classes, kept_apart, spec.seed))


def write_scores(run: Opened, wanted: list[Payload]) -> dict[str, Any]:
    """Write predictions and scores of all methods, and return what is known of them as plain JSON."""
    import pyarrow.parquet as pq

    from jobs.neuprint.scoring import predictions_table, scores_of, scores_table

    told = circumstances(run)
    told |= scores_of(wanted, run.inputs, run.spec.mode)
    pq.write_table(predictions_table(wanted, run.inputs), run.out / "predictions.parquet")
    pq.write_table(scores_table(told, told), run.out / "scores.parquet")
    return told


def circumstances(run: Opened) -> dict[str, Any]:
    """Return what a job was made from, and with what."""
    from jobs.provenance import versions
    from learners.splits import fingerprint

    spec, inputs = run.spec, run.inputs
    recordings = inputs.recordings
    return {
        "name": spec.name,
        "label": spec.label,
        "preset": spec.preset,
        "dynamics": spec.chosen.dynamics,
        "inputs": {name: one.seen for name, one in inputs.settings.items()},
        "seed": spec.seed,
        "data": {
            "files": [path.name for path in spec.recordings],
            "sha256": json.loads((run.out / "provenance.json").read_text())["inputs"],
            "animals": list(recordings.animals),
            "n_sessions": len(recordings.recordings),
            "n_neurons": len(recordings.neurons),
            "n_labelled": inputs.n_labelled,
            "neurons_of_class": inputs.counts,
        },
        "split": {
            "how": spec.split,
            "animal": spec.animal,
            "split_of": spec.split_of,
            "seeds": spec.seeds,
            "n": len(inputs.splits),
            "fingerprint": fingerprint(inputs.splits),
        },
        "notes": run.notes,
        "versions": versions(),
    }


def _fingerprint(spec: TrainSpec, told: dict[str, Any]) -> str:
    text = json.dumps(spec.identity(), sort_keys=True) + told["split"]["fingerprint"]
    return hashlib.sha256(text.encode()).hexdigest()
