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

    Attributes
    ----------
    parts : tuple of str
        What the dynamics sees beside a neuron's own past, see `neurofleet.learners.neuprint.session_tensors`.
    behaviour : tuple of str, optional
        Names of the behaviour channels to use; all of them by default.
    delta_um : float, optional
        Radius of the centre. Needed for the parts ``centre`` and ``surround``.
    mean_form : bool
        Linear dynamics: the paper's mean over lags and inputs, instead of a sum.
    window, warm_up : int
        Frames that are read at once, and how many of them, at the start, are no targets.
    phi_penalty, filter_penalty : float
        Weights of the squared Phi of a neuron, and of the squared weights of linear and bilinear filters.
    epochs, least_steps : int
        There are more epochs where recordings are so short that these have fewer steps.
    batch_neurons, batch_windows : int
        A batch is so many neurons times so many windows of one session.
    train_share : float
        Which part of the frames, from the first on, is trained on; the rest validates.
    hiding : str
        Transformer: ``each`` predicts every step with nothing hidden but the step itself, as in validation
        and for new neurons; ``random`` hides a part of the entries, ``mask_share``, from themselves and
        from the steps after them, as in the paper, and predicts these.
    inference_steps, inference_rate : int, float
        Steps of Adam, and its learning rate, for the Phi of new neurons with frozen dynamics.
    inference_neurons : int
        How many neurons' Phi are fitted side by side. Does not change them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dynamics: Dynamics = "bilinear"
    phi: int = Field(16, ge=1, le=1024)
    loss: Literal["mse", "nll"] = "mse"
    parts: tuple[CovariatePart, ...] = ("behaviour", "population")
    behaviour: tuple[str, ...] | None = None
    delta_um: float | None = Field(None, gt=0.0)

    lags: int = Field(8, ge=1, le=200)
    mean_form: bool = False
    hidden: int = Field(32, ge=1, le=2048)
    context: int = Field(4, ge=1, le=200)
    heads: int = Field(2, ge=1, le=64)
    feed_forward: int = Field(128, ge=1, le=8192)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    hiding: Literal["each", "random"] = "each"
    mask_share: float = Field(0.25, gt=0.0, le=1.0)

    window: int = Field(200, ge=2)
    warm_up: int = Field(16, ge=1)
    train_share: float = Field(0.75, gt=0.0, le=1.0)
    batch_neurons: int = Field(128, ge=1)
    batch_windows: int = Field(2, ge=1)
    epochs: int = Field(10, ge=1)
    least_steps: int = Field(100, ge=0)
    learning_rate: float = Field(0.01, gt=0.0)
    phi_rate: float = Field(0.03, gt=0.0)
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    clip_norm: float = Field(1.0, gt=0.0)
    phi_penalty: float = Field(1e-3, ge=0.0)
    filter_penalty: float = Field(1e-3, ge=0.0)

    inference_steps: int = Field(60, ge=1)
    inference_rate: float = Field(0.05, gt=0.0)
    inference_neurons: int = Field(4096, ge=1)

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
