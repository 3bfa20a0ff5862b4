"""Default fits to the end, beside what is known of the cells: published models, true parameters, unseen steps.

Run as ``python -m tests.benchmarks.truth --out FOLDER [--cells …]``; one JSON line for each cell on stdout, what the
jobs print on stderr. Each cell is a fit as a user would run it (``neurofleet run``, nothing but its files named in the
job, so four seeds of the default budget), then a validation of its hall of fame. Everything is kept in FOLDER: stop at
any time, and the same command goes on; what is finished is not done again. Cells one after the other. ``--plan`` prints
what ``neurofleet plan`` expects of each cell, and runs nothing. ``--budget`` overrides keys of ``evolution:`` (YAML),
in a folder of its own; ``--posterior N`` samples a posterior of at most N evaluations after the fit.

Cells: `tests.benchmarks.search_cells`; those that are made have recordings that NEURON simulated with a published
model, which then is the truth.

``fit``
    Best total and mean |z| of each seed, by NEURON at the tolerance of finalists; evaluations and core-hours by stage;
    wall-clock hours of the job, and the machine's mean load meanwhile.
``agree``
    Seeds whose best mean |z| is within the fit's tolerance of the best one's, and the distances of their best models
    on the axes of the search from 0 to 1: the smallest, the median, the largest.
``population``
    The pooled hall of fame: median total, median distance, share of near pairs, distinct models, effective dimensions.
``published``
    The published (or true) models under the same scoring by NEURON: total and mean |z| of the best and the median, and
    how many parameters lay outside of the recipe's bounds and were moved there, at most.
``unseen``
    Mean |z| at steps that no stage was trained on: of each seed's best model, the median of the hall of fame by
    ``kind: validate``, and of the published models, the best by training and the median. Null without such steps.
``known``
    Of made cells, parameter -> place of the truth on its axis, lowest and highest of the hall of fame, and the share of
    its models below; then how many lie inside. ``posterior`` has the same with the central 90 % of the draws, after how
    far the sampling came.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from neurofleet import fresh_process
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.jobs.demo import make_input
from neurofleet.jobs.fit.fit_job import CellSpec
from neurofleet.jobs.results.parameters_at_bounds import Bounds, known_positions, positions
from neurofleet.jobs.results.run_summary import summary_of_cell
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.jobs.studies.populations import draws_file
from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS
from neurofleet.neurosim.evolution import spread_of
from neurofleet.neurosim.evolution.diverse_selection import distances
from tests.benchmarks.evaluation import data_folder, mouse_cell, mouse_fit, published_value, rat_cell
from tests.benchmarks.record import machine
from tests.benchmarks.search_cells import ALL_ACTIVE, MADE

CLOCK_S = 5.0

Models = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class TruthCell:
    """A cell, and what is known of it.

    Attributes
    ----------
    cell : callable
        Returns the cell as a job names it; what is simulated for it is kept in the folder that it gets.
    published : callable
        Returns models of the recipe, best first, of the same folder.
    made : bool
        Whether the first of these is the truth.
    recipe : str, optional
        By default that of the job.
    """

    cell: Callable[[Path], CellSpec]
    published: Callable[[Path], Models]
    made: bool = True
    recipe: str | None = None


def _demo(folder: Path) -> CellSpec:
    place = folder / "recordings" / "demo"
    if not (place / "cell.nwb").is_file():
        make_input(place)
    return CellSpec(id="demo", morphology=place / "cell.swc", recordings=place / "cell.nwb")


def _mouse_models(folder: Path) -> Models:
    import pandas as pd

    models = pd.read_parquet(data_folder(ALL_ACTIVE))
    rows = models[models["cell_id"].astype("int64") == 483101699].sort_values("hof_index")
    return [mouse_fit(), *(row.dropna().to_dict() for _, row in rows.iterrows())]


CELLS = {
    "demo": TruthCell(_demo, lambda folder: [KNOWN_PARAMETERS], recipe="demo"),
    "483101699": TruthCell(lambda folder: mouse_cell(), _mouse_models, made=False),
    **{
        name: TruthCell(cell.job_cell, lambda folder, cell=cell: [cell.known(folder)])  # type: ignore[misc]
        for name, cell in MADE.items()
        if cell.fit is None  # whose models have the mechanisms of the recipe
    },
    "C060114A7": TruthCell(lambda folder: rat_cell(), lambda folder: [], made=False),
}
DEFAULT = ("demo", "483101699", "479704527", "395830185", "485184849", "C060114A7")


class Runner:
    """Runs the jobs of one cell in a folder, and keeps how long they took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._clock = folder / "clock.json"

    @property
    def clock(self) -> dict[str, dict[str, float]]:
        """Job -> seconds and mean load so far, over all tries."""
        return json.loads(self._clock.read_text()) if self._clock.is_file() else {}

    def write(self, name: str, job: Mapping[str, Any]) -> Path:
        """Write a job file."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(job), sort_keys=False))
        return path

    def run(self, name: str, job: Mapping[str, Any]) -> Path:
        """Run a job, or go on with it, unless it is finished as it is; return its run folder."""
        out, path, before = self.folder / name, self.folder / f"{name}.yaml", self.clock
        spent = before.get(name, {"seconds": 0.0, "mean_load": 0.0})
        if spent.get("finished") and path.is_file() and yaml.safe_load(path.read_text()) == dict(job):
            return out
        command = _neurofleet("run", self.write(name, job), "--out", out)
        started, loads = time.monotonic(), [os.getloadavg()[0]]
        process = subprocess.Popen(command, stdout=sys.stderr)
        try:
            while process.poll() is None:
                try:
                    process.wait(CLOCK_S)
                except subprocess.TimeoutExpired:
                    loads.append(os.getloadavg()[0])
                self._note(before, name, spent, time.monotonic() - started, float(np.mean(loads)))
        except KeyboardInterrupt:
            process.wait()  # it has had the signal too, and ends in order
            raise
        if process.returncode:
            raise SystemExit(f"{name} of {self.folder.name} ended with exit code {process.returncode}, see above")
        self._write(self.clock | {name: self.clock.get(name, spent) | {"finished": True}})
        return out

    def _note(
        self, before: Mapping[str, Any], name: str, spent: Mapping[str, float], seconds: float, load: float
    ) -> None:
        total = spent["seconds"] + seconds
        mean = (spent["seconds"] * spent["mean_load"] + seconds * load) / total
        self._write({**before, name: {"seconds": round(total, 1), "mean_load": round(mean, 2)}})

    def _write(self, clock: Mapping[str, Any]) -> None:
        written = self._clock.with_suffix(".part")
        written.write_text(json.dumps(clock))
        written.replace(self._clock)


def _neurofleet(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "neurofleet", *map(str, arguments)]


def fit_job(name: str, cell: TruthCell, out: Path, budget: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job of a default fit, with what `budget` overrides."""
    spec = cell.cell(out)
    job: dict[str, Any] = {
        "kind": "fit",
        "name": f"truth-{name}",
        "cells": [spec.model_dump(mode="json", exclude_unset=True)],
    }
    job |= {} if cell.recipe is None else {"recipe": cell.recipe}
    return job | ({"evolution": dict(budget)} if budget else {})


