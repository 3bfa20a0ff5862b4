"""The page that names cells in the visitor's browser: its files, and the model for it, made when first asked for."""

import re
import threading
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Depends, Request
from starlette.responses import FileResponse

from neurofleet.errors import UsageError
from neurofleet.jobs.serve.access import Role
from neurofleet.jobs.serve.app import Server, require, server_of
from neurofleet.jobs.serve.bundle import PAGE_FILES
from neurofleet.jobs.serve.guard import HEADERS
from neurofleet.jobs.serve.name_cells import ModelCard, model_cards
from neurofleet.jobs.serve.namings import NotThere
from neurofleet.jobs.serve.own_process import last_result

MODEL = "model.onnx"
POLICY = HEADERS["Content-Security-Policy"].replace(
    "script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'"
)
"""WebAssembly is allowed on this page only."""

WRITE_ONNX = "neurofleet.jobs.serve.naming_process:write_onnx"

router = APIRouter(tags=["naming"], dependencies=[Depends(require(Role.predict))])
_making: dict[str, threading.Lock] = {}


@router.get("/models/{key}/at-home/", include_in_schema=False)
def page(request: Request, key: str) -> FileResponse:
    """Show the page that names cells by a model of SIMS without sending them."""
    _sims_card(server_of(request), key)
    if missing := [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]:
        raise UsageError(
            f"Models for browsers need {', '.join(missing)} where this server runs: pip install 'neurofleet[onnx]'."
        )
    return _sent(PAGE_FILES["index.html"])


@router.get("/models/{key}/at-home/{name}", include_in_schema=False)
def page_file(request: Request, key: str, name: str) -> FileResponse:
    """Return a file of that page, or the model."""
    server = server_of(request)
    card = _sims_card(server, key)
    if name == MODEL:
        return _sent(_onnx_of(server, card))
    if name not in PAGE_FILES:
        raise NotThere(f"There is no file {name} of this page.")
    return _sent(PAGE_FILES[name])


def _sent(file: Path) -> FileResponse:
    return FileResponse(file, headers={"Content-Security-Policy": POLICY})


def _sims_card(server: Server, key: str) -> ModelCard:
    for card in model_cards(server):
        if card.key == key and card.learner == "sims":
            return card
    raise NotThere("There is no such model of SIMS. It may have been moved: choose one from the list.")


def _onnx_of(server: Server, card: ModelCard) -> Path:
    """Return a model as ONNX, made once for each."""
    digest = str(card.head.get("sha256"))
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise UsageError(
            f"{card.name}: expected a checksum of 64 hexadecimal digits in its model.json, found {digest[:80]!r}. Copy "
            "the model again."
        )
    file = server.namings.place / f"{digest}.onnx"
    if file.exists():
        return file
    with _making.setdefault(digest, threading.Lock()):
        if not file.exists():
            limits = server.namings.limits
            last_result(
                "The model",
                "Ask who runs the server for more, or name the cells on the server.",
                WRITE_ONNX,
                str(card.folder),
                str(file),
                limits.memory_bytes,
                limits=limits,
            )
    return file
