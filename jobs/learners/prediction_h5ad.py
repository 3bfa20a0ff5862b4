"""The query as h5ad: labels in `obs`; probabilities, embedding and map in `obsm`; which genes decide in `varm`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.prediction_tables import about_of, tables_of
from neurofleet.learners.sims.cell_prediction import Query
from neurofleet.learners.sims.gene_importance import Explanation
from neurofleet.learners.sims.sims_model import (
    EMBEDDING,
    EXPLANATION,
    MAP,
    OBS_COLUMNS,
    PROBABILITIES,
    UNS,
    SimsModel,
    explanation_uns,
    gene_matrices,
    uns_of,
)


def check_one_query(files: Sequence[str]) -> None:
    """Refuse more than one query.

    Raises
    ------
    UsageError
    """
    if len(files) > 1:
        raise UsageError(f"--write-h5ad writes a copy of one query, found {len(files)}. Give them one by one.")


def write_predictions_h5ad(query: Query, predictions: Path, whole: Path, out: Path) -> None:
    """Copy a query and put predictions into it; the matrices of an h5ad file are copied unread.

    Parameters
    ----------
    query : Query
    predictions : Path
        The table, one row a cell in the query's order.
    whole : Path
        The same with the probabilities of all classes, and the embedding.
    out : Path
    """
    about = about_of(pq.read_schema(predictions), predictions)
    _write_copy(query, out)
    with h5py.File(out, "r+") as file:
        _write_labels(file, predictions)
        _write_matrix(file, PROBABILITIES, whole, [f"p.{name}" for name in about["classes"]])
        vectors = [name for name in pq.read_schema(whole).names if name.startswith("vector_")]
        _write_matrix(file, EMBEDDING, whole, vectors)
        if about["reference"]:
            _write_matrix(file, MAP, whole, ["map_0", "map_1"])


def write_explanation_h5ad(query: Query, means: Explanation, model: SimsModel, out: Path) -> None:
    """Copy a query and put genes × classes into its `varm`: see `SimsModel.explain`."""
    from anndata.io import read_elem, write_elem

    _write_copy(query, out)
    with h5py.File(out, "r+") as file:
        matrices = gene_matrices(means, query, read_elem(file["var"]).index)
        for name, matrix in matrices.items():
            write_elem(file.require_group("varm"), name, matrix)
        write_elem(file.require_group("uns"), EXPLANATION, explanation_uns(means, model))


def _write_copy(query: Query, out: Path) -> None:
    if query.path.suffix == ".h5ad":
        shutil.copyfile(query.path, out)
    else:
        query.to_anndata().write_h5ad(out)


def check_same_cells(h5ad: Path, predictions: Path) -> None:
    """Refuse an h5ad file that was not written with a table of predictions.

    Raises
    ------
    UsageError
    """
    from anndata.io import read_elem
    from anndata.utils import make_index_unique

    try:
        with h5py.File(h5ad) as file:
            ids = make_index_unique(read_elem(file["obs"]).index.astype(str))
            model = read_elem(file[f"uns/{UNS}"])["model"] if f"uns/{UNS}" in file else {}
    except (OSError, KeyError) as error:
        raise UsageError(f"{h5ad} cannot be read as an h5ad file ({error}).") from None
    made_by = about_of(pq.read_schema(predictions), predictions)["model"]
    named = pq.read_table(predictions, columns=["cell_id"])["cell_id"].to_pylist()
    if ids.tolist() != named or model.get("sha256") != made_by.get("sha256"):
        raise UsageError(f"{h5ad}: expected what `neurofleet predict --write-h5ad` wrote with {predictions}.")


def relabel_h5ad(h5ad: Path, predictions: Path, out: Path) -> None:
    """Copy what `write_predictions_h5ad` wrote, with the labels of another table of the same predictions."""
    shutil.copyfile(h5ad, out)
    with h5py.File(out, "r+") as file:
        _write_labels(file, predictions)


def _write_labels(file: h5py.File, predictions: Path) -> None:
    from anndata.io import read_elem, write_elem

    present = pq.read_schema(predictions)
    about = about_of(present, predictions)
    table = pq.read_table(predictions, columns=[name for name in OBS_COLUMNS if name in present.names])
    obs = read_elem(file["obs"])
    for column in table.column_names:
        values = table[column].to_pandas()
        is_word = present.field(column).type == "string"
        obs[OBS_COLUMNS[column]] = pd.Categorical(values) if is_word else values.to_numpy()
    write_elem(file, "obs", obs)
    (query,) = about["queries"]
    told = uns_of(about["model"], about["classes"], about["threshold"], query["n_shared"], query["n_missing"])
    write_elem(file.require_group("uns"), UNS, told)


def _write_matrix(file: h5py.File, name: str, table: Path, columns: list[str]) -> None:
    """Write columns of a table into `obsm` as one array, row group by row group."""
    obsm = file.require_group("obsm")
    if name in obsm:
        del obsm[name]
    data = obsm.create_dataset(name, (pq.read_metadata(table).num_rows, len(columns)), np.float32)
    data.attrs["encoding-type"], data.attrs["encoding-version"] = "array", "0.2.0"
    start = 0
    for part in tables_of(table, columns):
        data[start : start + len(part)] = np.stack([part[column].to_numpy() for column in columns], 1)
        start += len(part)
