"""The HIPPIE network: a conditional variational autoencoder of several modalities, with a class head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofleet.learners.hippie.autoencoder_settings import HippieSettings
from neurofleet.learners.units.units import POINTS

_DECODER_WIDTH = 128
_RESNET_LENGTH = 64


def encoder(points: int, settings: HippieSettings) -> nn.Module:
    """Return what turns (units, points) into (units, settings.features)."""
    if settings.architecture == "resnet18":
        return ResNetEncoder(settings.width, settings.features)
    return CompactEncoder(points, settings.width, settings.features)


def decoder(size: int, points: int, settings: HippieSettings) -> nn.Module:
    """Return what turns (units, size) into (units, points)."""
    if settings.architecture == "resnet18":
        return ResNetDecoder(size, points, settings.width)
    return nn.Sequential(nn.Linear(size, _DECODER_WIDTH), nn.LeakyReLU(), nn.Linear(_DECODER_WIDTH, points))


class CompactEncoder(nn.Module):
    """Three convolutions of stride 2 with group norm, and a linear layer; positions are kept."""

    def __init__(self, points: int, width: int, features: int) -> None:
        super().__init__()
        widths = (1, width, 2 * width, 2 * width)
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [
                nn.Conv1d(before, after, 5, stride=2, padding=2),
                nn.GroupNorm(4, after),
                nn.LeakyReLU(),
            ]
            points = (points + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(points * 2 * width, features))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[:, None, :])


class ResNetEncoder(nn.Module):
    """A ResNet-18 in one dimension: four stages of two blocks, averaged over positions (paper, methods)."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(4)]
        layers: list[nn.Module] = [
            nn.Conv1d(1, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(),
        ]
        before = width
        for stage, after in enumerate(widths):
            layers += [_Block(before, after, 1 if stage == 0 else 2), _Block(after, after, 1)]
            before = after
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(before, features))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x[:, None, :])


class ResNetDecoder(nn.Module):
    """The mirror of `ResNetEncoder`: resized by nearest neighbours and convolved, up to 64 points."""

    def __init__(self, size: int, points: int, width: int) -> None:
        super().__init__()
        widest = 8 * width
        self.first = nn.Linear(size, widest)
        layers: list[nn.Module] = [nn.Upsample(scale_factor=4)]
        before = widest
        for after in (4 * width, 2 * width, width):
            layers += [_Block(before, before, 1), nn.Upsample(scale_factor=2), _Block(before, after, 1)]
            before = after
        layers += [_Block(before, before, 1), nn.Upsample(scale_factor=2), nn.Conv1d(before, 1, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(_RESNET_LENGTH, points)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.layers(self.first(z)[:, :, None])[:, 0, :])


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm1d(after),
            nn.LeakyReLU(),
            nn.Conv1d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm1d(after),
        )
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.short = nn.Sequential(nn.Conv1d(before, after, 1, stride=stride, bias=False), nn.BatchNorm1d(after))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.layers(x) + self.short(x))


def present_or_zero(features: Tensor, present: Tensor) -> Tensor:
    """Return features with those of missing modalities set to zero."""
    return torch.where(present[:, None], features, torch.zeros((), dtype=features.dtype))


_LOG_VARIANCE = (-30.0, 20.0)
_PROJECTION = 32
_HAND_WIDTH = 64


@dataclass(frozen=True)
class Sizes:
    """What decides the shape of a network.

    Attributes
    ----------
    modalities : tuple of str
    n_technologies, n_classes, n_hand : int
        `n_classes` is 0 before there are any; `n_hand` hand features go to the head.
    """

    modalities: tuple[str, ...]
    n_technologies: int
    n_classes: int
    n_hand: int


