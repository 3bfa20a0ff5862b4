import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from neurofleet.errors import InputError, UsageError
from neurofleet.faults import faults
from neurofleet.jobs.studies.analysis_inputs import AnalyseSpec
from neurofleet.jobs.studies.analysis_report import AnalysisFindings
from neurofleet.jobs.studies.study import print_study_plan, run_study
from neurofleet.neurosim.studies import random_forest
from tests.neurosim.studies.made_up_models import write_population

CLASSES = {"a": ["a-Cre"], "b": ["b-Cre"]}
LAYER_1 = {"a": {"line": ["a-Cre"], "layer": ["1"]}, "b": {"line": ["b-Cre"], "layer": ["1"]}}
JOB = {
    "kind": "analyse",
    "name": "made",
    "populations": ["models.parquet"],
    "cells": "cells.csv",
    "groupings": {
        "lines": {"column": "line", "classes": CLASSES},
        "layers": {"column": "layer", "forest": False},
    },
    "features": {
        "cells": {"table": "features.csv", "grouping": "lines"},
        "models": {"table": "model_features.csv", "grouping": "lines", "rank": "hof_index"},
    },
    "maps": {"e-features": {"fit": "cells", "place": ["models"]}},
    "expression": {"seq": {"table": "genes.parquet", "grouping": "lines", "column": "cre"}},
    "links": {"Ih": {"mechanisms": ["Ih"], "genes": ["Hcn1"], "features": ["sag"]}},
}


