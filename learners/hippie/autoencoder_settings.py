"""What decides how a HIPPIE model is trained, and the named settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from neurofleet.learners.units.units import MODALITIES

DEFAULT = "default"


class HippieSettings(BaseModel):
    """How a HIPPIE network is built, pretrained and fine-tuned.

    The defaults are for a CPU and for some hundred labelled units; the preset ``paper`` has the sizes of
    the paper's method section. Beside the encoders, the class head sees hand features (`hand_features`)
    and, through one linear layer, the signals themselves (`wide`). The class of a unit never reaches an
    encoder, whatever the settings: with `class_in_decoder` the decoder alone sees it, and only for
    training units.

    The latent mean is trained by reconstruction alone: with ``reconstruction_weight`` 0 and without
    pretraining by reconstruction it is a random projection of the fusion vector.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    modalities: tuple[str, ...] | None = Field(None, min_length=1)
    """The signals that are used, of waveform, interspike intervals and autocorrelogram; by default all."""
    signals: Literal["relative", "min-max"] = "relative"
    """How signals are scaled before they enter the network."""
    architecture: Literal["compact", "resnet18"] = "compact"
    """Shape of the encoders."""
    width: int = Field(16, ge=4, le=512)
    """Channels of the first layer of an encoder."""
    features: int = Field(64, ge=2, le=4096)
    """Size of the vector that each encoder makes."""
    fusion: int = Field(128, ge=2, le=4096)
    """Size of the fusion vector."""
    latent: int = Field(20, ge=2, le=1024)
    """Size of the latent mean."""
    technology_size: int = Field(5, ge=1, le=64)
    """Size of the embedding of the recording technology."""
    technology_dropout: float = Field(0.3, ge=0.0, le=1.0)
    """Share of the training units whose technology is hidden."""

    objective: Literal["reconstruction", "contrastive"] = "reconstruction"
    """What pretraining minimises."""
    beta: float = Field(0.01, ge=0.0)
    """Weight of the Kullback-Leibler term."""
    pretrain_epochs: int = Field(10, ge=0)
    """Epochs of pretraining."""
    pretrain_batch_size: int = Field(128, ge=2)
    """Units of a batch of pretraining."""
    pretrain_learning_rate: float = Field(1e-3, gt=0.0)
    """Learning rate of pretraining."""
    pretrain_weight_decay: float = Field(0.01, ge=0.0)
    """Weight decay of pretraining."""
    adapt_epochs: int = Field(0, ge=0)
    """Epochs of pretraining that follow on the labelled units alone, after a network was pretrained on others."""

    hand_features: bool = True
    """Whether the class head sees hand features too."""
    wide: bool = True
    """Whether the class head sees the signals themselves, through one linear layer."""
    members: int = Field(3, ge=1, le=100)
    """Networks of the ensemble."""
    epochs: int = Field(30, ge=1)
    """Epochs of fine-tuning."""
    batch_size: int = Field(100, ge=2)
    """Units of a batch of fine-tuning."""
    learning_rate: float = Field(3e-3, gt=0.0)
    """Learning rate of fine-tuning."""
    weight_decay: float = Field(0.05, ge=0.0)
    """Weight decay of fine-tuning."""
    label_smoothing: float = Field(0.05, ge=0.0, lt=1.0)
    """Share of the label that is spread over all classes."""
    dropout: float = Field(0.2, ge=0.0, lt=1.0)
    """Dropout of the class head."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Largest norm of the gradient."""
    class_in_decoder: bool = False
    """Whether the decoder sees the class of training units; an encoder never does."""
    class_size: int = Field(5, ge=1, le=64)
    """Size of the embedding of the class in the decoder."""
    class_dropout: float = Field(0.3, ge=0.0, le=1.0)
    """Share of the training units whose class is hidden from the decoder."""
    reconstruction_weight: float = Field(0.0, ge=0.0)
    """Weight of the reconstruction in fine-tuning. With 0, and without a `pool:` for pretraining by reconstruction,
    nothing trains the latent mean: it is a random projection of the fusion vector. `mean_knn` is then left out of the
    table, and `mean_N` of the embeddings should not be used.
    """

    shift_samples: int = Field(2, ge=0, le=10)
    """Largest shift of a training waveform in samples."""
    gain: float = Field(0.1, ge=0.0, lt=1.0)
    """Largest relative change of the amplitude of a training signal."""
    noise_sd: float = Field(0.03, ge=0.0)
    """Standard deviation of the noise that is added to training signals."""

    @model_validator(mode="after")
    def _consistent(self) -> HippieSettings:
        strange = [name for name in self.modalities or () if name not in MODALITIES]
        if strange:
            raise ValueError(f"modalities are {', '.join(MODALITIES)}; found {', '.join(strange)}")
        if self.class_in_decoder and self.reconstruction_weight == 0.0:
            raise ValueError(
                "class_in_decoder tells the decoder the class in fine-tuning, which needs reconstruction_weight above 0"
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "paper": {
        "architecture": "resnet18",
        "width": 64,
        "features": 20,
        "fusion": 20,
        "latent": 10,
        "signals": "min-max",
        "hand_features": False,
        "wide": False,
        "members": 1,
        "beta": 1.0,
        "pretrain_epochs": 100,
        "pretrain_batch_size": 512,
        "epochs": 50,
        "batch_size": 128,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "label_smoothing": 0.0,
        "class_in_decoder": True,
        "reconstruction_weight": 1.0,
        "shift_samples": 0,
        "gain": 0.0,
        "noise_sd": 0.0,
    },
    "contrastive": {"objective": "contrastive"},
}
"""Name -> what differs from the defaults. ``paper``: sizes, rates and epochs of the HIPPIE paper's methods,
with the class in the decoder alone and a class head, which the paper does not have."""


def settings_of(preset: str, changes: dict[str, Any] | None = None) -> HippieSettings:
    """Return a preset's settings, with changes.

    Raises
    ------
    KeyError
        If there is no such preset.
    pydantic.ValidationError
        If a change names no setting, or is out of range.
    """
    return HippieSettings(**(PRESETS[preset] | (changes or {})))
