"""Posteriors as jobs on the pool: two conductances of the demo cell, of which the others are known."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.errors import UsageError
from neurofleet.jobs.results.results_command import results_command
from neurofleet.jobs.run_job import run_job
from neurofleet.jobs.studies.populations import ModelsSpec, read_populations
from neurofleet.jobs.studies.posterior_report import CellPosterior, _predictions
from neurofleet.neurosim.cells.demo_cell import JUNCTION_POTENTIAL_MV, KNOWN_PARAMETERS
from tests.jobs.test_fit import LEFT_OUT

FREE = {"gbar_NaTa_t.axon": (0.0, 10.0), "gbar_Kv3_1.axon": (0.0, 2.0)}
TRUTH = np.array([KNOWN_PARAMETERS[name] for name in FREE])


@pytest.fixture(scope="module")
def fit(demo_recordings, tmp_path_factory) -> Path:
    """The run of a fit with one stage of two parameters, made without searching."""
    folder = tmp_path_factory.mktemp("posterior")
    for name in ("cell.swc", "cell.nwb"):
        shutil.copy(demo_recordings / name, folder / name)
    nested: dict = {}
    for name, value in KNOWN_PARAMETERS.items():
        parameter, section = name.rsplit(".", 1)
        nested.setdefault("parameters" if name in FREE else "fixed", {}).setdefault(parameter, {})[section] = (
            list(FREE[name]) if name in FREE else value
        )
    nested["fixed"] |= {"Ra": {"all": 120}, "gamma_CaDynamics": {"soma": 5e-3}}
    stage = {
        "name": "active",
        "targets": "training",
        "mechanisms": {
            "all": ["pas"],
            "soma": ["Ih", "NaTs2_t", "K_Tst", "K_Pst", "Kv3_1", "SK", "Ca_HVA", "CaDynamics"],
            "axon": ["NaTa_t", "Nap_Et2", "K_Tst", "Kv3_1"],
            "dend": ["Ih", "Im"],
            "apic": ["Ih", "NaTs2_t", "Im"],
        },
        **nested,
        "features": ["voltage_base", "AP_amplitude_from_voltagebase", "AP_width", "mean_frequency"],
    }
    recipe = {"name": "two", "axon": "stub", "hand_over": 0.5, "stages": [stage]}
    recipe["conditions"] = {"celsius": 34, "v_init_mV": -80, "ena_mV": 53, "ek_mV": -107}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    cell = {"id": "demo", "morphology": "cell.swc", "recordings": "cell.nwb", "exclude_sweeps": LEFT_OUT}
    cell |= {"junction_potential_mV": JUNCTION_POTENTIAL_MV, "dendrite": "spiny"}
    job = {"kind": "fit", "name": "two", "cells": [cell], "recipe": "recipe.yaml"}
    store = RunStore(folder / "fit")
    store.parameters = list(FREE)
    models = TRUTH * np.array([[1.0, 1.0], [1.1, 0.9], [0.9, 1.1]])
    totals = np.array([8.0, 9.0, 10.0])
    with store.locked():
        store.write_text("job.yaml", yaml.safe_dump(job))
        store.write_text("provenance.json", json.dumps({"job_folder": str(folder), "inputs": {}}))
        store.append_event("stage started", cell="demo", stage="active", engine="vector")
        store.append_event(
            "stage finished", cell="demo", stage="active", parameters=dict(zip(FREE, TRUTH, strict=True))
        )
        hall = HallOfFameRows(
            cell="demo",
            seeds=np.array([1, 1, 2]),
            generations=np.zeros(3, int),
            individuals=np.arange(3),
            parameter_names=tuple(FREE),
            objective_names=("one", "two"),
            parameters=models,
            scores=np.tile(totals[:, None] / 2, 2),
            totals=totals,
        )
        store.write_hall_of_fame(hall, 1)
        store.write_hall_of_fame(hall, "pooled")
    return folder


def write_job(folder: Path, tmp_path: Path, **changes) -> Path:
    job = {"kind": "posterior", "fit": str(folder / "fit"), "particles": 16, "sweeps": 1, "most_evaluations": 1888}
    path = tmp_path / "sampled.yaml"
    path.write_text(yaml.safe_dump({**job, "draws": 4000, "checked": 0, **changes}))
    return path


@pytest.mark.usefixtures("ray_session")
def test_known_conductances_are_sampled_and_with_more_evaluations_the_chain_goes_on(fit, tmp_path, capsys):
    out = tmp_path / "out"
    run_job(write_job(fit, tmp_path), str(out), cpus=1)
    told = capsys.readouterr().err
    assert "NOT converged" in told
    assert "raise `most_evaluations:`" in told
    first = {path.name: path.read_bytes() for path in out.glob("chains/cell=demo/*.parquet")}
    assert len(first) == 6
    draws = pd.read_parquet(out / "draws/cell=demo/part.parquet")
    for name, true, (low, high) in zip(FREE, TRUTH, FREE.values(), strict=True):
        assert draws[f"param.{name}"].between(low, high).all()
        assert draws[f"param.{name}"].min() < 1.5 * true
    np.testing.assert_allclose([sum(dict(score).values()) for score in draws["score"]], draws["total"])

    run_job(write_job(fit, tmp_path), str(out), cpus=1)
    assert "finished already" in capsys.readouterr().err
    (out / "chains/cell=demo/block-000005.parquet").unlink()  # as a run that was killed leaves it
    (out / "findings.json").unlink()
    (tmp_path / "known.json").write_text(json.dumps(KNOWN_PARAMETERS))
    run_job(write_job(fit, tmp_path, most_evaluations=2200, checked=3, known="known.json"), str(out), cpus=1)
    blocks = {path.name: path.read_bytes() for path in out.glob("chains/cell=demo/*.parquet")}
    assert len(blocks) == 7
    assert {name: blocks[name] for name in first} == first

    found = json.loads((out / "findings.json").read_text())["cells"][0]
    assert found["evaluations"] == 2240
    assert found["outcomes"]["ok"] >= 0.9 * found["evaluations"]
    last_stage = sum(found["last_outcomes"].values()) // 16
    assert found["drawn_steps"] == last_stage - math.ceil(last_stage / 4)
    assert (found["checked"], found["check_failed"]) == (3, 0)
    assert abs(found["check_difference"]) < 5
    convergence = pd.read_parquet(out / "convergence.parquet").set_index("parameter")
    assert found["effective"] == pytest.approx(convergence["effective"].min())
    assert (convergence["q05"] <= convergence["q95"]).all()
    assert convergence["known"].to_dict() == dict(zip(FREE, TRUTH, strict=True))
    assert convergence["known_at"].between(0, 1).all()
    predictions = pd.read_parquet(out / "predictions.parquet")
    assert predictions["protocol"].nunique() > 1
    measured = predictions[predictions["missing"] < 3]
    assert len(measured) > 1
    assert (measured["q05"] <= measured["q95"]).all()
    assert measured["recorded_at"].between(0, 1).all()
    report = (out / "report.html").read_text()
    assert "lies within" in report
    assert "noise of the recording included" in report
    assert "trade against" in report
    assert "scored again by NEURON" in report
    (tmp_path / "known.json").write_text(json.dumps({**KNOWN_PARAMETERS, "gbar_NaTa_t.axon": 0.0}))
    run_job(write_job(fit, tmp_path, most_evaluations=2200, checked=3, known="known.json"), str(out), cpus=1)
    known = pd.read_parquet(out / "convergence.parquet").set_index("parameter")["known"]
    assert known.to_dict() == {"gbar_NaTa_t.axon": 0.0, "gbar_Kv3_1.axon": TRUTH[1]}
    (population,) = read_populations(ModelsSpec(posterior=out, best=5), tmp_path)
    draws = pd.read_parquet(out / "draws/cell=demo/part.parquet")
    assert set(population.parameters) == set(FREE)
    drawn = draws[[f"param.{name}" for name in population.parameters]].to_numpy()
    np.testing.assert_array_equal(population.values, drawn[:5])
    assert any("not converged" in note for note in population.notes) == (not found["converged"])
    capsys.readouterr()
    results_command(str(out), "select count(*) n from posterior_draws", json=True)
    assert json.loads(capsys.readouterr().out) == [{"n": len(draws)}]
    with pytest.raises(UsageError, match="no draws of cell dem.*did you mean 'demo'"):
        read_populations(ModelsSpec(posterior=out, cells=["dem"]), tmp_path)
    with pytest.raises(UsageError, match="Expected the run of a fit, found one of kind posterior"):
        run_job(write_job(fit, tmp_path, fit=str(out)), str(tmp_path / "no"))
    table = out / "draws/cell=demo/part.parquet"
    pq.write_table(pq.read_table(table).slice(0, 0), table)  # as a chain leaves it that ends early
    with pytest.raises(UsageError, match="has no draws of cell demo: sampling ended before"):
        read_populations(ModelsSpec(posterior=out), tmp_path)


def test_what_cannot_be_sampled_is_refused_before_anything_is_written(fit, tmp_path):
    def refused(**changes) -> str:
        with pytest.raises(UsageError) as error:
            run_job(write_job(fit, tmp_path, **changes), str(tmp_path / "no"))
        return str(error.value)

    assert "expected a number of at least 8, found 4" in refused(particles=4)
    (tmp_path / "known.json").write_text('{"gbar": 1}')
    assert "known: expected some of the parameters that are sampled" in refused(known="known.json", checked=0)
    (tmp_path / "known.json").write_text('{"gbar_NaTa_t.axon": NaN}')
    assert "known: expected a JSON file with a number for each" in refused(known="known.json")
    assert "fits no cell dem (did you mean 'demo'?)" in refused(cells=["dem"])
    assert "most_evaluations: expected at least 1,888 for 16 particles" in refused(most_evaluations=50)
    assert "the best model is far from the recording: demo" in refused(largest_mean_z=0.1)
    assert "job.yaml" in refused(fit="nowhere")
    unfinished = shutil.copytree(fit / "fit", tmp_path / "unfinished")
    shutil.rmtree(unfinished / "pooled")
    assert "has no hall of fame" in refused(fit=str(unfinished))
    assert not (tmp_path / "no").exists()


POSTERIOR = CellPosterior(
    cell="c",
    objectives=5,
    engine="vector",
    particles=16,
    steps=100,
    drawn_steps=60,
    power=1.0,
    evaluations=1600,
    last_outcomes={"ok": 990, "timeout": 7, "error": 3},
    core_seconds=1.0,
    acceptance=0.2,
    best_total=5.0,
    median_total=6.0,
    rhat=1.01,
    rhat_of="a",
    effective=1200.0,
    effective_of="b",
    shift=0.25,
    shift_of="b",
    converged=False,
    checked=4,
)


def test_the_verdict_tells_how_sure_it_is_and_what_failed():
    told = POSTERIOR.verdict(1000)
    assert "NOT converged, at least 1,200 effective draws" in told
    assert "up to 0.25 standard deviations apart (b)" in told
    assert "failed" not in told
    assert POSTERIOR.failed_line() == (
        "10 of 1,000 evaluations of the last stage failed (timeout 7, error 3) and count as density zero"
    )
    worse = replace(POSTERIOR, rhat=1.2, last_outcomes={"ok": 900, "timeout": 100}).verdict(1000)
    assert "about 1,200 effective draws of each parameter, with particles taken as independent" in worse
    assert "100 of 1,000 evaluations of the last stage failed (timeout 100)" in worse
    assert "give another --out" in worse


def test_each_recorded_value_counts_once_beside_predictions_and_none_may_be_predicted():
    def row(draws: int, missing: int, at: float | None) -> dict:
        about = {"feature": "AP_width", "protocol": f"p{missing}", "amplitude_nA": 0.1 * missing}
        about |= {"recorded": 1.0, "recorded_std": 0.1, "draws": draws, "missing": missing, "recorded_at": at}
        return about | {f"q{q:02d}": None if at is None else 1.0 for q in (5, 25, 50, 75, 95)}

    (figure,) = _predictions(POSTERIOR, [row(4, 0, 0.5), row(4, 1, 0.9), row(4, 3, 0.5), row(4, 4, None)])
    assert "Of 2 recorded values, 1 lie within the central 50 %" in figure
    assert "2 more are of e-features that most draws do not have" in figure
    assert "None of 4 draws could be simulated" in _predictions(POSTERIOR, [row(0, 0, None)])[0]
    assert "None of 3 draws that NEURON simulated there has" in _predictions(POSTERIOR, [row(3, 3, None)])[0]
