"""A small labelled reference, and settings that train on it in a second."""

import numpy as np

from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels
from neurofleet.learners.sims.labelled_reference import Reference, reference_of
from neurofleet.learners.sims.tabnet_settings import SimsSettings
from neurofleet.learners.splits import Split, make_split
from tests.learners.cells.made_cells import made_counts, written

QUICK = SimsSettings(n_d=8, n_a=4, epochs=4, batch_size=32, members=2)


def small_reference(folder, n_cells=150, **options) -> Reference:
    cells = open_cells(written(made_counts(n_cells, **options), folder / "reference.h5ad"))
    return reference_of(cells, read_labels(cells, "cell_type"))


def small_split(reference: Reference, test=0.2, validation=0.15) -> Split:
    names = np.asarray(reference.classes)[reference.labels]
    return make_split(reference.cells.cell_ids, names, test=test, validation=validation, seed=3)
