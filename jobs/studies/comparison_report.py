"""The findings of a comparison: where spikes begin, e-features and conductances, and a report with traces."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, PlainSerializer

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.drawing import INK, MISSING, SEEDS, grid, picture, thinned
from neurofleet.jobs.reports.tables import ReportTable
from neurofleet.jobs.reports.units import feature_unit, parameter_unit
from neurofleet.jobs.studies.findings import Findings, stored_rows, table_rows

MEASURED, TRACES = "measured", "recorded.parquet"
RECORDED = "recorded"
PANEL_IN = 1.9
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that both types of models were given."""

    step: str
    amplitude_nA: float


@dataclass(frozen=True, kw_only=True)
class AxonPlace:
    """A place on the axon, the spikes that reach it, and their median delay after the soma."""

    place: str
    distance_um: float
    spikes: int = 0
    delay_ms: float | None = None

    def text(self) -> str:
        """Return distance and delay as they are shown."""
        delay = "none" if self.delay_ms is None else f"{self.delay_ms:+.2f}"
        return f"{self.distance_um:.0f} µm: {delay}"


@dataclass(frozen=True, kw_only=True)
class Initiation:
    """Where the spikes of a type of models begin.

    Attributes
    ----------
    type : str
    first : str or None
        Where most begin; None without spikes.
    spikes : int
    begins : dict of str to int
        Beginning -> spikes.
    places : list of AxonPlace
    """

    type: str
    first: str | None = None
    spikes: int = 0
    begins: dict[str, int] = field(default_factory=dict)
    places: list[AxonPlace] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TypeMedian:
    """Median of a type's models, and its distance from the recorded mean in its standard deviation."""

    median: float | None = None
    z: float | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureMedians:
    """An e-feature at a step: recorded mean and standard deviation, and the median of each type."""

    step: str
    feature: str
    recorded: float | None = None
    std: float | None = None
    types: dict[str, TypeMedian] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ParameterMedians:
    """The median of a parameter by type, None for a type that does not have it."""

    parameter: str
    section: str
    types: dict[str, float | None] = field(default_factory=dict)

    @property
    def of_all_types(self) -> bool:
        """Whether all types have it."""
        return None not in self.types.values()


