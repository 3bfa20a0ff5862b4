"""How many files a campaign holds, and has open, as its cells go by: the store alone, in virtual time.

Run with ``python -m tests.benchmarks.store [cells]``; prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import Evaluations, HallOfFameRows

CELLS = 120
OPEN_AT_ONCE = 4
STAGES = ("passive", "ih", "active")
SEEDS = range(1, 5)
GENERATIONS = 25
OFFSPRING = 16
PARAMETERS = tuple(f"p{number}" for number in range(12))
OBJECTIVES = tuple(f"o{number}" for number in range(12))


def made_generation(number: int, values: np.random.Generator) -> Evaluations:
    """Scores of nothing."""
    scores = values.random((OFFSPRING, len(OBJECTIVES)))
    return Evaluations(
        generation=number,
        parameter_names=PARAMETERS,
        objective_names=OBJECTIVES,
        parameters=values.random((OFFSPRING, len(PARAMETERS))),
        scores=scores,
        totals=scores.sum(axis=1),
        statuses=["ok"] * OFFSPRING,
        reasons=[""] * OFFSPRING,
        seconds=values.random(OFFSPRING),
    )


def fit(store: RunStore, cell: str, values: np.random.Generator):
    """Store what the fit of a cell stores, and yield after each generation of all seeds."""
    for stage in STAGES:
        for number in range(GENERATIONS):
            for seed in SEEDS:
                store.write_generation(cell, stage, seed, made_generation(number, values))
            yield
        for seed in SEEDS:
            store.merge_generations(cell, stage, seed)
    best = made_generation(0, values)
    for seed in (*SEEDS, "pooled"):
        rows = HallOfFameRows(
            cell,
            np.ones(OFFSPRING, int),
            np.zeros(OFFSPRING, int),
            np.arange(OFFSPRING),
            PARAMETERS,
            OBJECTIVES,
            best.parameters,
            best.scores,
            best.totals,
        )
        store.write_hall_of_fame(rows, seed)


def inodes(folder: str) -> int:
    """Files and folders below a folder."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def files_of_a_campaign(cells: int) -> dict[str, float]:
    """Run the store of a campaign, a few cells at a time."""
    values = np.random.default_rng(1)
    held: list[int] = []
    opened: list[int] = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        store = RunStore(Path(folder) / "run")
        with store.locked():
            waiting = (fit(store, f"cell-{number}", values) for number in range(cells))
            under_way = list(islice(waiting, OPEN_AT_ONCE))
            begun = time.process_time()
            while under_way:
                for one in list(under_way):
                    if next(one, "done") == "done":
                        under_way.remove(one)
                        under_way += islice(waiting, 1)
                        held.append(inodes(folder))
                        opened.append(len(os.listdir("/proc/self/fd")))
            cpu_s = time.process_time() - begun
        merged = sum(1 for _ in Path(folder).glob("run/evaluations/**/generations-*.parquet"))
        parts = sum(1 for _ in Path(folder).glob("run/evaluations/**/generation-*.parquet"))
    middle = slice(cells // 4, cells - OPEN_AT_ONCE)
    slope = np.polyfit(np.arange(cells)[middle], held[middle], 1)[0]
    generations = cells * len(STAGES) * len(SEEDS) * GENERATIONS
    return {
        "cells": cells,
        "generations": generations,
        "files_of_generations": parts,
        "files_of_stages": merged,
        "inodes_per_cell": float(slope),
        "inodes_under_way": float(held[-OPEN_AT_ONCE - 1] - slope * (cells - OPEN_AT_ONCE)),
        "open_files_first": opened[0],
        "open_files_most": max(opened),
        "open_files_last": opened[-1],
        "cpu_ms_per_generation": 1000 * cpu_s / generations,
    }


if __name__ == "__main__":
    measured = files_of_a_campaign(int(sys.argv[1]) if len(sys.argv) > 1 else CELLS)
    print(json.dumps({"benchmark": "store", **{name: round(value, 3) for name, value in measured.items()}}))
