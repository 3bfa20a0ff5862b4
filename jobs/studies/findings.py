"""The findings of a study: typed data that are stored as JSON, printed, and shown in a report."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.faults import place_in_words, shown
from neurofleet.jobs.quick import is_quick, quick_lines
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.tables import ReportTable, print_line
from neurofleet.jobs.terminal import print_json, terminal

FINDINGS = "findings.json"
"""Written last of all; a folder with it is finished."""

PLANNED = "planned"
"""The event that records how many blocks of measurements a study stores, and where."""

REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Findings(ABC):
    """What a study has found; a kind of study adds its fields and how they are shown.

    Fields are plain values or dataclasses of them, so that they can be written as JSON and read again. A key that
    the class does not know is ignored; one that older versions did not write needs a default.

    Attributes
    ----------
    name, kind : str
        Of the job.
    quick : bool
        Whether the job was run with ``--quick``.
    notes : list of str
        What was left out, and why.
    versions : dict of str to str
        Package -> version.
    """

    name: str = ""
    kind: str = ""
    quick: bool = False
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def tables(self) -> Iterable[ReportTable]:
        """Return the tables that are printed."""

    def remarks(self) -> list[str]:
        """Return lines that are printed below the tables."""
        return []

    @abstractmethod
    def verdict(self) -> list[str]:
        """Return a few lines: how good, how sure, what failed."""

    @classmethod
    def verdict_of(cls, out: str | Path) -> list[str]:
        """Return the verdict on the study in a run folder, and what to type next."""
        return [*cls.read(out).verdict(), f"next: neurofleet results {out} --views"]

    @abstractmethod
    def sections(self, store: RunStore) -> list[str]:
        """Return the report's parts, as HTML, from the findings and the tables in the run folder."""

    @classmethod
    def read(cls, out: str | Path) -> Self:
        """Read the findings in a run folder.

        Raises
        ------
        UsageError
            The study has not ended, or its findings are damaged.
        """
        try:
            return TypeAdapter(cls).validate_python(stored_findings(out))
        except ValidationError as error:
            fault = error.errors()[0]
            place = place_in_words(fault["loc"], stored_findings(out))
            wrong = "is missing" if fault["type"] == "missing" else f"cannot be {shown(fault['input'])}"
            raise UsageError(
                f"{out}/{FINDINGS}: {place} {wrong}. Expected findings that neurofleet has written; "
                f"delete {FINDINGS} and run the job again to make them anew from what is stored."
            ) from error

    def write(self, store: RunStore) -> None:
        """Write them as JSON.

        Raises
        ------
        ValueError
            For a number that JSON does not have: write None where there is no value.
        """
        plain = TypeAdapter(type(self)).dump_python(self, mode="json", by_alias=True)
        last = {key: plain.pop(key) for key in ("notes", "versions")}
        store.write_text(FINDINGS, json.dumps(plain | last, indent=1, allow_nan=False))

    def print(self, console: Console) -> None:
        """Print tables and remarks."""
        for table in self.tables():
            table.print(console)
        for line in self.remarks():
            print_line(console, line)

    def write_report(self, store: RunStore) -> str:
        """Write ``report.html``, with the job's name on top and its origin below, and return where it is."""
        parts = [html.heading(1, self.name), *html.alarms(quick_lines(store.root))]
        parts += [*map(html.paragraph, self.verdict()), *self.sections(store)]
        if self.notes:
            parts += [html.heading(2, "Notes"), *(html.paragraph(note) for note in self.notes)]
        tables = ", ".join(name for name in store.names() if name.endswith(".parquet") and "/" not in name)
        parts += [
            html.heading(2, "Where this comes from"),
            html.table(("", ""), [("run folder", store.root), ("tables", tables)]),
            html.versions(self.versions),
            html.details("The job", html.code(store.read_text("job.yaml") or "")),
        ]
        store.write_text(REPORT, html.page(f"{self.name}: report", parts))
        return f"{store.root.rstrip('/')}/{REPORT}"

    @classmethod
    def print_results(cls, out: str, as_json: bool) -> None:
        """Print the findings in a run folder, as JSON just as they are stored."""
        if as_json:
            print_json(stored_findings(out))
        else:
            cls.read(out).print(terminal())

    @classmethod
    def print_status(cls, out: str, as_json: bool, console: Console) -> None:
        """Print how far a study is, from its folder alone; its findings once it has ended."""
        state = study_state(RunStore(out))
        if as_json:
            print_json(asdict(state) | {"quick": is_quick(out)})
        elif state.finished:
            cls.read(out).print(console)
        else:
            at_work = (
                f"running: {state.running}" if state.running else "not running; the same command as before resumes it"
            )
            done = "nothing is stored yet"
            if state.blocks is not None:
                done = f"{state.stored} of {state.blocks} blocks are stored"
            print_line(console, f"{out}: not finished; {at_work}. {done}.")

    @classmethod
    def rewrite_report(cls, out: str | Path) -> str:
        """Write ``report.html`` of a finished study again, and return where it is."""
        return cls.read(out).write_report(RunStore(out))


@dataclass(frozen=True)
class StudyState:
    """How far a study is.

    Attributes
    ----------
    finished : bool
    running : str
        Which process runs it, empty where none does.
    blocks : int or None
        Of measurements, in all; None where none are planned yet.
    stored : int
    """

    finished: bool
    running: str
    blocks: int | None
    stored: int


def study_state(store: RunStore, running: str | None = None) -> StudyState:
    """Return how far a study is, read from its folder alone; `running` where it is known already."""
    planned = [event for event in store.read_events() if event["event"] == PLANNED]
    return StudyState(
        finished=store.read_text(FINDINGS) is not None,
        running=store.holder() if running is None else running,
        blocks=planned[-1]["blocks"] if planned else None,
        stored=len(store.names(planned[-1]["folder"])) if planned else 0,
    )


def stored_findings(out: str | Path) -> dict[str, Any]:
    """Return the findings in a run folder as they are stored.

    Raises
    ------
    UsageError
        The study has not ended.
    """
    text = RunStore(out).read_text(FINDINGS)
    if text is None:
        raise UsageError(
            f"{out}: expected a job that has ended, found one that has not. `neurofleet status {out}` shows its"
            " progress; the same `neurofleet run` as before resumes it."
        )
    return dict(json.loads(text))


def stored_tables(store: RunStore, folder: str) -> Iterator[pa.Table]:
    """Yield the Parquet tables below `folder` of a run folder, in the order of their names."""
    for name in store.names(folder):
        table = store.table(name)
        if table is not None:
            yield table


def stored_rows(store: RunStore, folder: str) -> list[dict[str, Any]]:
    """Return the rows of all Parquet tables below `folder` of a run folder."""
    return [row for table in stored_tables(store, folder) for row in table.to_pylist()]


def table_rows(store: RunStore, name: str) -> list[dict[str, Any]]:
    """Return the rows of a Parquet table in a run folder; none where there is no such table."""
    table = store.table(name)
    return [] if table is None else table.to_pylist()
