"""How a user says what the arrays and columns of a file of units are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neurofleet.faults import faults
from neurofleet.learners.units.units import UnitsRefused


class QualityLimits(BaseModel):
    """Bounds of one quality column; units without a value fall out.

    Attributes
    ----------
    at_least, above, below : float
        Which values stay.
    equals : number, bool or str
        The one value that stays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    equals: bool | float | str | None = None


class UnitLayout(BaseModel):
    """What a file's arrays and columns are called and how they were made; what is not said is looked up.

    Names that are silent mean the usual ones (`waveform`, `isi`, `acg`, `spike_times`, `unit_id`). Properties
    that are silent are taken from the file's single values of the same name (`waveform_rate_hz`,
    `waveform_peak_index`, `isi_bin_ms`, `acg_bin_ms`) where it has them.

    Attributes
    ----------
    waveform, isi, acg, spike_times, unit_id : str
        Names of the arrays or columns; columns may also be numbered (`waveform_0`, `waveform_1`, ...).
    waveform_rate_hz : float
        Samples per second of the waveforms. There is no default: it must be known.
    waveform_peak_index : int
        Sample of the main deflection, counted from 0; found from the waveforms when silent.
    waveform_axes : "samples, channels" or "channels, samples"
        Order of the axes of waveforms on several channels, units first; told by the electrodes and the values
        when silent, else as NWB defines it (samples, channels).
    spike_times_per_s : float
        How many of the steps in which spike times are counted make a second, where they are not in seconds:
        1000 for milliseconds, 1e6 for microseconds, the sampling rate for samples.
    isi_scale : "linear" or "log10"
        Spacing of the bins of the intervals.
    isi_bin_ms : float
        Width of linear bins, which start at 0; 1 ms for 100 bins when silent.
    isi_log10_range_s : pair of float
        log10 of the first and last edge, in seconds, of logarithmic bins: [-3, 1] is 1 ms to 10 s.
    isi_values : "counts", "shares" or "density"
        What stands in a bin: numbers of intervals, shares of all intervals, or a rate (share per second,
        normalised or not). Counts and shares are told apart when silent; a density is never guessed.
    acg_bin_ms : float
        Width of the bins of the autocorrelogram, 1 ms when silent.
    acg_one_sided : bool
        Whether the autocorrelogram has lags from 0 up only.
    technology : str
        The name of a column, or else the one technology of all units; it goes to `obs` as `technology`.
    without : list of "waveform", "isi", "acg"
        What is not to be read although it is there.
    keep, drop : dict of column to values
        Units that have one of these values stay, or are left out.
    quality : "allen", "ibl", or dict of column to `QualityLimits`
        Which units are good enough.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    waveform: str | None = None
    isi: str | None = None
    acg: str | None = None
    spike_times: str | None = None
    unit_id: str | None = None
    waveform_rate_hz: float | None = Field(default=None, gt=0, le=1e6)
    waveform_peak_index: int | None = Field(default=None, ge=0)
    waveform_axes: Literal["samples, channels", "channels, samples"] | None = None
    spike_times_per_s: float | None = Field(default=None, gt=0, le=1e9)
    isi_scale: Literal["linear", "log10"] = "linear"
    isi_bin_ms: float | None = Field(default=None, gt=0)
    isi_log10_range_s: tuple[float, float] | None = None
    isi_values: Literal["counts", "shares", "density"] | None = None
    acg_bin_ms: float | None = Field(default=None, gt=0)
    acg_one_sided: bool = False
    technology: str | None = None
    without: list[Literal["waveform", "isi", "acg"]] = Field(default_factory=list)
    keep: dict[str, list[bool | int | float | str]] = Field(default_factory=dict)
    drop: dict[str, list[bool | int | float | str]] = Field(default_factory=dict)
    quality: Literal["allen", "ibl"] | dict[str, QualityLimits] | None = None

    @model_validator(mode="after")
    def _log_bins_have_a_range(self) -> UnitLayout:
        if self.isi_scale == "log10":
            if self.isi_log10_range_s is None:
                raise ValueError(
                    "isi_scale log10 needs isi_log10_range_s, the log10 of the first and last bin edge in"
                    " seconds, such as [-3, 1] for 1 ms to 10 s"
                )
            if self.isi_bin_ms is not None:
                raise ValueError("isi_bin_ms is the width of linear bins; log10 bins have isi_log10_range_s")
        elif self.isi_log10_range_s is not None:
            raise ValueError("isi_log10_range_s needs isi_scale log10")
        if self.isi_log10_range_s is not None:
            low, high = self.isi_log10_range_s
            if not (math.isfinite(low) and math.isfinite(high) and low < min(high, -1)):
                raise ValueError(
                    "isi_log10_range_s must ascend and start below -1 (100 ms): it holds log10 of seconds,"
                    f" found [{low:g}, {high:g}]"
                )
        return self


def read_unit_layout(layout: Mapping[str, Any] | UnitLayout | None) -> UnitLayout:
    """Check a layout given as plain JSON.

    Raises
    ------
    UnitsRefused
        If a key is unknown (with the nearest known one) or a value is not possible.
    """
    if isinstance(layout, UnitLayout):
        return layout
    try:
        return UnitLayout.model_validate(dict(layout or {}))
    except ValidationError as error:
        known = f" Its keys are {', '.join(UnitLayout.model_fields)}."
        told = faults(error, UnitLayout, content=dict(layout or {}))
        raise UnitsRefused(f"layout: {told}.{known if 'unknown key' in told else ''}") from None
