"""What a sample has found: on the terminal, and as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.populations.folder import read_findings
from jobs.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

HEAD = ("cell", "draws", "accepted", "share", "failed", "core-hours", "models/s and core")


def print_results(out: str, as_json: bool) -> None:
    """Print how many models each cell has."""
    from rich.console import Console

    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_found(found, Console())


def print_found(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table of cells."""
    from rich.table import Table

    table = Table(title=f"{found['name']}: within {found['within_z']:g} standard deviations of every target")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left")
    for row in cell_rows(found):
        table.add_row(*map(str, row))
    console.print(table)
    for line in remarks(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def cell_rows(found: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Return a row of `HEAD` for each cell."""
    rows: list[tuple[object, ...]] = []
    for cell in found["cells"]:
        failed = cell["draws"] - cell["outcomes"].get("ok", 0)
        rows.append(
            (
                cell["cell"],
                f"{cell['draws']:,}",
                f"{cell['accepted']:,}",
                f"{cell['accepted'] / cell['draws']:.3g}",
                f"{failed:,}" if failed else "",
                f"{cell['core_seconds'] / 3600:.3g}",
                f"{cell['draws'] / max(cell['core_seconds'], 1e-9):.3g}",
            )
        )
    return rows


def remarks(found: Mapping[str, Any]) -> list[str]:
    """Return what the table does not say."""
    none = [cell for cell in found["cells"] if not cell["accepted"]]
    lines = []
    for cell in none:
        spent = duration(cell["core_seconds"])
        lines.append(
            f"{cell['cell']}: none of {cell['draws']:,} draws ({spent} on one core) is within "
            f"{found['within_z']:g} of all {cell['targets']} targets. acceptance.parquet tells which targets "
            "reject most; widen `within_z:`, choose fewer `features:`, or narrow `bounds:`, for example to "
            "those that a fit has found."
        )
    return lines
