"""The command that downloads cells, as it is typed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from neurofleet.errors import InputError, JobError, UsageError
from neurofleet.jobs.allen_fetch import fetch_command
from neurofleet.jobs.job_file import load_job
from tests.neurosim.cells.small_cells import FULL_SWC
from tests.neurosim.exchange.allen_server import Database, serve
from tests.neurosim.recordings.recording_files import step_current, write_allen


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> bytes:
    current = step_current(rate_Hz=100_000.0)
    path = write_allen(tmp_path_factory.mktemp("nwb") / "cell.nwb", current * 1e-9, current - 0.07)
    return path.read_bytes()


@pytest.fixture
def database(recording, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("neurofleet.neurosim.exchange.allen_download.check_morphology", lambda path: None)
    with serve(Database()) as running:
        for number in (11, 12):
            running.add(number, recording, FULL_SWC.encode(), tag__dendrite_type="aspiny")
        yield running


def test_several_cells_are_fetched_and_can_be_fitted(database, tmp_path, capsys):
    fetch_command(["allen:11", "allen:12", "allen:11"], tmp_path, database.address)
    job = load_job(tmp_path / "12" / "fit.yaml")
    assert (job.cells[0].id, job.cells[0].dendrite) == ("12", "aspiny")
    named = (job.cells[0].morphology, job.cells[0].recordings)
    assert all((tmp_path / "12" / path).is_file() for path in named)
    said = capsys.readouterr().err
    assert said.count("allen:11: Cux2-CreERT2;Ai14-11, Cux2, aspiny") == 1
    assert f"neurofleet run {tmp_path / '12' / 'fit.yaml'}" in " ".join(said.split())


def test_again_all_is_verified_without_a_question_and_the_users_job_is_kept(database, tmp_path, capsys):
    fetch_command(["allen:11"], tmp_path, database.address)
    (tmp_path / "11" / "fit.yaml").write_text("# mine\n")
    fetch_command(["allen:11"], tmp_path, "http://127.0.0.1:9")
    assert "all there already and verified" in capsys.readouterr().err
    (tmp_path / "11" / "11.swc").write_text("changed")
    fetch_command(["allen:11"], tmp_path, database.address)
    assert "downloaded again" in capsys.readouterr().err
    assert (tmp_path / "11" / "fit.yaml").read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["483101699"], "did you mean allen:483101699"),
        (["allen:../x"], "expected a specimen such as allen:"),
        (["allen:11", "allen:5"], "allen:5: expected the number of a specimen"),
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_written(database, tmp_path, names, said):
    with pytest.raises((UsageError, InputError), match=f"(?i){said}"):
        fetch_command(names, tmp_path / "out", database.address)
    assert not (tmp_path / "out").exists()
    assert database.downloads == []


def test_a_wrong_address_or_place_is_refused(database, tmp_path):
    for address in ("file:///etc", "api.brain-map.org", "ftp://host"):
        with pytest.raises(UsageError, match="--address: expected an address such as https"):
            fetch_command(["allen:11"], tmp_path, address)
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        fetch_command(["allen:11"], tmp_path / "taken", database.address)


def test_one_that_fails_does_not_keep_the_others_away(database, tmp_path, capsys):
    database.files[database.cells[11]["erwkf__id"]] = b"<html>maintenance</html>"
    with pytest.raises(JobError, match="1 of 2 specimens could not be downloaded: allen:11"):
        fetch_command(["allen:11", "allen:12"], tmp_path, database.address)
    assert "found a web page" in capsys.readouterr().err
    assert (tmp_path / "12" / "12.nwb").is_file()


def test_an_interrupted_download_goes_on_in_the_next_call(database, tmp_path, recording):
    big = recording + bytes(6_000_000)  # HDF5 files may have something behind their end
    database.files[database.cells[11]["erwkf__id"]] = big
    database.slow_s = 0.05  # a chunk
    code = (
        "import sys, pathlib; from jobs import cli; from neurofleet.jobs.allen_fetch import fetch_command\n"
        "address, out = sys.argv[1:]\n"
        "cli.app = lambda standalone_mode: fetch_command(['allen:11'], pathlib.Path(out), address)\n"
        "cli.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, database.address, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"no_proxy": "127.0.0.1"},
    )
    partial = tmp_path / "11" / "11.nwb.partial"
    while process.poll() is None and not (partial.is_file() and partial.stat().st_size > 500_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "goes on where this one stopped" in process.communicate(timeout=20)[1]
    assert process.returncode == 130
    had = partial.stat().st_size
    database.slow_s = 0.0
    database.asked.clear()
    fetch_command(["allen:11"], tmp_path, database.address)
    assert database.downloads[0].first == had
    assert (tmp_path / "11" / "11.nwb").read_bytes() == big
