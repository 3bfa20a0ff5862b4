"""REST: runs, their tables, and what pictures are made of, as JSON or Arrow."""

import math
from dataclasses import asdict
from typing import Annotated, Any, Literal

import pyarrow as pa
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import FEATURES, MORPHOLOGY, RATES, TRACES
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.results.cell_models import cell_models, stored_of_cell
from neurofleet.jobs.results.results_command import opened
from neurofleet.jobs.results.run_summary import summary_of_cell
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.jobs.results.runs_found import FIT
from neurofleet.jobs.results.search_curves import search_curves
from neurofleet.jobs.serve.access import Role
from neurofleet.jobs.serve.app import require, server_of
from neurofleet.jobs.serve.catalogue import NoSuchRun, RunRow

STORED = (TRACES, FEATURES, RATES, MORPHOLOGY)
MOST_ROWS = 100_000
ARROW = "application/vnd.apache.arrow.stream"

router = APIRouter(prefix="/api", tags=["runs"])
Format = Literal["json", "arrow"]


class Sql(BaseModel):
    """One SELECT over the tables of a run, in DuckDB's SQL."""

    query: Annotated[str, Query(max_length=20_000)]


@router.get("/runs")
def runs(request: Request, q: str = "", kind: str = "", state: str = "") -> list[dict[str, Any]]:
    """Return the runs below the root that have all words of `q`, this kind and this state."""
    rows = server_of(request).catalogue.rows()
    words = q.split()
    return [
        _plain(row)
        for row in rows
        if kind in ("", row.kind) and state in ("", row.progress.state) and row.matches(words)
    ]


@router.get("/run/{run:path}")
def run(request: Request, run: str) -> dict[str, Any]:
    """Return how far a run is, its job, and the sizes of its tables."""
    catalogue = server_of(request).catalogue
    folder = catalogue.folder(run)
    tables = {view.view: view.rows for view in opened(folder).views()}
    return _plain(catalogue.row(run)) | {"job": catalogue.found(run).job, "tables": tables}


@router.get("/table/{name}/{run:path}", response_model=None)
def table(
    request: Request,
    name: str,
    run: str,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 10_000,
    offset: Annotated[int, Query(ge=0)] = 0,
    format: Format = "json",
) -> Response:
    """Return rows of one of a run's tables."""
    tables = opened(server_of(request).catalogue.folder(run))
    names = [view.view for view in tables.views()]
    if name not in names:
        raise UsageError(f"{run}: no table {name!r}{did_you_mean(name, names)}. There are: {', '.join(names)}.")
    return _answer(tables.table(f'select * from "{name}" limit {limit} offset {offset}'), format)


@router.post("/sql/{run:path}", response_model=None, dependencies=[Depends(require(Role.predict))])
def sql(request: Request, run: str, body: Sql, format: Format = "json") -> Response:
    """Return the result of one SELECT over a run's tables."""
    return _answer(opened(server_of(request).catalogue.folder(run)).table(body.query), format)


@router.get("/stored/{kind}/{cell}/{run:path}", response_model=None)
def stored(
    request: Request,
    kind: Literal["traces", "features", "rates", "morphology"],
    cell: str,
    run: str,
    rank: Annotated[list[int] | None, Query()] = None,
    format: Format = "json",
) -> Response:
    """Return what was stored of a cell when it ended; of traces, the recorded ones and those of the models named."""
    store = RunStore(folder_of_cell(request, run, cell, kind))
    found = stored_of_cell(store, kind, cell)
    if found is None:
        raise NoSuchRun(
            f"There is no table {kind} of cell {cell} in {run}: it is stored when a cell ends, by neurofleet 0.2 and "
            "newer."
        )
    if rank is not None and "rank" in found.column_names:
        keep = [each is None or each in rank for each in found["rank"].to_pylist()]
        found = found.filter(pa.array(keep))
    return _answer(found, format)


@router.get("/models/{cell}/{run:path}")
def models(request: Request, cell: str, run: str) -> dict[str, Any]:
    """Return a cell's hall of fame: parameters, their bounds and places in them, scores and e-features."""
    store = RunStore(folder_of_cell(request, run, cell, "pooled"))
    found = cell_models(store, cell)
    if found is None:
        raise NoSuchRun(f"There is no hall of fame of cell {cell} in {run} yet: it is stored when the cell ends.")
    rows = found.rows
    columns = [list(rows.parameter_names).index(name) for name in found.names]
    return finite(
        {
            "cell": cell,
            "seeds": rows.seeds.tolist(),
            "totals": rows.totals.tolist(),
            "parameters": list(found.names),
            "values": rows.parameters[:, columns].tolist(),
            "places": found.places,
            "bounds": {name: list(found.bounds[name]) for name in found.names},
            "objectives": list(rows.objective_names),
            "scores": rows.scores.tolist(),
            "features": found.features,
        }
    )


@router.get("/search/{cell}/{run:path}")
def search(request: Request, cell: str, run: str) -> list[dict[str, Any]]:
    """Return how the search of each stage went: the best of each seed, and the spread of each generation."""
    tables = RunTables(folder_of_cell(request, run, cell, "evaluations"), cell)
    summary = summary_of_cell(tables, cell, tables.store.read_events())
    stages = []
    for stage in summary.stages:
        curves = search_curves(tables, cell, stage)
        seeds = [
            asdict(seed) | {"generation": seed.generation.tolist(), "best": seed.best.tolist()} for seed in curves.seeds
        ]
        spread = {name: getattr(curves, name).tolist() for name in ("generation", "low", "median", "high")}
        stages.append({"stage": stage.stage, "finished": stage.finished, **spread, "seeds": seeds})
    return finite(stages)


def folder_of_cell(request: Request, run: str, cell: str, table: str) -> str:
    """Return the folder of a fit that has the cell, after looking at where the cell's files are."""
    catalogue = server_of(request).catalogue
    folder = catalogue.folder(run)
    found = catalogue.found(run)
    known = (
        [str(each.get("id")) for each in found.job.get("cells") or ()]
        if isinstance(found.job.get("cells"), list)
        else None
    )
    if found.family != FIT:
        raise UsageError(f"{run} is a run of kind {found.kind}, which has no fitted cells.")
    if known and cell not in known:
        raise NoSuchRun(f"There is no cell {cell!r} in {run}{did_you_mean(cell, known)}.")
    catalogue.place.refuse_outside(f"{found.prefix}{table}/cell={cell}")
    return folder


def _plain(row: RunRow) -> dict[str, Any]:
    return finite(asdict(row))


def finite(value: Any) -> Any:
    """Return a value with null for what JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _answer(found: pa.Table, format: Format) -> Response:
    if format == "json":
        return JSONResponse(finite(found.to_pylist()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found)
    return Response(sink.getvalue().to_pybytes(), media_type=ARROW)
