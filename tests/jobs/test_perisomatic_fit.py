"""A perisomatic fit from its job file to the scores of a model, on recordings of the demo cell."""

import shutil

import numpy as np
import pytest

from neurofleet.errors import UsageError
from neurofleet.jobs.fit.fit_inputs import prepare
from neurofleet.jobs.job_file import parse_job
from neurofleet.neurosim.features.step_protocols import BLOCK_CHECK
from tests.fresh_process import in_fresh_process

JOB = "recipe: perisomatic\ncells: [{id: demo, morphology: cell.swc, recordings: cell.nwb}]\n"


@pytest.fixture(scope="module")
def subject(demo_recordings):
    (found,) = prepare(parse_job(JOB, "job", "peri"), demo_recordings)
    return found


def test_what_the_passive_stage_found_is_kept_but_for_the_leaks(subject):
    passive = subject.problem(0, None)
    middle = {n: (a + b) / 2 for n, a, b in zip(passive.names, passive.lower, passive.upper, strict=True)}
    first = subject.problem(1, middle | passive.fixed)
    kept = {"cm.dend", "cm.apic", "Ra.all", "e_pas.all"}
    assert kept <= set(first.fixed)
    assert first.fixed["cm.dend"] == middle["cm.dend"]
    assert first.fixed["cm.soma"] == 1.0
    leaks = [i for i, name in enumerate(first.names) if name.startswith("g_pas.")]
    assert len(leaks) == 4
    assert {(first.lower[i], first.upper[i]) for i in leaks} == {(1e-7, 1e-3)}
    second = subject.problem(2, dict(zip(first.names, first.upper, strict=True)) | first.fixed)
    assert kept <= set(second.fixed)
    assert len(first.objectives) == 7
    assert len(second.objectives) == 12
    assert BLOCK_CHECK in second.model.targets.protocols
    assert BLOCK_CHECK not in first.model.targets.protocols


def warm_and_cold(model, values):
    from neurofleet.neurosim.cells.warm_evaluator import WarmEvaluator

    cold = [float(score) for score in model.build_evaluator().evaluate_with_lists(values)]
    return [float(score) for score in WarmEvaluator(model.build_evaluator()).evaluate(values)], cold


def test_a_silent_model_fails_alike_warm_and_cold(subject):
    problem = subject.problem(2, None)
    silent = [low for low in problem.lower]
    silent[problem.names.index("cm.dend")] = 1.0
    warm, cold = in_fresh_process(warm_and_cold, problem.model, silent)
    assert warm == cold
    assert len(set(warm)) == 1
    assert 75.0 <= warm[0] <= 250.0


def test_published_targets_have_other_features_and_are_refused(demo_recordings, tmp_path):
    shutil.copy(demo_recordings / "cell.swc", tmp_path / "cell.swc")
    (tmp_path / "targets").mkdir()
    job = JOB.replace("recordings: cell.nwb", "targets: targets")
    with pytest.raises(UsageError, match="scored on a sweep of its own choice"):
        prepare(parse_job(job, "job", "peri"), tmp_path)


def test_a_wide_spike_of_an_aspiny_cell_is_said(demo_recordings):
    job = JOB.replace("id: demo", "id: demo, dendrite: aspiny")
    (found,) = prepare(parse_job(job, "job", "peri"), demo_recordings)
    assert found.recipe.name == "perisomatic-f12"
    assert any("recipe: perisomatic-f6" in warning for warning in found.warnings)
    assert np.isfinite([t.mean for targets in found.targets for t in targets.targets]).all()
