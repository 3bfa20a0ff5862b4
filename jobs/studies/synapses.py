"""Postsynaptic potentials along the apical dendrite of models: job file, inputs, tables, run and plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field, model_validator
from rich.console import Console

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.jobs.job_file import Positive, PositiveInt, Strict
from neurofleet.jobs.run_folder import JobRun, run_in_folder, versions
from neurofleet.jobs.studies.blocks import Block, measure_on_pool
from neurofleet.jobs.studies.measure_engine import measure_engine
from neurofleet.jobs.studies.populations import PopulationSpec, read_populations, refuse_missing_models
from neurofleet.jobs.studies.study import FINDINGS, write_findings
from neurofleet.jobs.studies.synapses_report import print_synapse_findings, write_synapse_report
from neurofleet.neurosim.cells.morphology_check import check_morphology
from neurofleet.neurosim.studies.cell_models import CellModels
from neurofleet.neurosim.studies.synaptic_potentials import PSPMeasure, Synapse, relative_change


class SynapticInput(Strict):
    """The synapse: two exponentials."""

    rise_ms: Positive = 1.0
    decay_ms: Positive = 3.0
    reversal_mV: float = 0.0
    weight_uS: Positive = 1e-4

    @model_validator(mode="after")
    def _rises_first(self) -> "SynapticInput":
        if self.rise_ms >= self.decay_ms:
            raise ValueError(
                f"the rise time must be below the decay time, found {self.rise_ms:g} and {self.decay_ms:g} ms"
            )
        return self


class MetadataSpec(Strict):
    """Classes of cells from a table with a row a cell."""

    table: Path
    id: str = "cell_id"
    column: str


class SynapseSpec(PopulationSpec):
    """Give models one synapse at a time, at the soma and along the apical dendrite (`kind: synapse`)."""

    runner: ClassVar[str] = "neurofleet.jobs.studies.synapses:run_synapse"
    planner: ClassVar[str] = "neurofleet.jobs.studies.synapses:print_synapse_plan"

    kind: Literal["synapse"] = "synapse"
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
    sites_each: PositiveInt = 1
    synapse: SynapticInput = SynapticInput()
    classes: MetadataSpec | None = None

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return super().paths_named() + ([self.classes.table] if self.classes else [])


ALL = "all cells"


@dataclass(frozen=True)
class SynapseSubject:
    """A cell that is given synapses; `group` is its class."""

    population: CellModels
    group: str

    @property
    def cell(self) -> str:
        return self.population.cell


def read_synapse_subjects(spec: SynapseSpec, folder: Path) -> tuple[list[SynapseSubject], list[str]]:
    """Read models and classes; relative paths start at `folder`.

    Returns
    -------
    list of SynapseSubject
    list of str
        Which cells are left out, and why.

    Raises
    ------
    UsageError, InputError
        Models or the table cannot be used, or no cell has an apical dendrite.
    """
    found, notes = [], []
    populations = read_populations(spec.models, folder)
    groups = _groups(spec.classes, folder, [p.cell for p in populations]) if spec.classes else {}
    for population in populations:
        model = population.model
        if not check_morphology(model.morphology.write(), model.axon).has_apical:
            notes.append(f"{population.cell}: left out, its morphology has no apical dendrite")
            continue
        found.append(SynapseSubject(population, groups.get(population.cell, ALL)))
    if not found:
        raise UsageError(
            "models: no cell has an apical dendrite (type 4 in SWC), along which synapses are put. Expected "
            "pyramidal cells."
        )
    return found, notes


def _groups(classes: MetadataSpec, folder: Path, cells: list[str]) -> dict[str, str]:
    path = folder / classes.table
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise UsageError(f"classes: {path} is no table in CSV or Parquet ({error}).") from error
    for key, column in (("id", classes.id), ("column", classes.column)):
        if column not in table:
            raise UsageError(
                f"classes.{key}: {path} has no column {column!r}{did_you_mean(column, list(table.columns))}."
            )
    known = dict(zip(table[classes.id].astype(str), table[classes.column].astype(str), strict=True))
    missing = [cell for cell in cells if cell not in known]
    if missing:
        raise UsageError(
            f"classes: {path} has no row for {', '.join(missing[:5])} in its column {classes.id} (it has "
            f"{', '.join(list(known)[:3])} …). Ids there must be those of the models."
        )
    return {cell: known[cell] for cell in cells}


SITES = "sites"
MEASURES = ("amplitude_mV", "half_width_ms", "latency_ms")
CHANGES = ("amplitude_change_percent", "half_width_change_percent", "latency_change_percent")
SCHEMA = pa.schema(
    [
        ("class", pa.string()),
        ("seed", pa.int64()),
        ("rank", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
        ("section", pa.string()),
        ("wanted_um", pa.float64()),
        ("distance_um", pa.float64()),
        ("baseline_mV", pa.float64()),
        *((name, pa.float64()) for name in (*MEASURES, *CHANGES)),
    ]
)


def sites_table(synapsed: SynapseSubject, first: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return a row a model and site; one row without a site for a model that came to nothing."""
    population = synapsed.population
    rows: list[dict[str, Any]] = []
    for i, outcome in enumerate(outcomes, first):
        own = {
            "class": synapsed.group,
            "seed": int(population.seeds[i]),
            "rank": int(population.ranks[i]),
            "status": outcome.status,
            "reason": outcome.reason,
            "seconds": outcome.seconds,
        }
        if not outcome.ok:
            rows.append(own)
            continue
        changes = [relative_change(outcome.value, name) for name in MEASURES]
        for k, psp in enumerate(outcome.value):
            row = own | {
                "reason": psp.fault,
                "section": psp.site.section,
                "wanted_um": psp.site.requested_um,
                "distance_um": psp.site.distance_um,
                "baseline_mV": psp.baseline_mV,
            }
            row |= {name: _number(getattr(psp, name)) for name in MEASURES}
            row |= {name: _number(change[k]) for name, change in zip(CHANGES, changes, strict=True)}
            rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def curve_rows(sites: "pa.Table") -> list[dict[str, Any]]:
    """Return means over the cells of a class at each distance, each cell the mean of its models.

    Intervals are of 95 % over cells, by Student's t; none for a single cell.
    """
    from scipy.stats import t as student

    frame = sites.to_pandas()
    frame = frame[frame["section"].notna()]
    names = [*MEASURES, *CHANGES]
    cells = frame.groupby(["class", "section", "wanted_um", "cell"], observed=True)[names].mean()
    rows: list[dict[str, Any]] = []
    for (group, section, wanted), of in cells.groupby(level=["class", "section", "wanted_um"], observed=True):
        for name in names:
            values = of[name].dropna().to_numpy()
            if not values.size:
                continue
            half = None
            if values.size > 1:
                error = values.std(ddof=1) / np.sqrt(values.size)
                half = float(student.ppf(0.975, values.size - 1) * error)
            rows.append(
                {
                    "class": str(group),
                    "section": str(section),
                    "distance_um": float(wanted),
                    "measure": name,
                    "cells": int(values.size),
                    "mean": float(values.mean()),
                    "low": None if half is None else float(values.mean()) - half,
                    "high": None if half is None else float(values.mean()) + half,
                }
            )
    return rows


