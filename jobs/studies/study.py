"""What all studies have in common: the findings in their folder, how far they are, and the page of their report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import named
from neurofleet.jobs.job_kinds import results_module
from neurofleet.jobs.reports import html

FINDINGS = "findings.json"
"""Written last of all; a folder with it is finished."""


def write_findings(out: str | Path, found: dict[str, Any]) -> None:
    """Write what a job has found, as plain JSON with at least name, kind, notes and versions.

    Raises
    ------
    ValueError
        For a number that JSON does not have: write None where there is no value.
    """
    RunStore(out).write_text(FINDINGS, json.dumps(found, indent=1, allow_nan=False))


def read_findings(out: str | Path) -> dict[str, Any]:
    """Return what a job has found.

    Raises
    ------
    UsageError
        When it has not ended.
    """
    text = RunStore(out).read_text(FINDINGS)
    if text is None:
        raise UsageError(
            f"{out}: expected a job that has ended, found one that has not. `neurofleet status {out}` says"
            " how far it is; the same `neurofleet run` as before goes on with it."
        )
    return dict(json.loads(text))


PLANNED = "planned"
"""The event that tells how many blocks of measurements a job stores, and where."""


def print_population_status(out: str, kind: str, as_json: bool, console: "Console") -> None:
    """Print how far the job in `out` is; what it found once it has ended."""
    store = RunStore(out)
    finished = store.read_text(FINDINGS) is not None
    planned = [event for event in store.read_events() if event["event"] == PLANNED]
    blocks = planned[-1]["blocks"] if planned else None
    stored = len(store.names(planned[-1]["folder"])) if planned else 0
    holder = store.holder()
    if as_json:
        told = {"finished": finished, "running": holder, "blocks": blocks, "stored": stored}
        print(json.dumps(told))
        return
    if finished:
        named(f"{results_module(kind)}:print_results")(out, False)
        return
    rest = "nobody is at work on it; the same command as before goes on with it"
    done = f"{stored} of {blocks} blocks are stored" if planned else "nothing is stored yet"
    console.print(
        f"{out}: not finished; {f'running: {holder}' if holder else rest}. {done}.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


NAME = "report.html"


def write_study_page(store: "RunStore", found: Mapping[str, Any], body: Sequence[str]) -> str:
    """Write ``report.html`` with a job's name on top and its origin below, and return where it is."""
    parts = [html.heading(1, found["name"]), *body]
    if found["notes"]:
        parts += [html.heading(2, "Notes"), *(html.paragraph(note) for note in found["notes"])]
    parts += [
        html.heading(2, "Where this comes from"),
        html.table(("", ""), [("run folder", store.root), *found["versions"].items()]),
        html.details("The job", html.code(store.read_text("job.yaml") or "")),
    ]
    store.write_text(NAME, html.page(f"{found['name']}: report", parts))
    return f"{store.root.rstrip('/')}/{NAME}"
