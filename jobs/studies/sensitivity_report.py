"""What a sensitivity analysis has found: on the terminal, as JSON, and as a report with pictures of the indices."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import FAINT, INK, SEEDS, grid, picture
from neurofleet.jobs.studies.sensitivity_indices import BEST, CHAOS, INDICES, UNCERTAINPY
from neurofleet.jobs.studies.study import read_findings, write_study_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
    found = read_findings(out)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_sensitivity_findings(found, Console())


def print_sensitivity_findings(found: Mapping[str, Any], console: "Console") -> None:
    """Print the mean indices of the job's engine, and how far to trust them."""
    for engine in shown_engines(found):
        console.print(_table(found, engine))
    for line in remarks(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def shown_engines(found: Mapping[str, Any]) -> list[str]:
    """Return the engines whose means are shown: the job's, and the best order."""
    return [found["engine"], BEST]


def _table(found: Mapping[str, Any], engine: str) -> "Table":
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


ACROSS = 3
ROW_IN = 0.24
MAP_COLOUR = "#1f66b8"
SHOWN_KINDS = (("first", "first order", SEEDS[0]), ("total", "total", SEEDS[1]))
DARK = 0.6


def bars_figure(rows: Sequence[Mapping[str, Any]], features: Sequence[str], parameters: Sequence[str]) -> str:
    """Return bars of mean first-order and total indices, a panel for each feature that has some.

    Parameters
    ----------
    rows : sequence of mapping
        Averages of one engine.
    features, parameters : sequence of str
    """
    place = {(row["feature"], row["parameter"]): row for row in rows if row["total"] is not None}
    shown = [feature for feature in features if any(key[0] == feature for key in place)]
    lines = -(-len(shown) // ACROSS)

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(lines, min(ACROSS, len(shown)), squeeze=False, sharex=True, sharey=True)
        for axes, feature in zip(panels.flat, shown, strict=False):
            found = [place.get((feature, parameter)) for parameter in parameters]
            _bars(axes, feature, found)
        panels.flat[0].set_xlim(*_limits(list(place.values())))
        panels.flat[0].set_yticks(range(len(parameters)), parameters)
        panels.flat[0].set_ylim(len(parameters) - 0.4, -0.6)
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for column in panels.T:
            last = [axes for axes in column if axes.get_visible()][-1]
            last.set_xlabel("Sobol index")
            last.tick_params(labelbottom=True)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)

    height = lines * (ROW_IN * 1.4 * len(parameters) + 0.5) + 0.5
    return picture(height, draw, "Sobol indices of each feature to each parameter")


def _bars(axes: "Axes", feature: str, rows: Sequence[Mapping[str, Any] | None]) -> None:
    axes.set_title(feature)
    grid(axes, "x")
    for side, (kind, label, colour) in zip((-0.19, 0.19), SHOWN_KINDS, strict=True):
        values = np.array([np.nan if row is None else row[kind] for row in rows])
        y = np.arange(len(rows)) + side
        axes.barh(y, values, height=0.36, color=colour, label=label)
        low, high = (_bound(rows, f"{kind}_{end}") for end in ("low", "high"))
        known = np.isfinite(low)
        if known.any():
            reach = np.clip([(values - low)[known], (high - values)[known]], 0, None)
            axes.errorbar(values[known], y[known], xerr=reach, fmt="none", ecolor=INK, elinewidth=0.9)


def _limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return an axis from 0 to 1, and further where an estimate or an interval goes further."""
    names = [name for kind, _, _ in SHOWN_KINDS for name in (kind, f"{kind}_low", f"{kind}_high")]
    values = [row[name] for row in rows for name in names if row[name] is not None]
    return min(0.0, *values), max(1.0, *values) * 1.02


def _bound(rows: Sequence[Mapping[str, Any] | None], name: str) -> np.ndarray:
    return np.array([np.nan if row is None or row[name] is None else row[name] for row in rows])


def index_map_figure(rows: Sequence[Mapping[str, Any]], features: Sequence[str], parameters: Sequence[str]) -> str:
    """Return a map of mean total indices: features by parameters, each with its number."""
    place = {(row["feature"], row["parameter"]): row["total"] for row in rows}
    values = np.array([[place.get((f, p)) for p in parameters] for f in features], dtype=np.float64)

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap, to_rgba

        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("share", [to_rgba(MAP_COLOUR, 0.04), to_rgba(MAP_COLOUR)])
        axes.pcolormesh(values, cmap=colours, vmin=0, vmax=1, edgecolors=FAINT, linewidth=0.4)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                text = "–" if np.isnan(value) else f"{value:.2f}"
                ink = "w" if value > DARK else INK
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink)
        axes.set_xticks(np.arange(len(parameters)) + 0.5, parameters, rotation=20, ha="right")
        axes.set_yticks(np.arange(len(features)) + 0.5, features)
        axes.invert_yaxis()
        axes.tick_params(length=0)

    return picture(1.0 + 0.36 * len(features), draw, "total Sobol indices, features by parameters")


MEANT = {
    CHAOS: "Polynomial chaos of total order 4, by least squares at Hammersley nodes.",
    BEST: "Polynomial chaos of the order, up to 4, whose error at runs left out is smallest; the same runs.",
    UNCERTAINPY: "uncertainpy's polynomial chaos of total order 4, point collocation at Hammersley nodes.",
}


def write_report_again(folder: Path) -> str:
    """Write ``report.html`` of a finished analysis, and return where it is."""
    return write_sensitivity_report(RunStore(folder), read_findings(folder))


def write_sensitivity_report(store: "RunStore", found: Mapping[str, Any]) -> str:
    """Write the report of an analysis whose tables are stored."""
    models = sum(cell["models"] for cell in found["cells"])
    body = [
        html.paragraph(
            f"Parameters vary independently and uniformly within ±{100 * found['half_width']:g} % of each of"
            f" {models:,} model(s) of {len(found['cells']):,} cell(s). A first-order index is the share of a"
            " feature's variance that a parameter causes alone, a total index its share with all"
            " interactions. Means are over cells, each counted once; intervals"
            " resample cells, or the models of a single cell, and are left out where there is one model.",
            "quiet",
        ),
        *(html.paragraph(line, "note") for line in remarks(found)),
    ]
    for engine in shown_engines(found):
        body += _indices(found, engine)
    body += [
        html.heading(2, "How far to trust them"),
        html.paragraph(
            "The error of a surrogate is that at a run which it was not fitted to (leave-one-out), as a share"
            " of the feature's variance: 0 is exact, 1 no better than the mean.",
            "quiet",
        ),
        html.table(QUALITY_HEAD, quality_rows(found), numbers=range(1, 7)),
    ]
    if found["agreements"]:
        body += [
            html.paragraph("The same indices by other routes:"),
            html.table(AGREEMENT_HEAD, agreement_rows(found), numbers=range(3, 6)),
        ]
    return write_study_page(store, found, body)


def _indices(found: Mapping[str, Any], engine: str) -> list[str]:
    rows = [row for row in found["averages"] if row["engine"] == engine]
    if not any(row["total"] is not None for row in rows):
        return []
    parameters = list(dict.fromkeys(row["parameter"] for row in rows))
    bars = bars_figure(rows, found["features"], parameters)
    shares = index_map_figure(rows, found["features"], parameters)
    return [
        html.heading(2, f"Indices: {engine}"),
        html.paragraph(MEANT[engine], "quiet"),
        html.figure(bars, "Mean indices by feature, with 95 % intervals where there are several models."),
        html.figure(shares, "Mean total index; a dash where a feature has none."),
        html.details("Numbers", html.table(HEAD, index_rows(found, engine), numbers=range(2, len(HEAD)))),
    ]
