"""The run of a sensitivity analysis: runs about each model on the pool, then indices from their table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.outcome import Outcome
from jobs.carrying_out import Opened, carry_out
from jobs.populations.blocks import Block
from jobs.populations.folder import FINDINGS, write_findings
from jobs.sensitivity.agreement import agreements, surrogates
from jobs.sensitivity.engines import BEST, CHAOS, SALIB, UNCERTAINPY
from jobs.sensitivity.inputs import Subject, read_subjects
from jobs.sensitivity.spec import SensitivitySpec
from jobs.sensitivity.tables import AVERAGES, INDICES, RUNS, averages_rows, indices_rows, runs_table
from neurosim.sensitivity import polynomial_chaos, saltelli
from neurosim.sensitivity.indices import Indices
from neurosim.sensitivity.problem import Problem

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.store import RunStore

BLOCK = 128


@dataclass(frozen=True, eq=False)
class Part:
    """The runs about one model by one design, and the engines that make indices of them.

    Attributes
    ----------
    subject : Subject
    model : int
        Its number in the subject's population.
    design : str
    nodes : callable
        Returns where the model is run, shape (n, P).
    size : int
        Runs.
    """

    subject: Subject
    model: int
    design: str
    nodes: Callable[[], np.ndarray]
    size: int

    @property
    def problem(self) -> Problem:
        return self.subject.problems[self.model]

    @property
    def about(self) -> dict[str, Any]:
        """Which model it is."""
        population = self.subject.population
        seed, rank = int(population.seeds[self.model]), int(population.ranks[self.model])
        return {"cell": self.subject.cell, "seed": seed, "rank": rank}

    def names(self) -> list[str]:
        """Return the names of its blocks, in order."""
        place = f"{RUNS}/cell={self.subject.cell}/model={self.model:04d}/{self.design}"
        return [f"{place}-{number:04d}.parquet" for number in range(-(-self.size // BLOCK))]


def run_sensitivity(
    spec: SensitivitySpec, folder: Path, out: str, address: str | None, cpus: int | None
) -> None:
    """Find the indices of all models, everything stored in `out`, or go on there; raises as `carry_out`."""
    carry_out(
        spec,
        folder,
        out,
        lambda: read_subjects(spec, folder),
        lambda run: _analyse(run, address, cpus),
        FINDINGS,
    )


def parts_of(spec: SensitivitySpec, subjects: Sequence[Subject]) -> list[Part]:
    """Return all runs that a job asks for; the check is of the first model of each cell."""
    found = []
    for subject in subjects:
        for model, problem in enumerate(subject.problems):
            size = 2 * polynomial_chaos.number_of_terms(len(problem)) + 2
            nodes = partial(polynomial_chaos.design, problem)
            found.append(Part(subject, model, CHAOS, nodes, size))
        if spec.check == SALIB:
            first = subject.problems[0]
            size = saltelli.number_of_runs(spec.check_points, len(first))
            nodes = partial(saltelli.design, first, spec.check_points, spec.seed)
            found.append(Part(subject, 0, SALIB, nodes, size))
    return found


def blocks_of(spec: SensitivitySpec, parts: Sequence[Part]) -> Iterator[Block]:
    """Yield the runs in blocks, as they are stored."""
    from jobs.populations.engine import measure_engine

    for part in parts:
        engine = measure_engine(f"{part.subject.cell}-features", part.subject.measure)
        for number, name in enumerate(part.names()):
            kept = slice(number * BLOCK, min((number + 1) * BLOCK, part.size))
            yield Block(
                name=name,
                cell=part.subject.cell,
                engine=engine,
                size=kept.stop - kept.start,
                individuals=partial(_individuals, part, kept),
                table=partial(_table, part, kept, spec.features),
            )


def _individuals(part: Part, kept: slice) -> Sequence[np.ndarray]:
    return part.subject.individuals(part.model, part.nodes()[kept])


def _table(part: Part, kept: slice, features: Sequence[str], outcomes: list[Outcome]) -> "pa.Table":
    about = part.about | {"design": part.design}
    return runs_table(about, kept.start, part.problem.parameters, part.nodes()[kept], features, outcomes)


def _analyse(run: Opened, address: str | None, cpus: int | None) -> None:
    import pyarrow as pa

    from jobs.populations.run import measure
    from jobs.sensitivity.report import write_sensitivity_report
    from jobs.sensitivity.results import print_found

    spec: SensitivitySpec = run.spec
    parts = parts_of(spec, run.inputs)
    measure(run, list(blocks_of(spec, parts)), "running", address, cpus)
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, int] = {}
    for part in parts:
        values = _values(run.store, part, spec.features, outcomes)
        for engine, indices in _indices(spec, part, values):
            rows += indices_rows(part.about | {"engine": engine}, indices)
    averages = averages_rows(rows, spec.seed)
    run.store.write_table(INDICES, pa.Table.from_pylist(rows, schema=_schema(rows)))
    run.store.write_table(AVERAGES, pa.Table.from_pylist(averages, schema=_schema(averages)))
    found = _findings(run, rows, averages, outcomes)
    write_sensitivity_report(run.store, found)
    write_findings(run.out, found)
    print_found(found, run.console)


def _values(store: "RunStore", part: Part, features: Sequence[str], outcomes: dict[str, int]) -> np.ndarray:
    """Return the features of a part's runs, shape (n, F), and count what became of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    blocks = [store.table(name) for name in part.names()]
    table = pa.concat_tables([block for block in blocks if block is not None])
    for one in pc.value_counts(table["status"]).to_pylist():
        outcomes[one["values"]] = outcomes.get(one["values"], 0) + one["counts"]
    return np.stack([table[name].to_numpy() for name in features], axis=1)


