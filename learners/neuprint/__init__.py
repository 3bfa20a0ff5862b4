"""NeuPRINT: the identity of neurons from the dynamics of the population that they were recorded in.

``train`` trains a `NeuprintModel` on recordings; its ``predict`` and ``embed`` take recordings in memory or files.
`NeuprintSettings` and `PRESETS` say what decides a training.
"""

from neurofleet.lazy_names import lazy_names

_MODULES = {
    "train": "train_neuprint",
    "NeuprintModel": "neuprint_model",
    "NeuprintSettings": "dynamics_settings",
    "PRESETS": "dynamics_settings",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
