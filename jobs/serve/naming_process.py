"""What reads the files of visitors, in processes of their own: nothing here is imported by the server."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from safetensors import safe_open

from neurofleet.errors import UsageError
from neurofleet.jobs.learners.embedding import NAMED, embed_neurons, embed_units, write_embeddings_h5ad
from neurofleet.jobs.learners.learner_folder import ABOUT
from neurofleet.jobs.learners.prediction import PredictionOptions, Reading, predict_command, relabel_table
from neurofleet.jobs.learners.prediction_h5ad import relabel_h5ad
from neurofleet.jobs.serve.namings import CSV, H5AD, PREDICTIONS, PROGRESS, REFERENCE
from neurofleet.learners.embedding_tables import with_labels
from neurofleet.learners.model_folder import TENSORS, read_model
from neurofleet.learners.sims.sims_classifier import SPACE


def name_cells(folder: str, model: str, source: str, options: dict[str, Any], memory_bytes: int) -> Iterator[int]:
    """Name the cells of a file by a model, and write what is shown and downloaded; yield how many cells there are.

    Run in a process of its own, whose limits it sets.

    Parameters
    ----------
    folder : str
        Where the files go.
    model, source : str
    options : dict
        See `neurofleet.jobs.serve.namings.Namings.start`.
    memory_bytes : int
    """
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = Path(folder)
    refuse_other_files(Path(source))

    def told(done: int, number: int) -> None:
        beside = out / f"{PROGRESS}.new"
        beside.write_text(json.dumps([done, number]))
        os.replace(beside, out / PROGRESS)

    h5ad = out / H5AD if source.endswith(".h5ad") else None
    wanted = PredictionOptions(out / PREDICTIONS, probabilities=True, report=True, h5ad=h5ad, **options["options"])
    predict_command(Path(model), Reading((source,), **options["reading"]), wanted, on_progress=told)
    with safe_open(Path(model) / TENSORS, "np") as tensors:
        plane, labels = (f"{SPACE}{name}" for name in ("plane", "labels"))
        if plane in tensors.keys():
            places = np.vstack([tensors.get_tensor(plane).T, tensors.get_tensor(labels)])
            np.save(out / REFERENCE, places)
    yield json.loads((out / PROGRESS).read_text())[1]


def write_onnx(model: str, file: str, memory_bytes: int) -> Iterator[float]:
    """Write a model of SIMS as ONNX; yield how far its probabilities are from the model's."""
    from neurofleet.learners.sims.onnx_model import to_onnx  # what it needs is an extra of its own
    from neurofleet.learners.sims.sims_model import SimsModel

    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    made = to_onnx(SimsModel.load(model))
    beside = Path(f"{file}.new")
    beside.write_bytes(made.content)
    os.replace(beside, file)
    yield made.difference


def embed(folder: str, model: str, source: str, options: dict[str, Any], memory_bytes: int) -> Iterator[int]:
    """Embed the units or neurons of a file by a model, and name them where it knows classes; as `name_cells` does."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = Path(folder)
    refuse_other_files(Path(source))
    stored = read_model(Path(model))
    embed_files = {"hippie": embed_units, "neuprint": embed_neurons}[stored.learner]
    with redirect_stderr(StringIO()) as said:
        embedded = embed_files(Path(model), [source], options["layout"])
    table, named = embedded.table, NAMED[stored.learner] if embedded.has_classes else ""
    classes = sorted(set(table[named].to_pylist())) if named else ["all"]
    columns = {"prob_0": "probability", "map_0": "umap_0", "map_1": "umap_1"}
    notes = [line.replace(source, "the file") for line in said.getvalue().splitlines()]
    about = {"named": named, "columns": columns, "classes": classes, "queries": [], "notes": notes}
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about)}), out / PREDICTIONS)
    write_embeddings_h5ad(table, embedded.vectors, out / H5AD)
    (out / PROGRESS).write_text(json.dumps([len(table), len(table)]))
    yield len(table)


def refuse_other_files(path: Path) -> None:
    """Refuse an HDF5 file whose content lies in other files, and a folder with links that lead out.

    Raises
    ------
    UsageError
        A visitor could read by it what is not served.
    """
    if path.is_dir():
        there = os.path.realpath(path)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                if not Path(os.path.realpath(os.path.join(folder, name))).is_relative_to(there):
                    raise UsageError(
                        f"{path}: {name} is a link that leads out of it. Put what it points to in its place."
                    )
        return
    try:
        file = h5py.File(path)
    except OSError:
        return  # no HDF5, or damaged: what reads it says so
    with file:
        seen, waiting = set(), [file["/"]]
        while waiting:
            group = waiting.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise UsageError(f"{path}: {name} lies in another file ({link.filename}). Write it as one file.")
                if not isinstance(link, h5py.HardLink):
                    continue
                item = group[name]
                if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external):
                    raise UsageError(f"{path}: the values of {name} lie in other files. Write it as one file.")
                address = h5py.h5o.get_info(item.id).addr
                if isinstance(item, h5py.Group) and address not in seen:
                    seen.add(address)
                    waiting.append(item)


def relabel_files(folder: str, below: float, out: str) -> None:
    """Write the files of a result with the labels of a threshold; in a process of its own, as an h5ad file is read.

    Parameters
    ----------
    folder : str
        Of the result.
    below : float
    out : str
        A folder.
    """
    made, target = Path(folder), Path(out)
    about = json.loads(pq.read_schema(made / PREDICTIONS).metadata[ABOUT])
    if "named" in about:
        _relabel_embedded(made, target, about["named"], below)
        return
    relabel_table(made / PREDICTIONS, below, target / PREDICTIONS, target / CSV)
    if (made / H5AD).exists():
        relabel_h5ad(made / H5AD, target / PREDICTIONS, target / H5AD)


def _relabel_embedded(made: Path, target: Path, named: str, below: float) -> None:
    """Write an embedding with the labels of a threshold in columns of their own, where its model knows classes."""
    table = pq.read_table(made / PREDICTIONS)
    cells = anndata.read_h5ad(made / H5AD)
    if named:
        found = with_labels({name: table[name].to_numpy() for name in (named, "probability")}, named, below)
        own = {name: f"file.{name}" for name in ("label", "unknown")}  # columns of the file
        table = table.rename_columns([own.get(name, name) for name in table.column_names])
        cells.obs = cells.obs.rename(columns=own)
        for name in ("unknown", "label"):
            table = table.add_column(table.column_names.index(named) + 1, name, pa.array(found[name]))
        cells.obs = cells.obs.assign(label=table["label"].to_pandas().to_numpy(), unknown=table["unknown"].to_numpy())
    pq.write_table(table.replace_schema_metadata(None), target / PREDICTIONS)
    pyarrow.csv.write_csv(table, target / CSV)
    cells.write_h5ad(target / H5AD)
