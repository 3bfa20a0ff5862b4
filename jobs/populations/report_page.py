"""What the reports of all jobs over populations have in common: notes, and where they come from."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.report import page

if TYPE_CHECKING:
    from cluster.store import RunStore

NAME = "report.html"


def write_page(store: "RunStore", found: Mapping[str, Any], body: Sequence[str]) -> str:
    """Write ``report.html`` with a job's name on top and its origin below, and return where it is."""
    parts = [page.heading(1, found["name"]), *body]
    if found["notes"]:
        parts += [page.heading(2, "Notes"), *(page.paragraph(note) for note in found["notes"])]
    parts += [
        page.heading(2, "Where this comes from"),
        page.table(("", ""), [("run folder", store.root), *found["versions"].items()]),
        page.details("The job", page.code(store.read_text("job.yaml") or "")),
    ]
    store.write_text(NAME, page.page(f"{found['name']}: report", parts))
    return f"{store.root.rstrip('/')}/{NAME}"
