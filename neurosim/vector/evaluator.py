"""Scores of many individuals at once: their voltages from a kernel, their e-features together."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from neurosim.batch_features.scoring import BatchScoring
from neurosim.vector.cell import Outside, VectorCell, VectorRun
from neurosim.vector.syntax import Unsupported

if TYPE_CHECKING:
    from neurosim.fit_model import FitModel

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
RECORD_EVERY_MS = 0.1  # what eFEL interpolates to
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
        _check_cache(self._cell)
        steps = model.targets.protocols.values()
        # The strongest first: who is not calm after it is found at once.
        self._protocols = {p.name: p for p in sorted(steps, key=lambda p: -p.amplitude_nA)}
        self._scoring = BatchScoring(model)
        self.parameter_names = self._cell.parameter_names
        self.objective_names = self._scoring.objective_names

    def evaluate(self, values: ArrayLike) -> VectorScores:
        """Return the scores of individuals, of which `values`, shape (n, P), has one in each row.

        An individual that is not at rest away from the stimulus is simulated in shorter steps there. The
        scores of one individual do not depend on the others.
        """
        given = np.asarray(values, np.float64)
        calm = np.ones(len(given), bool)
        runs: dict[str, VectorRun] = {}
        rows: dict[str, np.ndarray] = {}
        for name in self._protocols:
            rows[name] = np.flatnonzero(calm)
            if rows[name].size:
                runs[name] = self._run(name, given[rows[name]], "calm")
                calm[rows[name]] = runs[name].quiet
        found = VectorScores(np.zeros((len(given), len(self.objective_names))), np.zeros(len(given), bool))
        if calm.any():
            self._score({name: run.only(calm[rows[name]]) for name, run in runs.items()}, calm, found)
        if not calm.all():
            lively = {name: self._run(name, given[~calm], "lively") for name in self._protocols}
            self._score(lively, ~calm, found)
        return found

    def _run(self, name: str, values: np.ndarray, outside: Outside) -> VectorRun:
        every = round(RECORD_EVERY_MS / self._cell.dt_ms)
        return self._cell.run(
            values, self._protocols[name], dtype="float32", record_every=every, outside=outside, damped=True
        )

    def _score(self, runs: dict[str, VectorRun], whose: np.ndarray, found: VectorScores) -> None:
        ok = np.logical_and.reduce([run.ok for run in runs.values()])
        found.ok[whose] = ok
        found.scores[whose] = self._scoring.scores(runs, ok)


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