def _by_type(names: Sequence[str]) -> BeforeValidator:
    """Return how stored rows are read: what is not called one of `names` is the value of a type of models."""

    def nested(row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        types = {name: value for name, value in row.items() if name not in names}
        return {name: row[name] for name in names if name in row} | {"types": types}

    return BeforeValidator(nested)


def _flat(row: FeatureMedians | ParameterMedians) -> dict[str, Any]:
    """Return a row as it is stored: the value of each type of models beside the rest."""
    plain = asdict(row)
    return plain | plain.pop("types")


StoredFeature = Annotated[FeatureMedians, _by_type(("step", "feature", "recorded", "std")), PlainSerializer(_flat)]
StoredParameter = Annotated[ParameterMedians, _by_type(("parameter", "section")), PlainSerializer(_flat)]


@dataclass(frozen=True, kw_only=True)
class CellComparison:
    """The models of a cell, by type.

    Attributes
    ----------
    cell : str
    models : dict of str to int
        Type -> models.
    steps : list of Step
        Weakest first.
    failed : list of str
        Models that failed, and why.
    initiation : list of Initiation
        By type.
    features : list of FeatureMedians
    parameters : list of ParameterMedians
        Those that all types have come first.
    """

    cell: str
    models: dict[str, int] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    initiation: list[Initiation] = field(default_factory=list)
    features: list[StoredFeature] = field(default_factory=list)
    parameters: list[StoredParameter] = field(default_factory=list)

    @property
    def amplitudes(self) -> dict[str, float]:
        """Step -> amplitude (nA)."""
        return {step.step: step.amplitude_nA for step in self.steps}

    def feature_table(self, types: Sequence[str]) -> ReportTable:
        """Return a row for each step and e-feature, with z where something was recorded."""
        title, amplitudes = f"{self.cell}: e-features", self.amplitudes
        has_recorded = any(medians.recorded is not None for medians in self.features)
        head = ["step", "e-feature", "unit", *(["recorded"] if has_recorded else [])]
        for name in types:
            head += [name, "z"] if has_recorded else [name]
        rows = []
        for medians in self.features:
            row = [f"{1000 * amplitudes[medians.step]:.4g} pA", medians.feature, feature_unit(medians.feature)]
            if has_recorded:
                row.append("" if medians.recorded is None else f"{medians.recorded:.4g} ± {medians.std:.2g}")
            for name in types:
                row.append(_text(medians.types[name].median))
                if has_recorded:
                    row.append(_text(medians.types[name].z, ".2f"))
            rows.append(row)
        return ReportTable(head, rows, numbers=range(3, len(head)), title=title)

    def parameter_table(self, types: Sequence[str], *, shared: bool) -> ReportTable:
        """Return a row for each parameter that all types have, or of those that some of them lack."""
        rows = [
            (
                f"{medians.parameter}.{medians.section}",
                parameter_unit(medians.parameter),
                *(_text(medians.types[name], ".3g") for name in types),
            )
            for medians in self.parameters
            if medians.of_all_types == shared
        ]
        return ReportTable(
            ("parameter", "unit", *types), rows, numbers=(2, 3), title=f"{self.cell}: parameters of both"
        )


def _text(value: float | None, how: str = ".4g") -> str:
    return "" if value is None else format(value, how)


@dataclass(frozen=True, kw_only=True)
class ComparisonFindings(Findings):
    """Two types of models of the same cells."""

    types: list[str] = field(default_factory=list)
    cells: list[CellComparison] = field(default_factory=list)

    def tables(self) -> list[ReportTable]:
        """Return where spikes begin, and e-features and shared parameters of each cell."""
        tables = [self.initiation()]
        for cell in self.cells:
            tables += [cell.feature_table(self.types), cell.parameter_table(self.types, shared=True)]
        return tables

    def remarks(self) -> list[str]:
        """Return which models failed."""
        return [f"{cell.cell}: {line}" for cell in self.cells for line in cell.failed]

    def verdict(self) -> list[str]:
        """Return of each cell how far each type is from the recordings and where its spikes begin, and what failed."""
        lines = []
        for cell in self.cells:
            begins = {found.type: found.first for found in cell.initiation}
            types = []
            for name in self.types:
                distances = [abs(z) for row in cell.features if (z := row.types[name].z) is not None]
                distance = f", {np.mean(distances):.2f} standard deviations from what was recorded" if distances else ""
                begin = f"spikes begin: {begins[name]}" if begins.get(name) else "no spikes"
                number = cell.models.get(name, 0)
                types.append(f"{name} ({number} model{'s' * (number != 1)}) {begin}{distance}")
            lines.append(f"{cell.cell}: {'; '.join(types)}")
        failed = sum(len(cell.failed) for cell in self.cells)
        models = sum(sum(cell.models.values()) for cell in self.cells)
        return [*lines, f"failed: {failed} of {models} models"]

    def initiation(self) -> ReportTable:
        """Return a row for each cell and type: where spikes begin."""
        head = ("cell", "type", "spikes begin", "spikes", "in the axon", "at the soma", "delays along the axon, ms")
        rows = [
            (
                cell.cell,
                initiation.type,
                initiation.first or "no spikes",
                initiation.spikes,
                initiation.begins["axon"],
                initiation.begins["soma"] + initiation.begins["soma alone"],
                ", ".join(place.text() for place in initiation.places),
            )
            for cell in self.cells
            for initiation in cell.initiation
        ]
        return ReportTable(head, rows, numbers=(3, 4, 5), title=f"{self.name}: where spikes begin")

    def sections(self, store: RunStore) -> list[str]:
        """Return where spikes begin, and of each cell its traces, e-features and parameters."""
        first, second = self.types
        parts = [
            html.paragraph(
                f"Models of type {first} and {second} at the same steps. A spike is timed where the voltage"
                " rises through -20 mV; a delay along the axon is the time after the soma, negative where the"
                " axon came first. Values are medians over a cell's models; z is the distance from the recorded"
                " mean in its standard deviation.",
                "quiet",
            ),
            html.heading(2, "Where spikes begin"),
            self.initiation().html(),
        ]
        for cell in self.cells:
            rows = stored_rows(store, f"{MEASURED}/cell={cell.cell}")
            recorded = {row["step"]: row for row in table_rows(store, TRACES) if row["cell"] == cell.cell}
            parts += [
                html.heading(2, f"Cell {cell.cell}"),
                *_figures(cell, rows, recorded, self.types),
                html.heading(3, "e-features"),
                cell.feature_table(self.types).html(),
                html.heading(3, "Parameters that both types have"),
                cell.parameter_table(self.types, shared=True).html(),
                html.details(
                    "Parameters that one type alone has", cell.parameter_table(self.types, shared=False).html()
                ),
                *(html.paragraph(line, "note") for line in cell.failed),
            ]
        return parts


def _figures(
    cell: CellComparison, rows: Rows, recorded: Mapping[str, Mapping[str, Any]], types: Sequence[str]
) -> list[str]:
    figures = []
    steps = [step.step for step in cell.steps]
    traced = {(row["type"], row["step"]): row for row in rows if row["time_ms"] is not None}
    if traced:
        figures.append(_traces(cell, traced, recorded, steps, types))
    close = [row for row in rows if row["close_ms"]]
    if close:
        figures.append(_close_ups(cell, close, types))
    return figures


def _traces(
    cell: CellComparison,
    traced: Mapping[tuple[str, str], Mapping[str, Any]],
    recorded: Mapping[str, Mapping[str, Any]],
    steps: list[str],
    types: Sequence[str],
) -> str:
    amplitudes = cell.amplitudes
    kinds = [*([RECORDED] if recorded else []), *types]
    colours = {RECORDED: INK} | dict(zip(types, SEEDS, strict=False))

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(kinds), len(steps), squeeze=False, sharex="col", sharey=True)
        for row, kind in zip(axes, kinds, strict=True):
            for axis, step in zip(row, steps, strict=True):
                trace = recorded.get(step) if kind == RECORDED else traced.get((kind, step))
                if trace is not None:
                    time, volts = thinned(np.array(trace["time_ms"]), np.array(trace["soma_mV"]))
                    axis.plot(time - time[0], volts, color=colours[kind], lw=0.8)
                axis.set_title(f"{kind}, {1000 * amplitudes[step]:.4g} pA")
                grid(axis, "y")
            row[0].set_ylabel("voltage (mV)")
        for axis in axes[-1]:
            axis.set_xlabel("time in the step (ms)")

    label = f"Responses of {cell.cell} at the soma"
    first = "on top what was recorded, the first repeat of each step; below " if recorded else ""
    caption = f"{label}: {first}the best model of each type. Steps above the holding current."
    return html.figure(picture(0.4 + PANEL_IN * len(kinds), draw, label), caption)


