"""Run folders and models that version 0.1.0 wrote are still read: on the terminal, as SQL, as reports and in Python."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

import neurofleet as nf
from neurofleet.jobs.cli import app
from neurofleet.jobs.job_kinds import VERDICT_LINES, print_verdict
from neurofleet.jobs.reports import html
from neurofleet.jobs.results.run_summary import fit_verdict

WRITTEN = Path(__file__).parent / "old_runs"
ANSWERS = WRITTEN / "answers"
KINDS = sorted(folder.name for folder in WRITTEN.iterdir() if folder.is_dir() and folder.name != "answers")
TABLES = {
    "fit": {"evaluations": 186, "hall_of_fame": 6, "pooled": 6},
    "sims": {"history": 25, "runs": 1, "scores": 8, "split": 150},
    "hippie": {"embeddings": 48, "predictions": 480, "runs": 1, "scores": 10},
    "sensitivity": {"runs": 1, "sensitivity_averages": 18, "sensitivity_indices": 30, "sensitivity_runs": 128},
    "sweep": {"history": 9, "runs": 1, "scores": 5, "split": 150, "stability": 60, "trials": 4},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written-by-0.1.0") / "runs"
    shutil.copytree(WRITTEN, folder, ignore=shutil.ignore_patterns("answers", "README.md"))
    return folder


def neurofleet(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_run_is_finished_and_has_results(runs, kind):
    folder = runs / kind
    assert neurofleet("status", folder).strip()
    json.loads(neurofleet("status", folder, "--json"))
    assert neurofleet("results", folder).strip()
    assert json.loads(neurofleet("results", folder, "--json"))
    run = nf.open_run(folder)
    assert run.status == "finished"
    assert run.kind in {kind, "train"}
    assert run.tables == TABLES.get(kind, run.tables)
    assert str(folder) in repr(run)
    assert run.name in run._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_of_an_old_run_can_be_drawn_again(runs, kind):
    run = nf.open_run(runs / kind)
    page = Path(run.report()).read_text()
    assert run.name in page
    assert page.rstrip().endswith("</html>")
    with io.StringIO() as printed:
        print_verdict(str(runs / kind), Console(file=printed, width=80))
        *found, report, following = printed.getvalue().splitlines()
    assert 2 <= len(found) <= VERDICT_LINES + 1
    assert report == f"  report: {runs / kind}/report.html"
    assert following.startswith("  next: neurofleet ")
    for line in found:  # of one source: the page says the same
        assert line.startswith("  …") or html.escaped(line.strip()) in page


def test_the_verdict_on_an_old_fit_says_how_good_how_sure_and_what_failed(runs):
    hall = pq.read_table(WRITTEN / "fit/hall_of_fame/cell=demo/pooled.parquet", partitioning=None).to_pandas()
    scores = hall.filter(regex=r"^score\.").iloc[hall["total"].argmin()]
    good, sure, far, *_, failed, _next = fit_verdict(str(runs / "fit"))
    assert f"mean |z| of the best model {scores.mean():.4g} (standard deviations" in good
    step, _, feature = scores.idxmax().removeprefix("score.").partition(".soma.")
    assert f"{feature} at {step} {scores.max():.3g}" in good
    by_seed = hall.groupby("seed")["total"].min() / len(scores)
    assert f"mean |z| of their best models {by_seed.min():.4g} to {by_seed.max():.4g}" in sure
    assert "of them distinct; parameters of two models differ by" in sure
    assert far.startswith("stage passive: the best model is 25.09 standard deviations from the recording")
    assert failed == "failed: 0 of 186 evaluations"


def test_the_best_models_of_an_old_fit_are_the_same(runs):
    run = nf.open_run(runs / "fit")
    best = run.hall_of_fame("demo")
    stored = pq.read_table(WRITTEN / "fit/hall_of_fame/cell=demo/pooled.parquet", partitioning=None).to_pandas()
    assert best["total"].tolist() == stored["total"].tolist()
    assert best["rank"].tolist() == sorted(stored["rank"])
    assert len(run.evaluations(stage="active", seed=1)) == 64


def test_all_old_runs_are_one_database(runs):
    rows = nf.open_run(runs / "sweep").sql("select count(*) n from trials")["n"]
    assert rows.tolist() == [4]
    told = neurofleet("results", runs, "--query", "select count(*) n, count(finished) f from runs", "--json")
    assert json.loads(told) == [{"n": len(KINDS), "f": len(KINDS)}]


def test_old_models_answer_as_they_did(runs, tmp_path):
    told = neurofleet("predict", runs / "sims", ANSWERS / "cells.h5ad", "--out", tmp_path / "cells.parquet", "--json")
    assert json.loads(told)["files"] == [str(tmp_path / "cells.parquet")]
    told = neurofleet("embed", runs / "hippie", ANSWERS / "units.npz", "--out", tmp_path / "units.parquet", "--json")
    assert json.loads(told)["files"] == [str(tmp_path / "units.parquet")]
    layout = ("--layout", ANSWERS / "layout.yaml")
    neurofleet("embed", runs / "neuprint", ANSWERS / "recording.npz", *layout, "--out", tmp_path / "recording.parquet")
    for name in ("cells.parquet", "units.parquet", "recording.parquet"):
        before, now = pq.read_table(ANSWERS / name).to_pandas(), pq.read_table(tmp_path / name).to_pandas()
        assert list(now.columns) == list(before.columns)
        for column in before:
            if before[column].dtype.kind != "f":
                same = [np.allclose(a, b, atol=1e-3) if isinstance(a, np.ndarray) else a == b
                        for a, b in zip(before[column], now[column], strict=True)]  # fmt: skip
                assert all(same), (name, column)
            elif column.startswith("umap_"):  # a map comes out differently on another processor
                assert np.isfinite(now[column]).all(), (name, column)
            else:
                np.testing.assert_allclose(now[column], before[column], atol=1e-3, err_msg=f"{name}: {column}")


def test_python_sees_the_same_as_the_command_line(runs):
    model = nf.load_model(runs / "sims")
    assert list(model.classes) == list(nf.open_run(runs / "sims").model().classes) == ["B", "NK", "T"]
