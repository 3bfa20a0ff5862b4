"""Labels from a column: which cells have one, and which columns are none."""

import numpy as np
import pytest

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels, refuse_files_without
from tests.learners.cells.made_cells import made_counts, written


@pytest.fixture
def labelled(tmp_path):
    def put(column):
        cells = made_counts(len(column))
        cells.obs["kind"] = column
        return open_cells(written(cells, tmp_path / "a.h5ad"))

    return put


def test_classes_are_sorted_and_coded(labelled):
    found = read_labels(labelled(["b", "a", "b", "c", "c"]), "kind")
    assert found.classes == ("a", "b", "c")
    assert found.codes.tolist() == [1, 0, 1, 2, 2]
    assert found.counts.tolist() == [1, 2, 2]
    assert found.notes == ("Classes of one cell, which can only be learned from and never tested: a.",)


def test_missing_labels_are_refused_or_left_out(labelled):
    cells = labelled(["b", "", "a", None, "nan", "a", "b"])
    with pytest.raises(CellsRefused, match="3 of 7 cells have no label in 'kind' .cell1, cell3, cell4"):
        read_labels(cells, "kind")
    found = read_labels(cells, "kind", drop_missing=True)
    assert found.rows.tolist() == [0, 2, 5, 6]
    assert found.codes.tolist() == [1, 0, 0, 1]
    assert "3 of 7" in found.notes[0]


@pytest.mark.parametrize("kind", [int, float, str])
def test_numbered_classes(labelled, kind):
    assert read_labels(labelled(np.array([10, 2, 2, 10]).astype(kind)), "kind").classes == ("10", "2")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["a"] * 5, "one class, 'a'"),
        ([0.5, 1.25, 3.0], "fractions such as 0.5"),
        ([f"id{i}" for i in range(40)], "40 different words for 40 cells"),
    ],
)
def test_columns_that_are_no_classes(labelled, column, words):
    with pytest.raises(CellsRefused, match=words):
        read_labels(labelled(column), "kind")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([*range(60)] * 2, "'kind' holds numbers, and each of its 60 values is taken as a class"),
        (["T cell", "T_Cell", "B", "NK", "B "] * 2, "underscores only: 'T cell' and 'T_Cell'."),
    ],
)
def test_columns_that_may_be_no_classes_are_told(labelled, column, words):
    (note,) = read_labels(labelled(column), "kind").notes
    assert words in note


def test_a_column_of_genes_hints_at_a_turned_matrix(labelled, tmp_path):
    turned = open_cells(written(made_counts(9).T.copy(), tmp_path / "t.h5ad"))
    with pytest.raises(CellsRefused, match="'cell_type' belongs to var.*Transpose"):
        read_labels(turned, "cell_type")


def test_no_such_column(labelled):
    with pytest.raises(
        CellsRefused, match=r"no column 'celltype' .did you mean 'cell_type'.*There are: cell_type, donor, kind"
    ):
        read_labels(labelled(["a", "b"]), "celltype")


@pytest.mark.parametrize("name", ["unknown", "Unknown"])
def test_a_class_that_is_called_as_cells_below_the_threshold_is_told(labelled, name):
    (note,) = read_labels(labelled([name, "a", name, "a"]), "kind").notes
    assert f"2 cells are of a class {name!r}. The word is reserved" in note


def test_a_file_without_the_label_of_others_is_named_with_its_nearest_column(tmp_path):
    first, second = made_counts(12), made_counts(12, prefix="other")
    second.obs = second.obs.rename(columns={"cell_type": "celltype"})
    cells = open_cells([written(first, tmp_path / "a.h5ad"), written(second, tmp_path / "b.h5ad")])
    for drop in (False, True):
        with pytest.raises(CellsRefused) as refused:
            read_labels(cells, "cell_type", drop_missing=drop)
        told = str(refused.value)
        assert told.startswith(f"{tmp_path / 'b.h5ad'}: has no 'cell_type' (did you mean 'celltype'?)")
        assert "its columns are donor, celltype." in told
    with pytest.raises(CellsRefused, match=r"a.h5ad: has no 'celltype' \(did you mean 'cell_type'\?\)"):
        refuse_files_without(cells, "celltype")
    refuse_files_without(cells, "donor")
    with pytest.raises(
        CellsRefused, match="did you mean 'cell_type'.*There are: cell_type, donor, celltype"
    ) as refused:
        read_labels(cells, "cell_typ")
    assert "source_file" not in str(refused.value)