BLOCK = 8


def run_synapse(spec: SynapseSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Give models synapses with everything stored in `out`, or go on with it; raises as `run_in_folder` does."""

    def read() -> tuple[list[SynapseSubject], list[str]]:
        refuse_missing_models(spec, folder)
        return read_synapse_subjects(spec, folder)

    run_in_folder(spec, folder, out, read, lambda run: _synapse(run, address, cpus), FINDINGS)


def _synapse(run: JobRun, address: str | None, cpus: int | None) -> None:
    measure_on_pool(run, synapse_blocks(run.spec, run.inputs), "simulating", address, cpus)
    tables = []
    for synapsed in run.inputs:
        for name in run.store.names(f"{SITES}/cell={synapsed.cell}"):
            table = run.store.table(name)
            assert table is not None
            tables.append(table.add_column(0, "cell", pa.array([synapsed.cell] * len(table), pa.string())))
    sites = pa.concat_tables(tables)
    run.store.write_table("psps.parquet", sites)
    curves = curve_rows(sites)
    if curves:
        run.store.write_table("curves.parquet", pa.Table.from_pylist(curves))
    found: dict[str, Any] = {
        "name": run.spec.name,
        "kind": run.spec.kind,
        "synapse": run.spec.synapse.model_dump(),
        "classes": _classes(run.inputs, sites),
        "curves": curves,
        "notes": [*run.notes, *_too_short(run.inputs, sites, run.spec.distances_um)],
        "versions": versions(),
    }
    write_synapse_report(run.store, found)
    write_findings(run.out, found)
    print_synapse_findings(found, run.console)


def synapse_blocks(spec: SynapseSpec, inputs: Sequence[SynapseSubject]) -> list[Block]:
    """Return the models of all cells in blocks, as they are stored."""
    found = []
    synapse = Synapse(**spec.synapse.model_dump())
    for one in inputs:
        distances = tuple(sorted(set(spec.distances_um)))
        asked = PSPMeasure(one.population.model, distances, spec.sites_each, synapse, spec.max_steps)
        engine = measure_engine(f"{one.cell}-synapse", asked)
        for number, start in enumerate(range(0, len(one.population), BLOCK)):
            values = one.population.values[start : start + BLOCK]
            found.append(
                Block(
                    name=f"{SITES}/cell={one.cell}/block-{number:04d}.parquet",
                    cell=one.cell,
                    engine=engine,
                    size=len(values),
                    individuals=partial(list, values),
                    table=partial(_table, one, start),
                )
            )
    return found


def _table(synapsed: SynapseSubject, first: int, outcomes: list[Outcome]) -> "pa.Table":

    return sites_table(synapsed, first, outcomes)


def _classes(inputs: Sequence[SynapseSubject], sites: "pa.Table") -> list[dict[str, Any]]:
    """Return for each class its cells and models, and why PSPs of it cannot be read."""
    found = []
    rows = sites.to_pylist()
    for group in dict.fromkeys(one.group for one in inputs):
        own = [row for row in rows if row["class"] == group]
        faults: dict[str, int] = {}
        for row in own:
            if row["reason"]:
                faults[row["reason"]] = faults.get(row["reason"], 0) + 1
        found.append(
            {
                "class": group,
                "cells": len({row["cell"] for row in own}),
                "models": len({(row["cell"], row["seed"], row["rank"]) for row in own}),
                "unreadable": faults,
            }
        )
    return found


def _too_short(inputs: Sequence[SynapseSubject], sites: "pa.Table", distances: Sequence[float]) -> list[str]:
    """Return which distances a cell's apical dendrite does not reach."""
    rows = sites.to_pylist()
    notes = []
    for one in inputs:
        reached = {row["wanted_um"] for row in rows if row["cell"] == one.cell and row["section"] == "apic"}
        beyond = sorted(set(distances) - reached)
        if reached and beyond:
            told = ", ".join(f"{distance:g}" for distance in beyond)
            notes.append(f"{one.cell}: its apical dendrite does not reach {told} um")
    return notes


def print_synapse_plan(spec: SynapseSpec, folder: Path) -> None:
    """Print cells, models and simulations.

    Raises
    ------
    UsageError, InputError
        The input cannot be used.
    """
    refuse_missing_models(spec, folder)
    inputs, notes = read_synapse_subjects(spec, folder)
    models = sum(len(one.population) for one in inputs)
    sites = 1 + len(set(spec.distances_um)) * spec.sites_each
    console = Console()
    console.print(
        f"{spec.name}: {models} models of {len(inputs)} cells, {sites} synapses each: {models * sites} "
        "simulations of 1.2 s without spikes, most of them well below a second of one core.",
        soft_wrap=True,
        highlight=False,
    )
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
