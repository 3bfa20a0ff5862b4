"""The findings of a posterior: whether it has converged, what the recording allows, and what trades against what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import PARAMETER_PREFIX
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import FAINT, SEEDS, correlation_map, picture
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.reports.units import parameter_unit
from neurofleet.jobs.studies.findings import Findings, table_rows
from neurofleet.jobs.studies.populations import draws_file
from neurofleet.jobs.studies.posterior_chains import LARGEST_RHAT, LARGEST_SHIFT, StoredChain

ACROSS = 5
BINS = 30
PAIRS = 5
MANY_FAILED = 0.02
"""Share of the last stage's evaluations from which on their failures are part of the verdict."""

HEAD = ("cell", "converged", "R-hat", "effective", "accepted", "mean |z|", "evaluations", "core-h")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class CellPosterior:
    """The draws of a cell.

    Attributes
    ----------
    cell : str
    parameters : list of str
    lower, upper : list of float
        Bounds, by parameter.
    log : list of bool
        Whether the density is flat on a logarithmic axis.
    objectives : int
    engine : str
    particles, steps, drawn_steps : int
        The last ones of the steps are draws.
    power : float
        Of the density that the particles had come to; 1 for the density itself.
    evaluations : int
    outcomes, last_outcomes : dict of str to int
        Status -> evaluations, of all and of the last stage.
    core_seconds : float
    acceptance : float
        Share of the proposals.
    best_total : float
        Of the fit's hall of fame.
    median_total : float or None
        Of the draws.
    rhat, rhat_of
        The largest R-hat, None where there are no draws yet, and its parameter.
    effective, effective_of
        The smallest number of effective draws, and its parameter.
    shift, shift_of
        The largest distance between the means of the halves of the chain, in standard deviations, and its parameter.
    converged : bool
    checked, check_failed : int
        Draws that NEURON scored again, and those without a score.
    check_difference, check_largest : float or None
        Median of NEURON's total less that of the engine, and the largest absolute one.
    check_effective : float or None
        Share of the checked draws that is left, in effect, when they are weighted to be draws of NEURON's density.
    """

    cell: str
    parameters: list[str] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    log: list[bool] = field(default_factory=list)
    objectives: int
    engine: str
    particles: int
    steps: int
    drawn_steps: int
    power: float
    evaluations: int
    outcomes: dict[str, int] = field(default_factory=dict)
    last_outcomes: dict[str, int] = field(default_factory=dict)
    core_seconds: float
    acceptance: float
    best_total: float
    median_total: float | None
    rhat: float | None
    rhat_of: str
    effective: float
    effective_of: str
    shift: float | None = None
    shift_of: str = ""
    converged: bool
    checked: int = 0
    check_failed: int = 0
    check_difference: float | None = None
    check_largest: float | None = None
    check_effective: float | None = None

    def row(self) -> tuple[str, ...]:
        """Return it as a row of `HEAD`."""
        return (
            self.cell,
            "yes" if self.converged else "no",
            "" if self.rhat is None else f"{self.rhat:.3f}",
            f"{self.effective:,.0f}",
            f"{self.acceptance:.0%}",
            "" if self.median_total is None else f"{self.median_total / self.objectives:.2f}",
            f"{self.evaluations:,}",
            f"{self.core_seconds / 3600:.3g}",
        )

    def verdict(self, draws: int) -> str:
        """Return in one line whether it has converged, and what to do if not."""
        if self.power < 1.0:
            return (
                f"{self.cell}: NOT converged, and no draws: after {self.evaluations:,} evaluations the particles are "
                f"draws of the density to the power of {self.power:.2g}. Raise `most_evaluations:` and give the same "
                "command, which goes on"
            )
        mixed = self.rhat is not None and self.rhat <= LARGEST_RHAT
        least = f"{'at least' if mixed else 'about'} {self.effective:,.0f} effective draws of each parameter"
        least += "" if mixed else ", with particles taken as independent"
        rhat = "unknown" if self.rhat is None else f"{self.rhat:.3f}"
        shift = "unknown" if self.shift is None else f"{self.shift:.2f}"
        found = (
            f"{least} ({self.effective_of} has fewest), R-hat up to {rhat} ({self.rhat_of}), halves of the chain up to "
            f"{shift} standard deviations apart ({self.shift_of}), {self.evaluations:,} evaluations"
        )
        missed = f". {self.failed_line()}" if self.many_failed else ""
        if self.converged:
            return f"{self.cell}: converged, {found}{missed}"
        return (
            f"{self.cell}: NOT converged, {found}; expected {draws:,}, {LARGEST_RHAT} and {LARGEST_SHIFT}. Do not take "
            "these draws for all that the recording allows: raise `most_evaluations:` and give the same command, which "
            f"goes on{missed}"
        )

    @property
    def failed(self) -> dict[str, int]:
        """Status -> evaluations of the last stage that failed."""
        return {status: number for status, number in self.last_outcomes.items() if status != "ok"}

    @property
    def many_failed(self) -> bool:
        """Whether so many failed that draws may be missing where they did."""
        return sum(self.failed.values()) > MANY_FAILED * sum(self.last_outcomes.values())

    def failed_line(self) -> str:
        """Return how many evaluations of the last stage failed, and what that does."""
        told = ", ".join(f"{status} {number:,}" for status, number in self.failed.items())
        line = (
            f"{sum(self.failed.values()):,} of {sum(self.last_outcomes.values()):,} evaluations of the last stage "
            f"failed ({told}) and count as density zero"
        )
        if not self.many_failed:
            return line
        line += ": models that the recording allows may be among them"
        return line + (
            ". Raise `deadline_s:` or `max_steps:`, and give another --out" if "timeout" in self.failed else ""
        )

    def check_line(self) -> str:
        """Return how far the engine's totals are from NEURON's."""
        if not self.checked:
            return f"{self.cell}: no draw was scored again by NEURON"
        if self.check_difference is None:
            return f"{self.cell}: NEURON could score none of {self.checked} draws"
        failed = f", {self.check_failed} without a score" if self.check_failed else ""
        return (
            f"{self.cell}: {self.checked} draws scored again by NEURON{failed}: totals differ by "
            f"{self.check_difference:+.2f} (median; {self.check_largest:.2f} at most), of a median total of "
            f"{self.median_total:.1f}; weighted to NEURON's density, {self.check_effective:.0%} of them are left"
        )


