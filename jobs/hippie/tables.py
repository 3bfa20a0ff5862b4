"""Predictions, embeddings and scores as tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.hippie.evaluations import Evaluated, Plan
from jobs.hippie.inputs import CLASS
from jobs.hippie.pieces import labelled_rows
from jobs.train.embedding_map import mapped

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from learners.comparison import Comparison
    from learners.units.units import Units


def scores_table(name: str, comparison: "Comparison") -> "pa.Table":
    """Return a row for each method, with the split, the sizes and the majority rate beside its scores."""
    import pyarrow as pa

    common = {
        "set": name,
        "split": comparison.split,
        "n": comparison.n,
        "n_classes": comparison.n_classes,
        "n_groups": comparison.n_groups,
        "majority_rate": comparison.majority_rate,
        "reference": comparison.reference,
    }
    return pa.Table.from_pylist([common | vars(row) for row in comparison.methods])


def predictions_table(plan: Plan, found: Evaluated) -> "pa.Table":
    """Return a row for each unit, repeat and method: true and predicted class, and its probability."""
    import numpy as np
    import pyarrow as pa

    labelled = plan.found
    rows = labelled_rows(labelled)
    classes = np.array(labelled.classes)
    parts = []
    for method, probabilities in found.probabilities.items():
        for repeat, each in enumerate(probabilities):
            best = each.argmax(1)
            parts.append(
                pa.table(
                    {
                        "unit_id": labelled.units.unit_ids[rows],
                        "method": [method] * len(rows),
                        "repeat": [repeat] * len(rows),
                        "true": classes[labelled.labels[rows]],
                        "predicted": classes[best],
                        "probability": each[np.arange(len(rows)), best],
                    }
                )
            )
    return pa.concat_tables(parts)


def embeddings_table(plan: Plan) -> "pa.Table":
    """Return the embedding of all units of a set by a network that has seen none of them.

    Without a pretrained network the map is one of the signals themselves, and there are no other columns.
    """
    from learners.hippie.inputs import modalities_of
    from learners.hippie.networks import untrained
    from learners.hippie.pretraining import Pretrained
    from learners.hippie.settings import Settings
    from learners.units.scaling import scaled

    units = plan.found.units
    if plan.pretrained is None:
        import numpy as np

        signals = scaled(units)
        whole = np.concatenate([signals[name] for name in modalities_of(units)], 1)
        return embedding_columns(units, plan.found.names, {}, mapped(whole))
    settings = Settings(**plan.settings)
    networks = untrained(
        units, settings, len(plan.found.classes), pretrained=Pretrained.read(Path(plan.pretrained))
    )
    fusion, mean = networks.first().embed(units)
    return embedding_columns(units, plan.found.names, {"fusion": fusion, "mean": mean}, mapped(fusion))


def embedding_columns(
    units: "Units", names: "np.ndarray", vectors: "dict[str, np.ndarray]", flat: "np.ndarray"
) -> "pa.Table":
    """Return columns unit_id, class, every other column of the units, ``umap_0``, ``umap_1`` and vectors."""
    import pyarrow as pa

    columns: dict[str, Any] = {"unit_id": units.unit_ids, CLASS: names}
    columns |= {
        name: units.column(name)
        for name in units.obs.columns
        if name not in columns and isinstance(name, str)
    }
    columns |= {f"umap_{number}": flat[:, number] for number in range(flat.shape[1])}
    for part, values in vectors.items():
        columns |= {f"{part}_{number}": values[:, number] for number in range(values.shape[1])}
    return pa.table(columns)
