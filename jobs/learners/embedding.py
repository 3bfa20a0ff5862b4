"""``neurofleet embed``: from a model and files of units or recordings to a table of embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.hippie_evaluation import embedding_columns
from neurofleet.jobs.learners.learner_figures import plane_map
from neurofleet.jobs.learners.neuprint_job import NeuprintInputs
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.learners.hippie.hippie_model import HippieModel
from neurofleet.learners.model_folder import read_model
from neurofleet.learners.neuprint.neuprint_model import NeuprintModel
from neurofleet.learners.neuprint.population_recordings import Recordings
from neurofleet.learners.neuprint.recording_files import open_recordings
from neurofleet.learners.units.unit_files import open_units

LEARNERS = ("hippie", "neuprint")


def embed_command(
    model: Path, files: Sequence[str], layout: Path | None, out: Path, h5ad: Path | None, overwrite: bool
) -> None:
    """Embed what is in some files by a trained model, and name it where the model names things.

    Parameters
    ----------
    model : Path
        The model's folder.
    layout : Path or None
        A YAML file with the keys that stand under ``layout:`` in a job.
    out : Path
        A Parquet file, one row a unit or neuron.
    h5ad : Path or None
        The same for scanpy.

    Raises
    ------
    UsageError, LearnerError
        Model, files or names cannot be used; nothing was written.
    """
    targets = [out, *([h5ad] if h5ad else [])]
    for target, ending in zip(targets, (".parquet", ".h5ad"), strict=False):
        if target.suffix != ending:
            raise UsageError(f"{target}: expected a name that ends in {ending}.")
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        raise UsageError(f"{', '.join(missing)}: there is no such file.")
    check_new(targets, overwrite, [Path(file) for file in files])
    learner = read_model(model).learner
    if learner not in LEARNERS:
        raise UsageError(
            f"{model} holds a model of learner {learner}, which embeds nothing; `neurofleet predict` uses it."
        )
    embed_files = {"hippie": embed_units, "neuprint": embed_neurons}[learner]
    table, vectors = embed_files(model, list(files), read_layout(layout))
    with new_files(targets) as partial:
        pq.write_table(table, partial[out])
        if h5ad is not None:
            write_embeddings_h5ad(table, vectors, partial[h5ad])
    print(f"{len(table):,} embedded: {', '.join(map(str, targets))}")


def read_layout(path: Path | None) -> dict[str, Any]:
    """Return the content of a layout's file; nothing without a file.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--layout {path}: cannot be read as YAML ({error}).") from error
    if not isinstance(content, dict):
        raise UsageError(f"--layout {path}: expected keys such as `waveform_rate_hz: 20000`, found {content!r}.")
    return content


def write_embeddings_h5ad(table: Any, vectors: dict[str, Any], path: Path) -> None:
    """Write an embedding for scanpy: vectors in ``obsm`` (X_NAME, X_umap), all other columns in ``obs``.

    Parameters
    ----------
    table : pyarrow.Table
        The first column holds the names; ``umap_0`` and ``umap_1``, and each vector's numbered columns.
    vectors : dict of arrays, shape (rows, size)
    """
    import anndata

    frame = table.to_pandas().set_index(table.column_names[0])
    flat = ["umap_0", "umap_1"]
    numbered = [f"{part}_{i}" for part, x in vectors.items() for i in range(x.shape[1])]
    data = anndata.AnnData(obs=frame.drop(columns=[*numbered, *flat]))
    for part, values in (vectors | {"umap": frame[flat].to_numpy()}).items():
        data.obsm[f"X_{part}"] = np.asarray(values)
    data.write_h5ad(path)


def embed_units(folder: Path, files: list[str], layout: dict[str, Any]) -> "tuple[pa.Table, dict[str, np.ndarray]]":
    """Return a row for each unit of some files, and the vectors that are in it.

    Columns: ``unit_id``, ``class`` (the likeliest), ``probability``, ``p.CLASS`` for each class, every other
    column of the files, ``umap_0``, ``umap_1``, ``fusion_N``, ``mean_N``.

    Raises
    ------
    LearnerError
        Model or units cannot be used.
    """
    model = HippieModel.load(folder)
    units = open_units(files, layout)
    probabilities = model.probabilities(units)
    fusion, mean = model.embed(units)
    vectors = {"fusion": fusion, "mean": mean}
    best = probabilities.argmax(1)
    names = np.array(model.classes)[best]
    table = embedding_columns(units, names, vectors, plane_map(fusion))
    given = {"probability": probabilities.max(1)}
    given |= {f"p.{name}": probabilities[:, number] for number, name in enumerate(model.classes)}
    columns = {name: table[name] for name in table.column_names[:2]}
    columns |= {name: pa.array(values) for name, values in given.items()}
    columns |= {name: table[name] for name in table.column_names[2:]}
    return pa.table(columns), vectors


EMBEDDINGS, EMBEDDINGS_H5AD = "embeddings.parquet", "embeddings.h5ad"


def write_neuron_embeddings(out: Path, model: "NeuprintModel", inputs: NeuprintInputs) -> None:
    """Write the Phi of all neurons, labelled or not: ``embeddings.parquet`` and ``embeddings.h5ad``."""
    table = embeddings_table(model.phi, inputs.recordings)
    pq.write_table(table, out / EMBEDDINGS)
    write_embeddings_h5ad(table, {"phi": model.phi}, out / EMBEDDINGS_H5AD)


def embeddings_table(phi: "np.ndarray", recordings: "Recordings") -> "pa.Table":
    """Return columns neuron_id, animal, each label, ``umap_0``, ``umap_1`` and ``phi_N``."""
    flat, neurons = plane_map(phi), recordings.neurons
    columns: dict[str, Any] = {"neuron_id": neurons.index.to_numpy().astype(str)}
    columns |= {name: neurons[name].to_numpy().astype(str) for name in neurons.columns}
    columns |= {f"umap_{number}": flat[:, number] for number in range(2)}
    columns |= {f"phi_{number}": phi[:, number] for number in range(phi.shape[1])}
    return pa.table(columns)


def embed_neurons(folder: Path, files: list[str], layout: dict[str, Any]) -> "tuple[pa.Table, dict[str, np.ndarray]]":
    """Return a row for each neuron of some recordings, and the vectors that are in it.

    Columns: ``neuron_id``; where the model has learned classes ``predicted`` (the likeliest), ``probability``
    and ``p.CLASS`` for each class, which come in place of labels of these names; ``animal``, each label of
    the recordings, ``umap_0``, ``umap_1``, ``phi_N``.

    Raises
    ------
    LearnerError
        Model or recordings cannot be used.
    """
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
