"""Cells of the Allen Cell Types Database, from a local server that misbehaves as real ones do."""

import hashlib
import json
import resource
import signal

import h5py
import numpy as np
import pytest
import requests

from neurofleet import http_download
from neurofleet.errors import InputError
from neurofleet.http_download import DownloadError, Web
from neurofleet.neurosim.exchange.allen_download import find_specimen
from neurofleet.neurosim.exchange.archive_folder import ArchiveFolder
from tests.neurosim.cells.small_cells import FULL_SWC
from tests.neurosim.exchange.allen_server import Database, serve

CELL = 483101699
FIT = json.dumps({"passive": [{"ra": 100}], "genome": []}).encode()


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("nwb") / "cell.nwb"
    with h5py.File(path, "w") as file:
        noise = np.random.default_rng(1).normal(size=250_000)
        file["epochs/Sweep_1/response/timeseries/data"] = noise
    return path.read_bytes()


@pytest.fixture
def database(recording, monkeypatch, request):
    """A running server; NEURON looks at reconstructions only in tests marked by ``neuron`` in their name."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if "neuron" not in request.node.name:
        monkeypatch.setattr("neurofleet.neurosim.exchange.archive_folder.check_morphology", lambda path: None)
    with serve(Database()) as running:
        running.add(CELL, recording, FULL_SWC.encode())
        yield running


def fetch(database, folder, number=CELL, models=False):
    """Fetch a cell and return its folder and what became of each file."""
    web = Web(database.address, pause_s=0.001)
    cell = ArchiveFolder(folder / str(number))
    specimen = find_specimen(web, number, models)
    cell.begin(specimen.found, web.address)
    done = {file.name: cell.fetch(web, file, lambda here, size: None) for file in specimen.files}
    cell.end()
    return cell, done


def test_a_cell_arrives_whole_and_neuron_reads_it(database, recording, tmp_path):
    cell, done = fetch(database, tmp_path)
    assert cell.path == tmp_path / str(CELL)
    assert (cell.path / f"{CELL}.nwb").read_bytes() == recording
    assert (cell.path / f"{CELL}.swc").read_text() == FULL_SWC
    assert json.loads((cell.path / "metadata.json").read_text())["line_name"] == "Cux2"
    manifest = json.loads((cell.path / "manifest.json").read_text())
    assert manifest["files"][f"{CELL}.nwb"]["sha256"] == hashlib.sha256(recording).hexdigest()
    assert manifest["files"][f"{CELL}.nwb"]["size"] == len(recording)
    assert [result.note for result in done.values()] == ["", ""]
    assert sorted(path.name for path in cell.path.iterdir()) == sorted(
        [f"{CELL}.nwb", f"{CELL}.swc", "manifest.json", "metadata.json"]
    )


def test_a_second_time_nothing_is_asked_for_or_downloaded(database, tmp_path):
    cell, _ = fetch(database, tmp_path)
    assert ArchiveFolder(cell.path).complete(models=False)
    assert not ArchiveFolder(cell.path).complete(models=True)
    database.asked.clear()
    _, done = fetch(database, tmp_path)
    assert database.downloads == []
    assert all(result.there_already for result in done.values())


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_is_seen_and_downloaded_again(database, recording, tmp_path, damage):
    cell, _ = fetch(database, tmp_path)
    path = cell.path / f"{CELL}.nwb"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(recording[:-1] + (b"?" if damage == "changed" else b""))
    assert not ArchiveFolder(cell.path).complete(models=False)
    database.asked.clear()
    _, done = fetch(database, tmp_path)
    assert path.read_bytes() == recording
    assert [request.first for request in database.downloads] == [0]
    assert ("downloaded again" in done[path.name].note) == (damage != "gone")


def test_a_connection_that_breaks_off_is_taken_up_where_it_ended(database, recording, tmp_path):
    database.cut_after = [10**9, 700_000, 600_000]  # the query, and two answers
    cell, _ = fetch(database, tmp_path)
    assert (cell.path / f"{CELL}.nwb").read_bytes() == recording
    assert [request.first for request in database.downloads[:3]] == [0, 700_000, 1_300_000]


def broken_off(database, folder, after=700_000):
    """Fetch from a server that ends each answer after `after` bytes at first and then gives none."""
    database.cut_after = [10**9, after] + [0] * 20
    with pytest.raises(DownloadError, match="Nothing that arrived is lost"):
        fetch(database, folder)
    database.cut_after = []
    partial = folder / str(CELL) / f"{CELL}.nwb.partial"
    assert partial.stat().st_size == after
    assert not (folder / str(CELL) / f"{CELL}.nwb").exists()
    database.asked.clear()
    return partial


@pytest.mark.parametrize(("ranges", "etags"), [(True, True), (True, False), (False, True)])
def test_the_next_call_goes_on_behind_what_is_there(database, recording, tmp_path, ranges, etags):
    database.etags = etags
    partial = broken_off(database, tmp_path)
    database.ranges = ranges
    fetch(database, tmp_path)
    assert partial.with_suffix("").read_bytes() == recording
    assert not partial.exists()
    assert database.downloads[0].first == 700_000  # a server without ranges sends all, which is taken as such


@pytest.mark.parametrize("etags", [True, False])
def test_what_belongs_to_another_version_is_not_gone_on_with(database, tmp_path, etags, recording):
    database.etags = etags
    partial = broken_off(database, tmp_path)
    path = tmp_path / "new.nwb"
    with h5py.File(path, "w") as file:
        file["epochs/Sweep_1/response/timeseries/data"] = np.zeros(260_000)
    new = path.read_bytes()
    database.files[database.cells[CELL]["erwkf__id"]] = new
    fetch(database, tmp_path)
    assert partial.with_suffix("").read_bytes() == new


def test_a_whole_partial_file_longer_than_the_servers_is_begun_anew(database, recording, tmp_path):
    partial = broken_off(database, tmp_path)
    partial.write_bytes(b"x" * (len(recording) + 5))
    fetch(database, tmp_path)
    assert partial.with_suffix("").read_bytes() == recording


def test_a_busy_server_is_asked_again_and_may_say_when(database, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    database.fail, database.retry_after = [503, 500, 429], "7"
    fetch(database, tmp_path)
    assert pauses == [7.0, 7.0, 7.0]
    database.fail, database.retry_after = [503] * 4, ""
    pauses.clear()
    find_specimen(Web(database.address), CELL)
    assert pauses == [1.0, 2.0, 4.0, 8.0]


def test_a_server_that_stays_down_a_missing_file_and_nobody_there(database, tmp_path):
    database.fail = [503] * 50
    with pytest.raises(DownloadError, match="503"):
        fetch(database, tmp_path)
    database.fail = []
    database.files.pop(database.cells[CELL]["nrwkf__id"])
    with pytest.raises(DownloadError, match="404"):
        fetch(database, tmp_path)
    assert len([r for r in database.downloads if r.first == 0]) == 2  # the one that is gone is asked for once
    with pytest.raises(DownloadError, match="refused"):
        find_specimen(Web("http://127.0.0.1:9", attempts=2, pause_s=0.001), CELL)


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("erwkf__id", b"<!DOCTYPE html><html>Please log in</html>", "NWB format, found a web page"),
        ("erwkf__id", b"", "NWB format, found nothing"),
        ("nrwkf__id", b"<html>", "SWC format, found a web page"),
        ("nrwkf__id", b"1 1 0 0 0\n", "SWC format, found 10 bytes of something else"),
    ],
)
def test_what_is_something_else_never_gets_the_name(database, tmp_path, key, content, said):
    database.files[database.cells[CELL][key]] = content
    with pytest.raises(DownloadError, match=said):
        fetch(database, tmp_path)
    name = f"{CELL}.nwb" if key == "erwkf__id" else f"{CELL}.swc"
    assert not (tmp_path / str(CELL) / name).exists()
    assert not (tmp_path / str(CELL) / f"{name}.partial").exists()


def test_a_cut_recording_of_the_right_length_is_no_recording(database, recording, tmp_path):
    database.files[database.cells[CELL]["erwkf__id"]] = recording[: len(recording) // 2]
    with pytest.raises(DownloadError, match="expected a recording in NWB format"):
        fetch(database, tmp_path)


def test_a_server_that_announces_more_than_it_sends(database, tmp_path):
    database.short_length = 100
    with pytest.raises(DownloadError, match="100 bytes too early"):
        fetch(database, tmp_path)


def test_a_reconstruction_that_neuron_cannot_simulate_stays_with_a_note(database, tmp_path):
    database.files[database.cells[CELL]["nrwkf__id"]] = FULL_SWC.encode() + b"99 7 0 0 0 1 1\n"
    cell, done = fetch(database, tmp_path)
    note = done[f"{CELL}.swc"].note
    assert note.startswith(f"{CELL}.swc, line ")
    assert "found 7" in note
    assert (cell.path / f"{CELL}.swc").is_file()


def test_published_models_come_with_the_cell_when_asked_for(database, tmp_path):
    database.add_model(CELL, 491766131, 491455321, FIT)
    database.add_model(CELL, 472299294, 329230710, FIT)
    database.add_model(CELL, 566291897, 395310469, FIT)  # a point model
    cell, done = fetch(database, tmp_path, models=True)
    assert {"all-active_491766131_fit.json", "perisomatic_472299294_fit.json"} <= set(done)
    assert len(list(cell.path.glob("*_fit.json"))) == 2
    metadata = json.loads((cell.path / "metadata.json").read_text())
    assert [model["id"] for model in metadata["neuronal_models"]] == [491766131, 472299294]
    assert ArchiveFolder(cell.path).complete(models=True)
    assert "one that is not complete" in done["all-active_491766131_fit.json"].note


def test_a_cell_without_a_reconstruction_says_so(database, tmp_path, recording):
    database.add(7, recording, None)
    specimen = find_specimen(Web(database.address), 7)
    assert specimen.lacks == ("morphology",)


def test_unknown_specimens_are_refused_and_models_named(database, tmp_path):
    web = Web(database.address)
    database.add_model(CELL, 491766131, 491455321, FIT)
    database.add(8, None, None)
    with pytest.raises(InputError, match="allen:12: expected the number of a specimen .* found none"):
        find_specimen(web, 12)
    with pytest.raises(InputError, match=f"model of specimen {CELL}: fetch allen:{CELL}"):
        find_specimen(web, 491766131)
    with pytest.raises(InputError, match="without a file"):
        find_specimen(web, 8)


def test_a_full_disk_is_named_before_and_while_it_fills(database, recording, tmp_path, monkeypatch):
    usage = http_download.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(http_download.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
        with pytest.raises(DownloadError, match=r"2\.0 MB are still to come and the disk has 1\.0 MB left"):
            fetch(database, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(DownloadError, match="1,000,000 bytes are here; make room"):
            fetch(database, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    database.asked.clear()
    fetch(database, tmp_path)
    assert database.downloads[0].first == 1_000_000


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_nothing_but_http_is_followed(database, target):
    database.redirect = target
    with pytest.raises(DownloadError):
        Web(database.address, attempts=1).json("/api/v2/data/query.json?criteria=x")
    with pytest.raises(ValueError, match="expected an address"):
        Web(target)


def test_two_at_once_do_not_write_one_file(database, tmp_path):
    import fcntl

    partial = broken_off(database, tmp_path)
    with partial.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process"):
            fetch(database, tmp_path)


def test_an_answer_that_is_no_answer(database):
    database.cells[3] = {"specimen__id": 3}
    web = Web(database.address)
    web.json = lambda route: {"success": False, "msg": "syntax error"}
    with pytest.raises(DownloadError, match="refuses the question .* syntax error"):
        find_specimen(web, 3)


def test_from_https_no_redirection_leads_to_http():
    answer = requests.Response()
    answer.status_code, answer.url = 302, "https://a.example/x"
    session = http_download._Session()
    answer.headers["Location"] = "http://a.example/y"
    with pytest.raises(DownloadError, match="not followed"):
        session.get_redirect_target(answer)
    for target in ("https://b.example/y", "/y"):
        answer.headers["Location"] = target
        assert session.get_redirect_target(answer) == target
