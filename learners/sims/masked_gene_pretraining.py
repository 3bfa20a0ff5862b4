"""Self-supervised pretraining: networks learn to fill in hidden genes, of cells that need no label.

References
----------
Arik and Pfister, AAAI 2021, section 3.4. The SIMS paper finds it unnecessary; the released package offers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from neurofleet.learners.cells.cell_stream import CellBatch
from neurofleet.learners.sims.tabnet import FeatureTransformer, GeneInputs, TabNetEnsemble, TabNetStep, gated_linears
from neurofleet.learners.sims.tabnet_settings import Shape, SimsSettings

HIDDEN_SHARE = 0.2
_LEARNING_RATE = 0.02
_WEIGHT_DECAY = 1e-5
_VALIDATION_SEED = 0


class Decoder(nn.Module):
    """Genes from what each step has decided: a feature transformer a step, summed, and a linear layer."""

    def __init__(self, n_genes: int, shape: Shape) -> None:
        super().__init__()
        decoder_shape = replace(shape, n_a=0, n_shared=1, n_independent=1)
        self.shared = nn.ModuleList(gated_linears(decoder_shape.n_d, decoder_shape.width, decoder_shape.n_shared))
        self.steps = nn.ModuleList(
            FeatureTransformer(decoder_shape.n_d, self.shared, decoder_shape) for _ in range(shape.n_steps)
        )
        self.out = nn.Linear(decoder_shape.n_d, n_genes, bias=False)

    def forward(self, steps: list[TabNetStep]) -> Tensor:
        decided = [transform(step.decision) for transform, step in zip(self.steps, steps, strict=True)]
        return self.out(torch.stack(decided).sum(0))


class MaskedGenePretraining(pl.LightningModule):
    """Members that reconstruct the genes hidden from them.

    A batch is a `CellBatch` of log-normalised values of the genes used, and labels, which are not looked at.
    Logs ``train_loss`` and ``val_loss``, both of the hidden genes alone; those of validation cells are the
    same in every epoch.

    Parameters
    ----------
    inputs : GeneInputs
    settings : SimsSettings
    """

    def __init__(self, inputs: GeneInputs, settings: SimsSettings) -> None:
        super().__init__()
        # The head is of no use here; two classes are the fewest.
        self.networks = TabNetEnsemble(inputs, 2, settings)
        self.decoders = nn.ModuleList(
            Decoder(len(inputs.columns), settings.shape(len(inputs.columns))) for _ in self.networks.members
        )

    def training_step(self, batch: tuple[CellBatch, Tensor], _: int) -> Tensor:
        seen = self.networks.look(batch[0].dense())
        hidden = torch.bernoulli(torch.full_like(seen, HIDDEN_SHARE))
        loss = self._loss(seen, hidden)
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=len(seen), sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[CellBatch, Tensor], index: int) -> None:
        seen = self.networks.look(batch[0].dense())
        generator = torch.Generator().manual_seed(_VALIDATION_SEED + index)
        hidden = (torch.rand(seen.shape, generator=generator) < HIDDEN_SHARE).to(seen)
        self.log("val_loss", self._loss(seen, hidden), on_epoch=True, batch_size=len(seen), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)

    def _loss(self, seen: Tensor, hidden: Tensor) -> Tensor:
        losses = []
        for member, decode in zip(self.networks.members, self.decoders, strict=True):
            shown = member.input_norm((1.0 - hidden) * seen)
            steps = member.encoder(shown, prior=1.0 - hidden)
            losses.append(reconstruction_loss(decode(steps), seen, hidden))
        return torch.stack(losses).mean()


def reconstruction_loss(reconstructed: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean squared error of hidden genes, each in units of its variance in the batch.

    A gene that does not vary in the batch takes the mean variance, and 1 where none varies.

    Parameters
    ----------
    found, values : Tensor, shape (cells, genes)
    hidden : Tensor, shape (cells, genes)
        1 where a gene was hidden, else 0.
    """
    variance = values.var(0, unbiased=False)
    mean = variance.mean()
    variance = torch.where(variance > 0, variance, torch.where(mean > 0, mean, torch.ones_like(mean)))
    errors = hidden * (reconstructed - values).square() / variance
    return (errors.sum(1) / (hidden.sum(1) + 1e-9)).mean()


def encoder_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a training starts from after a pretraining: all tensors of encoders and their input norms.

    Parameters
    ----------
    weights : mapping
        The state of a `MaskedGenePretraining`.
    """
    prefix = "networks."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix) and (".encoder." in name or ".input_norm." in name)
    }


def start_from(networks: TabNetEnsemble, start: Mapping[str, Tensor]) -> None:
    """Set encoders and input norms of networks; heads and linear layers stay as they are.

    Raises
    ------
    ValueError
        If a tensor of theirs is not among `start`, or has another shape.
    """
    encoder = {n: t for n, t in networks.state_dict().items() if ".encoder." in n or ".input_norm." in n}
    wrong = [
        n
        for n in encoder.keys() | start.keys()
        if n not in encoder or n not in start or encoder[n].shape != start[n].shape
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(encoder)} tensors of the pretrained encoder do not fit, such as"
            f" {sorted(wrong)[0]}. Pretrain with the same settings and genes."
        )
    networks.load_state_dict(dict(start), strict=False)
