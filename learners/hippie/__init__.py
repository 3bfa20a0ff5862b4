"""HIPPIE: spike-sorted units embedded and named from waveform and spike timing.

``train`` trains a `HippieModel` on labelled units; its ``predict`` and ``embed`` take units in memory or files.
`HippieSettings` and `PRESETS` say what decides a training.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "train": "train_hippie",
    "HippieModel": "hippie_model",
    "HippieSettings": "autoencoder_settings",
    "PRESETS": "autoencoder_settings",
}
"""Name -> the module of this package that defines it; it is imported when the name is first used."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
