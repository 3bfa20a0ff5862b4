"""Who is let into a cluster, and what is said when nobody is."""

import socket

import pytest

from cluster import admission


def test_ports():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert admission.port_answers("127.0.0.1", port)
    assert not admission.port_answers("127.0.0.1", port)


def test_a_server_that_is_not_ray(monkeypatch):
    monkeypatch.setattr(admission, "KNOCK_LIMIT_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(RuntimeError, match="does not answer as a Ray head does"):
            admission.anonymous_access(address)


def test_a_trial_connection_says_why_not(monkeypatch):
    assert "Connection refused" in admission.trial_connection("127.0.0.1:9")
    assert "Ray Client address" in admission.trial_connection("ray://head:10001")
    monkeypatch.setattr(admission, "CONNECTION_LIMIT_S", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = admission.trial_connection(f"127.0.0.1:{server.getsockname()[1]}")
    assert "no connection was made within 5 s" in error


def test_a_token_opens_the_door_and_nothing_else_does(ray_session, monkeypatch, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    assert admission.anonymous_access(address) == "refused"
    assert admission.own_access(address) == "open"
    wrong = tmp_path / "token"
    wrong.write_text("f" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    assert admission.own_access(address) == "refused"
