"""What of a job's files counts as its input, here and after they have travelled."""

import shutil
from pathlib import Path

import pytest
import yaml

from neurofleet.errors import InputError, UsageError
from neurofleet.jobs.fit.fit_inputs import check_warm_start, input_files, recording_source
from neurofleet.jobs.job_file import load_job
from neurofleet.jobs.remote.job_package import collect
from tests.file_server import FileServer, serve
from tests.jobs.made_run import write_run
from tests.jobs.test_fits import MadeSubject


@pytest.fixture
def job(tmp_path):
    """Write a job beside its files; return it as read, and its folder."""

    def write(**changes):
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        for name in ("m.swc", "r.nwb"):
            (folder / name).write_text(name)
        cells = [{"id": "c", "morphology": "m.swc", "recordings": "r.nwb"}]
        (folder / "job.yaml").write_text(yaml.safe_dump({"cells": cells} | changes))
        return load_job(folder / "job.yaml"), folder

    return write


def test_of_a_warm_start_only_the_halls_of_fame_count(job):
    spec, folder = job(warm_start="before")
    write_run(folder / "before")
    found = input_files(spec, folder)
    assert set(found) == {
        "m.swc",
        "r.nwb",
        *(f"before/hall_of_fame/cell=a/{name}.parquet" for name in ("seed=1", "seed=2")),
    }
    (folder / "before" / "report.html").touch()
    assert input_files(spec, folder) == found
    (folder / "before/hall_of_fame/cell=a/seed=2.parquet").write_bytes(b"other")
    assert input_files(spec, folder) != found


def test_the_inputs_of_a_job_that_has_travelled_are_the_same(job, tmp_path):
    spec, folder = job(warm_start="../earlier/before")
    write_run(tmp_path / "earlier" / "before")
    luggage = collect(spec, folder)
    there = tmp_path / "there"
    for name, source in luggage.files.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, there / name)
    job_file = there / luggage.job_file
    job_file.parent.mkdir(parents=True, exist_ok=True)
    job_file.write_text(yaml.safe_dump(luggage.job))
    travelled = load_job(job_file)
    assert input_files(travelled, job_file.parent) == input_files(spec, folder)


def test_files_of_cells_may_be_elsewhere(job, monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path / "cache"))
    with serve(FileServer({"/d/m.swc": b"m.swc", "/d/r.nwb": b"r.nwb"})) as server:
        urls = {"morphology": f"{server.address}/d/m.swc", "recordings": f"{server.address}/d/r.nwb"}
        here, folder = job()
        spec, folder = job(cells=[{"id": "c"} | urls])
        assert spec.urls_named() == list(urls.values())
        assert spec.paths_named() == here.paths_named()[:1] == [Path("all-active")]
        source = recording_source(spec.cells[0], folder)
        assert (source.path.name, source.path.read_bytes()) == ("r.nwb", b"r.nwb")
        found = input_files(spec, folder)
    assert list(found) == list(urls.values())
    assert list(found.values()) == list(input_files(here, folder).values())


def test_a_warm_start_of_one_file(job):
    spec, folder = job(warm_start="library.parquet")
    (folder / "library.parquet").write_bytes(b"models")
    assert "library.parquet" in input_files(spec, folder)


@pytest.mark.parametrize("key", ["mechanisms", "warm_start", "recipe"])
def test_an_input_that_is_not_there_is_told(job, key):
    spec, folder = job(**{key: "gone.yaml"})
    with pytest.raises(UsageError, match=rf"{key}: gone.yaml does not exist. Paths start at .*{folder}"):
        input_files(spec, folder)


def test_a_warm_start_is_looked_into_before_the_run(job):
    spec, folder = job(warm_start="before")
    subjects = [MadeSubject("c")]
    with pytest.raises(InputError, match="found nothing there"):
        check_warm_start(spec, folder, subjects)
    (folder / "before").mkdir()
    with pytest.raises(InputError, match="found a folder without one"):
        check_warm_start(spec, folder, subjects)
    write_run(folder / "before", cells=("c",))
    with pytest.raises(InputError, match="found only those of c"):
        check_warm_start(spec, folder, subjects)
    shutil.rmtree(folder / "before")
    write_run(folder / "before", cells=("other",))
    check_warm_start(spec, folder, subjects)
    check_warm_start(spec, folder, [])
