"""The findings of a sensitivity analysis: mean Sobol indices and their errors, and a report with pictures of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import BLUE, FAINT, INK, SEEDS, colour_bar, grid, picture
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.studies.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHAOS = "polynomial-chaos"
"""Of a total order, by default 4 as in the paper."""

BEST = "best-order"
"""Polynomial chaos of the order, up to that one, that predicts a feature best; from the same runs."""

SALIB, UNCERTAINPY = "salib", "uncertainpy"
DESCRIPTIONS = {
    CHAOS: "Polynomial chaos of total order {order}, by least squares at Hammersley nodes.",
    BEST: "Polynomial chaos of the order, up to {order}, whose error at runs left out is smallest; the same runs.",
    UNCERTAINPY: "uncertainpy's polynomial chaos of total order {order}, point collocation at Hammersley nodes.",
}
INDICES = "indices.parquet"
MAP_CAPTION = (
    "Mean total Sobol index of each e-feature (rows) to each parameter (columns); a dash where a feature has none."
)
KINDS = ("first", "total")
POOR = 0.1
"""From this leave-one-out error on, a share of the variance, a polynomial's indices are doubtful."""

ACROSS = 3
ROW_IN = 0.24
SHOWN_KINDS = (("first", "first order", SEEDS[0]), ("total", "total", SEEDS[1]))
DARK = 0.6


@dataclass(frozen=True, kw_only=True)
class AnalysedCell:
    """A cell, its models, the step that they were given, and the parameters that were moved."""

    cell: str
    models: int
    protocol: str = ""
    amplitude_nA: float = 0.0
    parameters: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AverageIndex:
    """First-order and total index of a feature to a parameter: means over cells, None where not known.

    Attributes
    ----------
    engine, feature, parameter : str
    first, first_low, first_high, first_spread : float or None
        Mean, interval of 95 %, and standard deviation.
    cells, models : int
        Those with an index.
    total, total_low, total_high, total_spread : float or None
    """

    engine: str
    feature: str
    parameter: str
    first: float | None = None
    first_low: float | None = None
    first_high: float | None = None
    first_spread: float | None = None
    cells: int = 0
    models: int = 0
    total: float | None = None
    total_low: float | None = None
    total_high: float | None = None
    total_spread: float | None = None


