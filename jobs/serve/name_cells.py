"""The pages where cells, units and neurons are named: the models there are, a file, and what comes of it."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Form, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from neurofleet import fresh_process
from neurofleet.errors import NeurofleetError, UsageError
from neurofleet.jobs.serve.access import Role
from neurofleet.jobs.serve.app import Link, Server, name_of_visitor, render, require, server_of
from neurofleet.jobs.serve.namings import (
    CSV,
    ENDINGS_OF,
    H5AD,
    MOST_CHUNK_BYTES,
    PAGE,
    PREDICTIONS,
    REFERENCE,
    THINGS,
    CellNaming,
    NotThere,
    Upload,
    WrongOffset,
)
from neurofleet.jobs.serve.own_process import GIB
from neurofleet.learners.model_folder import DESCRIPTION
from neurofleet.learners.published_models import models_at
from neurofleet.yaml_files import read_yaml

NAVIGATION = Link("Name my cells", "/models", Role.predict)
MAP_CELLS = 50_000
NOTHING = "nothing measured"
WRITE_BYTES = 2**20
RELABEL = "neurofleet.jobs.serve.naming_process:relabel_files"
DOWNLOADS = {
    PREDICTIONS: "application/vnd.apache.parquet",
    CSV: "text/csv",
    H5AD: "application/x-hdf5",
}
_STYLE = re.compile(r' style="[^"]*"')

router = APIRouter(tags=["naming"], default_response_class=HTMLResponse, dependencies=[Depends(require(Role.predict))])


@dataclass(frozen=True)
class ModelCard:
    """A model, and what is known of it.

    Attributes
    ----------
    key : str
        Its name in addresses.
    name : str
        Its folder below the root, or its path.
    folder : Path
    head : mapping
        The content of model.json.
    """

    key: str
    name: str
    folder: Path
    head: Mapping[str, Any]

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.head["description"]["facts"]

    @property
    def learner(self) -> str:
        return str(self.head["learner"])

    @property
    def things(self) -> str:
        """What it names: cells, units or neurons."""
        return THINGS[self.learner]

    @property
    def classes(self) -> list[tuple[str, int | None]]:
        """Each class, and of how many cells it was learned where that is known; none of a model that only embeds."""
        cells = self.facts.get("data", {}).get("cells_of_class", {})
        described = self.head["description"]
        described = described.get("naming") or {} if self.learner == "neuprint" else described
        return [(name, cells.get(name)) for name in described.get("classes", ())]

    @property
    def scores(self) -> list[tuple[str, float, float]]:
        """The model and the simple methods beside it: accuracy and macro-F1."""
        scores, baselines = self.facts.get("scores", {}), self.facts.get("baselines", {})
        rows = [("this model", scores["sims"])] if "sims" in scores else []
        rows += [(name.replace("_", " "), each) for name, each in baselines.items() if each.get("accuracy") is not None]
        return [(name, each["accuracy"], each["macro_f1"]) for name, each in rows]

    @property
    def confusion(self) -> str:
        """The confusion matrix as SVG, empty where the model holds none."""
        from neurofleet.jobs.learners.learner_figures import confusion_figure

        found = self.facts.get("scores", {}).get("sims", {}).get("confusion")
        if not found:
            return ""
        return _STYLE.sub("", confusion_figure(self.head["description"]["classes"], found))  # no page takes styles


@lru_cache(maxsize=256)
def _head(path: str, changed_ns: int, size: int) -> Mapping[str, Any] | None:
    """Return the content of a model.json; None of anything else."""
    try:
        head = json.loads(Path(path).read_bytes())
        usable = head["learner"] in THINGS and isinstance(head["description"]["facts"], dict)
        needed = {"sims": ("genes", "classes"), "hippie": ("classes",), "neuprint": ()}[head["learner"]]
        return head if usable and all(head["description"][name] for name in needed) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def model_cards(server: Server) -> list[ModelCard]:
    """Return all models below the root and in the listed folders, by name."""
    folders: dict[Path, str] = {}
    place = server.catalogue.place
    if place.is_local:
        for row in server.catalogue.rows():
            if row.learner in THINGS:
                folders[Path(place.folder(server.catalogue.found(row.run).folder)).resolve()] = row.run
    for listed in server.models:
        below = sorted(each for each in listed.iterdir() if each.is_dir()) if listed.is_dir() else []
        for folder in (listed, *below, *_published(listed)):
            folders.setdefault(folder.resolve(), str(folder.relative_to(listed.parent)))
    cards = []
    for folder, name in folders.items():
        path = folder / DESCRIPTION
        try:
            found = path.stat()
        except OSError:
            continue
        head = _head(str(path), found.st_mtime_ns, found.st_size)
        if head is not None:
            cards.append(ModelCard(sha256(str(folder).encode()).hexdigest()[:16], name, folder, head))
    return sorted(cards, key=lambda card: card.name)


def _published(listed: Path) -> list[Path]:
    """Return the folders of the published models of a place; none where it is no such place."""
    try:
        return [listed / model.folder for model in models_at(str(listed)) if model.folder]
    except NeurofleetError:
        return []


def _card(server: Server, key: str) -> ModelCard:
    for card in model_cards(server):
        if card.key == key:
            return card
    raise NotThere("There is no such model. It may have been moved: choose one from the list.")


@router.get("/models", include_in_schema=False)
def models(request: Request) -> HTMLResponse:
    """List the models, and what the visitor has named before."""
    server = server_of(request)
    return render(
        request,
        "models.html.j2",
        cards=model_cards(server),
        namings=server.namings.of(name_of_visitor(request)),
        places=_places(server),
    )


def _places(server: Server) -> str:
    return ", ".join([server.catalogue.place.root, *map(str, server.models)])


@router.get("/models/{key}", include_in_schema=False)
def model(request: Request, key: str) -> HTMLResponse:
    """Show the card of a model, and the form that names cells by it."""
    return _model_page(request, _card(server_of(request), key))


def _model_page(request: Request, card: ModelCard, fault: str = "") -> HTMLResponse:
    server = server_of(request)
    return render(
        request,
        "model.html.j2",
        400 if fault else 200,
        card=card,
        endings=ENDINGS_OF[card.learner],
        most=server.namings.limits.upload_bytes / GIB,
        takes_paths=server.places is not None,
        fault=fault,
    )


class NewUpload(BaseModel):
    """A file that is to be sent: its name, and its size in bytes."""

    name: str
    size: int


@router.post("/api/uploads")
def begin_upload(request: Request, new: NewUpload) -> JSONResponse:
    """Make room for a file."""
    upload = server_of(request).namings.begin_upload(name_of_visitor(request), new.name, new.size)
    return JSONResponse(_said(upload), 201)


@router.get("/api/uploads/{id}")
def upload_state(request: Request, id: str) -> JSONResponse:
    """Say how much of a file has arrived."""
    return JSONResponse(_said(server_of(request).namings.upload(id, name_of_visitor(request))))


@router.put("/api/uploads/{id}")
async def append(request: Request, id: str, offset: Annotated[int, Query(ge=0)]) -> JSONResponse:
    """Take a chunk of a file, which follows on what has arrived; what arrives of a cut one is kept."""
    namings = server_of(request).namings
    upload = namings.upload(id, name_of_visitor(request))
    start, waiting = offset, bytearray()

    async def write() -> None:
        nonlocal offset
        await run_in_threadpool(namings.append, upload, offset, bytes(waiting))
        offset += len(waiting)
        waiting.clear()

    try:
        async for piece in request.stream():
            waiting += piece
            if offset + len(waiting) - start > MOST_CHUNK_BYTES:
                raise UsageError(f"A chunk has at most {MOST_CHUNK_BYTES // 2**20} MiB. Send the file in more of them.")
            if len(waiting) >= WRITE_BYTES:
                await write()
        await write()
    except WrongOffset as error:
        return JSONResponse(_said(upload) | {"error": str(error)}, 409)
    return JSONResponse(_said(upload))


@router.delete("/api/uploads/{id}")
def remove_upload(request: Request, id: str) -> Response:
    """Remove a file that was sent."""
    namings = server_of(request).namings
    namings.remove_upload(namings.upload(id, name_of_visitor(request)))
    return Response(status_code=204)


def _said(upload: Upload) -> dict[str, Any]:
    return {"id": upload.id, "received": upload.received, "size": upload.size}


@router.post("/models/{key}", include_in_schema=False)
def name_cells(
    request: Request,
    key: str,
    upload: Annotated[str, Form(max_length=64)] = "",
    path: Annotated[str, Form(max_length=1000)] = "",
    layer: Annotated[str, Form(max_length=200)] = "X",
    gene_names: Annotated[str, Form(max_length=200)] = "",
    majority: Annotated[bool, Form()] = False,
    layout: Annotated[str, Form(max_length=20_000)] = "",
) -> Response:
    """Start naming what is in an upload, or in a file below the folder that is served."""
    server = server_of(request)
    card, owner = _card(server, key), name_of_visitor(request)
    reading = {"layer": layer or "X", "gene_names": gene_names or None}
    options: dict[str, Any] = {"reading": reading, "options": {"majority": 0.0 if majority else None}}
    try:
        if card.learner != "sims":
            options = {"layout": _layout(server, layout)}
        source = _source(server, owner, upload, path)
        started = server.namings.start(owner, (card.name, card.folder), source, options, card.learner)
    except UsageError as error:
        return _model_page(request, card, str(error))
    return RedirectResponse(f"/namings/{started.id}", 303)


def _layout(server: Server, text: str) -> dict[str, Any]:
    """Return how the arrays of a file are called, as it stands under `layout:` in a job."""
    content = read_yaml(text, "How it is read") or {}
    if not isinstance(content, dict):
        raise UsageError("How it is read: expected keys such as `waveform_rate_hz: 20000`, found something else.")
    if server.places is not None:
        server.places.refuse_words(content)
    return content


def _source(server: Server, owner: str, upload: str, path: str) -> tuple[str, Path]:
    """Return what a file is called, and where it is."""
    if upload:
        sent = server.namings.upload(upload, owner)
        if sent.received < sent.size:
            raise UsageError(
                f"Of {sent.name} {sent.received:,} of {sent.size:,} bytes have arrived. Send the rest first."
            )
        return sent.name, sent.path
    if path and server.places is not None:
        return path, server.places.path(path)
    raise UsageError("Choose a file to upload, or name one below the folder that is served.")


@router.get("/namings/{id}", include_in_schema=False)
def naming(request: Request, id: str) -> HTMLResponse:
    """Show how far a naming is, and its result; asked by htmx, only what changes."""
    found = server_of(request).namings.naming(id, name_of_visitor(request))
    part = "hx-request" in request.headers and found.state in ("waiting", "running")
    if part:
        return render(request, "_naming_progress.html.j2", naming=found)
    if "hx-request" in request.headers:
        answer = HTMLResponse("")
        answer.headers["HX-Redirect"] = f"/namings/{id}"
        return answer
    context = _labels(found, 0.0) if found.state == "done" else {}
    return render(request, "naming.html.j2", naming=found, **context)


@router.get("/namings/{id}/labels", include_in_schema=False)
def labels(request: Request, id: str, below: Annotated[float, Query(ge=0, le=1)] = 0.0) -> HTMLResponse:
    """Show how many cells have which label at a threshold."""
    found = _done(server_of(request).namings.naming(id, name_of_visitor(request)))
    return render(request, "_labels.html.j2", naming=found, **_labels(found, below))


def _labels(naming: CellNaming, below: float) -> dict[str, Any]:
    table, classes = naming.table, _class_names(naming)
    known = table["prob_0"].astype(np.float64) >= below
    counts = np.bincount(table["class"][known], minlength=len(classes))
    outside = table["distance"] > 1 if "distance" in table else np.zeros(len(known), dtype=bool)
    outside_of = np.bincount(table["class"][known & outside], minlength=len(classes))
    rows = [
        (name, int(n), n / max(len(known), 1), int(far))
        for name, n, far in zip(classes, counts, outside_of, strict=True)
    ]
    return {
        "rows": rows,
        "below": below,
        "n_cells": len(known),
        "n_unknown": int((~known).sum()),
        "n_outside": int(outside.sum()),
        "has_distance": "distance" in table,
        "queries": naming.about["queries"],
        "notes": naming.about.get("notes", ()) if naming.learner != "sims" else (),
        "has_map": "map_0" in table,
        "has_report": (naming.folder / PAGE).exists(),
        "has_h5ad": (naming.folder / H5AD).exists(),
    }


@router.get("/api/namings/{id}/map")
def cell_map(request: Request, id: str) -> JSONResponse:
    """Return where the cells lie on the reference's map, at most 50,000 of them."""
    found = _done(server_of(request).namings.naming(id, name_of_visitor(request)))
    table = found.table
    if "map_0" not in table:
        raise NotThere("The model does not hold where its reference lies, so there is no map.")
    reference = found.folder / REFERENCE
    x, y, numbers = np.load(reference, allow_pickle=False) if reference.exists() else np.empty((3, 0))
    chosen = np.sort(np.random.default_rng(0).permutation(len(table["class"]))[:MAP_CELLS])
    query = {"x": table["map_0"], "y": table["map_1"], "p": table["prob_0"]}
    query |= {"d": table["distance"]} if "distance" in table else {}
    return JSONResponse(
        {
            "classes": _class_names(found),
            "reference": {"x": _short(x), "y": _short(y), "c": numbers.astype(int).tolist()},
            "query": {name: _short(values[chosen]) for name, values in query.items()}
            | {"c": table["class"][chosen].tolist()},
        }
    )


