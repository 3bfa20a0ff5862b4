"""The folder of a learner's job: whose it is, the model or evaluation in it, and how far it is."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from safetensors import safe_open

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import named
from neurofleet.jobs.learners.evaluation_pieces import PIECES
from neurofleet.learners.model_folder import StoredModel, read_model

DESCRIPTION = "model.json"
EVALUATION = "evaluation.json"
JOB = "job.yaml"
LEARNER_JOB_KINDS = ("train", "sweep", "evaluate")
"""Of learners' jobs."""
FACTS = ("name", "scores", "baselines", "control", "reliability", "data", "split")

SCORE_MODULES = {
    "sims": "neurofleet.jobs.learners.sims_scores",
    "hippie": "neurofleet.jobs.learners.hippie_report",
    "neuprint": "neurofleet.jobs.learners.neuprint_report",
}
"""Where the scores of each learner's jobs are printed."""


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
    return str(learner) if learner else read_model(Path(out)).learner


def refuse_unfinished(out: str | Path) -> None:
    """Raise UsageError where a learner's job has not ended."""
    if not has_ended(Path(out)):
        raise UsageError(
            f"{out}: expected a job that has ended, found one that has not ended. "
            f"`neurofleet status {out}` says how far it is; the same `neurofleet run` as before goes on with "
            "it."
        )


def evaluation_in(out: str | Path) -> dict[str, Any] | None:
    """Return what an evaluation has found, as plain JSON; None where the folder is a training's.

    Raises
    ------
    UsageError
        If the job has not ended.
    """
    refuse_unfinished(out)
    place = Path(out) / EVALUATION
    return json.loads(place.read_text()) if place.is_file() else None


def stored_model(out: str | Path, learner: str, facts: Collection[str] = FACTS) -> "StoredModel":
    """Return the model of a training.

    Parameters
    ----------
    facts : collection of str
        What a training job of the learner, unlike a fit from Python, writes into its model.

    Raises
    ------
    UsageError
        If the training has not ended, or the model was written without scores.
    ModelRefused
        If the folder holds no model of that learner, or a damaged one.
    """
    refuse_unfinished(out)
    model = read_model(Path(out), learner=learner)
    if not set(facts) <= model.description.get("facts", {}).keys():
        raise UsageError(
            f"{out}: expected a model with its scores, as a training job writes it, found one without. "
            "Train it with `neurofleet run JOB.yaml` (kind: train)."
        )
    return model


def _job(folder: Path) -> dict[str, Any]:
    if not (folder / JOB).is_file():
        return {}
    job = yaml.safe_load((folder / JOB).read_text())
    return job if isinstance(job, dict) else {}


def print_score_tables(
    out: str,
    as_json: bool,
    facts_in: Callable[[str], dict[str, Any]],
    print_evaluation: "Callable[[dict[str, Any], Console], None]",
) -> None:
    """Print what a folder's job has found, as tables or as JSON.

    Parameters
    ----------
    facts_in : callable
        Reads it.
    print_evaluation : callable
        Prints it as tables.

    Raises
    ------
    UsageError
        The job has not ended.
    """
    found = facts_in(out)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print_evaluation(found, Console())


TRAININGS, CHECKPOINTS, TRIALS = "trainings", "checkpoints", "trials"
ABOUT = b"neurofleet.predictions"
"""Key of what the Parquet file of predictions says of its model."""
_EPOCH = re.compile(r"^epoch-(\d+)\.ckpt$")


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
class JobState:
    """A training job, or a sweep that ends in one.

    Attributes
    ----------
    name : str
    finished : bool
    running : str
        Who is at work on it, empty when nobody is.
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


def print_training_status(out: str, as_json: bool, console: "Console") -> None:
    """Print how far the training in `out` is; with its scores once it has ended."""
    state = training_state(out)
    if as_json:
        print(json.dumps(asdict(state)))
        return

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if state.finished:
        say(f"{state.name}: finished")
        named(f"{SCORE_MODULES[learner_of(out)]}:print_scores_in")(out, console)
        return
    rest = "nobody is at work on it; the same command as before goes on with it"
    say(f"{state.name}: not finished; {f'running: {state.running}' if state.running else rest}")
    if state.trials_begun:
        say(f"trials: {state.trials_ended} of the {state.trials_begun} begun have ended")
    for one in state.trainings:
        say(f"{one.training}: epoch {one.epochs} of {one.planned}, {one.samples:,} training samples")
    if state.pieces_done:
        say(f"pieces of the evaluation that are done: {state.pieces_done}")
    if not (state.trainings or state.trials_begun or state.pieces_done):
        say("no training has begun")


def training_state(out: str) -> JobState:
    """Return the state of the training in folder `out`; see `neurofleet.jobs.learners.learner_folder.is_training`."""
    store, folder = RunStore(out), Path(out)
    job = yaml.safe_load(store.read_text(JOB) or "{}")
    events = store.read_events()
    started = [event["at"] for event in events if event["event"] in ("started", "resumed")]
    tasks = sorted((folder / TRAININGS).glob("*/task.json"), key=lambda path: path.stat().st_mtime_ns)
    return JobState(
        name=job.get("name", folder.name),
        finished=has_ended(folder),
        running=store.holder(),
        since=started[-1] if started else "",
        trials_begun=len(list((folder / TRIALS).glob("trial-*"))),
        trials_ended=len(list((folder / TRIALS).glob("trial-*/result.json"))),
        pieces_done=len(list((folder / PIECES).rglob("*.json"))),
        trainings=tuple(_training(path.parent) for path in tasks),
    )


def _training(folder: Path) -> TrainingState:
    planned = json.loads((folder / "task.json").read_text())["epochs"]
    with safe_open(folder / "task.safetensors", framework="numpy") as arrays:
        n_samples = arrays.get_slice("train_rows").get_shape()[0]
    names = [path.name for path in (folder / CHECKPOINTS).glob("epoch-*.ckpt")]
    epochs = [int(found[1]) for name in names if (found := _EPOCH.match(name))]
    return TrainingState(folder.name, max(epochs, default=0), planned, n_samples)
