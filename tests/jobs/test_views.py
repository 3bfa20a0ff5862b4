"""Views over all runs below a folder, against what was stored there."""

import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from typer.testing import CliRunner

from neurofleet.cluster.store.folders import RemoteFolder
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import ClusterError, JobError, UsageError
from neurofleet.jobs.cli import app
from neurofleet.jobs.results.folder_listing import FolderReader
from neurofleet.jobs.results.many_runs import AllRuns
from neurofleet.jobs.results.results_command import columns_in_words, opened, query, results_command
from neurofleet.jobs.results.run_tables import RunTables
from tests.jobs.made_root import CLASSES, write, write_job, write_root, write_sample
from tests.jobs.made_run import write_run

RUNS = {
    "classes": ("classes", "analyse", None, True, False),
    "evaluation": ("compared", "evaluate", "hippie", False, False),
    "fits/first": ("made", "fit", None, True, False),
    "fits/second": ("made", "fit", None, False, False),
    "models/hippie": ("made", "sweep", "hippie", True, False),
    "models/sims": ("made", "train", "sims", True, False),
    "sample": ("drawn", "sample", None, True, False),
}


@pytest.fixture(scope="module", autouse=True)
def no_sync():
    """What is made here need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("views") / "root")


@pytest.fixture
def own(root, tmp_path):
    """A copy that may be changed."""
    return shutil.copytree(root, tmp_path / "root")


def ask(root, sql) -> list[tuple]:
    return [tuple(row.values()) for row in query(root, sql).to_pylist()]


def test_every_view_tells_its_rows_runs_and_columns(root, capsys):
    results_command(str(root), None, json=True, views=True)
    views = {view["view"]: view for view in json.loads(capsys.readouterr().out)}
    sizes = {name: (view["rows"], len(view["runs"])) for name, view in views.items()}
    stored = RunStore(root / "fits" / "first"), RunStore(root / "fits" / "second")
    generations = [g for store in stored for key in store.stored() for g in store.read_generations(*key)]
    assert sizes == {
        "evaluations": (sum(map(len, generations)), 2),
        "hall_of_fame": (12, 1),
        "pooled": (sum(len(stored[0].read_hall_of_fame(cell)) for cell in CLASSES), 1),
        "predictions": (6, 2),
        "embeddings": (6, 2),
        "scores": (5, 3),
        "trials": (1, 1),
        "sample_draws": (4, 1),
        "sample_acceptance": (1, 1),
        "analyse_classes": (2, 1),
        "runs": (len(RUNS), len(RUNS)),
    }
    assert views["evaluations"]["unfinished"] == ["fits/second"]
    assert views["pooled"]["unfinished"] == []
    assert views["sample_draws"]["columns"] == {
        "run": "VARCHAR",
        "cell": "VARCHAR",
        "draw": "BIGINT",
        "accepted": "BOOLEAN",
        "feature.AP_width": "DOUBLE",
    }


def test_runs_are_told_with_their_kinds_and_whether_they_are_finished(root, capsys):
    results_command(str(root), None, json=True)
    told = capsys.readouterr()
    rows = {row.pop("run"): tuple(row.values()) for row in json.loads(told.out)}
    assert rows == RUNS
    assert "4 runs are named made: fits/first, fits/second, models/hippie, models/sims" in told.err


def test_models_join_the_classes_of_a_learner(root):
    found = ask(
        root,
        'select p.run, label, avg("param.cm.soma") from pooled p join predictions on cell_id = cell '
        "group by all order by all",
    )
    store = RunStore(root / "fits" / "first")
    for (run, label, mean), cell in zip(found, CLASSES, strict=True):
        hall = store.read_hall_of_fame(cell)
        column = list(hall.parameter_names).index("cm.soma")
        assert (run, label) == ("fits/first", CLASSES[cell])
        assert mean == pytest.approx(hall.parameters[:, column].mean())


def test_columns_of_different_runs_are_united_and_folders_are_columns(root):
    assert ask(root, "select run, set, method, accuracy, n from scores order by all nulls first") == [
        ("evaluation", "x", "head", None, 2),
        ("evaluation", "y", "head", None, 2),
        ("models/hippie", None, "head", 0.75, 100),
        ("models/sims", None, "logistic", 0.7, None),
        ("models/sims", None, "sims", 0.9, None),
    ]
    assert ask(root, "select cell, draw from sample_draws where cell = '7' and draw > 1") == [
        ("7", 2),
        ("7", 3),
    ]
    assert ask(root, "select distinct seed from evaluations where run = 'fits/second' and seed = 2") == [(2,)]
    assert ask(root, "select distinct run from predictions order by 1") == [
        ("evaluation",),
        ("predictions.parquet",),
    ]


def test_a_column_of_two_types_is_read_as_text_and_told_with_both_runs(root, capsys):
    write_root_rows = "select run, unit_id from embeddings where unit_id in ('7', 'u1') order by all"
    assert ask(root, write_root_rows) == [("evaluation", "u1"), ("evaluation", "u1"), ("models/hippie", "7")]
    results_command(str(root), write_root_rows, json=True)
    told = capsys.readouterr().err
    assert "embeddings: column unit_id is string in evaluation, int64 in models/hippie" in told
    assert ask(root, "select sum(umap_0), max(depth_um), count(*) from embeddings") == [(4.0, 11.5, 6)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select * from prediction", "Near names: predictions"),
        ("select * from sampledraws", "sample_draws"),
        ("select accurcy from scores", "Near names: accuracy"),
        ('select "cm.som" from pooled', 'Near names: "param.cm.soma"'),
        ("select param.cm.soma from pooled", '"param.cm.soma"'),
        ("select 1; select 2", "expected one SELECT"),
        ("create table t as select 1", "found CREATE"),
        ("select * from read_text('job.yaml')", "disabled by configuration"),
    ],
)
def test_a_query_that_cannot_be_run_is_the_users_error(root, sql, expected, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(UsageError, match="^--query: ") as raised:
        query(root, sql)
    assert expected in str(raised.value)
    assert "The views are analyse_classes, embeddings" in str(raised.value) or "expected one" in str(raised.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("file", "sql", "damage"),
    [
        ("sample/draws/cell=7/block-000001.parquet", "select * from sample_draws", _cut),
        (
            "fits/first/evaluations/cell=a/stage=active/seed=1/generation-00003.parquet",
            "from evaluations",
            _cut,
        ),
        ("models/hippie/scores.parquet", "select * from scores", _overwrite),
        ("predictions.parquet", "select * from predictions", _cut),
    ],
)
def test_a_damaged_file_is_named(own, file, sql, damage):
    damage(own / file)
    with pytest.raises(JobError, match="cannot be read as Parquet") as raised:
        query(own, sql)
    assert str(own / file) in str(raised.value)
    assert ask(own, "select count(*) from trials") == [(1,)]
    if damage is _cut:
        with pytest.raises(JobError, match=Path(file).name):
            opened(own).views()


def test_only_what_a_query_names_is_opened(root, monkeypatch):
    read = []
    schema = FolderReader.schema

    def noted(self, name, kind=None):
        read.append(name)
        return schema(self, name, kind)

    monkeypatch.setattr(FolderReader, "schema", noted)
    query(root, "select * from trials")
    assert read == ["models/hippie/trials/trials.parquet"]


def test_nothing_is_written_and_a_run_at_work_can_be_asked(own):
    def state():
        return {path: path.stat().st_mtime_ns for path in own.rglob("*")}

    with RunStore(own / "fits" / "second").locked():
        before = state()
        assert ask(own, "select count(distinct run) from evaluations") == [(2,)]
        opened(own).views()
        assert state() == before


def test_merged_generations_count_once(own):
    before = ask(own, "select run, cell, stage, seed, sum(total) from evaluations group by all order by all")
    with RunStore(own / "fits" / "first").locked() as store:
        assert store.compact().files_after > 0
    after = ask(own, "select run, cell, stage, seed, sum(total) from evaluations group by all order by all")
    assert after == [(*row[:-1], pytest.approx(row[-1])) for row in before]


def test_a_root_behind_a_uri_is_asked_the_same(root):
    sql = "select run, cell, total from pooled order by all"
    assert ask(root.as_uri(), sql) == ask(root, sql)
    assert opened(root.as_uri()).views() == opened(root).views()


def test_a_root_in_an_object_store_is_asked_the_same(root, monkeypatch):
    store = SubTreeFileSystem(str(root.parent), LocalFileSystem())
    monkeypatch.setattr("neurofleet.jobs.results.folder_listing.file_system", lambda at: (store, f"{root.name}/"))
    monkeypatch.setattr(
        "neurofleet.jobs.results.folder_listing.open_folder", lambda at: RemoteFolder(at, store, root.name)
    )
    remote = opened("made://bucket/root")
    assert len(remote.runs) == len(RUNS)
    sizes = {one.view: one.rows for one in remote.views()}
    monkeypatch.undo()
    assert sizes == {one.view: one.rows for one in opened(root).views()}


def test_a_fit_alone_is_as_it_was(root, capsys):
    fit = root / "fits" / "second"
    assert isinstance(opened(fit), RunTables)
    assert "run" not in query(fit, "select * from evaluations").column_names
    results_command(str(fit), None, json=True, views=True)
    views = json.loads(capsys.readouterr().out)
    assert [(v["view"], v["rows"], v["unfinished"]) for v in views] == [
        ("evaluations", 150, ["."]),
        ("hall_of_fame", 0, []),
        ("pooled", 0, []),
    ]


def test_a_run_inside_the_folder_of_a_fit_is_found(own):
    write_sample(own / "fits" / "first" / "drawn", finished=False)
    tables = opened(own / "fits" / "first")
    assert isinstance(tables, AllRuns)
    assert [(run.run, run.finished) for run in tables.runs] == [(".", True), ("drawn", False)]


@pytest.mark.parametrize(
    ("folder", "sql", "expected"),
    [
        (
            "models/sims",
            "select method, macro_f1 from scores where run = '.'",
            [("sims", 0.85), ("logistic", 0.6)],
        ),
        ("evaluation", "select set, count(*) from predictions group by 1 order by 1", [("x", 2), ("y", 2)]),
        ("sample", 'select max("feature.AP_width") from sample_draws', [(0.7,)]),
    ],
)
def test_jobs_of_other_kinds_answer_alone(root, folder, sql, expected):
    assert ask(root / folder, sql) == expected


def test_an_unfinished_training_has_no_scores_yet(tmp_path):
    write_job(tmp_path / "sims", {"kind": "train", "learner": "sims", "name": "made"})
    assert ask(tmp_path, "select count(*) from scores") == [(0,)]
    assert ask(tmp_path, "select run, finished from runs") == [("sims", False)]


def test_folders_without_runs_are_refused(tmp_path):
    write(tmp_path / "there" / "notes.parquet", {"mine": [1]})
    for root, found in (
        (tmp_path / "there", "notes.parquet"),
        (tmp_path / "gone", "no such folder"),
        (tmp_path / "there" / "notes.parquet", "a file"),
    ):
        for ask_for in ((None, False), ("select 1", False), (None, True)):
            with pytest.raises(UsageError, match="expected the folder of a run") as raised:
                results_command(str(root), ask_for[0], json=False, views=ask_for[1])
            assert f"found {found}" in str(raised.value)


def test_links_in_a_circle_end(own):
    (own / "again").symlink_to(own)
    assert len(opened(own).runs) == len(RUNS)


def test_options_that_exclude_each_other(root):
    run = CliRunner().invoke
    for other in (["--query", "select 1"], ["--compact"]):
        with pytest.raises(UsageError, match="given together"):
            raise run(app, ["results", str(root), "--views", *other]).exception


def test_views_are_printed_for_reading(root, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    results_command(str(root), None, json=False, views=True)
    lines = capsys.readouterr().out.splitlines()
    assert "trials: 1 row from 1 run" in lines
    assert next(line for line in lines if line.startswith("evaluations")).endswith("unfinished: fits/second")
    assert any("it is read as text here" in line for line in lines)
    assert max(map(len, (line for line in lines if "read as text" not in line))) <= 100


def test_many_columns_of_one_family_are_told_in_short():
    columns = [("unit_id", "VARCHAR"), *((f"phi_{i}", "FLOAT") for i in range(64)), ("param.a", "DOUBLE")]
    told = columns_in_words(columns)
    assert told[:2] == ["unit_id VARCHAR", "phi_0 FLOAT"]
    assert told[-2:] == ["58 more phi_… (all with --json)", '"param.a" DOUBLE']


def test_a_column_that_a_table_calls_run_itself_keeps_its_values(own):
    for number, runs in enumerate(([1, 2], [3], ["four"])):
        place = own / f"it's {number}"
        write_job(place, {"kind": "sensitivity", "name": "made"})
        write(place / "runs" / "cell=a" / "block-0000.parquet", {"run": runs, "value": [0.5] * len(runs)})
    assert ask(own, "select run, cell, own_run, value from sensitivity_runs where value > 0 order by all") == [
        ("it's 0", "a", "1", 0.5),
        ("it's 0", "a", "2", 0.5),
        ("it's 1", "a", "3", 0.5),
        ("it's 2", "a", "four", 0.5),
    ]
    assert ask(own / "it's 0", "select own_run from sensitivity_runs where own_run > 1") == [(2,)]


def test_a_table_of_a_newer_version_is_refused(own):
    place = own / "models" / "hippie" / "trials" / "trials.parquet"
    table = pq.read_table(place)
    pq.write_table(table.replace_schema_metadata({"neurofleet_table": "trials", "schema_version": "99"}), place)
    with pytest.raises(ClusterError, match="schema version 99") as raised:
        query(own, "select * from trials")
    assert str(place) in str(raised.value)


def test_a_fit_with_cells_of_other_parameters_has_them_as_null(own):
    hall = RunStore(own / "fits" / "first").read_hall_of_fame("a")
    store = write_run(own / "fits" / "third", cells=("d",), generations=1)
    names = [name.replace("gbar_SK", "gbar_Ih") for name in hall.parameter_names]
    store.write_hall_of_fame(replace(hall, cell="d", parameter_names=names), "pooled")
    counts = 'count("param.gbar_SK.axon"), count("param.gbar_Ih.axon")'
    assert ask(own, f"select run, {counts} from pooled group by run order by run") == [
        ("fits/first", 2 * len(hall), 0),
        ("fits/third", 0, len(hall)),
    ]


def _examples() -> list[tuple[str, str]]:
    """Blocks of the documentation that ask views: language and content."""
    docs = Path(__file__).parents[2] / "docs"
    text = "\n".join(path.read_text() for path in sorted(docs.glob("populations*.md")))
    section = text[text.index("## Query results") :].split("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_documentation_run(root, tmp_path, monkeypatch, capsys):
    for name, run in {"work": "", "rat": "fits/first", "analysis": "classes"}.items():
        (tmp_path / name).symlink_to(root / run)
    monkeypatch.chdir(tmp_path)
    commands, scope = 0, {}
    for language, block in _examples():
        if language == "python" and ("polars" not in block or find_spec("polars")):
            exec(block, scope)
        elif not language and "--views" not in block:
            for arguments in re.split(r"^neurofleet ", block, flags=re.MULTILINE)[1:]:
                result = CliRunner().invoke(app, shlex.split(arguments))
                assert result.exception is None, arguments
                assert "no rows" not in result.output, arguments
                commands += 1
    assert commands == 6
    printed = capsys.readouterr().out
    assert all(name in printed for name in CLASSES.values())


def test_generations_merged_while_they_are_read_are_read_again(own):
    folder, count = own / "fits" / "first", "select count(*) as n, count(distinct generation) as g from evaluations"
    content = {path: path.read_bytes() for path in folder.glob("evaluations/**/*.parquet")}
    for root in (own, folder):
        tables = opened(root)
        before = tables.table(count).to_pylist()
        with RunStore(folder).locked() as store:
            assert store.compact().files_after > 0
        assert tables.table(count).to_pylist() == before
        for path in folder.glob("evaluations/**/generations-*.parquet"):
            path.unlink()
        for path, was in content.items():
            path.write_bytes(was)
