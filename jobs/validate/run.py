"""The run of a validation: models on the pool, a few to a block, and their tables."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.outcome import Outcome
from jobs.carrying_out import Opened, carry_out
from jobs.populations.blocks import Block
from jobs.populations.folder import FINDINGS, write_findings
from jobs.populations.models import refuse_missing_models
from jobs.validate.inputs import Validation, read_validations
from jobs.validate.results import MEASURES
from jobs.validate.spec import ValidateSpec

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 4


def run_validate(spec: ValidateSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Validate models with everything stored in `out`, or go on with it; raises as `carry_out` does."""

    def read() -> tuple[list[Validation], list[str]]:
        refuse_missing_models(spec, folder)
        return read_validations(spec, folder)

    carry_out(spec, folder, out, read, lambda run: _validate(run, address, cpus), FINDINGS)


def _validate(run: Opened, address: str | None, cpus: int | None) -> None:
    import pyarrow as pa

    from jobs.populations.run import measure
    from jobs.provenance import versions
    from jobs.validate.report import write_validation_report
    from jobs.validate.results import print_found
    from jobs.validate.tables import RESPONSES, model_rows, recorded_table, stimulus_rows

    validations: list[Validation] = run.inputs
    measure(run, blocks_of(run.spec, validations), "simulating", address, cpus)
    models, stimuli = [], []
    for validation in validations:
        names = run.store.names(f"{RESPONSES}/cell={validation.cell}")
        tables = [run.store.table(name) for name in names]
        responses = [row for table in tables if table is not None for row in table.to_pylist()]
        own = stimulus_rows(validation, responses)
        stimuli += own
        models += model_rows(validation, responses, own)
        run.store.write_table(f"recorded/cell={validation.cell}/part.parquet", recorded_table(validation))
    run.store.write_table("models.parquet", pa.Table.from_pylist(models))
    if stimuli:
        run.store.write_table("stimuli.parquet", pa.Table.from_pylist(stimuli))
    found: dict[str, Any] = {
        "name": run.spec.name,
        "kind": run.spec.kind,
        "cells": [_facts(validation, models) for validation in validations],
        "notes": run.notes,
        "versions": versions(),
    }
    write_validation_report(run.store, found)
    write_findings(run.out, found)
    print_found(found, run.console)


def blocks_of(spec: ValidateSpec, validations: Sequence[Validation]) -> list[Block]:
    """Return the models of all cells in blocks, as they are stored."""
    from jobs.populations.engine import measure_engine
    from jobs.validate.tables import RESPONSES
    from neurosim.validation.measure import ValidationMeasure

    found = []
    for validation in validations:
        population = validation.population
        asked = ValidationMeasure(
            population.model, validation.generalisation, tuple(validation.stimuli), spec.max_steps
        )
        engine = measure_engine(f"{validation.cell}-validate", asked)
        for number, start in enumerate(range(0, len(population), BLOCK)):
            values = population.values[start : start + BLOCK]
            found.append(
                Block(
                    name=f"{RESPONSES}/cell={validation.cell}/block-{number:04d}.parquet",
                    cell=validation.cell,
                    engine=engine,
                    size=len(values),
                    individuals=partial(list, values),
                    table=partial(_table, validation, start),
                )
            )
    return found


def _table(validation: Validation, first: int, outcomes: list[Outcome]) -> "pa.Table":
    from jobs.validate.tables import responses_table

    return responses_table(validation, first, outcomes)


def _facts(validation: Validation, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in models if row["cell"] == validation.cell]
    best = own[0]
    facts: dict[str, Any] = {
        "cell": validation.cell,
        "models": len(own),
        "failed": sum(row["status"] != "ok" for row in own),
        "trained_targets": len(validation.population.model.targets.targets),
        "unseen_targets": len(validation.generalisation.targets) if validation.generalisation else 0,
        "stimuli": [stimulus.name for stimulus in validation.stimuli],
        "noise_trials": sum(len(s.sweeps) for s in validation.stimuli if s.is_noise),
    }
    for name in MEASURES:
        values = [row[name] for row in own if row[name] is not None]
        facts[name] = {
            "best_model": best[name],
            "median": float(np.median(values)) if values else None,
            "low": float(np.min(values)) if values else None,
            "high": float(np.max(values)) if values else None,
        }
    return facts
