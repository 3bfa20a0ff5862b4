"""The findings of a sample: accepted models, which targets reject, and how conductances go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from scipy.stats import binomtest

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import PARAMETER_PREFIX
from neurofleet.jobs.progress import duration
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import SEEDS, correlation_map, picture
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.reports.units import parameter_unit
from neurofleet.jobs.studies.findings import Findings, table_rows

HEAD = ("cell", "draws", "accepted", "share", "failed", "core-hours", "models/s and core")
AXES = {
    "linear": "uniformly",
    "log": "uniformly, conductances and calcium's decay on logarithmic axes",
}
ACROSS = 6
BINS = 20
Rows = Sequence[Mapping[str, Any]]


def accepted_file(cell: str) -> str:
    """Return the name of the table with the accepted models of a cell."""
    return f"accepted/cell={cell}/part.parquet"


@dataclass(frozen=True, kw_only=True)
class CellSample:
    """The draws of a cell.

    Attributes
    ----------
    cell : str
    draws : int
    outcomes : dict of str to int
        Status -> draws.
    accepted : int
    core_seconds : float
    parameters : list of str
        Those that were drawn.
    targets : int
        Number of e-features that a draw must meet.
    """

    cell: str
    draws: int
    outcomes: dict[str, int] = field(default_factory=dict)
    accepted: int
    core_seconds: float
    parameters: list[str] = field(default_factory=list)
    targets: int = 0

    def row(self) -> tuple[str, ...]:
        """Return it as a row of `HEAD`."""
        failed = self.draws - self.outcomes.get("ok", 0)
        return (
            self.cell,
            f"{self.draws:,}",
            f"{self.accepted:,}",
            f"{self.accepted / self.draws:.3g}",
            f"{failed:,}" if failed else "",
            f"{self.core_seconds / 3600:.3g}",
            f"{self.draws / max(self.core_seconds, 1e-9):.3g}",
        )


@dataclass(frozen=True, kw_only=True)
class SampleFindings(Findings):
    """How many draws of each cell were accepted.

    Attributes
    ----------
    within_z : float
        Standard deviations within which each e-feature must be.
    draws : int
        Of each cell.
    design : str
        ``sobol`` or ``latin-hypercube``.
    scale : str
        Of the parameters' axes, ``linear`` or ``log``.
    stop_early : bool
        Whether a draw that misses a target was not run any further.
    cells : list of CellSample
    """

    within_z: float
    draws: int
    design: str
    scale: str
    stop_early: bool
    cells: list[CellSample] = field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        """Return the accepted draws by cell."""
        return [self.acceptance()]

    def acceptance(self) -> ReportTable:
        """Return a row for each cell."""
        title = f"{self.name}: within {self.within_z:g} standard deviations of every target"
        return ReportTable(HEAD, [cell.row() for cell in self.cells], numbers=range(1, len(HEAD)), title=title)

    def verdict(self) -> list[str]:
        """Return how many draws of each cell were accepted, with the interval of their share, and how many failed."""
        lines = []
        for cell in self.cells:
            low, high = binomtest(cell.accepted, cell.draws).proportion_ci(method="wilson")
            lines.append(
                f"{cell.cell}: {cell.accepted:,} of {cell.draws:,} draws are within {self.within_z:g} standard"
                f" deviations of all {cell.targets} targets ({cell.accepted / cell.draws:.2%},"
                f" 95 %: {low:.2%} to {high:.2%})"
            )
        failed = sum(cell.draws - cell.outcomes.get("ok", 0) for cell in self.cells)
        return [*lines, f"failed: {failed:,} of {sum(cell.draws for cell in self.cells):,} draws"]

    def remarks(self) -> list[str]:
        """Return which cells have no accepted model, and what to do."""
        return [
            f"{cell.cell}: none of {cell.draws:,} draws ({duration(cell.core_seconds)} on one core) is within "
            f"{self.within_z:g} of all {cell.targets} targets. acceptance.parquet shows which targets "
            "reject most; widen `within_z:`, choose fewer `features:`, or narrow `bounds:`, for example to "
            "those that a fit has found."
            for cell in self.cells
            if not cell.accepted
        ]

    def sections(self, store: RunStore) -> list[str]:
        """Return acceptance by cell and target, the accepted parameters, and their correlations."""
        stop = (
            " A draw that misses a target is not run at stronger steps, so later targets are met by fewer draws."
            if self.stop_early
            else ""
        )
        parts = [
            html.paragraph(
                f"{self.draws:,} draws a cell ({self.design}), {AXES[self.scale]} in the bounds. A "
                f"draw is accepted when each e-feature has a value and is within {self.within_z:g} standard "
                f"deviations of the recorded mean.{stop}",
                "quiet",
            ),
            self.acceptance().html(),
            *(html.paragraph(line, "note") for line in self.remarks()),
        ]
        acceptance, correlations = (table_rows(store, f"{name}.parquet") for name in ("acceptance", "correlations"))
        for cell in self.cells:
            parts += _cell(store, cell, acceptance, correlations)
        return parts


def _cell(store: RunStore, cell: CellSample, acceptance: Rows, correlations: Rows) -> list[str]:
    head = ("target", "mean", "std", "draws with a value", "within", "rejected first")
    body = [
        html.heading(2, cell.cell),
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
                for row in acceptance
                if row["cell"] == cell.cell
            ],
            numbers=range(1, 6),
        ),
    ]
    accepted = store.table(accepted_file(cell.cell))
    if accepted is not None and len(accepted) > 1:
        body.append(_marginals(cell, accepted))
        if pairs := [row for row in correlations if row["cell"] == cell.cell]:
            body.append(_correlations(cell, pairs))
    return body


def _marginals(cell: CellSample, accepted: pa.Table) -> str:
    names = cell.parameters
    across = min(ACROSS, len(names))
    down = -(-len(names) // across)

    def draw(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, name in zip(axes, names, strict=False):
            axis.hist(accepted[PARAMETER_PREFIX + name].to_numpy(), bins=BINS, color=SEEDS[0])
            axis.set_title(name)
            axis.set_xlabel(parameter_unit(name))
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        for axis in axes[::across]:
            axis.set_ylabel("models")
        for axis in axes[len(names) :]:
            axis.set_axis_off()

    label = f"histograms of the accepted parameters of {cell.cell}"
    return html.figure(
        picture(1.45 * down + 0.2, draw, label),
        f"Parameters of the {len(accepted):,} accepted models, each over the range that they take.",
    )


def _correlations(cell: CellSample, pairs: Rows) -> str:
    names = list(dict.fromkeys(name for row in pairs for name in (row["a"], row["b"])))
    certain = [row for row in pairs if row["p_adjusted"] < 0.05]

    def draw(figure: Any) -> None:
        axis = correlation_map(figure, names, pairs)
        for row in certain:
            axis.plot(names.index(row["a"]) + 0.5, names.index(row["b"]) + 0.5, "o", ms=2, color="black")
        axis.set(xlabel="conductance", ylabel="conductance")

    height = min(9.0, 1.8 + 0.22 * len(names))
    strongest = max(certain, key=lambda row: abs(row["rho"]), default=None)
    note = f" The strongest is {strongest['a']} with {strongest['b']}: ρ = {strongest['rho']:.2f}." if strongest else ""
    return html.figure(
        picture(height, draw, f"correlations of accepted conductances of {cell.cell}"),
        f"Correlations between conductances of accepted models; {len(certain)} of {len(pairs)} (dots) differ "
        f"from zero at 5 % (Benjamini-Hochberg).{note}",
    )