def _short(values: np.ndarray) -> list[float]:
    return np.nan_to_num(np.round(values.astype(np.float64), 4)).tolist()


def _class_names(naming: CellNaming) -> list[str]:
    return [name or NOTHING for name in naming.about["classes"]]


@router.get("/namings/{id}/report", include_in_schema=False)
def report(request: Request, id: str) -> Response:
    """Return the page that `neurofleet predict --report` writes."""
    found = _done(server_of(request).namings.naming(id, name_of_visitor(request)))
    # it has its own styles, and no script
    policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    return FileResponse(found.folder / PAGE, media_type="text/html", headers={"Content-Security-Policy": policy})


@router.get("/namings/{id}/files/{name}", include_in_schema=False)
async def download(request: Request, id: str, name: str, below: Annotated[float, Query(ge=0, le=1)] = 0.0) -> Response:
    """Return a file of the result, with labels by the threshold that is shown."""
    found = _done(server_of(request).namings.naming(id, name_of_visitor(request)))
    if name not in DOWNLOADS or (name == H5AD and not (found.folder / H5AD).exists()):
        raise NotThere(f"There is no such file; there are {', '.join(DOWNLOADS)}, the last of h5ad files only.")
    path = await asyncio.to_thread(_relabelled, found, name, below)
    return FileResponse(path, media_type=DOWNLOADS[name], filename=name)


def _relabelled(naming: CellNaming, name: str, below: float) -> Path:
    """Return a file whose labels are those of a threshold; made once for each."""
    folder = naming.folder / f"below-{below:.4f}"
    with naming.writing:
        if not folder.exists():
            made = naming.folder / "partial"
            made.mkdir(exist_ok=True)
            fresh_process.call(RELABEL, str(naming.folder), below, str(made))
            made.rename(folder)
    return folder / name


def _done(naming: CellNaming) -> CellNaming:
    if naming.state != "done":
        raise UsageError(naming.fault or f"The {naming.things} of {naming.source} are not named yet.")
    return naming
