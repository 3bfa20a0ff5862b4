"""Who is let into a cluster, and what is said when nobody is."""

import socket
import time

import pytest

from neurofleet.cluster.ray import admission
from neurofleet.errors import ClusterUnreachable, TokenRefused


@pytest.fixture
def address(ray_session):
    import ray

    return ray.get_runtime_context().gcs_address


@pytest.fixture
def silent():
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_head_says_who_is_let_in(address):
    assert admission.anonymous_access(address) == "refused"
    door = admission.admit(address)
    assert door == admission.AdmittedCluster(address, loopback=True)


def test_a_server_that_is_not_ray_is_told_within_seconds(silent, monkeypatch):
    monkeypatch.setattr(admission, "ANSWER_LIMIT_S", 2.0)
    begun = time.monotonic()
    with pytest.raises(ClusterUnreachable, match=f"{silent}: something answers there, but not as a Ray head"):
        admission.admit(silent)
    with pytest.raises(RuntimeError, match="not as a Ray head does"):
        admission.anonymous_access(silent)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:9", "Connection refused"),
        ("ray://head:10001", "Ray Client address"),
        ("head", "has the form host:port"),
        ("head:port", "has the form host:port"),
        ("127.0.0.1:99999", "port"),
    ],
)
def test_addresses_at_which_there_is_no_head(address, told):
    with pytest.raises(ClusterUnreachable, match=told) as refused:
        admission.admit(address)
    assert address in str(refused.value)


def test_auto_without_a_ray_says_so(monkeypatch):
    def nothing_found():
        raise ConnectionError

    monkeypatch.setattr(admission, "running_here", nothing_found)
    with pytest.raises(ClusterUnreachable, match="at auto: no Ray runs on this machine"):
        admission.admit("auto")


def test_auto_goes_where_ray_address_points(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert admission.admit("auto").address == address


def test_a_wrong_token_is_refused(address, monkeypatch, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("f" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
    with pytest.raises(TokenRefused, match=f"does not take the one in {wrong}"):
        admission.admit(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(TokenRefused, match="Unset RAY_AUTH_MODE"):
        admission.admit(address)


def test_no_token_is_refused(address, monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    for mode in (None, "token"):
        monkeypatch.setenv("RAY_AUTH_MODE", mode) if mode else monkeypatch.delenv("RAY_AUTH_MODE")
        with pytest.raises(TokenRefused, match="there is none here"):
            admission.admit(address)


def test_an_empty_token_file_is_told_in_rays_words(address, monkeypatch, tmp_path):
    empty = tmp_path / "token"
    empty.touch()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(empty))
    with pytest.raises(ClusterUnreachable, match=f"cannot be opened or is empty: {empty}"):
        admission.admit(address)


def test_a_machine_that_is_no_node_is_told_what_to_do(address, monkeypatch):
    monkeypatch.setattr(admission, "local_nodes", lambda: {"ab" * 28})
    with pytest.raises(ClusterUnreachable, match=r"not a node of the Ray cluster .*nodes: 127\.0\.0\.1"):
        admission.admit(address)
