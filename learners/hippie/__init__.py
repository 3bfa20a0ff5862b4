"""HIPPIE: spike-sorted units embedded and named from waveform and spike timing.

``train`` trains a `HippieModel` on labelled units; its ``predict`` and ``embed`` take units in memory or files.
`HippieSettings` and `PRESETS` say what decides a training.
"""

from neurofleet.lazy_names import lazy_names

_MODULES = {
    "train": "train_hippie",
    "HippieModel": "hippie_model",
    "HippieSettings": "autoencoder_settings",
    "PRESETS": "autoencoder_settings",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
