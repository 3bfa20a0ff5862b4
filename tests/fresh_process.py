"""Run a function in a process of its own: NEURON simulates all cells of a process together."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any


def in_fresh_process(function: Callable, *arguments: Any) -> Any:
    """Return ``function(*arguments)`` as a new interpreter computes it; both must be importable by name."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result(timeout=240)