@dataclass(frozen=True, kw_only=True)
class PosteriorFindings(Findings):
    """What was sampled of each cell.

    Attributes
    ----------
    draws : int
        Effective draws that were asked for.
    most_evaluations, checked : int
        As the job says.
    known_values : dict of str to float
        True parameters, as in the file of the job.
    cells : list of CellPosterior
    """

    draws: int
    most_evaluations: int
    checked: int
    known_values: dict[str, float] = field(default_factory=dict)
    cells: list[CellPosterior] = field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        """Return a row for each cell."""
        rows = [cell.row() for cell in self.cells]
        return [ReportTable(HEAD, rows, numbers=range(2, len(HEAD)), title=f"{self.name}: posterior")]

    def remarks(self) -> list[str]:
        """Return NEURON's scores beside the engine's, failed evaluations, and where a fit had not come to its end."""
        lines = [cell.check_line() for cell in self.cells]
        lines += [f"{cell.cell}: {cell.failed_line()}" for cell in self.cells if cell.failed]
        return lines + [
            f"{cell.cell}: most draws are better than the best model of the fit (median total {cell.median_total:.1f}, "
            f"fit {cell.best_total:.1f}): the fit had not come to its end, and the bounds that its earlier stages have "
            "narrowed may be too narrow"
            for cell in self.cells
            if cell.median_total is not None and cell.median_total < cell.best_total
        ]

    def verdict(self) -> list[str]:
        """Return whether the draws of each cell have converged."""
        unsure = [cell for cell in self.cells if not cell.converged]
        sure = [cell for cell in self.cells if cell.converged]
        return [cell.verdict(self.draws) for cell in (*unsure, *sure)]

    def sections(self, store: RunStore) -> list[str]:
        """Return what was sampled, and of each cell convergence, marginals, pairs and particles."""
        parts = [
            html.paragraph(
                "Draws from the density of models given the recording: exp(-Σz²/2) within the bounds of the fit's last "
                "stage, flat on the axes of the search, with z in standard deviations of the recording.",
                "quiet",
            ),
            *(table.html() for table in self.tables()),
            *(html.paragraph(line, "note") for line in self.remarks()),
        ]
        tables = {name: _rows(store, name) for name in ("convergence", "correlations", "predictions")}
        for cell in self.cells:
            of_cell = {name: [row for row in rows if row["cell"] == cell.cell] for name, rows in tables.items()}
            parts += self._cell(store, cell, **of_cell)
        return parts

    def _cell(
        self, store: RunStore, cell: CellPosterior, convergence: Rows, correlations: Rows, predictions: Rows
    ) -> list[str]:
        parts = [html.heading(2, cell.cell)]
        draws = store.table(draws_file(cell.cell))
        if draws is not None and len(draws):
            parts.append(_marginals(cell, draws, {row["parameter"]: row["known"] for row in convergence}))
        parts.append(_convergence(convergence))
        if correlations:
            parts.append(_correlations(cell, correlations))
        if predictions:
            parts += _predictions(cell, predictions)
        parts.append(_particles(cell, StoredChain.read(cell.cell, store)))
        return parts


