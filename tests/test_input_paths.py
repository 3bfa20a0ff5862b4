"""Paths with ~, patterns, and files that are elsewhere."""

import os
from pathlib import Path

import pytest

from neurofleet import http_download
from neurofleet.cluster.store.folders import open_folder
from neurofleet.errors import ClusterError, InputError
from neurofleet.http_download import DownloadError
from neurofleet.input_paths import (
    is_url,
    local_copy,
    local_files,
    matching,
    name_of,
    place_of,
    shown,
    urls_shown,
    with_home,
)
from tests.file_server import FileServer, serve

CONTENT = bytes(range(256)) * 4096  # 1 MB


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A home, a cache and a working folder of the test's own, and no pause between two attempts."""
    for name in ("home", "cache", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NEUROFLEET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http_download, "LONGEST_PAUSE_S", 0.0)
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def server():
    with serve(FileServer({"/data/cells.h5ad": CONTENT})) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "url", "name"),
    [
        ("https://host/a/cells%201.h5ad?download=1", True, "cells 1.h5ad"),
        ("s3://bucket/a.zarr/", True, "a.zarr"),
        ("a/b.csv", False, "b.csv"),
        ("C:/a.csv", False, "a.csv"),
        ("~/a.csv", False, "a.csv"),
    ],
)
def test_urls_are_told_from_paths(path, url, name):
    assert is_url(path) is url
    assert name_of(path) == name
    assert (place_of(path) == path) is url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://anna:wo/rd@host/a.csv?token=1", "https://host/a.csv"),
        ("s3://key:a/b@c@bucket/a.csv", "s3://bucket/a.csv"),
        ("https://anna@host/a.csv", "https://host/a.csv"),
        ("https://host/a@1/b.csv", "https://host/a@1/b.csv"),
        ("hf://lab/pbmc@main", "hf://lab/pbmc@main"),
        ("a@b:c@d.csv", "a@b:c@d.csv"),
    ],
)
def test_urls_are_shown_without_keys(url, told):
    assert shown(url) == told
    assert urls_shown(f"Cannot parse URI: '{url}'.") == f"Cannot parse URI: '{told}'."


def test_a_password_is_told_and_kept_nowhere(server, tmp_path, capsys):
    place = server.address.replace("//", "//anna:word@")
    server.files["/page.h5ad"] = b"<!DOCTYPE html>"
    server.redirects["/moved.h5ad"] = "file:///anna:word@host/a"
    local_copy(f"{place}/data/cells.h5ad?token=word")
    faults = []
    for url in (f"{place}/gone.h5ad", f"{place}/page.h5ad", f"{place}/moved.h5ad", "s3://key:wo/word@bucket/a.csv"):
        with pytest.raises((InputError, DownloadError)) as raised:
            local_copy(url)
        faults.append(str(raised.value))
    with pytest.raises(ClusterError) as refused:
        open_folder("gopher://key:word@host/a")
    told = "".join([*faults, str(refused.value), *capsys.readouterr()])
    kept = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert kept
    assert "word" not in told + "".join(kept)


def test_the_home_folder_is_meant_by_a_tilde(tmp_path):
    assert with_home("~/a.csv") == tmp_path / "home" / "a.csv"
    assert place_of("~/a.csv", Path("/elsewhere")) == str(tmp_path / "home" / "a.csv")
    assert place_of("a.csv", Path("/elsewhere")) == "/elsewhere/a.csv"
    assert str(with_home("~nobody-at-all/a.csv")) == "~nobody-at-all/a.csv"
    (tmp_path / "home" / "a.csv").touch()
    assert local_files(["~/a.csv", "~/*.csv"]) == [tmp_path / "home" / "a.csv"] * 2


def test_patterns_stand_for_what_they_match(tmp_path):
    for name in ("b.h5ad", "a.h5ad", "c.csv", "deep/er/d.h5ad", "x[1].h5ad"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).touch()
    assert matching("*.h5ad") == ["a.h5ad", "b.h5ad", "x[1].h5ad"]
    assert matching("**/d.h5ad") == ["deep/er/d.h5ad"]
    assert matching("work/[ab].h5ad", tmp_path) == ["work/a.h5ad", "work/b.h5ad"]
    assert matching("x[1].h5ad") == ["x[1].h5ad"]  # there is such a file
    assert matching("*.loom") == ["*.loom"]
    assert [path.name for path in local_files(["?.h5ad", "c.csv"])] == ["a.h5ad", "b.h5ad", "c.csv"]
    with pytest.raises(InputError, match=r"\*\.loom: no file matches this pattern"):
        local_files(["*.loom"])


def test_a_file_is_fetched_once_and_again_when_it_has_changed(server):
    url = f"{server.address}/data/cells.h5ad"
    first = local_copy(url)
    assert (first.name, first.read_bytes()) == ("cells.h5ad", CONTENT)
    server.files["/data/cells.h5ad"] = CONTENT[::-1]
    assert local_copy(url).read_bytes() == CONTENT[::-1]
    first.write_bytes(b"cut off")  # a damaged copy
    assert local_copy(url).read_bytes() == CONTENT[::-1]
    before = os.stat(local_copy(url)).st_ino
    assert os.stat(local_copy(url)).st_ino == before


