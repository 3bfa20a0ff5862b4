"""Comparisons as jobs: two types of models of one cell on the pool, and every fault of a job file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.studies.comparison import CompareSpec, Comparison, trace_rows
from neurofleet.jobs.studies.comparison_report import ComparisonFindings
from neurofleet.jobs.studies.findings import FINDINGS
from neurofleet.jobs.studies.study import print_study_plan, run_study
from neurofleet.neurosim.cells.cell_model import Conditions
from neurofleet.neurosim.exchange.allen_fit import write_fit
from tests.neurosim.cells.small_cells import NO_APICAL_SWC

PASSIVE = {"Ra.all": 100.0, "cm.all": 1.0, "g_pas.all": 3e-5, "e_pas.all": -75.0}
AT_SOMA = {"gbar_NaTs2_t.soma": 2.0, "gbar_Kv3_1.soma": 0.8, "gbar_K_Tst.soma": 0.01}
IN_AXON = {"gbar_NaTs2_t.soma": 0.05, "gbar_Kv3_1.soma": 0.2, "gbar_NaTa_t.axon": 8.0, "gbar_Kv3_1.axon": 1.0}


def write_job(folder: Path, **changes) -> Path:
    """Write a model of each type, as fit files, and the job of their comparison."""
    (folder / "cell.swc").write_text(NO_APICAL_SWC)
    for name, channels in (("whole", IN_AXON), ("soma", AT_SOMA)):
        mechanisms: dict[str, list[str]] = {"all": ["pas"]}
        for full_name in channels:
            channel, _, section = full_name.removeprefix("gbar_").rpartition(".")
            mechanisms.setdefault(section, []).append(channel)
        write_fit(
            folder / f"{name}.json",
            PASSIVE | channels,
            mechanisms,
            Conditions(v_init_mV=-75.0),
            sections=("soma", "dend", "axon"),
        )
    job = {
        "name": "types",
        "models": {
            "all_active": {"fits": [{"id": "a", "fit": "whole.json", "morphology": "cell.swc"}]},
            "perisomatic": {"fits": [{"id": "a", "fit": "soma.json", "morphology": "cell.swc"}]},
        },
        "steps": {"amplitudes_nA": [0.4], "delay_ms": 200, "duration_ms": 60},
        "features": ["avg_rate", "peak_v", "AP_amplitude", "AP_begin_voltage"],
        **changes,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in job.items() if value is not None}))
    return path


def read(job: Path) -> CompareSpec:
    return CompareSpec.model_validate(yaml.safe_load(job.read_text()))


@pytest.mark.usefixtures("ray_session")
def test_an_all_active_model_begins_in_the_axon_and_a_perisomatic_one_at_the_soma(tmp_path, capsys):
    job, out = write_job(tmp_path), tmp_path / "out"
    run_study(read(job), tmp_path, str(out), None, 1)
    found = json.loads((out / FINDINGS).read_text())

    whole, soma = found["cells"][0]["initiation"]
    assert (whole["type"], whole["first"]) == ("all_active", "axon")
    assert (soma["type"], soma["first"]) == ("perisomatic", "soma")
    assert whole["spikes"] == whole["begins"]["axon"] > 0
    assert all(place["delay_ms"] < 0 for place in whole["places"])

    spikes = pd.read_parquet(out / "spikes.parquet")
    assert len(spikes) == 2 * (whole["spikes"] + soma["spikes"])  # at two places of the stub
    features = pd.read_parquet(out / "features.parquet").set_index(["type", "feature"])["value"]
    for one in (whole, soma):
        assert features[one["type"], "avg_rate"] == pytest.approx(
            1000.0 * one["spikes"] / 60.0,
            abs=1000.0 / 60.0 + 1e-6,  # one that the end of the step cuts
        )
    assert features["perisomatic", "peak_v"] == pytest.approx(
        features["perisomatic", "AP_amplitude"] + features["perisomatic", "AP_begin_voltage"], abs=5.0
    )

    parameters = {(p["parameter"], p["section"]): p for p in found["cells"][0]["parameters"]}
    assert parameters["gbar_Kv3_1", "soma"]["all_active"] == pytest.approx(0.2)
    assert parameters["gbar_Kv3_1", "soma"]["perisomatic"] == pytest.approx(0.8)
    assert parameters["gbar_NaTa_t", "axon"]["perisomatic"] is None

    report = (out / "report.html").read_text()
    assert "<svg" in report
    (out / "report.html").unlink()
    ComparisonFindings.rewrite_report(out)
    assert (out / "report.html").read_text() == report
    capsys.readouterr()
    ComparisonFindings.print_results(str(out), False)
    assert "where spikes begin" in capsys.readouterr().out

    (out / FINDINGS).unlink()
    run_study(read(job), tmp_path, str(out), None, 1)  # from what is stored
    assert json.loads((out / FINDINGS).read_text()) == found


def test_recorded_steps_are_compared_where_there_is_a_recording(tmp_path, demo_recordings):
    import shutil

    job = write_job(tmp_path, steps=None, features=["avg_rate", "width"])
    shutil.copy(demo_recordings / "cell.nwb", tmp_path / "cell.nwb")
    spec = read(job)
    fit = spec.models["all_active"].fits[0].model_copy(update={"recordings": Path("cell.nwb")})
    models = spec.models["all_active"].model_copy(update={"fits": [fit]})
    spec = spec.model_copy(update={"models": spec.models | {"all_active": models}})
    ((one,), notes) = Comparison(spec, tmp_path).read()
    amplitudes = [step.amplitude_nA for step in one.steps]
    assert amplitudes == sorted(amplitudes)
    (note,) = notes
    assert note.startswith("a: cell.nwb: repeats of the 130 pA step disagree")
    strongest = one.steps[-1]
    recorded = one.recorded[strongest.name, "avg_rate"]
    assert recorded.mean > 5.0
    assert recorded.std >= 0.5
    assert recorded.n == len(strongest.sweeps)
    traces = {row["step"]: row for row in trace_rows(one)}
    assert list(traces) == [step.name for step in one.steps]
    time_ms, voltage_mV = (np.array(traces[strongest.name][name]) for name in ("time_ms", "soma_mV"))
    assert (time_ms[0], time_ms[-1]) == pytest.approx((0.0, strongest.stop_ms - strongest.start_ms), abs=0.1)
    rate_Hz = 1000 * np.sum(np.diff((voltage_mV > 0).astype(int)) == 1) / time_ms[-1]
    assert rate_Hz == pytest.approx(recorded.mean, abs=3 * recorded.std)


def test_a_cell_of_one_type_alone_is_left_out_and_said(tmp_path, capsys):
    job = write_job(tmp_path)
    content = yaml.safe_load(job.read_text())
    content["models"]["perisomatic"]["fits"].append({"id": "b", "fit": "soma.json", "morphology": "cell.swc"})
    job.write_text(yaml.safe_dump(content))
    inputs, notes = Comparison(read(job), tmp_path).read()
    assert [one.cell for one in inputs] == ["a"]
    assert notes == ["b: left out, it has no models of type all_active"]
    print_study_plan(read(job), tmp_path)
    assert "2 simulations" in capsys.readouterr().out


def test_faults_are_said_with_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="nothing says which steps"):
        Comparison(read(write_job(tmp_path, steps=None)), tmp_path).read()
    with pytest.raises(InputError, match="did you mean 'width'"):
        Comparison(read(write_job(tmp_path, features=["widht"])), tmp_path).read()
    other = {"fits": [{"id": "b", "fit": "soma.json", "morphology": "cell.swc"}]}
    content = yaml.safe_load(write_job(tmp_path).read_text())
    content["models"]["perisomatic"] = other
    with pytest.raises(UsageError, match="no cell has models of both types"):
        Comparison(CompareSpec.model_validate(content), tmp_path).read()
    del content["models"]["perisomatic"]
    with pytest.raises(ValueError, match="two types of models"):
        CompareSpec.model_validate(content)