def _rows(store: RunStore, name: str) -> Rows:
    """Return the rows of a table, none where there is no such table."""
    return table_rows(store, f"{name}.parquet") if store.table(f"{name}.parquet") is not None else []


def _where(at: float | None) -> str:
    """Return in which central interval a value lies that has this share of the draws below it."""
    if at is None:
        return ""
    off = abs(at - 0.5)
    return "50 %" if off <= 0.25 else "90 %" if off <= 0.45 else "outside 90 %"


def _convergence(rows: Rows) -> str:
    known = any(row["known"] is not None for row in rows)
    head: tuple[str, ...] = (
        "parameter",
        "R-hat",
        "effective draws",
        "autocorrelation, steps",
        "halves apart, SD",
        "5 %",
        "median",
        "95 %",
        "bounds",
    )
    body = [
        (
            row["parameter"],
            f"{row['rhat']:.3f}",
            f"{row['effective']:,.0f}",
            f"{row['autocorrelation']:.0f}",
            f"{row.get('shift', np.nan):.2f}",
            *(f"{row[q]:.3g}" for q in ("q05", "q50", "q95")),
            f"{row['lower']:.3g} to {row['upper']:.3g}",
            *((_number(row["known"]), _known(row)) if known else ()),
        )
        for row in rows
    ]
    if known:
        head = (*head, "true value", "lies within")
    return html.table(head, body, numbers=[i for i in range(1, len(head)) if head[i] not in ("bounds", "lies within")])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _known(row: Mapping[str, Any]) -> str:
    if row["known"] is None:
        return ""
    return _where(row["known_at"]) if row["lower"] <= row["known"] <= row["upper"] else "outside the bounds"


