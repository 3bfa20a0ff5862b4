"""Whatever is wrong with a job is said in one go, before Ray is started and before anything is written."""

import re
import shutil

import pytest
import yaml

from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.cli import main
from neurofleet.jobs.fit.fit_inputs import length_notes, prepare
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.remote.submit import submit_command
from neurofleet.jobs.run_job import print_plan, run_job
from tests.jobs.test_fit import LEFT_OUT, demo_input, write_job  # noqa: F401

RECIPE = {
    "name": "own",
    "stages": [
        {
            "name": "passive",
            "targets": "subthreshold",
            "mechanisms": {"all": ["pas"]},
            "parameters": {"g_pas": {"all": [1e-6, 1e-3]}},
            "features": ["voltage_base"],
        }
    ],
}


def refusal(job, **changes) -> str:
    """Return what `neurofleet run` says to a changed job; nothing may have been written."""
    out = job.parent / "never"
    path = write_job(job.parent, "bad.yaml", **changes)
    with pytest.raises((UsageError, InputError)) as refused:
        run_job(path, str(out))
    assert not out.exists()
    return str(refused.value)


@pytest.fixture
def job(demo_input, tmp_path):  # noqa: F811
    shutil.copytree(demo_input, tmp_path, dirs_exist_ok=True)
    return tmp_path / "job.yaml"


def cell(**changes) -> list[dict]:
    return [{"id": "demo", "morphology": "cell.swc", "recordings": "cell.nwb"} | changes]


def test_unknown_keys_are_named_with_the_nearest_known_one(job):
    told = refusal(job, dead_line_s=3, cells=cell(stimulus=["IV"]))
    assert "did you mean 'deadline_s'" in told
    assert "stimulus: unknown key" in told
    assert "did you mean 'stimuli'" in told


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"deadline_s": -1}, "deadline_s"),
        ({"kind": "fitt"}, "did you mean 'fit'"),
        ({"cells": None}, "name either `cells:` or `evaluator"),
        ({"cells": cell() + cell()}, "more than one demo"),
        ({"cells": cell(id="../x")}, "cell 1: id: expected letters"),
        ({"evolution": {"seeds": [1, 1]}}, "seeds must differ"),
        ({"evolution": {"evaluations": {"pasive": 64}}}, "did you mean 'passive'"),
        ({"evolution": {"strategy": "paper", "evaluations": {"passive": 64}}}, "takes `generations:"),
        ({"recipe": "all-actve"}, "recipe: expected"),
    ],
)
def test_wrong_values_are_told(job, changes, expected):
    assert expected in refusal(job, **changes)


def test_a_budget_that_is_too_small_is_refused_by_all_commands_alike(job):
    told = refusal(job, evolution={"evaluations": {"active": 16}})
    job = job.parent / "bad.yaml"
    expected = r"evolution\.evaluations: stage active has 16, and one generation of its \d+ parameters takes \d+"
    assert re.search(expected, told)
    with pytest.raises(UsageError, match=expected):
        print_plan(job)
    with pytest.raises(UsageError, match=expected):  # before anything is sent
        submit_command(job, "http://127.0.0.1:1", str(job.parent / "out"))


def test_stages_that_are_not_named_beside_others_are_told_with_what_they_get(job):
    content = yaml.safe_load(job.read_text()) | {"evolution": {"evaluations": {"passive": 64, "active": 512}}}
    spec = parse_job(yaml.safe_dump(content), "job.yaml", "small")
    told = length_notes(spec, prepare(spec, job.parent))
    assert told == ["evolution.evaluations: not named, so as by default: ih 768"]


def test_all_cells_are_told_at_once(job):
    told = refusal(job, cells=cell(id="a", morphology="no.swc") + cell(id="b", recordings="no.nwb"))
    assert "cell a" in told
    assert "no.swc" in told
    assert "cell b" in told
    assert "no.nwb" in told


def test_unknown_stimuli_list_what_the_file_holds(job):
    told = refusal(job, cells=cell(stimuli=["Ramp"]))
    assert "Ramp" in told
    assert "Long Square" in told


def test_a_run_that_its_disk_cannot_hold_is_refused(job):
    told = refusal(job, evolution={"evaluations": {"active": 10**12}})
    assert "the run needs about" in told
    assert "--out" in told


def test_an_empty_recording_is_refused(job):
    (job.parent / "cell.nwb").write_bytes(b"")
    assert "cell.nwb" in refusal(job)


def test_a_recording_without_spikes_cannot_train_the_active_stage(job):
    recorded = prepare(parse_job(job.read_text(), "job.yaml", "small"), job.parent)[0].recording
    spiking = [sweep.number for sweep in recorded.sweeps if sweep.amplitude_nA > 0.1]
    told = refusal(job, cells=cell(exclude_sweeps=[*LEFT_OUT, *spiking]))
    assert "needs depolarising steps with spikes" in told


def test_a_morphology_without_a_soma_is_refused(job):
    (job.parent / "cell.swc").write_text("1 3 0 0 0 1 -1\n2 3 10 0 0 1 1\n")
    told = refusal(job)
    assert "cell.swc" in told
    assert "soma" in told


def test_faults_of_a_recipe_are_told_with_their_places(job):
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    recipe["stages"][0]["parameters"]["g_pas"]["all"] = [1, 0]
    recipe["stages"][0]["featurs"] = recipe["stages"][0].pop("features")
    (job.parent / "own.yaml").write_text(yaml.safe_dump(recipe))
    told = refusal(job, recipe="own.yaml")
    assert "low < high" in told
    assert "did you mean 'features'" in told


def test_a_recipe_with_an_unknown_mechanism_is_refused(job):
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    recipe["stages"][0]["mechanisms"]["soma"] = ["NaTta_t"]
    recipe["stages"][0]["parameters"]["gbar_Kv31"] = {"soma": [0, 1]}
    (job.parent / "own.yaml").write_text(yaml.safe_dump(recipe))
    told = refusal(job, recipe="own.yaml")
    assert "no mechanism 'NaTta_t' (did you mean 'NaTa_t'?)" in told
    assert "no parameter 'gbar_Kv31' (did you mean 'gbar_Kv3_1'?)" in told


def test_a_folder_that_holds_something_else_is_left_alone(job, capsys, monkeypatch):
    out = job.parent / "thesis"
    out.mkdir()
    (out / "chapter-1.txt").write_text("words")
    monkeypatch.setattr("sys.argv", ["neurofleet", "run", str(job), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == UsageError.exit_code
    assert "thesis" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["chapter-1.txt"]
