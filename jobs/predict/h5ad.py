"""Predictions as columns of `obs` in a copy of the query."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from jobs.errors import UsageError

COLUMNS = {
    "label": "sims_label",
    "pred_0": "sims_class",
    "prob_0": "sims_prob",
    "margin": "sims_margin",
    "entropy": "sims_entropy",
    "unknown": "sims_unknown",
}
"""Column of the table -> column of `obs`."""


def check_h5ad(files: Sequence[str]) -> None:
    """Refuse queries of which there can be no such copy.

    Raises
    ------
    UsageError
    """
    if len(files) > 1:
        raise UsageError(
            f"--write-h5ad writes a copy of one query, found {len(files)}. Predict them one by one."
        )
    path = Path(files[0])
    if path.suffix != ".h5ad" and path.exists():
        raise UsageError(f"--write-h5ad writes a copy of an h5ad query; {path} is none.")


def write_h5ad(query: str, predictions: Path, out: Path) -> None:
    """Copy an h5ad file and put predictions into its `obs`; its matrices are copied unread.

    Parameters
    ----------
    query : str
    predictions : Path
        The table, one row a cell in the query's order.
    out : Path
    """
    import h5py
    import pandas as pd
    import pyarrow.parquet as pq
    from anndata.io import read_elem, write_elem

    found = pq.read_table(predictions, columns=list(COLUMNS)).to_pandas()
    shutil.copyfile(query, out)
    with h5py.File(out, "r+") as file:
        obs = read_elem(file["obs"])
        for column, name in COLUMNS.items():
            is_word = column in ("label", "pred_0")
            obs[name] = pd.Categorical(found[column]) if is_word else found[column].to_numpy()
        write_elem(file, "obs", obs)
