"""The learners on a GPU beside the CPU: speed, memory, losses, checkpoints of one opened on the other, prediction.

    python -m tests.benchmarks.gpu [--cells 4000] [--genes 4000] [--epochs 4] [--predict 100000]

Prints one JSON line; less than eight minutes on a machine with a GPU. ``gpu`` is its name, or null where there is
none: everything then runs on the CPU alone. All data are made here.

Each training is one of `neurofleet.cluster.training.trainer.train`, as jobs have it, in float32 and with bf16-mixed
precision: ``steps_per_s`` without the first epoch, ``peak_gb`` of GPU memory, ``train_loss`` of the last epoch, and
``agrees``, whether that is within 5 % (float32) or 10 % (bf16) of the CPU's in float32; random numbers differ between
devices, so it cannot be equal. ``opened_elsewhere``: the largest difference between what checkpoints of either device
predict on the CPU and on the GPU, which is to be below 0.001; a training that began on the one has then gone on on the
other, too. ``csr_difference``: between batches that became dense on the GPU and on the CPU. ``predict``: cells a second
of a model that was saved and read again, 10,000 cells over and over, normalisation included. ``all_agree``: every
``agrees`` is true.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import anndata
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from neurofleet.cluster.training.lightning_training import Training, TrainingResult
from neurofleet.cluster.training.trainer import train
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels
from neurofleet.learners.hippie.autoencoder import mean_log_probabilities as mean_of_units
from neurofleet.learners.hippie.autoencoder_settings import settings_of as hippie_settings
from neurofleet.learners.hippie.autoencoder_training import HippieTask
from neurofleet.learners.hippie.network_inputs import Scaling, inputs_of, modalities_of
from neurofleet.learners.local_training import TrainingTask
from neurofleet.learners.neuprint.dynamics_settings import settings_of as neuprint_settings
from neurofleet.learners.neuprint.dynamics_training import NeuprintTask
from neurofleet.learners.neuprint.filter_moments import Moments
from neurofleet.learners.sims import tabnet_training
from neurofleet.learners.sims.labelled_reference import reference_of
from neurofleet.learners.sims.reference_fit import trained_networks
from neurofleet.learners.sims.sims_classifier import blocks_of
from neurofleet.learners.sims.sims_model import SimsModel
from neurofleet.learners.sims.tabnet import mean_log_probabilities
from neurofleet.learners.sims.tabnet_settings import settings_of as sims_settings
from tests.benchmarks.atlas import MadeAtlas
from tests.learners.hippie.small_units import small_units
from tests.learners.neuprint.synthetic_animals import synthetic_recordings

PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}
TOLERANCES = {"float32": 0.05, "bf16": 0.1}
CLOSE = 1e-3
UNITS, PREDICTED_AT_ONCE = 2000, 10_000


@cache
def made_cells(batch: int, n_cells: int, n_genes: int) -> anndata.AnnData:
    """Return cells of a made atlas, in memory."""
    atlas = MadeAtlas(n_genes)
    classes, blocks = atlas.cells(batch, n_cells)
    parts = [
        sp.csr_matrix((values, genes, np.concatenate([[0], np.cumsum(lengths)])), shape=(len(lengths), n_genes))
        for values, genes, lengths in blocks
    ]
    obs = pd.DataFrame({"cell_type": np.asarray(atlas.class_names)[classes]})
    return anndata.AnnData(sp.vstack(parts, format="csr"), obs.set_index(obs.index.astype(str)))


@cache
def task_of(learner: str, n_cells: int, n_genes: int, epochs: int) -> TrainingTask:
    """Return a training of a learner on made data: SIMS, HIPPIE, and NeuPRINT with filters and with a GRU."""
    rng = np.random.default_rng(0)
    if learner == "sims":
        cells = open_cells(made_cells(0, n_cells, n_genes))
        reference = reference_of(cells, read_labels(cells, "cell_type"))
        order = rng.permutation(n_cells)
        settings = sims_settings("default", {"epochs": epochs, "most_steps": None})
        return reference.task(order[n_cells // 10 :], order[: n_cells // 10], settings)
    if learner == "hippie":
        with tempfile.TemporaryDirectory() as folder:
            units, labels = small_units(Path(folder), n=UNITS)
        chosen = hippie_settings("default", {"epochs": epochs})
        inputs = inputs_of(units, modalities_of(units, chosen.modalities), (), Scaling.of(units.hand), chosen.signals)
        order = rng.permutation(UNITS)
        return HippieTask(inputs, labels, 2, order[UNITS // 10 :], order[: UNITS // 10], chosen)
    recordings = synthetic_recordings(2, n_frames=1500)
    preset = "gru" if learner == "neuprint_gru" else "default"
    changes = {"epochs": epochs, "least_steps": 0}
    return NeuprintTask(recordings, np.arange(len(recordings.neurons)), neuprint_settings(preset, changes))


def made(payload: Mapping[str, Any]) -> tuple[pl.LightningModule, pl.LightningDataModule]:
    """Return what is trained: the factory of the trainings below."""
    task = task_of(*payload["task"])
    return task.module(), task.data(1)


LEARNERS = ("sims", "hippie", "neuprint", "neuprint_gru")


def measured(
    task: tuple[Any, ...], folder: Path, epochs: int, accelerator: Any, precision: str
) -> tuple[TrainingResult, dict[str, Any]]:
    """Train, and return the result with its speed and memory."""
    on_gpu = accelerator == "gpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    training = Training("tests.benchmarks.gpu:made", {"task": list(task)})
    result = train(training, folder, max_epochs=epochs, accelerator=accelerator, precision=precision, loggers=())
    data = task_of(*task).data(1)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    seconds = statistics.median([row["seconds"] for row in result.history[1:]])
    return result, {
        "steps_per_s": round(len(data.train_dataloader()) / seconds, 2),
        "train_loss": round(result.history[-1]["train_loss"], 5),
        **({"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 3)} if on_gpu else {}),
    }


@torch.inference_mode()
def answers(task: tuple[Any, ...], weights: Mapping[str, torch.Tensor], device: str) -> np.ndarray:
    """Return what a trained module predicts of the first validation batch."""
    made_task = task_of(*task)
    module: Any = made_task.module()
    module.load_state_dict(dict(weights))
    module.eval().to(device)
    data = made_task.data(1)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    batch: Any = move_data_to_device(next(iter(data.val_dataloader())), torch.device(device))
    if task[0] == "sims":
        found = mean_log_probabilities(module.best(batch[0].dense())[0])
    elif task[0] == "hippie":
        found = mean_of_units(module.members, module.batch(batch))
    elif isinstance(batch, Moments):
        found = batch.errors(module.dynamics.weights(module.phi[batch.neurons])[0]) / batch.count
    else:
        found = module.dynamics(batch, module.phi[batch.neurons]).mean
    return found.cpu().numpy()


def compared(task: tuple[Any, ...], folder: Path, epochs: int, has_gpu: bool) -> dict[str, Any]:
    """Train on each device with each precision, and open each device's checkpoint on the other."""
    found: dict[str, Any] = {}
    weights = {}
    for accelerator in ("cpu", "gpu") if has_gpu else ("cpu",):
        for name, precision in PRECISIONS.items():
            result, one = measured(task, folder / f"{accelerator}-{name}", epochs, accelerator, precision)
            expected = found["cpu_float32"]["train_loss"] if found else one["train_loss"]
            apart = abs(one["train_loss"] - expected) / max(abs(expected), 1e-9)
            found[f"{accelerator}_{name}"] = one | {"apart": round(apart, 4), "agrees": apart <= TOLERANCES[name]}
            weights[accelerator, name] = result.weights()
    if not has_gpu:
        return found
    differences = [
        float(np.abs(answers(task, state, "cpu") - answers(task, state, "cuda")).max()) for state in weights.values()
    ]
    for begun, then in (("cpu", "gpu"), ("gpu", "cpu")):
        measured(task, folder / f"{begun}-float32", epochs + 1, then, PRECISIONS["float32"])
    found["opened_elsewhere"] = {"difference": max(differences), "agrees": max(differences) < CLOSE}
    return found


