"""What answers, or does not, at the address of a Jobs API. With a real head: tests/jobs/test_submit.py."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from neurofleet.cluster.ray.submission import JobsApi
from neurofleet.errors import ClusterUnreachable


@pytest.fixture
def web_server():
    """Something that speaks HTTP and is no Ray: its address, and what it answers."""
    answer = {"status": 404, "body": b"not found"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"127.0.0.1:{server.server_port}", answer
    server.shutdown()
    server.server_close()


def test_nobody_answers():
    with pytest.raises(ClusterUnreachable, match=r"http://127\.0\.0\.1:9: .*Connection refused\. Give") as raised:
        JobsApi("127.0.0.1:9")
    assert raised.value.exit_code == 3


def test_a_tunnel_that_leads_nowhere_is_given_up_within_seconds():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        with pytest.raises(ClusterUnreachable, match="timed out"):
            JobsApi(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(("status", "body"), [(404, b"not found"), (200, b"<html>"), (200, b"[]")])
def test_what_is_no_dashboard_is_not_taken_for_one(web_server, status, body):
    address, answer = web_server
    answer |= {"status": status, "body": body}
    with pytest.raises(ClusterUnreachable, match="No Jobs API answers"):
        JobsApi(address)


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "http://", ""])
def test_other_addresses_of_a_cluster_are_refused(address):
    with pytest.raises(ClusterUnreachable, match=r"is not the address of a Jobs API.*http://HOST:8265"):
        JobsApi(address)
