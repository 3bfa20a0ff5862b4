"""Whether draws of a posterior are calibrated, on a model of which everything is known.

``python -m tests.benchmarks.posterior [CELLS]`` prints one JSON line, after about two seconds of CPU a cell. The
parameters of each made cell are drawn evenly in the unit cube; its features are saturating functions of sums of
parameters, which trade against each other, and are recorded with noise of one standard deviation. They are sampled by
the sampler of `kind: posterior`, with fewer particles and moves, and a last stage of 40 moves, converged or not.

``ranks``
    Of the true values among the draws, in ten bins, over cells and parameters: even where draws are calibrated.
``p``
    Of a chi-square test that they are even; parameters of a cell count as independent, which they are not quite.
``within_50``, ``within_90``
    Share of the true values within the central intervals.
``converged``
    Share of the cells with an R-hat of at most 1.05.
``evaluations``, ``cpu_s``
    Of all cells; the model itself costs next to nothing.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from scipy.stats import chisquare

from neurofleet.neurosim.studies.posterior_sampling import (
    PosteriorSampler,
    Step,
    drawn_steps,
    largest_rhat,
    spread_draws,
)

PARAMETERS, FEATURES, PARTICLES = 6, 10, 48
SWEEPS, STEPS, DRAWS = 4, 40, 99


class MadeCell:
    """A cell of known parameters, and the noisy features that were recorded of it."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng([7, seed])
        self._mix = self.draw.normal(size=(PARAMETERS, FEATURES)) * 3.0
        self.truth = self.draw.random(PARAMETERS)
        self._recorded = self._features(self.truth[None])[0] + self.draw.normal(size=FEATURES)

    def _features(self, unit: np.ndarray) -> np.ndarray:
        return 6.0 * np.tanh((unit - 0.5) @ self._mix)

    def scores(self, unit: np.ndarray) -> np.ndarray:
        """Return scores in standard deviations, shape (n, M)."""
        return np.abs(self._features(unit) - self._recorded)


def sample(cell: MadeCell, seed: int) -> list[Step]:
    """Return all steps."""
    sampler = PosteriorSampler(PARTICLES, PARAMETERS, seed, sweeps=SWEEPS)
    steps: list[Step] = []
    while sum(step.last for step in steps) < STEPS:
        steps.append(sampler.tell(cell.scores(sampler.ask())))
    return steps


def calibration(cells: int) -> dict[str, object]:
    """Return what the module describes."""
    ranks, converged, evaluations = [], 0, 0
    started = time.process_time()
    for number in range(cells):
        cell = MadeCell(number)
        steps = sample(cell, number)
        evaluations += PARTICLES * len(steps)
        unit = np.stack([step.unit for step in drawn_steps(steps)])
        converged += largest_rhat(unit) <= 1.05
        at, particle = spread_draws(len(unit), PARTICLES, DRAWS, number)
        ranks.append((unit[at, particle] < cell.truth).sum(axis=0))
    shares = np.concatenate(ranks) / DRAWS
    histogram = np.histogram(np.concatenate(ranks), bins=10, range=(0, DRAWS + 1))[0]
    return {
        "cells": cells,
        "parameters": PARAMETERS,
        "ranks": histogram.tolist(),
        "p": round(float(chisquare(histogram).pvalue), 3),
        "within_50": round(float(((shares >= 0.25) & (shares <= 0.75)).mean()), 3),
        "within_90": round(float(((shares >= 0.05) & (shares <= 0.95)).mean()), 3),
        "converged": converged / cells,
        "evaluations": evaluations,
        "cpu_s": round(time.process_time() - started, 1),
    }


if __name__ == "__main__":
    print(json.dumps(calibration(int(sys.argv[1]) if len(sys.argv) > 1 else 50)))
