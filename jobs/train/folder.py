"""The folder of a learner's job: how to know one, whose it is, and the model in it."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import UsageError

if TYPE_CHECKING:
    from learners.model_folder import StoredModel

DESCRIPTION = "model.json"
EVALUATION = "evaluation.json"
JOB = "job.yaml"
KINDS = ("train", "sweep", "evaluate")
"""Of learners' jobs."""
FACTS = ("name", "scores", "baselines", "control", "reliability", "data", "split")


def is_training(out: str | Path) -> bool:
    """Whether a folder holds a model, or a learner's job that is to end in one or in an evaluation."""
    if "://" in str(out):
        return False
    folder = Path(out)
    return (folder / DESCRIPTION).is_file() or _job(folder).get("kind") in KINDS


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
    from learners.model_folder import read_model

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
    from learners.model_folder import read_model

    refuse_unfinished(out)
    model = read_model(Path(out), learner=learner)
    if not set(facts) <= model.description.get("facts", {}).keys():
        raise UsageError(
            f"{out}: expected a model with its scores, as a training job writes it, found one without. "
            "Train it with `neurofleet run JOB.yaml` (kind: train)."
        )
    return model


def _job(folder: Path) -> dict[str, Any]:
    import yaml

    if not (folder / JOB).is_file():
        return {}
    job = yaml.safe_load((folder / JOB).read_text())
    return job if isinstance(job, dict) else {}
