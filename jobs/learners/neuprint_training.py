"""NeuPRINT trainings, evaluations and sweeps: dynamics fitted for each split and for all neurons, and the model written."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.store.published_tables import publish
from neurofleet.jobs.learners.embedding import write_neuron_embeddings
from neurofleet.jobs.learners.evaluation_pieces import write_result
from neurofleet.jobs.learners.learner_folder import DESCRIPTION, EVALUATION, TRAININGS
from neurofleet.jobs.learners.learner_job import connected, most_workers, workers_of
from neurofleet.jobs.learners.neuprint_evaluation import (
    OF_PHI,
    SPLITS,
    Payload,
    case_of,
    do_missing_pieces,
    keep_phi,
    piece_payloads,
    predictions_table,
    scores_table,
    split_scores,
)
from neurofleet.jobs.learners.neuprint_job import (
    NeuprintEvaluateSpec,
    NeuprintInputs,
    NeuprintSpec,
    NeuprintSweepSpec,
    NeuprintTrainSpec,
    epochs_of,
    read_neuprint_inputs,
)
from neurofleet.jobs.learners.neuprint_report import print_evaluation, write_evaluation_report, write_training_report
from neurofleet.jobs.learners.sweep_trials import Report, plan_of, run_sweep_trials, train_trial, trial_scores
from neurofleet.jobs.learners.trainings import Trainings
from neurofleet.jobs.progress import duration
from neurofleet.jobs.run_folder import JobRun, run_in_folder, versions
from neurofleet.learners.local_training import train_here
from neurofleet.learners.neuprint.dynamics import dynamics_for
from neurofleet.learners.neuprint.dynamics_settings import NeuprintSettings
from neurofleet.learners.neuprint.dynamics_training import MOMENT_STEPS, NeuprintTask, TrainingWindows, WorkerRank
from neurofleet.learners.neuprint.neuprint_model import NeuprintModel, fit_naming
from neurofleet.learners.neuprint.neuron_splits import trained_neurons
from neurofleet.learners.neuprint.phi_inference import infer_phi
from neurofleet.learners.neuprint.session_tensors import sessions_of
from neurofleet.learners.neuprint.train_neuprint import fit, fitted
from neurofleet.learners.splits import fingerprint, write_splits


def run_neuprint_training(
    spec: NeuprintTrainSpec, folder: Path, out: str, address: str | None, cpus: int | None
) -> None:
    """Train a model with everything kept in `out`, or go on with it there; raises as `run_in_folder` does."""
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_neuprint_inputs(spec, folder),
        lambda run: train_neuprint_model(run, address, cpus),
        DESCRIPTION,
    )


def train_neuprint_model(run: JobRun, address: str | None, cpus: int | None) -> None:
    """Score on each split, fit all neurons, and write model, embeddings and report."""
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
    wanted = piece_payloads(spec, inputs, out)
    with connected(workers, address, cpus):
        for payload in wanted:
            if payload["settings"] is not None:
                _score_phi(payload, inputs, trainings)
        do_missing_pieces(wanted, most_workers(workers), run.console)
        model = _model(spec, inputs, trainings)
        history = pa.Table.from_pylist(trainings.history)
        pq.write_table(history, out / "history.parquet")
        write_neuron_embeddings(out, model, inputs.recordings)
        told = write_scores(run, wanted)
        if model.naming is not None:
            told["naming"] = {"probe": model.naming.probe.kind, "tried": model.naming.tried}
        write_training_report(out, told, history)
        replace(model, facts=told).save(out, run=_fingerprint(spec, told))
        if workers:
            publish(spec.name, out)
    print_evaluation(told, run.console)


def _score_phi(payload: Payload, inputs: NeuprintInputs, trainings: "Trainings") -> None:
    """Train for one split, without its validation and test neurons, and probe the Phi of all."""
    case = case_of(payload, inputs.recordings, inputs.splits[payload["number"]])
    neurons = trained_neurons(inputs.recordings, case.split, payload["mode"])
    task = NeuprintTask(inputs.recordings, neurons, NeuprintSettings(**payload["settings"]))
    weights = trainings(task, f"fold-{payload['number']}-model", case.seed)
    if not Path(payload["place"]).is_file():
        keep_phi(payload, case, fitted(task, weights, case.seed).phi)


def _model(spec: NeuprintTrainSpec, inputs: NeuprintInputs, trainings: "Trainings") -> "NeuprintModel":
    """Return the model that is kept: fitted to every neuron, or with single-animal to those of the animal.

    Its probe learns from all of these that have a class.
    """
    recordings = inputs.recordings
    neurons, animals = np.arange(len(recordings.neurons)), recordings.labels("animal")
    if spec.mode == "single":
        neurons = np.flatnonzero(np.isin(animals, animals[inputs.splits[0].rows("test")]))
    model = fit(recordings, neurons, spec.chosen, trainings, spec.seed)
    kept_apart = animals if spec.mode == "cross" else None
    return replace(model, naming=fit_naming(model.phi, inputs.classes, kept_apart, spec.seed))


def write_scores(run: JobRun, wanted: list[Payload]) -> dict[str, Any]:
    """Write predictions and scores of all methods, and return what is known of them as plain JSON."""
    told = circumstances(run)
    told |= split_scores(wanted, run.inputs, run.spec.mode)
    pq.write_table(predictions_table(wanted, run.inputs), run.out / "predictions.parquet")
    pq.write_table(scores_table(told, told), run.out / "scores.parquet")
    return told


def circumstances(run: JobRun) -> dict[str, Any]:
    """Return what a job was made from, and with what."""
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


def _fingerprint(spec: NeuprintTrainSpec, told: dict[str, Any]) -> str:
    text = json.dumps(spec.identity(), sort_keys=True) + told["split"]["fingerprint"]
    return hashlib.sha256(text.encode()).hexdigest()


def run_neuprint_evaluation(
    spec: NeuprintEvaluateSpec, folder: Path, out: str, address: str | None, cpus: int | None
) -> None:
    """Evaluate methods with everything kept in `out`, or go on with it there; raises as `run_in_folder` does."""
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_neuprint_inputs(spec, folder),
        lambda run: _evaluate(run, address, cpus),
        EVALUATION,
    )


def _evaluate(run: JobRun, address: str | None, cpus: int | None) -> None:
    spec, inputs, out = run.spec, run.inputs, run.out
    workers = workers_of(spec, address)
    write_splits(out / SPLITS, inputs.splits)
    wanted = piece_payloads(spec, inputs, out)
    with connected(workers, address, cpus):
        do_missing_pieces(wanted, most_workers(workers), run.console)
    told = write_scores(run, wanted)
    write_evaluation_report(out, told)
    write_result(out / EVALUATION, told, indent=1)
    print_evaluation(told, run.console)


def run_neuprint_trial(
    payload: Mapping[str, Any],
    parameters: Mapping[str, Any],
    seed: int,
    folder: Path,
    report: Report,
) -> dict[str, float]:
    """Train with `parameters` in place of the job's settings, and return the last epoch's scores.

    The neurons are those that the dynamics of the first split may see.

    Parameters
    ----------
    payload : mapping
        ``spec`` (the sweep, as its job file) and ``folder`` (of that file).
    report : callable
        Is told each epoch's metrics; does not return when the trial is to be stopped.
    """
    spec = NeuprintSweepSpec.model_validate(payload["spec"])
    inputs, _ = read_neuprint_inputs(spec, Path(payload["folder"]))
    settings = spec.with_settings(parameters).chosen
    neurons = trained_neurons(inputs.recordings, inputs.splits[0], spec.mode)
    task = NeuprintTask(inputs.recordings, neurons, settings)
    written = task.write(folder, inputs.sources, seed)
    trained = train_trial(spec, task, written, parameters, seed, folder, report)
    return trial_scores(spec, trained.metrics)


FACTORY = "neurofleet.jobs.learners.neuprint_training:run_neuprint_trial"
SEEN = (
    "The sweep has compared its trials by how well they predict the last frames of the first split's training"
    " neurons. No class was read for that, so the scores are those of settings that were given beforehand."
)


def run_neuprint_sweep(spec: NeuprintSweepSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Run a sweep with everything kept in `out`, or go on with it there; raises as `run_in_folder` does.

    Finished trials are not run again. The folder becomes that of the best setting's model.
    """
    run_in_folder(
        spec,
        folder,
        out,
        lambda: read_neuprint_inputs(spec, folder),
        lambda run: _sweep(run, folder, address, cpus),
        DESCRIPTION,
    )


