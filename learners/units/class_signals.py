"""What units of each class look like: mean waveform, intervals and autocorrelogram, with quartiles."""

from __future__ import annotations

import numpy as np
import pandas as pd

from neurofleet.learners.units.signal_scaling import relative
from neurofleet.learners.units.unit_labels import CLASS, LabelledUnits
from neurofleet.learners.units.units import MODALITIES

AT_MS = {
    "waveform": np.arange(50) / 20.0 - 1.0,
    "isi": np.arange(100) + 0.5,
    "acg": np.arange(100) * 2.0 - 99.0,
}
"""Time of each point: from the main deflection, length of the interval (centre of its bin), lag (centre of its bin)."""


def class_signals(labelled: LabelledUnits) -> pd.DataFrame:
    """Return the mean and the quartiles of each signal over the units of each class, point by point.

    Parameters
    ----------
    labelled : LabelledUnits

    Returns
    -------
    DataFrame
        ``class``, ``signal`` (``waveform``, ``isi``, ``acg``), ``units`` (of the class that have the signal),
        ``at_ms``, ``mean``, ``low`` and ``high`` (quartiles). Waveforms are in depths of their main deflection, from
        the level before it; intervals in shares of all per bin of 1 ms; autocorrelograms relative to their mean.
    """
    units = labelled.units
    values = {"waveform": relative(units)["waveform"], "isi": units.isi, "acg": units.acg}
    parts = []
    for number, name in enumerate(labelled.classes):
        for column, signal in enumerate(MODALITIES):
            rows = values[signal][(labelled.labels == number) & units.present[:, column]].astype(np.float64)
            if not len(rows):
                continue
            low, high = np.quantile(rows, [0.25, 0.75], axis=0)
            of_class = {CLASS: name, "signal": signal, "units": len(rows), "at_ms": AT_MS[signal]}
            parts.append(pd.DataFrame(of_class | {"mean": rows.mean(0), "low": low, "high": high}))
    return pd.concat(parts, ignore_index=True)
