import pandas as pd
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.studies.model_table import class_of_rows, with_ids

TABLE = pd.DataFrame(
    {
        "Cell_id": [11.0, 12.0, 13.0, 14.0],
        "line": ["Pvalb-Cre", "Pvalb-Cre", "Sst-Cre", None],
        "layer": [4, 5, 5, 5],
    }
)


def test_ids_are_found_in_any_case_and_read_as_text():
    assert with_ids(TABLE, "cells", None).index.tolist() == ["11", "12", "13", "14"]


def test_a_missing_id_column_is_told_with_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'Cell_id'"):
        with_ids(TABLE, "cells", "Cel_id")


def test_doubled_ids_are_refused():
    with pytest.raises(InputError, match="one row a cell"):
        with_ids(pd.concat([TABLE, TABLE]), "cells", None)


def test_classes_are_lists_of_values_or_conditions_on_columns():
    table = with_ids(TABLE, "cells", None)
    classes = {"Pvalb L5": {"line": ["Pvalb-Cre"], "layer": ["5"]}, "Sst": ["Sst-Cre"]}
    assert class_of_rows(table, "cells", "line", classes).tolist() == ["", "Pvalb L5", "Sst", ""]


def test_without_classes_each_value_is_one():
    table = with_ids(TABLE, "cells", None)
    assert class_of_rows(table, "cells", "line", {}).tolist() == ["Pvalb-Cre", "Pvalb-Cre", "Sst-Cre", ""]


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ({"Pvalb": ["Pvalb-Cr"]}, "did you mean 'Pvalb-Cre'"),
        ({"Pvalb": {"lin": ["Pvalb-Cre"]}}, "did you mean 'line'"),
        ({"Pvalb": ["Pvalb-Cre"], "L5": {"layer": ["5"]}}, "in both L5 and Pvalb"),
        ({"none": {"line": ["Sst-Cre"], "layer": ["4"]}}, "no row meets all"),
    ],
)
def test_faults_of_classes_are_told(classes, told):
    with pytest.raises(InputError, match=told):
        class_of_rows(with_ids(TABLE, "cells", None), "cells", "line", classes)
