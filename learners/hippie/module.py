"""Training of HIPPIE networks, as Lightning modules: without labels, and with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from learners.hippie.augmentation import augmented
from learners.hippie.network import Batch, Network, Sizes, contrastive_loss, reconstruction_loss
from learners.hippie.settings import Settings

Tensors = dict[str, Tensor]
_VALIDATION_SEED = 0


class Members(pl.LightningModule):
    """Networks trained side by side on the same units, each from its own first weights.

    Parameters
    ----------
    sizes : Sizes
    settings : Settings
    start : mapping, optional
        State of one pretrained network, which all members start from.
    """

    def __init__(self, sizes: Sizes, settings: Settings, start: Mapping[str, Tensor] | None = None) -> None:
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

    def batch(self, tensors: Tensors) -> Batch:
        """Return units from the tensors of a data loader."""
        return Batch(
            {name: tensors[name] for name in self.sizes.modalities},
            tensors["present"],
            tensors["technology"],
            tensors["hand"],
        )

    def told(self, batch: Batch) -> Tensor:
        """Return whose technology the network is told in this step."""
        share = self.settings.technology_dropout
        return torch.rand(len(batch), device=batch.present.device) >= share

    def _adamw(self, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=True)


class Pretraining(Members):
    """Learns to reconstruct units, or which signals belong to one unit; sees no label.

    Logs ``train_loss``, ``val_loss`` and, for the reconstruction, ``val_error`` and ``val_divergence``.
    """

    def __init__(self, sizes: Sizes, settings: Settings, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(sizes, settings, start)
        self._rest("classes")
        if settings.objective == "contrastive":
            self._rest("technology", "fusion", "mean", "log_variance", "decoders")

    def training_step(self, tensors: Tensors, _: int) -> Tensor:
        batch = augmented(self.batch(tensors), self.settings)
        loss = torch.stack([self._losses(member, batch, self.told(batch))[0] for member in self.members])
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

    def _losses(self, member: Network, batch: Batch, known: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.settings.objective == "contrastive":
            return contrastive_loss(member, batch), {}
        error, divergence = reconstruction_loss(member, batch, known)
        return error + self.settings.beta * divergence, {"val_error": error, "val_divergence": divergence}


class FineTuning(Members):
    """Learns classes from labelled units. Logs ``train_loss``, ``val_loss`` and three scores.

    ``val_accuracy``, ``val_balanced_accuracy`` and ``val_macro_f1`` are those of the members' mean
    probabilities.
    """

    def __init__(self, sizes: Sizes, settings: Settings, start: Mapping[str, Tensor] | None = None) -> None:
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
            known = self.told(batch)
            fused, *_ = member.encode(batch, known)
            logits = member.class_logits(fused, batch)
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
            if self.settings.reconstruction_weight:
                loss = loss + self.settings.reconstruction_weight * self._reconstruction(
                    member, batch, known, labels
                )
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

    def _reconstruction(self, member: Network, batch: Batch, known: Tensor, labels: Tensor) -> Tensor:
        share = self.settings.class_dropout
        hidden = torch.rand(len(labels), device=labels.device) < share
        told = torch.where(hidden, torch.full_like(labels, -1), labels)
        error, divergence = reconstruction_loss(member, batch, known, told)
        return error + self.settings.beta * divergence


def mean_log_probabilities(members: Any, batch: Batch) -> Tensor:
    """Return the logarithm of the members' mean class probabilities, (units, classes)."""
    each = []
    for member in members:
        fused, *_ = member.encode(batch)
        each.append(member.class_logits(fused, batch).log_softmax(1))
    return torch.logsumexp(torch.stack(each), 0) - torch.tensor(float(len(each))).log()


def start_from(network: Network, start: Mapping[str, Tensor]) -> None:
    """Copy a pretrained network's weights; what depends on the classes stays as it is.

    Raises
    ------
    ValueError
        If a tensor that should be there is missing or of another shape.
    """
    own = network.state_dict()
    fresh = ("head.", "hand_head.", "wide.", "wide_norm.", "classes.")
    wanted = [name for name in own if not name.startswith(fresh)]
    if network.settings.class_in_decoder:
        wanted = [name for name in wanted if not name.startswith("decoders.")]
    wrong = [name for name in wanted if name not in start or start[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"The pretrained network lacks {len(wrong)} of {len(wanted)} tensors, such as {wrong[0]}, or has"
            " them in another shape. Pretrain with the same modalities, technologies and sizes."
        )
    network.load_state_dict(own | {name: start[name] for name in wanted})
