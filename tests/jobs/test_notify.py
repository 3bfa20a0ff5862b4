"""Who is told how a run ended: a local server in place of a channel, and a command."""

import getpass
import json
import re
import shlex
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest
import yaml

from neurofleet.errors import Interrupted, JobError, UsageError
from neurofleet.jobs import notify, run_job
from neurofleet.jobs.job_file import parse_job
from neurofleet.jobs.remote.submit import submit_command

ECHO = f"{shlex.quote(sys.executable)} -c "


@pytest.fixture
def channel():
    """A server that keeps what it gets; it answers with `statuses`, then with 200."""
    told = SimpleNamespace(messages=[], statuses=[], address="")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(told.statuses.pop(0) if told.statuses else 200)
            self.send_header("Location", told.address)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.address = f"http://127.0.0.1:{server.server_address[1]}/services/T0/secret"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """Run a job that ends by an error, or without one; its runner alone is replaced."""
    monkeypatch.delenv(notify.VARIABLE, raising=False)
    monkeypatch.setattr(notify, "findings_in", lambda out: ["accuracy 0.9 on 40 cells"])

    def run(error=None, option=None, **keys):
        def runner(*_, **__):
            if error is not None:
                raise error

        monkeypatch.setattr(run_job, "named", lambda place: runner)
        job = {"kind": "train", "learner": "sims", "reference": "a.h5ad", "label": "type", "name": "rat"} | keys
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        run_job.run_job(tmp_path / "job.yaml", str(tmp_path / "out"), notify=option)

    return run


def test_the_end_is_told_as_slack_takes_it(ends, channel, capsys):
    ends(notify=channel.address)
    host = channel.address.split("/")[2]
    assert capsys.readouterr().err == f"the job file's `notify:` sends how the run ends to {host}\n"
    (message,) = channel.messages
    assert message["text"].startswith("neurofleet: rat (train) is done after ")
    assert message["text"].endswith(".\naccuracy 0.9 on 40 cells")
    assert (message["event"], message["name"], message["kind"]) == ("done", "rat", "train")


def test_a_failure_is_told_without_secrets_and_raised_as_it_is(ends, channel, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "0a1b2c3d")

    def nameless():
        raise KeyError("getpwuid(): uid not found: 1000")  # in a container

    monkeypatch.setattr(getpass, "getuser", nameless)
    error = JobError("s3://key:word@host/rat?secret=1 does not take 0a1b2c3d")
    with pytest.raises(JobError) as raised:
        ends(error, option=channel.address)
    assert raised.value is error
    (message,) = channel.messages
    assert message["event"] == "failed"
    assert "does not take" in message["text"]
    assert not any(secret in message["text"] for secret in ("word", "secret=1", "0a1b2c3d"))


@pytest.mark.parametrize("error", [Interrupted("interrupted."), KeyboardInterrupt()])
def test_ctrl_c_is_told(ends, channel, error):
    with pytest.raises(type(error)):
        ends(error, option=channel.address)
    assert [message["event"] for message in channel.messages] == ["interrupted"]


@pytest.mark.parametrize("status", [500, 302])
def test_who_does_not_take_it_is_asked_once_more_and_then_told_without_its_path(ends, channel, status, capsys):
    channel.statuses = [status]
    host = channel.address.split("/")[2]
    address = channel.address.replace("http://", "http://me:password@")
    ends(option=address)
    assert len(channel.messages) == 2
    channel.statuses = [status, status]
    ends(option=address)
    assert len(channel.messages) == 4
    assert capsys.readouterr().err == f"warning: nobody was notified: http://{host} answered {status}\n"


def test_nobody_there_is_no_error(ends, channel, capsys, monkeypatch):
    ends(option="http://127.0.0.1:9/services/secret")
    told = capsys.readouterr().err
    assert told == "warning: nobody was notified: http://127.0.0.1:9 did not answer (ConnectionError)\n"
    monkeypatch.setattr(notify, "findings_in", lambda out: 1 / 0)
    ends(option=channel.address)
    assert "the message has its first line only: ZeroDivisionError" in capsys.readouterr().err
    (message,) = channel.messages
    assert re.fullmatch(r"neurofleet: rat \(train\) is done after .*\.", message["text"])


def test_a_command_gets_the_message_on_its_standard_input(ends, tmp_path, monkeypatch, capsys):
    write = f"import sys; open({str(tmp_path / 'told')!r}, 'w').write(sys.stdin.read()); print('noise')"
    monkeypatch.setenv(notify.VARIABLE, ECHO + shlex.quote(write))
    ends()
    assert json.loads((tmp_path / "told").read_text())["event"] == "done"
    assert capsys.readouterr().out == ""
    ends(option=ECHO + shlex.quote("import sys; sys.exit('no such channel')"))
    assert "ended with 1: no such channel" in capsys.readouterr().err


def test_a_command_that_hangs_is_ended_with_all_that_it_has_started(ends, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notify, "COMMAND_S", 0.5)
    ends(option=f"sh -c {shlex.quote('sleep 100 & sleep 100')}")
    assert "sh had not ended after 0.5 s" in capsys.readouterr().err


def test_a_job_file_names_no_command_and_its_url_is_not_stored(channel):
    job = "kind: train\nlearner: sims\nreference: a.h5ad\nlabel: x\nnotify: "
    secret = ("hooks.example.org/secret", ["https://hooks.example.org/secret"])
    for given in ("touch /tmp/x", "file:///etc/passwd", "https://", "http://[", "-", *secret):
        with pytest.raises(UsageError, match="notify: expected a URL, http:// or https://; a command is given") as told:
            parse_job(job + json.dumps(given), "job", "j")
        assert "secret" not in str(told.value)
    spec = parse_job(job + channel.address, "job", "j")
    assert "notify" not in spec.plain()
    assert "notify" not in spec.identity()


def test_a_command_is_not_submitted(tmp_path):
    job = {"kind": "train", "learner": "sims", "reference": "a.h5ad", "label": "x"}
    with pytest.raises(UsageError, match="--notify: expected a URL.*set NEUROFLEET_NOTIFY on the cluster's head"):
        submit_command(job, "http://127.0.0.1:9", str(tmp_path), notify="echo done")


@pytest.mark.parametrize("option", ["", "no-such-command-here", "ftp://host/x", "'", "hooks.example.org/T0/secret"])
def test_what_is_neither_a_url_nor_a_command_is_refused_before_the_run(ends, option):
    with pytest.raises(UsageError, match="^--notify: expected a URL or|^--notify: expected a URL, ") as told:
        ends(JobError("it was run"), option=option)
    assert "secret" not in str(told.value)
