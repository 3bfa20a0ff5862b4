"""The folder of a training: how to know one, and the model in it."""

from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import UsageError

if TYPE_CHECKING:
    from learners.model_folder import StoredModel

DESCRIPTION = "model.json"
JOB = "job.yaml"
KINDS = ("train", "sweep")
"""Of jobs that end in a model."""
FACTS = frozenset(("name", "scores", "baselines", "control", "reliability", "data", "split"))
"""What a training job, unlike a fit from Python, writes into its model."""


def is_training(out: str | Path) -> bool:
    """Whether a folder holds a model, or a training or sweep that is to end in one."""
    import yaml

    if "://" in str(out):
        return False
    folder = Path(out)
    if (folder / DESCRIPTION).is_file():
        return True
    if not (folder / JOB).is_file():
        return False
    job = yaml.safe_load((folder / JOB).read_text())
    return isinstance(job, dict) and job.get("kind") in KINDS


def stored_model(out: str | Path) -> "StoredModel":
    """Return the model of a training.

    Raises
    ------
    UsageError
        If the training has not ended, or the model was written without scores.
    ModelRefused
        If the folder holds no SIMS model, or a damaged one.
    """
    from learners.model_folder import read_model

    folder = Path(out)
    if not (folder / DESCRIPTION).is_file():
        raise UsageError(
            f"{out}: expected a finished training with its {DESCRIPTION}, found one that has not ended. "
            f"`neurofleet status {out}` says how far it is; the same `neurofleet run` as before goes on with "
            "it."
        )
    model = read_model(folder, learner="sims")
    if not FACTS <= model.description.get("facts", {}).keys():
        raise UsageError(
            f"{out}: expected a model with its scores, as a training job writes it, found one without. "
            "Train it with `neurofleet run JOB.yaml` (kind: train)."
        )
    return model
