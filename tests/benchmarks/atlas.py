"""A made atlas of up to a million cells: written, trained on and predicted in pieces, beside a linear model.

    python -m tests.benchmarks.atlas --folder FOLDER [--parts write,train,predict,linear] [--cells 20000]

Each part leaves what it found in ``FOLDER/found.json`` and what it wrote beside it, so that parts can be run one after
the other, or again; files that are complete are not written again. Prints one JSON line: cells a second of each part,
the peak memory of each of its processes and of all together, and accuracy and macro-F1 on the last batch, which no
model has seen.

The atlas: 20 batches of equally many cells, one h5ad each, 200 classes in a tree of 8 families, 40 subfamilies and
their classes, of unequal sizes. A class changes some genes of its subfamily, which changes some of its family. A batch
multiplies each gene and the depth of its cells by factors of its own, has a composition of its own, and 2 to 10 % of
each cell's counts are those of its mean cell (ambient RNA). Up to 15 % of a cell's counts come from one of 20 gene
programmes, whatever its class. Counts are drawn, given all this, as a multinomial of a log-normal depth, median 3,500.

``train`` is ``neurofleet run`` of a job with two workers, ``predict`` is ``neurofleet predict`` of the held-out batch,
or of all with ``--predict all``. ``linear`` is scikit-learn's ``SGDClassifier.partial_fit`` on the same cells, genes
and normalised stream, with as many passes, its penalty chosen on validation cells after 19,200 cells.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

BATCHES = 20
BRANCHES = (8, 5, 5)
CHANGED = ((0.05, 1.0), (0.02, 0.8), (0.012, 0.9))
"""Of a node of each level of the tree: the share of the genes that it changes, and the sd of their log factors."""

PROGRAMMES, PROGRAMME_SHARE, PROGRAMME_GENES = 20, 0.15, 0.02
GENE_SD, BATCH_SD, DEPTH_SD, CLASS_SD = 2.0, 0.3, 0.4, 1.0
MEDIAN_DEPTH = 3500
BLOCK_CELLS = 1000
CHUNK = 65_536
SAMPLED_S = 0.5
PENALTIES = (1e-7, 1e-6, 1e-5)


@dataclass(frozen=True)
class MadeAtlas:
    """What the cells of an atlas are drawn from, all of it decided by the seed.

    Attributes
    ----------
    n_genes, seed : int
    """

    n_genes: int
    seed: int = 1

    @property
    def class_names(self) -> list[str]:
        """The leaves of the tree, by family, subfamily and class."""
        families, subfamilies, classes = BRANCHES
        return [f"F{f}.{s}.{c}" for f in range(families) for s in range(subfamilies) for c in range(classes)]

    def profiles(self, batch: int) -> np.ndarray:
        """Return what the counts of a batch are drawn from: classes, ambient RNA and programmes, rows of sum 1."""
        rng = np.random.default_rng([self.seed, 0])
        base = rng.normal(0.0, GENE_SD, self.n_genes)
        logs, n_nodes = base[None], 1
        for children, (share, sd) in zip(BRANCHES, CHANGED, strict=True):
            n_nodes *= children
            logs = np.repeat(logs, children, axis=0) + self._changes(rng, n_nodes, share, sd)
        programmes = base + self._changes(rng, PROGRAMMES, PROGRAMME_GENES, 2.0)
        own = np.random.default_rng([self.seed, 1, batch]).normal(0.0, BATCH_SD, self.n_genes)
        classes = _shares(logs + own)
        ambient = self.composition(batch) @ classes
        return np.concatenate([classes, ambient[None], _shares(programmes + own)])

    def composition(self, batch: int) -> np.ndarray:
        """Return the shares of the classes in a batch."""
        common = np.random.default_rng([self.seed, 2]).normal(0.0, CLASS_SD, math.prod(BRANCHES))
        own = np.random.default_rng([self.seed, 3, batch]).normal(0.0, CLASS_SD / 2, math.prod(BRANCHES))
        return _shares((common + own)[None])[0]

    def _changes(self, rng: np.random.Generator, n_nodes: int, share: float, sd: float) -> np.ndarray:
        return rng.normal(0.0, sd, (n_nodes, self.n_genes)) * (rng.random((n_nodes, self.n_genes)) < share)

    def cells(self, batch: int, n_cells: int) -> tuple[np.ndarray, Any]:
        """Return the classes of a batch's cells, and their counts in blocks: values, genes and lengths of each."""
        rng = np.random.default_rng([self.seed, 4, batch])
        classes = rng.choice(math.prod(BRANCHES), n_cells, p=self.composition(batch))
        return classes, self._blocks(batch, classes, rng)

    def _blocks(self, batch: int, classes: np.ndarray, rng: np.random.Generator) -> Any:
        kept, others = alias_tables(self.profiles(batch))
        n_classes = math.prod(BRANCHES)
        factor, ambient = math.exp(rng.normal(0.0, DEPTH_SD / 2)), rng.uniform(0.02, 0.1)
        draw = _compiled()[1]
        for start in range(0, len(classes), BLOCK_CELLS):
            some = classes[start : start + BLOCK_CELLS]
            depth = np.maximum(factor * MEDIAN_DEPTH * np.exp(rng.normal(0.0, DEPTH_SD, len(some))), 500)
            shares = np.stack([np.full(len(some), ambient), rng.uniform(0.0, PROGRAMME_SHARE, len(some))], 1)
            draws = rng.poisson(depth[:, None] * np.concatenate([1.0 - shares.sum(1, keepdims=True), shares], 1))
            programme = n_classes + 1 + rng.integers(0, PROGRAMMES, len(some))
            rows = np.stack([some, np.full(len(some), n_classes), programme], 1)
            yield draw(rng, kept, others, rows, draws)


