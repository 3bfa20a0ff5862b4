"""Spike-sorted units: opened from files, checked, brought to one form, described by hand and scaled for networks.

`open_units` opens files as one set of `Units`; `labelled_units` reads the class of each unit. ``waveforms`` and
``spike_timing`` bring measurements to the common form, ``hand_features`` describes them, ``unit_checks`` refuses units
that are badly isolated or give their class away, ``signal_scaling`` scales them.
"""

from neurofleet.lazy_names import lazy_names

_MODULES = {
    "open_units": "unit_files",
    "Units": "units",
    "UnitLayout": "unit_layout",
    "labelled_units": "unit_labels",
    "LabelledUnits": "unit_labels",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
