"""New units embedded and named by a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def embedded(
    folder: Path, files: list[str], layout: dict[str, Any]
) -> "tuple[pa.Table, dict[str, np.ndarray]]":
    """Return a row for each unit of some files, and the vectors that are in it.

    Columns: ``unit_id``, ``class`` (the likeliest), ``probability``, ``p.CLASS`` for each class, every other
    column of the files, ``umap_0``, ``umap_1``, ``fusion_N``, ``mean_N``.

    Raises
    ------
    LearnerError
        Model or units cannot be used.
    """
    import numpy as np
    import pyarrow as pa

    from jobs.hippie.tables import embedding_columns
    from jobs.train.embedding_map import mapped
    from learners.hippie.model import HippieModel
    from learners.units.opening import open_units

    model = HippieModel.load(folder)
    units = open_units(files, layout)
    probabilities = model.probabilities(units)
    fusion, mean = model.embed(units)
    vectors = {"fusion": fusion, "mean": mean}
    best = probabilities.argmax(1)
    names = np.array(model.classes)[best]
    table = embedding_columns(units, names, vectors, mapped(fusion))
    given = {"probability": probabilities.max(1)}
    given |= {f"p.{name}": probabilities[:, number] for number, name in enumerate(model.classes)}
    columns = {name: table[name] for name in table.column_names[:2]}
    columns |= {name: pa.array(values) for name, values in given.items()}
    columns |= {name: table[name] for name in table.column_names[2:]}
    return pa.table(columns), vectors
