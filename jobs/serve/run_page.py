"""The pages of one run: its cells or findings, job, events, log, report, and how it differs from another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import NeurofleetError, UsageError
from neurofleet.input_paths import shown
from neurofleet.jobs.fit.campaign_state import STATUS, CellState, read_state
from neurofleet.jobs.job_file import differences
from neurofleet.jobs.job_kinds import REPORT, STUDIES, findings_of, kind_in
from neurofleet.jobs.learners.learner_folder import learner_job_state
from neurofleet.jobs.results.runs_found import EVENTS, FIT, MODEL, PROVENANCE, FoundRun
from neurofleet.jobs.run_log import LEVELS, read_log
from neurofleet.jobs.serve.access import Role
from neurofleet.jobs.serve.app import render, server_of, visitor_of
from neurofleet.jobs.serve.served_places import job_folder_in, provenance_in
from neurofleet.jobs.status import engines_in_words, resources_in_words
from neurofleet.jobs.studies.findings import Findings

CELLS_ON_PAGE = 50
EVENTS_SHOWN = 200
RUNS_OFFERED = 200

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

Text = Annotated[str, Query(max_length=200)]
PageNumber = Annotated[int, Query(ge=1, le=100_000)]


@router.get("/runs/{run:path}")
def run_page(request: Request, run: str, q: Text = "", page: PageNumber = 1) -> HTMLResponse:
    """Show a run; asked by htmx, only what changes while it runs."""
    server = server_of(request)
    folder = server.catalogue.folder(run)
    row, found = server.catalogue.row(run), server.catalogue.found(run)
    part = "hx-request" in request.headers
    context: dict[str, Any] = {"run": run, "row": row, "q": q, "page": page, "lines": [], "tables": [], "cells": None}
    if row.fault:
        context["lines"] = [row.fault]
    elif found.family == FIT:
        context |= _of_fit(folder, q, page)
    else:
        context |= _of_other(folder, found)
    if part:
        return render(request, "_run.html.j2", **context)
    files = found.files
    context |= {
        "folder": shown(folder),
        "job": server.catalogue.place.text(found.prefix + "job.yaml") or "",
        "provenance": provenance_in(server.catalogue.place.text(found.prefix + PROVENANCE)),
        "events": _events(folder) if EVENTS in files else [],
        "has_log": server.catalogue.place.is_local and any(name.startswith("log") for name in files),
        "has_report": REPORT in files,
        "levels": LEVELS[1:4],
        "is_job_here": _is_job_here(request, folder, found),
        "others": _same_kind(server.catalogue.rows(), run, row.kind),
    }
    return render(request, "run.html.j2", **context)


@router.get("/log/{run:path}")
def log(
    request: Request, run: str, q: Text = "", level: Literal["debug", "info", "warning", "error"] = "info"
) -> HTMLResponse:
    """Show the latest records of the log that fit."""
    folder = server_of(request).catalogue.folder(run)
    if not server_of(request).catalogue.place.is_local:
        raise UsageError("A run in an object store has no log there: `neurofleet logs` shows that of its Ray job.")
    return render(request, "_log.html.j2", log=read_log(folder, level, q.split()))


@router.get("/difference/{run:path}")
def difference(request: Request, run: str, other: Annotated[str, Query(max_length=1000)]) -> HTMLResponse:
    """Show in what two jobs differ, and how good their cells are."""
    catalogue = server_of(request).catalogue
    one, two = catalogue.found(other), catalogue.found(run)
    if one.kind != two.kind:
        raise UsageError(f"{other} is of kind {one.kind}, {run} of kind {two.kind}: choose a run of the same kind.")
    provenance = [provenance_in(catalogue.place.text(each.prefix + PROVENANCE)) for each in (one, two)]
    lines = differences(one.job, two.job)
    for key in ("versions", "inputs"):
        before, now = ({key: each.get(key) or {}} for each in provenance)
        lines += differences(before, now)
    totals = [_totals(catalogue.folder(each.run)) if each.family == FIT else {} for each in (one, two)]
    cells = [(cell, totals[0].get(cell), totals[1].get(cell)) for cell in dict.fromkeys([*totals[1], *totals[0]])]
    return render(
        request,
        "_difference.html.j2",
        other=other,
        run=run,
        lines=lines,
        cells=cells[:CELLS_ON_PAGE],
        number=len(cells),
    )


@router.get("/report/{run:path}")
def report(request: Request, run: str) -> Response:
    """Return the run's own report, shut off from these pages: it is a file, whoever wrote it."""
    catalogue = server_of(request).catalogue
    catalogue.folder(run)
    text = catalogue.place.text(catalogue.found(run).prefix + REPORT)
    if text is None:
        raise UsageError(f"{run} has no report yet; `neurofleet report` writes it.")
    policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})


