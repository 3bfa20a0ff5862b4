"""Units as HIPPIE's networks take them: scaled signals, presence, technology, standardised hand features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neurofleet.errors import LearnerError
from neurofleet.learners.hippie.autoencoder import UnitBatch
from neurofleet.learners.units.signal_scaling import relative, scaled
from neurofleet.learners.units.units import MODALITIES, Units

TECHNOLOGY = "technology"
_CLIP = 5.0


@dataclass(frozen=True)
class UnitInputs:
    """Arrays of the same units.

    Attributes
    ----------
    modalities : tuple of str
        Those that networks see.
    signals : dict of arrays, shape (units, points)
        Scaled; zero where missing.
    present : array of bool, shape (units, modalities)
    technology : array of int, shape (units,)
        -1 where it is none of the known ones.
    n_technologies : int
    hand : array, shape (units, hand features)
        Standardised; 0 where missing.
    """

    modalities: tuple[str, ...]
    signals: Mapping[str, np.ndarray]
    present: np.ndarray
    technology: np.ndarray
    n_technologies: int
    hand: np.ndarray

    def __len__(self) -> int:
        return len(self.present)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name."""
        arrays = {"present": self.present, "technology": self.technology, "hand": self.hand}
        return arrays | {f"signal.{name}": self.signals[name] for name in self.modalities}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], modalities: tuple[str, ...], n_technologies: int
    ) -> UnitInputs:
        """Return what `arrays` was called on."""
        signals = {name: arrays[f"signal.{name}"] for name in modalities}
        return cls(modalities, signals, arrays["present"], arrays["technology"], n_technologies, arrays["hand"])

    def tensors(self) -> dict[str, Tensor]:
        """Return all arrays as tensors, signals under their modality's name."""
        return {name.removeprefix("signal."): torch.from_numpy(a) for name, a in self.arrays().items()}

    def batch(self, rows: np.ndarray | slice = slice(None)) -> UnitBatch:
        """Return some units as one batch."""
        tensors = {name: tensor[rows] for name, tensor in self.tensors().items()}
        signals = {name: tensors[name] for name in self.modalities}
        return UnitBatch(signals, tensors["present"], tensors["technology"], tensors["hand"])


@dataclass(frozen=True)
class Scaling:
    """How hand features are standardised: mean and standard deviation of the training units.

    Attributes
    ----------
    mean, sd : array, shape (hand features,)
    """

    mean: np.ndarray
    sd: np.ndarray

    @classmethod
    def of(cls, hand: np.ndarray) -> Scaling:
        """Return the scaling of training units' hand features; NaN does not count."""
        counts = np.maximum(np.isfinite(hand).sum(0), 1)
        mean = np.nansum(hand, 0) / counts
        sd = np.sqrt(np.nansum(np.square(hand - mean), 0) / counts)
        return cls(mean.astype(np.float32), np.where(sd > 0, sd, 1.0).astype(np.float32))

    def apply(self, hand: np.ndarray) -> np.ndarray:
        """Return z-scores, clipped at 5; 0 where a feature is missing."""
        scores = np.clip((hand - self.mean) / self.sd, -_CLIP, _CLIP)
        return np.nan_to_num(scores, nan=0.0).astype(np.float32)


def inputs_of(
    units: Units,
    modalities: Sequence[str],
    technologies: Sequence[str],
    scaling: Scaling,
    how: str = "relative",
) -> UnitInputs:
    """Return units as networks take them.

    Parameters
    ----------
    modalities : sequence of str
    technologies : sequence of str
        Those that the networks know, in their order.
    how : {'relative', 'min-max'}
        How signals are scaled: see `neurofleet.learners.units.signal_scaling`. Logarithms of ``relative`` are halved,
        which brings all signals to about the same size.

    Raises
    ------
    LearnerError
        If there is no unit that has any of the modalities.
    """
    columns = [MODALITIES.index(name) for name in modalities]
    present = units.present[:, columns]
    if not present.any():
        raise LearnerError(
            f"No unit has any of {', '.join(modalities)}. Name other modalities, or check how the file's"
            " arrays are named."
        )
    signals = scaled(units) if how == "min-max" else _halved(relative(units))
    number = {name: i for i, name in enumerate(technologies)}
    names = units.column(TECHNOLOGY) if TECHNOLOGY in units.obs else np.full(len(units), "")
    return UnitInputs(
        tuple(modalities),
        {name: np.ascontiguousarray(signals[name], dtype=np.float32) for name in modalities},
        np.ascontiguousarray(present),
        np.array([number.get(name, -1) for name in names], dtype=np.int64),
        len(technologies),
        scaling.apply(units.hand),
    )


def _halved(signals: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values if name == "waveform" else values / 2 for name, values in signals.items()}


def modalities_of(units: Units, requested: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the modalities that a network is to see: those requested, or all that most units have.

    Raises
    ------
    LearnerError
        If a requested one is missing in all units, or none is there.
    """
    shares = dict(zip(MODALITIES, units.present.mean(0) if len(units) else [0.0] * 3, strict=True))
    if requested is not None:
        absent = [name for name in requested if shares[name] == 0.0]
        if absent:
            raise LearnerError(
                f"No unit has {', '.join(absent)}; there are"
                f" {', '.join(name for name, share in shares.items() if share) or 'none'}."
            )
        return tuple(name for name in MODALITIES if name in requested)
    common = tuple(name for name, share in shares.items() if share >= 0.5)
    if not common:
        raise LearnerError("No modality is there for half of the units; name those to be used.")
    return common
