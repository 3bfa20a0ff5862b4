"""Populations: cells, models, units or neurons as points, coloured by any column, two groups compared."""

import threading
from typing import Annotated, Any, get_args

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse, JSONResponse, Response

from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.results.point_maps import MOST_POINTS, Points, PointTable, levels_of, point_table, sources
from neurofleet.jobs.results.runs_found import FIT
from neurofleet.jobs.serve.api import finite
from neurofleet.jobs.serve.app import Link, render, server_of

NAVIGATION = Link("Populations", "/populations")
ALL = "*"
KEPT = 3
SHOWN_TESTS = 40
MOST_NAMES = 50_000
WORDS = {
    "cells": "best model of each cell",
    "models": "all models of the hall of fame",
    "embeddings": "embedding",
}

router = APIRouter()
_kept: dict[tuple, PointTable] = {}
_reading = threading.Lock()

Source = Annotated[str, Query(max_length=1000)]
Numbers = Annotated[list[int], Field(max_length=MOST_POINTS)]


class Groups(BaseModel):
    """Two groups of points of a source, by their numbers."""

    source: Annotated[str, Field(max_length=1000)]
    first: Numbers
    second: Numbers


@router.get("/populations", response_class=HTMLResponse, include_in_schema=False)
def populations(request: Request, source: Source = "") -> HTMLResponse:
    """Show the map of a source, or which sources there are."""
    known = _sources(request)
    chosen = source or next(iter(known), "")
    fault = ""
    table = None
    if chosen:
        try:
            table = _table(request, chosen)
        except UsageError as error:
            fault = str(error)
    colours = table.colours() if table else []
    told = [name for name in colours if table is not None and table.rows[name].nunique() > 1]
    return render(
        request,
        "populations.html.j2",
        sources=known,
        source=chosen,
        fault=fault,
        number=len(table) if table else 0,
        maps=table.maps if table else (),
        colours=colours,
        colour=next((name for name in [*_classes(told), "label", "run", "cell", "seed"] if name in told), ""),
    )


@router.get("/api/population", tags=["populations"], response_model=None)
def population(
    request: Request,
    source: Source,
    map: Annotated[str, Query(max_length=40)],
    colour: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """Return the points of a map: where they are, a column to colour them by; of up to 50,000 their names too."""
    table = _table(request, source)
    if colour and colour not in table.rows.columns:
        raise UsageError(f"There is no column {colour!r}{did_you_mean(colour, table.colours())}.")
    places = np.nan_to_num(table.placed(map)).round(4)
    name = next((name for name in ("cell", "unit_id", "neuron_id") if name in table.rows.columns), None)
    # a million numbers: FastAPI would look at each of them
    return JSONResponse(
        {
            "x": places[:, 0].tolist(),
            "y": places[:, 1].tolist(),
            "names": [str(each) for each in table.rows[name]] if name and len(table) <= MOST_NAMES else [],
            "colour": finite(levels_of(table.rows[colour])) if colour else None,
        }
    )


@router.post("/api/population/compare", tags=["populations"])
def compared(request: Request, groups: Groups) -> list[dict[str, Any]]:
    """Return what differs most between two groups: medians, Cliff's delta with its interval, Mann-Whitney's p."""
    tests = _table(request, groups.source).compared(groups.first, groups.second, SHOWN_TESTS)
    return finite(tests.to_dict("records"))


def _classes(columns: list[str]) -> list[str]:
    return [name for name in columns if name == "class" or name.startswith("class.")]


def _sources(request: Request) -> dict[str, str]:
    """Return what can be shown: name -> words."""
    catalogue = server_of(request).catalogue
    found = sources([catalogue.found(row.run) for row in catalogue.rows() if not row.fault])
    known = {f"{points}:{run.run}": f"{run.name or run.run} ({run.run}): {WORDS[points]}" for points, run in found}
    if sum(points == "cells" for points, _ in found) > 1:
        known[f"cells:{ALL}"] = "all fits: best model of each cell"
    return known


def _table(request: Request, source: str) -> PointTable:
    catalogue = server_of(request).catalogue
    points, _, run = source.partition(":")
    if points not in get_args(Points):
        raise UsageError(f"A source is one of {', '.join(get_args(Points))}, a colon and a run; found {source!r}.")
    if run == ALL:
        fits = [row.run for row in catalogue.rows() if not row.fault and catalogue.found(row.run).family == FIT]
        runs = [catalogue.found(each) for each in fits if catalogue.found(each).folders]
    else:
        runs = [catalogue.found(run)]
    for each in runs:
        catalogue.folder(each.run)  # refuses links that lead out
    key = (source, catalogue.place.root, *((each.run, catalogue.row(each.run).changed) for each in runs))
    with _reading:
        if key not in _kept:
            every = [catalogue.found(row.run) for row in catalogue.rows() if row.kind == "analyse" and not row.fault]
            table = point_table(catalogue.place.uri, runs, points, every)  # type: ignore[arg-type]
            while len(_kept) >= KEPT:
                del _kept[next(iter(_kept))]
            _kept[key] = table
        return _kept[key]
