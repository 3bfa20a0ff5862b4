"""A campaign that learns against one that does not: evaluations that each cell needs.

``python -m tests.benchmarks.learning`` prints one JSON line, after some 15 minutes on 2 cores. The cells are
demo cells whose conductances differ (standard deviation of the logarithm 0.15), each fitted with one seed and
the same budget, once with ``learn: false`` and once with ``learn: true``.

``evaluations_alone``, ``evaluations_learning``
    For each cell in order: evaluations of the active stage until its best total is within 5 % of what the fit
    without learning ended with; null if it was never reached.
``best_alone``, ``best_learning``
    Best total at the end of the active stage.
``learned_from``
    From how many cells each cell started.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

CELLS = 4
SPREAD = 0.15
EVALUATIONS = {"passive": 128, "ih": 128, "active": 320}
NEAR = 1.05


def make_cells(folder: Path) -> list[dict]:
    cells = []
    for seed in range(1, CELLS + 1):
        code = (
            "import pathlib, sys, neurofleet.neurosim.cells.demo_cell as d\n"
            "d.write_demo_cell(pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))"
        )
        place = folder / f"cell-{seed}"
        subprocess.run([sys.executable, "-c", code, str(place), str(seed), str(SPREAD)], check=True)
        cells.append(
            {
                "id": f"cell-{seed}",
                "morphology": f"cell-{seed}/cell.swc",
                "recordings": f"cell-{seed}/cell.nwb",
            }
        )
    return cells


def run(folder: Path, cells: list[dict], learn: bool) -> Path:
    job = {
        "kind": "fit",
        "name": "learning" if learn else "alone",
        "cells": cells,
        "recipe": "demo",
        "evolution": {"seeds": [1], "evaluations": EVALUATIONS, "learn": learn},
        "deadline_s": 20,
    }
    path = folder / f"{job['name']}.yaml"
    path.write_text(yaml.safe_dump(job))
    out = folder / f"{job['name']}-run"
    command = [
        sys.executable,
        "-c",
        "from neurofleet.jobs.cli import main; main()",
        "run",
        str(path),
        "--out",
        str(out),
    ]
    subprocess.run([*command, "--cpus", "2"], check=True)
    return out


def totals(out: Path, cell: str) -> list[float]:
    """Totals of the active stage in the order in which they were asked for."""
    from neurofleet.cluster.store.run_store import RunStore

    generations = RunStore(out).read_generations(cell, "active", 1)
    return [float(total) for generation in generations for total in generation.totals]


def evaluations_until(found: list[float], level: float) -> int | None:
    return next((number for number, total in enumerate(found, 1) if total <= level), None)


def learned_from(out: Path) -> list[int]:
    from neurofleet.cluster.store.run_store import RunStore

    events = [event for event in RunStore(out).read_events() if "learned_from" in event]
    return [len(event["learned_from"]) for event in sorted(events, key=lambda event: event["cell"])]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = make_cells(folder)
        alone, learning = run(folder, cells, False), run(folder, cells, True)
        ids = [cell["id"] for cell in cells]
        levels = {id: NEAR * min(totals(alone, id)) for id in ids}
        measured = {
            "evaluations_alone": [evaluations_until(totals(alone, id), levels[id]) for id in ids],
            "evaluations_learning": [evaluations_until(totals(learning, id), levels[id]) for id in ids],
            "best_alone": [round(min(totals(alone, id)), 2) for id in ids],
            "best_learning": [round(min(totals(learning, id)), 2) for id in ids],
            "learned_from": learned_from(learning),
        }
    print(json.dumps({"benchmark": "learning", **measured, "budget": EVALUATIONS, "spread": SPREAD}))


if __name__ == "__main__":
    main()