@dataclass(frozen=True, kw_only=True)
class SurrogateError:
    """How well polynomials predict runs that they were not fitted to, as a share of a feature's variance.

    Attributes
    ----------
    feature : str
    models : int
        Those with a polynomial.
    median_error, largest_error : float or None
        Of the whole order.
    best_median_error : float or None
    best_orders : list of int
        Of the orders that predict best.
    left_out : int
        Runs without the feature.
    reasons : list of str
        Why models have no indices.
    """

    feature: str
    models: int = 0
    median_error: float | None = None
    largest_error: float | None = None
    best_median_error: float | None = None
    best_orders: list[int] = field(default_factory=list)
    left_out: int = 0
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the indices of a feature by two engines are apart.

    Attributes
    ----------
    of, engine, feature : str
    indices : int
        Those that both have.
    largest_difference : float or None
    inside_interval : int or None
        Indices inside the interval of the second engine; None where it has no intervals.
    """

    of: str
    engine: str
    feature: str
    indices: int = 0
    largest_difference: float | None = None
    inside_interval: int | None = None


@dataclass(frozen=True, kw_only=True)
class SensitivityFindings(Findings):
    """Mean indices, and how far to trust them."""

    half_width: float
    engine: str
    check: str | None = None
    order: int = 4
    features: list[str] = field(default_factory=list)
    cells: list[AnalysedCell] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    surrogates: list[SurrogateError] = field(default_factory=list)
    averages: list[AverageIndex] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)

    @property
    def shown_engines(self) -> tuple[str, str]:
        """The engines whose means are shown: the job's, and the best order."""
        return self.engine, BEST

    def tables(self) -> list[ReportTable]:
        """Return the mean indices."""
        return [self.indices(engine) for engine in self.shown_engines]

    def indices(self, engine: str) -> ReportTable:
        """Return a row for each feature and parameter, parameters that matter most on top."""
        order = {feature: i for i, feature in enumerate(self.features)}
        known = [row for row in self.averages if row.engine == engine and row.total is not None]
        rows = [
            (
                row.feature,
                row.parameter,
                _number(row.first, ".3f"),
                _interval(row.first_low, row.first_high),
                _number(row.total, ".3f"),
                _interval(row.total_low, row.total_high),
                row.models,
            )
            for row in sorted(known, key=lambda row: (order[row.feature], -(row.total or 0.0)))
        ]
        return ReportTable(
            ("feature", "parameter", "first-order", "[95 %]", "total", "[95 %]", "models"),
            rows,
            numbers=range(2, 7),
            title=f"{self.name}: Sobol indices, ±{100 * self.half_width:g} %, {engine}",
            no_wrap=(1,),
            optional=(3, 5),
            grouped=True,
        )

    def quality(self) -> ReportTable:
        """Return a row for each feature: the errors of its polynomials."""
        head = (
            "feature",
            "models",
            f"error, order {self.order}",
            "largest",
            "error, best order",
            "order",
            "runs left out",
            "without indices",
        )
        rows = [
            (
                surrogate.feature,
                surrogate.models,
                _number(surrogate.median_error, ".3f"),
                _number(surrogate.largest_error, ".3f"),
                _number(surrogate.best_median_error, ".3f"),
                ", ".join(map(str, surrogate.best_orders)),
                surrogate.left_out,
                "; ".join(surrogate.reasons),
            )
            for surrogate in self.surrogates
        ]
        return ReportTable(head, rows, numbers=range(1, 7))

    def agreement(self) -> ReportTable:
        """Return a row for each pair of engines and feature."""
        head = ("", "against", "feature", "indices", "largest difference", "inside its 95 % interval")
        rows = [
            (
                pair.of,
                pair.engine,
                pair.feature,
                pair.indices,
                _number(pair.largest_difference, ".2g"),
                "" if pair.inside_interval is None else f"{pair.inside_interval} of {pair.indices}",
            )
            for pair in self.agreements
        ]
        return ReportTable(head, rows, numbers=range(3, 6))

    def remarks(self) -> list[str]:
        """Return what a reader of the indices must not miss."""
        lines = []
        for surrogate in self.surrogates:
            if surrogate.reasons:
                lines.append(f"{surrogate.feature} has no indices in some models: {'; '.join(surrogate.reasons)}.")
            if surrogate.median_error is not None and surrogate.median_error > POOR:
                lines.append(
                    f"{surrogate.feature}: the polynomial of order {self.order} misses a run that it was not fitted to"
                    f" by {surrogate.median_error:.2g} of the variance (leave-one-out, median over models), that of the"
                    f" best order ({', '.join(map(str, surrogate.best_orders))}) by"
                    f" {_number(surrogate.best_median_error, '.2g')}."
                    f" What a polynomial misses, jumps and the solver's roughness, is in no index of `{BEST}`;"
                    f" order {self.order} and SALib count it in every parameter's total."
                )
        failures = {status: count for status, count in self.outcomes.items() if status != "ok"}
        if failures:
            counts = ", ".join(f"{count} {status}" for status, count in failures.items())
            runs = sum(self.outcomes.values())
            lines.append(f"{sum(failures.values()):,} of {runs:,} runs failed ({counts}); left out.")
        for pair in self.agreements:
            which, difference = f"{pair.of} against {pair.engine}, {pair.feature}", pair.largest_difference
            if pair.inside_interval is not None:
                lines.append(
                    f"{which}: {pair.inside_interval} of {pair.indices} indices inside its 95 % interval,"
                    f" largest difference {difference:.2g}."
                )
            elif difference is not None:
                lines.append(f"{which}: differs by {difference:.2g} at most.")
        if all(row.total is None for row in self.averages):
            lines.append(f"No feature has indices; {INDICES} says why for each model.")
        return lines

    def verdict(self) -> list[str]:
        """Return the parameter that matters most to each feature, how sure that is, and how many runs failed."""
        lines = []
        for feature in self.features:
            known = [row for row in self.averages if (row.engine, row.feature) == (self.engine, feature)]
            most = max(known, key=lambda row: row.total or 0.0, default=None)
            if most is None or most.total is None:
                lines.append(f"{feature}: no indices")
                continue
            interval = _interval(most.total_low, most.total_high)
            error = next((s.median_error for s in self.surrogates if s.feature == feature), None)
            doubtful = " (doubtful)" if error is not None and error > POOR else ""
            lines.append(
                f"{feature}: most of it from {most.parameter}, total index {most.total:.2f} {interval}".rstrip()
                + ("" if error is None else f"; the polynomial misses {error:.0%} of the variance{doubtful}")
            )
        runs = sum(self.outcomes.values())
        return [*lines, f"failed: {runs - self.outcomes.get('ok', 0):,} of {runs:,} runs"]

    def sections(self, store: RunStore) -> list[str]:
        """Return the indices of each engine, and how far to trust them."""
        models = sum(cell.models for cell in self.cells)
        parts = [
            html.paragraph(
                f"Parameters vary independently and uniformly within ±{100 * self.half_width:g} % of each of"
                f" {models:,} models of {len(self.cells):,} cells. A first-order index is the share of a"
                " feature's variance that a parameter causes alone, a total index its share with all"
                " interactions. Means are over cells, each counted once; intervals"
                " resample cells, or the models of a single cell, and are left out where there is one model.",
                "quiet",
            ),
            *(html.paragraph(line, "note") for line in self.remarks()),
        ]
        for engine in self.shown_engines:
            parts += self._engine_section(engine)
        parts += [
            html.heading(2, "How far to trust them"),
            html.paragraph(
                "The error of a polynomial is that at a run which it was not fitted to (leave-one-out), as a share"
                " of the feature's variance: 0 is exact, 1 no better than the mean.",
                "quiet",
            ),
            self.quality().html(),
        ]
        if self.agreements:
            parts += [html.paragraph("The same indices by other routes:"), self.agreement().html()]
        return parts

    def _engine_section(self, engine: str) -> list[str]:
        rows = [row for row in self.averages if row.engine == engine]
        if all(row.total is None for row in rows):
            return []
        parameters = list(dict.fromkeys(row.parameter for row in rows))
        bars = bars_figure(rows, self.features, parameters)
        shares = index_map_figure(rows, self.features, parameters)
        return [
            html.heading(2, f"Indices: {engine}"),
            html.paragraph(DESCRIPTIONS[engine].format(order=self.order), "quiet"),
            html.figure(bars, "Mean indices by feature, with 95 % intervals where there are several models."),
            html.figure(shares, MAP_CAPTION),
            html.details("Numbers", self.indices(engine).html()),
        ]


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{low:.3f} … {high:.3f}"


