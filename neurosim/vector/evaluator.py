"""Scores of many individuals at once: their voltages from a kernel, their e-features together."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from neurosim.batch_features.scoring import BatchScoring
from neurosim.vector.cell import VectorCell
from neurosim.vector.steps import search_steps
from neurosim.vector.syntax import Unsupported

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
LANES = 16  # individuals in one vector of float32, which take as long as one


@dataclass(frozen=True, eq=False)
class VectorScores:
    """What became of the individuals of one batch.

    Attributes
    ----------
    scores : ndarray, shape (n, M)
        In standard deviations; those of an individual that is not ok mean nothing.
    ok : ndarray of bool, shape (n,)
        False for an individual that ran away in one of its protocols.
    """

    scores: np.ndarray
    ok: np.ndarray


class VectorEvaluator:
    """Evaluate individuals of one stage of one cell together.

    Parameters
    ----------
    model : FitModel

    Attributes
    ----------
    parameter_names : tuple of str, length P
    objective_names : tuple of str, length M

    Raises
    ------
    Unsupported
        The model has something that no kernel is made of; the message names it.
    InputError
        There is no C++ compiler.
    """

    def __init__(self, model: "FitModel") -> None:
        self._cell = VectorCell(model)
        self._steps = search_steps(self._cell.has_chains)
        _check_cache(self._cell)
        steps = model.targets.protocols.values()
        # The strongest, which take longest, first
        self._protocols = sorted(steps, key=lambda step: -step.amplitude_nA)
        self._scoring = BatchScoring(model)
        self.parameter_names = self._cell.parameter_names
        self.objective_names = self._scoring.objective_names

    def evaluate(self, values: ArrayLike, dtype: Literal["float32", "float64"] = "float32") -> VectorScores:
        """Return the scores of individuals, of which `values`, shape (n, P), has one in each row.

        The scores of one individual do not depend on the others.
        """
        found = self._cell.run(values, self._protocols, self._steps, dtype)
        runs = {step.name: run for step, run in zip(self._protocols, found, strict=True)}
        ok = np.logical_and.reduce([run.ok for run in found])
        return VectorScores(self._scoring.scores(runs, ok), ok)


def _check_cache(cell: VectorCell) -> None:
    """Raise `Unsupported` for a cell that this machine would read from its main memory at every step."""
    sizes = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    kilobytes = [int(size.removesuffix("K")) for size in sizes if size.endswith("K")]
    if kilobytes and cell.working_set_bytes > max(kilobytes) * 1024:
        raise Unsupported(
            f"the vector engine keeps {cell.n_compartments} compartments of {LANES} individuals in "
            f"{cell.working_set_bytes / 1e6:.3g} MB, and expects them to fit into the processor's cache of "
            f"{max(kilobytes) / 1024:.3g} MB. Use the NEURON engine for this cell, or longer segments."
        )
