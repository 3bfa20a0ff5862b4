"""Neurons of other recordings embedded by a trained model: its dynamics stay as they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def embedded(
    folder: Path, files: list[str], layout: dict[str, Any]
) -> "tuple[pa.Table, dict[str, np.ndarray]]":
    """Return a row for each neuron of some recordings, and the vectors that are in it.

    Columns: ``neuron_id``, ``animal``, each label of the recordings, ``umap_0``, ``umap_1``, ``phi_N``.

    Raises
    ------
    LearnerError
        Model or recordings cannot be used.
    """
    from jobs.neuprint.embeddings import embeddings_table
    from learners.neuprint.model import NeuprintModel
    from learners.neuprint.opening import open_recordings

    model = NeuprintModel.load(folder)
    recordings = open_recordings(files, layout)
    phi = model.embed(recordings)
    return embeddings_table(phi, recordings), {"phi": phi}