def write_tables(folder):
    """Class b is higher in Kv3.1, in Ih of the soma, in Hcn1 and in sag; its Kcnc1 is lower."""
    write_population(folder, {"a": 12, "b": 11}, models=4)
    cells = pd.read_csv(folder / "cells.csv")
    rng = np.random.default_rng(0)
    is_b = (cells["line"] == "b-Cre").to_numpy()
    features = pd.DataFrame(
        {"Cell_id": cells["cell_id"], "sag": rng.normal(size=23) + 4 * is_b, "rate": rng.normal(size=23)}
    )
    features.to_csv(folder / "features.csv", index=False)
    several = [features.assign(hof_index=rank, sag=features["sag"] + 0.1 * rank) for rank in range(3)]
    pd.concat(several).to_csv(folder / "model_features.csv", index=False)
    cre = np.repeat(["a-Cre", "b-Cre", "c-Cre"], 20)
    genes = pd.DataFrame({"sample_id": [f"s{n}" for n in range(60)], "cre": cre})
    genes["Hcn1"] = rng.normal(size=60) + 3 * (cre == "b-Cre")
    genes["Kcnc1"] = rng.normal(size=60) - 3 * (cre == "b-Cre")
    genes.to_parquet(folder / "genes.parquet")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    write_tables(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(random_forest, "TREES", (4, 8))
        for out in ("out", "again"):
            run_study(AnalyseSpec.model_validate(JOB), folder, str(folder / out), None, 1)
    return folder


def test_all_tables_are_the_same_bytes_again(analysed):
    tables = sorted(path.name for path in (analysed / "out").glob("*.parquet"))
    assert {"classes.parquet", "links.parquet", "tests.parquet", "map_points.parquet"} <= set(tables)
    assert {"dispersion_cells.parquet", "forest_scores.parquet", "map_regions.parquet"} <= set(tables)
    for name in tables:
        assert (analysed / "out" / name).read_bytes() == (analysed / "again" / name).read_bytes(), name


def test_planted_differences_are_found_side_by_side(analysed):
    links = pd.read_parquet(analysed / "out" / "links.parquet")
    mine = links[links["grouping"] == "lines"].set_index(["table", "quantity"])
    for quantity in (("models", "gbar_Kv3_1.soma"), ("models", "gbar_Ih.soma"), ("seq", "Hcn1")):
        assert mine.loc[quantity, "higher"] == "b"
        assert mine.loc[quantity, "p_adjusted"] < 0.01
    assert mine.loc[("models", "gbar_Ih.soma"), ["n_higher", "n_lower"]].tolist() == [11, 12]
    assert bool(mine.loc[("seq", "Hcn1"), "agrees"])
    assert not bool(mine.loc[("seq", "Kcnc1"), "agrees"])
    assert [bool(mine.loc[(table, "sag"), "agrees"]) for table in ("cells", "models")] == [True, True]


def test_models_are_placed_where_their_likes_are(analysed):
    points = pd.read_parquet(analysed / "out" / "map_points.parquet")
    mine = points[points["map"] == "parameters"]
    fitted, placed = (mine[mine["part"] == part] for part in ("fitted", "placed"))
    assert fitted["rank"].eq(0).all()
    assert len(placed) == 23 * 3, "the best model of each cell is on the map already"
    distances = cdist(placed[["x", "y"]], fitted[["x", "y"]])
    nearest = fitted["cell"].to_numpy()[distances.argmin(axis=1)]
    same_class = placed["cell"].str[0].to_numpy() == pd.Series(nearest).str[0].to_numpy()
    assert same_class.mean() > 0.9


def test_findings_results_and_report_tell_the_same(analysed, capsys):
    AnalysisFindings.print_results(str(analysed / "out"), True)
    found = json.loads(capsys.readouterr().out)
    lines = found["groupings"]["lines"]
    assert lines["classes"] == {"a": 12, "b": 11}
    assert lines["forest"]["f1"] > lines["forest"]["shuffled_f1"]
    assert found["groupings"]["layers"]["forest"] is None
    assert all(row["p_mann_whitney"] < 0.01 for row in lines["dispersion"])
    AnalysisFindings.print_results(str(analysed / "out"), False)
    assert "lines: a / b" in capsys.readouterr().out
    report = (analysed / "out" / "report.html").read_text()
    assert report.count("<svg") == 8, "two groupings, one with links and a forest, and two maps"
    assert "data:image" not in report
    AnalysisFindings.rewrite_report(analysed / "out")
    assert (analysed / "out" / "report.html").read_text() == report


def test_the_plan_tells_classes_and_tables(analysed, capsys):
    print_study_plan(AnalyseSpec.model_validate(JOB), analysed)
    told = capsys.readouterr().out
    assert "a 12, b 11" in told
    assert "seq: 60 rows" in told


@pytest.fixture
def folder(analysed, tmp_path):
    shutil.copytree(analysed, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("out", "again"))
    return tmp_path


def refusal(folder, **changes) -> str:
    """Return what a changed job is refused with; nothing may have been written."""
    spec = AnalyseSpec.model_validate(JOB | changes)
    with pytest.raises((UsageError, InputError)) as refused:
        run_study(spec, folder, str(folder / "never"), None, 1)
    assert not (folder / "never").exists()
    return str(refused.value)


def test_cells_that_are_not_those_of_the_models_are_refused(folder):
    cells = pd.read_csv(folder / "cells.csv")
    cells.assign(cell_id=cells["cell_id"] + 50).to_csv(folder / "cells.csv", index=False)
    assert "found none: its ids are such as 100050" in refusal(folder)


def test_doubled_cells_are_refused(folder):
    cells = pd.read_csv(folder / "cells.csv")
    pd.concat([cells, cells[:1]]).to_csv(folder / "cells.csv", index=False)
    assert "more than one row, such as 100000" in refusal(folder)


def test_parameters_that_no_two_recipes_share_are_refused(folder):
    models = pd.read_parquet(folder / "models.parquet")
    names = [name for name in models if name not in ("cell_id", "hof_index")]
    some = models["cell_id"] < 200_000
    one = models[some]
    other = models[~some].rename(columns={name: f"other_{name}" for name in names})
    pd.concat([one, other]).to_parquet(folder / "models.parquet")
    assert "Expected parameters that all cells share, found none" in refusal(folder)


def test_a_run_without_a_hall_of_fame_is_refused(folder):
    (folder / "run").mkdir()
    assert "found a folder without one" in refusal(folder, populations=["run"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cells": {"table": "cells.csv", "id": "cel_id"}}, "did you mean 'cell_id'"),
        ({"cells": "none.csv"}, "none.csv does not exist"),
        ({"groupings": {"lines": {"column": "lin", "classes": CLASSES}}}, "did you mean 'line'"),
        ({"groupings": {"lines": {"column": "line", "classes": {"a": ["a-Cree"]}}}}, "did you mean 'a-Cre'"),
        (
            {
                "groupings": {
                    "lines": {
                        "classes": {
                            "a": {"line": ["a-Cre"], "layer": ["1"]},
                            "b": {"line": ["b-Cre"], "layer": ["1"]},
                        }
                    }
                }
            },
            "at least 10 cells",
        ),
    ],
)
def test_faults_of_classes_and_columns_are_told(folder, changes, told):
    alone = {"features": {}, "maps": {}, "expression": {}}
    assert told in refusal(folder, **alone, **changes)


def test_a_small_class_is_left_out_of_the_forest_with_a_note(folder, capsys):
    cells = pd.read_csv(folder / "cells.csv")
    cells.loc[cells["line"] == "b-Cre", "line"] = ["b-Cre"] * 10 + ["c-Cre"]
    cells.to_csv(folder / "cells.csv", index=False)
    groupings = {"lines": {"column": "line"}}
    alone = {"features": {}, "maps": {}, "expression": {}, "groupings": groupings}
    print_study_plan(AnalyseSpec.model_validate(JOB | alone), folder)
    assert "left out of the forest: c-Cre (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"uint": "best"}, "did you mean 'unit'"),
        ({"maps": {"m": {"fit": "cell"}}}, "did you mean 'cells'"),
        ({"expression": {"s": {"table": "t", "grouping": "line", "column": "c"}}}, "did you mean 'lines'"),
        ({"groupings": {"lines": {"classes": CLASSES}}}, "name the `column:`"),
    ],
)
def test_faults_of_the_job_name_the_nearest(changes, told):
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as refused:
        AnalyseSpec.model_validate(JOB | changes)
    assert told in faults(refused.value, AnalyseSpec)
