"""The folder of a learner's job: whose it is, whether it has ended, and how far it is."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.learners import LEARNER_JOB_KINDS

DESCRIPTION = "model.json"
EVALUATION = "evaluation.json"
HISTORY = "history.parquet"
PREDICTIONS, SCORES = "predictions.parquet", "scores.parquet"
MAP = "map.parquet"
"""Cells of a reference on a map of the model's embedding."""

EXAMPLES = "examples.parquet"
"""Activity of a few neurons with what the dynamics predicts of it."""

SIGNALS = "signals"
"""The folder of the mean signals of each class of units, by data set."""

EMBEDDINGS, EMBEDDINGS_H5AD = "embeddings.parquet", "embeddings.h5ad"
JOB = "job.yaml"
ABOUT = b"neurofleet.predictions"
"""Key of what the Parquet file of predictions says of its model."""

CHECKPOINTS, PIECES, TRAININGS, SWEEP = "checkpoints", "pieces", "trainings", "sweep"
TRIALS = "trials/trials.parquet"
"""The table of the trials of a sweep; it lies alone in its folder, which is thus a table as well."""

JOURNAL = "optuna-journal.log"
"""The same trials as an Optuna study."""

_EPOCH = re.compile(r"^epoch-(\d+)\.ckpt$")


def is_training(out: str | Path) -> bool:
    """Whether a folder holds a model, or a learner's job that is to end in one or in an evaluation."""
    if "://" in str(out):
        return False
    folder = Path(out)
    return (folder / DESCRIPTION).is_file() or _job(folder).get("kind") in LEARNER_JOB_KINDS


def has_ended(folder: Path) -> bool:
    """Whether a learner's job has left what it was to end in."""
    return (folder / DESCRIPTION).is_file() or (folder / EVALUATION).is_file()


def learner_of(out: str | Path) -> str:
    """Return which learner a folder's job or model is of.

    Raises
    ------
    ModelRefused
        If the folder holds a damaged model.
    """
    learner = _job(Path(out)).get("learner")
    if learner:
        return str(learner)
    from neurofleet.learners.model_folder import read_model  # the folder of a fit needs no learners

    return read_model(Path(out)).learner


def remove_working_files(out: Path) -> None:
    """Remove what only a job under way needs: the checkpoints of its trainings and trials, and their samples."""
    for folder in (out / TRAININGS, sweep_folder(out)):
        for checkpoints in list(folder.rglob(CHECKPOINTS)):
            shutil.rmtree(checkpoints, ignore_errors=True)
        for task in list(folder.rglob("task.*")):
            task.unlink(missing_ok=True)
        shutil.rmtree(folder / "tune", ignore_errors=True)  # Tune's own, which is never read


def sweep_folder(out: Path) -> Path:
    """Return where a sweep keeps what its trials write: beside their table in a run that version 0.1 began."""
    former = (out / TRIALS).parent
    return former if (former / "sweep.json").is_file() else out / SWEEP


def refuse_unfinished(out: str | Path) -> None:
    """Raise UsageError where a learner's job has not ended."""
    if not has_ended(Path(out)):
        raise UsageError(
            f"{out}: expected a job that has ended, found one that has not ended. "
            f"`neurofleet status {out}` says how far it is; the same `neurofleet run` as before goes on with "
            "it."
        )


def _job(folder: Path) -> dict[str, Any]:
    if not (folder / JOB).is_file():
        return {}
    job = yaml.safe_load((folder / JOB).read_text())
    return job if isinstance(job, dict) else {}


@dataclass(frozen=True)
class TrainingState:
    """One of the trainings that a job is made of.

    Attributes
    ----------
    training : str
        Such as ``model``, ``fold-0-model``, ``shuffled-labels``.
    epochs, planned : int
        Done, and at most to do; training may end earlier for want of better epochs.
    samples : int
        Cells, units or neurons that it is trained on.
    """

    training: str
    epochs: int
    planned: int
    samples: int


@dataclass(frozen=True)
class LearnerJobState:
    """A training job, a sweep that ends in one, or an evaluation.

    Attributes
    ----------
    name : str
    finished : bool
    running : str
        Which process runs it, empty where none does.
    since : str
        When it was last started, UTC; empty where the folder does not tell.
    trials_begun, trials_ended : int
        Of a sweep.
    pieces_done : int
        Of an evaluation: folds, methods and controls.
    trainings : tuple of TrainingState
        Those that have begun.
    """

    name: str
    finished: bool
    running: str
    since: str
    trials_begun: int
    trials_ended: int
    pieces_done: int
    trainings: tuple[TrainingState, ...]

    def lines(self) -> list[str]:
        """Return how far the job is, for the terminal."""
        if self.finished:
            return [f"{self.name}: finished"]
        rest = "it is not running; the same command as before goes on with it"
        lines = [f"{self.name}: not finished; {f'running: {self.running}' if self.running else rest}"]
        if self.trials_begun:
            lines.append(f"trials: {self.trials_ended} of the {self.trials_begun} begun have ended")
        lines += [
            f"{each.training}: epoch {each.epochs} of {each.planned}, {each.samples:,} training samples"
            for each in self.trainings
        ]
        if self.pieces_done:
            lines.append(f"pieces of the evaluation that are done: {self.pieces_done}")
        if not (self.trainings or self.trials_begun or self.pieces_done):
            lines.append("no training has begun")
        return lines


def learner_job_state(out: str | Path) -> LearnerJobState:
    """Return how far the learner's job in folder `out` is, read from that folder alone."""
    store, folder = RunStore(out), Path(out)
    trials = sweep_folder(folder)
    started = [event["at"] for event in store.read_events() if event["event"] in ("started", "resumed")]
    tasks = sorted((folder / TRAININGS).glob("*/task.json"), key=lambda path: path.stat().st_mtime_ns)
    return LearnerJobState(
        name=_job(folder).get("name", folder.name),
        finished=has_ended(folder),
        running=store.holder(),
        since=started[-1] if started else "",
        trials_begun=len(list(trials.glob("trial-*"))),
        trials_ended=len(list(trials.glob("trial-*/result.json"))),
        pieces_done=len(list((folder / PIECES).rglob("*.json"))),
        trainings=tuple(_training_state(path.parent) for path in tasks),
    )


def _training_state(folder: Path) -> TrainingState:
    from safetensors import safe_open  # the folder of a fit needs no learners

    planned = json.loads((folder / "task.json").read_text())["epochs"]
    with safe_open(folder / "task.safetensors", framework="numpy") as arrays:
        n_samples = arrays.get_slice("train_rows").get_shape()[0]
    matches = [_EPOCH.match(path.name) for path in (folder / CHECKPOINTS).glob("epoch-*.ckpt")]
    epochs = [int(match[1]) for match in matches if match]
    return TrainingState(folder.name, max(epochs, default=0), planned, n_samples)
