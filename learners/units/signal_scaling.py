"""Units as networks and distances see them: each modality of each unit between -1 and 1."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from neurofleet.learners.units.units import MODALITIES, Units

EPSILON = 1e-8
FEWEST_VALUES = 10


def scaled(units: Units) -> dict[str, np.ndarray]:
    """Scale each modality of each unit to [-1, 1] by its own smallest and largest value.

    Shares of intervals are first taken to log(1 + 1000 p), autocorrelograms to log(1 + a): the shape counts,
    neither the amplitude of a spike nor the number of spikes does.

    Returns
    -------
    dict
        By modality, (n, points) float32; rows that are missing or constant are zero.
    """
    values = {"waveform": units.waveform, "isi": np.log1p(1000 * units.isi), "acg": np.log1p(units.acg)}
    result = {}
    for number, modality in enumerate(MODALITIES):
        rows = values[modality].astype(np.float64)
        low, span = rows.min(axis=1, keepdims=True), np.ptp(rows, axis=1, keepdims=True)
        filled = units.present[:, [number]] & (span > 0)
        result[modality] = np.where(filled, 2 * (rows - low) / (span + EPSILON) - 1, 0).astype(np.float32)
    return result


def relative(units: Units) -> dict[str, np.ndarray]:
    """Describe each modality by what physiology compares it with, for classifiers that standardise features.

    The waveform is measured from its level 1.0 to 0.5 ms before the main deflection, in depths of that
    deflection (clipped at 5), so that the height of the later peak keeps its meaning, which the smallest and
    largest value of `scaled` take away; shares of intervals become log(1 + 1000 p), autocorrelograms
    log(1 + a).

    Returns
    -------
    dict
        By modality, (n, points) float32; zero where missing.
    """
    rows = units.waveform.astype(np.float64)
    rows = rows - np.median(rows[:, :11], axis=1, keepdims=True)
    depth = -rows[:, [20]]
    waveform = np.divide(rows, depth, out=np.zeros_like(rows), where=depth != 0)
    values = {"waveform": waveform.clip(-5, 5), "isi": np.log1p(1000 * units.isi), "acg": np.log1p(units.acg)}
    return {
        modality: np.where(units.present[:, [number]], values[modality], 0).astype(np.float32)
        for number, modality in enumerate(MODALITIES)
    }


def row_hashes(units: Units) -> np.ndarray:
    """Hash each scaled modality of each unit: equal whatever the unit is called and its amplitude's unit is.

    Values are compared in steps of 1/100, which bears rounding (but for a value close to the border of a
    step). Rows that are missing or have fewer than 10 different values, which several units may share, have
    no hash.

    Returns
    -------
    (n, 3) str array
        sha256 by modality, "" where there is none.
    """
    result = np.full((len(units), len(MODALITIES)), "", dtype="<U64")
    largest = np.abs(units.waveform).max(axis=1, keepdims=True, initial=0)
    waveform = np.divide(units.waveform, largest, out=np.zeros_like(units.waveform), where=largest > 0)
    for number, rows in enumerate(scaled(replace(units, waveform=waveform)).values()):
        for row, steps in enumerate(np.rint(100 * rows).astype(np.int8)):
            if len(np.unique(steps)) >= FEWEST_VALUES:
                result[row, number] = hashlib.sha256(steps.tobytes()).hexdigest()
    return result


def also_in(units: Units, pool: Units) -> np.ndarray:
    """Return which units have a modality that a unit of `pool` has as well, as (n,) bool.

    Such units must not be in a pretraining pool for a target, whatever the file they came in is called.
    """
    mine, theirs = row_hashes(units), row_hashes(pool)
    shared = [np.isin(mine[:, k], theirs[:, k][theirs[:, k] != ""]) for k in range(len(MODALITIES))]
    return np.any(shared, axis=0)
