"""The runs at and below a folder: which they are, of what kind, and whether they have come to their end."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import yaml

from neurofleet.cluster.store.folders import REQUESTS_AT_ONCE
from neurofleet.cluster.store.parts import Part, files_of_parts
from neurofleet.errors import UsageError
from neurofleet.jobs.learners import LEARNER_JOB_KINDS
from neurofleet.jobs.learners.learner_folder import DESCRIPTION, EVALUATION, JOB
from neurofleet.jobs.results.folder_listing import FolderReader
from neurofleet.jobs.results.table_scan import ROOT
from neurofleet.jobs.studies.findings import FINDINGS

PROVENANCE, EVENTS = "provenance.json", "events.jsonl"
ENDING = ".parquet"
FIT, MODEL = "fit", "model"
OWN_FOLDERS = {
    FIT: ("evaluations", "hall_of_fame", "pooled", "models", "traces", "features", "rates", "morphology"),
    MODEL: ("predictions", "embeddings", "signals", "trials", "sweep", "trainings", "pieces", "pretrained"),
}
"""Folders of a fit and of a learner's job in which no other run is looked for."""


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@dataclass
class FoundRun:
    """A run, or the folder of a model that was trained from Python.

    Attributes
    ----------
    place : FolderReader
    folder : str
        Below the root; empty for the root itself.
    folders, files : list of str
        What is in it, without what is deeper.
    partitioned : list of str
        Those of its folders with folders NAME=VALUE in them.
    """

    place: FolderReader
    folder: str
    folders: list[str]
    files: list[str]
    partitioned: list[str] = field(default_factory=list)

    @property
    def run(self) -> str:
        """What column ``run`` says."""
        return self.folder or ROOT

    @property
    def prefix(self) -> str:
        """What the names of its files begin with, below the root."""
        return f"{self.folder}/" if self.folder else ""

    @cached_property
    def job(self) -> dict[str, Any]:
        """The job as the folder keeps it; nothing where there is only a model."""
        text = self.place.text(self.prefix + JOB) if JOB in self.files else None
        if text is None:
            return {}
        try:
            job = _parsed(text)
        except yaml.YAMLError as error:
            name = self.place.full_name(self.prefix + JOB)
            raise UsageError(f"{name}: not readable as YAML ({error}). Put back a good copy.") from error
        return job if isinstance(job, dict) else {}

    @property
    def kind(self) -> str:
        """The kind of its job; ``model`` for a folder with a model alone."""
        return str(self.job.get("kind", FIT)) if JOB in self.files else MODEL

    @property
    def family(self) -> str:
        """``fit``, ``model`` for all jobs of learners, or its own kind."""
        return MODEL if self.kind in LEARNER_JOB_KINDS else self.kind

    @property
    def name(self) -> str | None:
        """The job's name."""
        return self.job.get("name")

    @property
    def quick(self) -> bool:
        """Whether it was run with ``--quick``."""
        return self.job.get("quick") is True

    @cached_property
    def learner(self) -> str | None:
        """Which learner it is of; None where it is of none."""
        if self.family != MODEL or "learner" in self.job:
            return self.job.get("learner")
        return self.description().get("learner")

    @cached_property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        if self.family == MODEL:
            return EVALUATION in self.files or DESCRIPTION in self.files
        if self.family != FIT:
            return FINDINGS in self.files
        ended = [Part.in_name(name) for name in files_of_parts(EVENTS, self.files) if self._has_ended(name)]
        return any(sum(part.of == drivers for part in ended) == drivers for drivers in {part.of for part in ended})

    def _has_ended(self, events: str) -> bool:
        lines = (self.place.text(self.prefix + events) or "").split("\n")[:-1]
        ends = [json.loads(line) for line in lines if '"finished"' in line]
        return any(e["event"] == "finished" and not e.get("failed") and not e.get("stopped") for e in ends)

    def description(self) -> dict[str, Any]:
        """Return what stands beside the tensors of its model; nothing without a model.

        Raises
        ------
        UsageError
            It cannot be read.
        """
        text = self.place.text(self.prefix + DESCRIPTION) if DESCRIPTION in self.files else None
        try:
            return {} if text is None else dict(json.loads(text))
        except ValueError as error:
            name = self.place.full_name(self.prefix + DESCRIPTION)
            raise UsageError(f"{name}: not readable as JSON ({error}). Put back a good copy.") from error


def _own_folders(run: FoundRun) -> tuple[str, ...]:
    """Return where a run keeps its own files; of one whose job cannot be read, wherever any run does."""
    try:
        return OWN_FOLDERS.get(run.family, ())
    except UsageError:  # said by whoever reads the run: the others are found all the same
        return tuple(name for names in OWN_FOLDERS.values() for name in names)


@dataclass(frozen=True)
class FoundRuns:
    """What is below a folder.

    Attributes
    ----------
    runs : list of FoundRun
        By their folders.
    tables : list of (FoundRun or None, str)
        Parquet files, each with the run in whose folder it is, if it is in one; names are below that, else
        below the root. Without those in folders of runs.
    """

    runs: list[FoundRun]
    tables: list[tuple[FoundRun | None, str]]


def find_runs(place: FolderReader) -> FoundRuns:
    """Look for runs at and below a folder; only names of files are read.

    Hidden folders are passed over. So are those where runs keep their own files.

    Raises
    ------
    ClusterError
        A folder cannot be listed.
    """
    runs: list[FoundRun] = []
    tables: list[tuple[FoundRun | None, str]] = []
    level: list[tuple[str, FoundRun | None]] = [("", None)]
    seen = {place.identity("")}
    root_files: list[str] = []
    while level:
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as requests:
            listed = list(requests.map(place.entries, [folder for folder, _ in level]))
        deeper: list[tuple[str, FoundRun | None]] = []
        for (folder, above), (folders, files) in zip(level, listed, strict=True):
            run = None
            if DESCRIPTION in files or (JOB in files and PROVENANCE in files):
                run = FoundRun(place, folder, folders, files)
                runs.append(run)
            elif above is not None and any("=" in name for name in folders):
                above.partitioned.append(folder.rpartition("/")[2])
            prefix = f"{folder}/" if folder else ""
            names = [name for name in files if name.endswith(ENDING) and not name.startswith(".")]
            tables += [(run, name if run else prefix + name) for name in names]
            if not folder:
                root_files = files
            own_folders = _own_folders(run) if run else ()
            for name in folders:
                inner = prefix + name
                skipped = name in own_folders or "=" in name or name.startswith(".")
                if not skipped and place.identity(inner) not in seen:
                    seen.add(place.identity(inner))
                    deeper.append((inner, run))
        level = deeper
    if not runs and JOB in root_files:  # a job that has not recorded yet what it is made from
        runs.append(FoundRun(place, "", [], root_files))
    return FoundRuns(sorted(runs, key=lambda run: run.folder), tables)