def scored(run: Path, cell: str, models: Models) -> dict[str, Any]:
    """Score models as the finalists of a fit's last stage, and at the steps that no stage was trained on.

    Parameters
    ----------
    run : Path
        Of the fit.
    cell : str
    models : sequence of mappings
        Parameter -> value, as recipes name them, or as published.

    Returns
    -------
    dict
        `training` and `unseen`: mean |z| of each model, `unseen` None without such steps; `moved`: how many parameters
        of each were outside of the recipe's bounds.
    """
    from neurofleet.jobs.fit.fit_inputs import job_mechanisms, prepare_cell, recording_source
    from neurofleet.jobs.studies.populations import open_fit
    from neurofleet.jobs.studies.posterior_predictions import unseen_targets
    from neurofleet.neurosim.studies.generalisation import ValidationMeasure

    _, spec, folder = open_fit(run)
    (of_job,) = [each for each in spec.cells if each.id == cell]
    subject = prepare_cell(of_job, spec, folder, job_mechanisms(spec, folder))
    problem = subject.problem(
        len(subject.stages) - 1, None
    )  # all of the recipe's parameters are free, in all its bounds
    unseen = unseen_targets(subject, problem, recording_source(of_job, folder))
    measure = ValidationMeasure(problem.final_model, unseen, max_steps=10_000_000).build()
    found: dict[str, Any] = {"training": [], "unseen": [], "moved": []}
    for model in models:
        given = [published_value(model, name) for name in problem.names]
        missing = [name for name, value in zip(problem.names, given, strict=True) if value is None]
        if missing:
            raise SystemExit(f"{cell}: a published model has no {', '.join(missing)}")
        values = np.clip(np.array(given, float), problem.lower, problem.upper)
        done = measure(values)
        found["training"].append(float(done.training.mean()))
        found["unseen"].append(float(done.generalisation.mean()) if unseen else None)
        found["moved"].append(int((values != np.array(given, float)).sum()))
    return found


