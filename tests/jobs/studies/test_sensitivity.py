"""Sensitivity analyses as jobs: a small spiking cell on the pool, and every fault of a job file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.job_file import load_job
from neurofleet.jobs.studies.findings import FINDINGS
from neurofleet.jobs.studies.sensitivity import SensitivityStudy, agreements, average_indices
from neurofleet.jobs.studies.study import run_study
from neurofleet.neurosim.cells.cell_model import Conditions
from neurofleet.neurosim.exchange.allen_fit import write_fit
from neurofleet.neurosim.studies.polynomial_chaos import polynomial_chaos
from tests.jobs.made_run import write_run
from tests.neurosim.cells.small_cells import NO_APICAL_SWC

PARAMETERS = {
    "Ra.all": 100.0, "cm.all": 1.0, "g_pas.all": 3e-5, "e_pas.all": -75.0,
    "gbar_NaTs2_t.soma": 2.0, "gbar_Kv3_1.soma": 0.8, "gbar_K_Tst.soma": 0.0,
}  # fmt: skip
FEATURES = ["Spikecount", "AP_amplitude", "voltage_base"]


def write_job(folder: Path, **changes) -> Path:
    """Write a model, as a fit file, and the job of its sensitivity."""
    (folder / "cell.swc").write_text(NO_APICAL_SWC)
    write_fit(
        folder / "fit.json",
        PARAMETERS,
        {"all": ("pas",), "soma": ("NaTs2_t", "Kv3_1", "K_Tst")},
        Conditions(v_init_mV=-75.0),
        sections=("soma", "dend", "axon"),
    )
    job = {
        "kind": "sensitivity",
        "models": {"fits": [{"id": "cell-0", "fit": "fit.json", "morphology": "cell.swc"}]},
        "parameters": ["gbar_NaTs2_t.soma", "e_pas.soma"],
        "features": FEATURES,
        "step": {"amplitude_nA": 0.3, "start_ms": 20, "stop_ms": 60},
        **changes,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in job.items() if value is not None}))
    return path


def run(job: Path, out: Path) -> dict:
    run_study(load_job(job), job.parent, str(out), None, 1)
    return json.loads((out / FINDINGS).read_text())


@pytest.mark.usefixtures("ray_session")
def test_indices_of_a_spiking_cell_with_a_check_and_again_from_its_runs(tmp_path):
    job, out = write_job(tmp_path, check="salib", check_points=16), tmp_path / "out"
    found = run(job, out)

    runs = pd.concat(map(pd.read_parquet, sorted(out.glob("runs/**/polynomial-chaos-*.parquet"))))
    assert len(runs) == 32
    assert found["outcomes"] == {"ok": 32 + 16 * 4}
    assert runs["Spikecount"].min() >= 1
    rows = pd.read_parquet(out / "indices.parquet")
    assert len(rows) == 3 * 3 * 2
    mine = rows[rows["engine"] == "polynomial-chaos"].set_index(["feature", "parameter"])
    # What resting voltage depends on is known: hardly on sodium.
    assert mine.loc[("voltage_base", "e_pas.soma"), "first"] > 0.9
    assert mine.loc[("voltage_base", "e_pas.soma"), "surrogate_error"] < 0.05
    (subject,), _ = SensitivityStudy(load_job(job), tmp_path).read_checked()
    nodes, values = runs[list(subject.parameters)].to_numpy(), runs[FEATURES].to_numpy()
    truth = polynomial_chaos(subject.problems[0], nodes, values, FEATURES)
    np.testing.assert_allclose(mine["total"].to_numpy().reshape(3, 2), truth.total)
    pairs = {(one["of"], one["engine"]) for one in found["agreements"]}
    assert pairs == {("polynomial-chaos", "salib"), ("best-order", "salib")}
    assert all(one["best_median_error"] <= one["median_error"] for one in found["surrogates"][1:])
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "e_pas.soma" in page

    # As if it had been stopped before its end: nothing is simulated again, and it comes out the same.
    stored = {file: file.stat().st_mtime_ns for file in out.glob("runs/**/*.parquet")}
    (out / FINDINGS).unlink()
    assert run(job, out)["averages"] == found["averages"]
    assert {file: file.stat().st_mtime_ns for file in out.glob("runs/**/*.parquet")} == stored


def test_the_model_itself_is_in_the_middle_of_its_runs(tmp_path):
    (subject,), notes = SensitivityStudy(load_job(write_job(tmp_path)), tmp_path).read_checked()
    nodes = subject.problems[0].values(np.full((1, 2), 0.5))
    (individual,) = subject.individuals(0, nodes)
    np.testing.assert_allclose(individual, subject.population.values[0])
    assert notes == ["cell-0: 1 model at step (300 pA), gbar_NaTs2_t.soma, e_pas.soma moved by ±10 %."]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"parameters": ["gbar_NaTs2_t.soma", "gbar_Kv31.soma"]},
            r"gbar_Kv31.*did you mean 'gbar_Kv3_1.soma'",
        ),
        ({"parameters": None}, "K_Tst.soma. Leave such parameters out"),
        ({"features": ["AP_widht"]}, r"eFEL has no AP_widht \(did you mean 'AP_width'\?\)"),
        ({"features": ["check_AISInitiation"]}, "compares two voltages"),
        ({"step": None}, "no protocol is known for it"),
    ],
)
def test_what_the_models_do_not_have_is_said_before_anything_is_written(tmp_path, changes, told):
    job = write_job(tmp_path, **changes)
    with pytest.raises((UsageError, InputError), match=told):
        run(job, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"parameters": ["gbar_NaTs2_t.soma"]}, "parameters: .*at least 2"),
        ({"parameters": ["a", "a"]}, "a is there more than once"),
        ({"half_width": 0}, "half_width: .*a number above 0"),
        ({"half_width": 1.0}, "half_width: .*a number below 1"),
        ({"protocol": "LongDC_1"}, "not both"),
        ({"check": "salib", "check_points": 100}, "power of two"),
        ({"half_widht": 0.1}, "did you mean 'half_width'"),
        ({"engine": "chaospy"}, "polynomial-chaos"),
        ({"step": {"amplitude_nA": 0.1, "start_ms": 20, "stop_ms": 10}}, "stop_ms must be after"),
    ],
)
def test_faults_of_the_job_file_are_named(tmp_path, changes, told):
    with pytest.raises(UsageError, match=told):
        load_job(write_job(tmp_path, **changes))


def test_models_that_are_not_there_are_refused(tmp_path):
    fit = {"id": "a", "fit": "gone/fit.json", "morphology": "cell.swc"}
    with pytest.raises(UsageError, match="fit.json does not exist"):
        run(write_job(tmp_path, models={"fits": [fit]}), tmp_path / "out")
    write_run(tmp_path / "unfinished", finished=False)
    with pytest.raises(UsageError, match="has no hall of fame: the fit has not come to its end"):
        run(write_job(tmp_path, models={"run": "unfinished"}), tmp_path / "out")
    with pytest.raises(UsageError, match="nowhere"):
        run(write_job(tmp_path, models={"run": "nowhere"}), tmp_path / "out")


def test_the_strongest_step_that_trained_is_chosen_unless_another_is_named(shared_data, tmp_path):
    mouse = shared_data / "neuron" / "allen_483101699"
    shutil.copytree(mouse, tmp_path / "mouse")
    fit = {
        "id": "483101699",
        "fit": "mouse/483101699_fit.json",
        "morphology": "mouse/483101699.swc",
        "targets": "mouse",
    }
    common = {"models": {"fits": [fit]}, "step": None, "parameters": None}
    (subject,), _ = SensitivityStudy(load_job(write_job(tmp_path, **common)), tmp_path).read_checked()
    assert subject.protocol.name == "LongDC_56"  # the block check is stronger, but no Long Square
    assert len(subject.parameters) == 6
    (subject,), _ = SensitivityStudy(
        load_job(write_job(tmp_path, **common, protocol="LongDC_50")), tmp_path
    ).read_checked()
    assert subject.protocol.amplitude_nA == pytest.approx(0.17)
    with pytest.raises(UsageError, match=r"no LongDC_5 \(did you mean 'LongDC_5"):
        SensitivityStudy(load_job(write_job(tmp_path, **common, protocol="LongDC_5")), tmp_path).read_checked()


def index_row(cell, engine, first, total, low=None, high=None):
    ends = {f"{kind}_{end}": value for kind in ("first", "total") for end, value in (("low", low), ("high", high))}
    about = {"cell": cell, "seed": 0, "rank": 0, "engine": engine, "feature": "f", "parameter": "p"}
    return about | {"first": first, "total": total} | ends


def test_routes_are_compared_where_both_have_an_index():
    rows = [
        index_row("a", "polynomial-chaos", 0.50, 0.60),
        index_row("b", "polynomial-chaos", 0.10, None),
        index_row("a", "salib", 0.45, 0.75, low=0.4, high=0.55),
        index_row("b", "salib", 0.10, 0.20, low=0.0, high=0.2),
        index_row("a", "uncertainpy", 0.501, 0.6),
    ]
    uncertainpy, salib = agreements(rows)
    assert (salib.indices, salib.inside_interval) == (3, 2)
    assert salib.largest_difference == pytest.approx(0.15)
    assert (uncertainpy.indices, uncertainpy.inside_interval) == (2, None)
    assert uncertainpy.largest_difference == pytest.approx(0.001)


def test_means_are_over_cells_and_without_interval_for_one_model():
    rows = [index_row(cell, "polynomial-chaos", first, first) for cell, first in (("a", 0.2), ("b", 0.4))]
    (mean,) = average_indices(rows, seed=1)
    assert mean.first == pytest.approx(0.3)
    assert mean.first_low == pytest.approx(0.2)
    assert mean.cells == mean.models == 2
    (one,) = average_indices(rows[:1], seed=1)
    assert one.first_low is None
