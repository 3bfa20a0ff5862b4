"""Synapses on models, at the soma and along the apical dendrite: job file, inputs, potentials, tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field, model_validator
from scipy.stats import t as student

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.job_file import LocalPath, Positive, PositiveInt, Strict
from neurofleet.jobs.studies.findings import stored_tables
from neurofleet.jobs.studies.measurements import Measurement
from neurofleet.jobs.studies.populations import (
    OUTCOME_SCHEMA,
    PopulationSpec,
    PopulationStudy,
    model_measurement,
    outcome_columns,
    told,
)
from neurofleet.jobs.studies.study import Plan, rows_table
from neurofleet.jobs.studies.synapses_report import (
    PSPS,
    TRACE,
    TRACE_TIMES,
    ClassCounts,
    CurvePoint,
    SynapseFindings,
    SynapseShape,
)
from neurofleet.neurosim.cells.morphology_check import check_morphology
from neurofleet.neurosim.studies.cell_models import CellModels
from neurofleet.neurosim.studies.synaptic_potentials import TRACE_TIMES_MS, PSPMeasure, Synapse, relative_change

SITES = "sites"


class SynapticInput(Strict):
    """The synapse: two exponentials."""

    rise_ms: Positive = 1.0
    """Rise time constant in ms."""
    decay_ms: Positive = 3.0
    """Decay time constant in ms."""
    reversal_mV: float = 0.0
    """Reversal potential in mV."""
    weight_uS: Positive = 1e-4
    """Peak conductance in µS."""

    @model_validator(mode="after")
    def _rises_first(self) -> "SynapticInput":
        if self.rise_ms >= self.decay_ms:
            raise ValueError(
                f"the rise time must be below the decay time, found {self.rise_ms:g} and {self.decay_ms:g} ms"
            )
        return self


class MetadataSpec(Strict):
    """Classes of cells, from a table with a row for each cell."""

    table: LocalPath
    """CSV or Parquet, one row per cell."""
    id: str = "cell_id"
    """The column with the ids of the cells."""
    column: str
    """The column with the classes."""


class SynapseSpec(PopulationSpec):
    """Give models one synapse at a time, at the soma and along the apical dendrite (`kind: synapse`)."""

    study: ClassVar[str] = "neurofleet.jobs.studies.synapses:SynapseStudy"

    kind: Literal["synapse"] = "synapse"
    """Measurements of PSPs along the apical dendrite."""
    distances_um: Annotated[list[Positive], Field(min_length=1)] = [
        40,
        60,
        80,
        90,
        100,
        120,
        140,
        160,
        180,
        200,
    ]
    """Path distances from the soma in µm."""
    sites_each: PositiveInt = 1
    """How many of the segments nearest to each distance are used."""
    synapse: SynapticInput = SynapticInput()
    """The synapse: a conductance with two exponentials."""
    classes: MetadataSpec | None = None
    """Classes of the cells, from a table: one curve per class."""

    def quick_version(self) -> Self:
        """Two models of the first cell, with a synapse at three distances."""
        distances = sorted(set(self.distances_um))
        few = [distances[0], distances[len(distances) // 2], distances[-1]] if len(distances) > 3 else distances
        return self.model_copy(
            update={"models": self.models.quick_version(best=2), "distances_um": few, "sites_each": 1}
        )

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return super().paths_named() + ([self.classes.table] if self.classes else [])


ALL = "all cells"


@dataclass(frozen=True)
class SynapseSubject:
    """A cell whose models are given synapses; `group` is its class."""

    population: CellModels
    group: str

    @property
    def cell(self) -> str:
        return self.population.cell


class SynapseStudy(PopulationStudy[SynapseSpec, list[SynapseSubject]]):
    """Simulates postsynaptic potentials of one synapse at a time."""

    def read(self) -> tuple[list[SynapseSubject], list[str]]:
        """Read models and classes; raises as `Study.read` does, also where no cell has an apical dendrite."""
        populations = self.populations()
        classes = self.spec.classes
        groups = _groups(classes, self.folder, [p.cell for p in populations]) if classes else {}
        subjects, notes = [], told(populations)
        for population in populations:
            model = population.model
            if check_morphology(model.morphology.unpacked(), model.axon).has_apical:
                subjects.append(SynapseSubject(population, groups.get(population.cell, ALL)))
            else:
                notes.append(f"{population.cell}: left out, its morphology has no apical dendrite")
        if not subjects:
            raise UsageError(
                "models: no cell has an apical dendrite (type 4 in SWC), along which synapses are put. Expected "
                "pyramidal cells."
            )
        return subjects, notes

    def measurements(self, inputs: list[SynapseSubject]) -> list[Measurement]:
        """Return the potentials of the models of all cells."""
        distances = tuple(sorted(set(self.spec.distances_um)))
        synapse = Synapse(**self.spec.synapse.model_dump())
        return [
            model_measurement(
                subject.population,
                PSPMeasure(subject.population.model, distances, self.spec.sites_each, synapse, self.spec.max_steps),
                partial(sites_table, subject),
                file=f"{SITES}/cell={subject.cell}/block",
                engine="synapse",
            )
            for subject in inputs
        ]

    def assemble(self, inputs: list[SynapseSubject], store: RunStore) -> tuple[dict[str, pa.Table], SynapseFindings]:
        """Return potentials by model and site, and means over cells by class and distance."""
        sites = pa.concat_tables(
            table.add_column(0, "cell", pa.array([subject.cell] * len(table), pa.string()))
            for subject in inputs
            for table in stored_tables(store, f"{SITES}/cell={subject.cell}")
        )
        curves = curve_points(sites)
        rows = sites.to_pylist()
        findings = SynapseFindings(
            synapse=SynapseShape(**self.spec.synapse.model_dump()),
            classes=[_counts(group, rows) for group in dict.fromkeys(subject.group for subject in inputs)],
            curves=curves,
            notes=[note for subject in inputs for note in self._too_short(subject.cell, rows)],
        )
        tables = {PSPS: sites, "curves.parquet": rows_table([point.row() for point in curves])}
        return tables, findings

    def _too_short(self, cell: str, sites: Sequence[dict[str, Any]]) -> list[str]:
        """Return which distances a cell's apical dendrite does not reach."""
        reached = {row["wanted_um"] for row in sites if row["cell"] == cell and row["section"] == "apic"}
        beyond = sorted(set(self.spec.distances_um) - reached)
        if not reached or not beyond:
            return []
        return [f"{cell}: its apical dendrite does not reach {', '.join(f'{distance:g}' for distance in beyond)} µm"]

    def plan(self, inputs: list[SynapseSubject]) -> Plan:
        """Return cells, models and simulations."""
        models = sum(len(subject.population) for subject in inputs)
        sites = 1 + len(set(self.spec.distances_um)) * self.spec.sites_each
        return Plan(
            lines=[
                f"{self.spec.name}: {models} models of {len(inputs)} cells, {sites} synapses each: {models * sites} "
                "simulations of 1.2 s without spikes, most of them well below a second of one core."
            ]
        )


