"""Neurons of other recordings embedded and named by a trained model: its dynamics stay as they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def embedded(
    folder: Path, files: list[str], layout: dict[str, Any]
) -> "tuple[pa.Table, dict[str, np.ndarray]]":
    """Return a row for each neuron of some recordings, and the vectors that are in it.

    Columns: ``neuron_id``; where the model has learned classes ``predicted`` (the likeliest), ``probability``
    and ``p.CLASS`` for each class, which come in place of labels of these names; ``animal``, each label of
    the recordings, ``umap_0``, ``umap_1``, ``phi_N``.

    Raises
    ------
    LearnerError
        Model or recordings cannot be used.
    """
    import pyarrow as pa

    from jobs.neuprint.embeddings import embeddings_table
    from learners.neuprint.model import NeuprintModel
    from learners.neuprint.opening import open_recordings

    model = NeuprintModel.load(folder)
    recordings = open_recordings(files, layout)
    phi = model.embed(recordings)
    known = embeddings_table(phi, recordings)
    named: dict[str, Any] = {}
    if model.naming is not None:
        probabilities = model.naming.probabilities(phi)
        named["predicted"] = model.naming.classes[probabilities.argmax(1)]
        named["probability"] = probabilities.max(1)
        named |= {f"p.{name}": probabilities[:, n] for n, name in enumerate(model.naming.classes)}
    first, *rest = known.column_names
    columns = {first: known[first]} | named | {name: known[name] for name in rest if name not in named}
    return pa.table(columns), {"phi": phi}
