"""The page where a job is made, planned, run on this machine or sent to a cluster, and the same by REST."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, JSONResponse

from neurofleet.errors import UsageError
from neurofleet.jobs.drafts.new_command import DRAFTS
from neurofleet.jobs.serve.access import Role
from neurofleet.jobs.serve.app import Link, name_of_visitor, render, require, server_of
from neurofleet.jobs.serve.job_desk import MOST_CHARACTERS, Answer, JobDesk
from neurofleet.jobs.serve.job_form import FormField, begun, form_of, kind_of, kinds, typed
from neurofleet.jobs.serve.job_text import REMOVED, with_value
from neurofleet.jobs.serve.served_places import JOB, PROVENANCE, job_folder_in

NAVIGATION = Link("Run a job", "/job", Role.submit)
FILES_SHOWN = 500

router = APIRouter(tags=["jobs"], dependencies=[Depends(require(Role.submit))])

Text = Annotated[str, Field(max_length=2 * MOST_CHARACTERS)]
Place = Annotated[list[str | int], Field(min_length=1, max_length=50)]
Words = Annotated[str, Field(max_length=1000)]


class Change(BaseModel):
    """One change of a job: another value at `place` (empty to remove it), or a part added to the list there."""

    place: Place
    value: Text = ""
    add: bool = False


class JobText(BaseModel):
    """The text of a job file; relative paths start at the root. `change` is made before it is checked."""

    job: Text
    change: Change | None = None


class Draft(BaseModel):
    """A kind of job, as `neurofleet new` has it, and files below the root."""

    kind: Words
    files: Annotated[list[Words], Field(max_length=10_000)]


class Planned(BaseModel):
    """A job, and whether its quick version is meant."""

    job: Text
    quick: bool = False


class ToRun(Planned):
    """A job that is to be run, and the folder of its results below the root; by default the job's name."""

    out: Words = ""
    cpus: Annotated[int, Field(ge=1, le=100_000)] | None = None


class ARun(BaseModel):
    """A run on this machine, by its folder below the root."""

    run: Words


class AJob(BaseModel):
    """A job on the cluster, by its name or id."""

    id: Words


@router.get("/job", response_class=HTMLResponse, include_in_schema=False)
def job_page(request: Request, run: Annotated[str, Query(max_length=1000)] = "") -> HTMLResponse:
    """Show the form, empty or with the job of a run."""
    desk = server_of(request).jobs
    text = _job_of_run(request, run) if run else begun("fit")
    return render(
        request,
        "job.html.j2",
        kinds=kinds(),
        drafts=list(DRAFTS),
        out=run,
        cluster=desk.address,
        folder=desk.places.root,
        others=desk.places.others,
        cpus=len(os.sched_getaffinity(0)),
        **_context(desk, text),
    )


@router.post("/job/check", include_in_schema=False)
def check_page(request: Request, asked: JobText) -> JSONResponse:
    """Return what `/api/job/check` does, and the form as HTML."""
    found = _context(server_of(request).jobs, asked.job, asked.change)
    fields = found.pop("fields")
    shown = render(request, "_job_form.html.j2", fields=fields) if fields is not None else None
    return JSONResponse(found | {"form": shown.body.decode() if shown else None})  # type: ignore[union-attr]


@router.get("/job/files", response_class=HTMLResponse, include_in_schema=False)
def files(request: Request, folder: Annotated[str, Query(max_length=1000)] = "") -> HTMLResponse:
    """Show what is in a folder below the root, or in a listed one."""
    places = server_of(request).jobs.places
    here = places.path(folder)
    if not here.is_dir():
        raise UsageError(f"{folder}: expected a folder.")
    entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    usable = [entry for entry in entries if not entry.name.startswith(".") and places.holds(entry.path)]
    root = places.root.resolve()
    above = here.parent if here != root and places.holds(here.parent) else None

    def named(path: Path) -> str:
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

    return render(
        request,
        "_files.html.j2",
        here=named(here),
        above=None if above is None else named(above),
        folders=[(e.name, named(here / e.name), Path(e.path, JOB).is_file()) for e in usable if e.is_dir()],
        files=[(e.name, named(here / e.name)) for e in usable if e.is_file()][:FILES_SHOWN],
        left_out=max(0, sum(e.is_file() for e in usable) - FILES_SHOWN),
    )


@router.get("/job/running", response_class=HTMLResponse, include_in_schema=False)
def running_page(request: Request) -> HTMLResponse:
    """Show the runs of this machine that were started in the browser."""
    server = server_of(request)
    known = {row.run for row in server.catalogue.rows()}
    return render(request, "_running.html.j2", runs=server.jobs.runs(), known=known)


