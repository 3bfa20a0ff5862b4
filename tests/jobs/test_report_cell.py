"""The report of a cell that was really recorded and simulated, here the demo's cell of known parameters."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import FEATURES, TRACES, Evaluations, HallOfFameRows, table_of
from neurofleet.jobs.fit.fit_inputs import recording_table
from neurofleet.jobs.reports.cell_section import recording_parts
from neurofleet.jobs.reports.fit_contents import (
    PublishedRate,
    first_peak_ms,
    gather,
    published_rates,
    shown_traces,
    stored_simulation,
)
from neurofleet.jobs.reports.model_figures import parameters_figure
from neurofleet.jobs.results.parameters_at_bounds import known_positions, positions
from neurofleet.jobs.results.run_summary import summaries
from neurofleet.jobs.results.run_tables import RunTables
from neurofleet.neurosim.cells.demo_cell import KNOWN_PARAMETERS
from neurofleet.neurosim.features.step_protocols import FeatureTarget, StepProtocol, TargetSet, group_sweeps
from neurofleet.neurosim.recordings.recording_table import HELD_OUT
from tests.jobs.made_run import write_run

RHEOBASE_PA = 130.0  # the noise of each repeat decides there


@pytest.fixture(scope="module")
def demo_contents(demo_recordings, tmp_path_factory):
    """Contents of a run whose best model is the very cell that was recorded."""
    from neurofleet.jobs.fit.fit_inputs import prepare
    from neurofleet.jobs.job_file import parse_job

    root = tmp_path_factory.mktemp("demo")
    shutil.copytree(demo_recordings, root / "input")
    job = {
        "kind": "fit",
        "name": "demo",
        "cells": [{"id": "demo", "morphology": "cell.swc", "recordings": "cell.nwb"}],
        "recipe": "demo",
        "evolution": {"offspring": 16, "seeds": [1]},
    }
    (subject,) = prepare(parse_job(yaml.safe_dump(job), "job.yaml", "demo"), root / "input")
    store = write_run(root / "run", cells=(), job=job, job_folder=root / "input")
    winner = None
    for number, stage in enumerate(subject.stages):
        problem = subject.problem(number, winner)
        parameters = np.array([[KNOWN_PARAMETERS[name] for name in problem.names]])
        scores = np.full((1, len(problem.objectives)), 0.5)
        rows = Evaluations(
            0, problem.names, problem.objectives, parameters, scores, scores.sum(1), ["ok"], [""], np.ones(1)
        )
        store.write_generation("demo", stage.name, 1, rows)
        winner = {**dict(zip(problem.names, parameters[0].tolist(), strict=True)), **problem.fixed}
        store.append_event("stage finished", cell="demo", stage=stage.name, seed=1, total=1, parameters=winner)
    hall = HallOfFameRows(
        "demo",
        *(np.array([1]), np.array([0]), np.array([0])),
        *(tuple(winner), problem.objectives, np.array([list(winner.values())]), scores, scores.sum(1)),
    )
    store.write_hall_of_fame(hall, 1)
    store.write_hall_of_fame(hall, "pooled")
    tables = RunTables(root / "run")
    with ThreadPoolExecutor(2) as pool:
        return gather(tables, summaries(tables)[0], pool)


def test_cell_that_was_recorded_is_simulated_as_recorded(demo_contents):
    passive, _, active = demo_contents.stages
    assert not any(stage.simulation.fault for stage in demo_contents.stages)
    groups = shown_traces(demo_contents, active)
    assert sum(group[0].spikes for group in groups) == len(groups) - 1  # and the strongest silent step
    for (shown,) in groups:
        time_ms, voltage_mV = shown.recorded[0]
        fitted = np.interp(time_ms, *shown.model)
        peaks = [first_peak_ms(*trace) for trace in (shown.recorded[0], shown.model)]
        if shown.amplitude_pA == pytest.approx(RHEOBASE_PA):
            continue
        if shown.spikes:
            assert peaks[0] == pytest.approx(peaks[1], abs=5.0)
        else:
            assert peaks == [None, None]
            assert np.abs(fitted - voltage_mV).max() < 2.0
    (silent,) = shown_traces(demo_contents, passive)
    assert [shown.amplitude_pA for shown in silent] == sorted(shown.amplitude_pA for shown in silent)
    assert all(len(shown.recorded) == 2 for shown in silent)


def test_the_report_says_what_each_sweep_is_used_for(demo_contents):
    table = demo_contents.subject.recording_table
    used = {row.sweep: row.used_for for row in table.rows}
    assert {stage for stages in used.values() for stage in stages} - {HELD_OUT} == {"passive", "ih", "active"}
    assert all(row.spikes == 0 for row in table.rows if "passive" in row.used_for)
    text = "\n".join(recording_parts(demo_contents))
    assert "stage active takes the two strongest steps with spikes" in text
    assert "is replaced by a stub" in text
    assert f"cell.nwb: {len(used)} of {len(used)} sweeps used" in text
    assert text.count("<tr>") == len(used) + 1
    active = demo_contents.subject.targets[-1]
    strongest = max(active.protocols.values(), key=lambda step: step.amplitude_nA if step.sweeps else 0.0)
    one = replace(active, protocols={strongest.name: strongest})
    number = demo_contents.subject.stage_numbers[-1]
    table = recording_table(demo_contents.recording, demo_contents.subject.recipe, {number: one})
    assert all(row.used_for == (("active",) if row.sweep in strongest.sweeps else (HELD_OUT,)) for row in table.rows)
    assert f"{len(table.rows) - len(strongest.sweeps)} sweeps of other steps are held out" in table.notes[-1]


def test_firing_rates_of_the_recorded_cell_are_those_of_the_recording(demo_contents):
    recorded = {round(r.amplitude_nA, 4): r.rate_Hz for r in demo_contents.recorded_rates}
    simulated = {round(r.amplitude_nA, 4): r.rate_Hz for r in demo_contents.rates.rates}
    assert simulated.keys() == recorded.keys()
    above = [amplitude for amplitude in recorded if amplitude * 1000 > RHEOBASE_PA]
    silent = [amplitude for amplitude in recorded if amplitude * 1000 < RHEOBASE_PA]
    assert min(simulated[amplitude] for amplitude in above) > 20
    for amplitude in above:
        assert simulated[amplitude] == pytest.approx(recorded[amplitude], abs=1 / 0.25)  # a spike
    assert [simulated[amplitude] for amplitude in silent] == [0.0] * len(silent)


def test_the_pictures_show_what_was_injected_all_recorded_steps_and_the_known_values(demo_contents):
    (strongest,) = shown_traces(demo_contents, demo_contents.stages[-1])[-1]
    time_ms, current_pA = strongest.current
    assert strongest.onset_ms == time_ms[current_pA == current_pA.max()][0]
    assert (current_pA.min(), current_pA.max()) == (0.0, pytest.approx(strongest.amplitude_pA))
    assert np.diff(time_ms[current_pA == current_pA.max()]) == pytest.approx(250.0, abs=0.1)
    best = [rate.amplitude_nA for rate in demo_contents.rates.rates if rate.individual == 0]
    steps = [protocol.amplitude_nA for protocol, _ in group_sweeps(demo_contents.recording)]
    assert sorted(best) == [amplitude for amplitude in steps if amplitude > 0]
    assert demo_contents.known == KNOWN_PARAMETERS
    models, bounds = demo_contents.models, demo_contents.bounds
    names, places = positions(models, bounds)
    assert known_positions(demo_contents.known, names, bounds) == pytest.approx(places[0])
    assert "known value" in parameters_figure(models, bounds, demo_contents.known)
    assert "known value" not in parameters_figure(models, bounds, {})


def test_what_the_best_model_did_is_read_from_the_run_where_it_was_stored(demo_contents, tmp_path):
    active, models = demo_contents.stages[-1], demo_contents.models
    store = RunStore(tmp_path)
    best = tuple(active.parameters[name] for name in active.problem.names)
    assert stored_simulation(store, models, active.problem, best) is None
    simulated = active.simulation
    of_rank = [
        (1, simulated.traces),
        (2, {name: (time, voltage + 1) for name, (time, voltage) in simulated.traces.items()}),
    ]
    traces = [
        {"rank": rank, "protocol": name.removesuffix(".soma.v"), "time_ms": time_ms, "voltage_mV": voltage_mV}
        for rank, kept in of_rank
        for name, (time_ms, voltage_mV) in kept.items()
    ]
    features = [{"rank": 1, "objective": name, **vars(value)} for name, value in simulated.features.items()]
    for kind, rows in ((TRACES, traces), (FEATURES, features)):
        store.write_table(f"{kind}/cell=demo/part.parquet", table_of(kind, rows, "demo"))
    stored = stored_simulation(store, models, active.problem, best)
    assert stored.features == simulated.features
    assert stored.traces.keys() == simulated.traces.keys()
    for name, trace in stored.traces.items():
        np.testing.assert_allclose(trace, simulated.traces[name], rtol=1e-6)
    assert stored_simulation(store, models, active.problem, tuple(2 * value for value in best)) is None


def test_published_targets_have_firing_rates():
    step = StepProtocol("LongDC_1", 0.2, 100.0, 600.0, 700.0)
    counted, timed = (replace(step, name=name, amplitude_nA=nA) for name, nA in (("LongDC_2", 0.1), ("LongDC_3", 0.3)))
    targets = [("LongDC_2", "Spikecount", 2.0, 1.0), ("LongDC_3", "mean_frequency", 9.0, 0.5)]
    published = TargetSet(
        {each.name: each for each in (step, counted, timed)},
        tuple(FeatureTarget(name, "soma", feature, mean, std, 3) for name, feature, mean, std in targets),
    )
    assert published_rates(published) == [
        PublishedRate(0.1, 4.0, 2.0, "Spikecount"),
        PublishedRate(0.3, 9.0, 0.5, "mean_frequency"),
    ]


def test_bounds_that_a_stage_has_narrowed_are_told_from_the_recipes(demo_contents):
    assert demo_contents.full_bounds["cm.all"] == (0.1, 10.0)
    known = KNOWN_PARAMETERS["cm.all"]
    assert demo_contents.bounds["cm.all"] == pytest.approx((0.5 * known, 1.5 * known))
    assert demo_contents.bounds["gbar_NaTs2_t.soma"] == demo_contents.full_bounds["gbar_NaTs2_t.soma"]
