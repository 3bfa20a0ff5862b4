"""The run of a sample: draws on the pool, block by block, and what was accepted."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.outcome import Outcome
from jobs.carrying_out import Opened, carry_out, refuse_missing
from jobs.populations.blocks import Block
from jobs.populations.folder import FINDINGS, write_findings
from jobs.sample.inputs import Sampling, read_samplings
from jobs.sample.spec import SampleSpec

if TYPE_CHECKING:
    import pyarrow as pa

SMALLEST_BLOCK, LARGEST_BLOCK, BLOCKS = 64, 1024, 64
"""Draws that are stored together: few are lost when a run is killed, and a million are no million files."""


def run_sample(spec: SampleSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Draw, run and keep models with everything stored in `out`, or go on with it; raises as `carry_out`."""

    def read() -> tuple[list[Sampling], list[str]]:
        refuse_missing(spec, folder)
        return read_samplings(spec, folder)

    carry_out(spec, folder, out, read, lambda run: _sample(run, address, cpus), FINDINGS)


def _sample(run: Opened, address: str | None, cpus: int | None) -> None:
    from jobs.populations.run import measure
    from jobs.provenance import versions
    from jobs.sample.report import write_sample_report
    from jobs.sample.results import print_found

    spec = run.spec
    measure(run, blocks_of(spec, run.inputs), "drawing", address, cpus)
    cells = [_gathered(run, sampling) for sampling in run.inputs]
    found: dict[str, Any] = {
        "name": spec.name,
        "kind": spec.kind,
        "within_z": spec.within_z,
        "draws": spec.draws,
        "design": spec.design,
        "scale": spec.scale,
        "stop_early": spec.stop_early,
        "cells": [cell for cell, _, _ in cells],
        "notes": run.notes,
        "versions": versions(),
    }
    _write_rows(run, "acceptance.parquet", [row for _, rows, _ in cells for row in rows])
    _write_rows(run, "correlations.parquet", [row for _, _, rows in cells for row in rows])
    write_sample_report(run.store, found)
    write_findings(run.out, found)
    print_found(found, run.console)


def blocks_of(spec: SampleSpec, samplings: Sequence[Sampling]) -> list[Block]:
    """Return the draws of all cells in blocks, as they are stored."""
    from jobs.populations.engine import measure_engine
    from jobs.sample.tables import DRAWS
    from neurosim.sampling import SampleMeasure

    found = []
    size = min(max(spec.draws // BLOCKS, SMALLEST_BLOCK), LARGEST_BLOCK)
    for sampling in samplings:
        asked = SampleMeasure(sampling.model, spec.within_z, spec.stop_early, spec.max_steps)
        engine = measure_engine(f"{sampling.cell}-sample", asked)
        for number, start in enumerate(range(0, spec.draws, size)):
            stop = min(start + size, spec.draws)
            found.append(
                Block(
                    name=f"{DRAWS}/cell={sampling.cell}/block-{number:06d}.parquet",
                    cell=sampling.cell,
                    engine=engine,
                    size=stop - start,
                    individuals=partial(_rows, sampling, start, stop),
                    table=partial(_table, sampling, start),
                )
            )
    return found


def _rows(sampling: Sampling, start: int, stop: int) -> Sequence[np.ndarray]:
    return list(sampling.design.rows(start, stop))


def _table(sampling: Sampling, start: int, outcomes: list[Outcome]) -> "pa.Table":
    from jobs.sample.tables import draws_table

    return draws_table(sampling, start, outcomes)


def _gathered(
    run: Opened, sampling: Sampling
) -> tuple[dict[str, Any], list[dict[str, object]], list[dict[str, object]]]:
    """Read a cell's draws again block by block; keep what was accepted, and count the rest."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from jobs.sample.tables import DRAWS, acceptance_rows, correlation_rows

    spec: SampleSpec = run.spec
    counts: dict[str, int] = {}
    seconds, kept = 0.0, []
    rows: list[dict[str, object]] = []
    for name in run.store.names(f"{DRAWS}/cell={sampling.cell}"):
        block = run.store.table(name)
        assert block is not None
        seconds += pc.sum(block["seconds"]).as_py()
        for one in pc.value_counts(block["status"].cast(pa.string())).to_pylist():
            counts[one["values"]] = counts.get(one["values"], 0) + one["counts"]
        kept.append(block.filter(block["accepted"]))
        new = acceptance_rows(sampling, block, spec.within_z)
        rows = new if not rows else [_added(a, b) for a, b in zip(rows, new, strict=True)]
    accepted = pa.concat_tables(kept).drop_columns(["status", "reason", "accepted", "rejected_by"])
    run.store.write_table(f"accepted/cell={sampling.cell}/part.parquet", accepted)
    correlations = correlation_rows(sampling, accepted)
    facts = {
        "cell": sampling.cell,
        "draws": spec.draws,
        "outcomes": counts,
        "accepted": len(accepted),
        "core_seconds": round(seconds, 3),
        "parameters": list(sampling.design.space.names),
        "targets": len(sampling.model.targets.targets),
    }
    return facts, rows, correlations


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, object]:
    counted = ("with_value", "within", "rejected_first")
    return {key: one[key] + other[key] if key in counted else one[key] for key in one}


def _write_rows(run: Opened, name: str, rows: list[dict[str, object]]) -> None:
    import pyarrow as pa

    if rows:
        run.store.write_table(name, pa.Table.from_pylist(rows))
