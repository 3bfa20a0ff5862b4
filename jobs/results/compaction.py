"""``neurofleet results OUT --compact``: the files of finished cells merged, and what that saved."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.progress import Progress

from neurofleet.cluster.store.generations import Compaction
from neurofleet.errors import JobError, UsageError
from neurofleet.jobs.reports.tables import print_line
from neurofleet.jobs.results.run_tables import existing_run

SHOWN_CELLS = 5


def compact_command(out: str, query: str | None, as_json: bool, views: bool = False) -> None:
    """Compact a run, and print what was done.

    Raises
    ------
    UsageError
        When `out` is not a run folder, or a query or the views were asked for too.
    RunFolderRefused
        When a driver is at work in it.
    JobError
        When some generations could not be merged; the others are.
    """
    for option, given in (("--query", query is not None), ("--views", views)):
        if given:
            raise UsageError(f"--compact and {option} were given together. Compact first, then ask: two commands.")
    console = Console(stderr=True)
    with (
        existing_run(out).locked() as store,
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("compacting")
        done = store.compact(lambda number, of: progress.update(bar, completed=number, total=of))
    if as_json:
        print(json.dumps(asdict(done), indent=1))
    else:
        for line in compaction_lines(done):
            print_line(Console(), line)
    if done.failed:
        raise JobError(f"{out}: not all could be compacted.\n" + "\n".join(done.failed.values()))


def compaction_lines(done: "Compaction") -> list[str]:
    """Return what a compaction did, in words."""
    lines = []
    if done.files_after:
        lines.append(
            f"{done.files_before:,} files ({_mb(done.bytes_before)}) became {done.files_after:,} "
            f"({_mb(done.bytes_after)}); every row was read back and compared before a file was removed."
        )
    elif not done.failed:
        lines.append("Nothing to compact: no finished cell has several files for one stage and seed.")
    if done.unfinished:
        cells = list(done.unfinished)
        shown = ", ".join(cells[:SHOWN_CELLS]) + (", …" if len(cells) > SHOWN_CELLS else "")
        of_cells = "1 cell that has" if len(cells) == 1 else f"{len(cells):,} cells that have"
        lines.append(
            f"Left as they are: {sum(done.unfinished.values()):,} files of {of_cells} no pooled hall of fame "
            f"yet ({shown})."
        )
    return lines


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
