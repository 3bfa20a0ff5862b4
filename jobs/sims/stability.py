"""How stable the genes are that networks look at, over repeated trainings.

The SIMS paper trained 300 times, divided each run's gene weights by their largest, and took mean and
dispersion over the runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from learners.sims.task import Task

ATTENTION = "attention.npy"


def write_attention(task: "Task", weights: Mapping[str, Any], folder: Path, seed: int) -> None:
    """Write the mean attention of a trained task's networks over its validation cells, (genes,)."""
    from learners.sims.explain import mean_attention
    from learners.sims.fit import trained_networks

    networks = trained_networks(task, weights, seed)
    rows = task.validation_rows
    values = task.used_values(task.cells.read(rows))
    whole = np.zeros(len(task.cells.genes))
    whole[task.inputs.columns] = mean_attention(networks, values)
    np.save(folder / ATTENTION, whole)


def stability_table(folders: Sequence[Path], genes: Sequence[str] | np.ndarray) -> "pa.Table":
    """Return each gene's weight over repeated trainings, most weight first.

    Columns: ``gene``, ``mean_weight`` (of weights divided by the run's largest), ``sd_weight``,
    ``dispersion`` (variance over mean), ``runs_in_top_20``, ``runs``.
    """
    import pyarrow as pa

    weights = np.stack([np.load(folder / ATTENTION, allow_pickle=False) for folder in folders])
    weights = weights / np.maximum(weights.max(1, keepdims=True), np.finfo(float).tiny)
    mean, variance = weights.mean(0), weights.var(0)
    ranks = np.argsort(np.argsort(-weights, axis=1, kind="stable"), axis=1)
    order = np.argsort(-mean, kind="stable")
    table = pa.table(
        {
            "gene": np.asarray(genes, dtype=str),
            "mean_weight": mean,
            "sd_weight": np.sqrt(variance),
            "dispersion": np.divide(variance, mean, out=np.zeros_like(mean), where=mean > 0),
            "runs_in_top_20": ((ranks < 20) & (weights > 0)).sum(0),
            "runs": np.full(len(mean), len(folders)),
        }
    )
    return table.take(order)
