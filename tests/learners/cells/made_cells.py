"""Small made-up cells with known classes."""

from collections.abc import Sequence
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp


def made_counts(
    n_cells: int = 120,
    n_genes: int = 60,
    classes: Sequence[str] = ("B", "NK", "T"),
    *,
    seed: int = 0,
    prefix: str = "cell",
) -> anndata.AnnData:
    """Return counts in which each class has its own share of the genes high; every cell has some counts."""
    generator = np.random.default_rng(seed)
    label = np.resize(np.asarray(classes), n_cells)
    own = np.arange(n_genes) % len(classes)
    rate = np.where(own[None, :] == np.asarray([classes.index(one) for one in label])[:, None], 3.0, 0.3)
    counts = generator.poisson(rate * generator.uniform(0.5, 2.0, (n_cells, 1))).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"cell_type": label, "donor": np.resize(["a", "b"], n_cells)},
        index=[f"{prefix}{i}" for i in range(n_cells)],
    )
    return anndata.AnnData(sp.csr_matrix(counts), obs, pd.DataFrame(index=made_genes(n_genes)))


def made_genes(n_genes: int) -> list[str]:
    return [f"Gene{i}" for i in range(n_genes)]


def written(cells: anndata.AnnData, path: Path) -> Path:
    """Write as the file's ending says (h5ad, zarr or text) and return the path."""
    if path.suffix == ".h5ad":
        cells.write_h5ad(path)
    elif path.suffix == ".zarr":
        cells.write_zarr(path)
    else:
        cells.to_df().to_csv(path, sep="," if ".csv" in path.suffixes else "\t")
    return path
