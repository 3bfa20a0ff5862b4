"""Sparsemax: the Euclidean projection of each row onto the probability simplex."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_MOST_STEPS = 60


def sparsemax(scores: Tensor) -> Tensor:
    """Project each row of scores onto the simplex: sparse, non-negative, of sum 1.

    Never computed in less than float32, whatever the precision around it: the support is decided by
    differences that half precision does not resolve.

    Parameters
    ----------
    scores : Tensor, shape (..., genes)

    Returns
    -------
    Tensor of float32 (of float64 for scores of float64), shape (..., genes)

    References
    ----------
    Martins and Astudillo, "From softmax to sparsemax", ICML 2016, equations 2 and 14.
    """
    with torch.autocast(scores.device.type, enabled=False):
        return _Sparsemax.apply(scores if scores.dtype == torch.float64 else scores.float())


def threshold(scores: Tensor) -> Tensor:
    """Return tau with sum(max(scores - tau, 0)) = 1 in each row, shape (..., 1), for rows of maximum 0.

    Newton's steps on that piecewise linear, convex sum, from below: each step drops entries from the
    support and none comes back, so the end is exact and reached in a few passes, without a sort.
    """
    tau = torch.full_like(scores[..., :1], -1.0)
    size = None
    for _ in range(_MOST_STEPS):
        above = (scores - tau).clamp_(min=0.0)
        total = above.sum(-1, keepdim=True)
        now = above.sign_().sum(-1, keepdim=True)
        if size is not None and torch.equal(now, size):
            break
        size = now
        tau = tau + (total - 1.0) / now
    return tau


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        scores = scores - scores.amax(-1, keepdim=True)
        projected = (scores - threshold(scores)).clamp_(min=0.0)
        ctx.save_for_backward(projected)
        return projected

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (projected,) = ctx.saved_tensors
        support = projected.sign()
        on_support = gradients[0] * support
        mean = on_support.sum(-1, keepdim=True) / support.sum(-1, keepdim=True)
        return on_support.addcmul_(support, mean, value=-1.0)