def _sweep(run: JobRun, folder: Path, address: str | None, cpus: int | None) -> None:
    spec = run.spec
    plan = plan_of(spec, FACTORY, folder, epochs_of(run.inputs, spec.chosen, spec.mode))
    swept = run_sweep_trials(spec, plan, run.out, run.console, address, cpus)
    best = spec.with_settings(swept.parameters)
    inputs = replace(run.inputs, settings={"phi": best.chosen})
    train_neuprint_model(replace(run, spec=best, inputs=inputs, notes=[*run.notes, SEEN]), address, cpus)


MEASURED_EPOCHS = 2
MEASURED_STEPS = 5


def print_neuprint_plan(spec: NeuprintSpec, folder: Path) -> None:
    """Print animals, neurons, classes, splits, and the time that a dynamics and its Phi take in this process.

    Raises
    ------
    UsageError, LearnerError
        The input cannot be used.
    """
    console = Console()
    inputs, notes = read_neuprint_inputs(spec, folder)
    recordings = inputs.recordings
    animals = recordings.labels("animal")
    table = Table(title=f"{spec.name}: {spec.split}, {len(inputs.splits)} splits")
    for name in ("animal", "sessions", "frames", "neurons", f"with {spec.label}"):
        table.add_column(name, justify="left" if name == "animal" else "right")
    for animal in recordings.animals:
        own = [one for one in recordings.recordings if one.animal == animal]
        labelled = int(((animals == animal) & (inputs.classes != "")).sum())
        frames = f"{sum(one.n_frames for one in own):,}"
        table.add_row(animal, str(len(own)), frames, f"{int((animals == animal).sum()):,}", f"{labelled:,}")
    console.print(table)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, highlight=False, markup=False)

    for note in notes:
        say(note)
    say(f"{len(inputs.counts)} classes: {', '.join(f'{name} {n}' for name, n in inputs.counts.items())}.")
    fits = len(inputs.splits) + (not isinstance(spec, NeuprintEvaluateSpec))
    total_s = 0.0
    for name, settings in inputs.settings.items():
        epochs = epochs_of(inputs, settings, spec.mode)
        steps, epoch_s, phi_s = _measured(inputs, settings, spec.seed)
        each_s = epochs * epoch_s + phi_s
        total_s += fits * each_s
        seen = ", ".join(settings.seen) or "the own past alone"
        say(
            f"{name}: {settings.dynamics} of {seen}; {epochs} epoch{'s' if epochs > 1 else ''} of {steps}"
            f" steps, {epoch_s:.2g} s each in this process, then"
            f" {phi_s:.2g} s for the Phi of all neurons; {fits} times: about {duration(fits * each_s)}."
        )
    baselines = [name for name in spec.methods if name not in OF_PHI]
    if baselines:
        say(
            f"Probes and {', '.join(baselines)} come on top, {len(inputs.splits)} times each; the run says"
            " how long they take once one of each is done."
        )
    if isinstance(spec, NeuprintSweepSpec):
        sweep = plan_of(spec, FACTORY, folder, epochs)
        trials = sweep.number_of_settings() * sweep.repeats
        say(
            f"Before that, {trials} trials of up to {epochs} epochs: about"
            f" {duration(trials * epochs * epoch_s)} one by one; what is searched may change it."
        )


