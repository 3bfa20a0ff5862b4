"""Spike-sorted units: opened from files, checked, brought to one form, described by hand and scaled for networks.

`open_units` opens files as one set of `Units`; `labelled_units` reads the class of each unit. ``waveforms`` and
``spike_timing`` bring measurements to the common form, ``hand_features`` describes them, ``unit_checks`` refuses units
that are badly isolated or give their class away, ``signal_scaling`` scales them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "open_units": "unit_files",
    "Units": "units",
    "UnitLayout": "unit_layout",
    "labelled_units": "unit_labels",
    "LabelledUnits": "unit_labels",
}
"""Name -> the module of this package that defines it; it is imported when the name is first used."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
