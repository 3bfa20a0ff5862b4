"""Cells × genes, for whatever learns from them: opened, checked, aligned, normalised and streamed.

`open_cells` opens files or AnnData as one `CellMatrix`; `read_labels` reads the class of each cell.
``gene_alignment`` brings a query's genes into a model's order, ``normalisation`` recognises what values are and brings
them to logarithms, ``cell_stream`` yields cells in shuffled batches.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "open_cells": "cell_files",
    "CellMatrix": "cell_matrix",
    "read_labels": "cell_labels",
    "Labels": "cell_labels",
}
"""Name -> the module of this package that defines it; it is imported when the name is first used."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
