"""What a sensitivity analysis has found: on the terminal, and as JSON."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.populations.folder import read_findings
from jobs.sensitivity.engines import BEST
from jobs.sensitivity.tables import INDICES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

POOR = 0.1
"""From this leave-one-out error on, a share of the variance, a surrogate's indices are to be doubted."""

HEAD = ("feature", "parameter", "first-order", "[95 %]", "total", "[95 %]", "models")
QUALITY_HEAD = (
    "feature",
    "models",
    "error, order 4",
    "largest",
    "error, best order",
    "order",
    "runs left out",
    "without indices",
)
AGREEMENT_HEAD = ("", "against", "feature", "indices", "largest difference", "inside its 95 % interval")


def print_results(out: str, as_json: bool) -> None:
    """Print the mean indices of each feature."""
    from rich.console import Console

    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_found(found, Console())


def print_found(found: Mapping[str, Any], console: "Console") -> None:
    """Print the mean indices of the job's engine, and how far to trust them."""
    for engine in shown_engines(found):
        console.print(_table(found, engine))
    for line in remarks(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def shown_engines(found: Mapping[str, Any]) -> list[str]:
    """Return the engines whose means are shown: the job's, and the best order."""
    return [found["engine"], BEST]


def _table(found: Mapping[str, Any], engine: str) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{found['name']}: Sobol indices, ±{100 * found['half_width']:g} %, {engine}")
    rows = index_rows(found, engine)
    shown = [i for i, name in enumerate(HEAD) if not name.startswith("[") or any(row[i] for row in rows)]
    for i in shown:
        table.add_column(escape(HEAD[i]), justify="right" if i > 1 else "left", no_wrap=i == 1)
    last = ""
    for row in rows:
        table.add_row(*("" if i == 0 and row[0] == last else row[i] for i in shown))
        last = row[0]
    return table


def index_rows(found: Mapping[str, Any], engine: str) -> list[tuple[str, ...]]:
    """Return a row of `HEAD` for each feature and parameter, parameters that matter most on top."""
    rows = [row for row in found["averages"] if row["engine"] == engine and row["total"] is not None]
    order = {feature: i for i, feature in enumerate(found["features"])}
    rows.sort(key=lambda row: (order[row["feature"]], -row["total"]))
    return [
        (
            row["feature"],
            row["parameter"],
            f"{row['first']:.3f}",
            _interval(row, "first"),
            f"{row['total']:.3f}",
            _interval(row, "total"),
            str(row["models"]),
        )
        for row in rows
    ]


def _interval(row: Mapping[str, Any], kind: str) -> str:
    if row[f"{kind}_low"] is None:
        return ""
    return f"{row[f'{kind}_low']:.3f} … {row[f'{kind}_high']:.3f}"


def quality_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of `QUALITY_HEAD` for each feature."""
    return [
        (
            one["feature"],
            str(one["models"]),
            "" if one["median_error"] is None else f"{one['median_error']:.3f}",
            "" if one["largest_error"] is None else f"{one['largest_error']:.3f}",
            "" if one["best_median_error"] is None else f"{one['best_median_error']:.3f}",
            ", ".join(map(str, one["best_orders"])),
            str(one["left_out"]),
            "; ".join(one["reasons"]),
        )
        for one in found["surrogates"]
    ]


def agreement_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of `AGREEMENT_HEAD` for each other engine and feature."""
    return [
        (
            one["of"],
            one["engine"],
            one["feature"],
            str(one["indices"]),
            "" if one["largest_difference"] is None else f"{one['largest_difference']:.2g}",
            "" if one["inside_interval"] is None else f"{one['inside_interval']} of {one['indices']}",
        )
        for one in found["agreements"]
    ]


def remarks(found: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the indices must not miss."""
    lines = []
    for one in found["surrogates"]:
        if one["reasons"]:
            lines.append(f"{one['feature']} has no indices in some models: {'; '.join(one['reasons'])}.")
        if one["median_error"] is not None and one["median_error"] > POOR:
            lines.append(
                f"{one['feature']}: the polynomial of order 4 misses a run that it has not seen by"
                f" {one['median_error']:.2g} of the variance (leave-one-out, median over models), that of the"
                f" best order ({', '.join(map(str, one['best_orders']))}) by {one['best_median_error']:.2g}."
                f" What a polynomial misses, jumps and the solver's roughness, is in no index of `{BEST}`;"
                " order 4 and SALib count it in every parameter's total."
            )
    failed = sum(count for status, count in found["outcomes"].items() if status != "ok")
    if failed:
        told = ", ".join(f"{count} {status}" for status, count in found["outcomes"].items() if status != "ok")
        lines.append(f"{failed:,} of {sum(found['outcomes'].values()):,} runs failed ({told}); left out.")
    for one in found["agreements"]:
        place = f"{one['of']} against {one['engine']}, {one['feature']}"
        if one["inside_interval"] is not None:
            lines.append(
                f"{place}: {one['inside_interval']} of {one['indices']} indices inside its 95 % interval,"
                f" largest difference {one['largest_difference']:.2g}."
            )
        elif one["largest_difference"] is not None:
            lines.append(f"{place}: differs by {one['largest_difference']:.2g} at most.")
    if not any(row["total"] is not None for row in found["averages"]):
        lines.append(f"No feature has indices; {INDICES} tells why for each model.")
    return lines
