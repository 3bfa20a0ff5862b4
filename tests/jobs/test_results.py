import json

import numpy as np
import pytest

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.results.parameters_at_bounds import on_bounds, positions
from neurofleet.jobs.results.results_command import query, results_command
from neurofleet.jobs.results.run_summary import CellSummary, StageSummary, far_stages, remarks, summaries
from neurofleet.jobs.results.run_tables import RunTables
from tests.jobs.made_run import ACTIVE, write_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "run"
    write_run(root, cells=("a", "b"))
    return root


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    root = tmp_path_factory.mktemp("unfinished") / "run"
    write_run(root, finished=False)
    return root


def test_summary_agrees_with_the_stored_generations(finished):
    a, b = summaries(RunTables(finished))
    assert (a.cell, b.cell) == ("a", "b")
    passive, active = a.stages
    assert (passive.stage, active.stage) == ("passive", "active")
    store = RunStore(finished)
    stored = [g for seed in (1, 2) for g in store.read_generations("a", "active", seed)]
    final = [g for seed in (1, 2) for g in store.read_generations("a", "active_final", seed)]
    assert active.evaluations == sum(map(len, stored)) == active.planned_evaluations
    assert active.finalists == sum(map(len, final))
    assert active.best_total == min(g.totals.min() for g in final)
    assert active.best_mean_score == active.best_total / 4
    assert active.core_hours == pytest.approx(sum(g.seconds.sum() for g in stored + final) / 3600, abs=1e-6)
    assert active.outcomes["timeout"] == sum(g.statuses.count("timeout") for g in stored + final)
    first = active.seeds[0]
    assert (first.seed, first.generations) == (1, 5)
    assert first.median_total == np.median(stored[4].totals)
    assert first.best_total == min(g.totals.min() for g in stored[:5])


def test_summary_tells_finished_from_unfinished(finished, unfinished, tmp_path):
    assert [cell.state for cell in summaries(RunTables(finished))] == ["finished", "finished"]
    (cell,) = summaries(RunTables(unfinished))
    assert cell.state == "unfinished"
    assert [stage.finished for stage in cell.stages] == [True, False]
    assert (cell.hall_of_fame, cell.on_bound) == (0, None)
    store = write_run(tmp_path / "run", finished=False)
    store.append_event("cell failed", cell="a", reason="more than half failed")
    (cell,) = summaries(RunTables(tmp_path / "run"))
    assert (cell.state, cell.reason) == ("failed", "more than half failed")


def test_summary_of_a_run_without_evaluations(tmp_path):
    write_run(tmp_path / "run", generations=0, finished=False)
    (cell,) = summaries(RunTables(tmp_path / "run"))
    assert (cell.state, cell.stages) == ("waiting", ())
    assert query(tmp_path / "run", "select * from evaluations").num_rows == 0
    assert query(tmp_path / "run", "select * from pooled").num_rows == 0


def test_parameters_on_a_bound_are_named_with_their_side(finished):
    hall = RunStore(finished).read_hall_of_fame("a")
    hall.parameters[:, list(hall.parameter_names).index("cm.soma")] = 3.0
    hall.parameters[0, list(hall.parameter_names).index("gbar_NaTs2_t.soma")] = 1e-5  # of 5: as good as off
    hits = {(hit.parameter, hit.side): hit.models for hit in on_bounds(hall, ACTIVE)}
    assert hits["cm.soma", "upper"] == len(hall)
    assert hits["gbar_NaTs2_t.soma", "lower"] == 1
    names, unit = positions(hall, ACTIVE)
    assert names == tuple(ACTIVE)  # g_pas.all was not free
    assert unit.shape == (len(hall), len(ACTIVE))


def test_query_sees_cells_with_different_columns_and_finalists(finished):
    counts = query(
        finished,
        'select cell, stage, seed, count(*) n, count("param.gbar_SK.axon") active from evaluations '
        "group by all order by all",
    ).to_pylist()
    assert {"cell": "a", "stage": "active_final", "seed": 2, "n": 8, "active": 8} in counts
    assert {"cell": "b", "stage": "passive", "seed": 1, "n": 50, "active": 0} in counts
    best = query(finished, "select cell, min(total) best from pooled group by cell order by cell").to_pylist()
    halls = query(finished, "select min(total) best from hall_of_fame group by cell order by cell").to_pylist()
    assert [row["best"] for row in best] == [row["best"] for row in halls]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select totl from evaluations", "total"),
        ("select param.cm.soma from evaluations", '"param.cm.soma"'),
        ('select "gbar_SK" from evaluations', '"param.gbar_SK.axon"'),
        ("select * from evalutions", "evaluations"),
        ("selec 1", "syntax error"),
        ("drop view evaluations", "found DROP"),
        ("select 1; select 2", "found SELECT, SELECT"),
        ("", "found nothing"),
        ("copy evaluations to 'stolen.csv'", "found COPY"),
        ("set threads = 1", "expected one SELECT"),
    ],
)
def test_query_that_cannot_be_run_is_the_users_error(finished, sql, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        query(finished, sql)
    assert str(raised.value).startswith("--query: ")
    assert expected in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_query_reaches_no_file(finished, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for sql in (
        f"select * from '{secret}'",
        f"select * from read_csv('{secret}')",
        f"select * from read_text('{finished}/job.yaml')",
        "select * from glob('*')",
    ):
        with pytest.raises(UsageError, match="disabled by configuration"):
            query(finished, sql)


def test_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for root, found in (
        (tmp_path, "notes.txt"),
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "notes.txt", "a file"),
    ):
        with pytest.raises(UsageError, match="expected the folder of a run") as raised:
            summaries(RunTables(root))
        assert found in str(raised.value)


def test_run_behind_a_uri_is_read_the_same(finished):
    assert summaries(RunTables(finished.as_uri())) == summaries(RunTables(finished))


def test_command_prints_tables_and_json(finished, unfinished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    results_command(str(unfinished), None, False)
    told = capsys.readouterr().out
    assert "0 of 1 cell finished" in told
    assert "active …" in told
    assert "10 crash, 10 timeout of 100 evaluations" in told
    results_command(str(finished), None, True)
    assert [cell["cell"] for cell in json.loads(capsys.readouterr().out)] == ["a", "b"]
    results_command(str(finished), "select * from evaluations", False)
    told = capsys.readouterr().out
    assert "more columns" not in told  # in a pipe or a file there is room for all
    assert "292 more rows" in told
    results_command(str(finished), "select * from pooled limit 1", False)
    assert "param.gbar_NaTs2_t.soma" in capsys.readouterr().out
    results_command(str(finished), "select 'nan'::double x, total, total from pooled limit 1", True)
    row = json.loads(capsys.readouterr().out)[0]
    assert row["x"] is None
    assert row["total"] == row["total_1"]


def stage_that_ended_at(mean_z, name, finished=True):
    return StageSummary(name, finished, (), None, None, 8, 0, {}, 8, 8 * mean_z, 8 * mean_z, mean_z, 0.1)


def test_a_stage_that_others_build_on_is_called_far_from_the_recording():
    def told(*stages):
        return far_stages(CellSummary("c", "unfinished", "", stages, 0, None))

    near, far = stage_that_ended_at(2.9, "ih"), stage_that_ended_at(37.95, "passive")
    assert told(near, stage_that_ended_at(12.0, "active")) == []
    assert told(stage_that_ended_at(37.95, "passive", finished=False), near) == []
    (line,) = told(far, near)
    assert line.startswith("stage passive: the best model is 37.95 standard deviations from the recording on average")
    assert line in remarks(CellSummary("c", "unfinished", "", (far, near), 0, None))
