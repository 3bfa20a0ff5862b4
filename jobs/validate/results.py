"""What a validation has found: on the terminal, and as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.populations.folder import read_findings

if TYPE_CHECKING:
    from rich.console import Console

HEAD = (
    "cell",
    "models",
    "failed",
    "training, z",
    "unseen steps, z",
    "explained variance",
    "PSTH form, %",
)
MEASURES = ("training", "generalisation", "explained_variance", "psth_explained_variance_percent")


def print_results(out: str, as_json: bool) -> None:
    """Print the errors of each cell's models."""
    from rich.console import Console

    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_found(found, Console())


def print_found(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table of cells."""
    from rich.table import Table

    table = Table(title=f"{found['name']}: best model (median of all, lowest to highest)")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left")
    for row in cell_rows(found):
        table.add_row(*map(str, row))
    console.print(table)


def cell_rows(found: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return a row of `HEAD` for each cell."""
    return [
        (
            cell["cell"],
            cell["models"],
            cell["failed"] or "",
            *(_told(cell[name], cell["models"]) for name in MEASURES),
        )
        for cell in found["cells"]
    ]


def _told(measure: Mapping[str, float | None], models: int) -> str:
    if measure["median"] is None:
        return ""
    best = "failed" if measure["best_model"] is None else f"{measure['best_model']:.3g}"
    if models == 1:
        return best
    return f"{best} ({measure['median']:.3g}, {measure['low']:.3g} to {measure['high']:.3g})"
