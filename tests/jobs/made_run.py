"""A small run folder as a fit leaves it, made without a fit."""

import json
from pathlib import Path

import numpy as np
import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import Evaluations, HallOfFameRows

PASSIVE = {"cm.soma": (0.1, 10.0), "g_pas.all": (1e-7, 1e-2)}
ACTIVE = {"cm.soma": (1.0, 3.0), "gbar_NaTs2_t.soma": (0.0, 5.0), "gbar_SK.axon": (1e-7, 0.1)}
PASSIVE_OBJECTIVES = ("LongDC_20.soma.voltage_base", "LongDC_21.soma.voltage_base")
ACTIVE_OBJECTIVES = (
    "LongDC_46.soma.mean_frequency",
    "LongDC_46.soma.AP_width",
    "LongDC_46.soma.voltage_base",
    "LongDC_40.soma.Spikecount",
)
OUTCOMES = ["ok"] * 8 + ["timeout", "crash"]
REASONS = [""] * 8 + ["no result within 300 s", "signal 11"]
WINNER = {"cm.soma": 2.0, "g_pas.all": 1e-4}


def _generation(number, bounds, objectives, draw, individuals=10) -> Evaluations:
    lower, upper = np.array(list(bounds.values())).T
    scores = draw.gamma(2.0, 2.0, (individuals, len(objectives))) / (1 + number)
    statuses, reasons = OUTCOMES[:individuals], REASONS[:individuals]
    scores[[status != "ok" for status in statuses]] = 250.0
    return Evaluations(
        generation=number,
        parameter_names=tuple(bounds),
        objective_names=objectives,
        parameters=draw.uniform(lower, upper, (individuals, len(bounds))),
        scores=scores,
        totals=scores.sum(axis=1),
        statuses=statuses,
        reasons=reasons,
        seconds=draw.gamma(4.0, 0.1, individuals),
    )


def _hall(cell, seed, generations: list[Evaluations], fixed: dict[str, float], size=3) -> HallOfFameRows:
    parameters, scores, totals = (
        np.concatenate([getattr(g, name) for g in generations]) for name in ("parameters", "scores", "totals")
    )
    order = np.argsort(totals)[:size]
    extra = np.tile(list(fixed.values()), (size, 1)) if fixed else np.empty((size, 0))
    return HallOfFameRows(
        cell=cell,
        seeds=np.full(size, seed),
        generations=np.array([generations[0].generation] * size),
        individuals=np.arange(size),
        parameter_names=(*generations[0].parameter_names, *fixed),
        objective_names=generations[0].objective_names,
        parameters=np.hstack([parameters[order], extra]),
        scores=scores[order],
        totals=totals[order],
    )


def write_run(
    root: Path,
    cells: tuple[str, ...] = ("a",),
    seeds: tuple[int, ...] = (1, 2),
    generations: int = 5,
    finished: bool = True,
    job: dict | None = None,
    job_folder: Path | None = None,
) -> RunStore:
    """Write a run of two stages, passive and active; an unfinished one lacks finalists and halls of fame."""
    from neurofleet.jobs.fit.cell_stages import pooled

    draw = np.random.default_rng(1)
    store = RunStore(root)
    store.parameters = list(dict.fromkeys([*PASSIVE, *ACTIVE]))
    with store.locked():
        store.write_text("job.yaml", yaml.safe_dump(job or made_job(cells, seeds)))
        provenance = {
            "job_folder": str(job_folder or root / "gone"),
            "inputs": {"<cell>.swc": "0" * 64},
            "versions": {"neuron": "9.0.2"},
        }
        store.write_text("provenance.json", json.dumps(provenance))
        store.append_event("started")
        for cell in cells:
            _started(store, cell, "passive", seeds[:1], PASSIVE)
            for number in range(generations):
                store.write_generation(
                    cell, "passive", seeds[0], _generation(number, PASSIVE, PASSIVE_OBJECTIVES, draw)
                )
            store.append_event(
                "stage finished", cell=cell, stage="passive", seed=seeds[0], total=1.0, parameters=WINNER
            )
            _started(store, cell, "active", seeds, ACTIVE)
            halls = []
            for seed in seeds:
                for number in range(generations):
                    store.write_generation(cell, "active", seed, _generation(number, ACTIVE, ACTIVE_OBJECTIVES, draw))
                if finished:
                    final = _generation(0, ACTIVE, ACTIVE_OBJECTIVES, draw, individuals=8)
                    store.write_generation(cell, "active_final", seed, final)
                    halls.append(_hall(cell, seed, [final], {"g_pas.all": 1e-4}))
                    store.write_hall_of_fame(halls[-1], seed)
            if finished:
                best = min(halls, key=lambda hall: hall.totals[0])
                store.append_event(
                    "stage finished",
                    cell=cell,
                    stage="active",
                    seed=int(best.seeds[0]),
                    total=float(best.totals[0]),
                    parameters=dict(zip(best.parameter_names, best.parameters[0].tolist(), strict=True)),
                )
                store.write_hall_of_fame(pooled(halls), "pooled")
        if finished:
            store.append_event("finished", failed={}, seconds=12.5)
    return store


def made_job(cells: tuple[str, ...], seeds: tuple[int, ...]) -> dict:
    """The job of `write_run`."""
    listed = [{"id": cell, "morphology": f"{cell}.swc", "recordings": f"{cell}.nwb"} for cell in cells]
    return {"kind": "fit", "name": "made", "cells": listed, "evolution": {"seeds": list(seeds)}}


def _started(store, cell, stage, seeds, bounds) -> None:
    store.append_event(
        "stage started",
        cell=cell,
        stage=stage,
        seeds=list(seeds),
        planned_evaluations=50 * len(seeds),
        bounds={name: list(limits) for name, limits in bounds.items()},
    )
