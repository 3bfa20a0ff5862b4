"""The file for a bug report: what is in it, and that no secret is."""

import json
import socket
import zipfile

import pytest

from neurofleet.errors import UsageError
from neurofleet.jobs.doctor.bundle import LAST_LINES, write_bundle
from tests.jobs.made_run import write_run

SECRETS = {
    "environment": "pa55-of-the-lab",
    "ray token": "0f" * 32,
    "password in a URL": "hunter2",
    "key in a URI": "AbC123/xyz",
    "AWS key": "AKIAABCDEFGHIJKLMNOP",
    "bearer": "abcdef.123456",
    "named": "s3cr3t",
    "home of another": "/home/somebody",
}


def test_no_planted_secret_is_in_the_bundle(tmp_path, monkeypatch):
    token = tmp_path / "auth_token"
    token.write_text(SECRETS["ray token"] + "\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("LAB_SETTING", SECRETS["environment"])
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    run = tmp_path / "run"
    write_run(run)
    lines = [
        f"value {SECRETS['environment']} token {SECRETS['ray token']}",
        f"https://me:{SECRETS['password in a URL']}@lab.example/a.nwb s3://b/run?secret_key={SECRETS['key in a URI']}",
        f"{SECRETS['AWS key']} Authorization: Bearer {SECRETS['bearer']}",
        f"api_key={SECRETS['named']}, {SECRETS['home of another']}/a.swc {tmp_path}/me/cell.swc {socket.gethostname()}",
    ]
    log = [json.dumps({"message": line}) for line in ["old"] * LAST_LINES + lines]
    (run / "log.jsonl").write_text("\n".join(log) + "\n")

    write_bundle(tmp_path / "bug.zip", str(run))

    with zipfile.ZipFile(tmp_path / "bug.zip") as bundle:
        texts = {name: bundle.read(name).decode() for name in bundle.namelist()}
    assert {"versions.json", "job.yaml", "events.jsonl", "log.jsonl"} <= set(texts)
    assert json.loads(texts["versions.json"])["packages"]["value"]["ray"]
    whole = "\n".join(texts.values())
    assert [what for what, secret in SECRETS.items() if secret in whole] == []
    assert f"{tmp_path}/me" not in whole
    assert socket.gethostname() not in texts["log.jsonl"]
    kept = [json.loads(line)["message"] for line in texts["log.jsonl"].splitlines()]
    assert len(kept) == LAST_LINES
    assert "~/cell.swc" in kept[-1]


def test_a_bundle_replaces_nothing(tmp_path):
    (tmp_path / "there.zip").touch()
    with pytest.raises(UsageError, match="a new file"):
        write_bundle(tmp_path / "there.zip", None)
    with pytest.raises(UsageError, match="ends in .zip"):
        write_bundle(tmp_path / "bundle.txt", None)
