"""Who all neurons are, as tables: Phi, a map of it, and what is known of each neuron."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.neuprint.inputs import Inputs

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from learners.neuprint.model import NeuprintModel
    from learners.neuprint.recordings import Recordings

EMBEDDINGS, EMBEDDINGS_H5AD = "embeddings.parquet", "embeddings.h5ad"


def write_embeddings(out: Path, model: "NeuprintModel", inputs: Inputs) -> None:
    """Write the Phi of all neurons, labelled or not: ``embeddings.parquet`` and ``embeddings.h5ad``."""
    import pyarrow.parquet as pq

    from jobs.embed import write_h5ad

    table = embeddings_table(model.phi, inputs.recordings)
    pq.write_table(table, out / EMBEDDINGS)
    write_h5ad(table, {"phi": model.phi}, out / EMBEDDINGS_H5AD)


def embeddings_table(phi: "np.ndarray", recordings: "Recordings") -> "pa.Table":
    """Return columns neuron_id, animal, each label, ``umap_0``, ``umap_1`` and ``phi_N``."""
    import pyarrow as pa

    from jobs.train.embedding_map import mapped

    flat, neurons = mapped(phi), recordings.neurons
    columns: dict[str, Any] = {"neuron_id": neurons.index.to_numpy().astype(str)}
    columns |= {name: neurons[name].to_numpy().astype(str) for name in neurons.columns}
    columns |= {f"umap_{number}": flat[:, number] for number in range(2)}
    columns |= {f"phi_{number}": phi[:, number] for number in range(phi.shape[1])}
    return pa.table(columns)
