"""What of a job travels to a cluster, and under which names."""

import json
import os
import shutil
import zipfile

import pytest
import yaml

from neurofleet.errors import UsageError
from neurofleet.jobs.job_file import KINDS, load_job
from neurofleet.jobs.learners import LEARNERS
from neurofleet.jobs.remote.job_package import collect, pack
from neurofleet.jobs.run_folder import refuse_missing

LIMIT_BYTES = 10**6


@pytest.fixture
def lab(tmp_path):
    """A folder of jobs beside a folder of data."""
    for name in ("jobs", "data/one", "data/two", "data/targets/.git", "jobs/mod", "jobs/fits/hall_of_fame"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "jobs/cell.swc",
        "jobs/recipe.yaml",
        "jobs/mod/Ih.mod",
        "jobs/private.txt",
        "jobs/fits/hall_of_fame/best.parquet",
        "jobs/fits/events.jsonl",
        "data/one/cell.nwb",
        "data/two/cell.nwb",
        "data/targets/features.json",
        "data/targets/.git/config",
    ):
        (tmp_path / name).write_text(name)
    return tmp_path


def write(lab, **changes):
    job = {
        "kind": "fit",
        "name": "rat",
        "cells": [
            {"id": "a", "morphology": "./cell.swc", "recordings": "../data/one/cell.nwb"},
            {"id": "b", "morphology": "cell.swc", "recordings": "../jobs/../data/two/cell.nwb"},
            {"id": "c", "morphology": "cell.swc", "targets": "../data/targets"},
            {"id": "d", "morphology": "cell.swc", "recordings": "../data/one/cell.nwb"},
        ],
        "recipe": "recipe.yaml",
        "warm_start": "fits",
        "max_steps": None,
        "out": "/lab/rat",
    }
    path = lab / "jobs" / "rat.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (job | changes).items() if value != "-"}))
    return path


def luggage_of(job):
    return collect(load_job(job), job.parent)


def unpacked(job, folder, limit_bytes=LIMIT_BYTES):
    package = folder / "job.zip"
    luggage = luggage_of(job)
    pack(luggage, package, limit_bytes)
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder / "cluster")
    return folder / "cluster" / luggage.job_file


def test_what_the_job_names_travels_and_nothing_else(lab, tmp_path):
    arrived = unpacked(write(lab), tmp_path)
    top = tmp_path / "cluster"
    assert {str(file.relative_to(top)) for file in top.rglob("*") if file.is_file()} == {
        "neurofleet-job/start.sh",
        "neurofleet-job/files/jobs/neurofleet-job.yaml",
        "neurofleet-job/files/jobs/cell.swc",
        "neurofleet-job/files/jobs/recipe.yaml",
        "neurofleet-job/files/jobs/fits/hall_of_fame/best.parquet",
        "neurofleet-job/files/data/one/cell.nwb",
        "neurofleet-job/files/data/two/cell.nwb",
        "neurofleet-job/files/data/targets/features.json",
    }
    assert arrived.is_file()


def test_the_job_that_arrives_is_the_same_with_paths_that_lead_to_the_same_files(lab, tmp_path):
    job = write(lab)
    arrived = unpacked(job, tmp_path)
    sent, got = load_job(job), load_job(arrived)
    for before, after in zip(sent.cells, got.cells, strict=True):
        for key in ("morphology", "recordings"):
            if getattr(before, key):
                there = arrived.parent / getattr(after, key)
                assert there.read_text() == (job.parent / getattr(before, key)).read_text()
            assert str(getattr(after, key)) in (str(getattr(before, key)), "../data/two/cell.nwb")
    assert (arrived.parent / got.cells[2].targets / "features.json").is_file()
    assert got.max_steps is None
    assert got.name == "rat"
    assert got.out is None
    assert sent.model_dump(exclude={"cells", "out"}) == got.model_dump(exclude={"cells", "out"})


def test_of_a_quick_job_what_it_reads_travels_and_the_cluster_reads_it_as_the_same(lab, tmp_path):
    job = write(lab)
    quick = load_job(job, quick=True)
    luggage = collect(quick, job.parent)
    pack(luggage, tmp_path / "job.zip", LIMIT_BYTES)
    assert not any("two" in name for name in luggage.files), "the files of other cells stay here"
    with zipfile.ZipFile(tmp_path / "job.zip") as archive:
        archive.extractall(tmp_path / "cluster")
    arrived = load_job(tmp_path / "cluster" / luggage.job_file)
    assert (arrived.quick, [cell.id for cell in arrived.cells]) == (True, ["a"])
    assert arrived.evolution == quick.evolution


