"""``neurofleet report``: put the report of a run together and write it into its folder."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from neurofleet.jobs.quick import quick_lines
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.cell_section import cell_section, plain_section
from neurofleet.jobs.reports.fit_contents import gather
from neurofleet.jobs.results.run_summary import CellSummary, short, summaries, verdict
from neurofleet.jobs.results.run_tables import RunTables

NAME = "report.html"
MOST_BYTES = 4_500_000  # of pictures; a file much larger than that is no pleasure to open or to send


def write_fit_report(root: str | Path, print_line: Callable[[str], None] = lambda text: None) -> str:
    """Write ``report.html`` into a run folder: finished, unfinished or still at work.

    The best models are simulated again, each in a process of its own, for their traces and firing rates;
    where that fails or the inputs of the job are gone, the report says so and does without.

    Parameters
    ----------
    root : str or Path
        The run folder.
    print_line : callable
        Gets a line for each cell that is simulated.

    Returns
    -------
    str
        Where the report is.

    Raises
    ------
    UsageError
        When `root` is not a run folder.
    """
    tables = RunTables(root)
    cells = summaries(tables)
    sections: list[str] = []
    size = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for cell in cells:
            if size > MOST_BYTES:
                sections.append(plain_section(cell))
                continue
            print_line(f"{cell.cell}: simulating the best models")
            sections.append(cell_section(tables, gather(tables, cell, pool)))
            size += len(sections[-1])
    body = [*_top(tables, cells), *sections, *_provenance(tables)]
    tables.store.write_text(NAME, html.page(f"{tables.spec.name}: report", body))
    return f"{tables.store.root.rstrip('/')}/{NAME}"


def _top(tables: RunTables, cells: Sequence[CellSummary]) -> list[str]:
    spec = tables.spec
    body = [html.heading(1, spec.name), *html.alarms(quick_lines(tables.store.root))]
    body += map(html.paragraph, verdict(cells))
    body.append(html.paragraph(_state(tables, cells), "quiet"))
    finished = sum(cell.state == "finished" for cell in cells)
    if finished < len(cells):
        body.append(
            html.paragraph(
                f"This run is not finished: {finished} of {len(cells)} cells are. What follows is what it "
                "had when the report was written; the best models may still change.",
                "note",
            )
        )
    rows = [_overview(cell) for cell in cells]
    head = ("cell", "state", "last stage", "best total", "best mean |z|", "models", "failed", "core-hours")
    body.append(html.table(head, rows, numbers=range(3, 8)))
    body.append(
        html.paragraph(
            "A score is the distance of a model's e-feature from the recorded mean, in recorded standard "
            "deviations: 250 at most, and where the model has no such feature. The total is the sum over all "
            "objectives of a stage, and mean |z| their mean.",
            "quiet",
        )
    )
    return body


def _overview(cell: CellSummary) -> tuple[object, ...]:
    outcomes = [sum(stage.outcomes.values()) for stage in cell.stages]
    failed = sum(outcomes) - sum(stage.outcomes.get("ok", 0) for stage in cell.stages)
    last = cell.stages[-1] if cell.stages else None
    return (
        html.link(f"cell-{cell.cell}", cell.cell),
        cell.state,
        last.stage if last else "",
        short(last.best_total) if last else "",
        short(last.best_mean_score) if last else "",
        cell.hall_of_fame or "",
        f"{100 * failed / sum(outcomes):.2g} %" if outcomes else "",
        f"{sum(stage.core_hours for stage in cell.stages):.2g}",
    )


def _state(tables: RunTables, cells: Sequence[CellSummary]) -> str:
    events = tables.store.read_events()
    evaluations = sum(sum(stage.outcomes.values()) for cell in cells for stage in cell.stages)
    core_hours = sum(stage.core_hours for cell in cells for stage in cell.stages)
    text = f"{evaluations:,} evaluations in {core_hours:.2g} core-hours, "
    text += f"strategy {tables.spec.evolution.strategy}"
    if events:
        began, ended = (events[i]["at"][:16].replace("T", " ") for i in (0, -1))
        text += f"; begun {began}, last event {ended} UTC"
    return f"{text}."


def _provenance(tables: RunTables) -> list[str]:
    kept = json.loads(tables.store.read_text("provenance.json") or "{}")
    evolution = tables.spec.evolution
    seeds = ", ".join(map(str, evolution.seeds))
    rows = [
        ("run folder", tables.store.root),
        ("job folder", kept.get("job_folder", "unknown")),
        ("strategy", f"{evolution.strategy}; seeds {seeds} in the last stage, {evolution.seeds[0]} before"),
        ("run, or resume it", f"neurofleet run JOB.yaml --out {tables.store.root}"),
        ("summary and SQL", f'neurofleet results {tables.store.root} --query "select * from pooled"'),
        ("this page", f"neurofleet report {tables.store.root}"),
    ]
    inputs = [(name, digest) for name, digest in kept.get("inputs", {}).items()]
    events = [
        (event["at"][:19].replace("T", " "), event["event"], event.get("cell", ""), event.get("stage", ""))
        for event in tables.store.read_events()
    ]
    return [
        html.heading(2, "Where this comes from"),
        html.table(("", ""), rows),
        html.versions(kept.get("versions", {})),
        html.details("The job", html.code(tables.store.read_text("job.yaml") or "")),
        html.details(f"{len(inputs)} input files (SHA-256)", html.table(("file", "digest"), inputs)),
        html.details("What happened when (UTC)", html.table(("at", "event", "cell", "stage"), events)),
    ]
