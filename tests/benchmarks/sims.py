"""Speed of SIMS: a training step against pytorch-tabnet's network, epochs, streaming, prediction, a whole job.

    python -m tests.benchmarks.sims [--parts step,epochs,stream,predict] [--device cpu|cuda] [--threads 1]
    python -m tests.benchmarks.sims --parts job [--set pbmc_3tech_symphony]

Prints one JSON line. ``step_speedup``: seconds of a training step (forward, backward, Adam) of
pytorch-tabnet's network over ours, same sizes (released-tall: 8/8, 3 steps), batch 256, in turns in this
process, median of the steps after the first. ``sparsemax_s``: seconds of ours by Newton's steps,
and of entmax's by a full and by a partial sort (k = 100), forward and backward. ``stream``: see
`tests.benchmarks.sims_stream`. ``job``: the job that `neurofleet new sims` writes for a set, done by `neurofleet run`
``alone`` and beside a ``busy`` process for every core: seconds of wall and CPU, peak memory (GB), scores on test cells,
and ``wall_ratio`` and ``cpu_ratio``, busy over alone. ``same_model`` says whether both are the same, bit by bit.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH = 256
GENES = (2_000, 8_000, 20_000)
CLASSES = 10
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "sims"


def step_speedup(device: str, compiled: bool = False) -> dict[str, Any]:
    """Return seconds of a step, ours and theirs, by the number of genes."""
    from neurofleet.learners.sims.tabnet import Shape, TabNet
    from tests.learners.sims.reference_tabnet import reference

    found = {}
    for genes in GENES:
        cells = torch.randn(BATCH, genes, device=device)
        labels = torch.arange(BATCH, device=device) % CLASSES
        ours = TabNet(genes, CLASSES, Shape()).to(device)
        theirs = reference(genes, CLASSES, Shape()).to(device)
        encoder = theirs.tabnet.encoder
        encoder.group_attention_matrix = encoder.group_attention_matrix.to(device)
        steps = {"ours": _step(ours, cells, labels), "theirs": _step(theirs, cells, labels)}
        if compiled:
            steps["ours_compiled"] = _step(torch.compile(ours), cells, labels)
        seconds = _in_turns(steps, repeats=4 if genes > 2_000 else 8, device=device)
        found[str(genes)] = seconds | {"speedup": round(seconds["theirs"] / seconds["ours"], 2)}
        del theirs
    return found


def _step(network: Any, cells: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    from neurofleet.learners.sims.tabnet import mask_entropy

    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        logits, rest = network(cells)
        entropy = mask_entropy(rest) if isinstance(rest, list) else -rest
        (torch.nn.functional.cross_entropy(logits, labels) + 1e-3 * entropy).backward()
        optimizer.step()

    return step


def _in_turns(steps: dict[str, Callable[[], None]], repeats: int, device: str) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(taken[1:]), 5) for name, taken in seconds.items()}


def sparsemax_speedup(device: str) -> dict[str, float]:
    """Return seconds of sparsemax over 256 x 5,000 scores, forward and backward, by method."""
    from entmax import sparsemax as sorted_sparsemax

    from neurofleet.learners.sims.tabnet import sparsemax

    scores = (torch.randn(BATCH, 5_000, device=device)).requires_grad_()
    weights = torch.randn(BATCH, 5_000, device=device)
    ways = {
        "newton": lambda: (sparsemax(scores) * weights).sum().backward(),
        "full_sort": lambda: (sorted_sparsemax(scores, dim=-1) * weights).sum().backward(),
        "partial_sort": lambda: (sorted_sparsemax(scores, dim=-1, k=100) * weights).sum().backward(),
    }
    return _in_turns(ways, 8, device)


def epochs(device: str) -> dict[str, float]:
    """Return epochs a second of the default networks on all cells of worm_neurons_sci."""
    from neurofleet.learners.cells.cell_files import open_cells
    from neurofleet.learners.cells.cell_labels import read_labels
    from neurofleet.learners.local_training import train_here
    from neurofleet.learners.sims.labelled_reference import reference_of
    from neurofleet.learners.sims.tabnet_settings import settings_of

    cells = open_cells(DATA / "worm_neurons_sci.h5ad").in_memory()
    reference = reference_of(cells, read_labels(cells, "cell_type"))
    settings = settings_of("default", {"epochs": 3, "most_steps": None})
    task = reference.task(np.arange(len(cells)), np.array([], dtype=np.int64), settings)
    task.used  # noqa: B018  read and normalised before the clock starts
    ends = [time.perf_counter()]
    train_here(task, "speed", 1, lambda row: ends.append(time.perf_counter()))
    return {
        "epochs_per_s": round(1 / (ends[-1] - ends[-2]), 4),
        "cells": len(cells),
        "genes_seen": len(task.inputs.columns),
        "members": settings.members,
    }


def predict(device: str) -> dict[str, float]:
    """Return cells a second of the default model, untrained, in memory, values normalised and all."""
    import scipy.sparse as sp

    from neurofleet.learners.cells.normalisation import Normalisation
    from neurofleet.learners.sims.sims_classifier import blocks_of
    from neurofleet.learners.sims.sims_model import SimsModel
    from neurofleet.learners.sims.tabnet import GeneInputs, TabNetEnsemble
    from neurofleet.learners.sims.tabnet_settings import settings_of

    n_cells, n_genes, seen = 20_000, 20_000, 4_000
    rng = np.random.default_rng(0)
    counts = sp.random(n_cells, n_genes, density=0.05, format="csr", dtype=np.float32, random_state=0)
    counts.data = rng.poisson(2, counts.nnz).astype(np.float32) + 1
    inputs = GeneInputs(np.arange(seen), np.zeros(seen, np.float32), np.ones(seen, np.float32))
    settings = settings_of("default", {"linear_share": 0.0})
    networks = TabNetEnsemble(inputs, CLASSES, settings).to(device)
    names = tuple(map(str, range(n_genes)))
    model = SimsModel(networks, None, inputs, names, tuple(map(str, range(CLASSES))), Normalisation("counts"), settings)
    started = time.perf_counter()
    for block in blocks_of(n_cells, n_genes):
        model.log_probabilities(model.normalisation.apply(counts[block]))
    return {"cells_per_s": round(n_cells / (time.perf_counter() - started), 1)}


def job(name: str) -> dict[str, Any]:
    """Return what the default job of a set takes, alone and beside processes that use every core."""
    found: dict[str, Any] = {"set": name, "load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        _neurofleet(folder, "new", "sims", str(DATA / f"{name}.h5ad"))
        found["alone"], alone = _timed_run(folder, "alone")
        burn = [sys.executable, "-c", "while True: pass"]
        neighbours = [subprocess.Popen(burn) for _ in range(len(os.sched_getaffinity(0)))]
        try:
            found["busy"], busy = _timed_run(folder, "busy")
        finally:
            for neighbour in neighbours:
                neighbour.kill()
                neighbour.wait()
    ratios = {
        f"{key}_ratio": round(found["busy"][f"{key}_s"] / found["alone"][f"{key}_s"], 2) for key in ("wall", "cpu")
    }
    return found | ratios | {"same_model": alone == busy}


def _neurofleet(folder: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-P", "-m", "neurofleet", *arguments]
    done = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert done.stderr is not None
    told = done.stderr.read()
    _, status, done.usage = os.wait4(done.pid, 0)  # type: ignore[attr-defined]
    done.returncode = os.waitstatus_to_exitcode(status)
    if done.returncode:
        raise RuntimeError(f"neurofleet {' '.join(arguments)} has failed:\n{told[-2000:]}")
    return done


def _timed_run(folder: str, out: str) -> tuple[dict[str, Any], bytes]:
    """Return what a run takes and reaches, and the arrays of its model."""
    from neurofleet.learners.model_folder import read_model

    started = time.perf_counter()
    usage: Any = _neurofleet(folder, "run", "sims.yaml", "--out", out).usage  # type: ignore[attr-defined]
    wall = time.perf_counter() - started
    event = json.loads((Path(folder) / out / "events.jsonl").read_text().splitlines()[-1])
    facts = read_model(Path(folder) / out).description["facts"]
    scores = {name: [round(one["accuracy"], 4), round(one["macro_f1"], 4)] for name, one in facts["scores"].items()}
    measured = {
        "wall_s": round(wall, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(event["peak_memory_bytes"] / 1e9, 2),
        "accuracy_and_macro_f1": scores,
        "linear_share": (facts["answer"] or {}).get("linear_share"),
    }
    return measured, (Path(folder) / out / "model.safetensors").read_bytes()


def measure(parts: list[str], device: str, threads: int, compiled: bool, of_job: str) -> dict[str, Any]:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    found: dict[str, Any] = {"benchmark": "sims", "device": device, "threads": threads}
    if device == "cuda":
        found["device_name"] = torch.cuda.get_device_name()
    if "step" in parts:
        found["step"] = step_speedup(device, compiled)
        found["step_speedup"] = {genes: row["speedup"] for genes, row in found["step"].items()}
        found["sparsemax_s"] = sparsemax_speedup(device)
    if "epochs" in parts:
        found["epochs"] = epochs(device)
    if "predict" in parts:
        found["predict"] = predict(device)
    if "job" in parts:
        found["job"] = job(of_job)
    if "stream" in parts:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.sims_stream"], stdout=subprocess.PIPE, check=True
        )
        found["stream"] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="step,epochs,stream,predict")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compiled", action="store_true", help="also our step after torch.compile")
    parser.add_argument("--set", default="pbmc_3tech_symphony", help="of the job")
    given = parser.parse_args()
    print(json.dumps(measure(given.parts.split(","), given.device, given.threads, given.compiled, given.set)))


if __name__ == "__main__":
    main()