def _indices(spec: SensitivitySpec, part: Part, values: np.ndarray) -> Iterator[tuple[str, Indices]]:
    nodes, features = part.nodes(), spec.features
    if part.design == SALIB:
        yield SALIB, saltelli.saltelli(part.problem, nodes, values, features, spec.seed)
        return
    yield CHAOS, polynomial_chaos.polynomial_chaos(part.problem, nodes, values, features)
    yield BEST, polynomial_chaos.best_order(part.problem, nodes, values, features)
    if spec.engine == UNCERTAINPY:
        from neurosim.sensitivity.uncertainpy_engine import uncertainpy_indices

        yield UNCERTAINPY, uncertainpy_indices(part.problem, nodes, values, features)


def _schema(rows: Sequence[dict[str, Any]]) -> "pa.Schema":
    """Return types that do not depend on which values are missing."""
    import pyarrow as pa

    whole = {"seed", "rank", "order", "runs", "left_out", "cells", "models"}
    text = {"cell", "engine", "feature", "parameter", "reason"}
    types = {name: pa.int64() for name in whole} | {name: pa.string() for name in text}
    return pa.schema([(name, types.get(name, pa.float64())) for name in rows[0]])


def _findings(
    run: Opened, rows: list[dict[str, Any]], averages: list[dict[str, Any]], outcomes: dict[str, int]
) -> dict[str, Any]:
    from jobs.provenance import versions

    spec: SensitivitySpec = run.spec
    return {
        "name": spec.name,
        "kind": spec.kind,
        "half_width": spec.half_width,
        "engine": spec.engine,
        "check": spec.check,
        "features": spec.features,
        "cells": [
            {
                "cell": subject.cell,
                "models": len(subject.population),
                "protocol": subject.protocol.name,
                "amplitude_nA": subject.protocol.amplitude_nA,
                "parameters": list(subject.parameters),
            }
            for subject in run.inputs
        ],
        "outcomes": outcomes,
        "surrogates": surrogates(spec.features, rows),
        "averages": averages,
        "agreements": agreements(rows),
        "notes": run.notes,
        "versions": versions(),
    }
