"""The page of all runs: kind, state, progress, time left, failed cells, core-hours."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, StreamingResponse

from neurofleet.jobs.serve.app import Link, render, server_of
from neurofleet.jobs.serve.catalogue import RunRow

NAVIGATION = Link("Runs", "/")
PAGE_ROWS = 50

router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)


@dataclass(frozen=True)
class RunFilter:
    """Which runs are shown: `q` words, `kind`, `state`; empty for all. `page` counts from 1."""

    q: str = ""
    kind: str = ""
    state: str = ""
    page: int = 1

    def address(self, page: int) -> str:
        """Return the address of a page of the table."""
        return "/?" + urlencode(asdict(self) | {"page": page})

    def chosen(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """Return the rows that pass."""
        words = self.q.split()
        return [
            row
            for row in rows
            if self.kind in ("", row.kind) and self.state in ("", row.progress.state) and row.matches(words)
        ]


@router.get("/")
def runs(
    request: Request,
    q: Annotated[str, Query(max_length=200)] = "",
    kind: Annotated[str, Query(max_length=40)] = "",
    state: Annotated[str, Query(max_length=40)] = "",
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> HTMLResponse:
    """Show the runs; asked by htmx, only their table."""
    chosen_by = RunFilter(q, kind, state, page)
    rows = server_of(request).catalogue.rows()
    chosen = chosen_by.chosen(rows)
    pages = max(1, -(-len(chosen) // PAGE_ROWS))
    page = min(page, pages)
    part = "hx-request" in request.headers
    return render(
        request,
        "_runs.html.j2" if part else "runs.html.j2",
        rows=chosen[(page - 1) * PAGE_ROWS : page * PAGE_ROWS],
        number=len(chosen),
        total=len(rows),
        page=page,
        pages=pages,
        filter=chosen_by,
        kinds=Counter(row.kind for row in rows if row.kind),
        states=Counter(row.progress.state for row in rows),
    )


@router.get("/live")
async def live(request: Request) -> StreamingResponse:
    """Say which runs have changed, as server-sent events, as long as the browser listens."""
    return StreamingResponse(
        server_of(request).live.stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )
