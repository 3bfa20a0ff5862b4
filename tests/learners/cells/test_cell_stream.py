"""Batches: each cell once, the same order again, equal shares, at most so many of a class."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils.data import DataLoader

from neurofleet.errors import LearnerError
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_stream import stream
from neurofleet.learners.cells.normalisation import Normalisation
from tests.learners.cells.made_cells import made_counts, written

N_CELLS = 1000
TRUTH = made_counts(N_CELLS)
ROWS = np.arange(N_CELLS)


@pytest.fixture(scope="module", params=["h5ad", "zarr", "memory"])
def cells(request, tmp_path_factory):
    ending = "h5ad" if request.param == "memory" else request.param
    found = open_cells(written(TRUTH, tmp_path_factory.mktemp("cells") / f"a.{ending}"))
    return found.in_memory() if request.param == "memory" else found


@pytest.fixture(scope="module")
def file_cells(tmp_path_factory):
    return open_cells(written(TRUTH, tmp_path_factory.mktemp("cells") / "a.h5ad"))


def order(batches):
    return np.concatenate([batch.rows.numpy() for batch in batches])


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_brings_each_cell_once_with_its_values(cells, shuffle):
    values = TRUTH.X.toarray()
    rows = np.random.default_rng(0).permutation(N_CELLS)[:700]
    batches = list(stream(cells, rows, 32, block_size=8, fetch_factor=4, shuffle=shuffle))
    assert len(batches) == len(stream(cells, rows, 32)) == 22
    for batch in batches:
        assert batch.dense().dtype == torch.float32
        np.testing.assert_array_equal(batch.dense().numpy(), values[batch.rows.numpy()])
    found = order(batches)
    assert sorted(found) == sorted(rows)
    assert np.array_equal(found, rows) != shuffle


def test_values_are_normalised_on_their_way(cells):
    normalise = Normalisation("counts").apply
    expected = normalise(TRUTH.X).toarray()
    for batch in stream(cells, ROWS, 300, transform=normalise):
        np.testing.assert_array_equal(batch.dense().numpy(), expected[batch.rows.numpy()])


def test_seed_and_epoch_decide_the_order(cells):
    def run(**options):
        return order(stream(cells, ROWS, 64, **options)).tolist()

    assert run(seed=1, epoch=2) == run(seed=1, epoch=2)
    assert len({tuple(run(seed=s, epoch=e)) for s in (0, 1, 1000) for e in (0, 1, 2)}) == 9
    source = stream(cells, ROWS, 64, seed=1)
    source.set_epoch(2)
    assert order(source).tolist() == order(source).tolist() == run(seed=1, epoch=2)


def test_from_disk_a_fetch_reads_blocks_and_mixes_them(file_cells):
    found = order(stream(file_cells, ROWS, 20, block_size=10, fetch_factor=5))
    for fetch in found.reshape(-1, 100):
        assert len(np.unique(fetch // 10)) == 10
        assert (np.diff(fetch) == 1).mean() < 0.1


def test_ranks_get_equal_shares_of_one_epoch(cells):
    shares = [list(stream(cells, ROWS[:999], 50, rank=rank, world_size=2)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    both = np.concatenate([order(share) for share in shares])
    assert len(both) == len(np.unique(both)) == 998
    unshuffled = [order(stream(cells, ROWS[:999], 50, rank=r, world_size=2, shuffle=False)) for r in (0, 1)]
    assert np.concatenate(unshuffled).tolist() == list(range(999))


def test_in_memory_the_ranks_batches_together_are_those_of_one(file_cells):
    cells = file_cells.in_memory()
    whole = list(stream(cells, ROWS, 60, seed=3))
    halves = [list(stream(cells, ROWS, 30, seed=3, rank=rank, world_size=2)) for rank in (0, 1)]
    for one, left, right in zip(whole, *halves, strict=True):
        assert set(one.rows.tolist()) == {*left.rows.tolist(), *right.rows.tolist()}


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("n", [2, 33, 65, 66, 129, 130])
def test_no_batch_of_one_cell_to_learn_from(cells, world_size, n):
    if n < 2 * world_size:
        return
    for rank in range(world_size):
        sizes = [len(batch.rows) for batch in stream(cells, ROWS[:n], 32, rank=rank, world_size=world_size)]
        assert sizes
        assert min(sizes) > 1
        assert sum(sizes) >= n // world_size - 1


def test_at_most_so_many_of_a_class(cells):
    classes = np.repeat([0, 1, 2], [20, 80, 900])
    shuffled = np.random.default_rng(0).permutation(N_CELLS)
    drawn = [
        order(stream(cells, shuffled, 32, epoch=epoch, classes=classes[shuffled], max_per_class=50)) for epoch in (0, 1)
    ]
    for found in drawn:
        assert np.bincount(classes[found]).tolist() == [20, 50, 50]
        assert len(np.unique(found)) == 120
    assert len(np.intersect1d(*drawn)) < 100


def test_cells_drawn_by_weight(cells):
    classes = np.repeat([0, 1], [100, 900])
    found = order(stream(cells, ROWS, 32, weights=np.where(classes == 0, 9.0, 1.0)))
    assert 400 < np.bincount(classes[found])[0] < 600
    assert order(stream(cells, ROWS, 32, weights=1.0 * (classes == 0))).max() < 100


def in_loader(source, context, processes):
    loader = DataLoader(source, batch_size=None, num_workers=processes, multiprocessing_context=context)
    batches = list(loader)
    for batch in batches:
        np.testing.assert_array_equal(batch.dense().numpy(), TRUTH.X[batch.rows.numpy()].toarray())
    return order(batches)


def test_a_loaders_forked_processes_share_the_epoch(cells):
    cells.read([0])  # the file is open before the fork
    found = in_loader(stream(cells, ROWS, 32, fetch_factor=4), "fork", 2)
    assert sorted(found) == ROWS.tolist()


def test_a_loaders_new_process_opens_the_file_itself(file_cells):
    source = stream(file_cells, ROWS, 32, fetch_factor=4)
    assert in_loader(source, "spawn", 1).tolist() == order(source).tolist()


def test_dense_values_in_memory_come_as_dense_batches(tmp_path):
    full = made_counts(50)
    full.X = full.X.toarray() + 1
    cells = open_cells(written(full, tmp_path / "a.h5ad")).in_memory()
    for batch in stream(cells, ROWS[:50], 8):
        assert batch.columns is None
        np.testing.assert_array_equal(batch.values.numpy(), full.X[batch.rows.numpy()])
    logs = cells.in_memory(Normalisation("counts").apply)
    np.testing.assert_array_equal(logs.dense, Normalisation("counts").apply(sp.csr_matrix(full.X)).toarray())


def test_wrong_wishes(cells):
    for options, words in (
        ({"rows": ROWS[:1]}, "at least 2 cells"),
        ({"rows": ROWS[:0], "shuffle": False}, "at least 1 cell"),
        ({"rows": ROWS, "max_per_class": 5}, "class of each cell"),
        ({"rows": ROWS, "max_per_class": 1, "classes": ROWS % 2, "world_size": 2}, "at least 4 cells"),
        ({"rows": ROWS, "max_per_class": 5, "weights": np.ones(N_CELLS)}, "choose one"),
    ):
        with pytest.raises(LearnerError, match=words):
            stream(cells, options.pop("rows"), 32, **options)
