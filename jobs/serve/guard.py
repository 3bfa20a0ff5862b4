"""What every request passes before a page is asked: its host, its origin, and who sends it."""

import base64
import binascii
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neurofleet.errors import UsageError
from neurofleet.jobs.serve.access import Access, Visitor

COOKIE = "neurofleet-session"
"""With the server's port after it: cookies of one name are shared by all ports of a machine."""
OPEN = ("/static/", "/sign-in")
"""What is served to anybody: nothing of a run is in it."""

SAFE_METHODS = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Guard:
    """Refuses requests before any page sees them, and adds the headers that keep a browser from doing harm.

    Parameters
    ----------
    app : ASGIApp
    access : Access
    hosts : collection of str
        Names under which the server is asked, without a port: any other is refused, as a page elsewhere may give
        its own name this machine's address.
    """

    def __init__(self, app: ASGIApp, access: Access, hosts: Collection[str]) -> None:
        self._app = app
        self._access = access
        self._hosts = {host.casefold() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        forwarded = Headers(scope=scope).get("x-forwarded-proto")
        if forwarded == "https" and self._is_proxy(scope):
            scope["scheme"] = "https"
        try:
            refusal = self._refusal(scope)
        except UsageError as error:  # of a damaged file of users
            refusal = _plain(scope, 500, str(error))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = _host(headers.get("host", ""))
        if host not in self._hosts:
            return _plain(
                scope,
                400,
                f"This server is not called {host!r}. Open it under the address that it printed, or name it with "
                "`neurofleet serve --name`.",
            )
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if token and scope["method"] == "GET":
            return self._sign_in_by_link(scope, token)
        session = _cookie(headers, cookie_name(scope))
        visitor, by_cookie = self._visitor(scope, headers, session)
        if scope["method"] not in SAFE_METHODS and not _same_origin(headers):
            if "origin" in headers:  # sent by browsers only, which may add a password by themselves
                return _plain(scope, 403, "This request comes from a page of another server, and is refused.")
            if by_cookie or visitor is None:
                return _plain(
                    scope,
                    403,
                    "This request does not say that it comes from a page of this server, and is refused. A script "
                    "behind a proxy that names users sends this server's address, too: `Origin: https://HOST`.",
                )
        if visitor is None and not scope["path"].startswith(OPEN):
            return self._asked_to_sign_in(scope, headers)
        scope.setdefault("state", {})["visitor"] = visitor
        return None

    def _is_proxy(self, scope: Scope) -> bool:
        peer = _peer(scope)
        return peer in LOOPBACK or (self._access.proxy is not None and self._access.proxy.trusts(peer))

    def _visitor(self, scope: Scope, headers: Headers, session: str) -> tuple[Visitor | None, bool]:
        """Return who makes a request, and whether a browser says so by itself, whoever's page it is on."""
        if self._access.proxy is not None:
            named = headers.getlist(self._access.proxy.header)
            if len(named) > 1:  # one of them may be the visitor's own
                return None, True
            visitor = self._access.of_proxy(_peer(scope), named[0] if named else None)
            if visitor is not None:
                return visitor, True
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.casefold() == "bearer":
            return self._access.of_script(value.strip()), False
        if scheme.casefold() == "basic":
            try:
                name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return None, False
            return self._access.of_user(name, password), False
        return (self._access.of_session(session) if session else None), True

    def _sign_in_by_link(self, scope: Scope, token: str) -> Response:
        session = self._access.by_link(token)
        if session is None:
            return _plain(
                scope,
                401,
                "This link has been used already, or is not of this server. Each opens one browser once: the "
                "terminal where the server runs shows the next one.",
            )
        # not a redirect: a browser would not send a strict cookie where another page's link began the chain
        content = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><link rel="icon" href="/static/icon.svg">'
            '<meta http-equiv="refresh" content="0; url=/">'
            '<title>neurofleet</title><p>Signed in. <a href="/">Go on</a>.</p></html>'
        )
        return with_session(HTMLResponse(content), scope, session)

    def _asked_to_sign_in(self, scope: Scope, headers: Headers) -> Response:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.casefold() == "bearer" and self._access.is_link_token(value.strip()):
            return _plain(
                scope,
                401,
                "This is the token of the one-time link, which signs in a browser. The token for scripts is another: "
                "`neurofleet serve` shows it in its terminal below the link, as `Scripts send Authorization: Bearer "
                "TOKEN`.",
            )
        if self._access.users is None and self._access.proxy is not None:
            return _plain(
                scope,
                401,
                f"The proxy in front of this server signs visitors in, and names them in {self._access.proxy.header}. "
                "This request does not come from it, or names nobody.",
            )
        if self._access.users is None:
            return _plain(
                scope,
                401,
                "Open the link that `neurofleet serve` shows in its terminal; it signs this browser in. Scripts send "
                "the token that it shows as `Authorization: Bearer TOKEN`.",
            )
        if scope["path"].startswith("/api"):
            answer = _plain(scope, 401, "Send a user's name and password, as `Authorization: Basic …` has them.")
            return answer
        return RedirectResponse("/sign-in", 303)


def cookie_name(scope: Scope) -> str:
    """Return what the cookie of a session at this server is called."""
    _, port = scope.get("server") or ("", None)
    return f"{COOKIE}-{port}"


def with_session(response: Response, scope: Scope, session: str) -> Response:
    """Return the response with the cookie of a session."""
    secure = scope.get("scheme") == "https"
    response.set_cookie(cookie_name(scope), session, httponly=True, samesite="strict", secure=secure, path="/")
    return response


def _plain(scope: Scope, status: int, text: str) -> Response:
    if scope["path"].startswith("/api"):
        return JSONResponse({"error": text}, status)
    return Response(f"{text}\n", status, media_type="text/plain; charset=utf-8")


def _peer(scope: Scope) -> str:
    return str((scope.get("client") or ("",))[0])


def _host(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0].casefold()
    return header.partition(":")[0].casefold().rstrip(".")


def _cookie(headers: Headers, name: str) -> str:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def _same_origin(headers: Headers) -> bool:
    """Whether a browser says that the request comes from a page of this server."""
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.casefold() == headers.get("host", "").casefold()