def test_the_same_job_has_the_same_names_and_bytes_from_anywhere_and_any_time(lab, tmp_path):
    first = tmp_path / "1.zip"
    pack(luggage_of(write(lab)), first, LIMIT_BYTES)
    moved = lab.rename(lab.parent / f"{lab.name}-moved")
    for file in moved.rglob("*"):
        os.utime(file, (0, 0))
    second = moved / "2.zip"
    pack(luggage_of(moved / "jobs" / "rat.yaml"), second, LIMIT_BYTES)
    assert (moved / "1.zip").read_bytes() == second.read_bytes()


@pytest.mark.parametrize("path", ["cell.swc", "../jobs/cell.swc", "../data/../jobs/./cell.swc"])
def test_ways_to_one_file_are_one_way(lab, tmp_path, path):
    cells = [{"id": "a", "morphology": path, "recordings": "/lab/a.nwb"}]
    arrived = unpacked(write(lab, cells=cells, warm_start="-", recipe="-"), tmp_path)
    (cell,) = load_job(arrived).cells
    assert str(cell.morphology) == "cell.swc"
    assert (arrived.parent / cell.morphology).is_file()


def test_an_absolute_path_stays_whether_it_exists_here_or_not(lab):
    here = lab / "data" / "one" / "cell.nwb"
    cells = [
        {"id": "a", "morphology": "cell.swc", "recordings": str(here)},
        {"id": "b", "morphology": "/lab/b.swc", "recordings": "/lab/b.nwb"},
    ]
    luggage = luggage_of(write(lab, cells=cells, warm_start="-", recipe="-"))
    assert luggage.remote == (str(here), "/lab/b.swc", "/lab/b.nwb")
    assert [file.name for file in luggage.files.values()] == ["cell.swc"]
    assert luggage.job["cells"][0]["recordings"] == str(here)


@pytest.mark.parametrize("module", ["model.py", "model/__init__.py"])
def test_the_module_of_an_evaluator_and_the_mechanisms_beside_it_travel(lab, tmp_path, module):
    source = lab / "jobs" / module
    source.parent.mkdir(exist_ok=True)
    source.write_text("def make(): ...")
    cache = source.parent / "__pycache__"
    cache.mkdir()
    (cache / "model.pyc").touch()
    (lab / "jobs" / "mechanisms").mkdir()
    (lab / "jobs" / "mechanisms" / "Ih.mod").touch()
    for compiled in ("x86_64", "mechanisms/x86_64"):
        (lab / "jobs" / compiled).mkdir()
        (lab / "jobs" / compiled / "libnrnmech.so").touch()
    job = write(lab, cells="-", recipe="-", warm_start="-", evaluator="model:make")
    names = {name.removeprefix("neurofleet-job/files/") for name in luggage_of(job).files}
    assert names == {module, "mechanisms/Ih.mod"}
    job = write(lab, cells="-", recipe="-", warm_start="-", evaluator="model:make", mechanisms="mod")
    names = {name.removeprefix("neurofleet-job/files/") for name in luggage_of(job).files}
    assert names == {module, "mod/Ih.mod"}
    shutil.rmtree(lab / "jobs" / "mechanisms")
    with pytest.raises(UsageError, match="x86_64 was compiled for this machine and is not sent"):
        luggage_of(write(lab, cells="-", recipe="-", warm_start="-", evaluator="model:make"))


def test_files_that_an_evaluator_reads_are_named_and_travel(lab, tmp_path):
    (lab / "jobs" / "model.py").write_text("def make(): ...")
    for name in ("jobs/data.json", "data/extra/one.csv", "data/extra/two.csv"):
        (lab / name).parent.mkdir(exist_ok=True)
        (lab / name).write_text(name)
    files = ["data.json", "../data/extra/*.csv", "/lab/table.csv"]
    job = write(lab, cells="-", recipe="-", warm_start="-", evaluator="model:make", files=files)
    luggage = luggage_of(job)
    names = {name.removeprefix("neurofleet-job/files/") for name in luggage.files}
    assert names == {"jobs/model.py", "jobs/data.json", "data/extra/one.csv", "data/extra/two.csv"}
    assert luggage.remote == ("/lab/table.csv",)
    arrived = unpacked(job, tmp_path)
    spec = load_job(arrived)
    assert [str(path) for path in spec.files] == [
        "data.json",
        "../data/extra/one.csv",
        "../data/extra/two.csv",
        files[2],
    ]
    assert (arrived.parent / spec.files[1]).read_text() == "data/extra/one.csv"
    with pytest.raises(UsageError, match=r"files, value 1: gone.json is not there"):
        luggage_of(write(lab, cells="-", recipe="-", warm_start="-", evaluator="model:make", files="gone.json"))


