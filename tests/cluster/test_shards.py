"""One function over many payloads on Ray."""

import os
import signal
from pathlib import Path

import pytest

from neurofleet.cluster.ray.shards import map_shards
from neurofleet.errors import ClusterError

HERE = "tests.cluster.test_shards"


def double(payload):
    return 2 * payload["number"]


def die_once(payload):
    if (mark := Path(payload["mark"])).exists():
        return os.getpid()
    mark.touch()
    os.kill(os.getpid(), signal.SIGKILL)


def die(payload):
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(payload):
    raise KeyError("wrong payload")


def test_results_come_in_order(ray_session):
    payloads = [{"number": number} for number in range(7)]
    assert list(map_shards(f"{HERE}:double", payloads)) == [0, 2, 4, 6, 8, 10, 12]


def test_a_call_whose_worker_dies_is_made_again(ray_session, tmp_path):
    (found,) = map_shards(f"{HERE}:die_once", [{"mark": str(tmp_path / "mark")}])
    assert found != os.getpid()
    assert (tmp_path / "mark").exists()


def test_a_call_that_always_dies_is_told(ray_session):
    with pytest.raises(ClusterError, match="died 1 time"):
        list(map_shards(f"{HERE}:die", [{}], retries=0))


def test_what_a_call_raises_comes_out_as_it_is(ray_session):
    with pytest.raises(KeyError, match="wrong payload"):
        list(map_shards(f"{HERE}:refuse", [{}]))
