"""``neurofleet embed``: a table of embeddings of units or neurons, from a model and files."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.layout_option import read_layout
from neurofleet.jobs.learners.learner_figures import plane_map
from neurofleet.jobs.learners.learner_folder import EMBEDDINGS, EMBEDDINGS_H5AD
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.terminal import print_json
from neurofleet.learners.embedding_tables import embedding_anndata, vector_columns
from neurofleet.learners.model_folder import QUICK, read_model
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.unit_labels import CLASS
from neurofleet.wording import agreeing

if TYPE_CHECKING:
    from neurofleet.learners.neuprint.neuprint_model import NeuprintModel

LEARNERS = ("hippie", "neuprint")
NAMED = {"hippie": CLASS, "neuprint": "predicted"}
"""Learner -> the column of a table that holds the likeliest class."""


@dataclass(frozen=True)
class Embedded:
    """Embedded units or neurons.

    Attributes
    ----------
    table : pyarrow.Table
        A row each; with columns of the files, which may be called like those that a model without classes or without
        distances does not give.
    vectors : dict of arrays, shape (rows, size)
        Those in the table.
    has_classes, has_distances : bool
        Whether the model named them, and told how far they are.
    """

    table: pa.Table
    vectors: dict[str, np.ndarray]
    has_classes: bool
    has_distances: bool


def embed_command(
    model: Path,
    files: Sequence[str],
    layout: str | None,
    out: Path,
    h5ad: Path | None,
    overwrite: bool,
    as_json: bool = False,
    unknown_below: float | None = None,
) -> None:
    """Embed what is in some files by a trained model, and name it where the model names things.

    Parameters
    ----------
    model : Path
        The model's folder.
    layout : str or None
        See `neurofleet.jobs.learners.layout_option.read_layout`.
    out : Path
        A Parquet file, one row a unit or neuron.
    h5ad : Path or None
        The same for scanpy.
    as_json : bool
        Print the summary as JSON.
    unknown_below : float, optional
        Units or neurons whose likeliest class has a smaller probability are unknown, in the further columns ``label``
        and ``unknown``.

    Raises
    ------
    UsageError, LearnerError
        Model, files or names cannot be used; nothing was written.
    """
    targets = [out, *([h5ad] if h5ad else [])]
    for target, ending in zip(targets, (".parquet", ".h5ad"), strict=False):
        if target.suffix != ending:
            raise UsageError(f"{target}: expected a name that ends in {ending}.")
    stored = read_model(model)
    learner, quick = stored.learner, stored.description.get("facts", {}).get(QUICK)
    if learner not in LEARNERS:
        raise UsageError(
            f"{model} holds a model of learner {learner}, and embed is for units and neurons. Cells are embedded by"
            " `neurofleet predict MODEL QUERY.h5ad --write-h5ad FILE.h5ad`, in obsm['X_sims'] of that file."
        )
    check_new(targets, overwrite, files)
    embed_files = {"hippie": embed_units, "neuprint": embed_neurons}[learner]
    embedded = embed_files(model, list(files), read_layout(layout), unknown_below)
    table = embedded.table
    if quick:
        print(quick, file=sys.stderr)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), QUICK: quick})
    with new_files(targets) as partial:
        pq.write_table(table, partial[out])
        if h5ad is not None:
            write_embeddings_h5ad(table, embedded.vectors, partial[h5ad])
    files_written = [*map(str, targets)]
    label = "label" if unknown_below is not None else NAMED[learner]
    labels = Counter(table[label].to_pylist()) if embedded.has_classes else None
    if as_json:
        outside = int(pc.sum(table["outside"]).as_py()) if embedded.has_distances else None
        told = {"rows": len(table), "labels": labels, "outside": outside, "files": files_written}
        print_json(told)
        return
    for name, count in sorted(labels.items()) if labels else ():
        print(f"{count:8,}  {count / len(table):6.1%}  {name or 'nothing measured'}")
    print(f"{len(table):,} embedded: {', '.join(files_written)}")


def write_embeddings_h5ad(table: Any, vectors: dict[str, Any], path: Path) -> None:
    """Write an embedding for scanpy: vectors in ``obsm`` (X_NAME, X_umap), all other columns in ``obs``.

    Parameters
    ----------
    table : pyarrow.Table
        The first column holds the names; ``umap_0`` and ``umap_1``, and each vector's numbered columns.
    vectors : dict of arrays, shape (rows, size)
    """
    frame = table.to_pandas().set_index(table.column_names[0])
    flat = ["umap_0", "umap_1"]
    embedding_anndata(frame, vectors | {"umap": frame[flat].to_numpy()}).write_h5ad(path)


def embed_units(folder: Path, files: list[str], layout: dict[str, Any], unknown_below: float | None = None) -> Embedded:
    """Embed and name the units of some files.

    Columns: ``unit_id``, ``class`` (the likeliest), ``probability``, ``p.CLASS`` for each class, ``distance`` and
    ``outside`` where the model holds where its units lie, every other column of the files, ``umap_0``, ``umap_1``,
    ``fusion_N``, ``mean_N``, and ``map_N`` where the model holds a map.

    Raises
    ------
    LearnerError
        Model or units cannot be used.
    """
    from neurofleet.learners.hippie.hippie_model import HippieModel

    model = HippieModel.load(folder)
    units = open_units(files, layout)
    _print_notes([*units.notes, *model.notes(units, always=True)])
    vectors = model.vectors(units)
    vectors |= model.placed(vectors)
    table = with_map(model.table_of(units, vectors, unknown_below), vectors)
    return Embedded(table, vectors, has_classes=True, has_distances=model.trained is not None)


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(agreeing(note), file=sys.stderr)


def with_map(table: pd.DataFrame, vectors: dict[str, np.ndarray]) -> pa.Table:
    """Return an embedding as a table for Parquet, with a map in two dimensions before its vectors.

    Parameters
    ----------
    table : DataFrame
        As the ``embed`` of a model returns it; its index becomes the first column.
    vectors : dict of arrays, shape (rows, size)
        Of these the first is mapped: ``umap_0``, ``umap_1``.
    """
    numbered = vector_columns(vectors)
    flat = plane_map(next(iter(vectors.values())))
    columns: dict[str, Any] = {str(table.index.name): table.index.to_numpy().astype(str)}
    columns |= {name: table[name].to_numpy() for name in table.columns if name not in numbered}
    columns |= {f"umap_{number}": flat[:, number] for number in range(flat.shape[1])}
    return pa.table(columns | numbered)


def write_neuron_embeddings(out: Path, model: "NeuprintModel", recordings: Recordings) -> None:
    """Write the Phi of all neurons, labelled or not: ``embeddings.parquet`` and ``embeddings.h5ad``."""
    from neurofleet.learners.neuprint.neuprint_model import neuron_table

    vectors = {"phi": model.phi}
    table = with_map(neuron_table(recordings, {}, vectors), vectors)
    pq.write_table(table, out / EMBEDDINGS)
    write_embeddings_h5ad(table, vectors, out / EMBEDDINGS_H5AD)


def embed_neurons(
    folder: Path, files: list[str], layout: dict[str, Any], unknown_below: float | None = None
) -> Embedded:
    """Embed the neurons of some recordings, and name them where the model has learned classes.

    Columns: ``neuron_id``; where the model has learned classes ``predicted`` (the likeliest), ``probability``
    and ``p.CLASS`` for each class, which come in place of labels of these names; ``distance`` and ``outside`` where
    the model holds where its neurons lie; ``animal``, each label of
    the recordings, ``umap_0``, ``umap_1``, ``phi_N``, and ``map_N`` where the model holds a map.

    Raises
    ------
    LearnerError
        Model or recordings cannot be used.
    """
    from neurofleet.learners.neuprint.neuprint_model import NeuprintModel

    model = NeuprintModel.load(folder)
    recordings = model.opened(files, layout)
    inferred = model.infer(recordings)
    _print_notes([*recordings.notes, *model.notes(recordings, inferred, always=True)])
    vectors = model.vectors(inferred)
    table = with_map(model.table_of(recordings, inferred, unknown_below), vectors)
    return Embedded(table, vectors, model.naming is not None, model.space is not None)
