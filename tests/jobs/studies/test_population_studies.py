"""Samples, validations and synapses as jobs on the pool, with the demo cell whose parameters are known."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from neurofleet.cluster.pool.pool import Pool
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError, JobError, UsageError
from neurofleet.jobs.job_file import load_job
from neurofleet.jobs.job_kinds import write_report
from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.results.results_command import results_command
from neurofleet.jobs.run_job import run_job
from neurofleet.jobs.status import print_status
from neurofleet.jobs.studies.blocks import _tasks, measure_blocks
from neurofleet.jobs.studies.measurements import Block, measure_engine
from neurofleet.jobs.studies.populations import ModelsSpec, read_populations, told
from neurofleet.neurosim.cells.cell_model import Conditions
from neurofleet.neurosim.cells.demo_cell import JUNCTION_POTENTIAL_MV, KNOWN_PARAMETERS, SWC, demo_model
from neurofleet.neurosim.exchange.allen_fit import write_fit
from tests.jobs.made_run import write_run
from tests.neurosim.recordings.recording_files import membrane_voltage, step_current, write_series


@pytest.fixture
def folder(tmp_path) -> Path:
    """A fit file of the known cell, and its morphology."""
    (tmp_path / "cell.swc").write_text(SWC)
    model = demo_model(tmp_path / "cell.swc")
    write_fit(
        tmp_path / "fit.json",
        KNOWN_PARAMETERS | dict(model.fixed),
        model.mechanisms,
        Conditions(),
        JUNCTION_POTENTIAL_MV,
        sections=("soma", "axon", "dend", "apic"),
    )
    return tmp_path


def write_job(folder: Path, **job) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({"name": "made", **job}))
    return path


def fits(**changes) -> dict:
    return {"fits": [{"id": "demo", "fit": "fit.json", "morphology": "cell.swc", **changes}]}


def findings(out: Path) -> dict:
    return json.loads((out / "findings.json").read_text())


def sample_job(folder: Path, recordings: Path, **changes) -> Path:
    known = {name: value for name, value in KNOWN_PARAMETERS.items() if name != "gbar_NaTa_t.axon"}
    job = {
        "kind": "sample",
        "cells": [{"id": "demo", "morphology": "cell.swc", "recordings": str(recordings / "cell.nwb")}],
        "recipe": "demo",
        "draws": 70,
        "fixed": known,
        "features": ["AP_amplitude_from_voltagebase"],
        "within_z": 2.0,
        **changes,
    }
    return write_job(folder, **job)


@pytest.mark.usefixtures("ray_session")
def test_a_sample_keeps_the_draws_near_the_known_value_and_goes_on_from_stored_blocks(folder, demo_recordings, capsys):
    job, out = sample_job(folder, demo_recordings), folder / "out"
    run_job(job, str(out), cpus=1)
    blocks = sorted(out.glob("draws/cell=demo/*.parquet"))
    draws = pd.concat(map(pd.read_parquet, blocks))
    assert draws["draw"].tolist() == list(range(70))
    assert len(blocks) == 2
    sodium = "param.gbar_NaTa_t.axon"
    assert draws[sodium].between(0, 10).all()
    accepted = pd.read_parquet(out / "accepted/cell=demo/part.parquet")
    assert 0 < len(accepted) == draws["accepted"].sum() < 70
    assert accepted[sodium].min() < KNOWN_PARAMETERS["gbar_NaTa_t.axon"] < accepted[sodium].max()
    rejected = draws[~draws["accepted"]]
    assert rejected["rejected_by"].str.endswith("AP_amplitude_from_voltagebase").all()
    # A draw that misses the weaker step is not run at the stronger one.
    weak, strong = (f"LongDC_{n}.soma.AP_amplitude_from_voltagebase" for n in (25, 30))
    at_strong = rejected.loc[rejected["rejected_by"] == weak, "feature"].map(lambda features: dict(features)[strong])
    assert at_strong.isna().all()
    acceptance = pd.read_parquet(out / "acceptance.parquet").set_index("objective")
    assert acceptance["rejected_first"].sum() == len(rejected)

    blocks[1].unlink()  # the shorter one
    (out / "findings.json").unlink()
    kept = blocks[0].read_bytes()
    print_status(str(out))
    assert "1 of 2 blocks are stored" in capsys.readouterr().out
    run_job(job, str(out), cpus=1)
    again = pd.concat(map(pd.read_parquet, blocks))
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), draws.drop(columns="seconds"))
    assert blocks[0].read_bytes() == kept
    (drawn,) = read_populations(ModelsSpec(sample=out, best=3), folder)
    assert drawn.parameters == ("gbar_NaTa_t.axon",)
    assert drawn.values[:, 0].tolist() == accepted.sort_values("draw")[sodium].tolist()[:3]
    with pytest.raises(UsageError, match="draws for no cell"):
        read_populations(ModelsSpec(sample=out, cells=["dem"]), folder)
    results_command(str(out), "select count(*) n from sample_draws", json=True)
    assert json.loads(capsys.readouterr().out) == [{"n": 70}]


def test_a_sample_names_what_its_cell_does_not_have(folder, demo_recordings):
    def refused(**changes) -> str:
        with pytest.raises(UsageError) as error:
            run_job(sample_job(folder, demo_recordings, **changes), str(folder / "no"))
        return str(error.value)

    assert "gbar_NaTs2_t.soma" in refused(fixed={"gbar_NaTs2t.soma": 1.0})
    assert "did you mean 'AP_width'" in refused(features=["AP_widht"])
    assert "low < high" in refused(bounds={"cm.all": [2, 1]})
    assert "every parameter" in refused(fixed=KNOWN_PARAMETERS)
    assert not (folder / "no").exists()


@pytest.mark.usefixtures("ray_session")
def test_a_validation_of_the_known_cell_finds_its_recorded_spikes(folder, demo_recordings, capsys):
    recordings = {"recordings": str(demo_recordings / "cell.nwb"), "stimuli": ["none of them"]}
    job = write_job(folder, kind="validate", models=fits(**recordings), sweeps_each=6)
    out = folder / "out"
    run_job(job, str(out), cpus=1)
    stimuli = pd.read_parquet(out / "stimuli.parquet")
    assert len(stimuli) == 6
    assert stimuli["recorded_spikes"].max() > 3
    # The recorded steps carry a noise of their own, which moves spikes near threshold.
    assert (stimuli["spikes"] - stimuli["recorded_spikes"]).abs().tolist()[:3] == [0, 0, 0]
    assert (stimuli["spikes"] - stimuli["recorded_spikes"]).abs().sum() <= 4
    told = findings(out)["cells"][0]
    assert (told["models"], told["failed"]) == (1, 0)
    report = Path(write_report(out)).read_text()
    assert "Long Square" in report
    assert "no e-features at unseen steps, no trials of noise; played: Long" in report
    results_command(str(out), None, json=False)
    assert "demo" in capsys.readouterr().out


@pytest.mark.usefixtures("ray_session")
def test_synapses_farther_out_are_weaker_at_the_soma(folder, capsys):
    (folder / "cells.csv").write_text("cell,layer\ndemo,L5\n")
    job = write_job(
        folder,
        kind="synapse",
        models=fits(),
        distances_um=[40, 90, 500],
        classes={"table": "cells.csv", "id": "cell", "column": "layer"},
    )
    out = folder / "out"
    run_job(job, str(out), cpus=1)
    psps = pd.read_parquet(out / "psps.parquet")
    assert psps["section"].tolist() == ["soma", "apic", "apic"]
    assert psps["amplitude_mV"].is_monotonic_decreasing
    assert psps["class"].unique().tolist() == ["L5"]
    assert psps["amplitude_change_percent"].iloc[0] == 0
    for psp in psps.itertuples():  # the potentials that are drawn are those that were read
        assert max(psp.trace_mV) == pytest.approx(psp.amplitude_mV, rel=0.01)
        assert psp.trace_ms[psp.trace_mV.argmax()] == pytest.approx(psp.latency_ms, abs=0.2)
    assert any("500" in note for note in findings(out)["notes"])
    report = Path(write_report(out)).read_text()
    assert "PSP at the soma (mV)" in report
    print_status(str(out))
    assert "L5" in capsys.readouterr().out


class Unbuildable:
    """A measurement whose cell cannot be built."""

    def build(self):
        raise ValueError("no such channel")


@pytest.mark.usefixtures("ray_session")
def test_a_cell_that_cannot_be_built_fails_the_job_and_stores_nothing(tmp_path):
    engine = measure_engine("broken", Unbuildable())
    values = [np.zeros(1)] * 3
    block = Block("things/cell=C/part.parquet", "C", engine, 3, lambda: values, lambda outcomes: None)
    store = RunStore(tmp_path / "run")
    progress = CountProgress("measuring", 3, "models", Console(file=io.StringIO()))
    assert [task.deadline_s for task in _tasks([replace(block, deadlines=4)], {}, 10.0)] == [40.0] * 3
    with store.locked(), Pool(hosts=1) as pool, pytest.raises(JobError, match="cell C: .*no such channel"):
        measure_blocks([block], pool, store, 10.0, progress)
    assert store.names("things") == []


def test_models_that_are_not_there_are_told_before_anything_is_written(folder):
    def refused(kind: str, **job) -> str:
        with pytest.raises((UsageError, InputError)) as error:
            run_job(write_job(folder, kind=kind, **job), str(folder / "no"))
        return str(error.value)

    write_run(folder / "run")
    (folder / "run/pooled").rename(folder / "run/elsewhere")
    assert "has no hall of fame" in refused("synapse", models={"run": "run"})
    assert "name one of `run:`" in refused("validate", models={})
    assert "nothing to validate" in refused("validate", models=fits())
    lost = {"table": "cells.csv", "id": "cel", "column": "layer"}
    (folder / "cells.csv").write_text("cell,layer\nother,L5\n")
    assert "did you mean" in refused("synapse", models=fits(), classes=lost)
    assert "no row for demo" in refused("synapse", models=fits(), classes=lost | {"id": "cell"})
    assert "job.yaml" in refused("synapse", models={"run": "nowhere"})
    assert not (folder / "no").exists()


def test_a_published_model_is_a_population_of_one(folder):
    (one,) = read_populations(ModelsSpec(**fits()), folder)
    found = dict(zip(one.parameters, one.values[0], strict=True))
    assert found["gbar_NaTa_t.axon"] == KNOWN_PARAMETERS["gbar_NaTa_t.axon"]
    assert found["cm.soma"] == found["cm.apic"] == KNOWN_PARAMETERS["cm.all"]
    with pytest.raises(InputError, match="did you mean 'gbar_NaTa_t.axon'"):
        one.columns(["gbar_NaTat.axon"])


def test_what_is_odd_about_the_files_of_models_is_told(folder):
    current = step_current()
    sweep = {"names": ("Sweep_1", "Stim_1"), "current": current, "voltage": membrane_voltage(current, rest_mV=-5.0)}
    write_series(folder / "odd.nwb", [sweep])
    models = ModelsSpec(**fits(recordings="odd.nwb"))
    (note,) = [note for note in told(read_populations(models, folder)) if "odd.nwb" in note]
    assert note.startswith("demo: odd.nwb: the cell rests at")


def test_all_kinds_can_be_loaded_and_planned():
    from neurofleet.jobs.job_file import KINDS, named

    places = [p for place in KINDS.values() for p in (place.values() if isinstance(place, dict) else [place])]
    for place in places:
        spec = named(place)
        assert callable(named(spec.runner))
        assert callable(named(spec.planner))


def test_a_changed_sample_is_refused(folder, demo_recordings):
    job = load_job(sample_job(folder, demo_recordings))
    other = load_job(sample_job(folder, demo_recordings, seed=2))
    assert job.identity() != other.identity()
