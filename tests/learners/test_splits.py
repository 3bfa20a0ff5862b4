"""Splits: each class in each part, groups kept together, nothing tested that was trained on."""

import numpy as np
import pandas as pd
import pytest

from neurofleet.errors import LearnerError
from neurofleet.learners.splits import (
    Split,
    leave_type_out,
    make_folds,
    make_split,
    read_splits,
    some_of_each_class,
    split_table,
    splits_from_table,
    write_splits,
)

SIZES = {"A": 200, "B": 61, "C": 10, "D": 3, "E": 2, "F": 1}


@pytest.fixture
def labels():
    return np.random.default_rng(0).permutation(np.repeat(list(SIZES), list(SIZES.values())))


@pytest.fixture
def ids(labels):
    return np.array([f"cell-{i}" for i in range(len(labels))])


def counts(split, labels, role):
    return {name: int((labels[split.rows(role)] == name).sum()) for name in SIZES}


def test_fractions_are_honoured_in_each_class(ids, labels):
    split = make_split(ids, labels, test=0.2, validation=0.15, seed=3)
    test, validation = counts(split, labels, "test"), counts(split, labels, "validation")
    assert (test["A"], validation["A"]) == (40, 30)
    assert test["B"] in (12, 13)
    assert validation["B"] in (9, 10)
    assert (test["D"], validation["D"], counts(split, labels, "train")["D"]) == (1, 1, 1)
    assert abs(len(split.rows("test")) - 0.2 * len(labels)) <= 2
    assert sum(len(split.rows(role)) for role in ("train", "validation", "test")) == len(labels)


def test_many_small_classes_do_not_inflate_a_part():
    labels = np.repeat([f"type-{i:03d}" for i in range(150)], 10)
    split = make_split(np.arange(1500), labels, test=0.2, validation=0.15)
    assert len(split.rows("validation")) == 225
    assert len(split.rows("test")) == 300


def test_classes_too_rare_stay_in_training_and_are_listed(ids, labels):
    split = make_split(ids, labels)
    assert counts(split, labels, "train")["E"] == 2
    assert counts(split, labels, "train")["F"] == 1
    assert any("E (2), F (1)" in note for note in split.notes)