def bars_figure(rows: Sequence[AverageIndex], features: Sequence[str], parameters: Sequence[str]) -> str:
    """Return bars of mean first-order and total indices, a panel for each feature that has some.

    Parameters
    ----------
    rows : sequence of AverageIndex
        Of one engine.
    features, parameters : sequence of str
    """
    place = {(row.feature, row.parameter): row for row in rows if row.total is not None}
    shown = [feature for feature in features if any(key[0] == feature for key in place)]
    lines = -(-len(shown) // ACROSS)

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(lines, min(ACROSS, len(shown)), squeeze=False, sharex=True, sharey=True)
        for axes, feature in zip(panels.flat, shown, strict=False):
            _bars(axes, feature, [place.get((feature, parameter)) for parameter in parameters])
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


def _bars(axes: "Axes", feature: str, rows: Sequence[AverageIndex | None]) -> None:
    axes.set_title(feature)
    grid(axes, "x")
    for side, (kind, label, colour) in zip((-0.19, 0.19), SHOWN_KINDS, strict=True):
        values = _values(rows, kind)
        y = np.arange(len(rows)) + side
        axes.barh(y, values, height=0.36, color=colour, label=label)
        low, high = (_values(rows, f"{kind}_{end}") for end in ("low", "high"))
        known = np.isfinite(low)
        if known.any():
            reach = np.clip([(values - low)[known], (high - values)[known]], 0, None)
            axes.errorbar(values[known], y[known], xerr=reach, fmt="none", ecolor=INK, elinewidth=0.9)


def _limits(rows: Sequence[AverageIndex]) -> tuple[float, float]:
    """Return an axis from 0 to 1, and further where an estimate or an interval goes further."""
    names = [name for kind, _, _ in SHOWN_KINDS for name in (kind, f"{kind}_low", f"{kind}_high")]
    values = [value for name in names for value in _values(rows, name) if not np.isnan(value)]
    return min(0.0, *values), max(1.0, *values) * 1.02


def _values(rows: Sequence[AverageIndex | None], name: str) -> np.ndarray:
    """Return one number of each index, NaN where it is not known."""
    values = [None if row is None else getattr(row, name) for row in rows]
    return np.array([np.nan if value is None else value for value in values])


def index_map_figure(rows: Sequence[AverageIndex], features: Sequence[str], parameters: Sequence[str]) -> str:
    """Return a map of mean total indices: features by parameters, each with its number."""
    place = {(row.feature, row.parameter): row.total for row in rows}
    values = np.array([[place.get((f, p)) for p in parameters] for f in features], dtype=np.float64)

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap, to_rgba

        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("share", [to_rgba(BLUE, 0.04), to_rgba(BLUE)])
        mesh = axes.pcolormesh(values, cmap=colours, vmin=0, vmax=1, edgecolors=FAINT, linewidth=0.4)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                text = "–" if np.isnan(value) else f"{value:.2f}"
                ink = "w" if value > DARK else INK
                axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=ink)
        axes.set_xticks(np.arange(len(parameters)) + 0.5, parameters, rotation=20, ha="right")
        axes.set_yticks(np.arange(len(features)) + 0.5, features)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.set(xlabel="parameter", ylabel="e-feature")
        colour_bar(figure, mesh, axes, "total index", ticks=[0, 0.5, 1], aspect=12)

    return picture(1.3 + 0.36 * len(features), draw, "total Sobol indices, features by parameters")
