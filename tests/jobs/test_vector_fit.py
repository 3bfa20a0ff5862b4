"""A fit whose search is the vector engine's: its scores, its records, and what it says when it cannot be."""

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from neurofleet.cluster.pool.host_worker import Assignment, HostWorker
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import FEATURES, RATES, TRACES
from neurofleet.errors import Interrupted, JobError, UsageError
from neurofleet.jobs.fit.campaign import finished_cells
from neurofleet.jobs.fit.campaign_state import (
    STAGE_FINISHED,
    STAGE_STARTED,
    EngineChoice,
    engine_lines,
    recorded_choices,
)
from neurofleet.jobs.fit.engine_choice import all_with_engines, choices_of, chosen, try_vector
from neurofleet.jobs.fit.engines import RAN_AWAY, residuals_of, vector_spec
from neurofleet.jobs.fit.fit_costs import print_fit_plan
from neurofleet.jobs.fit.fit_inputs import prepare
from neurofleet.jobs.fit.fit_run import run_fit
from neurofleet.jobs.fit.input_process import prepare_to_fit
from neurofleet.jobs.job_file import load_job
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.vector.nmodl_syntax import Unsupported
from neurofleet.neurosim.vector.vector_evaluator import LANES, SCORING_REVISION
from tests.fresh_process import in_fresh_process
from tests.neurosim.vector.reference import made_up_cell

RECIPE = {
    "name": "small",
    "stages": [
        {
            "name": "passive",
            "targets": "subthreshold",
            "mechanisms": {"all": ["pas"]},
            "fixed": {"Ra": {"all": 120}, "e_pas": {"all": -85}},
            "parameters": {"cm": {"all": [1, 3]}, "g_pas": {"all": [1e-4, 3e-4]}},
            "features": ["voltage_base", "voltage_deflection_vb_ssse", "decay_time_constant_after_stim"],
        },
        {
            "name": "active",
            "targets": "training",
            "mechanisms": {"soma": ["NaTs2_t", "Kv3_1"], "axon": ["NaTa_t", "Kv3_1"]},
            "parameters": {
                "gbar_NaTs2_t": {"soma": [0.1, 5]},
                "gbar_Kv3_1": {"soma": [0.1, 2], "axon": [0, 2]},
                "gbar_NaTa_t": {"axon": [0.1, 10]},
            },
            "features": ["voltage_base", "mean_frequency", "AP_amplitude_from_voltagebase", "AP_width"],
        },
    ],
}
JOB = {
    "kind": "fit",
    "cells": [{"id": "demo", "morphology": "cell.swc", "recordings": "cell.nwb"}],
    "recipe": "small.yaml",
    "engine": "vector",
    "evolution": {
        "offspring": 16,
        "seeds": [1, 2],
        "evaluations": {"passive": 16, "active": 48},
        "hall_of_fame": 3,
    },
}
NO_COMPILER = "there is no C++ compiler"
BEGUN = EngineChoice("neuron", "as it was begun")


@pytest.fixture(scope="module")
def folder(demo_recordings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vector")
    shutil.copytree(demo_recordings, folder, dirs_exist_ok=True)
    (folder / "small.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def job(folder: Path, **changes):
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB | changes))
    return load_job(folder / "job.yaml")


def run(folder: Path, out: Path, **changes) -> RunStore:
    run_fit(job(folder, **changes), folder, str(out), None, 1)
    return RunStore(out)


def without_compiler(monkeypatch, empty: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(empty))


@pytest.fixture(scope="module")
def vector(folder, tmp_path_factory, ray_session) -> RunStore:
    return run(folder, tmp_path_factory.mktemp("vector-run") / "run")


