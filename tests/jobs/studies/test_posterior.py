"""Posteriors as jobs on the pool: two conductances of the demo cell, of which the others are known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import HallOfFameRows
from neurofleet.errors import UsageError
from neurofleet.jobs.results.results_command import results_command
from neurofleet.jobs.run_job import run_job
from neurofleet.jobs.studies.populations import ModelsSpec, read_populations
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
    job = {"kind": "posterior", "fit": str(folder / "fit"), "particles": 16, "sweeps": 2, "most_evaluations": 1600}
    path = tmp_path / "sampled.yaml"
    path.write_text(yaml.safe_dump({**job, "draws": 4000, "checked": 0, **changes}))
    return path


@pytest.mark.usefixtures("ray_session")
def test_known_conductances_are_sampled_and_with_more_evaluations_the_chain_goes_on(fit, tmp_path, capsys):
    out = tmp_path / "out"
    run_job(write_job(fit, tmp_path), str(out), cpus=2)
    told = capsys.readouterr().err
    assert "NOT converged" in told
    assert "raise `most_evaluations:`" in told
    first = {path.name: path.read_bytes() for path in out.glob("chains/cell=demo/*.parquet")}
    assert len(first) == 5
    draws = pd.read_parquet(out / "draws/cell=demo/part.parquet")
    for name, true, (low, high) in zip(FREE, TRUTH, FREE.values(), strict=True):
        assert draws[f"param.{name}"].between(low, high).all()
        assert draws[f"param.{name}"].min() < 1.5 * true
    np.testing.assert_allclose([sum(dict(score).values()) for score in draws["score"]], draws["total"])

    run_job(write_job(fit, tmp_path), str(out), cpus=2)
    assert "finished already" in capsys.readouterr().err
    (out / "chains/cell=demo/block-000004.parquet").unlink()  # as a run that was killed leaves it
    (out / "findings.json").unlink()
    (tmp_path / "known.json").write_text(json.dumps(KNOWN_PARAMETERS))
    run_job(write_job(fit, tmp_path, most_evaluations=1900, checked=3, known="known.json"), str(out), cpus=2)
    blocks = {path.name: path.read_bytes() for path in out.glob("chains/cell=demo/*.parquet")}
    assert len(blocks) == 6
    assert {name: blocks[name] for name in first} == first

    found = json.loads((out / "findings.json").read_text())["cells"][0]
    assert found["evaluations"] == 1920
    assert found["outcomes"]["ok"] >= 0.9 * found["evaluations"]
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


def test_what_cannot_be_sampled_is_refused_before_anything_is_written(fit, tmp_path):
    def refused(**changes) -> str:
        with pytest.raises(UsageError) as error:
            run_job(write_job(fit, tmp_path, **changes), str(tmp_path / "no"))
        return str(error.value)

    assert "expected a number of at least 8, found 4" in refused(particles=4)
    (tmp_path / "known.json").write_text('{"gbar": 1}')
    assert "known: expected some of the parameters that are sampled" in refused(known="known.json", checked=0)
    assert "fits no cell dem (did you mean 'demo'?)" in refused(cells=["dem"])
    assert "most_evaluations: expected at least 1,600 for 16 particles" in refused(most_evaluations=50)
    assert "the best model is far from the recording: demo" in refused(largest_mean_z=0.1)
    assert "job.yaml" in refused(fit="nowhere")
    unfinished = shutil.copytree(fit / "fit", tmp_path / "unfinished")
    shutil.rmtree(unfinished / "pooled")
    assert "has no hall of fame" in refused(fit=str(unfinished))
    assert not (tmp_path / "no").exists()
