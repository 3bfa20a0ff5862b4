"""The networks of a SIMS model: from the values of cells to the logits of each member."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from neurofleet.learners.cells.gene_statistics import GeneStatistics
from neurofleet.learners.learner_errors import CellsRefused
from neurofleet.learners.sims.tabnet import TabNet, TabNetStep
from neurofleet.learners.sims.tabnet_settings import SimsSettings

FEWEST_CELLS = 3
"""A gene seen in fewer cells of the reference is not used: its variance says nothing."""

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
    each = torch.stack([torch.log_softmax(one.float(), -1) for one in logits])
    return torch.logsumexp(each, 0) - torch.log(torch.tensor(float(len(logits))))