@pytest.mark.slow
def test_the_search_is_the_engines_and_the_hall_of_fame_is_neurons(vector, problem):
    found = [g for seed in (1, 2) for g in vector.read_generations("demo", "active", seed)]
    rows, ours, signed = (np.concatenate([getattr(g, n) for g in found]) for n in ("parameters", "scores", "residuals"))
    above = np.flatnonzero((signed > 0).any(axis=1))[:8]
    assert above.size
    chosen = np.union1d(np.arange(8), above)
    ours, signed = ours[chosen], signed[chosen]
    scores, residuals = in_fresh_process(by_neuron, problem.final_model, rows[chosen])
    names = [name.split(".")[-1] for name in found[0].objective_names]
    silent = scores == 250.0
    np.testing.assert_array_equal(ours == 250.0, silent)
    for feature, close in (("voltage_base", 0.02), ("mean_frequency", 0.3)):
        column = [i for i, name in enumerate(names) if name == feature]
        np.testing.assert_allclose(ours[:, column], scores[:, column], rtol=0.02, atol=close)
        np.testing.assert_allclose(signed[:, column], residuals[:, column], rtol=0.02, atol=close)
    np.testing.assert_array_equal(np.isnan(signed), silent)
    assert (signed < 0).any()
    assert not np.array_equal(ours, scores)
    assert recorded_choices(vector.read_events())["demo"]["active"].engine == "vector"

    hall = vector.read_hall_of_fame("demo")
    assert len(hall) == 6
    for i, seed in enumerate(hall.seeds.tolist()):
        search = vector.read_generations("demo", "active", seed)[hall.generations[i]]
        np.testing.assert_array_equal(hall.search_scores[i], search.scores[hall.individuals[i]])
        assert hall.search_totals[i] == search.totals[hall.individuals[i]]
        (final,) = vector.read_generations("demo", "active_final", seed)
        (again,) = np.flatnonzero((final.parameters == search.parameters[hall.individuals[i]]).all(1))
        np.testing.assert_array_equal(hall.scores[i], final.scores[again])
    assert (hall.totals != hall.search_totals).all()


@pytest.mark.slow
def test_a_subthreshold_stage_hands_on_what_neuron_has_scored(vector, folder):
    assert recorded_choices(vector.read_events())["demo"]["passive"].engine == "vector"
    best = []
    for seed in (1, 2):
        (final,) = vector.read_generations("demo", "passive_final", seed)
        assert len(final) == 3
        best.append(final.totals.min())
        found = vector.read_generations("demo", "passive", seed)
        parameters, scores = (np.concatenate([getattr(g, name) for g in found]) for name in ("parameters", "scores"))
        same = (final.parameters[:, None] == parameters).all(2)
        searched = scores[same.argmax(1)]
        assert same.any(1).all()
        assert not np.array_equal(final.scores, searched)
        np.testing.assert_allclose(searched, final.scores, rtol=0.05, atol=0.1)
    (end,) = [e for e in vector.read_events() if e["event"] == STAGE_FINISHED and e["stage"] == "passive"]
    assert end["total"] == min(best)

    recorded = {"demo": {"passive": BEGUN, "active": BEGUN}}
    (begun,) = all_with_engines([subject(folder, engine="auto")], "auto", recorded)
    assert (begun.stages[0].choice, begun.stages[0].seeds, begun.stages[0].finalists) == (BEGUN, (1,), 0)


def by_neuron(model, individuals):
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    warm = WarmEvaluator(model.build_evaluator())
    return np.array([warm.evaluate_signed(row) for row in individuals]).swapaxes(0, 1)


