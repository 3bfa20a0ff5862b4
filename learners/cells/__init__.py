"""Cells × genes, for whatever learns from them: opened, checked, aligned, normalised and streamed.

`open_cells` opens files or AnnData as one `CellMatrix`; `read_labels` reads the class of each cell.
``gene_alignment`` brings a query's genes into a model's order, ``normalisation`` recognises what values are and brings
them to logarithms, ``cell_stream`` yields cells in shuffled batches.
"""

from neurofleet.lazy_names import lazy_names

_MODULES = {
    "open_cells": "cell_files",
    "CellMatrix": "cell_matrix",
    "read_labels": "cell_labels",
    "Labels": "cell_labels",
}
__all__ = list(_MODULES)
__getattr__, __dir__ = lazy_names(__name__, _MODULES)
