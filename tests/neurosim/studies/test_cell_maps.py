import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.cell_maps import decision_regions, gap_clusters, umap_map


def blobs(centres, each=15, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(centre, spread, size=(each, len(centre))) for centre in centres])


def test_the_gap_statistic_finds_the_number_of_groups():
    flat = blobs([(0, 0), (6, 0), (0, 6), (6, 6)])
    clusters = gap_clusters(flat, seed=1)
    assert clusters.number == 4
    first = np.flatnonzero(clusters.gap[:-1] > clusters.gap[1:] - clusters.gap_sd[1:])[0]
    assert clusters.numbers[first] == 4
    grid, regions = decision_regions(clusters, [flat])
    assert len(set(regions)) == 4
    near = np.linalg.norm(grid - [6, 6], axis=1).argmin()
    assert regions[near] == clusters.model.predict(np.array([[6.0, 6.0]]))[0]


def test_too_few_cells_are_refused():
    with pytest.raises(InputError, match="12 cells or more"):
        umap_map(np.zeros((11, 3)), [], seed=1)