@pytest.mark.slow
def test_interrupted_and_resumed_it_is_the_same_but_never_with_another_engine(vector, folder, tmp_path, monkeypatch):
    write = RunStore.write_generation

    def write_and_stop(last, store, cell, stage, seed, rows):
        write(store, cell, stage, seed, rows)
        if (stage, rows.generation) == last:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    for last in (("active", 1), ("active_final", 0)):  # traces of the finalists that are stored then are lost
        with monkeypatch.context() as patched:
            patched.setattr(RunStore, "write_generation", lambda *of, last=last: write_and_stop(last, *of))
            with pytest.raises(Interrupted):
                run(folder, out)
    with monkeypatch.context() as patched:
        without_compiler(patched, tmp_path)
        with pytest.raises(UsageError, match="begun with the vector engine, .* never mixed"):
            run(folder, out)
    run(folder, out)
    starts = [e for e in RunStore(out).read_events() if e["event"] == STAGE_STARTED and e["stage"] == "active"]
    scoring = {"spike_threshold_mV": -20.0, "vector_scoring_revision": SCORING_REVISION}
    assert [event["scoring"] for event in starts] == [scoring] * 3
    files = sorted(
        [*Path(vector.root).glob("hall_of_fame/**/*.parquet"), *Path(vector.root).glob("pooled/**/*.parquet")]
    )
    assert len(files) == 3
    for file in files:
        assert (out / file.relative_to(vector.root)).read_bytes() == file.read_bytes()
    for file in Path(vector.root).glob("evaluations/**/*.parquet"):
        ours, theirs = pq.read_table(out / file.relative_to(vector.root)), pq.read_table(file)
        assert ours.drop(["seconds", "residual"]).equals(theirs.drop(["seconds", "residual"]))
        assert repr(ours["residual"].to_pylist()) == repr(theirs["residual"].to_pylist())  # with NaN
    tables = [file for kind in (TRACES, FEATURES, RATES) for file in Path(vector.root).glob(f"{kind}/*/part.parquet")]
    assert len(tables) == 3
    for file in tables:
        assert pq.read_table(out / file.relative_to(vector.root)).equals(pq.read_table(file))
    spent = [finished_cells(store)["demo"]["core_seconds"] for store in (vector, RunStore(out))]
    stored = [store.spent_seconds("demo") for store in (vector, RunStore(out))]
    assert spent[0] == pytest.approx(stored[0], abs=2e-3), "no model was simulated twice"
    assert spent[1] > stored[1] + 0.01, "some were"


@pytest.mark.slow
def test_without_generations_batches_are_full(folder, tmp_path, ray_session):
    evolution = JOB["evolution"] | {"strategy": "fast", "mode": "steady", "seeds": [1]}
    store = run(folder, tmp_path / "run", evolution=evolution)
    first = store.read_generations("demo", "active", 1)[0]
    assert first.in_flight.max() == 2 * LANES  # one batch at work, one waiting


def subject(folder: Path, **changes):
    (found,) = prepare(job(folder, **changes), folder, keep_recordings=False)
    return found


class Bench:
    """A host that evaluates batches of individuals."""

    def __init__(self, spec) -> None:
        self._spec = spec
        self._host = HostWorker(4096, 120.0)
        self._host.add_engine(spec.key, lambda: (spec.factory, pickle.dumps(spec.payload)))
        self._batches = 0
        self([])

    def __call__(self, individuals):
        self._batches += 1
        tasks = [Assignment(i, self._batches, self._spec.key, row, 300.0, 100.0) for i, row in enumerate(individuals)]
        outcomes = dict(self._host.exchange(tasks, 0.0).outcomes)
        while len(outcomes) < len(tasks):
            outcomes |= dict(self._host.exchange([], 60.0).outcomes)
        return [outcomes[i] for i in range(len(tasks))]

    def close(self) -> None:
        self._host.close()


@pytest.fixture(scope="module")
def problem(folder):
    return subject(folder).problem(1, None)


@pytest.fixture(scope="module")
def bench(problem):
    bench = Bench(vector_spec("demo", problem.model))
    yield bench
    bench.close()


def individuals(problem, n: int) -> np.ndarray:
    low, high = np.array(problem.lower), np.array(problem.upper)
    return low + (high - low) * np.random.default_rng(5).uniform(size=(n, len(low)))


def values(outcomes) -> np.ndarray:
    assert {outcome.status for outcome in outcomes} == {"ok"}
    return np.array([outcome.value for outcome in outcomes])