def csr_difference(task: tuple[Any, ...]) -> float:
    """Return the largest difference between a batch that becomes dense on the GPU and on the CPU."""
    with patch.object(tabnet_training, "IN_MEMORY_BYTES", 0):  # as references that are streamed from disk
        cells: Any = replace(task_of(*task))  # type: ignore[type-var]
        batch = next(iter(cells.stream(cells.train_rows, 256)))
    assert batch.columns is not None
    moved = move_data_to_device(batch, torch.device("cuda"))
    return float((moved.dense().cpu() - batch.dense()).abs().max())


def predicted(task: tuple[Any, ...], weights: Mapping[str, torch.Tensor], n: int, has_gpu: bool) -> dict[str, Any]:
    """Return cells a second of a saved model on each device, and by how much its probabilities differ."""
    made_task: Any = task_of(*task)
    cells = open_cells(made_cells(1, PREDICTED_AT_ONCE, task[2]))
    values = cells.read(np.arange(len(cells)))
    networks = trained_networks(made_task, weights, 1)
    classes = tuple(map(str, range(made_task.n_classes)))
    genes, how = tuple(map(str, cells.genes)), made_task.normalisation
    model = SimsModel(networks, None, made_task.inputs, genes, classes, how, made_task.settings)
    found: dict[str, Any] = {"cells": n}
    probabilities = {}
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, "gpu")
        for device in ("cpu", "cuda") if has_gpu else ("cpu",):
            model = SimsModel.load(folder, device)
            for part in ("first", "timed"):
                started, done = time.perf_counter(), 0
                while done < (n if part == "timed" else 1):
                    parts = [
                        model.probabilities(how.apply(values[block])) for block in blocks_of(len(cells), len(genes))
                    ]
                    done += len(cells)
                seconds = time.perf_counter() - started
            probabilities[device] = np.concatenate(parts)
            found[f"{device}_cells_per_s"] = round(done / seconds)
    if has_gpu:
        found["difference"] = float(np.abs(probabilities["cpu"] - probabilities["cuda"]).max())
        found["agrees"] = found["difference"] < CLOSE
    return found


