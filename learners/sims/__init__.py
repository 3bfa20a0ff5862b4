"""SIMS: label transfer for single-cell RNA sequencing by sparse, masked networks (TabNet).

``train`` trains a `SimsModel` on labelled cells; its ``predict``, ``embed`` and ``explain`` take an AnnData or a file.
`SimsSettings` and `PRESETS` say what decides a training.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "train": "train_sims",
    "SimsModel": "sims_model",
    "SimsSettings": "tabnet_settings",
    "PRESETS": "tabnet_settings",
}
"""Name -> the module of this package that defines it; it is imported when the name is first used."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
