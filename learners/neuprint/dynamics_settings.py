"""What decides how a NeuPRINT model is trained, and the named settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT = "default"

Dynamics = Literal["linear", "bilinear", "nonlinear", "gru", "transformer"]
CovariatePart = Literal["behaviour", "population", "centre", "surround"]


class NeuprintSettings(BaseModel):
    """How a NeuPRINT model is built, trained, and asked for the Phi of new neurons.

    The default dynamics is bilinear: the most accurate on the sets measured, and by far the fastest.
    ``lags`` frames of the past enter the filters (linear, bilinear, nonlinear); the transformer sees a step
    itself and ``context`` - 1 steps back; the GRU everything since the start of its window.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dynamics: Dynamics = "bilinear"
    """`bilinear`: Phi scales a linear filter; `linear`: Phi is an offset, as in the paper; `nonlinear`; `gru`;
    `transformer` with a banded causal mask.
    """
    phi: int = Field(16, ge=1, le=1024)
    """Size of Phi."""
    loss: Literal["mse", "nll"] = "mse"
    """`mse`, or `nll` (Gaussian), over valid targets only."""
    parts: tuple[CovariatePart, ...] = ("behaviour", "population")
    """What the dynamics sees beside a neuron's own past."""
    behaviour: tuple[str, ...] | None = None
    """Names of the behaviour channels to use; by default all."""
    delta_um: float | None = Field(None, gt=0.0)
    """Radius of the centre in µm; needed for the parts `centre` and `surround`."""

    lags: int = Field(8, ge=1, le=200)
    """Frames of the past that enter the filters of the dynamics `linear`, `bilinear` and `nonlinear`."""
    mean_form: bool = False
    """Of `linear` dynamics: the paper's mean over lags and inputs, instead of a sum."""
    hidden: int = Field(32, ge=1, le=2048)
    """Width of the hidden layers."""
    context: int = Field(4, ge=1, le=200)
    """Of the `transformer`: the step itself and the steps before it that a step sees."""
    heads: int = Field(2, ge=1, le=64)
    """Of the `transformer`: attention heads."""
    feed_forward: int = Field(128, ge=1, le=8192)
    """Of the `transformer`: width of the feed-forward layers."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Of the `transformer`: dropout."""
    hiding: Literal["each", "random"] = "each"
    """Of the `transformer`: `each` predicts every step with nothing hidden but the step itself, as in validation and
    for new neurons; `random` hides a part of the entries, `mask_share`, from themselves and from the steps after them,
    as in the paper, and predicts these.
    """
    mask_share: float = Field(0.25, gt=0.0, le=1.0)
    """Share of the entries that `hiding: random` hides."""

    window: int = Field(200, ge=2)
    """Frames that are read at once."""
    warm_up: int = Field(16, ge=1)
    """How many frames at the start of a window are no targets."""
    train_share: float = Field(0.75, gt=0.0, le=1.0)
    """The part of the frames, from the first on, that is trained on; the rest validates."""
    batch_neurons: int = Field(128, ge=1)
    """Neurons of a batch, all of one session."""
    batch_windows: int = Field(2, ge=1)
    """Windows of a batch, all of one session."""
    epochs: int = Field(10, ge=1)
    """Epochs of the training."""
    least_steps: int = Field(100, ge=0)
    """There are more epochs where recordings are so short that these have fewer steps."""
    learning_rate: float = Field(0.01, gt=0.0)
    """Highest learning rate of the dynamics."""
    phi_rate: float = Field(0.03, gt=0.0)
    """Highest learning rate of Phi."""
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    """How the learning rates change."""
    clip_norm: float = Field(1.0, gt=0.0)
    """Largest norm of the gradient."""
    phi_penalty: float = Field(1e-3, ge=0.0)
    """Weight of the squared Phi of a neuron in the loss."""
    filter_penalty: float = Field(1e-3, ge=0.0)
    """Weight of the squared weights of linear and bilinear filters in the loss."""

    inference_steps: int = Field(60, ge=1)
    """Steps of Adam for the Phi of new neurons, with frozen dynamics."""
    inference_rate: float = Field(0.05, gt=0.0)
    """Learning rate for the Phi of new neurons."""
    inference_neurons: int = Field(4096, ge=1)
    """How many neurons' Phi are fitted side by side; does not change them."""

    @model_validator(mode="after")
    def _fits(self) -> NeuprintSettings:
        if self.hidden % self.heads:
            raise ValueError(f"hidden ({self.hidden}) is not a multiple of heads ({self.heads}).")
        needed = max(self.lags, self.context - 1)
        if self.warm_up < needed:
            raise ValueError(f"warm_up is {self.warm_up}; lags and context need at least {needed}.")
        if self.window <= self.warm_up:
            raise ValueError(f"A window of {self.window} frames has no target after a warm_up of {self.warm_up}.")
        if self.mean_form and self.dynamics != "linear":
            raise ValueError(f"mean_form is a form of linear dynamics; dynamics is {self.dynamics}.")
        if self.is_quadratic and self.phi_penalty == 0.0:
            raise ValueError("Linear and bilinear dynamics with loss mse need a phi_penalty above 0.")
        if self.delta_um is None and {"centre", "surround"} & set(self.parts):
            raise ValueError("The parts centre and surround need delta_um, the radius of the centre.")
        if self.behaviour is not None and "behaviour" not in self.parts:
            raise ValueError("behaviour names channels, but the part behaviour is not among the parts.")
        return self

    @property
    def seen(self) -> list[str]:
        """What the dynamics sees beside the own past; behaviour by channel where channels are named."""
        channels = self.behaviour if self.behaviour is not None else ("behaviour",)
        return [name for part in self.parts for name in (channels if part == "behaviour" else (part,))]

    @property
    def is_quadratic(self) -> bool:
        """Whether the loss is quadratic in a neuron's filter, so that second moments say all about data."""
        return self.dynamics in ("linear", "bilinear") and self.loss == "mse"


PRESETS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "gru": {"dynamics": "gru", "epochs": 4},
    "transformer": {"dynamics": "transformer", "epochs": 4},
    "paper": {
        "dynamics": "transformer",
        "phi": 64,
        "hidden": 76,
        "feed_forward": 2048,
        "context": 2,
        "dropout": 0.1,
        "hiding": "random",
        "batch_neurons": 512,
        "epochs": 400,
        "least_steps": 0,
        "learning_rate": 1e-3,
        "phi_rate": 1e-3,
        "schedule": "constant",
        "phi_penalty": 0.0,
        "inference_steps": 10_000,
        "inference_rate": 1e-3,
    },
}
"""Name -> what differs from the defaults. The paper's sizes: table 7 and the released code's widths."""


def settings_of(preset: str, changes: dict[str, Any] | None = None) -> NeuprintSettings:
    """Return a preset's settings, with changes.

    Raises
    ------
    KeyError
        If there is no such preset.
    pydantic.ValidationError
        If a change names no setting, or is out of range.
    """
    return NeuprintSettings(**(PRESETS[preset] | (changes or {})))
