"""Embeddings and class probabilities as tables: columns of a pandas table, or an AnnData for scanpy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurofleet.wording import agreeing

if TYPE_CHECKING:
    import anndata


def warn_of(notes: Sequence[str]) -> None:
    """Warn once of all that was found out when files were opened, on behalf of the method that a user called."""
    if notes:
        warnings.warn(agreeing("\n".join(notes)), stacklevel=3)


def probability_columns(classes: Sequence[str] | np.ndarray, probabilities: np.ndarray, name: str) -> dict[str, Any]:
    """Return the likeliest class under `name`, its ``probability``, and ``p.CLASS`` for each class.

    Parameters
    ----------
    classes : sequence of str, length n_classes
    probabilities : (n, n_classes) array
    """
    best = probabilities.argmax(1)
    columns: dict[str, Any] = {name: np.asarray(classes)[best], "probability": probabilities.max(1)}
    return columns | {f"p.{label}": probabilities[:, number] for number, label in enumerate(classes)}


def vector_columns(vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return vectors (n, size) as numbered columns, such as ``phi_0``, ``phi_1``."""
    return {f"{name}_{number}": x[:, number] for name, x in vectors.items() for number in range(x.shape[1])}


def embedding_anndata(table: pd.DataFrame, vectors: Mapping[str, np.ndarray]) -> anndata.AnnData:
    """Return an AnnData with vectors in ``obsm`` (``X_NAME``) and all other columns of a table in ``obs``.

    Parameters
    ----------
    table : DataFrame
        Indexed by the names of units or neurons; it may hold the numbered columns of the vectors.
    vectors : mapping of (n, size) arrays
    """
    import anndata

    data = anndata.AnnData(obs=table.drop(columns=list(vector_columns(vectors)), errors="ignore"))
    for name, values in vectors.items():
        data.obsm[f"X_{name}"] = np.asarray(values)
    return data
