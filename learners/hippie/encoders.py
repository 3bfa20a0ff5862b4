"""Encoders and decoders of one modality: three convolutions for a CPU, or a ResNet-18 in one dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.hippie.settings import Settings

_DECODER_WIDTH = 128
_RESNET_LENGTH = 64


def encoder(points: int, settings: Settings) -> nn.Module:
    """Return what turns (units, points) into (units, settings.features)."""
    if settings.architecture == "resnet18":
        return ResNetEncoder(settings.width, settings.features)
    return CompactEncoder(points, settings.width, settings.features)


def decoder(size: int, points: int, settings: Settings) -> nn.Module:
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
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(before, features)
        )

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
            self.short = nn.Sequential(
                nn.Conv1d(before, after, 1, stride=stride, bias=False), nn.BatchNorm1d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.layers(x) + self.short(x))


def present_or_zero(features: Tensor, present: Tensor) -> Tensor:
    """Return features with those of missing modalities set to zero."""
    return torch.where(present[:, None], features, torch.zeros((), dtype=features.dtype))