def _shares(logs: np.ndarray) -> np.ndarray:
    parts = np.exp(logs)
    return parts / parts.sum(1, keepdims=True)


def alias_tables(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row of shares what draws from it in constant time (Vose, IEEE Trans. Softw. Eng. 1991).

    Returns
    -------
    kept : array of float32
        The probability that a place, drawn evenly, is kept.
    others : array of int32
        What is drawn in its place otherwise.
    """
    kept = np.ones(shares.shape, np.float32)
    others = np.tile(np.arange(shares.shape[1], dtype=np.int32), (len(shares), 1))
    _compiled()[0](shares * shares.shape[1], kept, others)
    return kept, others


@cache
def _compiled() -> tuple[Any, Any]:
    """Return what fills alias tables, and what draws counts."""
    import numba

    @numba.njit
    def fill(scaled, kept, others):  # type: ignore[no-untyped-def]
        n = scaled.shape[1]
        small, large = np.empty(n, np.int64), np.empty(n, np.int64)
        for row in range(scaled.shape[0]):
            n_small = n_large = 0
            for place in range(n):
                if scaled[row, place] < 1.0:
                    small[n_small] = place
                    n_small += 1
                else:
                    large[n_large] = place
                    n_large += 1
            while n_small and n_large:
                n_small -= 1
                low, high = small[n_small], large[n_large - 1]
                kept[row, low], others[row, low] = scaled[row, low], high
                scaled[row, high] -= 1.0 - scaled[row, low]
                if scaled[row, high] < 1.0:
                    n_large -= 1
                    small[n_small] = high
                    n_small += 1

    @numba.njit
    def draw(rng, kept, others, rows, draws):  # type: ignore[no-untyped-def]
        n_cells, n_genes = rows.shape[0], kept.shape[1]
        room = draws.sum()
        values, genes, lengths = np.empty(room, np.float32), np.empty(room, np.int32), np.zeros(n_cells, np.int64)
        counts, at = np.zeros(n_genes, np.int32), 0
        for cell in range(n_cells):
            for part in range(rows.shape[1]):
                row = rows[cell, part]
                for _ in range(draws[cell, part]):
                    place = rng.random() * n_genes
                    gene = int(place)
                    if place - gene >= kept[row, gene]:
                        gene = others[row, gene]
                    counts[gene] += 1
            before = at
            for gene in range(n_genes):
                if counts[gene]:
                    values[at], genes[at] = counts[gene], gene
                    counts[gene] = 0
                    at += 1
            lengths[cell] = at - before
        return values[:at], genes[:at], lengths

    return fill, draw


def batch_file(folder: Path, batch: int) -> Path:
    """Return where a batch is written."""
    return folder / f"batch-{batch:02d}.h5ad"


def write_batch(folder: Path, batch: int, n_cells: int, n_genes: int) -> None:
    """Write the cells of a batch, compressed, in the memory that a thousand cells take."""
    import anndata
    import h5py
    import pandas as pd

    atlas = MadeAtlas(n_genes)
    path = batch_file(folder, batch)
    if path.exists():
        return
    classes, blocks = atlas.cells(batch, n_cells)
    unfinished = path.with_suffix(".part")
    with h5py.File(unfinished, "w") as file:
        group = file.create_group("X")
        options: dict[str, Any] = {"maxshape": (None,), "chunks": (CHUNK,), "compression": "lzf", "shuffle": True}
        stored = [
            group.create_dataset(name, (0,), kind, **options) for name, kind in (("data", "f4"), ("indices", "i4"))
        ]
        lengths, end = [np.zeros(1, np.int64)], 0
        for values, genes, of_cells in blocks:
            for dataset, part in zip(stored, (values, genes), strict=True):
                dataset.resize((end + len(part),))
                dataset[end:] = part
            end += len(values)
            lengths.append(of_cells)
        group.create_dataset("indptr", data=np.cumsum(np.concatenate(lengths)))
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, n_genes)})
        names = pd.Categorical.from_codes(classes, atlas.class_names)
        columns = {"cell_type": names, "batch": pd.Categorical([f"b{batch:02d}"] * n_cells)}
        ids = [f"b{batch:02d}-{number}" for number in range(n_cells)]
        anndata.io.write_elem(file, "obs", pd.DataFrame(columns, index=ids))
        anndata.io.write_elem(file, "var", pd.DataFrame(index=[f"gene-{number}" for number in range(n_genes)]))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    unfinished.rename(path)


def write(folder: Path, n_cells: int, n_genes: int, workers: int) -> dict[str, Any]:
    """Write the batches that are not there, several at a time."""
    there = [batch for batch in range(BATCHES) if batch_file(folder, batch).exists()]
    todo = [batch for batch in range(BATCHES) if batch not in there]
    started = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(write_batch, folder, batch, n_cells // BATCHES, n_genes) for batch in todo]:
            done.result()
    seconds = time.monotonic() - started
    size = sum(batch_file(folder, batch).stat().st_size for batch in range(BATCHES))
    return {
        "cells_per_s": len(todo) * (n_cells // BATCHES) / seconds,
        "gb": size / 1e9,
        "stored_per_cell": _stored(folder),
    }


def _stored(folder: Path) -> float:
    import h5py

    with h5py.File(batch_file(folder, 0)) as file:
        return len(file["X/data"]) / (len(file["X/indptr"]) - 1)


class Memory:
    """The peak memory of this process and all below it, by what they are called, looked at twice a second."""

    def __init__(self) -> None:
        self._peaks: dict[int, tuple[str, int]] = {}
        self._together = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        me = psutil.Process()
        while not self._ended.wait(SAMPLED_S):
            together = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    used, words = process.memory_info(), process.cmdline()
                except psutil.Error:
                    continue
                own = used.rss - used.shared
                together += own
                name = next((Path(word).name for word in words if word.strip()), "?").split()[0]
                self._peaks[process.pid] = (name, max(own, self._peaks.get(process.pid, ("", 0))[1]))
            self._together = max(self._together, together)

    def found(self) -> dict[str, Any]:
        """Return peaks in GB without memory that is shared; processes of less than 0.2 GB are left out."""
        largest = sorted(self._peaks.values(), key=lambda peak: -peak[1])
        return {
            "peak_gb": round(self._together / 1e9, 2),
            "peak_gb_of": [[name, round(peak / 1e9, 2)] for name, peak in largest if peak > 2e8],
        }


def neurofleet(*words: object) -> dict[str, Any]:
    """Run a command of the command line; return its seconds and what memory it took."""
    command = [sys.executable, "-P", "-m", "neurofleet", *map(str, words)]
    started = time.monotonic()
    with Memory() as memory:
        subprocess.run(command, check=True, stdout=sys.stderr)
    return {"seconds": time.monotonic() - started} | memory.found()


def train(folder: Path, n_cells: int, workers: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Train by a job on all batches but the last, and read what it wrote of its scores on that."""
    from neurofleet.learners.sims.sims_model import SimsModel

    job = {
        "kind": "train",
        "learner": "sims",
        "reference": [str(batch_file(folder, batch).absolute()) for batch in range(BATCHES)],
        "label": "cell_type",
        "split": {"test": {"batch": [f"b{BATCHES - 1:02d}"]}, "validation": {"batch": [f"b{BATCHES - 2:02d}"]}},
        **({"workers": workers} if workers else {}),
        **changes,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(job))
    found = neurofleet("run", path, "--out", folder / "model", "--cpus", max(workers, 1))
    facts = SimsModel.load(folder / "model").facts
    history = facts_of_history(folder / "model")
    scores = {
        name: {key: round(one[key], 4) for key in ("accuracy", "macro_f1")} for name, one in facts["scores"].items()
    }
    simple = {name: round(one["accuracy"], 4) for name, one in facts["baselines"].items() if "accuracy" in one}
    n_trained = n_cells * (BATCHES - 2) // BATCHES
    return {"cells_per_s": n_trained / found["seconds"], **found, "scores": scores, "baselines": simple, **history}


def facts_of_history(out: Path) -> dict[str, Any]:
    """Return seconds of the epochs of the training that is kept."""
    import pyarrow.parquet as pq

    table = pq.read_table(out / "history.parquet").to_pandas()
    first = table[table["training"] == "model"]
    return {"epochs": len(first), "epochs_s": round(float(first["seconds"].sum()), 1)}


def predict(folder: Path, n_cells: int, workers: int, which: str) -> dict[str, Any]:
    """Predict the last batch, or all, by the command line."""
    batches = range(BATCHES) if which == "all" else [BATCHES - 1]
    files = [batch_file(folder, batch) for batch in batches]
    options: list[object] = ["--out", folder / "predictions.parquet", "--overwrite"]
    found = neurofleet("predict", folder / "model", *files, *options, *(["--workers", workers] if workers else []))
    return {"cells_per_s": n_cells // BATCHES * len(files) / found["seconds"], **found} | scored(folder)


def scored(folder: Path) -> dict[str, float]:
    """Return the scores of the predictions of the last batch."""
    import pyarrow.parquet as pq
    from sklearn.metrics import accuracy_score, f1_score

    from neurofleet.learners.cells.cell_files import open_cells

    table = pq.read_table(folder / "predictions.parquet", columns=["cell_id", "pred_0"]).to_pandas()
    cells = open_cells([batch_file(folder, BATCHES - 1)])
    true = cells.obs["cell_type"].astype(str)
    found = table.set_index("cell_id").loc[true.index, "pred_0"].astype(str)
    return {
        "accuracy": round(float(accuracy_score(true, found)), 4),
        "macro_f1": round(float(f1_score(true, found, average="macro", labels=np.unique(true))), 4),
    }


def linear(folder: Path, n_cells: int) -> dict[str, Any]:
    """Fit a linear model to the stream that the networks were trained on, in as many passes."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import accuracy_score, f1_score

    from neurofleet.learners.cells.cell_files import open_cells
    from neurofleet.learners.cells.cell_matrix import stretches
    from neurofleet.learners.cells.cell_stream import stream
    from neurofleet.learners.sims.sims_model import SimsModel

    started = time.monotonic()
    with Memory() as memory:
        model = SimsModel.load(folder / "model")
        cells = open_cells([batch_file(folder, batch) for batch in range(BATCHES)])
        classes = np.asarray(model.classes)
        labels = np.searchsorted(classes, cells.obs["cell_type"].astype(str).to_numpy())
        per_batch, columns = n_cells // BATCHES, model.inputs.columns
        scale = 1.0 / model.inputs.sd

        def seen(values: Any) -> Any:
            return model.normalisation.apply(values)[:, columns].multiply(scale).tocsr()

        def correct(rows: np.ndarray, one: SGDClassifier) -> np.ndarray:
            parts = [seen(cells.read(rows[at : at + 2048])) for at in range(0, len(rows), 2048)]
            return np.concatenate([one.predict(part) for part in parts])

        rows = np.arange((BATCHES - 2) * per_batch)
        tried = {
            penalty: SGDClassifier(loss="log_loss", alpha=penalty, average=True, n_jobs=1, random_state=0)
            for penalty in PENALTIES
        }
        validation = np.arange((BATCHES - 2) * per_batch, (BATCHES - 1) * per_batch)[:5000]
        few = rows[stretches(len(rows), 300, 64)]
        _passes(tried, stream(cells, few, 1024, transform=seen), labels, len(classes), 1)
        best = max(tried, key=lambda penalty: accuracy_score(labels[validation], correct(validation, tried[penalty])))
        fitting = time.monotonic()
        passes = facts_of_history(folder / "model")["epochs"]
        chosen = {best: SGDClassifier(loss="log_loss", alpha=best, average=True, n_jobs=2, random_state=0)}
        _passes(chosen, stream(cells, rows, 1024, transform=seen), labels, len(classes), passes)
        fitted = time.monotonic()
        test = np.arange((BATCHES - 1) * per_batch, BATCHES * per_batch)
        guess = correct(test, chosen[best])
    return {
        "penalty": best,
        "passes": passes,
        "cells_per_s": passes * len(rows) / (fitted - fitting),
        "seconds": time.monotonic() - started,
        "accuracy": round(float(accuracy_score(labels[test], guess)), 4),
        "macro_f1": round(float(f1_score(labels[test], guess, average="macro", labels=np.unique(labels[test]))), 4),
        **memory.found(),
    }


def _passes(models: dict[float, Any], batches: Any, labels: np.ndarray, n_classes: int, passes: int) -> None:
    import scipy.sparse as sp

    for number in range(passes):
        batches.set_epoch(number)
        for batch in batches:
            parts = (batch.values.numpy(), batch.columns.numpy(), batch.offsets.numpy())
            values = sp.csr_matrix(parts, shape=(len(batch.rows), batch.n_genes))
            for one in models.values():
                one.partial_fit(values, labels[batch.rows.numpy()], classes=np.arange(n_classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="is made; about 5 kB a cell")
    parser.add_argument("--parts", default="write,train,predict,linear")
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--predict", choices=["held-out", "all"], default="held-out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the training job")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    kept = given.folder / "found.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    changes = {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in given.set)}
    parts = {
        "write": lambda: write(given.folder, given.cells, given.genes, given.workers),
        "train": lambda: train(given.folder, given.cells, given.workers, changes),
        "predict": lambda: predict(given.folder, given.cells, given.workers, given.predict),
        "linear": lambda: linear(given.folder, given.cells),
    }
    for name in given.parts.split(","):
        before = os.getloadavg()[0]
        found[name] = parts[name]() | {"load_before": round(before, 1)}
        kept.write_text(json.dumps(found, indent=1))
    print(json.dumps({"benchmark": "atlas", "cells": given.cells, "genes": given.genes, **found}))


if __name__ == "__main__":
    main()
