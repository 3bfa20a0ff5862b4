"""Many cells named by a table or by a pattern."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import load_job

HEADER = "id,morphology,recordings"


@pytest.fixture
def job(tmp_path):
    """Write a job with these `cells`, and a table; return how it is read."""

    def load(cells, table="", name="cells.csv", encoding="utf-8"):
        if table:
            (tmp_path / name).write_text(table, encoding=encoding)
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump({"cells": cells}))
        return load_job(path).cells

    load.folder = tmp_path
    return load


def refusal(job, *arguments, **table):
    with pytest.raises(UsageError) as refused:
        job(*arguments, **table)
    told = str(refused.value)
    assert "job.yaml" in told
    return told


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_a_csv_file_as_a_spreadsheet_writes_it(job):
    cells = job(
        {"from": "cells.csv"},
        "id,morphology,recordings,stimuli,exclude_sweeps,dendrite,weight\r\n"
        '001,"a, left.swc",a.nwb,IDrest; IV,3;5,,2.5\r\n'
        "\r\n"
        "1e5, b.swc ,b.nwb,,,aspiny,\r\n",
        encoding="utf-8-sig",
    )
    first, second = cells
    assert (first.id, second.id) == ("001", "1e5")
    assert (str(first.morphology), str(second.morphology)) == ("a, left.swc", "b.swc")
    assert (first.stimuli, first.exclude_sweeps, first.weight) == (["IDrest", "IV"], [3, 5], 2.5)
    assert (second.stimuli, second.exclude_sweeps, second.weight) == (["Long Square"], [], None)
    assert (first.dendrite, second.dendrite) == ("spiny", "aspiny")


def test_a_parquet_file(job):
    table = pa.table(
        {
            "id": [485574832, 7],
            "morphology": ["a.swc", "b.swc"],
            "recordings": ["a.nwb", "b.nwb"],
            "junction_potential_mV": [12.0, float("nan")],
            "stimuli": [["IV"], None],
            "axon": [None, "full"],
        }
    )
    pq.write_table(table, job.folder / "cells.parquet")
    first, second = job({"from": "cells.parquet"})
    assert (first.id, second.id) == ("485574832", "7")
    assert (first.junction_potential_mV, second.junction_potential_mV) == (12.0, 14.0)
    assert (first.stimuli, second.stimuli) == (["IV"], ["Long Square"])
    assert (first.axon, second.axon) == (None, "full")


def test_shared_keys_serve_rows_without_a_value_of_their_own(job):
    cells = job(
        {"from": "cells.csv", "dendrite": "aspiny", "stimuli": ["IV"]},
        f"{HEADER},dendrite\na,a.swc,a.nwb,\nb,b.swc,b.nwb,spiny\n",
    )
    assert [cell.dendrite for cell in cells] == ["aspiny", "spiny"]
    assert [cell.stimuli for cell in cells] == [["IV"], ["IV"]]


def test_a_pattern_finds_recordings_and_the_morphologies_beside_them(job):
    touch(job.folder, "cells/b/b.nwb", "cells/b/b.swc", "cells/b/other.swc", "cells/a/a.nwb", "cells/a/m.ASC")
    touch(job.folder, "cells/c.nwb/inner.txt")
    relative = job({"glob": "cells/*/*.nwb", "dendrite": "aspiny"})
    assert [(cell.id, str(cell.recordings), str(cell.morphology)) for cell in relative] == [
        ("a", "cells/a/a.nwb", "cells/a/m.ASC"),
        ("b", "cells/b/b.nwb", "cells/b/b.swc"),
    ]
    assert {cell.dendrite for cell in relative} == {"aspiny"}
    absolute = job({"glob": f"{job.folder}/cells/*/*.nwb"})
    assert [cell.morphology for cell in absolute] == [str(job.folder / cell.morphology) for cell in relative]
    assert [cell.recordings for cell in absolute] == [str(job.folder / cell.recordings) for cell in relative]


def test_a_pattern_with_one_morphology_for_all(job):
    touch(job.folder, "day1/x.nwb", "day1/y.nwb")
    cells = job({"glob": "day1/*.nwb", "morphology": "standard.swc"})
    assert [(cell.id, str(cell.morphology)) for cell in cells] == [
        ("x", "standard.swc"),
        ("y", "standard.swc"),
    ]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({}, "expected a list of cells, `from:` (a CSV or Parquet file) or `glob:`"),
        ({"from": "a.csv", "glob": "*.nwb"}, "found from, glob"),
        ({"dendrite": "spiny"}, "found dendrite"),
        ({"from": None}, "cells.from: expected the name of a CSV or Parquet file, found None"),
        ({"glob": ["a*.nwb"]}, "cells.glob: expected a pattern"),
        ({"from": "cells.csv", "dendrit": "spiny"}, "unknown key 'dendrit' (did you mean 'dendrite'?)"),
        ({"from": "none.csv"}, "cells.from none.csv: cannot be read"),
        ({"from": "."}, "cannot be read"),
        ({"glob": "none/*.nwb"}, "cells.glob none/*.nwb: no cells found in"),
        ({"glob": "**.nwb"}, "is not a pattern of files"),
    ],
)
def test_ways_to_name_cells_that_are_none(job, cells, expected):
    assert expected in refusal(job, cells)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "id,morphologie,recordings\na,a.swc,a.nwb\n",
            "unknown column 'morphologie' (did you mean 'morphology'?)",
        ),
        (f"{HEADER}\na,a.swc,a.nwb\nb,b.swc\n", "line 3 has 2 values, and the header names 3 columns"),
        (f"{HEADER}\n\na,a.swc,a.nwb,\n", "line 3 has 4 values"),
        (HEADER + "\n", "no cells found"),
        ("\n", "no cells found"),
        (f"{HEADER},id\na,a.swc,a.nwb,b\n", "more than one column is called 'id'"),
        (f'{HEADER}\n"a,a.swc\n', "cannot be read"),
        (f"{HEADER}\na,a.swc,a.nwb\nb,b.swc,b.nwb\na,c.swc,c.nwb\n", "line 4: has the id a of line 2"),
        (
            f"{HEADER},weight\na,a.swc,a.nwb,1\n\nb,b.swc,b.nwb,much\n",
            "line 4: weight: expected a number",
        ),
        (
            f"{HEADER},exclude_sweeps\na,a.swc,a.nwb,3;x\n",
            "line 2: exclude_sweeps, value 2: expected a whole number",
        ),
        (
            f"{HEADER}\n../a,a.swc,a.nwb\n",
            "line 2: id: expected letters, digits",
        ),
        ("morphology,recordings\na.swc,a.nwb\n", "line 2: id: is missing"),
        (
            "id,morphology\na,a.swc\n",
            "line 2: the cell: name either `recordings:` (NWB, ABF ...) or `targets:`",
        ),
    ],
)
def test_faults_of_a_table_are_told_with_their_lines(job, table, expected):
    told = refusal(job, {"from": "cells.csv"}, table)
    assert expected in told
    assert "cells.from cells.csv" in told


def test_all_faults_are_told_but_not_a_thousand(job):
    rows = [f"c{i},c.swc,c.nwb,{'x' if i else 1}" for i in range(30)]
    told = refusal(job, {"from": "cells.csv"}, "\n".join([f"{HEADER},weight", *rows]))
    assert "line 3:" in told
    assert "line 22:" in told
    assert "line 23:" not in told
    assert "and 9 more" in told


def test_a_parquet_file_that_is_none(job):
    told = refusal(job, {"from": "cells.parquet"}, "no parquet", name="cells.parquet")
    assert "cells.from cells.parquet: not readable as Parquet" in told


def test_rows_of_a_parquet_file_are_counted_from_one(job):
    table = pa.table({"id": ["a", "b"], "morphology": ["m.swc", "m.swc"], "recordings": ["r.nwb", None]})
    pq.write_table(table, job.folder / "cells.parquet")
    assert "row 2: the cell: name either" in refusal(job, {"from": "cells.parquet"})


def test_a_recording_without_a_morphology_or_with_several(job):
    touch(job.folder, "cells/a.nwb")
    assert "a.swc, .asc or .h5 or the only one in its folder; found none" in refusal(job, {"glob": "cells/*.nwb"})
    touch(job.folder, "cells/x.swc", "cells/y.asc")
    told = refusal(job, {"glob": "cells/*.nwb"})
    assert "found x.swc, y.asc. Rename it, or name the cells in a table with `from:`" in told


def test_recordings_of_one_name_in_several_folders(job):
    touch(job.folder, "a/cell.nwb", "a/cell.swc", "b/cell.nwb", "b/cell.swc")
    told = refusal(job, {"glob": "*/cell.nwb"})
    assert "b/cell.nwb: has the id cell of a/cell.nwb" in told
    assert "name the cells in a table with `from:`" in told
