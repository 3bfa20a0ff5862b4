"""How far a training is, read from its folder alone."""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.spec import named
from jobs.train.folder import JOB, has_ended
from jobs.train.pieces import PIECES

if TYPE_CHECKING:
    from rich.console import Console

TRAININGS, CHECKPOINTS, TRIALS = "trainings", "checkpoints", "trials"
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
        from jobs.train.folder import learner_of

        say(f"{state.name}: finished")
        named(f"jobs.{learner_of(out)}.results:print_scores_in")(out, console)
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
    """Return the state of the training in folder `out`; see `jobs.train.folder.is_training`."""
    import yaml

    from cluster.store import RunStore

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
    from safetensors import safe_open

    planned = json.loads((folder / "task.json").read_text())["epochs"]
    with safe_open(folder / "task.safetensors", framework="numpy") as arrays:
        n_samples = arrays.get_slice("train_rows").get_shape()[0]
    names = [path.name for path in (folder / CHECKPOINTS).glob("epoch-*.ckpt")]
    epochs = [int(found[1]) for name in names if (found := _EPOCH.match(name))]
    return TrainingState(folder.name, max(epochs, default=0), planned, n_samples)