def test_a_link_that_leads_out_of_a_folder_is_not_followed(lab, tmp_path):
    secret = tmp_path / "elsewhere" / "shadow"
    secret.parent.mkdir()
    secret.write_text("secret")
    targets = lab / "data" / "targets"
    (targets / "same.json").symlink_to("features.json")
    assert {file.name for file in luggage_of(write(lab)).files.values()} >= {"same.json", "features.json"}
    (targets / "key.json").symlink_to(secret)
    (targets / "all").symlink_to(secret.parent)
    with pytest.raises(UsageError) as refused:
        luggage_of(write(lab))
    assert f"cell 3: targets: {targets / 'key.json'} is a symbolic link to {secret}" in str(refused.value)
    assert f"cell 3: targets: {targets / 'all'} is a symbolic link to {secret.parent}" in str(refused.value)


def test_a_link_that_the_job_names_is_told(lab):
    (lab / "jobs" / "linked.swc").symlink_to(lab / "jobs" / "cell.swc")
    cells = [{"id": "a", "morphology": "linked.swc", "recordings": "/lab/a.nwb"}]
    luggage = luggage_of(write(lab, cells=cells, warm_start="-", recipe="-"))
    assert luggage.links == (f"{lab / 'jobs' / 'linked.swc'} -> {lab / 'jobs' / 'cell.swc'}",)


FIT_RUN = {"job.yaml", "provenance.json", "events.jsonl", "hall_of_fame/cell=a.parquet"}
OTHERS = {
    "sims": ({"kind": "train", "learner": "sims", "reference": "../data/*.h5ad", "labels": "l.csv", "label": "t"}, 3),
    "sims sweep": (
        {
            "kind": "sweep",
            "learner": "sims",
            "reference": ["../data/a.h5ad", "https://host/b.h5ad"],
            "label": "t",
            "search": {"n_d": [8, 16]},
            "trials": {"method": "grid"},
        },
        1,
    ),
    "hippie": (
        {"kind": "train", "learner": "hippie", "units": "u.npz", "label": "t", "pool": [{"units": ["../data/p.npz"]}]},
        2,
    ),
    "hippie evaluation": (
        {
            "kind": "evaluate",
            "learner": "hippie",
            "sets": [
                {"name": "one", "units": ["u.npz"], "label": "t"},
                {"name": "two", "units": "../data/*.npz", "label": "t"},
            ],
        },
        2,
    ),
    "neuprint": (
        {"kind": "evaluate", "learner": "neuprint", "recordings": ["u.npz", "../data/bugeon"], "label": "t"},
        2,
    ),
    "validate": ({"kind": "validate", "models": {"run": "../runs/rat"}}, 7),
    "sensitivity": ({"kind": "sensitivity", "models": {"run": "../runs/rat"}}, 7),
    "synapse": ({"kind": "synapse", "models": {"run": "../runs/rat"}, "classes": {"table": "l.csv", "column": "t"}}, 8),
    "compare": (
        {
            "kind": "compare",
            "models": {
                "own": {"run": "../runs/rat"},
                "published": {"fits": [{"id": "a", "fit": "../data/fit.json", "morphology": "cell.swc"}]},
            },
        },
        8,
    ),
    "sample": (
        {
            "kind": "sample",
            "cells": [{"id": "a", "morphology": "cell.swc", "targets": "../data/targets"}],
            "mechanisms": "mod",
            "recipe": "recipe.yaml",
            "draws": 8,
        },
        4,
    ),
    "posterior": ({"kind": "posterior", "fit": "../runs/rat", "known": "../data/fit.json"}, 8),
    "analyse": (
        {
            "kind": "analyse",
            "populations": ["../runs/*"],
            "cells": "l.csv",
            "groupings": {"type": {"column": "t"}},
            "features": {"measured": {"table": "../data/features.csv"}},
            "maps": {"plane": {"fit": "measured"}},
        },
        3,
    ),
}