def test_without_an_etag_the_size_tells(server):
    server.etags = False
    url = f"{server.address}/data/cells.h5ad"
    before = os.stat(local_copy(url)).st_ino
    assert os.stat(local_copy(url)).st_ino == before
    server.files["/data/cells.h5ad"] = CONTENT + b"x"
    assert local_copy(url).read_bytes() == CONTENT + b"x"


def test_a_connection_that_breaks_costs_only_the_rest(server):
    server.cut_after = [len(CONTENT), 300_000, 300_000]  # the first answer is only looked at
    assert local_copy(f"{server.address}/data/cells.h5ad").read_bytes() == CONTENT
    assert server.downloads.count("/data/cells.h5ad") >= 3


def test_the_name_is_the_servers_where_the_address_has_none(server):
    server.files["/files/123"] = b"a,b\n"
    server.names["/files/123"] = "counts.csv"
    server.redirects["/record/1/content"] = f"{server.address}/data/cells.h5ad?token=3"
    assert local_copy(f"{server.address}/files/123").name == "counts.csv"
    assert local_copy(f"{server.address}/record/1/content").name == "cells.h5ad"
    server.names["/files/123"] = "../../evil.csv"
    assert local_copy(f"{server.address}/files/123?again").name == "_.._evil.csv"


def test_what_is_no_file_is_refused(server):
    server.files["/page.h5ad"] = b"<!DOCTYPE html><html><body>Log in</body></html>"
    server.files["/empty.h5ad"] = b""
    server.files["/model.safetensors"] = (15392).to_bytes(8, "little") + b"{}"  # begins like a page, " <"
    assert local_copy(f"{server.address}/model.safetensors").is_file()
    with pytest.raises(InputError, match="/gone.h5ad: not to be had: 404 Not Found"):
        local_copy(f"{server.address}/gone.h5ad")
    with pytest.raises(InputError, match="/page.h5ad: expected a file, found a web page. Give the address of the file"):
        local_copy(f"{server.address}/page.h5ad")
    with pytest.raises(InputError, match="/empty.h5ad: the server sent an empty file"):
        local_copy(f"{server.address}/empty.h5ad")
    with pytest.raises(InputError, match="cannot be opened .*Give a path, or a URL that starts with https://"):
        local_copy("gopher://host/a.h5ad")


def test_a_copy_is_used_where_the_server_is_gone(capsys):
    with serve(FileServer({"/a.csv": b"a,b\n1,2\n"})) as server:
        url = f"{server.address}/a.csv"
        local_copy(url)
    assert local_copy(url).read_bytes() == b"a,b\n1,2\n"
    assert "cannot be reached, so the copy of" in capsys.readouterr().err
    with pytest.raises(DownloadError):
        local_copy(f"{url}?another")


def test_folders_and_patterns_of_a_file_system_of_pyarrow(tmp_path, monkeypatch):
    from pyarrow import fs

    store = tmp_path / "bucket"
    (store / "a.zarr" / "X").mkdir(parents=True)
    (store / "a.zarr" / ".zgroup").write_text("{}")
    (store / "a.zarr" / "X" / "0.0").write_bytes(b"123")
    (store / "b.csv").write_text("a,b\n")
    (store / "c.csv").write_text("c\n")
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    opened = []

    class Buckets:
        @staticmethod
        def from_uri(uri):
            opened.append(uri)
            return system, uri.removeprefix("s3://").partition("?")[0]

    monkeypatch.setattr(fs, "FileSystem", Buckets)
    copy = local_copy("s3://bucket/a.zarr")
    assert (copy.name, (copy / "X" / "0.0").read_bytes(), (copy / ".zgroup").read_text()) == ("a.zarr", b"123", "{}")
    inode = os.stat(copy / "X" / "0.0").st_ino
    assert os.stat(local_copy("s3://bucket/a.zarr") / "X" / "0.0").st_ino == inode
    (store / "a.zarr" / "X" / "0.0").write_bytes(b"1234")
    assert (local_copy("s3://bucket/a.zarr") / "X" / "0.0").read_bytes() == b"1234"
    files = local_files(["s3://bucket/*.csv?region=eu-west-1"])
    assert [(file.name, file.read_text()) for file in files] == [("b.csv", "a,b\n"), ("c.csv", "c\n")]
    assert "s3://bucket/c.csv?region=eu-west-1" in opened
    with pytest.raises(InputError, match="there is no such file"):
        local_copy("s3://bucket/d.csv")
    with pytest.raises(InputError, match=r"no file of s3://bucket matches .*a.zarr, b.csv, c.csv"):
        local_files(["s3://bucket/*.loom"])
