"""The units that a HIPPIE model was trained on: how far others are from them, and which are among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from neurofleet.learners.model_folder import tensors_under
from neurofleet.learners.reference_distance import TrainingSpace, distance_columns, far_notes
from neurofleet.learners.units.signal_scaling import relative, row_hashes
from neurofleet.learners.units.units import MODALITIES, Units

ALL = "all"
"""The space of all modalities together, beside that of each."""


@dataclass(frozen=True)
class TrainedUnits:
    """What a model keeps of the units that it was trained on.

    Attributes
    ----------
    modalities : tuple of str
        Those that the model sees.
    spaces : mapping of str to TrainingSpace
        By modality, and of `ALL`.
    hashes : array of uint64, shape (units, 3)
        Of each modality's values; 0 where there is none.
    """

    modalities: tuple[str, ...]
    spaces: Mapping[str, TrainingSpace]
    hashes: np.ndarray

    @classmethod
    def of(cls, units: Units, modalities: Sequence[str], groups: np.ndarray | None, seed: int) -> Self | None:
        """Return what is kept of labelled units; None of too few.

        Parameters
        ----------
        groups : array of str or None
            Animal or recording of each unit, held out as a whole to find the limits.
        """
        values = _values(units, modalities)
        sizes = [np.full(values[name].shape[1], values[name].shape[1]) for name in modalities]
        of = {ALL: np.concatenate(sizes)}  # waveform, intervals and autocorrelogram weigh the same
        made = {name: TrainingSpace.of(rows, groups, of.get(name), seed) for name, rows in values.items()}
        spaces = {name: space for name, space in made.items() if space is not None}
        return cls(tuple(modalities), spaces, _hashes(units)) if ALL in spaces else None

    def distances(self, units: Units) -> dict[str, np.ndarray]:
        """Return the distance of units, (units,), by each modality and by `ALL`; NaN where it was not measured."""
        values = _values(units, self.modalities)
        return {name: space.of_samples(values[name]) for name, space in self.spaces.items()}

    def columns(self, units: Units) -> dict[str, Any]:
        """Return the columns of a table: ``distance`` and ``outside``."""
        return distance_columns(self.distances(units)[ALL])

    def notes(self, units: Units, *, always: bool) -> Iterator[str]:
        """Yield what must be known of units: how many are outside, and by what; how many were trained on.

        Parameters
        ----------
        always : bool
            Whether few units outside are told, too.
        """
        distances = self.distances(units)
        parts = [
            f"{100 * np.mean(far[~np.isnan(far)] > 1):.0f} % by the {_IN_WORDS[name]} alone"
            for name, far in distances.items()
            if name != ALL and not np.isnan(far).all()
        ]
        yield from far_notes(distances[ALL], "units", "; ".join(parts), always=always)
        n_known = int(self.among(units).sum())
        if n_known:
            yield (
                f"{n_known:,} of {len(units):,} units are among those that the model was trained on (the same waveform,"
                " intervals or autocorrelogram): their classes say nothing of how well it does on new units."
            )

    def among(self, units: Units) -> np.ndarray:
        """Return which units have the waveform, intervals or autocorrelogram of one that was trained on, (units,)."""
        mine = _hashes(units)
        shared = [np.isin(mine[:, k], self.hashes[self.hashes[:, k] > 0, k]) for k in range(len(MODALITIES))]
        return np.any(shared, axis=0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name."""
        arrays = {
            f"{name}.{key}": array for name, space in self.spaces.items() for key, array in space.arrays().items()
        }
        return arrays | {"hashes": self.hashes.view(np.uint32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], modalities: Sequence[str]) -> Self:
        """Return what `arrays` returned as an object again."""
        names = [name for name in (*modalities, ALL) if f"{name}.points" in arrays]
        spaces = {name: TrainingSpace.from_arrays(tensors_under(f"{name}.", arrays)) for name in names}
        return cls(tuple(modalities), spaces, np.ascontiguousarray(arrays["hashes"]).view(np.uint64))


_IN_WORDS = {"waveform": "waveform", "isi": "intervals", "acg": "autocorrelogram"}


def _values(units: Units, modalities: Sequence[str]) -> dict[str, np.ndarray]:
    """Return what distances are made of, by modality and of `ALL`; NaN where it is missing."""
    rows = relative(units)
    values = {
        name: np.where(units.present[:, [MODALITIES.index(name)]], rows[name], np.nan).astype(np.float32)
        for name in modalities
    }
    return values | {ALL: np.hstack(list(values.values()))}


def _hashes(units: Units) -> np.ndarray:
    """Return the first 64 bits of the `row_hashes` of units, (units, 3) uint64; 0 where there is none."""
    numbers = [[int(text[:16] or "0", 16) for text in row] for row in row_hashes(units)]
    return np.array(numbers, dtype=np.uint64).reshape(len(units), len(MODALITIES))