@pytest.fixture
def larger_lab(lab):
    """The same with a finished fit, and with data of learners."""
    for name in ("data/a.h5ad", "data/b.h5ad", "data/p.npz", "data/fit.json", "data/features.csv", "data/bugeon/x"):
        (lab / name).parent.mkdir(parents=True, exist_ok=True)
        (lab / name).write_text(name)
    for name in ("jobs/l.csv", "jobs/u.npz"):
        (lab / name).write_text(name)
    run = lab / "runs" / "rat"
    for name in (*FIT_RUN, "evaluations/large.parquet", "report.html"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    cells = [{"id": "a", "morphology": "../jobs/cell.swc", "recordings": "../data/one/cell.nwb"}]
    job = {"kind": "fit", "name": "rat", "cells": cells, "recipe": "recipe.yaml"}
    (run / "job.yaml").write_text(yaml.safe_dump(job))
    (run / "provenance.json").write_text(json.dumps({"job_folder": str(lab / "jobs"), "inputs": {"x": "1"}}))
    return lab


@pytest.mark.parametrize("kind", OTHERS)
def test_a_job_of_every_kind_arrives_with_its_files(larger_lab, tmp_path, kind):
    content, n_files = OTHERS[kind]
    job = larger_lab / "jobs" / "other.yaml"
    job.write_text(yaml.safe_dump({"name": "other", **content}))
    luggage = luggage_of(job)
    arrived = unpacked(job, tmp_path)
    spec = load_job(arrived)
    refuse_missing(spec, arrived.parent)
    assert len(luggage.files) + len(luggage.texts) == n_files, sorted([*luggage.files, *luggage.texts])
    assert spec.plain() == load_job(job).plain()
    assert luggage.remote == tuple(spec.urls_named())
    moved = tmp_path / "cluster" / "neurofleet-job" / "files" / "runs" / "rat"
    if "run" in str(content.get("models")):
        assert {str(file.relative_to(moved)) for file in moved.rglob("*") if file.is_file()} == FIT_RUN
        fit = load_job(moved / "job.yaml")
        inputs = moved / json.loads((moved / "provenance.json").read_text())["job_folder"]
        assert json.loads((moved / "provenance.json").read_text())["inputs"] == {"x": "1"}
        assert (inputs / fit.cells[0].morphology).read_text() == "jobs/cell.swc"
        assert (inputs / fit.cells[0].recordings).read_text() == "data/one/cell.nwb"


def test_all_kinds_of_jobs_are_packed_in_these_tests():
    packed = {(job["kind"], job.get("learner")) for job, _ in OTHERS.values()}
    assert {kind for kind, _ in packed} | {"fit"} == set(KINDS)
    assert {learner for _, learner in packed} - {None} == set(LEARNERS)


def test_inputs_of_a_fit_that_are_gone_are_told(larger_lab):
    (larger_lab / "data" / "one" / "cell.nwb").unlink()
    job = larger_lab / "jobs" / "other.yaml"
    job.write_text(yaml.safe_dump({"kind": "validate", "models": {"run": "../runs/rat"}}))
    with pytest.raises(UsageError, match=r"cell 1: recordings: ../data/one/cell.nwb is not there, seen from .*/jobs"):
        luggage_of(job)


def test_an_evaluator_that_is_installed_brings_nothing(lab):
    job = write(lab, cells="-", recipe="-", warm_start="-", evaluator="bluepyopt.ephys.examples:make")
    assert luggage_of(job).files == {}


def test_all_missing_files_are_told_at_once(lab):
    cells = [{"id": "a", "morphology": "a.swc", "recordings": "../b.nwb"}]
    with pytest.raises(UsageError) as refused:
        luggage_of(write(lab, cells=cells))
    assert "cell 1: morphology: a.swc" in str(refused.value)
    assert "cell 1: recordings: ../b.nwb" in str(refused.value)


def test_a_job_over_the_limit_is_refused_with_its_size_and_a_way_out(lab, tmp_path):
    (lab / "data" / "one" / "cell.nwb").write_bytes(os.urandom(3 * 2**20))
    with pytest.raises(UsageError) as refused:
        unpacked(write(lab), tmp_path, 2 * 2**20)
    told = str(refused.value)
    assert "6 files, 3.1 MB, and Ray's Jobs API takes 2 MB" in told
    assert "data/one/cell.nwb" in told
    assert "absolute paths" in told


def test_what_counts_is_the_size_when_packed(lab, tmp_path):
    (lab / "data" / "one" / "cell.nwb").write_bytes(bytes(3 * 2**20))
    assert unpacked(write(lab), tmp_path, 2**20).is_file()