@router.post("/api/job/check")
def check(request: Request, asked: JobText) -> dict[str, Any]:
    """Return a job's text after a change, its kind and name, what is wrong with it, and whether it runs own code."""
    found = _context(server_of(request).jobs, asked.job, asked.change)
    found.pop("fields")
    return found


@router.post("/api/job/draft", status_code=202)
def draft(request: Request, asked: Draft) -> dict[str, Any]:
    """Ask for a job for files, as `neurofleet new` writes it."""
    return asdict(server_of(request).jobs.draft(name_of_visitor(request), asked.kind, asked.files))


@router.post("/api/job/plan", status_code=202)
def plan(request: Request, asked: Planned) -> dict[str, Any]:
    """Ask what a job will do and cost."""
    desk = server_of(request).jobs
    return asdict(desk.plan(name_of_visitor(request), desk.checked(asked.job, asked.quick), asked.quick))


@router.post("/api/job/run", status_code=202)
def run(request: Request, asked: ToRun) -> dict[str, Any]:
    """Run a job on this machine, or resume it where the folder of results holds it."""
    desk = server_of(request).jobs
    job = desk.checked(asked.job, asked.quick)
    return asdict(desk.run(job, desk.folder_of_results(job, asked.out), asked.quick, asked.cpus))


@router.post("/api/job/submit", status_code=202)
def submit(request: Request, asked: ToRun) -> dict[str, Any]:
    """Send a job and its files to the cluster."""
    desk = server_of(request).jobs
    job = desk.checked(asked.job, asked.quick)
    return asdict(desk.submit(name_of_visitor(request), job, desk.folder_of_results(job, asked.out), asked.quick))


@router.get("/api/job/answers/{id}")
def answer(request: Request, id: str) -> Answer:
    """Return what was asked: a draft, a plan, what came of a submission."""
    return server_of(request).jobs.answer(id, name_of_visitor(request))


@router.get("/api/job/running")
def running(request: Request) -> list[dict[str, Any]]:
    """Return the runs of this machine that were started by this interface."""
    return [asdict(each) for each in server_of(request).jobs.runs()]


@router.post("/api/job/cancel")
def cancel(request: Request, asked: ARun) -> dict[str, Any]:
    """Ask a run on this machine to end; running the same job again resumes it."""
    return asdict(server_of(request).jobs.cancel(asked.run))


@router.post("/api/job/submitted", status_code=202)
def submitted(request: Request) -> dict[str, Any]:
    """Ask which jobs the cluster knows: the answer is JSON."""
    return asdict(server_of(request).jobs.submitted(name_of_visitor(request)))


@router.post("/api/job/cancel-submitted", status_code=202)
def cancel_submitted(request: Request, asked: AJob) -> dict[str, Any]:
    """End a job of the cluster."""
    return asdict(server_of(request).jobs.cancel_submitted(name_of_visitor(request), asked.id))


def _context(desk: JobDesk, text: str, change: Change | None = None) -> dict[str, Any]:
    """Return a job's text after a change, and what is known of it; `fields` is None where its text cannot be shown."""
    found: dict[str, Any] = {"job": text, "fault": "", "kind": "", "name": "", "own_code": []}
    fields: list[FormField] | None = None
    try:
        content = desk.content(text)
        if change is not None:
            found["job"] = text = _changed(text, content, change)
            content = desk.content(text)
        found["kind"], fields = kind_of(content), form_of(content)
        job = desk.checked(text)
        found |= {"name": job.spec.name, "own_code": job.own_code}
    except UsageError as error:
        found["fault"] = str(error)
    return found | {"fields": fields}


def _changed(text: str, content: dict[str, Any], change: Change) -> str:
    if not change.add:
        is_part = isinstance(change.place[-1], int) and not change.value
        return with_value(text, change.place, REMOVED if is_part else typed(content, change.place, change.value))
    listed: Any = content
    for key in change.place:
        is_there = key in listed if isinstance(listed, dict) else isinstance(listed, list) and key in range(len(listed))
        listed = listed[key] if is_there else None
    parts = listed if isinstance(listed, list) else []
    added = dict(parts[-1]) if parts and isinstance(parts[-1], dict) else {}
    return with_value(text, [*change.place, len(parts)], added) if parts else with_value(text, change.place, [added])


def _job_of_run(request: Request, run: str) -> str:
    """Return the job file of a run whose relative paths start at the root."""
    server = server_of(request)
    found = server.catalogue.found(run)
    folder = Path(server.catalogue.folder(run))
    started = job_folder_in(server.catalogue.place.text(found.prefix + PROVENANCE))
    root = server.jobs.places.root
    if (folder / started).resolve() != root.resolve():
        raise UsageError(
            f"The paths in the job of {run} start at {started}, and here they start at {root}. Make a job for its "
            "files by a draft."
        )
    return server.catalogue.place.text(found.prefix + JOB) or ""
