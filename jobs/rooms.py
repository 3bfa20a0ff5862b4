"""Which package a folder's job belongs to: it knows how to print and to draw what is there."""

from pathlib import Path

import yaml

FIT = "jobs.fit"
POPULATION_KINDS = ("validate", "sensitivity", "synapse", "sample", "compare", "analyse")
"""Kinds of jobs over populations of models; each has a room of its name."""


def room_of(out: str | Path) -> str:
    """Return the package of the job in a folder; that of a fit where the folder does not tell.

    Raises
    ------
    ModelRefused
        If the folder holds a damaged model.
    """
    from cluster.store import RunStore
    from jobs.train.folder import is_training, learner_of

    if is_training(out):
        return f"jobs.{learner_of(out)}"
    job = yaml.safe_load(RunStore(out).read_text("job.yaml") or "")
    kind = job.get("kind") if isinstance(job, dict) else None
    return f"jobs.{kind}" if kind in POPULATION_KINDS else FIT


def is_of_populations(room: str) -> bool:
    """Whether a room is one of the kinds over populations."""
    return room.removeprefix("jobs.") in POPULATION_KINDS