def _groups(classes: MetadataSpec, folder: Path, cells: list[str]) -> dict[str, str]:
    path = folder / classes.table
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"classes: {path} is not a table in CSV or Parquet ({error}).") from error
    for key, column in (("id", classes.id), ("column", classes.column)):
        if column not in table:
            raise UsageError(
                f"classes.{key}: {path} has no column {column!r}{did_you_mean(column, list(table.columns))}. There are:"
                f" {', '.join(map(str, table.columns))}."
            )
    known = dict(zip(table[classes.id].astype(str), table[classes.column].astype(str), strict=True))
    missing = [cell for cell in cells if cell not in known]
    if missing:
        raise UsageError(
            f"classes: {path} has no row for {', '.join(missing[:5])} in its column {classes.id} (it has "
            f"{', '.join(list(known)[:3])} …). Ids there must be those of the models."
        )
    return {cell: known[cell] for cell in cells}


MEASURES = ("amplitude_mV", "half_width_ms", "latency_ms")
CHANGES = ("amplitude_change_percent", "half_width_change_percent", "latency_change_percent")
SCHEMA = pa.schema(
    [
        ("class", pa.string()),
        *OUTCOME_SCHEMA,
        ("section", pa.string()),
        ("wanted_um", pa.float64()),
        ("distance_um", pa.float64()),
        ("baseline_mV", pa.float64()),
        *((name, pa.float64()) for name in (*MEASURES, *CHANGES)),
        (TRACE_TIMES, pa.list_(pa.float32())),
        (TRACE, pa.list_(pa.float32())),
    ]
)
"""Of the stored sites; the best model of a cell has its potentials with them."""


def sites_table(subject: SynapseSubject, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row for each model and site; one row without a site for a model that failed."""
    population = subject.population
    rows: list[dict[str, Any]] = []
    for i, outcome in enumerate(outcomes, first):
        columns = {"class": subject.group} | outcome_columns(population, i, outcome)
        if not outcome.ok:
            rows.append(columns)
            continue
        changes = [relative_change(outcome.value, name) for name in MEASURES]
        for k, psp in enumerate(outcome.value):
            row = columns | {
                "reason": psp.fault,
                "section": psp.site.section,
                "wanted_um": psp.site.requested_um,
                "distance_um": psp.site.distance_um,
                "baseline_mV": psp.baseline_mV,
            }
            row |= {name: _number(getattr(psp, name)) for name in MEASURES}
            row |= {name: _number(change[k]) for name, change in zip(CHANGES, changes, strict=True)}
            if i == 0:
                row |= {TRACE_TIMES: TRACE_TIMES_MS, TRACE: psp.trace_mV}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def curve_points(sites: pa.Table) -> list[CurvePoint]:
    """Return means over the cells of a class at each distance, each cell the mean of its models.

    Intervals are of 95 % over cells, by Student's t; None for a single cell.
    """
    frame = sites.to_pandas()
    frame = frame[frame["section"].notna()]
    names = [*MEASURES, *CHANGES]
    cells = frame.groupby(["class", "section", "wanted_um", "cell"], observed=True)[names].mean()
    points = []
    for (group, section, distance), means in cells.groupby(level=["class", "section", "wanted_um"], observed=True):
        for name in names:
            values = means[name].dropna().to_numpy()
            if not values.size:
                continue
            mean, low, high = float(values.mean()), None, None
            if values.size > 1:
                error = values.std(ddof=1) / np.sqrt(values.size)
                half = float(student.ppf(0.975, values.size - 1) * error)
                low, high = mean - half, mean + half
            points.append(
                CurvePoint(
                    group=str(group),
                    section=str(section),
                    distance_um=float(distance),
                    measure=name,
                    cells=int(values.size),
                    mean=mean,
                    low=low,
                    high=high,
                )
            )
    return points


def _counts(group: str, sites: Sequence[dict[str, Any]]) -> ClassCounts:
    """Return the cells and models of a class, and why some of its potentials cannot be read."""
    rows = [row for row in sites if row["class"] == group]
    return ClassCounts(
        group=group,
        cells=len({row["cell"] for row in rows}),
        models=len({(row["cell"], row["seed"], row["rank"]) for row in rows}),
        unreadable=dict(Counter(row["reason"] for row in rows if row["reason"])),
    )
