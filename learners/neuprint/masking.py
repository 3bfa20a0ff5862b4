"""Hiding entries of activity, as in masked language models, for the transformer's training."""

from __future__ import annotations

import torch
from torch import Tensor

ZERO_SHARE = 0.8
NOISE_SHARE = 0.1


def hide(activity: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return activity with some entries hidden, and which: both (rows, steps).

    A `share` of the entries is chosen, and the last step of every row always. Of the chosen, 80 % become 0,
    10 % standard normal noise, and 10 % stay (NeuPRINT, appendix E.1; the released code means the last
    step, too, but hides the last neuron).
    """
    chosen = torch.rand_like(activity) < share
    chosen[:, -1] = True
    kind = torch.rand_like(activity)
    shown = activity.masked_fill(chosen & (kind < ZERO_SHARE), 0.0)
    noisy = chosen & (kind >= ZERO_SHARE) & (kind < ZERO_SHARE + NOISE_SHARE)
    return torch.where(noisy, torch.randn_like(activity), shown), chosen
