"""Learners' jobs: trainings, sweeps and evaluations; predict, embed, explain.

`LEARNERS` is the table of the learners. A new learner is an entry here and three modules: its job files
(``X_spec``), what it reads and how it is trained and scored (``X_job``), and how its scores are shown (``X_report``).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LearnerEntry:
    """Where the parts of a learner's jobs are, each as ``module:class``, imported when it is needed.

    Attributes
    ----------
    specs : mapping
        Kind of job (``train``, ``sweep``, ``evaluate``) -> the model of its job file.
    job : str
        A subclass of `neurofleet.jobs.learners.learner_job.LearnerJob`. Its module may import torch.
    report : str
        A subclass of `neurofleet.jobs.learners.learner_report.LearnerReport`. Its module imports no torch.
    """

    specs: Mapping[str, str]
    job: str
    report: str


_HERE = "neurofleet.jobs.learners"

LEARNERS = {
    "sims": LearnerEntry(
        {"train": f"{_HERE}.sims_spec:SimsTrainSpec", "sweep": f"{_HERE}.sims_spec:SimsSweepSpec"},
        f"{_HERE}.sims_job:SimsJob",
        f"{_HERE}.sims_report:SimsReport",
    ),
    "hippie": LearnerEntry(
        {
            "train": f"{_HERE}.hippie_spec:HippieTrainSpec",
            "sweep": f"{_HERE}.hippie_spec:HippieSweepSpec",
            "evaluate": f"{_HERE}.hippie_spec:HippieEvaluateSpec",
        },
        f"{_HERE}.hippie_job:HippieJob",
        f"{_HERE}.hippie_report:HippieReport",
    ),
    "neuprint": LearnerEntry(
        {
            "train": f"{_HERE}.neuprint_spec:NeuprintTrainSpec",
            "sweep": f"{_HERE}.neuprint_spec:NeuprintSweepSpec",
            "evaluate": f"{_HERE}.neuprint_spec:NeuprintEvaluateSpec",
        },
        f"{_HERE}.neuprint_job:NeuprintJob",
        f"{_HERE}.neuprint_report:NeuprintReport",
    ),
}

LEARNER_JOB_KINDS = ("train", "sweep", "evaluate")


def specs_of(kind: str) -> dict[str, str]:
    """Return learner -> the model of its job file, of the learners that have jobs of this kind."""
    return {name: entry.specs[kind] for name, entry in LEARNERS.items() if kind in entry.specs}
