"""A fit with mod files of the user's own: from the job file to what is exported."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.cli import main
from neurofleet.jobs.export import export_command
from neurofleet.jobs.fit.campaign_state import recorded_choices
from neurofleet.jobs.fit.fit_inputs import input_files, prepare, stage_plans
from neurofleet.jobs.fit.fit_run import run_fit
from neurofleet.jobs.job_file import load_job
from neurofleet.jobs.remote.job_package import collect
from neurofleet.jobs.studies.populations import ModelsSpec, read_populations
from neurofleet.jobs.studies.sampling import SampleSpec, read_samplings
from neurofleet.neurosim.cells.cell_model import Conditions
from neurofleet.neurosim.exchange.allen_fit import write_fit
from neurofleet.neurosim.mechanisms import UserMechanisms
from neurofleet.neurosim.mechanisms.catalogue import MOD_FOLDER
from tests.jobs.test_vector_fit import JOB, RECIPE

KV = (MOD_FOLDER / "Kv3_1.mod").read_text()
BROKEN = "NEURON { SUFFIX MyKv RANGE gbar }\nPARAMETER { gbar = 1 }\nBREAKPOINT { i = (((g }\n"
MY_KV = KV.replace("SUFFIX Kv3_1", "SUFFIX MyKv")
WITH_POINTER = MY_KV.replace("SUFFIX MyKv", "SUFFIX MyKv POINTER far").replace("ik = ", "ik = far*")
SMALL = {"offspring": 16, "seeds": [1], "evaluations": {"passive": 16, "active": 16}, "hall_of_fame": 2}


@pytest.fixture
def folder(demo_recordings, tmp_path) -> Path:
    """A job folder whose recipe names a potassium channel that is ours by another name."""
    folder = tmp_path / "job"
    shutil.copytree(demo_recordings, folder)
    recipe = yaml.safe_dump(RECIPE)
    (folder / "theirs.yaml").write_text(recipe)
    (folder / "small.yaml").write_text(recipe.replace("Kv3_1", "MyKv"))
    (folder / "modfiles").mkdir()
    (folder / "modfiles" / "my_kv.mod").write_text(MY_KV)
    (folder / "modfiles" / "unused.mod").write_text(BROKEN.replace("MyKv", "Unused"))
    return folder


def write(folder: Path, **changes) -> Path:
    job = JOB | {"engine": "auto", "mechanisms": "modfiles", "evolution": SMALL} | changes
    job = {key: value for key, value in job.items() if value is not None}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def run(folder: Path, **changes) -> RunStore:
    run_fit(load_job(write(folder, **changes)), folder, str(folder / "run"), None, 1)
    return RunStore(folder / "run")


@pytest.mark.slow
def test_a_fit_with_a_mechanism_of_the_users(folder, ray_session):
    store = run(folder)
    assert recorded_choices(store.read_events())["demo"]["active"].engine == "vector"
    hall = store.read_hall_of_fame("demo")
    assert len(hall) == 2
    assert {"gbar_MyKv.soma", "gbar_MyKv.axon"} <= set(hall.parameter_names)
    text = (folder / "modfiles" / "my_kv.mod").read_text()
    out = Path(store.root)
    kept = list((out / "models").rglob("*.mod"))
    assert [str(path.relative_to(out)) for path in kept] == ["models/demo/modfiles/MyKv.mod"]
    assert kept[0].read_text() == text
    assert '"gbar_MyKv"' in (out / "models/demo/fit.json").read_text()

    modfiles = {"hoc": "modfiles", "allen": "modfiles", "sonata": "components/mechanisms/modfiles"}
    for format, place in modfiles.items():
        export_command(out, folder / format, format)
        assert (folder / format / place / "MyKv.mod").read_text() == text
    assert {path.stem for path in (folder / "hoc/modfiles").iterdir()} == {"MyKv", "NaTa_t", "NaTs2_t"}
    assert {path.stem for path in (folder / "allen/modfiles").iterdir()} == {"MyKv"}
    (population,) = read_populations(ModelsSpec(run=out), Path())
    assert population.model.user_mechanisms.sources == {"MyKv": text}

    (folder / "modfiles" / "my_kv.mod").write_text(text.replace("m_tau = 4/", "m_tau = 8/"))
    with pytest.raises(UsageError, match="modfiles/my_kv.mod"):
        run(folder)


def test_one_that_replaces_ours_is_said(folder):
    (folder / "modfiles" / "Kv3_1.mod").write_text(KV)
    spec = load_job(write(folder, recipe="theirs.yaml"))
    (subject,) = prepare(spec, folder, keep_recordings=False)
    assert "mechanism Kv3_1 is the job's own, from modfiles" in subject.warnings
    assert subject.problem(1, None).model.user_mechanisms.sources == {"Kv3_1": KV}
    assert re.search(r"Kv3_1 \([a-z, ]+, your Kv3_1.mod\)", subject.problem(1, None).mechanisms_told)
    assert [stage.name for stage in stage_plans(spec, folder)["demo"]] == ["passive", "active"]


def test_built_in_recipes_share_them_and_a_cell_that_has_none_is_told(folder):
    (folder / "modfiles" / "NaV.mod").write_text(KV.replace("SUFFIX Kv3_1", "SUFFIX NaV"))
    cells = [JOB["cells"][0] | {"id": dendrite, "dendrite": dendrite} for dendrite in ("spiny", "aspiny")]
    evolution = {key: value for key, value in SMALL.items() if key != "evaluations"}
    spec = load_job(write(folder, recipe="perisomatic", cells=cells, evolution=evolution))
    spiny, aspiny = prepare(spec, folder, keep_recordings=False)
    assert spiny.own_mechanisms == aspiny.own_mechanisms
    assert "none of the mechanisms in modfiles is named by its recipe perisomatic-f6" in spiny.warnings
    assert "mechanism NaV is the job's own, from modfiles" in aspiny.warnings


@pytest.mark.parametrize(
    ("changes", "file", "said"),
    [
        ({"mechanisms": "gone"}, None, "mechanisms: .*gone: expected a folder of .mod files, found nothing"),
        ({"mechanisms": None}, None, "no mechanism 'MyKv'.*folder of it with `mechanisms:`"),
        (
            {"recipe": "theirs.yaml"},
            None,
            r"names no mechanism of modfiles \(MyKv, Unused\), but Kv3_1, NaTa_t",
        ),
        ({}, ("second.mod", "NEURON { SUFFIX MyKv }"), "found MyKv in my_kv.mod and in second.mod"),
        ({}, ("passive.mod", "NEURON { SUFFIX pas }"), "declares the SUFFIX pas.*built into NEURON"),
        ({}, ("my_kv.mod", WITH_POINTER), r"mechanism MyKv \(my_kv.mod\) needs the POINTER far"),
        ({}, ("my_kv.mod", "NEURON { POINT_PROCESS MyKv }"), r"MyKv is declared as POINT_PROCESS \(my_kv.mod\)"),
        (
            {},
            ("my_kv.mod", MY_KV + '\nINCLUDE "gone.inc"\n'),
            "no such file beside",
        ),
        (
            {"evolution": SMALL | {"evaluations": {"active": 16}, "offspring": None}},
            None,
            "stage active has 16, and one",
        ),
        ({}, ("my_kv.mod", BROKEN), r"(?s)mechanisms: modfiles: .* MyKv \(my_kv.mod\) did not compile.*line 3"),
    ],
    ids=[
        "no folder",
        "no key",
        "nothing named",
        "one SUFFIX twice",
        "of NEURON",
        "pointer",
        "point",
        "include",
        "budget",
        "no NMODL",
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(folder, changes, file, said):
    if file is not None:
        (folder / "modfiles" / file[0]).write_text(file[1])
    with pytest.raises((UsageError, InputError), match=said):
        run(folder, **changes)
    assert not (folder / "run").exists()


def test_nmodl_that_does_not_compile_is_wrong_input(folder, capsys, monkeypatch):
    (folder / "modfiles" / "my_kv.mod").write_text(BROKEN)
    monkeypatch.setattr("sys.argv", ["neurofleet", "run", str(write(folder)), "--out", str(folder / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == UsageError.exit_code
    assert capsys.readouterr().err.count("did not compile") == 1


def test_the_mod_files_are_inputs_and_travel(folder):
    (folder / "modfiles" / "x86_64").mkdir()
    (folder / "modfiles" / "x86_64" / "my_kv.cpp").write_text("made by nrnivmodl")
    (folder / "modfiles" / "rates.inc").write_text("")
    (folder / "modfiles" / "my_kv.mod").write_text('INCLUDE "rates.inc"\n')
    spec = load_job(write(folder))
    names = {"modfiles/my_kv.mod", "modfiles/unused.mod", "modfiles/rates.inc"}
    assert {name for name in input_files(spec, folder) if name.startswith("modfiles")} == names
    assert names <= {name.removeprefix("neurofleet-job/files/") for name in collect(spec, folder).files}


def test_a_fit_file_has_them_too(folder, capsys):
    known = UserMechanisms.read(folder / "modfiles").known
    write_fit(folder / "fit.json", {"gbar_MyKv.soma": 0.1}, {"soma": ("MyKv",)}, Conditions(), known=known)
    fit = {"id": "one", "fit": "fit.json", "morphology": "cell.swc"}
    for given in ({"fits": [fit]}, {"fits": [fit | {"mechanisms": "mine"}]}, {"fits": [fit], "mechanisms": "mine"}):
        if given != {"fits": [fit]} and not (folder / "mine").exists():
            (folder / "modfiles").rename(folder / "mine")
        models = ModelsSpec(**given)
        (population,) = read_populations(models, folder)
        assert population.model.user_mechanisms.sources == {"MyKv": MY_KV}
        assert ("mine" in map(str, models.paths_named())) == (given != {"fits": [fit]})
    export_command(
        folder / "fit.json", folder / "out", "hoc", morphology=folder / "cell.swc", mechanisms=folder / "mine"
    )
    assert (folder / "out" / "modfiles" / "MyKv.mod").read_text() == MY_KV
    with pytest.raises(ValueError, match="`mechanisms:` belongs to `fits:`"):
        ModelsSpec(run="run", mechanisms="mine")
    with pytest.raises(UsageError, match="--mechanisms belong to a fit file"):
        export_command(folder, folder / "other", "hoc", mechanisms=folder / "mine")


def test_a_sample_has_them_too(folder):
    cells = JOB["cells"]
    spec = SampleSpec(name="drawn", cells=cells, recipe="small.yaml", mechanisms="modfiles", draws=2)
    assert Path("modfiles") in spec.paths_named()
    ((sampling,), _) = read_samplings(spec, folder)
    assert list(sampling.model.user_mechanisms.sources) == ["MyKv"]
