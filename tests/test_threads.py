"""Threads of numerical libraries: one in a block, as many as before after it, and what the user chose."""

import pytest
import torch
from threadpoolctl import threadpool_info

from neurofleet.threads import one_thread


def pools() -> dict[str, int]:
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_block_has_one_thread_and_then_as_many_as_before(two_threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = pools()
    with one_thread():
        assert torch.get_num_threads() == 1
        assert set(pools().values()) == {1}
    assert torch.get_num_threads() == 2
    assert {name: threads for name, threads in pools().items() if name in before} == before


def test_what_the_user_chose_stays(two_threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with one_thread():
        assert torch.get_num_threads() == 2
