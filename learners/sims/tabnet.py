"""TabNet: a network that chooses a few inputs for each row, step by step, by sparsemax masks.

References
----------
Arik and Pfister, "TabNet: Attentive Interpretable Tabular Learning", AAAI 2021, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, cat, nn

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.normalisation import GeneStatistics
from neurofleet.learners.sims.tabnet_settings import FEWEST_CELLS, Shape, SimsSettings

_MOST_STEPS = 60
_WIDE = 256
_LEAST_INTEGER = -(2**63)


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
    support and none comes back, so the end is exact and reached in a few passes, without a sort. Wide rows
    start from the threshold of the largest entries of their pieces, which is never above that of all.
    """
    width = scores.shape[-1]
    if width < _WIDE:
        tau = torch.full_like(scores[..., :1], -1.0)
    else:
        pieces = math.isqrt(width)
        even = width // pieces * pieces
        largest = scores[..., :even].unflatten(-1, (pieces, -1)).amax(-1)
        tau = threshold(torch.cat([largest, scores[..., even:]], -1))
    size = None
    above = torch.empty_like(scores)
    for _ in range(_MOST_STEPS):
        torch.sub(scores, tau, out=above).clamp_(min=0.0)
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
        if not self.training:
            return self.norm(rows)
        pieces = math.ceil(rows.shape[0] / self.virtual_batch_size)
        if pieces == 1:
            return self.norm(rows)
        return cat([self.norm(piece) for piece in rows.chunk(pieces)])


@dataclass(frozen=True)
class TabNetStep:
    """What one step has decided, and the mask it looked through.

    Attributes
    ----------
    decision : Tensor, shape (rows, n_d)
    mask : Tensor, shape (rows, genes)
    """

    decision: Tensor
    mask: Tensor


class GatedLayer(nn.Module):
    """Linear layer, ghost batch norm, gate."""

    def __init__(self, linear: nn.Linear, shape: Shape) -> None:
        super().__init__()
        self.linear = linear
        self.norm = GhostBatchNorm(linear.out_features, shape.virtual_batch_size, shape.momentum)

    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.glu(self.norm(self.linear(rows)))


class FeatureTransformer(nn.Module):
    """Gated layers whose linear weights are shared between steps, then this step's own.

    Each use of a shared linear layer has a batch norm of its own.
    """

    def __init__(self, n_inputs: int, shared: nn.ModuleList, shape: Shape) -> None:
        super().__init__()
        first = n_inputs if not len(shared) else shape.width
        independent = gated_linears(first, shape.width, shape.n_independent)
        self.shared = nn.ModuleList(GatedLayer(linear, shape) for linear in shared)
        self.own = nn.ModuleList(GatedLayer(linear, shape) for linear in independent)

    def forward(self, rows: Tensor) -> Tensor:
        layers = [*self.shared, *self.own]
        rows = layers[0](rows)
        for layer in layers[1:]:
            rows = (rows + layer(rows)) * math.sqrt(0.5)
        return rows


class AttentiveTransformer(nn.Module):
    """Choose genes from what the step before has seen, and from what is still free to be chosen."""

    def __init__(self, n_genes: int, shape: Shape) -> None:
        super().__init__()
        self.linear = nn.Linear(shape.n_a, n_genes, bias=False)
        nn.init.xavier_normal_(self.linear.weight, gain=_plain_gain(shape.n_a, n_genes))
        self.norm = GhostBatchNorm(n_genes, shape.virtual_batch_size, shape.momentum, shape.mask_start_gain)
        self.project = mask_function(shape.mask)

    def forward(self, attention: Tensor, prior: Tensor | None, closed: Tensor | None) -> Tensor:
        scores = self.norm(self.linear(attention))
        if prior is not None:
            scores = scores * prior
        if closed is not None:
            scores = scores.masked_fill(closed, -math.inf)
        return self.project(scores)


