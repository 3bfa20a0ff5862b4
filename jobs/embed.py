"""``neurofleet embed``: from a model and files of units or recordings to a table of embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.errors import UsageError
from jobs.spec import named

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
    from jobs.new_files import check_new, new_files
    from learners.model_folder import read_model

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
    table, vectors = named(f"jobs.{learner}.embed:embedded")(model, list(files), read_layout(layout))
    with new_files(targets) as partial:
        import pyarrow.parquet as pq

        pq.write_table(table, partial[out])
        if h5ad is not None:
            write_h5ad(table, vectors, partial[h5ad])
    print(f"{len(table):,} embedded: {', '.join(map(str, targets))}")


def read_layout(path: Path | None) -> dict[str, Any]:
    """Return the content of a layout's file; nothing without a file.

    Raises
    ------
    UsageError
        It cannot be read.
    """
    import yaml

    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--layout {path}: cannot be read as YAML ({error}).") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"--layout {path}: expected keys such as `waveform_rate_hz: 20000`, found {content!r}."
        )
    return content


def write_h5ad(table: Any, vectors: dict[str, Any], path: Path) -> None:
    """Write an embedding for scanpy: vectors in ``obsm`` (X_NAME, X_umap), all other columns in ``obs``.

    Parameters
    ----------
    table : pyarrow.Table
        The first column holds the names; ``umap_0`` and ``umap_1``, and each vector's numbered columns.
    vectors : dict of arrays, shape (rows, size)
    """
    import anndata
    import numpy as np

    frame = table.to_pandas().set_index(table.column_names[0])
    flat = ["umap_0", "umap_1"]
    numbered = [f"{part}_{i}" for part, x in vectors.items() for i in range(x.shape[1])]
    data = anndata.AnnData(obs=frame.drop(columns=[*numbered, *flat]))
    for part, values in (vectors | {"umap": frame[flat].to_numpy()}).items():
        data.obsm[f"X_{part}"] = np.asarray(values)
    data.write_h5ad(path)
