"""Ghost batch normalisation: batch norm over pieces of a batch."""

from __future__ import annotations

import math

from torch import Tensor, cat, nn


class GhostBatchNorm(nn.Module):
    """Normalise a batch piece by piece, each with its own mean and variance, by one batch norm layer.

    In evaluation it is ordinary batch norm with the running statistics.

    Parameters
    ----------
    width : int
    virtual_batch_size : int
        A batch of B rows is cut into ceil(B / virtual_batch_size) pieces of nearly equal size.
    momentum : float
    gain : float
        What the scale of each column starts from.

    References
    ----------
    Hoffer, Hubara and Soudry, "Train longer, generalize better", NeurIPS 2017, algorithm 1.
    """

    def __init__(self, width: int, virtual_batch_size: int, momentum: float, gain: float = 1.0) -> None:
        super().__init__()
        self.virtual_batch_size = virtual_batch_size
        self.norm = nn.BatchNorm1d(width, momentum=momentum)
        nn.init.constant_(self.norm.weight, gain)

    def forward(self, rows: Tensor) -> Tensor:
        pieces = math.ceil(rows.shape[0] / self.virtual_batch_size)
        if pieces == 1 or not self.training:
            return self.norm(rows)
        return cat([self.norm(piece) for piece in rows.chunk(pieces)])