class Encoder(nn.Module):
    """The steps of a TabNet on normalised input."""

    def __init__(self, n_genes: int, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.shared = nn.ModuleList(gated_linears(n_genes, shape.width, shape.n_shared))
        self.splitter = FeatureTransformer(n_genes, self.shared, shape)
        self.steps = nn.ModuleList(FeatureTransformer(n_genes, self.shared, shape) for _ in range(shape.n_steps))
        self.attention = nn.ModuleList(AttentiveTransformer(n_genes, shape) for _ in range(shape.n_steps))

    def forward(self, rows: Tensor, prior: Tensor | None = None, closed: Tensor | None = None) -> list[TabNetStep]:
        """Return what each step decides.

        Parameters
        ----------
        rows : Tensor, shape (rows, genes)
        prior : Tensor, shape (rows, genes), optional
            What the scores of the first mask are multiplied by.
        closed : Tensor of bool, shape (genes,), optional
            Genes that no mask may choose.
        """
        taken = []
        attention = self.splitter(rows)[:, self.shape.n_d :]
        for number, (transform, attend) in enumerate(zip(self.steps, self.attention, strict=True)):
            mask = attend(attention, prior, closed)
            seen = transform(mask * rows)
            taken.append(TabNetStep(torch.relu(seen[:, : self.shape.n_d]), mask))
            attention = seen[:, self.shape.n_d :]
            if number + 1 < self.shape.n_steps:
                left = self.shape.gamma - mask
                prior = left if prior is None else prior * left
        return taken


class HideGenes(nn.Module):
    """Set random entries to 0 while training, and scale the others up: dropout by random bytes.

    Eight entries take one draw of the generator where torch's dropout takes eight, which on a CPU is a seventh of a
    training step. Shares are rounded to multiples of 1/256.

    Parameters
    ----------
    share : float
        Of the entries that are hidden.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.hidden = min(round(256 * share), 255)

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training or not self.hidden:
            return rows
        drawn = torch.empty(-(-rows.numel() // 8), dtype=torch.int64, device=rows.device).random_(_LEAST_INTEGER, None)
        shown = drawn.view(torch.uint8)[: rows.numel()].view(rows.shape) >= self.hidden
        return rows * (shown.to(rows.dtype) * (256 / (256 - self.hidden)))


class TabNet(nn.Module):
    """Logits of classes from genes.

    Parameters
    ----------
    n_genes, n_classes : int
    shape : Shape
    input_momentum : float
        Of the batch norm over the genes, the only one that is not cut into pieces.
    """

    def __init__(self, n_genes: int, n_classes: int, shape: Shape, input_momentum: float = 0.01) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm1d(n_genes, momentum=input_momentum)
        self.hide = HideGenes(shape.gene_masking)
        self.encoder = Encoder(n_genes, shape)
        self.head = nn.Linear(shape.n_d, n_classes, bias=False)
        nn.init.xavier_normal_(self.head.weight, gain=_plain_gain(shape.n_d, n_classes))
        self.skip = nn.Linear(n_genes, n_classes) if shape.skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)
            nn.init.zeros_(self.skip.bias)

    def forward(self, rows: Tensor, closed: Tensor | None = None) -> tuple[Tensor, list[TabNetStep]]:
        """Return logits (rows, classes), and the steps that led to them."""
        rows = self.hide(self.input_norm(rows))
        steps = self.encoder(rows, closed=closed)
        logits = self.head(torch.stack([step.decision for step in steps]).sum(0))
        return logits if self.skip is None else logits + self.skip(rows), steps


def gated_linears(n_inputs: int, width: int, number: int) -> list[nn.Linear]:
    """Return the linear layers of gated layers: the first from n_inputs, the others from width."""
    linears = []
    for index in range(number):
        linear = nn.Linear(n_inputs if index == 0 else width, 2 * width, bias=False)
        gain = math.sqrt((linear.in_features + linear.out_features) / math.sqrt(linear.in_features))
        nn.init.xavier_normal_(linear.weight, gain=gain)
        linears.append(linear)
    return linears


def mask_entropy(steps: list[TabNetStep]) -> Tensor:
    """Return the mean entropy of the masks, over rows and steps: the sparsity term of the loss."""
    return torch.stack([_Entropy.apply(step.mask) for step in steps]).mean()


def mask_function(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function that turns scores into a mask, by name.

    Raises
    ------
    ValueError
        If the name is neither ``sparsemax`` nor ``entmax15``.
    """
    if name == "sparsemax":
        return sparsemax
    if name == "entmax15":
        from entmax import entmax15

        return entmax15
    raise ValueError(f'The mask is "sparsemax" or "entmax15"; found "{name}".')


def _plain_gain(n_inputs: int, n_outputs: int) -> float:
    return math.sqrt((n_inputs + n_outputs) / math.sqrt(4 * n_inputs))


class _Entropy(torch.autograd.Function):
    """Mean over rows of -sum(m log m), of which a closed gene has no part, nor a gradient."""

    @staticmethod
    def forward(ctx: Any, mask: Tensor) -> Tensor:
        logarithm = mask.clamp(min=torch.finfo(mask.dtype).tiny).log_()
        ctx.save_for_backward(mask, logarithm)
        return -(mask * logarithm).sum(-1).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        mask, logarithm = ctx.saved_tensors
        return (logarithm + 1.0).mul_(mask.sign()).mul_(-gradients[0] / mask.shape[0])


_SD_FLOOR_QUANTILE = 0.05
_CLIP = 10.0


@dataclass(frozen=True)
class GeneInputs:
    """Which genes the networks see, and how these are scaled; all from the training cells.

    Attributes
    ----------
    columns : array of int, shape (n_used,)
        The genes, as columns of the reference.
    mean, sd : array of float32, shape (n_used,)
        What is subtracted from their log-normalised values, and what these are divided by.
    """

    columns: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def inputs_from(settings: SimsSettings, statistics: GeneStatistics) -> GeneInputs:
    """Choose the genes that networks see, and how they are scaled.

    Raises
    ------
    CellsRefused
        If too few genes vary.
    """
    sd = statistics.sd
    usable = np.flatnonzero((statistics.n_expressing >= FEWEST_CELLS) & (sd > 0))
    if len(usable) < 2:
        raise CellsRefused(
            f"Only {len(usable)} of {len(sd)} genes are seen in at least {FEWEST_CELLS} of the"
            f" {statistics.n_cells} training cells and vary between them; at least 2 are needed."
        )
    if settings.most_variable_genes is not None and len(usable) > settings.most_variable_genes:
        order = np.argsort(-sd[usable], kind="stable")[: settings.most_variable_genes]
        usable = np.sort(usable[order])
    if settings.scaling == "z-score":
        floor = np.quantile(sd[usable], _SD_FLOOR_QUANTILE)
        shift, scale = statistics.mean[usable], np.maximum(sd[usable], floor)
    else:
        shift, scale = np.zeros(len(usable)), np.ones(len(usable))
    return GeneInputs(usable, shift.astype(np.float32), scale.astype(np.float32))


class TabNetEnsemble(nn.Module):
    """Members of an ensemble, which see the same genes and differ by their start and their gene masks.

    Parameters
    ----------
    inputs : GeneInputs
    n_classes : int
    settings : SimsSettings
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, inputs: GeneInputs, n_classes: int, settings: SimsSettings) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(inputs.mean))
        self.register_buffer("sd", torch.from_numpy(inputs.sd))
        self.row_norm = settings.row_norm == "l2"
        shape = settings.shape(len(inputs.columns))
        self.members = nn.ModuleList(
            TabNet(len(inputs.columns), n_classes, shape, settings.input_momentum) for _ in range(settings.members)
        )

    def look(self, values: Tensor) -> Tensor:
        """Return the input of every member, (cells, genes used), from log-normalised values of these."""
        seen = ((values - self.mean) / self.sd).clamp(-_CLIP, _CLIP)
        return nn.functional.normalize(seen, dim=-1) if self.row_norm else seen

    def forward(self, values: Tensor, closed: Tensor | None = None) -> tuple[list[Tensor], list[list[TabNetStep]]]:
        """Return logits (cells, classes) of each member, and the steps of each."""
        seen = self.look(values)
        logits, steps = zip(*(member(seen, closed) for member in self.members), strict=True)
        return list(logits), list(steps)


def mean_log_probabilities(logits: list[Tensor]) -> Tensor:
    """Return the logarithm of the members' mean probabilities, shape (cells, classes)."""
    each = torch.stack([torch.log_softmax(member_logits.float(), -1) for member_logits in logits])
    return torch.logsumexp(each, 0) - torch.log(torch.tensor(float(len(logits))))
