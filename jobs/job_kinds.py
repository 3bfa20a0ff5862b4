"""Which kind of job a run folder belongs to."""

from pathlib import Path

import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.learners.learner_folder import is_training, learner_of

FIT = "fit"
STUDIES = {
    "validate": "validation",
    "sensitivity": "sensitivity",
    "synapse": "synapses",
    "sample": "sampling",
    "compare": "comparison",
    "analyse": "analysis",
}
"""Kinds of jobs over models that were fitted before: kind -> stem of the modules below `neurofleet.jobs.studies`."""


def kind_in(out: str | Path) -> str:
    """Return the kind of the job in a folder, of a training the learner; "fit" where the folder does not tell.

    Raises
    ------
    ModelRefused
        If the folder holds a damaged model.
    """
    if is_training(out):
        return learner_of(out)
    job = yaml.safe_load(RunStore(out).read_text("job.yaml") or "")
    kind = job.get("kind") if isinstance(job, dict) else None
    return kind if kind in STUDIES else FIT


def is_study(kind: str) -> bool:
    """Whether a kind is a study of models that were fitted before."""
    return kind in STUDIES


def report_module(kind: str) -> str:
    """Return the module that prints and draws what a folder of this kind holds."""
    if is_study(kind):
        return f"neurofleet.jobs.studies.{STUDIES[kind]}_report"
    return f"neurofleet.jobs.learners.{kind}_report"


def results_module(kind: str) -> str:
    """Return the module that prints the results in a folder of this kind."""
    return {
        "analyse": "neurofleet.jobs.studies.analysis_findings",
        "sims": "neurofleet.jobs.learners.sims_scores",
    }.get(kind) or report_module(kind)