def run_cell(
    name: str, out: Path, budget: Mapping[str, Any], validated: int, evaluations: int | None
) -> dict[str, Any]:
    """Do what is left to do of a cell, and return what its folder holds."""
    cell = CELLS[name]
    folder = out / (f"{name}-{_digest(budget)}" if budget else name)
    folder.mkdir(parents=True, exist_ok=True)
    runner = Runner(folder)
    fit = runner.run("fit", fit_job(name, cell, out, budget))
    validate = runner.run(f"validate-{validated}", {"kind": "validate", "models": {"run": str(fit), "best": validated}})
    posterior = None
    published = list(cell.published(out))
    if evaluations:
        job = {"kind": "posterior", "fit": str(fit), "most_evaluations": evaluations, "largest_mean_z": None}
        posterior = runner.run("posterior", job)
    elif (folder / "posterior" / "findings.json").is_file():
        posterior = folder / "posterior"
    kept = folder / "scored.json"
    if not kept.is_file():
        bests = [_model(rows) for rows in _of_seeds(RunTables(fit), name)]
        kept.write_text(json.dumps(fresh_process.call("tests.benchmarks.truth:scored", fit, name, bests + published)))
    return gather(name, fit, validate, posterior, json.loads(kept.read_text()), published, runner.clock)


def _digest(budget: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(budget, sort_keys=True).encode()).hexdigest()[:8]


def _model(rows: HallOfFameRows) -> dict[str, float]:
    return dict(zip(rows.parameter_names, rows.parameters[0].tolist(), strict=True))


def _of_seeds(tables: RunTables, cell: str) -> list[HallOfFameRows]:
    halls = [tables.store.read_hall_of_fame(cell, seed) for seed in tables.spec.evolution.seeds]
    return [hall for hall in halls if hall is not None]


