"""What decides how a SIMS model is trained, and the named settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT = "default"
FEWEST_CELLS = 3
"""A gene seen in fewer training cells is not used by the networks: its variance says nothing."""

_GOING_ON_EPOCHS, _GOING_ON_RATE = 0.25, 0.25
LARGEST_BATCH, ENOUGH_EPOCHS = 512, 4
LEAST_MASKING, MOST_MASKING, MASKED_GENES = 0.1, 0.5, 1000


@dataclass(frozen=True)
class Shape:
    """The sizes of a TabNet.

    Attributes
    ----------
    n_d, n_a : int
        Width of what decides, and of what chooses the next mask.
    n_steps : int
    gamma : float
        How often a gene may be chosen: 1 is once, more is more freely.
    n_shared, n_independent : int
        Gated layers that all steps share, and that each step has for itself.
    mask : str
        ``sparsemax`` or ``entmax15``.
    virtual_batch_size : int
    momentum : float
        Of the ghost batch norms.
    mask_start_gain : float
        Gain of the batch norm in front of the mask at the start. At 1 most genes are closed before
        training has tested them; near 0 all genes start open and the mask sharpens in training.
    gene_masking : float
        Share of the genes that each training cell is not shown, anew each time; the rest is scaled up.
    skip : bool
        Whether a linear layer leads from the genes straight to the logits as well.
    """

    n_d: int = 8
    n_a: int = 8
    n_steps: int = 3
    gamma: float = 1.3
    n_shared: int = 2
    n_independent: int = 2
    mask: str = "sparsemax"
    virtual_batch_size: int = 128
    momentum: float = 0.02
    mask_start_gain: float = 1.0
    gene_masking: float = 0.0
    skip: bool = False

    @property
    def width(self) -> int:
        return self.n_d + self.n_a


class SimsSettings(BaseModel):
    """How a SIMS model is built and trained.

    The defaults are one wide step whose mask starts open, trained with random gene masking, as an
    ensemble, and averaged with a logistic regression. They were chosen by validation inside training
    folds; the published settings are the presets ``released-*``. `gene_masking` is by default half of the
    genes, and less in panels of fewer than 500, where each gene says more: see `masking_for`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_d: int = Field(64, ge=1, le=1024)
    """Width of the part of a step that decides on the class."""
    n_a: int = Field(16, ge=1, le=1024)
    """Width of the part of a step that chooses the next mask."""
    n_steps: int = Field(1, ge=1, le=20)
    """Decision steps of a network."""
    gamma: float = Field(1.3, ge=1.0, le=10.0)
    """How often a gene may be chosen: 1 is once, more is more freely."""
    n_shared: int = Field(2, ge=0, le=10)
    """Gated layers that all steps share."""
    n_independent: int = Field(2, ge=0, le=10)
    """Gated layers that each step has for itself."""
    mask: Literal["sparsemax", "entmax15"] = "sparsemax"
    """How masks become sparse."""
    mask_start_gain: float = Field(0.03, gt=0.0, le=10.0)
    """Gain of the batch norm in front of the mask at the start. At 1 most genes are closed before training has tested
    them; near 0 all genes start open and the mask sharpens in training.
    """
    virtual_batch_size: int = Field(128, ge=2)
    """Cells of a ghost batch norm."""
    momentum: float = Field(0.02, gt=0.0, le=1.0)
    """Momentum of the ghost batch norms."""
    input_momentum: float = Field(0.01, gt=0.0, le=1.0)
    """Momentum of the batch norm of the input."""
    sparsity: float = Field(1e-3, ge=0.0)
    """Weight of the entropy of the masks in the loss."""
    gene_masking: float | None = Field(None, ge=0.0, lt=1.0)
    """Share of the genes that each training cell is not shown, anew each time. By default 0.5, and less in panels of
    fewer than 500 genes.
    """
    skip: bool = True
    """Whether a linear layer leads from the genes straight to the logits as well."""
    skip_penalty: float = Field(0.02, ge=0.0)
    """Weight of the squared weights of the linear layer in the loss."""
    members: int = Field(3, ge=1, le=100)
    """Networks of the ensemble."""
    linear_share: float | None = Field(None, ge=0.0, le=1.0)
    """Weight of the logistic regression in the average with the networks. By default it is chosen on validation cells;
    without these it is one half.
    """

    most_variable_genes: int | None = Field(4000, ge=2)
    """How many of the most variable genes the networks see; `null` for all."""
    scaling: Literal["z-score", "none"] = "z-score"
    """How genes are scaled."""
    row_norm: Literal["none", "l2"] = "none"
    """`l2` gives the row of each cell unit length."""

    epochs: int = Field(60, ge=1)
    """The most epochs."""
    most_steps: int | None = Field(1500, ge=1)
    """The most training steps: larger references are trained for fewer epochs, of which there is at least one. So that
    there are four, batches become larger, up to 512 cells. `null` sets no limit.
    """
    batch_size: int = Field(64, ge=2)
    """Cells of a batch; more where `most_steps` asks for it."""
    learning_rate: float = Field(0.02, gt=0.0)
    """The highest learning rate."""
    schedule: Literal["one-cycle", "plateau"] = "one-cycle"
    """How the learning rate changes: `one-cycle`, or lower at each `plateau` of the validation loss."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Weight decay of the optimiser."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Largest norm of the gradient."""
    average_decay: float = Field(0.99, ge=0.0, lt=1.0)
    """Decay of the moving average of the weights; 0 for none."""
    exact_statistics: bool = True
    """Whether the batch norms' statistics are computed over all training cells at the end."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` gives all classes the same weight in the loss."""
    most_per_class: int | None = Field(None, ge=1)
    """The most training cells of each class; by default all."""
    patience: int | None = Field(None, ge=1)
    """Epochs without an improvement on validation cells after which a training stops; by default it does not."""
    pretrain_epochs: int = Field(0, ge=0)
    """Epochs of pretraining on training cells and those without a label."""

    @model_validator(mode="after")
    def _layers(self) -> SimsSettings:
        if self.n_shared + self.n_independent == 0:
            raise ValueError("n_shared and n_independent are both 0: a step needs at least one gated layer.")
        if self.most_steps is not None and self.schedule == "plateau":
            raise ValueError("most_steps shortens the schedule one-cycle; with plateau set it to null.")
        return self

    def shape(self, n_genes: int) -> Shape:
        """Return the sizes of one network that sees `n_genes` genes."""
        sizes = {name: getattr(self, name) for name in Shape.__dataclass_fields__}
        return Shape(**(sizes | {"gene_masking": self.masking_for(n_genes)}))

    def masking_for(self, n_genes: int) -> float:
        """Return the share of genes that are hidden from a training cell."""
        if self.gene_masking is not None:
            return self.gene_masking
        return min(max(n_genes / MASKED_GENES, LEAST_MASKING), MOST_MASKING)

    def epochs_for(self, n_cells: int) -> int:
        """Return the number of epochs for `n_cells` training cells: fewer on large references."""
        if self.most_steps is None:
            return self.epochs
        steps_per_epoch = max(n_cells // self.batch_for(n_cells), 1)
        return max(min(self.epochs, self.most_steps // steps_per_epoch), 1)

    def going_on(self, n_cells: int) -> SimsSettings:
        """Return the settings by which trained networks go on with `n_cells` cells: shorter, at a lower rate."""
        changes = {
            "epochs": max(round(_GOING_ON_EPOCHS * self.epochs_for(n_cells)), 1),
            "learning_rate": _GOING_ON_RATE * self.learning_rate,
            "schedule": "one-cycle",
            "batch_size": self.batch_for(n_cells),
            "most_steps": None,
            "pretrain_epochs": 0,
        }
        return self.model_copy(update=changes)

    def batch_for(self, n_cells: int) -> int:
        """Return the cells of a batch for `n_cells` training cells: more on large references, for more epochs."""
        if self.most_steps is None:
            return self.batch_size
        epochs = min(self.epochs, ENOUGH_EPOCHS)
        return max(min(math.ceil(epochs * n_cells / self.most_steps), LARGEST_BATCH), self.batch_size)

    def batch_note(self, n_cells: int, tried: Sequence[int] = ()) -> str:
        """Say how many cells batches have, where these are more than was asked for; empty otherwise.

        Parameters
        ----------
        n_cells : int
            Of the training.
        tried : sequence of int, optional
            Sizes that a sweep tries, in place of `batch_size`.
        """
        asked = min(tried or (self.batch_size,))
        least = self.model_copy(update={"batch_size": 2}).batch_for(n_cells)
        if asked >= least:
            return ""
        return (
            f"Batches have {least} cells at least, so that {n_cells:,} training cells are shown more often within"
            f" `most_steps: {self.most_steps}`: `batch_size: {asked}` does the same as {least}. `most_steps: null` sets"
            " no limit."
        )


_RELEASED: dict[str, Any] = {
    "n_steps": 3,
    "mask_start_gain": 1.0,
    "gene_masking": 0.0,
    "skip": False,
    "members": 1,
    "linear_share": 0.0,
    "most_variable_genes": None,
    "scaling": "none",
    "row_norm": "l2",
    "epochs": 500,
    "most_steps": None,
    "batch_size": 32,
    "learning_rate": 0.01,
    "schedule": "plateau",
    "weight_decay": 0.01,
    "average_decay": 0.0,
    "exact_statistics": False,
    "patience": 50,
}

PRESETS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "released-tall": _RELEASED | {"n_d": 8, "n_a": 8},
    "released-grande": _RELEASED | {"n_d": 32, "n_a": 32},
    "released-venti": _RELEASED | {"n_d": 64, "n_a": 64},
    "released-trenta": _RELEASED | {"n_d": 128, "n_a": 128},
}
"""Name -> what differs from the defaults. Sizes of the released ones: the published package's presets;
learning rate, weight decay and batch size: its defaults; schedule and stopping: the paper's text."""

RELEASED_WARNING = (
    "The released settings lose about 20 points of accuracy to a logistic regression on references of fewer"
    " than some thousand cells: rows of unit length meet a batch norm whose running variance starts at 1,"
    " and masks close before genes have been tested. Use preset: default unless you reproduce the paper."
)


def settings_of(preset: str, changes: dict[str, Any] | None = None) -> SimsSettings:
    """Return a preset's settings, with changes.

    Raises
    ------
    KeyError
        If there is no such preset.
    pydantic.ValidationError
        If a change names no setting, or is out of range.
    """
    return SimsSettings(**(PRESETS[preset] | (changes or {})))
