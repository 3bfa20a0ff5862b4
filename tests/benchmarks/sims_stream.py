"""Streaming of cells from an h5ad file that nobody wants in memory.

``python -m tests.benchmarks.sims_stream`` prints one JSON line. A made-up reference (200,000 cells × 20,000
genes, 5 % of the values not zero, CSR as anndata writes it, about 1.6 GB) is written into a temporary folder
and removed at the end; ``--cells``, ``--genes`` and ``--folder`` change that. About 3 minutes on one core.

Each way of reading runs in a process of its own, for one epoch or 20 s, first with the file out of the page
cache. Batches hold 64 cells, normalised (log1p of 10,000 per cell) and sparse unless said. On a
machine that others use as well, compare cells by second of the process's own CPU time (``..._per_cpu_s``).

``stream_cells_per_s``, ``stream_peak_gb``
    Shuffled blocks from disk; the process's peak of resident memory. ``stream_cached_cells_per_s``: again,
    with the file in the page cache. ``stream_dense_cells_per_s``: the same, and every batch made dense.
``rows_cells_per_s``, ``rows_peak_gb``
    The naive way: single rows of a backed AnnData in random order, as a map-style dataset reads them.
    ``rows_cached_cells_per_s``: again.
``memory_cells_per_s``, ``memory_peak_gb``, ``memory_open_s``
    All read into memory first (CSR), then in random order.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

NON_ZERO = 0.05
BATCH_SIZE = 64
TIMED_S = 20.0
TARGET_SUM = 1e4


def write_reference(path: Path, n_cells: int, n_genes: int, block_cells: int = 2000) -> None:
    """Write a made-up reference block by block; cells of 20 classes that differ in nothing."""
    import anndata
    import h5py
    import pandas as pd
    import scipy.sparse as sp

    generator = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        for start in range(0, n_cells, block_cells):
            n_rows = min(block_cells, n_cells - start)
            n_expected = NON_ZERO * n_rows * n_genes
            gaps = generator.geometric(NON_ZERO, int(n_expected + 6 * n_expected**0.5) + 1)
            place = np.cumsum(gaps) - 1
            place = place[place < n_rows * n_genes]
            cell, gene = np.divmod(place, n_genes)
            offsets = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=n_rows))])
            counts = generator.geometric(0.6, len(place)).astype(np.float32)
            block = sp.csr_matrix((counts, gene.astype(np.int32), offsets), shape=(n_rows, n_genes))
            if start == 0:
                anndata.io.write_elem(file, "X", block)
            else:
                anndata.io.sparse_dataset(file["X"]).append(block)
        classes = pd.Categorical(generator.integers(0, 20, n_cells).astype(str))
        obs = pd.DataFrame({"cell_type": classes}, index=[f"cell-{i}" for i in range(n_cells)])
        anndata.io.write_elem(file, "obs", obs)
        anndata.io.write_elem(file, "var", pd.DataFrame(index=[f"gene-{i}" for i in range(n_genes)]))
        file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"


def stream_cells(path: Path, *, dense: bool = False, in_memory: bool = False) -> Iterator[int]:
    """Yield how many cells each batch of an epoch brings; nothing is read before the first is asked for."""
    from neurofleet.learners.cells.cell_files import open_cells
    from neurofleet.learners.cells.cell_stream import stream
    from neurofleet.learners.cells.normalisation import Normalisation

    cells = open_cells(path)
    cells = cells.in_memory() if in_memory else cells
    yield 0
    rows, normalisation = np.arange(len(cells)), Normalisation("counts", TARGET_SUM)
    for batch in stream(cells, rows, BATCH_SIZE, transform=normalisation.apply):
        yield len(batch.dense() if dense else batch.rows)


def single_rows(path: Path) -> Iterator[int]:
    """Yield how many cells each batch brings, each cell read by itself."""
    import anndata
    import scipy.sparse as sp

    from neurofleet.learners.cells.normalisation import Normalisation

    backed = anndata.read_h5ad(path, backed="r").X
    yield 0
    normalisation = Normalisation("counts", TARGET_SUM)
    order = np.random.default_rng(0).permutation(backed.shape[0])
    for start in range(0, len(order), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = normalisation.apply(sp.vstack([backed[row] for row in rows], format="csr"))
        yield batch.shape[0]


WAYS = {
    "stream": stream_cells,
    "stream_dense": lambda path: stream_cells(path, dense=True),
    "rows": single_rows,
    "memory": lambda path: stream_cells(path, in_memory=True),
}


def measure(way: str, path: Path) -> dict[str, float]:
    """Read for an epoch or 20 s in this process, which should be a fresh one."""
    begun = time.monotonic()
    batches = WAYS[way](path)
    next(batches)
    opened, cpu_s, n_cells = time.monotonic(), time.process_time(), 0
    for n_read in batches:
        n_cells += n_read
        if time.monotonic() - opened > TIMED_S:
            break
    seconds, cpu_s = time.monotonic() - opened, time.process_time() - cpu_s
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])  # getrusage would count the parent's
    return {
        "cells_per_s": n_cells / seconds,
        "cells_per_cpu_s": n_cells / cpu_s,
        "peak_gb": peak_kb * 1024 / 1e9,
        "open_s": opened - begun,
    }


def measure_apart(way: str, path: Path, *, cached: bool) -> dict[str, float]:
    """Measure in a fresh process, with the file in the page cache or not."""
    if not cached:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "tests.benchmarks.sims_stream", "--way", way, "--file", str(path)]
    one_core = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_core)
    return json.loads(done.stdout.splitlines()[-1])


def measure_all(folder: Path, n_cells: int, n_genes: int) -> dict[str, float | int | str]:
    """Write the reference, read it in every way, and remove it."""
    found: dict[str, float | int | str] = {"benchmark": "sims_stream", "cells": n_cells, "genes": n_genes}
    with tempfile.TemporaryDirectory(dir=folder, prefix="sims-stream-") as place:
        path = Path(place) / "reference.h5ad"
        begun = time.monotonic()
        write_reference(path, n_cells, n_genes)
        found |= {"write_s": time.monotonic() - begun, "file_gb": path.stat().st_size / 1e9}
        for way in ("stream", "rows"):
            first = measure_apart(way, path, cached=False)
            found[f"{way}_cells_per_s"] = first["cells_per_s"]
            found[f"{way}_peak_gb"] = first["peak_gb"]
            again = measure_apart(way, path, cached=True)
            found[f"{way}_cached_cells_per_s"] = again["cells_per_s"]
            found[f"{way}_cached_cells_per_cpu_s"] = again["cells_per_cpu_s"]
        dense = measure_apart("stream_dense", path, cached=True)
        found |= {f"stream_dense_{name}": dense[name] for name in ("cells_per_s", "cells_per_cpu_s")}
        memory = measure_apart("memory", path, cached=False)
        found |= {f"memory_{name}": value for name, value in memory.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the reference is written; the system's by default")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.file)))
        return
    found = measure_all(arguments.folder, arguments.cells, arguments.genes)
    rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