def test_the_seed_decides_and_the_order_of_cells_does_not_change_the_fingerprint(ids, labels):
    first, again, other = (make_split(ids, labels, seed=seed) for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    order = np.random.default_rng(5).permutation(len(ids))
    assert Split(ids[order], first.fold[order], first.role[order]).fingerprint == first.fingerprint


def test_unlabelled_cells_are_excluded(ids, labels):
    labels = labels.astype(object)
    labels[:4] = [None, np.nan, "", pd.NA]
    split = make_split(ids, labels)
    assert split.rows("excluded").tolist() == [0, 1, 2, 3]
    assert any("4 samples have no label" in note for note in split.notes)


def test_categorical_labels_with_gaps_are_read(ids, labels):
    column = pd.Series(pd.Categorical(labels))
    column[7] = None
    split = make_split(ids, column)
    assert split.rows("excluded").tolist() == [7]


def test_a_group_is_tested_as_a_whole(ids, labels):
    donor = np.array(["3pv1", "3pv2", "5p"])[np.arange(len(ids)) % 3]
    split = make_split(ids, labels, test={"donor": ["5p"]}, validation=0.15, columns={"donor": donor})
    assert set(donor[split.rows("test")]) == {"5p"}
    assert "5p" not in donor[split.rows("train")]
    assert "5p" not in donor[split.rows("validation")]
    assert len(split.rows("validation")) > 20


def test_both_parts_by_group_and_columns_as_a_data_frame(ids, labels):
    table = pd.DataFrame({"donor": np.array(["a", "b", "c"])[np.arange(len(ids)) % 3]})
    split = make_split(ids, labels, test={"donor": ["a"]}, validation={"donor": "b"}, columns=table)
    assert set(table.donor[split.rows("validation")]) == {"b"}
    assert set(table.donor[split.rows("train")]) == {"c"}


def test_classes_that_only_the_test_group_holds_are_noted(ids, labels):
    donor = np.where(np.isin(labels, ["D"]), "late", "early")
    split = make_split(ids, labels, test={"donor": ["late"]}, columns={"donor": donor})
    assert any("never trained on: D (3)" in note for note in split.notes)


@pytest.mark.parametrize(
    ("test", "validation", "message"),
    [
        ({"doner": ["5p"]}, 0.1, r"did you mean 'donor'"),
        ({"donor": ["5pp"]}, 0.1, r"no group '5pp' \(did you mean '5p'\?\)"),
        ({"donor": ["5p"]}, {"donor": ["5p"]}, "groups of both the test and the validation"),
        ({"donor": ["3p", "5p"]}, 0.1, "left to train on"),
        (0.6, 0.4, "leave nothing to train on"),
        (1.2, 0.1, "expected a fraction"),
    ],
)
def test_impossible_requests_are_refused(ids, labels, test, validation, message):
    donor = np.array(["3p", "5p"])[np.arange(len(ids)) % 2]
    with pytest.raises(LearnerError, match=message):
        make_split(ids, labels, test=test, validation=validation, columns={"donor": donor})


def test_repeated_names_of_cells_are_refused(labels):
    with pytest.raises(LearnerError, match="repeated, such as same"):
        make_split(["same"] * len(labels), labels)


def test_folds_test_each_cell_once_and_validate_on_none_of_them(ids, labels):
    folds = make_folds(ids, labels, 5, seed=42)
    times = sum((split.role == "test").astype(int) for split in folds)
    common = np.isin(labels, ["A", "B", "C"])
    assert (times[common] == 1).all()
    assert (times[~common] == 0).all()
    for number, split in enumerate(folds):
        assert set(split.fold) == {number}
        assert counts(split, labels, "test")["A"] == 40
        assert counts(split, labels, "validation")["A"] == pytest.approx(0.15 * 160, abs=1)
        assert any("D (3), E (2), F (1)" in note for note in split.notes)


def test_folds_by_group_keep_groups_together(ids, labels):
    animal = np.array([f"m{i % 7}" for i in range(len(ids))])
    for n in (3, 7):
        folds = make_folds(ids, labels, n, group="animal", columns={"animal": animal})
        tested = [set(animal[split.rows("test")]) for split in folds]
        assert sorted(member for part in tested for member in part) == sorted(set(animal))
        for split, part in zip(folds, tested, strict=True):
            assert not part & set(animal[split.rows("train")])
    with pytest.raises(LearnerError, match="at most 7 folds"):
        make_folds(ids, labels, 8, group="animal", columns={"animal": animal})


def test_a_type_left_out_is_only_tested(ids, labels):
    split = leave_type_out(make_split(ids, labels), labels, "B")
    assert counts(split, labels, "test")["B"] == 61
    assert counts(split, labels, "train")["A"] > 0
    with pytest.raises(LearnerError, match="No cell is labelled 'b'"):
        leave_type_out(split, labels, "b")


def test_splits_come_back_from_parquet(tmp_path, ids, labels):
    folds = make_folds(ids, labels, 3)
    write_splits(tmp_path / "split.parquet", folds)
    assert list(pd.read_parquet(tmp_path / "split.parquet").columns) == ["sample_id", "fold", "role"]
    back = read_splits(tmp_path / "split.parquet")
    assert [split.fingerprint for split in back] == [split.fingerprint for split in folds]
    assert [split.notes for split in back] == [split.notes for split in folds]
    assert (back[2].sample_ids == ids).all()
    assert [path.name for path in tmp_path.iterdir()] == ["split.parquet"]


def test_a_changed_or_foreign_file_is_refused(tmp_path, ids, labels):
    table = split_table([make_split(ids, labels)])
    roles = table["role"].to_pylist()
    roles[0] = "test" if roles[0] == "train" else "train"
    changed = table.set_column(2, "role", [roles])
    with pytest.raises(LearnerError, match="was changed after it was written"):
        splits_from_table(changed)
    with pytest.raises(LearnerError, match="expected the columns sample_id, fold, role"):
        splits_from_table(table.drop_columns(["role"]))
    (tmp_path / "split.parquet").write_text("nothing")
    with pytest.raises(LearnerError, match="cannot be read as a split"):
        read_splits(tmp_path / "split.parquet")


def test_numbers_name_groups_that_a_column_holds_as_fractions(ids, labels):
    donors = np.where(np.arange(len(ids)) % 2, 1.0, 2.0)
    split = make_split(ids, labels, test={"donor": ["1"]}, validation=0.0, columns={"donor": donors})
    assert set(donors[split.rows("test")]) == {1.0}
    same = make_split(ids, labels, test={"donor": ["1.0"]}, validation=0.0, columns={"donor": donors})
    assert same.fingerprint == split.fingerprint
    words = np.where(donors == 1.0, "1", "1.0")
    split = make_split(ids, labels, test={"donor": ["1"]}, validation=0.0, columns={"donor": words})
    assert set(words[split.rows("test")]) == {"1"}


def test_samples_without_a_group_are_in_no_group(ids, labels):
    donors = np.array(["a", "b", None], dtype=object)[np.arange(len(ids)) % 3]
    columns = pd.DataFrame({"donor": donors})
    split = make_split(ids, labels, test={"donor": ["a"]}, validation=0.0, columns=columns)
    assert set(donors[split.rows("test")]) == {"a"}
    with pytest.raises(LearnerError, match=r"test: donor has no group 'A' \(did you mean 'a'\?\). There are: a, b."):
        make_split(ids, labels, test={"donor": ["A"]}, columns=columns)
    with pytest.raises(LearnerError, match="labelled samples have no donor, such as"):
        make_folds(ids, labels, 2, group="donor", columns=columns)


def test_some_of_each_class_keep_rare_ones():
    codes = np.repeat([0, 1, 2], [900, 90, 10])
    places = some_of_each_class(codes, 100, seed=1)
    assert np.bincount(codes[places]).tolist() == [90, 20, 10]
    assert (np.diff(places) > 0).all()
    np.testing.assert_array_equal(places, some_of_each_class(codes, 100, seed=1))
