"""The web application: what it serves, its pages, and how errors are shown."""

import importlib
import inspect
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from neurofleet import __version__
from neurofleet.errors import NeurofleetError
from neurofleet.jobs.progress import duration
from neurofleet.jobs.serve.access import Access, NotAllowed, Role, Visitor
from neurofleet.jobs.serve.bundle import STATIC, bundle_digest
from neurofleet.jobs.serve.catalogue import NoSuchRun, RunCatalogue
from neurofleet.jobs.serve.guard import LOOPBACK, Guard
from neurofleet.jobs.serve.job_desk import JobDesk, NoSuchAnswer
from neurofleet.jobs.serve.live import Live
from neurofleet.jobs.serve.namings import Namings, NotThere
from neurofleet.jobs.serve.served_places import ServedPlaces
from neurofleet.wording import agreeing

logger = logging.getLogger(__name__)

PAGES: Sequence[str] = (
    "neurofleet.jobs.serve.run_list",
    "neurofleet.jobs.serve.run_page",
    "neurofleet.jobs.serve.cell_page",
    "neurofleet.jobs.serve.populations",
    "neurofleet.jobs.serve.api",
    "neurofleet.jobs.serve.name_cells",
    "neurofleet.jobs.serve.at_home",
    "neurofleet.jobs.serve.job_page",
    "neurofleet.jobs.serve.sign_in",
)
"""Modules with the routes of pages, in ``router``. One with a place in the navigation names it: ``NAVIGATION``."""


@dataclass(frozen=True)
class Link:
    """An entry of the navigation: what it is called, where it leads, and which role it needs."""

    title: str
    path: str
    role: Role = Role.view


@dataclass
class Server:
    """What the pages have in common; `server_of` gives it to them.

    Attributes
    ----------
    catalogue : RunCatalogue
    access : Access
    live : Live
    namings : Namings
    jobs : JobDesk
    places : ServedPlaces or None
        The files that may be read; None where the root is no folder of this machine.
    models : sequence of Path
        Folders with models, besides those below the root.
    navigation : list of Link
    """

    catalogue: RunCatalogue
    access: Access
    live: Live
    namings: Namings
    jobs: JobDesk
    places: ServedPlaces | None
    models: Sequence[Path] = ()
    navigation: list[Link] = field(default_factory=list)


def create_app(
    root: str,
    access: Access | None = None,
    hosts: Sequence[str] = LOOPBACK,
    models: Sequence[Path] = (),
    address: str | None = None,
) -> FastAPI:
    """Return the application that serves the runs below a folder.

    Parameters
    ----------
    root : str
        A path or a `pyarrow.fs` URI.
    access : Access, optional
        By default that of one user.
    hosts : sequence of str
        Names under which it is asked.
    models : sequence of Path
        Folders with models, besides those below the root; files in them may be read, too.
    address : str, optional
        Of the dashboard of a cluster that jobs can be submitted to.
    """
    catalogue = RunCatalogue(root)
    live = Live(catalogue)
    place = catalogue.place
    places = ServedPlaces(Path(place.folder("")), tuple(models)) if place.is_local else None
    server = Server(catalogue, access or Access(), live, Namings(), JobDesk(places, address), places, models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        live.stop()
        server.namings.close()
        if going_on := server.jobs.close():
            logger.warning("runs that go on, to be cancelled in the next server or with kill: %s", ", ".join(going_on))

    app = FastAPI(
        title="neurofleet",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.server = server
    for name in PAGES:
        page = importlib.import_module(name)
        for route in page.router.routes:
            if isinstance(route, APIRoute):
                route.summary = (inspect.getdoc(route.endpoint) or "").partition("\n")[0]
        app.include_router(page.router)
        if (link := getattr(page, "NAVIGATION", None)) is not None:
            server.navigation.append(link)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(NeurofleetError, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _mistake)
    app.add_middleware(Guard, access=server.access, hosts=tuple(hosts))
    return app


def server_of(request: Request) -> Server:
    """Return what the pages have in common."""
    server: Server = request.app.state.server
    return server


def visitor_of(request: Request) -> Visitor | None:
    """Return who makes the request; None on the page where one signs in."""
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    return visitor


def name_of_visitor(request: Request) -> str:
    """Return the name of who makes the request."""
    visitor = visitor_of(request)
    assert visitor is not None
    return visitor.name


def require(role: Role) -> Callable[[Request], None]:
    """Return a dependency of a route that refuses visitors without a role: ``Depends(require(Role.submit))``."""

    def check(request: Request) -> None:
        visitor = visitor_of(request)
        if visitor is None:
            raise NotAllowed("Sign in first.")
        visitor.require(role)

    return check


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """Return a page or a part of one, of a template in ``templates/``. All that it is given is escaped."""
    visitor = visitor_of(request)
    server = server_of(request)
    navigation = [link for link in server.navigation if visitor is not None and visitor.role >= link.role]
    text = _TEMPLATES.get_template(template).render(
        visitor=visitor,
        navigation=navigation,
        path=request.url.path,
        signs_in=server.access.users is not None,
        digest=bundle_digest(),
        root=server.catalogue.place.root,
        version=__version__,
        **context,
    )
    return HTMLResponse(text, status)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _codes(text: str) -> Markup:
    """Return text of a docstring with what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def path_of(run: str) -> str:
    """Return the name of a run as it stands in an address."""
    return quote(run, safe="/")


_TEMPLATES = Environment(
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    loader=PackageLoader("neurofleet.jobs.serve"),
)
_TEMPLATES.filters |= {
    "duration": duration,
    "short": _short,
    "utc": _utc,
    "urlpath": path_of,
    "agreeing": agreeing,
    "codes": _codes,
}


def _fault(request: Request, status: int, text: str) -> Response:
    """Return a sentence, in the form that was asked for; keys in URIs are taken out."""
    text = re.sub(r"(?<=://)[^/@\s]*@", "", text)
    if request.url.path.startswith("/api"):
        return JSONResponse({"error": text}, status)
    if "hx-request" in request.headers:
        return render(request, "_fault.html.j2", status, text=text)
    return render(request, "fault.html.j2", status, text=text)


async def _refused(request: Request, error: Exception) -> Response:
    status = (
        404 if isinstance(error, NoSuchRun | NotThere | NoSuchAnswer) else 403 if isinstance(error, NotAllowed) else 400
    )
    return _fault(request, status, str(error))


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"There is no page at {request.url.path}." if error.status_code == 404 else f"{error.detail}."
    return _fault(request, error.status_code, text)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors())
    return _fault(request, 422, f"The request cannot be used: {faults}.")


async def _mistake(request: Request, error: Exception) -> Response:
    logger.error("request for %s failed", request.url.path, exc_info=error)
    text = f"The server made a mistake ({type(error).__name__}). What happened is in the terminal where it runs."
    return _fault(request, 500, text)