def test_scores_do_not_depend_on_the_batch(bench, problem):
    rows = individuals(problem, LANES + 3)
    alone = values([bench([row])[0] for row in rows[:3]])
    together = values(bench(rows))
    assert np.unique(together, axis=0).shape == together.shape
    np.testing.assert_array_equal(alone, together[:3])
    order = np.random.default_rng(6).permutation(len(rows))
    np.testing.assert_array_equal(values(bench(rows[order])), together[order])
    np.testing.assert_array_equal(values(bench(rows[7:12])), together[7:12])


def test_one_that_runs_away_is_an_error_and_its_neighbours_are_as_without_it(bench, problem):
    rows = individuals(problem, 5)
    calm = values(bench(rows))
    rows[2, problem.names.index("cm.all")] = -2.0
    found = bench(rows)
    assert (found[2].status, found[2].reason, found[2].value) == ("error", RAN_AWAY, None)
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(values([found[i] for i in others]), calm[others])
    parts = [outcome.seconds for outcome in found]
    assert max(parts) < 2 * min(parts)


def test_without_a_compiler_auto_falls_back_and_vector_refuses_with_the_same_words(folder, tmp_path, monkeypatch):
    assert not try_vector(subject(folder).problem(1, None).model).fault
    without_compiler(monkeypatch, tmp_path)
    (found,) = all_with_engines([subject(folder, engine="auto")], "auto", {})
    assert {stage.engine for stage in found.stages} == {"neuron"}
    passive, line = engine_lines(choices_of([found]))
    assert passive == line.replace("active", "passive")
    assert line.startswith("cell demo, stage active: engine neuron (The vector engine compiles its kernel")
    assert NO_COMPILER in line
    assert "\n" not in line
    with pytest.raises(UsageError) as refused:
        run(folder, tmp_path / "never")
    assert not (tmp_path / "never").exists()
    assert found.stages[0].choice.reason in str(refused.value)
    spec = job(folder)
    with pytest.raises(JobError, match="^cell demo, stage passive: The vector engine"):
        prepare_to_fit(spec.cells[0], spec, folder, {})  # as later cells of a campaign are


def test_an_infinite_feature_has_no_residual():
    np.testing.assert_array_equal(residuals_of([[250.0, 1.0], [np.inf, -1.0]], ["a", "b"]), [np.nan, -1.0])


class OddModel(FitModel):
    """A model of a cell with a mechanism that no kernel is made of."""

    def build_cell(self):
        raise Unsupported("mechanism odd: the vector engine does not support VERBATIM blocks.\nMore of it.")


def test_what_is_not_supported_is_named_in_one_line():
    plain = made_up_cell({"all": ("pas",)}, {"g_pas.all": 1e-4})
    fault = try_vector(OddModel(**vars(plain))).fault
    assert fault == "mechanism odd: the vector engine does not support VERBATIM blocks."
    assert chosen("auto", fault, "a", "active").engine == "neuron"
    assert chosen("neuron", fault, "a", "active").reason == "as the job asks"
    with pytest.raises(UsageError, match="cell a, stage active: mechanism odd: "):
        chosen("vector", fault, "a", "active")


def test_a_process_that_dies_over_the_kernel_is_a_reason_too(monkeypatch, tmp_path):
    (tmp_path / "python").write_text("#!/bin/sh\necho no such kernel >&2\nkill -9 $$\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    fault = try_vector(made_up_cell({"all": ("pas",)}, {"g_pas.all": 1e-4})).fault
    assert fault == ("The vector engine could not be built: its process ended with signal 9 (no such kernel).")


@pytest.mark.slow
def test_a_plan_tells_what_either_engine_costs(folder, capsys):
    print_fit_plan(job(folder, engine="auto"), folder)
    told = capsys.readouterr().out
    assert "cell demo, stage active: engine vector (16 individuals at a time" in told
    line = next(line for line in told.splitlines() if line.startswith("stage active and its finalists"))
    words = line.split()
    neuron, vector = (float(words[i + 2]) for i, word in enumerate(words) if word == "engine")
    assert 0 < vector < neuron
    assert "cell demo, stage passive: engine vector" in told
    assert "128 evaluations and up to 14 finalists scored again by NEURON" in told
