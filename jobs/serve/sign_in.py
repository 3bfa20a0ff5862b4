"""Where users sign in with a password and out, and the description of the REST interface."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from neurofleet.jobs.serve.app import render, server_of, visitor_of
from neurofleet.jobs.serve.guard import cookie_name, with_session

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


@router.get("/sign-in")
def sign_in(request: Request) -> Response:
    """Show the form."""
    if server_of(request).access.users is None or visitor_of(request) is not None:
        return RedirectResponse("/", 303)
    return render(request, "sign_in.html.j2", name="", fault="")


@router.post("/sign-in")
def signed_in(
    request: Request,
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=1000)],
) -> Response:
    """Begin a session, or say that name and password do not belong together."""
    session = server_of(request).access.by_password(name, password)
    if session is None:
        fault = "This name and this password do not belong together. After five wrong ones wait a minute."
        return render(request, "sign_in.html.j2", 401, name=name, fault=fault)
    return with_session(RedirectResponse("/", 303), request.scope, session)


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Show the REST interface."""
    return render(request, "docs.html.j2")


@router.post("/sign-out")
def sign_out(request: Request) -> Response:
    """End the session."""
    server_of(request).access.end(request.cookies.get(cookie_name(request.scope), ""))
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(cookie_name(request.scope), path="/")
    return response