def gather(
    name: str,
    fit: Path,
    validate: Path,
    posterior: Path | None,
    scores: Mapping[str, Any],
    published: Models,
    clock: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the module describes."""
    tables = RunTables(fit)
    events = tables.store.read_events()
    summary = summary_of_cell(tables, name, events)
    bounds = next(
        e["bounds"] for e in events if e["event"] == "stage started" and e["stage"] == summary.stages[-1].stage
    )
    halls = _of_seeds(tables, name)
    pooled = tables.store.read_hall_of_fame(name)
    assert pooled is not None
    objectives = len(pooled.objective_names)
    best = np.array([hall.totals[0] for hall in halls])
    bests = np.concatenate([positions(hall, bounds)[1][:1] for hall in halls])
    apart = distances(bests, bests)[np.triu_indices(len(bests), 1)]
    within = best / objectives <= best.min() / objectives + tables.spec.evolution.kept_within
    spread = spread_of(positions(pooled, bounds)[1])
    seeds = len(halls)
    validated = _table(validate, "models.parquet")
    found: dict[str, Any] = {
        "benchmark": "truth",
        "cell": name,
        "made": CELLS[name].made,
        "objectives": objectives,
        "fit": {
            "totals": _rounded(best),
            "mean_z": _rounded(best / objectives),
            "rescored_mean_z": _rounded(scores["training"][:seeds]),
            "evaluations": {stage.stage: sum(stage.outcomes.values()) for stage in summary.stages},
            "engines": {stage.stage: stage.engine or "neuron" for stage in summary.stages},
            "core_hours": {stage.stage: round(stage.core_hours, 4) for stage in summary.stages},
            "wall_hours": round(clock["fit"]["seconds"] / 3600, 4),
            "mean_load": clock["fit"]["mean_load"],
        },
        "agree": {"seeds": int(within.sum()), "of": seeds, "distances": _rounded(_three(apart)) if seeds > 1 else None},
        "population": {
            "models": len(pooled),
            "median_total": round(float(np.median(pooled.totals)), 2),
            "median_distance": round(spread.median_distance, 3),
            "near_pairs": round(spread.near_share, 4),
            "distinct": spread.distinct,
            "effective_dimensions": round(spread.effective_dimensions, 2),
        },
        "published": _published(scores, seeds, objectives) if published else None,
        "unseen": None,
        "known": None,
        "posterior": None,
        **machine(),
    }
    if scores["unseen"][0] is not None:
        by_job = [row["generalisation"] for row in validated if row["generalisation"] is not None]
        found["unseen"] = {
            "seeds": _rounded(scores["unseen"][:seeds]),
            "hall_of_fame": round(float(np.median(by_job)), 2) if by_job else None,
            "published": _best_and_median(scores["unseen"][seeds:], scores["training"][seeds:]) if published else None,
        }
    if CELLS[name].made:
        found["known"] = _known(published[0], pooled, bounds, (0.0, 1.0))
        if posterior is not None:
            found["posterior"] = _posterior(posterior, name, published[0], bounds)
    return found


def _posterior(run: Path, name: str, truth: Mapping[str, float], bounds: Bounds) -> dict[str, Any]:
    """Return how far the sampling came, and where the truth is among its draws, if there are some."""
    (cell,) = [each for each in json.loads((run / "findings.json").read_text())["cells"] if each["cell"] == name]
    table = RunStore(run).table(draws_file(name))
    told = {key: cell[key] for key in ("evaluations", "power", "converged", "rhat", "effective")}
    drawn = table is not None and len(table)
    return told | (_known(truth, HallOfFameRows.from_table(table), bounds, (0.05, 0.95)) if drawn else {})


def _published(scores: Mapping[str, Any], seeds: int, objectives: int) -> dict[str, Any]:
    training = np.array(scores["training"][seeds:])
    return {
        "models": len(training),
        "totals": _rounded([objectives * training.min(), objectives * np.median(training)]),
        "mean_z": _rounded([training.min(), np.median(training)]),
        "moved": max(scores["moved"][seeds:]),
    }


def _best_and_median(unseen: Sequence[float], training: Sequence[float]) -> list[float]:
    return _rounded([unseen[int(np.argmin(training))], float(np.median(unseen))])


def _known(
    truth: Mapping[str, float], models: HallOfFameRows, bounds: Bounds, interval: tuple[float, float]
) -> dict[str, Any]:
    names, unit = positions(models, bounds)
    truth = {name: value for name in names if (value := published_value(truth, name)) is not None}
    places = known_positions(truth, names, bounds)
    low, high = np.quantile(unit, interval, axis=0)
    below = (unit < places).mean(axis=0)
    rows = zip(places, low, high, below, strict=True)
    outside = [name for name in names if not bounds[name][0] <= truth[name] <= bounds[name][1]]
    inside = (places >= low) & (places <= high)
    return {
        "inside": int(inside.sum()),
        "of": len(names),
        "out_of_bounds": outside,
        "parameters": {name: _rounded(row, 3) for name, row in zip(names, rows, strict=True)},
    }


def _table(run: Path, name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(run / name).to_pylist()


def _three(values: np.ndarray) -> tuple[float, float, float]:
    return values.min(), float(np.median(values)), values.max()


def _rounded(values: Any, digits: int = 2) -> list[float]:
    return [round(float(value), digits) for value in values]


def plan_cell(name: str, out: Path, budget: Mapping[str, Any]) -> None:
    """Print what the fit of a cell is expected to cost."""
    folder = out / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    job = Runner(folder).write(name, fit_job(name, CELLS[name], out, budget))
    subprocess.run(_neurofleet("plan", job), check=True, stdout=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of everything")
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(DEFAULT))
    parser.add_argument("--budget", type=yaml.safe_load, default={}, help="overrides keys of `evolution:`, YAML")
    parser.add_argument("--validated", type=int, default=10, help="models of the hall of fame that are validated")
    parser.add_argument("--posterior", type=int, metavar="N", help="sample a posterior too, of N evaluations at most")
    parser.add_argument("--plan", action="store_true", help="print what each fit will cost, and run nothing")
    options = parser.parse_args()
    out = options.out.absolute()
    for name in options.cells:
        if options.plan:
            plan_cell(name, out, options.budget)
        else:
            print(json.dumps(run_cell(name, out, options.budget, options.validated, options.posterior)), flush=True)


if __name__ == "__main__":
    main()
