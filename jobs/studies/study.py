"""What all studies do around their measurements: read, run or resume on the pool, report, and plan."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.job_file import JobSpec, named
from neurofleet.jobs.reports.tables import ReportTable, print_line
from neurofleet.jobs.run_folder import JobRun, refuse_missing, run_in_folder, versions
from neurofleet.jobs.studies.findings import FINDINGS, Findings
from neurofleet.jobs.studies.measurements import Measurement
from neurofleet.jobs.terminal import terminal


class StudySpec(JobSpec):
    """The job file of a study."""

    runner: ClassVar[str] = "neurofleet.jobs.studies.study:run_study"
    planner: ClassVar[str] = "neurofleet.jobs.studies.study:print_study_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("neuron", "bluepyopt", "efel")
    study: ClassVar[str]
    """Its `Study`, ``module:Class``."""


@dataclass(frozen=True)
class Plan:
    """What a study will do and cost: tables, and lines below them."""

    tables: Sequence[ReportTable] = ()
    lines: Sequence[str] = ()


Spec = TypeVar("Spec", bound=StudySpec)
Inputs = TypeVar("Inputs")


class Study(ABC, Generic[Spec, Inputs]):
    """A study of models: a kind defines what it reads and measures, and its findings.

    To add a kind, write its `StudySpec`, its `Study` and its `Findings`, and name them in
    `neurofleet.jobs.job_file.KINDS` and `neurofleet.jobs.job_kinds.STUDIES`.

    Parameters
    ----------
    spec : StudySpec
    folder : Path
        Where the job's relative paths start.
    cpus : int, optional
        Processors that it may use on this machine; by default all.
    """

    doing: ClassVar[str] = "simulating"
    """What the progress display calls the measurements."""

    def __init__(self, spec: Spec, folder: Path, cpus: int | None = None) -> None:
        self.spec, self.folder, self.cpus = spec, folder, cpus

    def check_paths(self) -> None:
        """Raise `UsageError` where a path of the job does not exist."""
        refuse_missing(self.spec, self.folder)

    @abstractmethod
    def read(self) -> tuple[Inputs, list[str]]:
        """Read and check everything that the job names; write nothing.

        Returns
        -------
        inputs : object
        notes : list of str
            What is left out, and why.

        Raises
        ------
        UsageError, InputError
            Something cannot be used.
        """

    def measurements(self, inputs: Inputs) -> Iterable[Measurement]:
        """Return what is measured on the pool; nothing by default."""
        return ()

    @abstractmethod
    def assemble(self, inputs: Inputs, store: RunStore) -> tuple[Mapping[str, pa.Table], Findings]:
        """Make tables and findings of the stored measurements.

        Returns
        -------
        tables : mapping of str to Table
            By file name in the run folder. One without columns, made of no rows, is not written.
        findings : Findings
            Without name, kind and versions; of the notes, those that `read` did not return.
        """

    @abstractmethod
    def plan(self, inputs: Inputs) -> Plan:
        """Return what the study will do and cost; a few models may be simulated to see."""

    def read_checked(self) -> tuple[Inputs, list[str]]:
        """Read the inputs of a job whose paths exist; raises as `check_paths` and `read` do."""
        self.check_paths()
        return self.read()

    def run(self, out: str, address: str | None = None) -> None:
        """Do the study with everything stored in folder `out`, or resume it there; raises as `run_in_folder`."""
        store = RunStore(out)
        run_in_folder(
            self.spec,
            self.folder,
            out,
            self.read_checked,
            lambda run: self._complete(run, address),
            result=lambda inputs: self.finished(store),
        )

    def finished(self, store: RunStore) -> bool:
        """Return whether nothing is left to do in a run folder."""
        return store.read_text(FINDINGS) is not None

    def measure(self, run: JobRun, address: str | None) -> None:
        """Measure and store on the pool what is not stored yet; raises as `run_in_folder` does."""
        blocks = [block for measurement in self.measurements(run.inputs) for block in measurement.blocks()]
        if blocks:
            from neurofleet.jobs.studies.blocks import measure_on_pool  # starts Ray

            measure_on_pool(run, blocks, self.doing, address, self.cpus)

    def _complete(self, run: JobRun, address: str | None) -> None:
        self.measure(run, address)
        tables, findings = self.assemble(run.inputs, run.store)
        for name, table in tables.items():
            if table.num_columns:
                run.store.write_table(name, table)
        notes = [*run.notes, *findings.notes]
        spec = run.spec
        findings = replace(findings, name=spec.name, kind=spec.kind, quick=spec.quick, notes=notes, versions=versions())
        findings.write_report(run.store)
        findings.write(run.store)
        findings.print(run.console)


def study_of(spec: Any, folder: Path, cpus: int | None = None) -> Study:
    """Return the study that a job describes."""
    study: Study = named(spec.study)(spec, folder, cpus)
    return study


def run_study(spec: StudySpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Do a study with everything stored in folder `out`, or resume it there; raises as `run_in_folder` does."""
    study_of(spec, folder, cpus).run(out, address)


def print_study_plan(spec: StudySpec, folder: Path) -> None:
    """Print what a study will do and cost.

    Raises
    ------
    UsageError, InputError
        The inputs cannot be used.
    """
    study = study_of(spec, folder)
    doing = terminal(errors=True)
    print_line(doing, "reading the inputs …")
    inputs, notes = study.read_checked()
    print_line(doing, "measuring a few models …")
    plan = study.plan(inputs)
    console = terminal()
    for table in plan.tables:
        table.print(console)
    for line in (*notes, *plan.lines):
        print_line(console, line)


def rows_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table; one without columns where there are none."""
    return pa.Table.from_pylist([dict(row) for row in rows])