def _predictions(cell: CellPosterior, rows: Rows) -> list[str]:
    features = list(dict.fromkeys(row["feature"] for row in rows if row["q50"] is not None))
    steps, draws = len({row["protocol"] for row in rows}), rows[0]["draws"]
    if not features:
        none = f"{draws} draws that NEURON simulated there has an e-feature of the recorded ones"
        none = none if draws else f"{cell.checked} draws could be simulated by NEURON there"
        return [
            html.paragraph(f"Steps of the recording that no stage of the fit was trained on: {steps}. None of {none}.")
        ]
    across = min(ACROSS - 1, len(features))
    down = -(-len(features) // across)

    def draw(figure: Any) -> None:
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, feature in zip(axes, features, strict=False):
            of_feature = [row for row in rows if row["feature"] == feature and row["q50"] is not None]
            at = np.array([1000 * row["amplitude_nA"] for row in of_feature])
            for low, high, width in (("q05", "q95", 1.5), ("q25", "q75", 4.0)):
                axis.vlines(at, *([row[q] for row in of_feature] for q in (low, high)), color=SEEDS[0], linewidth=width)
            axis.plot(at, [row["q50"] for row in of_feature], "_", color=SEEDS[0])
            recorded, std = ([row[name] for row in of_feature] for name in ("recorded", "recorded_std"))
            axis.errorbar(
                at + 0.01 * np.ptp(at) + 1, recorded, std, fmt="o", markersize=3, color=SEEDS[1], linewidth=0.8
            )
            axis.set_title(feature)
            axis.set_xlabel("pA")
        for axis in axes[len(features) :]:
            axis.set_axis_off()

    common = [row for row in rows if row["recorded_at"] is not None and row["missing"] <= row["draws"] / 2]
    places = [_where(row["recorded_at"]) for row in common]
    missing = len(rows) - len(common)
    within = {place: places.count(place) for place in ("50 %", "90 %", "outside 90 %")}
    return [
        html.figure(
            picture(1.5 * down + 0.2, draw, f"e-features of draws of {cell.cell} at unseen steps"),
            f"E-features at {steps} steps of the recording that no stage of the fit was trained on: 90 % (thin), 50 % "
            f"(thick) and median of {draws} draws simulated by NEURON; dots are the recording with its "
            f"standard deviation. Of {len(places)} recorded values, {within['50 %']} lie within the central 50 % of "
            f"what the draws predict, noise of the recording included, {within['50 %'] + within['90 %']} within 90 %."
            + (f" {missing} more are of e-features that most draws do not have." if missing else ""),
        )
    ]


def _marginals(cell: CellPosterior, draws: pa.Table, known: Mapping[str, float | None]) -> str:
    across = min(ACROSS, len(cell.parameters))
    down = -(-len(cell.parameters) // across)

    def draw(figure: Any) -> None:
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for i, (axis, name) in enumerate(zip(axes, cell.parameters, strict=False)):
            low, high = cell.lower[i], cell.upper[i]
            if cell.log[i]:
                edges = np.geomspace(max(low, 1e-4 * high), high, BINS + 1)
                axis.set_xscale("log")
                axis.set_xticks(10.0 ** np.arange(np.ceil(np.log10(edges[0])), np.log10(edges[-1]) + 0.01, 2.0))
            else:
                edges = np.linspace(low, high, BINS + 1)
            values = draws[PARAMETER_PREFIX + name].to_numpy()
            axis.hist(np.clip(values, edges[0], edges[-1]), bins=edges, color=SEEDS[0])
            axis.set_xlim(edges[0], edges[-1])
            if (true := known.get(name)) is not None:
                axis.axvline(np.clip(true, edges[0], edges[-1]), color=SEEDS[1])
            axis.set_title(name)
            axis.set_xlabel(parameter_unit(name))
            axis.set_yticks([])
        for axis in axes[len(cell.parameters) :]:
            axis.set_axis_off()

    return html.figure(
        picture(1.35 * down + 0.2, draw, f"histograms of the parameters of draws of {cell.cell}"),
        f"Parameters of {len(draws):,} draws, each within its bounds on the axis of the search. What fills its axis "
        "evenly, the recording does not tell."
        + (" Lines are the true values." if any(value is not None for value in known.values()) else ""),
    )


def _correlations(cell: CellPosterior, pairs: Rows) -> str:
    names = cell.parameters
    noise = 2.0 / np.sqrt(max(cell.effective, 1.0))
    strongest = sorted((row for row in pairs if abs(row["rho"]) > noise), key=lambda row: -abs(row["rho"]))[:PAIRS]

    def draw(figure: Any) -> None:
        correlation_map(figure, names, pairs)

    told = "; ".join(f"{row['a']} with {row['b']} ({row['rho']:+.2f})" for row in strongest)
    return html.figure(
        picture(min(9.0, 1.8 + 0.22 * len(names)), draw, f"correlations of parameters of draws of {cell.cell}"),
        f"Which parameters trade against which: rank correlations over the draws. Strongest: {told or 'none'}. With "
        f"these effective draws, below {noise:.2f} is noise.",
    )


def _particles(cell: CellPosterior, chain: StoredChain) -> str:
    totals = np.array([np.abs(step.scores).sum(axis=1, dtype=np.float64) for step in chain.steps])
    at = np.arange(len(totals))
    quantiles = np.quantile(totals, [0.0, 0.1, 0.5, 0.9, 1.0], axis=1)

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        axis.fill_between(at, quantiles[0], quantiles[4], color=SEEDS[0], alpha=0.15, linewidth=0)
        axis.fill_between(at, quantiles[1], quantiles[3], color=SEEDS[0], alpha=0.35, linewidth=0)
        axis.plot(at, quantiles[2], color=SEEDS[0])
        axis.axvspan(0, len(totals) - cell.drawn_steps, color=FAINT, alpha=0.12, linewidth=0)
        axis.axhline(cell.best_total, color=SEEDS[1], linewidth=0.8)
        axis.set_yscale("log")
        axis.set(xlabel="move", ylabel="total")

    return html.figure(
        picture(2.4, draw, f"totals of the particles of {cell.cell}"),
        f"Totals of {cell.particles} particles, from draws within the bounds alone to draws of the density: median, "
        "80 % and all. Moves on grey are no draws; the line is the best model of the fit.",
    )