@dataclass(frozen=True)
class UnitBatch:
    """Units as tensors.

    Attributes
    ----------
    signals : dict of Tensor, (units, points)
        By modality, scaled.
    present : Tensor of bool, (units, modalities)
    technology : Tensor of int, (units,)
        -1 where it is unknown.
    hand : Tensor, (units, hand features)
        Standardised; 0 where one is missing.
    """

    signals: dict[str, Tensor]
    present: Tensor
    technology: Tensor
    hand: Tensor

    def __len__(self) -> int:
        return len(self.present)


class Network(nn.Module):
    """Encoders, fusion, latent, decoders and a class head.

    `encode` and `class_logits` have no label argument: a class cannot reach them. Only `decode` may see
    one, in training.

    Parameters
    ----------
    sizes : Sizes
    settings : HippieSettings

    References
    ----------
    The HIPPIE paper, methods: encoders of each modality, technology embedding of width 5, fusion by two
    linear layers, heads to mean and log-variance.
    """

    def __init__(self, sizes: Sizes, settings: HippieSettings) -> None:
        super().__init__()
        self.sizes, self.settings = sizes, settings
        n_modalities = len(sizes.modalities)
        self.encoders = nn.ModuleDict({name: encoder(POINTS[name], settings) for name in sizes.modalities})
        self.technology = nn.Embedding(max(sizes.n_technologies, 1), settings.technology_size)
        joint = n_modalities * (settings.features + 1) + settings.technology_size
        self.fusion = nn.Sequential(
            nn.Linear(joint, settings.fusion),
            nn.LayerNorm(settings.fusion),
            nn.LeakyReLU(0.2),
            nn.Linear(settings.fusion, settings.fusion),
        )
        self.mean = nn.Linear(settings.fusion, settings.latent)
        self.log_variance = nn.Linear(settings.fusion, settings.latent)
        decoder_inputs = settings.latent + settings.technology_size
        if settings.class_in_decoder:
            decoder_inputs += settings.class_size
            self.classes = nn.Embedding(max(sizes.n_classes, 1), settings.class_size)
        self.decoders = nn.ModuleDict(
            {name: decoder(decoder_inputs, POINTS[name], settings) for name in sizes.modalities}
        )
        if settings.objective == "contrastive":
            self.projections = nn.ModuleDict(
                {name: nn.Linear(settings.features, _PROJECTION) for name in sizes.modalities}
            )
            self.log_scale = nn.Parameter(torch.tensor(2.0))
        if sizes.n_classes:
            self.head = nn.Sequential(
                nn.LeakyReLU(), nn.Dropout(settings.dropout), nn.Linear(settings.fusion, sizes.n_classes)
            )
            if settings.wide:
                wide = sum(POINTS[name] for name in sizes.modalities) + sizes.n_hand
                self.wide_norm = nn.BatchNorm1d(wide, affine=False)
                self.wide = nn.Linear(wide, sizes.n_classes)
                nn.init.zeros_(self.wide.weight)
            if sizes.n_hand:
                self.hand_head = nn.Sequential(
                    nn.Linear(sizes.n_hand, _HAND_WIDTH),
                    nn.LayerNorm(_HAND_WIDTH),
                    nn.LeakyReLU(),
                    nn.Dropout(settings.dropout),
                    nn.Linear(_HAND_WIDTH, sizes.n_classes),
                )

    def modality_features(self, batch: UnitBatch) -> dict[str, Tensor]:
        """Return the encoders' outputs (units, features); zero where a modality is missing."""
        return {
            name: present_or_zero(self.encoders[name](batch.signals[name]), batch.present[:, number])
            for number, name in enumerate(self.sizes.modalities)
        }

    def fuse(self, features: dict[str, Tensor], batch: UnitBatch, known: Tensor) -> Tensor:
        """Return the fusion vector (units, settings.fusion).

        Parameters
        ----------
        known : Tensor of bool, (units,)
            The units whose technology the network sees.
        """
        parts = [*features.values(), batch.present.to(torch.float32), self._technology(batch, known)]
        return self.fusion(torch.cat(parts, 1))

    def encode(self, batch: UnitBatch, known: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the fusion vector, the latent's mean and its log-variance."""
        known = torch.ones_like(batch.technology, dtype=torch.bool) if known is None else known
        fused = self.fuse(self.modality_features(batch), batch, known)
        return fused, self.mean(fused), self.log_variance(fused).clamp(*_LOG_VARIANCE)

    def decode(self, z: Tensor, batch: UnitBatch, known: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Return the reconstructed signals; a label of -1 is a zero vector, as is `None`."""
        inputs = [z, self._technology(batch, known)]
        if self.settings.class_in_decoder:
            none = z.new_zeros(len(z), self.settings.class_size)
            inputs.append(
                none if labels is None else torch.where((labels >= 0)[:, None], self.classes(labels.clamp(min=0)), none)
            )
        whole = torch.cat(inputs, 1)
        return {name: self.decoders[name](whole) for name in self.sizes.modalities}

    def class_logits(self, fused: Tensor, batch: UnitBatch) -> Tensor:
        """Return the logits (units, classes) from the fusion vector, and from hand features where used."""
        logits = self.head(fused)
        if self.settings.wide:
            signals = torch.cat([*(batch.signals[name] for name in self.sizes.modalities), batch.hand], 1)
            logits = logits + self.wide(self.wide_norm(signals).clamp(-5.0, 5.0))
        return logits + self.hand_head(batch.hand) if self.sizes.n_hand else logits

    def _technology(self, batch: UnitBatch, known: Tensor) -> Tensor:
        is_known = (batch.technology >= 0) & known
        vectors = self.technology(batch.technology.clamp(min=0))
        return torch.where(is_known[:, None], vectors, torch.zeros((), dtype=vectors.dtype))


def reconstruction_loss(
    network: Network, batch: UnitBatch, known: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the error of the reconstruction and the divergence of the latent from the prior.

    The error is the mean square over points, of present modalities, summed over these; the divergence is
    summed over latent dimensions (the HIPPIE paper's loss is error + beta x divergence, with the sign of the
    divergence put right).
    """
    _, mean, log_variance = network.encode(batch, known)
    z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) if network.training else mean
    made = network.decode(z, batch, known, labels)
    errors = torch.stack([(made[name] - batch.signals[name]).square().mean(1) for name in network.sizes.modalities], 1)
    weights = batch.present.to(errors.dtype)
    error = (errors * weights).sum() / weights.sum().clamp(min=1.0) * len(network.sizes.modalities)
    divergence = 0.5 * (log_variance.exp() + mean.square() - log_variance - 1.0).sum(1).mean()
    return error, divergence


def contrastive_loss(network: Network, batch: UnitBatch) -> Tensor:
    """Return InfoNCE between every two modalities of the units that have both, with a learned temperature."""
    features = network.modality_features(batch)
    projected = {name: F.normalize(network.projections[name](features[name]), dim=1) for name in features}
    losses = []
    names = network.sizes.modalities
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            both = batch.present[:, i] & batch.present[:, j]
            if both.sum() < 2:
                continue
            similar = projected[first][both] @ projected[names[j]][both].T * network.log_scale.exp()
            matching = torch.arange(len(similar), device=similar.device)
            losses.append(0.5 * (F.cross_entropy(similar, matching) + F.cross_entropy(similar.T, matching)))
    if not losses:
        return sum(p.sum() for p in network.parameters()) * 0.0  # no unit has two modalities in this batch
    return torch.stack(losses).mean()


def mean_log_probabilities(members: nn.ModuleList, batch: UnitBatch) -> Tensor:
    """Return the logarithm of the members' mean class probabilities, (units, classes)."""
    each = []
    for member in members:
        fused, *_ = member.encode(batch)
        each.append(member.class_logits(fused, batch).log_softmax(1))
    return torch.logsumexp(torch.stack(each), 0) - torch.tensor(float(len(each))).log()
