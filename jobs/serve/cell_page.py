"""The page of a fitted cell, and its models as files."""

import io
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.csv
from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from neurofleet.cluster.store.run_store import POOLED
from neurofleet.cluster.store.schemas import MORPHOLOGY, TRACES
from neurofleet.errors import UsageError
from neurofleet.jobs.export import export_command
from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.results.cell_models import stored_of_cell
from neurofleet.jobs.results.run_summary import evaluations, generations, remarks, summary_of_cell
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.jobs.serve.access import Role
from neurofleet.jobs.serve.api import folder_of_cell
from neurofleet.jobs.serve.app import render, server_of, visitor_of
from neurofleet.jobs.serve.morphology_picture import morphology_picture
from neurofleet.jobs.serve.own_process import Limits, last_result
from neurofleet.jobs.serve.served_places import PROVENANCE, job_folder_in

EXPORT_LIMITS = Limits(seconds=300.0)
_IN_A_TERMINAL = "In a terminal: `neurofleet export RUN --cell CELL --to FORMAT`."
REASONS = 20

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


@router.get("/cell/{cell}/{run:path}")
def cell_page(request: Request, cell: str, run: str) -> HTMLResponse:
    """Show a cell."""
    folder = folder_of_cell(request, run, cell, "evaluations")
    tables = RunTables(folder, cell)
    summary = summary_of_cell(tables, cell, tables.store.read_events())
    hall = tables.store.read_hall_of_fame(cell, POOLED)
    sections = stored_of_cell(tables.store, MORPHOLOGY, cell)
    reasons = []
    if summary.stages:
        reasons = tables.rows(
            "select replace(stage, ?, ''), status, reason, count(*) n from evaluations "
            "where cell = ? and status <> 'ok' group by 1, 2, 3 order by n desc, 1, 2, 3 limit ?",
            [FINAL, cell, REASONS],
        )
    return render(
        request,
        "cell.html.j2",
        run=run,
        cell=cell,
        summary=summary,
        stages=[(stage, generations(stage), evaluations(stage)) for stage in summary.stages],
        lines=remarks(summary),
        models=0 if hall is None else len(hall),
        has_traces=stored_of_cell(tables.store, TRACES, cell) is not None,
        picture=None if sections is None or not len(sections) else morphology_picture(sections.to_pylist()),
        mechanisms={} if hall is None else _mechanisms(hall.parameter_names),
        reasons=reasons,
    )


@router.get("/export/{format}/{cell}/{run:path}", response_model=None)
def export(
    request: Request,
    format: Literal["allen", "hoc", "sonata", "csv"],
    cell: str,
    run: str,
    rank: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Response:
    """Return a model as a zip file, or the hall of fame as CSV."""
    folder = folder_of_cell(request, run, cell, POOLED)
    tables = RunTables(folder, cell)
    name = f"{cell}-{format}" if format == "csv" else f"{cell}-{rank}-{format}"
    if format == "csv":
        found = tables.store.hall_of_fame_table(cell)
        if found is None:
            raise UsageError(f"Cell {cell} of {run} has no hall of fame yet: it is stored when the cell ends.")
        sink = io.BytesIO()
        pa.csv.write_csv(found, sink)
        return _file(sink.getvalue(), f"{name}.csv", "text/csv")
    _refuse_inputs(request, folder, run, cell)
    with tempfile.TemporaryDirectory() as scratch:
        last_result("The model", _IN_A_TERMINAL, _exported, folder, cell, format, rank, scratch, limits=EXPORT_LIMITS)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((Path(scratch) / "model").rglob("*")):
                if path.is_file():
                    archive.write(path, Path(name) / path.relative_to(Path(scratch) / "model"))
    return _file(content.getvalue(), f"{name}.zip", "application/zip")


def _exported(folder: str, cell: str, format: str, rank: int, scratch: str) -> Iterator[bool]:
    """Write the model, in a process of its own: NEURON builds the cell."""
    export_command(Path(folder), Path(scratch) / "model", format, cell, rank)
    yield True


def _refuse_inputs(request: Request, folder: str, run: str, cell: str) -> None:
    """Raise where the export would read what is not served, or run code of a user's own."""
    catalogue = server_of(request).catalogue
    found = catalogue.found(run)
    spec = parse_job(catalogue.place.text(found.prefix + "job.yaml") or "", f"{run}/job.yaml", "unnamed")
    visitor = visitor_of(request)
    places = server_of(request).places
    if places is None:
        raise UsageError(f"The model is written from the job's inputs: they are not served here. {_IN_A_TERMINAL}")
    job_folder = Path(folder, job_folder_in(catalogue.place.text(found.prefix + PROVENANCE)))
    if places.own_code(spec, job_folder) and visitor is not None:
        visitor.require(Role.submit)  # it is compiled, and run
    chosen = [each for each in spec.cells or () if each.id == cell]
    places.refuse_inputs(spec.model_copy(update={"cells": chosen}), job_folder)


def _mechanisms(names: Sequence[str]) -> dict[str, list[str]]:
    """Return section -> mechanisms whose conductances are parameters of the model."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parameter, _, section = name.rpartition(".")
        if parameter.startswith(("gbar_", "g_", "pbar_")):
            found[section].append(parameter.partition("_")[2])
    return dict(found)


def _file(content: bytes, name: str, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