def measure(n_cells: int, n_genes: int, epochs: int, n_predicted: int, learners: list[str]) -> dict[str, Any]:
    """Return all that is measured."""
    has_gpu = torch.cuda.is_available()
    found: dict[str, Any] = {"benchmark": "gpu", "gpu": torch.cuda.get_device_name() if has_gpu else None}
    found |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for learner in learners:
            task = (learner, n_cells, n_genes, epochs)
            found[learner] = compared(task, Path(folder) / learner, epochs, has_gpu)
        if "sims" in learners:
            task = ("sims", n_cells, n_genes, epochs)
            if has_gpu:
                found["csr_difference"] = csr_difference(task)
            training = Training("tests.benchmarks.gpu:made", {"task": list(task)})
            result = train(training, Path(folder) / "sims" / "cpu-float32", max_epochs=epochs, loggers=())
            found["predict"] = predicted(task, result.weights(), n_predicted, has_gpu)
    return found | {"all_agree": all_agree(found), "seconds": round(time.monotonic() - started)}


def all_agree(found: Any) -> bool:
    """Return whether every ``agrees`` in what was found is true."""
    if not isinstance(found, dict):
        return True
    return bool(found.get("agrees", True)) and all(map(all_agree, found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4000)
    parser.add_argument("--genes", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--predict", type=int, default=100_000)
    parser.add_argument("--learners", default=",".join(LEARNERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps(measure(given.cells, given.genes, given.epochs, given.predict, given.learners.split(","))))


if __name__ == "__main__":
    main()