def _is_job_here(request: Request, folder: str, found: FoundRun) -> bool:
    """Whether the visitor may run the job of a run again, and its relative paths start at the root."""
    server, visitor = server_of(request), visitor_of(request)
    if server.places is None or visitor is None or visitor.role < Role.submit:
        return False
    started = job_folder_in(server.catalogue.place.text(found.prefix + PROVENANCE))
    return Path(folder, started).resolve() == server.places.root.resolve()


def _of_fit(folder: str, q: str, page: int) -> dict[str, Any]:
    state = read_state(RunStore(folder))
    if state is None:
        return {"lines": [f"Nothing has been evaluated yet: there is no {STATUS}."]}
    words = [word.casefold() for word in q.split()]
    cells = [
        cell for cell in state.cells if all(w in f"{cell.cell} {cell.state} {cell.reason}".casefold() for w in words)
    ]
    pages = max(1, -(-len(cells) // CELLS_ON_PAGE))
    page = min(page, pages)
    return {
        "lines": [resources_in_words(state), *engines_in_words(state)],
        "cells": [(cell, _stage_texts(cell)) for cell in cells[(page - 1) * CELLS_ON_PAGE : page * CELLS_ON_PAGE]],
        "number": len(cells),
        "total": len(state.cells),
        "page": page,
        "pages": pages,
    }


def _stage_texts(cell: CellState) -> list[tuple[str, list[str]]]:
    """Return stage -> what its seeds have reached."""
    stages: dict[str, list[str]] = {}
    for stage in cell.stages:
        if stage.best is None:
            text = f"seed {stage.seed}: {stage.phase}"
        else:
            done = "done" if stage.phase == "done" else f"generation {stage.generation}, {stage.phase}"
            text = f"seed {stage.seed}: best {stage.best:.4g}, {done}"
        stages.setdefault(stage.stage, []).append(text)
    return list(stages.items())


def _of_other(folder: str, found: FoundRun) -> dict[str, Any]:
    if "://" in folder:
        return {"lines": [f"A run of kind {found.kind} is shown from a folder of this machine only."]}
    try:
        if not found.finished:
            lines = learner_job_state(folder).lines() if found.family == MODEL else []
            return {"lines": lines}
        kind = kind_in(folder)
        findings = findings_of(kind)
        tables = []
        if kind in STUDIES:
            assert issubclass(findings, Findings)
            tables = list(findings.read(folder).tables())
        return {"lines": findings.verdict_of(folder)[:-1], "tables": tables}
    except NeurofleetError as error:
        return {"lines": [str(error)]}


def _events(folder: str) -> Sequence[dict[str, Any]]:
    try:
        return RunStore(folder).read_events()[-EVENTS_SHOWN:][::-1]
    except ValueError:
        return []


def _totals(folder: str) -> dict[str, float | None]:
    state = read_state(RunStore(folder))
    return {} if state is None else {cell.cell: cell.total for cell in state.cells}


def _same_kind(rows: Sequence[Any], run: str, kind: str) -> list[str]:
    return [row.run for row in rows if row.kind == kind and row.run != run][:RUNS_OFFERED]
