"""The run of synapses: models on the pool, a few to a block, and their curves."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.outcome import Outcome
from jobs.carrying_out import Opened, carry_out
from jobs.populations.blocks import Block
from jobs.populations.folder import FINDINGS, write_findings
from jobs.populations.models import refuse_missing_models
from jobs.synapse.inputs import Synapsed, read_synapsed
from jobs.synapse.spec import SynapseSpec

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 8


def run_synapse(spec: SynapseSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Give models synapses with everything stored in `out`, or go on with it; raises as `carry_out` does."""

    def read() -> tuple[list[Synapsed], list[str]]:
        refuse_missing_models(spec, folder)
        return read_synapsed(spec, folder)

    carry_out(spec, folder, out, read, lambda run: _synapse(run, address, cpus), FINDINGS)


def _synapse(run: Opened, address: str | None, cpus: int | None) -> None:
    import pyarrow as pa

    from jobs.populations.run import measure
    from jobs.provenance import versions
    from jobs.synapse.report import write_synapse_report
    from jobs.synapse.results import print_found
    from jobs.synapse.tables import SITES, curve_rows

    measure(run, blocks_of(run.spec, run.inputs), "simulating", address, cpus)
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
    print_found(found, run.console)


def blocks_of(spec: SynapseSpec, inputs: Sequence[Synapsed]) -> list[Block]:
    """Return the models of all cells in blocks, as they are stored."""
    from jobs.populations.engine import measure_engine
    from jobs.synapse.tables import SITES
    from neurosim.psp import PSPMeasure, Synapse

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


def _table(synapsed: Synapsed, first: int, outcomes: list[Outcome]) -> "pa.Table":
    from jobs.synapse.tables import sites_table

    return sites_table(synapsed, first, outcomes)


def _classes(inputs: Sequence[Synapsed], sites: "pa.Table") -> list[dict[str, Any]]:
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


def _too_short(inputs: Sequence[Synapsed], sites: "pa.Table", distances: Sequence[float]) -> list[str]:
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
