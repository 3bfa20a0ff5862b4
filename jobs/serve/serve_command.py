"""``neurofleet serve``: start the server, and add users."""

import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from neurofleet.errors import UsageError
from neurofleet.input_paths import shown
from neurofleet.jobs.serve.access import Access, Proxy, Role, Users
from neurofleet.jobs.serve.app import create_app
from neurofleet.jobs.serve.guard import LOOPBACK

MOST_CONNECTIONS = 500
STOP_S = 3


def serve_command(
    root: str,
    host: str = "127.0.0.1",
    port: int = 8700,
    users: Path | None = None,
    names: Sequence[str] = (),
    read_only: bool = False,
    models: Sequence[Path] = (),
    address: str | None = None,
    proxy: Proxy | None = None,
) -> None:
    """Serve the runs below a folder until the process is interrupted.

    Parameters
    ----------
    root : str
        A path or a `pyarrow.fs` URI.
    host : str
        The address to listen at.
    port : int
    users : Path, optional
        The file of users; without it, there is one, who gets a link.
    names : sequence of str
        Names under which a proxy passes requests on.
    read_only : bool
        Whether nobody may do more than view.
    models : sequence of Path
        Folders with models, besides those below the root.
    address : str, optional
        Of the dashboard of a cluster that jobs can be submitted to.
    proxy : Proxy, optional
        Which names visitors in a header.

    Raises
    ------
    UsageError
        There is no such folder, or an address that others reach is to be served without users and without a proxy.
    """
    if "://" not in root and not Path(root).is_dir():
        raise UsageError(
            f"{root}: expected a folder with runs below it, found no folder. Name the one above your runs."
        )
    for folder in models:
        if not folder.is_dir():
            raise UsageError(f"--models {folder}: expected a folder of models, or one model, found no folder.")
    known = Users(users) if users is not None else None
    if known is not None and not len(known):
        raise UsageError(f"--users {users}: there is nobody in it yet. Add one: {_adding(users)}.")
    if host not in LOOPBACK and known is None and proxy is None:
        raise UsageError(
            f"--host {host}: others can reach this address, and whoever has a link could read all runs. Make users "
            f"first, {_adding(None)}, and give --users FILE; or have a proxy name them (--user-header); or listen at "
            "127.0.0.1 and come through a tunnel (ssh -L). Encryption (TLS) is the work of a proxy before it: "
            "docs/serve.md."
        )

    def say_link(token: str) -> None:
        shown = f"[{host}]" if ":" in host else host
        print(f"  http://{shown}:{port}/?token={token}", file=sys.stderr, flush=True)

    access = Access(known, read_only, say_link, proxy)
    app = create_app(root, access, (*LOOPBACK, host, *names), models, address)
    print(f"neurofleet serves {shown(root)} at port {port}; Ctrl-C ends it.", file=sys.stderr)
    if access.is_of_one:
        print("Open this link; it works once, and the next one is shown when it has been used:", file=sys.stderr)
        say_link(access.link_token)
        print(f"Scripts send Authorization: Bearer {access.script_token}", file=sys.stderr, flush=True)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the guard has to see which address a request comes from
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=STOP_S,
    )


def add_user_command(name: str, password: str, role: Role, users: Path) -> None:
    """Add a user to the file, or give one who is there another password and role."""
    Users(users).add(name, password, role)
    print(f"{users}: {name} may {role.name}.")


def _adding(users: Path | None) -> str:
    return f"neurofleet serve --add-user NAME --role view --users {users or 'FILE'}"
