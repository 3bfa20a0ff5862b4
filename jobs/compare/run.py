"""The run of a comparison: both types of models at the same steps, on the pool."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.outcome import Outcome
from jobs.carrying_out import Opened, carry_out, refuse_missing
from jobs.compare.inputs import Comparison, read_comparisons
from jobs.compare.spec import CompareSpec
from jobs.populations.blocks import Block
from jobs.populations.folder import FINDINGS, write_findings

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.store import RunStore

BLOCK = 8


def run_compare(spec: CompareSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Compare models with everything stored in `out`, or go on with it; raises as `carry_out` does."""

    def read() -> tuple[list[Comparison], list[str]]:
        refuse_missing(spec, folder)
        return read_comparisons(spec, folder)

    carry_out(spec, folder, out, read, lambda run: _compare(run, address, cpus), FINDINGS)


def _compare(run: Opened, address: str | None, cpus: int | None) -> None:
    import pyarrow as pa

    from jobs.compare.report import write_compare_report
    from jobs.compare.results import print_found
    from jobs.compare.summary import cell_findings
    from jobs.compare.tables import feature_rows, parameter_rows, spike_rows
    from jobs.populations.run import measure
    from jobs.provenance import versions

    measure(run, blocks_of(run.spec, run.inputs), "simulating", address, cpus)
    tables: dict[str, list[dict[str, Any]]] = {"features": [], "spikes": [], "parameters": []}
    cells = []
    for comparison in run.inputs:
        measured = measured_rows(run.store, comparison.cell)
        features = feature_rows(comparison, run.spec.features, measured)
        spikes = spike_rows(comparison.cell, measured)
        parameters = parameter_rows(comparison)
        cells.append(cell_findings(comparison, measured, features, spikes, parameters))
        for name, rows in (("features", features), ("spikes", spikes), ("parameters", parameters)):
            tables[name] += rows
    for name, rows in tables.items():
        if rows:
            run.store.write_table(f"{name}.parquet", pa.Table.from_pylist(rows))
    found: dict[str, Any] = {
        "name": run.spec.name,
        "kind": run.spec.kind,
        "types": list(run.spec.models),
        "cells": cells,
        "notes": run.notes,
        "versions": versions(),
    }
    write_compare_report(run.store, found)
    write_findings(run.out, found)
    print_found(found, run.console)


def measured_rows(store: "RunStore", cell: str) -> list[dict[str, Any]]:
    """Return what is stored of a cell, a row a model, step and place."""
    from jobs.compare.tables import MEASURED

    rows: list[dict[str, Any]] = []
    for name in store.names(f"{MEASURED}/cell={cell}"):
        table = store.table(name)
        assert table is not None
        rows += table.to_pylist()
    return rows


def blocks_of(spec: CompareSpec, inputs: Sequence[Comparison]) -> list[Block]:
    """Return the models of all cells in blocks, as they are stored."""
    from jobs.compare.tables import MEASURED
    from jobs.populations.engine import measure_engine
    from neurosim.perisomatic.measure import StepsMeasure

    found = []
    for one in inputs:
        for kind, population in one.populations.items():
            asked = StepsMeasure(population.model, one.steps, tuple(spec.features), spec.max_steps)
            engine = measure_engine(f"{one.cell}-{kind}", asked)
            for number, start in enumerate(range(0, len(population), BLOCK)):
                values = population.values[start : start + BLOCK]
                found.append(
                    Block(
                        name=f"{MEASURED}/cell={one.cell}/{kind}-{number:04d}.parquet",
                        cell=one.cell,
                        engine=engine,
                        size=len(values),
                        individuals=partial(list, values),
                        table=partial(_table, one, kind, start),
                    )
                )
    return found


def _table(comparison: Comparison, kind: str, first: int, outcomes: list[Outcome]) -> "pa.Table":
    from jobs.compare.tables import measured_table

    return measured_table(comparison, kind, first, outcomes)
