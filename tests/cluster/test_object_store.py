"""Runs in an object store: it stops answering, several drivers want one run, a driver is killed."""

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from neurofleet.cluster.store import lease, outages
from neurofleet.cluster.store.lease import Lease
from neurofleet.cluster.store.outages import Outages
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import ClusterError, RunFolderRefused, StorageUnreachable
from tests.s3_server import s3_server

REPOSITORY = Path(__file__).resolve().parents[2]
AWAY = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server")


class Clock:
    """Time that passes only in `sleep`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(outages, "time", clock)
    return clock


def failing(times, error=AWAY):
    """A request that fails so often before it succeeds."""
    left = [error] * times

    def request():
        if left:
            raise left.pop()
        return "content"

    return request


def test_requests_are_repeated_and_that_is_said_once(clock, caplog):
    store = Outages("s3://bucket/run")
    store.wait_s = 600.0
    assert store.call("writing a", failing(6)) == "content"
    assert store.call("writing b", failing(0)) == "content"
    assert 5 < clock.now - 100.0 < 600
    first, second = caplog.messages
    assert "writing a failed: AWS Error NETWORK_CONNECTION" in first
    assert "Trying again until" in first
    assert "answers again after" in second


def test_a_store_that_stays_away_names_what_failed_first(clock):
    store = Outages("s3://bucket/run")
    store.wait_s = 600.0
    with pytest.raises(OSError, match="curlCode"):
        store.call("renewing lease.json", failing(1), once=True)
    with pytest.raises(StorageUnreachable, match=r"first: renewing lease\.json failed.*Last: writing a failed") as gone:
        store.call("writing a", failing(1000))
    assert gone.value.exit_code == 3
    gave_up = clock.now
    assert 600 <= gave_up - 100.0 < 700
    with pytest.raises(StorageUnreachable):
        store.call("writing b", failing(1000))
    assert clock.now == gave_up  # nothing is waited for twice


def test_an_interrupted_run_does_not_wait(clock):
    store = Outages("s3://bucket/run")
    store.wait_s, store.may_wait = 600.0, lambda: clock.now < 110.0
    with pytest.raises(StorageUnreachable):
        store.call("writing a", failing(1000))
    assert clock.now < 112.0


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("no such object"),
        PermissionError("no"),
        OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied"),
        OSError("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation: No response body."),
        OSError("google::cloud::Status(PERMISSION_DENIED: no)"),
        ClusterError("the folder was removed"),
    ],
)
def test_a_refusal_is_not_repeated(clock, error):
    with pytest.raises(type(error)):
        Outages("s3://bucket/run").call("writing a", failing(1, error))
    assert clock.now == 100.0


@pytest.mark.parametrize("status", ["UNKNOWN (HTTP status 502)", "SLOW_DOWN", "INTERNAL_FAILURE", "REQUEST_TIMEOUT"])
def test_a_store_in_trouble_is_asked_again(clock, status):
    error = OSError(f"When reading information for key 'run/a' in bucket 'b': AWS Error {status} during HeadObject")
    assert Outages("s3://bucket/run").call("reading a", failing(2, error)) == "content"


@pytest.fixture(params=[True, False], ids=["conditional writes", "no conditional writes"])
def server(request, monkeypatch):
    """A store, and leases of tenths of a second."""
    monkeypatch.setattr(lease, "SETTLED_AFTER_S", 0.0)
    monkeypatch.setattr(lease, "LOST_AFTER_S", 0.6)
    monkeypatch.setattr(lease, "SEEN_WITHIN_S", 0.6)
    monkeypatch.setattr(lease, "POLL_S", 0.02)
    with s3_server(conditions=request.param) as server:
        yield server


def stored_lease(server):
    return json.loads(server.objects["run/lease.json"])


def of_another_machine(server, **changed):
    """Make the stored lease one of a machine whose clock is 130 s behind ours, and that is not seen from here."""
    other = {"machine": "h2 other-boot", "holder": "process 7 on h2", "renewed": time.time() - 130, "released": False}
    server.objects["run/lease.json"] = json.dumps(stored_lease(server) | other | changed).encode()


DRIVER = """
import sys, time
from neurofleet.cluster.store.run_store import RunStore
with RunStore(sys.argv[1]).locked() as store:
    store.write_text("job.yaml", "kind: fit")
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_killed_driver_of_this_machine_holds_nothing():
    with s3_server() as server:
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, server.uri()], stdout=subprocess.PIPE, cwd=REPOSITORY)
        try:
            assert driver.stdout.readline() == b"locked\n"
            assert f"process {driver.pid} on" in RunStore(server.uri()).holder()
            with pytest.raises(RunFolderRefused, match=f"process {driver.pid} on"), RunStore(server.uri()).locked():
                pass
        finally:
            driver.send_signal(signal.SIGKILL)
            driver.communicate()
        assert RunStore(server.uri()).holder() == ""
        with RunStore(server.uri()).locked() as store:
            assert store.read_text("job.yaml") == "kind: fit"
            assert not stored_lease(server)["released"]
        assert stored_lease(server)["released"]


