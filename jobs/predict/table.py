"""The table of predictions: its columns, and what stands beside them in the Parquet file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.errors import UsageError

if TYPE_CHECKING:
    from learners.sims.predictions import Predictions

UNKNOWN = "unknown"
ABOUT = b"neurofleet.predictions"


def schema(
    about: Mapping[str, Any], top: int, *, probabilities: bool = False, several_files: bool = False
) -> pa.Schema:
    """Return the columns of a table of predictions.

    ``cell_id``, ``file`` (where there are several), ``label``, ``unknown``, ``pred_0`` …, ``prob_0`` …,
    ``margin``, ``entropy`` (nats), and ``p.CLASS`` for each class where all probabilities are wanted.

    Parameters
    ----------
    about : mapping
        Plain JSON that is kept in the file: the model's fingerprint, temperature, threshold …
    top : int
        How many classes a cell has in the table.
    """
    fields: list[tuple[str, pa.DataType]] = [("cell_id", pa.string())]
    fields += [("file", pa.string())] if several_files else []
    fields += [("label", pa.string()), ("unknown", pa.bool_())]
    fields += [(f"pred_{place}", pa.string()) for place in range(top)]
    fields += [(f"prob_{place}", pa.float32()) for place in range(top)]
    fields += [("margin", pa.float32()), ("entropy", pa.float32())]
    fields += [(f"p.{name}", pa.float32()) for name in about["classes"]] if probabilities else []
    return with_about(pa.schema(fields), about)


def with_about(columns: pa.Schema, about: Mapping[str, Any]) -> pa.Schema:
    """Return the same columns with other facts beside them."""
    return columns.with_metadata({ABOUT: json.dumps(dict(about), ensure_ascii=False).encode()})


def about_of(columns: pa.Schema, path: Path) -> dict[str, Any]:
    """Return the facts that a file of predictions holds.

    Raises
    ------
    UsageError
        If it holds none.
    """
    found = (columns.metadata or {}).get(ABOUT)
    if found is None:
        raise UsageError(
            f"{path} holds no predictions of `neurofleet predict`: expected its facts beside the columns,"
            f" found the columns {', '.join(columns.names[:6])} alone."
        )
    return json.loads(found)


def to_table(found: "Predictions", columns: pa.Schema, about: Mapping[str, Any], file: str) -> pa.Table:
    """Return predictions as a table."""
    classes = np.asarray(about["classes"], dtype=object)
    content: dict[str, Any] = {"cell_id": found.cell_ids, "file": [file] * len(found.cell_ids)}
    for place in range(found.best.shape[1]):
        best = found.best[:, place]
        content[f"pred_{place}"] = classes[best]
        content[f"prob_{place}"] = found.probabilities[np.arange(len(best)), best]
    content |= {"margin": found.margin, "entropy": found.entropy}
    content |= {f"p.{name}": found.probabilities[:, number] for number, name in enumerate(classes)}
    content |= labels(content["pred_0"], content["prob_0"], about["threshold"])
    return pa.table({name: content[name] for name in columns.names}, schema=columns)


def labels(predicted: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, np.ndarray]:
    """Return what depends on the threshold: whether cells are of unknown type, and their label."""
    unknown = probability.astype(np.float64) < threshold
    return {"unknown": unknown, "label": np.where(unknown, UNKNOWN, predicted)}