def _measured(inputs: NeuprintInputs, settings: "NeuprintSettings", seed: int) -> tuple[int, float, float]:
    """Return the steps of an epoch, its seconds, and those of inferring the Phi of all neurons."""
    recordings = inputs.recordings
    neurons = np.arange(len(recordings.neurons))
    steps, step_s = _steps(NeuprintTask(recordings, neurons, settings), seed)
    sessions = sessions_of(recordings, settings)
    dynamics = dynamics_for(settings, len(sessions[0].names))
    measured = settings.inference_steps if settings.is_quadratic else MEASURED_STEPS
    started = time.perf_counter()
    infer_phi(dynamics, sessions, neurons, settings.model_copy(update={"inference_steps": measured}), seed)
    return steps, steps * step_s, (time.perf_counter() - started) * settings.inference_steps / measured


def _steps(task: "NeuprintTask", seed: int) -> tuple[int, float]:
    """Return how many steps an epoch has, and the seconds of one, from an epoch of a few neurons."""
    settings, sessions = task.settings, task.sessions
    short = settings.model_copy(update={"epochs": MEASURED_EPOCHS, "least_steps": 0})
    if settings.is_quadratic:
        task, steps = replace(task, settings=short), MOMENT_STEPS
        measured = steps
    else:
        every = [np.arange(len(session.numbers)) for session in sessions]
        steps = len(TrainingWindows(sessions, every, settings, WorkerRank(), seed))
        few = sessions[0].numbers[: settings.batch_neurons]
        task = replace(task, train_neurons=few, settings=short)
        rows = [np.flatnonzero(np.isin(one.numbers, few)) for one in task.sessions]
        measured = len(TrainingWindows(task.sessions, rows, settings, WorkerRank(), seed))
    ends: list[float] = []
    train_here(task, "plan", seed, lambda row: ends.append(time.perf_counter()))
    return steps, (ends[-1] - ends[-2]) / measured
