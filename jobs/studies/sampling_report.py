"""What a sample has found: what was accepted, which targets reject, how conductances go together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import PARAMETER_PREFIX
from neurofleet.jobs.progress import duration
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import FAINT, SEEDS, picture
from neurofleet.jobs.studies.study import read_findings, write_study_page

HEAD = ("cell", "draws", "accepted", "share", "failed", "core-hours", "models/s and core")


def print_results(out: str, as_json: bool) -> None:
    """Print how many models each cell has."""
    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_sample_findings(found, Console())


def print_sample_findings(found: Mapping[str, Any], console: "Console") -> None:
    """Print a table of cells."""
    table = Table(title=f"{found['name']}: within {found['within_z']:g} standard deviations of every target")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if i else "left")
    for row in acceptance_table(found):
        table.add_row(*map(str, row))
    console.print(table)
    for line in remarks(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def acceptance_table(found: Mapping[str, Any]) -> list[tuple[object, ...]]:
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


ACROSS = 6
BINS = 20


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished sample, and return where it is."""
    return write_sample_report(RunStore(folder), read_findings(folder))


def write_sample_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of a sample whose tables are stored."""
    stop = (
        " A draw that misses a target is not run at stronger steps, so later targets are met by fewer draws."
        if found["stop_early"]
        else ""
    )
    axes = {
        "linear": "uniformly",
        "log": "uniformly, conductances and calcium's decay on logarithmic axes",
    }
    body = [
        html.paragraph(
            f"{found['draws']:,} draws a cell ({found['design']}), {axes[found['scale']]} in the bounds. A "
            f"draw is accepted when each e-feature has a value and is within {found['within_z']:g} standard "
            f"deviations of the recorded mean.{stop}",
            "quiet",
        ),
        html.table(HEAD, acceptance_table(found), numbers=range(1, len(HEAD))),
        *(html.paragraph(line, "note") for line in remarks(found)),
    ]
    acceptance, correlations = store.table("acceptance.parquet"), store.table("correlations.parquet")
    for cell in found["cells"]:
        body += _cell(store, cell, acceptance, correlations)
    return write_study_page(store, found, body)


def _cell(
    store: "RunStore",
    cell: Mapping[str, Any],
    acceptance: "pa.Table | None",
    correlations: "pa.Table | None",
) -> list[str]:
    assert acceptance is not None
    rows = [row for row in acceptance.to_pylist() if row["cell"] == cell["cell"]]
    head = ("target", "mean", "std", "draws with a value", "within", "rejected first")
    body = [
        html.heading(2, cell["cell"]),
        html.table(
            head,
            [
                (
                    row["objective"],
                    f"{row['mean']:.4g}",
                    f"{row['std']:.3g}",
                    f"{row['with_value']:,}",
                    f"{row['within']:,}",
                    f"{row['rejected_first']:,}",
                )
                for row in rows
            ],
            numbers=range(1, 6),
        ),
    ]
    accepted = store.table(f"accepted/cell={cell['cell']}/part.parquet")
    if accepted is not None and len(accepted) > 1:
        body.append(_marginals(cell, accepted))
        pairs = [] if correlations is None else correlations.to_pylist()
        if pairs := [row for row in pairs if row["cell"] == cell["cell"]]:
            body.append(_correlations(cell, pairs))
    return body


def _marginals(cell: Mapping[str, Any], accepted: "pa.Table") -> str:
    names = cell["parameters"]
    across = min(ACROSS, len(names))
    down = -(-len(names) // across)

    def draw(figure: Any) -> None:
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, name in zip(axes, names, strict=False):
            axis.hist(accepted[PARAMETER_PREFIX + name].to_numpy(), bins=BINS, color=SEEDS[0])
            axis.set_title(name)
            axis.set_yticks([])
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        for axis in axes[len(names) :]:
            axis.set_axis_off()

    label = f"histograms of the accepted parameters of {cell['cell']}"
    return html.figure(
        picture(1.25 * down + 0.2, draw, label),
        f"Parameters of the {len(accepted):,} accepted models, each over the range that they take.",
    )


def _correlations(cell: Mapping[str, Any], pairs: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in pairs for name in (row["a"], row["b"])))
    matrix = np.full((len(names), len(names)), np.nan)
    for row in pairs:
        i, j = names.index(row["a"]), names.index(row["b"])
        matrix[j, i] = row["rho"]
    certain = [row for row in pairs if row["p_adjusted"] < 0.05]

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        shown = axis.pcolormesh(matrix, cmap="RdBu_r", vmin=-1, vmax=1)  # the page shows no embedded images
        axis.invert_yaxis()
        axis.set_aspect("equal")
        middles = np.arange(len(names)) + 0.5
        axis.set_xticks(middles, names, rotation=60, ha="right")
        axis.set_yticks(middles, names)
        for row in certain:
            axis.plot(names.index(row["a"]) + 0.5, names.index(row["b"]) + 0.5, "o", ms=2, color="black")
        axis.spines[:].set_color(FAINT)
        figure.colorbar(shown, ax=axis, label="Spearman's ρ", shrink=0.7).solids.set_rasterized(False)

    height = min(9.0, 1.8 + 0.22 * len(names))
    strongest = max(certain, key=lambda row: abs(row["rho"]), default=None)
    told = f" The strongest is {strongest['a']} with {strongest['b']}: ρ = {strongest['rho']:.2f}." if strongest else ""
    return html.figure(
        picture(height, draw, f"correlations of accepted conductances of {cell['cell']}"),
        f"Correlations between conductances of accepted models; {len(certain)} of {len(pairs)} (dots) differ "
        f"from zero at 5 % (Benjamini-Hochberg).{told}",
    )
