"""SIMS with its one default setting against tuned logistic regression, on the same folds of real sets.

    python -m tests.benchmarks.sims_accuracy [--sets NAME,...] [--seeds 1,2,3] [--processes 2] [--kept FILE]

Prints one JSON line: for each set the mean over folds and seeds of ``sims_accuracy``, ``sims_f1``,
``logistic_accuracy``, ``logistic_f1``, of SIMS without its linear part (``networks_*``), ``linear_share``, the
share of the linear part that validation cells chose, ``runs``, and with seed 1 ``shuffled_f1``, the macro-F1 of the
same training on shuffled labels, against shuffled labels. No cell of a test fold is used for anything but these, and
of cells that occur twice the first is used. A fold is trained on as a job does it: 15 % of its training cells
validate, and are trained on at the end. Logistic regression is tuned by cross-validation inside the others, and
fitted to all cells of the fold.

With ``--kept``, each fold's scores are added to that file when they are known, and those that are there already are not
calculated again: the benchmark can be interrupted, and done in pieces.
"""

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

os.environ.setdefault("OMP_NUM_THREADS", "1")


DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "sims"
SETS: dict[str, dict[str, Any]] = {
    "pbmc68k_reduced": {"folds": 5},
    "pbmc_3tech_symphony": {"group": "donor", "folds": 3},
    "mouse_brain_merfish_1k": {"folds": 5, "fewest_cells": 10},
    "osmfish_cortex_33genes": {"folds": 5},
    "worm_neurons_sci": {"folds": 3},
}


def run_fold(name: str, number: int, seed: int, preset: str) -> dict[str, Any]:
    """Return the scores of one fold of one set with one seed."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from neurofleet.learners.cells.cell_copies import find_copies, looked_at
    from neurofleet.learners.cells.cell_files import open_cells
    from neurofleet.learners.cells.cell_labels import read_labels
    from neurofleet.learners.cells.normalisation import recognise
    from neurofleet.learners.local_training import train_here
    from neurofleet.learners.sims.labelled_reference import reference_of
    from neurofleet.learners.sims.linear_share import mixed
    from neurofleet.learners.sims.reference_fit import fit, shuffled_scores
    from neurofleet.learners.sims.tabnet_settings import settings_of
    from neurofleet.learners.splits import make_folds

    started = time.monotonic()
    cells = open_cells(DATA / f"{name}.h5ad").in_memory()
    seen = recognise(cells)
    reference = reference_of(cells, read_labels(cells, "cell_type"), seen)
    names = np.asarray(reference.classes, dtype=object)[reference.labels]
    counts = np.bincount(reference.labels)
    names[counts[reference.labels] < SETS[name].get("fewest_cells", 0)] = ""
    copies = find_copies(looked_at(cells, seen, reference.normalisation), np.flatnonzero(names))
    split = make_folds(
        cells.cell_ids,
        names,
        SETS[name]["folds"],
        validation=0.15,
        group=SETS[name].get("group"),
        columns=cells.obs,
        left_out=copies.rows,
        seed=42,
    )[number]
    settings = settings_of(preset)
    model = fit(reference, split, settings, train_here, seed).model
    rows = split.rows("test")
    parts = model.parts(reference.values(rows))
    predicted = {
        "sims": mixed(parts["networks"], parts.get("linear"), model.linear_share),
        "networks": parts["networks"],
    }
    if "linear" in parts:
        predicted["logistic"] = parts["linear"]
    scores: dict[str, Any] = {"set": name, "fold": number, "seed": seed, "linear_share": model.linear_share}
    for key, log_probabilities in predicted.items():
        scores |= _scores(key, reference.labels[rows], log_probabilities.argmax(1))
    if seed == 1:
        scores["shuffled_f1"] = shuffled_scores(reference, split, settings, train_here, seed).macro_f1
    return scores | {"seconds": time.monotonic() - started}


def _scores(key: str, true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    present = np.unique(true)
    return {
        f"{key}_accuracy": float(accuracy_score(true, predicted)),
        f"{key}_f1": float(f1_score(true, predicted, labels=present, average="macro", zero_division=0)),
    }


def measure(sets: list[str], seeds: list[int], processes: int, preset: str, kept: Path | None) -> dict[str, Any]:
    """Return the mean scores of each set."""
    rows = [] if kept is None or not kept.exists() else [json.loads(line) for line in kept.read_text().splitlines()]
    known = {(row["set"], row["fold"], row["seed"]) for row in rows}
    jobs = [
        (name, number, seed, preset)
        for seed in seeds
        for name in sets
        for number in range(SETS[name]["folds"])
        if (name, number, seed) not in known
    ]
    for row in _in_turn(jobs) if processes == 1 else _side_by_side(jobs, processes):
        rows.append(row)
        print(line := json.dumps(row), file=sys.stderr, flush=True)
        if kept is not None:
            with kept.open("a") as file:
                file.write(line + "\n")
    found: dict[str, Any] = {"benchmark": "sims_accuracy", "preset": preset, "seeds": seeds}
    for name in sets:
        own = [row for row in rows if row["set"] == name and row["seed"] in seeds]
        keys = sorted({key for row in own for key in row} - {"set", "fold", "seed"})
        found[name] = {key: round(float(np.mean([row[key] for row in own if key in row])), 4) for key in keys}
        found[name]["runs"] = len(own)
    for key in ("sims_accuracy", "sims_f1", "logistic_accuracy", "logistic_f1"):
        values = [found[name][key] for name in sets if key in found[name]]
        if values:
            found[f"mean_{key}"] = round(float(np.mean(values)), 4)
    return found


def _in_turn(jobs: list[tuple[str, int, int, str]]) -> Iterator[dict[str, Any]]:
    for job in jobs:
        yield run_fold(*job)


def _side_by_side(jobs: list[tuple[str, int, int, str]], processes: int) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(processes) as pool:
        for done in as_completed([pool.submit(run_fold, *job) for job in jobs]):
            yield done.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--kept", type=Path)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    print(json.dumps(measure(given.sets.split(","), seeds, given.processes, given.preset, given.kept)))


if __name__ == "__main__":
    main()