def test_a_driver_of_another_machine_is_watched_and_no_clock_is_asked(server, caplog):
    with RunStore(server.uri()).locked():
        pass
    of_another_machine(server, lease="other")
    renewing = threading.Event()

    def renew():
        number = 0
        while not renewing.wait(0.1):
            number += 1
            of_another_machine(server, lease="other", renewals=number)

    driver = threading.Thread(target=renew)
    driver.start()
    try:
        assert RunStore(server.uri()).holder() == "process 7 on h2"
        with pytest.raises(RunFolderRefused, match="process 7 on h2"), RunStore(server.uri()).locked():
            pass
    finally:
        renewing.set()
        driver.join()
    caplog.clear()
    assert RunStore(server.uri()).holder() == ""
    with RunStore(server.uri()).locked():
        pass
    watching = [message for message in caplog.messages if "process 7 on h2). Watching until" in message]
    assert len(watching) == 1
    assert "takes over" in watching[0]


def test_who_lost_its_lease_changes_nothing_more(server):
    with RunStore(server.uri()).locked() as store:
        store.write_text("job.yaml", "kind: fit")
        of_another_machine(server, lease="other")
        time.sleep(0.4)  # a lease that was not renewed for so long is renewed before a write
        with pytest.raises(ClusterError, match=r"Another driver has taken over .* process 7 on h2"):
            store.write_text("late.txt", "x")
    assert "run/late.txt" not in server.objects
    assert stored_lease(server)["lease"] == "other"


def test_a_run_removed_from_the_store_is_noticed(server):
    with RunStore(server.uri()).locked() as store:
        store.write_text("job.yaml", "kind: fit")
        store.check_whole()
        server.objects.clear()
        with pytest.raises(ClusterError, match="was removed or moved while"):
            store.check_whole()
    assert not server.objects


def test_an_answer_that_was_lost_is_no_other_driver(server):
    folder = RunStore(server.uri())._folder
    held = Lease(folder, "lease.json")
    with held.held():
        server.objects["run/lease.json"] = json.dumps(stored_lease(server) | {"renewals": 99}).encode()
        held.renew()
        assert held.lost is None
        held.renew()
        assert stored_lease(server)["renewals"] > 1
        held.check()


def test_a_store_without_conditional_writes_is_told(caplog, monkeypatch):
    monkeypatch.setattr(lease, "SETTLED_AFTER_S", 0.0)
    for conditions in (True, False):
        caplog.clear()
        with s3_server(conditions) as server, caplog.at_level(logging.WARNING), RunStore(server.uri()).locked():
            pass
        told = [message for message in caplog.messages if "ignores the conditions of writes" in message]
        assert len(told) == (0 if conditions else 1)


@pytest.mark.parametrize(("wrong", "reason"), [("//no-key:", "INVALID_ACCESS_KEY_ID"), ("@no-bucket/", "NoSuchBucket")])
def test_a_wrong_address_is_refused_at_once(wrong, reason):
    with s3_server() as server:
        uri = server.uri().replace("//test-key:" if "key" in wrong else "@bucket/", wrong)
        with pytest.raises(ClusterError, match=f"{reason}.*Check that the bucket exists"), RunStore(uri).locked():
            pass
        assert not server.objects
