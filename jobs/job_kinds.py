"""Which kind of job a run folder belongs to."""

from pathlib import Path

import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.job_file import named
from neurofleet.jobs.learners.learner_folder import is_training, learner_of
from neurofleet.jobs.studies.findings import Findings

FIT = "fit"
STUDIES = {
    "validate": "neurofleet.jobs.studies.validation_report:ValidationFindings",
    "sensitivity": "neurofleet.jobs.studies.sensitivity_report:SensitivityFindings",
    "synapse": "neurofleet.jobs.studies.synapses_report:SynapseFindings",
    "sample": "neurofleet.jobs.studies.sampling_report:SampleFindings",
    "compare": "neurofleet.jobs.studies.comparison_report:ComparisonFindings",
    "analyse": "neurofleet.jobs.studies.analysis_report:AnalysisFindings",
}
"""Kinds of jobs over models that were fitted before, and the class of their findings."""


def kind_in(out: str | Path) -> str:
    """Return the kind of the job in a folder, for learners' jobs the learner; "fit" where the folder has no job.

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


def study_findings(kind: str) -> type[Findings]:
    """Return the class that reads, prints and draws the findings of a kind of study."""
    findings: type[Findings] = named(STUDIES[kind])
    return findings


def report_module(kind: str) -> str:
    """Return the module that prints and draws what a folder of a learner's job holds."""
    return f"neurofleet.jobs.learners.{kind}_report"


def results_module(kind: str) -> str:
    """Return the module that prints the results in a folder of this kind."""
    return {
        "sims": "neurofleet.jobs.learners.sims_scores",
    }.get(kind) or report_module(kind)
