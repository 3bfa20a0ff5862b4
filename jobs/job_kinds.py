"""Which kind of job a run folder belongs to, and what shows its findings."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import yaml
from rich.console import Console

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.job_file import named
from neurofleet.jobs.learners import LEARNERS
from neurofleet.jobs.learners.learner_folder import is_training, learner_of
from neurofleet.jobs.quick import quick_lines
from neurofleet.jobs.reports.tables import print_line

FIT = "fit"
REPORT = "report.html"
STUDIES = {
    "validate": "neurofleet.jobs.studies.validation_report:ValidationFindings",
    "sensitivity": "neurofleet.jobs.studies.sensitivity_report:SensitivityFindings",
    "synapse": "neurofleet.jobs.studies.synapses_report:SynapseFindings",
    "sample": "neurofleet.jobs.studies.sampling_report:SampleFindings",
    "posterior": "neurofleet.jobs.studies.posterior_report:PosteriorFindings",
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


class FindingsInFolder(Protocol):
    """What shows the findings in a run folder: `Findings` of studies, `LearnerReport` of learners' jobs."""

    @classmethod
    def print_status(cls, out: str, as_json: bool, console: Console) -> None:
        """Print how far the job is; its findings once it has ended."""

    @classmethod
    def print_results(cls, out: str, as_json: bool) -> None:
        """Print the findings, as tables or as JSON."""

    @classmethod
    def verdict_of(cls, out: str | Path) -> list[str]:
        """Return a few lines on a finished job (how good, how sure, what failed), and what to type next."""

    @classmethod
    def rewrite_report(cls, out: str | Path) -> str:
        """Write ``report.html`` of a finished job again, and return where it is."""


def findings_of(kind: str) -> type[FindingsInFolder]:
    """Return the class that reads, prints and draws the findings of a kind of study, or of a learner."""
    findings: type[FindingsInFolder] = named(STUDIES[kind] if kind in STUDIES else LEARNERS[kind].report)
    return findings


VERDICT_LINES = 5


def _verdict_of(out: str) -> list[str]:
    kind = kind_in(out)
    if kind != FIT:
        return findings_of(kind).verdict_of(out)
    from neurofleet.jobs.results.run_summary import fit_verdict  # needs DuckDB, which other kinds do without

    return fit_verdict(out)


def findings_in(out: str) -> list[str]:
    """Return what is found in the folder of a job that has ended, in a few lines."""
    return [*quick_lines(out), *_verdict_of(out)[:-1]]


def print_verdict(out: str, console: Console) -> None:
    """Print what is found in the folder of a job that has ended: a few lines, its report, and what to type next."""
    *found, following = _verdict_of(out)
    if len(found) > VERDICT_LINES + 1:
        found[VERDICT_LINES - 1 : -1] = [f"… {len(found) - VERDICT_LINES} more in the report"]
    report = f"report: {out.rstrip('/')}/{REPORT}"
    if RunStore(out).read_text(REPORT) is None:
        report = f"report: not written yet; `neurofleet report {out}` does"
    for line in (*quick_lines(out), *found, report, following):
        print_line(console, f"  {line}")


def write_report(root: str | Path, print_line: Callable[[str], None] = lambda text: None) -> str:
    """Write ``report.html`` into the folder of a fit, or of another job that has ended.

    Returns
    -------
    str
        Where the report is.

    Raises
    ------
    UsageError, LearnerError
        When `root` is neither.
    """
    kind = kind_in(root)
    if kind != FIT:
        return findings_of(kind).rewrite_report(root)
    from neurofleet.jobs.reports.fit_report import write_fit_report  # needs BluePyOpt, which other kinds do without

    return write_fit_report(root, print_line)
