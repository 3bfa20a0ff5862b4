"""Embeddings and class probabilities as tables: columns of a pandas table, or an AnnData for scanpy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neurofleet.errors import UsageError
from neurofleet.learners.unknown_labels import labels_or_unknown
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


def with_labels(columns: Mapping[str, Any], name: str, unknown_below: float | None) -> dict[str, Any]:
    """Return the columns with ``label`` and ``unknown`` behind the likeliest class, where there is a limit.

    Parameters
    ----------
    columns : mapping
        ``probability``, and the likeliest class under `name`; empty where nothing was measured, and so is the label.
    unknown_below : float or None
        Labels with a smaller probability become ``unknown``.

    Raises
    ------
    UsageError
        The limit is no probability.
    """
    if unknown_below is None:
        return dict(columns)
    found = labels_or_unknown(np.asarray(columns[name]), np.asarray(columns["probability"]), unknown_below)
    return {name: columns[name], "label": found["label"], "unknown": found["unknown"]} | dict(columns)


def columns_beside(named: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of files that stand beside those of a model, which come in place of theirs.

    A file's ``label``, ``unknown``, ``distance`` and ``outside`` become ``file.label`` ….
    """
    kept = ("label", "unknown", "distance", "outside")
    renamed = {f"file.{name}" if name in named and name in kept else name: x for name, x in others.items()}
    return {name: values for name, values in renamed.items() if name not in named}


def vector_columns(vectors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return vectors (n, size) as numbered columns, such as ``phi_0``, ``phi_1``."""
    return {f"{name}_{number}": x[:, number] for name, x in vectors.items() for number in range(x.shape[1])}


def embedding(table: pd.DataFrame, vectors: Mapping[str, np.ndarray], to: str) -> pd.DataFrame | anndata.AnnData:
    """Return a table of embeddings as it is, or as `embedding_anndata` makes one of it.

    Raises
    ------
    UsageError
        `to` is neither ``pandas`` nor ``anndata``.
    """
    if to not in ("pandas", "anndata"):
        raise UsageError(f"to: expected 'pandas' or 'anndata', found {to!r}.")
    return table if to == "pandas" else embedding_anndata(table, vectors)


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
