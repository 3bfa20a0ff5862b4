"""SIMS: label transfer for single-cell RNA sequencing by sparse, masked networks (TabNet).

``train`` trains a `SimsModel` on labelled cells; its ``predict``, ``embed`` and ``explain`` take an AnnData or a file.
`SimsSettings` and `PRESETS` say what decides a training.
"""

from neurofleet.lazy_names import lazy_names

_MODULES = {
    "train": "train_sims",
    "SimsModel": "sims_model",
    "SimsSettings": "tabnet_settings",
    "PRESETS": "tabnet_settings",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
