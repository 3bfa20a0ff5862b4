"""The share of the linear model in an answer, beside the networks: chosen on validation cells with the temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from neurofleet.learners.calibration import Calibration, calibrated_probabilities, fit_temperature
from neurofleet.learners.calibration import log_probabilities as log_of

HALF = 0.5
SHARES = (0.0, 0.25, HALF, 0.75, 1.0)
CERTAINTY = 2.0
"""How many standard errors a share must be better than one half by."""


@dataclass(frozen=True)
class TriedShare:
    """A share of the linear model, and how the average does on validation cells at its best temperature.

    Attributes
    ----------
    share : float
    log_loss : float
        Mean of -log p of the true class (nats).
    accuracy : float
    """

    share: float
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class ChosenShare:
    """The share that validation cells chose.

    Attributes
    ----------
    share : float
    calibration : Calibration
        Of the average.
    tried : tuple of TriedShare
        All that were compared, in order.
    """

    share: float
    calibration: Calibration
    tried: tuple[TriedShare, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as plain JSON: ``linear_share``, ``cells``, ``tried``, ``in_words``."""
        tried = [asdict(one) for one in self.tried]
        return {"linear_share": self.share, "cells": self.calibration.n, "tried": tried, "in_words": self.in_words()}

    def in_words(self) -> str:
        """Return what the model answers with, and why."""
        of_share = {one.share: one for one in self.tried}
        if len(of_share) == 1:
            return ""
        chosen, half = of_share[self.share], of_share[HALF]
        cells = f"{self.calibration.n:,} validation cells"
        if self.share == HALF:
            why = (
                f"log loss {half.log_loss:.3f}; networks alone {of_share[0.0].log_loss:.3f}, logistic regression alone"
                f" {of_share[1.0].log_loss:.3f}"
            )
            if half.accuracy == 1.0:
                why = "it makes no error there"
            return (
                "The model answers with the average of networks and logistic regression, one half each: on"
                f" {cells} no other share is clearly better ({why})."
            )
        return (
            f"The model answers with {share_in_words(self.share)}: on {cells} its log loss is {chosen.log_loss:.3f},"
            f" that of one half each {half.log_loss:.3f} (accuracy {chosen.accuracy:.3f} and {half.accuracy:.3f})."
        )


def share_in_words(share: float) -> str:
    """Return what an answer is made of."""
    if share in (0.0, 1.0):
        return "logistic regression alone" if share else "the networks alone"
    return f"the average of networks ({1 - share:.0%}) and logistic regression ({share:.0%})"


def mixed(networks: np.ndarray, linear: np.ndarray | None, share: float) -> np.ndarray:
    """Return the log-probabilities (cells, classes) of the average in which the linear model has `share`."""
    if linear is None or share == 0.0:
        return networks
    if share == 1.0:
        return linear
    return np.logaddexp(networks + np.log(1.0 - share), linear + np.log(share))


def choose_share(
    networks: np.ndarray, linear: np.ndarray | None, true_index: np.ndarray, shares: Sequence[float] = SHARES
) -> ChosenShare:
    """Choose the share of the linear model, and the temperature, by the log loss of validation cells.

    Each share is judged at its own best temperature. Some dozens of cells say little: one half stays unless another has
    a log loss that is lower by more than two standard errors of the difference, cell by cell, and is not less accurate;
    and where one half makes no error.

    Parameters
    ----------
    networks, linear : array, shape (cells, classes)
        Log-probabilities of validation cells, never of test cells; `linear` is None where there is no such model.
    true_index : array of int, shape (cells,)
    shares : sequence of float
        One alone leaves nothing to choose but the temperature.
    """
    if linear is None:
        shares = (0.0,)
    rows = np.arange(len(true_index))
    tried, losses, calibrations = [], [], []
    for share in shares:
        average = mixed(networks, linear, share)
        calibration = fit_temperature(average, true_index)
        probabilities = calibrated_probabilities(average, calibration.temperature)
        loss = -log_of(probabilities)[rows, true_index]
        right = probabilities.argmax(1) == true_index
        tried.append(TriedShare(share, float(loss.mean()), float(right.mean())))
        losses.append(loss)
        calibrations.append(calibration)
    best = _best(shares, losses, [one.accuracy for one in tried])
    return ChosenShare(shares[best], calibrations[best], tuple(tried))


def _best(shares: Sequence[float], losses: Sequence[np.ndarray], accuracies: Sequence[float]) -> int:
    """Return which share has the lowest loss, if that is clearly below the one of one half."""
    if HALF not in shares:
        return int(np.argmin([loss.mean() for loss in losses]))
    start = list(shares).index(HALF)
    best, most = start, 0.0
    for number, loss in enumerate(losses):
        gain = losses[start] - loss
        is_clear = gain.mean() > max(most, CERTAINTY * gain.std() / np.sqrt(len(gain)))
        if is_clear and accuracies[start] < 1.0 and accuracies[number] >= accuracies[start]:
            best, most = number, float(gain.mean())
    return best