def _close_ups(cell: CellComparison, close: Rows, types: Sequence[str]) -> str:
    """Draw one spike at all places, at the strongest step that has spikes, and the delays of all spikes."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(types) + 1)
        for axis, kind in zip(axes, types, strict=False):
            of_type = [row for row in close if row["type"] == kind]
            axis.set(xlabel="time (ms)", ylabel="voltage (mV)")
            axis.set_title(f"{kind}: one spike")
            if not of_type:
                continue
            last = of_type[-1]["step"]
            for colour, row in zip(SEEDS, [row for row in of_type if row["step"] == last], strict=False):
                time = np.array(row["close_ms"])
                axis.plot(time - time.mean(), row["close_mV"], color=colour, label=row["place"])
            axis.legend()
            grid(axis, "y")
        delays = axes[-1]
        for colour, initiation in zip(SEEDS, cell.initiation, strict=False):
            reached = [place for place in initiation.places if place.delay_ms is not None]
            x, y = [place.distance_um for place in reached], [place.delay_ms for place in reached]
            delays.plot([0.0, *x], [0.0, *y], "o-", ms=3, color=colour, label=initiation.type)
        delays.axhline(0.0, lw=0.6, color=MISSING)
        delays.set(xlabel="distance from the soma (µm)", ylabel="delay after the soma (ms)")
        delays.set_title("median delay of all spikes")
        delays.legend()
        grid(delays, "y")

    label = f"A spike of {cell.cell} at the soma and along the axon"
    caption = f"{label}: the best model of each type at the strongest step; right, all models and steps."
    return html.figure(picture(2.9, draw, label), caption)
