"""Random changes of units that leave their identity: waveforms shifted, signals louder or noisier."""

from __future__ import annotations

import torch
from torch import Tensor

from learners.hippie.network import Batch
from learners.hippie.settings import Settings


def augmented(batch: Batch, settings: Settings) -> Batch:
    """Return a batch with shifted waveforms, and signals multiplied by a gain and noisy."""
    signals = {}
    for name, signal in batch.signals.items():
        if name == "waveform" and settings.shift_samples:
            signal = _shifted(signal, settings.shift_samples)
        if settings.gain:
            signal = signal * (
                1.0 + settings.gain * (2.0 * torch.rand(len(signal), 1, device=signal.device) - 1.0)
            )
        if settings.noise_sd:
            signal = signal + settings.noise_sd * torch.randn_like(signal)
        signals[name] = signal
    return Batch(signals, batch.present, batch.technology, batch.hand)


def _shifted(signal: Tensor, most: int) -> Tensor:
    """Shift each row by up to `most` samples either way, its ends held."""
    points = signal.shape[1]
    shift = torch.randint(-most, most + 1, (len(signal), 1), device=signal.device)
    places = torch.arange(points, device=signal.device)
    return torch.gather(signal, 1, (places + shift).clamp(0, points - 1))
