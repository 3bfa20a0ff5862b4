"""How far a job over populations is, read from its folder alone."""

import json
from typing import TYPE_CHECKING

from jobs.populations.folder import FINDINGS
from jobs.spec import named

if TYPE_CHECKING:
    from rich.console import Console

PLANNED = "planned"
"""The event that tells how many blocks of measurements a job stores, and where."""


def print_population_status(out: str, room: str, as_json: bool, console: "Console") -> None:
    """Print how far the job in `out` is; what it found once it has ended."""
    from cluster.store import RunStore

    store = RunStore(out)
    finished = store.read_text(FINDINGS) is not None
    planned = [event for event in store.read_events() if event["event"] == PLANNED]
    blocks = planned[-1]["blocks"] if planned else None
    stored = len(store.names(planned[-1]["folder"])) if planned else 0
    holder = store.holder()
    if as_json:
        told = {"finished": finished, "running": holder, "blocks": blocks, "stored": stored}
        print(json.dumps(told))
        return
    if finished:
        named(f"{room}.results:print_results")(out, False)
        return
    rest = "nobody is at work on it; the same command as before goes on with it"
    done = f"{stored} of {blocks} blocks are stored" if planned else "nothing is stored yet"
    console.print(
        f"{out}: not finished; {f'running: {holder}' if holder else rest}. {done}.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
