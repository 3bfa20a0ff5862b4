"""Training of HIPPIE networks, without labels and with them: Lightning modules, data and tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from neurofleet.learners.hippie.autoencoder import (
    Network,
    Sizes,
    UnitBatch,
    contrastive_loss,
    mean_log_probabilities,
    reconstruction_loss,
)
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.hippie.network_inputs import UnitInputs


def augmented(batch: UnitBatch, settings: HippieSettings) -> UnitBatch:
    """Return a batch with shifted waveforms, and signals multiplied by a gain and noisy."""
    signals = {}
    for name, signal in batch.signals.items():
        if name == "waveform" and settings.shift_samples:
            signal = _shifted(signal, settings.shift_samples)
        if settings.gain:
            signal = signal * (1.0 + settings.gain * (2.0 * torch.rand(len(signal), 1, device=signal.device) - 1.0))
        if settings.noise_sd:
            signal = signal + settings.noise_sd * torch.randn_like(signal)
        signals[name] = signal
    return UnitBatch(signals, batch.present, batch.technology, batch.hand)


def _shifted(signal: Tensor, most: int) -> Tensor:
    """Shift each row by up to `most` samples either way, its ends held."""
    points = signal.shape[1]
    shift = torch.randint(-most, most + 1, (len(signal), 1), device=signal.device)
    places = torch.arange(points, device=signal.device)
    return torch.gather(signal, 1, (places + shift).clamp(0, points - 1))


Tensors = dict[str, Tensor]
_VALIDATION_SEED = 0


class Members(pl.LightningModule):
    """Networks trained side by side on the same units, each from its own first weights.

    Parameters
    ----------
    sizes : Sizes
    settings : HippieSettings
    start : mapping, optional
        State of one pretrained network, which all members start from.
    """

    def __init__(self, sizes: Sizes, settings: HippieSettings, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.sizes, self.settings = sizes, settings
        self.members = nn.ModuleList(Network(sizes, settings) for _ in range(settings.members))
        for member in self.members if start is not None else ():
            start_from(member, start or {})

    def _rest(self, *parts: str) -> None:
        """Leave parts of the networks as they are: a training on several workers may have no idle ones."""
        for member in self.members:
            for name, parameter in member.named_parameters():
                if name.split(".")[0] in parts:
                    parameter.requires_grad_(False)

    def on_before_optimizer_step(self, *_: Any) -> None:
        for member in self.members:
            nn.utils.clip_grad_norm_(member.parameters(), self.settings.clip_norm)

    def batch(self, tensors: Tensors) -> UnitBatch:
        """Return units from the tensors of a data loader."""
        return UnitBatch(
            {name: tensors[name] for name in self.sizes.modalities},
            tensors["present"],
            tensors["technology"],
            tensors["hand"],
        )

    def known_technologies(self, batch: UnitBatch) -> Tensor:
        """Return of which units the network sees the technology in this step, (units,) bool."""
        share = self.settings.technology_dropout
        return torch.rand(len(batch), device=batch.present.device) >= share

    def _adamw(self, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        fused = self.trainer.precision != "16-mixed"  # fused steps undo the scaling only after gradients are clipped
        return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=fused)


class AutoencoderPretraining(Members):
    """Learns to reconstruct units, or which signals belong to one unit; sees no label.

    Logs ``train_loss``, ``val_loss`` and, for the reconstruction, ``val_error`` and ``val_divergence``.
    """

    def __init__(self, sizes: Sizes, settings: HippieSettings, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(sizes, settings, start)
        self._rest("classes")
        if settings.objective == "contrastive":
            self._rest("technology", "fusion", "mean", "log_variance", "decoders")

    def training_step(self, tensors: Tensors, _: int) -> Tensor:
        batch = augmented(self.batch(tensors), self.settings)
        loss = torch.stack([self._losses(member, batch, self.known_technologies(batch))[0] for member in self.members])
        self.log("train_loss", loss.mean(), on_epoch=True, on_step=False, batch_size=len(batch))
        return loss.sum()

    def validation_step(self, tensors: Tensors, _: int) -> None:
        batch = self.batch(tensors)
        everyone = torch.ones_like(batch.technology, dtype=torch.bool)
        kept: dict[str, list[Tensor]] = {}
        for member in self.members:
            loss, parts = self._losses(member, batch, everyone)
            for name, value in {"val_loss": loss, **parts}.items():
                kept.setdefault(name, []).append(value)
        for name, values in kept.items():
            mean = torch.stack(values).mean()
            self.log(name, mean, on_epoch=True, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        return self._adamw(settings.pretrain_learning_rate, settings.pretrain_weight_decay)

    def _losses(self, member: Network, batch: UnitBatch, known: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.settings.objective == "contrastive":
            return contrastive_loss(member, batch), {}
        error, divergence = reconstruction_loss(member, batch, known)
        return error + self.settings.beta * divergence, {"val_error": error, "val_divergence": divergence}


class AutoencoderFineTuning(Members):
    """Learns classes from labelled units. Logs ``train_loss``, ``val_loss`` and three scores.

    ``val_accuracy``, ``val_balanced_accuracy`` and ``val_macro_f1`` are those of the members' mean
    probabilities.
    """

    def __init__(self, sizes: Sizes, settings: HippieSettings, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(sizes, settings, start)
        if not settings.reconstruction_weight:
            self._rest("mean", "log_variance", "decoders", "classes")
        self._rest("projections", "log_scale")
        n = sizes.n_classes
        self.val_accuracy = MulticlassAccuracy(n, average="micro")
        self.val_balanced_accuracy = MulticlassAccuracy(n, average="macro")
        self.val_macro_f1 = MulticlassF1Score(n, average="macro")

    def training_step(self, tensors: Tensors, _: int) -> Tensor:
        batch, labels = augmented(self.batch(tensors), self.settings), tensors["label"]
        losses = []
        for member in self.members:
            known = self.known_technologies(batch)
            fused, *_ = member.encode(batch, known)
            logits = member.class_logits(fused, batch)
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
            if self.settings.reconstruction_weight:
                loss = loss + self.settings.reconstruction_weight * self._reconstruction(member, batch, known, labels)
            losses.append(loss)
        total = torch.stack(losses)
        self.log("train_loss", total.mean(), on_epoch=True, on_step=False, batch_size=len(batch))
        return total.sum()

    def validation_step(self, tensors: Tensors, _: int) -> None:
        batch, labels = self.batch(tensors), tensors["label"]
        log_probabilities = mean_log_probabilities(self.members, batch)
        loss = nn.functional.nll_loss(log_probabilities, labels)
        self.log("val_loss", loss, on_epoch=True, batch_size=len(labels), sync_dist=True)
        for name in ("val_accuracy", "val_balanced_accuracy", "val_macro_f1"):
            metric = getattr(self, name)
            metric(log_probabilities, labels)
            self.log(name, metric, on_epoch=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        return self._adamw(self.settings.learning_rate, self.settings.weight_decay)

    def _reconstruction(self, member: Network, batch: UnitBatch, known: Tensor, labels: Tensor) -> Tensor:
        share = self.settings.class_dropout
        hidden = torch.rand(len(labels), device=labels.device) < share
        shown_labels = torch.where(hidden, torch.full_like(labels, -1), labels)
        error, divergence = reconstruction_loss(member, batch, known, shown_labels)
        return error + self.settings.beta * divergence


def start_from(network: Network, start: Mapping[str, Tensor]) -> None:
    """Copy a pretrained network's weights; what depends on the classes stays as it is.

    Raises
    ------
    ValueError
        If a tensor that should be there is missing or of another shape.
    """
    state = network.state_dict()
    fresh = ("head.", "hand_head.", "wide.", "wide_norm.", "classes.")
    shared = [name for name in state if not name.startswith(fresh)]
    if network.settings.class_in_decoder:
        shared = [name for name in shared if not name.startswith("decoders.")]
    wrong = [name for name in shared if name not in start or start[name].shape != state[name].shape]
    if wrong:
        raise ValueError(
            f"The pretrained network lacks {len(wrong)} of {len(shared)} tensors, such as {wrong[0]}, or has"
            " them in another shape. Pretrain with the same modalities, technologies and sizes."
        )
    network.load_state_dict(state | {name: start[name] for name in shared})


START = "start.safetensors"
_VALIDATION_BATCH = 1024


@dataclass(frozen=True)
class HippieTask:
    """A training.

    Attributes
    ----------
    inputs : UnitInputs
        All units that it uses, as the networks take them.
    labels : array of int, shape (units,)
        Class numbers; -1 where there is none. Unused in pretraining.
    n_classes : int
        0 in pretraining.
    train_rows, validation_rows : array of int
    settings : HippieSettings
    start : mapping, optional
        State of a pretrained network.
    stage : {'pretraining', 'adaptation', 'fine-tuning'}
    """

    inputs: UnitInputs
    labels: np.ndarray
    n_classes: int
    train_rows: np.ndarray
    validation_rows: np.ndarray
    settings: HippieSettings
    start: Mapping[str, Tensor] | None = None
    stage: str = "fine-tuning"

    @property
    def sizes(self) -> Sizes:
        """What decides the networks' shapes."""
        inputs = self.inputs
        n_hand = inputs.hand.shape[1] if self.n_classes and self.settings.hand_features else 0
        return Sizes(inputs.modalities, inputs.n_technologies, self.n_classes, n_hand)

    def module(self) -> Members:
        """Return what is trained."""
        if self.stage == "fine-tuning":
            return AutoencoderFineTuning(self.sizes, self.settings, self.start)
        single = self.settings.model_copy(update={"members": 1})
        return AutoencoderPretraining(self.sizes, single, self.start)

    def data(self, seed: int) -> HippieData:
        """Return the units in batches; `seed` decides their order."""
        return HippieData(self, seed)

    def epochs(self) -> int:
        """Return after how many epochs training ends."""
        settings = self.settings
        stages = {"pretraining": settings.pretrain_epochs, "adaptation": settings.adapt_epochs}
        return stages.get(self.stage, settings.epochs)

    def write(self, folder: Path, seed: int) -> dict[str, Any]:
        """Write the task for `build`, and return what `build` is to be called with."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = self.inputs.arrays() | {
            "labels": self.labels,
            "train_rows": self.train_rows,
            "validation_rows": self.validation_rows,
        }
        save_file({n: np.ascontiguousarray(array) for n, array in arrays.items()}, folder / "task.safetensors")
        if self.start is not None:
            save_tensors({name: tensor.clone() for name, tensor in self.start.items()}, folder / START)
        description = {
            "modalities": self.inputs.modalities,
            "n_technologies": self.inputs.n_technologies,
            "n_classes": self.n_classes,
            "settings": self.settings.model_dump(mode="json"),
            "stage": self.stage,
            "has_start": self.start is not None,
            "epochs": self.epochs(),
        }
        (folder / "task.json").write_text(json.dumps(description, indent=1))
        return {"folder": str(folder), "seed": seed}


def build(payload: Mapping[str, Any]) -> tuple[Members, HippieData]:
    """Return module and data of a task that was written to ``payload["folder"]``.

    Parameters
    ----------
    payload : mapping
        As `HippieTask.write` returned it; ``changes`` are settings that differ from the task's.
    """
    folder = Path(payload["folder"])
    arrays = load_file(folder / "task.safetensors")
    described = json.loads((folder / "task.json").read_text())
    task = HippieTask(
        inputs=UnitInputs.from_arrays(arrays, tuple(described["modalities"]), described["n_technologies"]),
        labels=arrays["labels"],
        n_classes=described["n_classes"],
        train_rows=arrays["train_rows"],
        validation_rows=arrays["validation_rows"],
        settings=HippieSettings(**(described["settings"] | payload.get("changes", {}))),
        start=load_tensors(folder / START) if described["has_start"] else None,
        stage=described["stage"],
    )
    return task.module(), task.data(payload["seed"])


class HippieData(pl.LightningDataModule):
    """Batches of a task's units: in fine-tuning each class as often as any other.

    Parameters
    ----------
    task : HippieTask
    seed : int
        Decides the order of the units.
    """

    def __init__(self, task: HippieTask, seed: int) -> None:
        super().__init__()
        self.task = task
        self._generator = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> DataLoader:
        task = self.task
        units = _Units(task, task.train_rows)
        if task.stage != "fine-tuning":
            size, order = task.settings.pretrain_batch_size, {"shuffle": True}
        else:
            labels = task.labels[task.train_rows]
            weights = (1.0 / np.bincount(labels, minlength=task.n_classes).clip(min=1))[labels]
            sampler = WeightedRandomSampler(weights.tolist(), len(units), generator=self._generator)
            size, order = task.settings.batch_size, {"sampler": sampler}
        # A last batch of a unit or two would spoil batch norm's statistics.
        whole = len(units) >= size
        return DataLoader(units, size, drop_last=whole, generator=self._generator, collate_fn=units.gathered, **order)

    def val_dataloader(self) -> DataLoader | list[Any]:
        if not len(self.task.validation_rows):
            return []
        units = _Units(self.task, self.task.validation_rows)
        return DataLoader(units, _VALIDATION_BATCH, collate_fn=units.gathered)


class _Units(Dataset):
    """Row numbers; a batch of them is gathered at once."""

    def __init__(self, task: HippieTask, rows: np.ndarray) -> None:
        self._rows = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        self._tensors = task.inputs.tensors() | {"label": torch.from_numpy(task.labels)}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> int:
        return int(self._rows[index])

    def gathered(self, rows: list[int]) -> dict[str, Tensor]:
        chosen = torch.tensor(rows)
        return {name: tensor[chosen] for name, tensor in self._tensors.items()}
