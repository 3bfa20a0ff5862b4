"""The command that downloads cells, as it is typed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from neurofleet.errors import InputError, JobError, UsageError
from neurofleet.jobs.archive_fetch import fetch_command
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
    monkeypatch.setattr("neurofleet.neurosim.exchange.archive_folder.check_morphology", lambda path: None)
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
        (["allen:../x"], "expected a name such as allen:"),
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
    with pytest.raises(JobError, match="1 of 2 could not be downloaded: allen:11"):
        fetch_command(["allen:11", "allen:12"], tmp_path, database.address)
    assert "found a web page" in capsys.readouterr().err
    assert (tmp_path / "12" / "12.nwb").is_file()


def test_an_interrupted_download_goes_on_in_the_next_call(database, tmp_path, recording):
    big = recording + bytes(6_000_000)  # HDF5 files may have something behind their end
    database.files[database.cells[11]["erwkf__id"]] = big
    database.slow_s = 0.05  # a chunk
    code = (
        "import sys, pathlib\n"
        "from neurofleet.jobs import cli\n"
        "from neurofleet.jobs.archive_fetch import fetch_command\n"
        "address, out = sys.argv[1:]\n"
        "cli.app = lambda *_, **__: fetch_command(['allen:11'], pathlib.Path(out), address)\n"
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


DANDISET, SUBJECT = "000020", "sub-1"
PATHS = [f"{SUBJECT}/sub-1_ses-{session}_icephys.nwb" for session in (1, 2, 3)]


@pytest.fixture
def archives(recording, database):
    """The same server, with a dandiset of three recordings and a neuron."""
    others = {f"{SUBJECT}/notes.txt": b"notes", "sub-11/sub-11_icephys.nwb": recording}
    database.add_dandiset(
        DANDISET, "0.210913.1639", {path: recording + bytes(8 * n) for n, path in enumerate(PATHS)} | others
    )
    database.add_neuron("cnic_001", "Wearne_Hof", FULL_SWC.encode())
    return database


def test_a_file_and_a_folder_of_a_dandiset_arrive_with_their_checksums(archives, tmp_path, capsys, recording):
    fetch_command([f"dandi:{DANDISET}/{PATHS[1]}"], tmp_path, archives.address)
    folder = tmp_path / DANDISET
    assert (folder / PATHS[1]).read_bytes() == recording + bytes(8)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == "0.210913.1639"
    assert manifest["files"][PATHS[1]]["sha256"] == hashlib.sha256(recording + bytes(8)).hexdigest()
    assert f"recordings: {folder / PATHS[1]}" in " ".join(capsys.readouterr().err.split())
    archives.asked.clear()
    fetch_command([f"dandi:{DANDISET}/{PATHS[1]}"], tmp_path, "http://127.0.0.1:9")  # no question is needed
    assert archives.asked == []
    fetch_command([f"dandi:{DANDISET}@0.210913.1639/{SUBJECT}"], tmp_path, archives.address)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nwb")) == PATHS
    assert len(archives.downloads) == 2  # the one that was there is not downloaded again


def test_an_asset_with_another_checksum_is_removed(archives, tmp_path, capsys):
    (blob,) = [
        path for path, content in archives.files.items() if path == archives.sent_on[_download(archives, PATHS[0])]
    ]
    archives.files[blob] = archives.files[blob][:-1] + b"?"
    with pytest.raises(JobError, match="1 of 1 could not be downloaded"):
        fetch_command([f"dandi:{DANDISET}/{PATHS[0]}"], tmp_path, archives.address)
    assert "expected the SHA-256" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.nwb*"))


def _download(archives, path):
    asset = hashlib.sha1(path.encode()).hexdigest()
    return f"/api/assets/{asset}/download/"


def test_an_asset_goes_on_where_it_broke_off_and_may_have_no_checksum(archives, tmp_path, capsys, recording):
    archives.add_dandiset("000021", "draft", {PATHS[0]: recording}, digests=False)
    archives.cut_after = [10**9] * 3 + [20_000] + [0] * 20
    with pytest.raises(JobError):
        fetch_command([f"dandi:000021/{PATHS[0]}"], tmp_path, archives.address)
    archives.cut_after = []
    archives.asked.clear()
    fetch_command([f"dandi:000021/{PATHS[0]}"], tmp_path, archives.address)
    assert (tmp_path / "000021" / PATHS[0]).read_bytes() == recording
    assert archives.downloads[0].first == 20_000
    assert "the archive has no SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dandi:20/x.nwb", "expected a name such as dandi:000020/"),
        ("dandi:000020", "expected a name such as dandi:000020/"),
        ("dandi:000020/../x.nwb", "expected a name such as dandi:000020/"),
        ("dandi:000099/x.nwb", "no public dandiset of this number"),
        (f"dandi:{DANDISET}/{SUBJECT}/sub-1_ses-9.nwb", f"found beside it {PATHS[0]}"),
        (f"dandi:{DANDISET}/{SUBJECT}/notes.txt", f"found {SUBJECT}/notes.txt"),
        ("neuromorpho:nobody", "expected the name of a neuron of NeuroMorpho.Org, found none"),
        ("neuromorpho:../x", "expected a name such as neuromorpho:cnic_001"),
        ("neuromorph:cnic_001", "did you mean 'neuromorpho'"),
    ],
)
def test_wrong_names_of_archives_are_refused_before_anything_is_written(archives, tmp_path, name, said):
    with pytest.raises((UsageError, InputError), match=said):
        fetch_command([name], tmp_path / "out", archives.address)
    assert not (tmp_path / "out").exists()


def test_names_of_an_archive_that_lead_out_of_the_folder_are_not_downloaded(archives, tmp_path, recording, capsys):
    archives.add_dandiset("000022", "draft", {"a/../../../x.nwb": recording})
    with pytest.raises(JobError):
        fetch_command(["dandi:000022/a"], tmp_path / "out", archives.address)
    assert "leads out of the folder" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.nwb*"))


def test_a_neuron_arrives_with_what_is_known_of_it(archives, tmp_path, capsys):
    fetch_command(["neuromorpho:cnic_001"], tmp_path, archives.address)
    assert (tmp_path / "cnic_001" / "cnic_001.CNG.swc").read_text() == FULL_SWC
    assert json.loads((tmp_path / "cnic_001" / "metadata.json").read_text())["species"] == "mouse"
    assert "mouse; neocortex, layer 5; Wearne_Hof" in capsys.readouterr().err
    fetch_command(["neuromorpho:cnic_001"], tmp_path, "http://127.0.0.1:9")
    assert "all there already and verified" in capsys.readouterr().err


def test_each_archive_has_its_own_folder_and_address(archives, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--address: expected names of one archive, found allen and neuromorpho"):
        fetch_command(["allen:11", "neuromorpho:cnic_001"], tmp_path, archives.address)
    monkeypatch.chdir(tmp_path)
    for archive in ("ALLEN", "NEUROMORPHO"):
        monkeypatch.setenv(f"NEUROFLEET_{archive}_ADDRESS", archives.address)
    fetch_command(["allen:11", "neuromorpho:cnic_001"], None)
    assert (tmp_path / "allen" / "11" / "11.nwb").is_file()
    assert (tmp_path / "neuromorpho" / "cnic_001" / "cnic_001.CNG.swc").is_file()
